"""What do all tests share? Equal examples in every run, one thread, and a silent EvoTorch."""

import os

os.environ.setdefault("EVOTORCH_VERBOSE_LEVEL", "0")  # read when EvoTorch is imported

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")
