"""How many kernels does a generation launch, and does it ever wait for the accelerator?"""

from collections.abc import Callable

import pytest
import torch
from evotorch import Problem
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from evohbde.searchers import DE, JADE, JDE, LSHADE, SHADE

SEARCHERS = {
    "DE": DE,
    "JDE": JDE,
    "JADE": JADE,
    "SHADE": SHADE,
    "LSHADE": lambda problem: LSHADE(problem, popsize=100, num_evaluations=1_000),
}
each = pytest.mark.parametrize("name", SEARCHERS)

# Views, tensors that hold one number of the host, and empty memory launch nothing.
NO_KERNEL = {"slice", "select", "unsqueeze", "view", "expand", "detach", "alias", "scalar_tensor", "empty"}
NO_KERNEL |= {"promote_types", "t", "squeeze", "unbind", "split"}
# The host reads a number, needs to know how many rows a mask has, or sends numbers of its own.
WAITS = {"_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "unique", "unique_dim", "lift_fresh", "equal"}


class Operators(TorchDispatchMode):
    """Notes which operators reach the device."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: list[str] = []
        self.waiting: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name.startswith(("index", "_unsafe_index")) and any(
            index is not None and index.dtype in (torch.bool, torch.uint8)
            for argument in args[1:2]
            if isinstance(argument, (list, tuple))
            for index in argument
        )
        if name in WAITS or by_mask:
            self.waiting.append(name)
        elif name not in NO_KERNEL:
            self.launched.append(name)
        return function(*args, **(kwargs or {}))


def operators_of(work: Callable[[], object]) -> Operators:
    with Operators() as operators:
        work()
    return operators


def sphere(x: Tensor) -> Tensor:
    return x.as_subclass(Tensor).square().sum(-1)


def started(name: str, **options) -> object:
    options.setdefault("initial_bounds", (-1, 1))
    searcher = SEARCHERS[name](Problem("min", sphere, solution_length=30, vectorized=True, seed=1, **options))
    for _ in range(3):
        searcher.step()
    return searcher


def generation(searcher) -> Operators:
    def ask_and_tell() -> None:
        z = searcher.ask()
        searcher.tell(z, sphere(z))

    return operators_of(ask_and_tell)


def test_a_generation_of_DE_launches_fewer_than_40_kernels():
    assert len(generation(started("DE")).launched) - len(operators_of(lambda: sphere(torch.ones(2, 3))).launched) < 40


@each
@pytest.mark.parametrize("box", [{}, {"bounds": (-1, 1), "initial_bounds": None}])
def test_asking_and_telling_never_wait_for_the_accelerator(name, box):
    assert generation(started(name, **box)).waiting == []


@each
def test_only_the_statistics_that_EvoTorch_keeps_make_a_step_wait(name):
    assert operators_of(started(name, store_solution_stats=False).step).waiting == []
    assert operators_of(started(name).step).waiting != []


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.index_put_((x > 0,), torch.zeros(())),
        lambda x: x.nonzero(),
        lambda x: torch.as_tensor(0.5),
        lambda x: int(x.argmax()),
    ],
)
def test_what_waits_is_noticed(work):
    x = torch.ones(4)
    assert operators_of(lambda: work(x)).waiting
    assert not operators_of(lambda: torch.where(x > 0, x, 0.0)[torch.arange(2)]).waiting
