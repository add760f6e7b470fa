"""How is a trained network repaired after its inputs have changed, by forward passes only?

Claim: on 897 held-out digits that are rotated, dimmed and noisy, macro-F1 goes from .666 to .865.
Price: 500 candidate networks, 132,120 sample forwards, one second on one CPU core. Where there are gradients they are
better value: Adam at the same number of sample forwards reaches .906, as the last row of the table shows.
Run: python -m examples.repair_shifted_digits
"""

import torch

from evohbde import fine_tune
from problems.digits import shifted_mlp

torch.set_num_threads(1)  # networks this small are fastest on one thread

# A 64-32-16-10 network, trained on 600 clean digits; 300 shifted ones to search on (`train`), 897 to be judged by.
task = shifted_mlp(seed=0)

# `result.network` is an ordinary nn.Module, and `task.model` is as it was.
result = fine_tune(task.model, task.train, test=task.test, num_evaluations=500, seed=0)
print(result.table())
for note in result.notes:
    print("-", note)

# The same with its curve, its weights and an HTML report on disk: result.save("runs/shifted-digits")
before, after = result.entry("untouched").f1, result.entry("default").f1
print(f"held-out macro-F1 {before.value:.3f} -> {after.value:.3f}, {result.num_samples_seen:,.0f} sample forwards")
