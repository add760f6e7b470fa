"""How few values can the weights of a network share, and how small is its file then?

Claim: the digits CNN takes 15,240 bytes at a held-out macro-F1 of .962; with 9 values for all of its 3,592 weights,
found by search, 2,732 bytes at .937. As many values by k-means: 2,907 bytes, .930. What is loaded gives equal outputs.
Price: 2,000 codebooks, 313,000 sample forwards, 10 seconds on one CPU core; one seed.
Run: python -m examples.codebook_file
"""

import copy
import tempfile
from pathlib import Path

import torch

from evohbde import KMeansBlocking, codebook_front, load_compact, save_compact, score, share_weights
from evohbde.rundir import save_network
from problems.digits import build_cnn, cnn

torch.set_num_threads(1)  # networks this small are fastest on one thread

MAX_LOSS = 0.01  # of validation accuracy

task = cnn(seed=0)
train, validation = task.train.split(0.5, seed=0)
front = codebook_front(task.model, train, validation=validation, num_evaluations=2_000, seed=0)
chosen = front.select(max_loss=MAX_LOSS)
searched, num_values = front.network(chosen), front.num_values(chosen)
plain = share_weights(task.model, lambda theta: KMeansBlocking(theta, num_values))

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "network.safetensors"
    for name, network in {"float32": task.model, "float16": copy.deepcopy(task.model).half()}.items():
        save_network(network, path)
        f1 = score(network.float(), task.test)["f1_macro"]
        print(f"{name:17} {path.stat().st_size:6,} bytes, held-out F1 {f1:.3f}")
    for name, network in {f"{num_values} by k-means": plain, f"{num_values} searched": searched}.items():
        num_bytes = save_compact(network, path, coding="huffman")
        loaded = load_compact(path, build_cnn())
        is_equal = torch.equal(loaded(task.test.x), network(task.test.x))
        f1 = score(loaded, task.test)["f1_macro"]
        print(f"{name:17} {num_bytes:6,} bytes, held-out F1 {f1:.3f}, equal outputs: {is_equal}")
print(f"{front.num_samples:,.0f} sample forwards")
