"""Is everything that all code of a process shares as it was?"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def shared_state() -> dict[str, object]:
    """Settings of torch and Python that a library has no business to change, and states of the global generators."""
    numpy_state = np.random.get_state()  # noqa: NPY002
    return {
        "torch's default dtype": torch.get_default_dtype(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch's generator": torch.get_rng_state().numpy().tobytes(),
        "NumPy's generator": (numpy_state[0], numpy_state[1].tobytes(), *numpy_state[2:]),
        "NumPy's error handling": np.geterr(),
        "Python's generator": random.getstate(),
        "filters of warnings": list(warnings.filters),
    }


@contextmanager
def unharmed(*, but: tuple[str, ...] = ()) -> Iterator[None]:
    """Fail if what the block runs leaves anything of that changed; warnings are silent inside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = shared_state()
        yield
        after = shared_state()
    changed = [name for name, value in before.items() if after[name] != value and name not in but]
    assert not changed, f"left changed: {', '.join(changed)}"
