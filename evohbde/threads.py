"""How many threads does a small network deserve?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

SMALL_NETWORK = 20_000
"""Parameters up to which a network is small: its layers are done before a second thread has woken up."""


@contextmanager
def threads_for(model: nn.Module) -> Iterator[None]:
    """One torch thread while a small network is run: more only wait for each other, on a busy machine a hundredfold."""
    before = torch.get_num_threads()
    if sum(parameter.numel() for parameter in model.parameters()) <= SMALL_NETWORK:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
