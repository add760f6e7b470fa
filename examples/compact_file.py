"""How small is the file of a pruned network, and does it give back the same network?

Claim: the digits CNN takes 15,240 bytes; with the smallest 40 % of its weights at zero 10,765 (held-out accuracy from
.962 to .945); with the others tied into 32 bins of a histogram 3,666, Huffman-coded 3,486 (.933). What is loaded gives
equal outputs, bit for bit.
Price: no search and no training, a second on one CPU core.
Run: python -m examples.compact_file
"""

import tempfile
from pathlib import Path

import torch

from evohbde import HistogramBlocking, ParameterLayout, load_compact, save_compact, score
from evohbde.pruning.export import zeroed
from evohbde.rundir import save_network
from problems.digits import build_cnn, cnn

torch.set_num_threads(1)  # networks this small are fastest on one thread

DENSITY, NUM_EDGES = 0.6, 33

task = cnn(seed=0)
layout = ParameterLayout(task.model, "*.weight")
theta = layout.flatten(task.model)
mask = theta.abs() > theta.abs().quantile(1 - DENSITY)  # global magnitude pruning
pruned = zeroed(task.model, layout, mask)

blocking = HistogramBlocking(theta[mask], NUM_EDGES)
tied = zeroed(task.model, layout, mask)
layout.load_(tied, torch.zeros_like(theta).masked_scatter(mask, blocking.expand(blocking.center)))

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "network.safetensors"
    save_network(task.model, path)
    print(f"as trained {path.stat().st_size:6,} bytes, accuracy {score(task.model, task.test)['accuracy']:.3f}")
    for network, coding in ((pruned, "values"), (tied, "codebook"), (tied, "huffman")):
        num_bytes = save_compact(network, path, coding=coding)
        loaded = load_compact(path, build_cnn())
        is_equal = torch.equal(loaded(task.test.x), network(task.test.x))
        accuracy = score(loaded, task.test)["accuracy"]
        print(f"{coding:10} {num_bytes:6,} bytes, accuracy {accuracy:.3f}, equal outputs: {is_equal}")
