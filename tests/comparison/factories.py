"""Which problems and searchers do the tests of comparisons share?"""

import os

import torch
from evotorch import Problem
from evotorch.algorithms import SNES

from evohbde.data import Task, TensorData
from evohbde.searchers import RandomSearch
from tests.small_networks import digits, mlp


def sphere(seed: int = 0, solution_length: int = 5) -> Problem:
    """A plain problem, other at every seed."""
    target = torch.linspace(-1, 1, solution_length) + 0.01 * seed
    return Problem(
        "min",
        lambda x: (x - target).square().sum(-1),
        solution_length=solution_length,
        initial_bounds=(-3.0, 3.0),
        vectorized=True,
        seed=seed,
    )


def small_task(seed: int = 0) -> Task:
    """A somewhat trained network, with few digits that the seed divides."""
    train, test = digits(120).split(0.5, seed)
    return Task(mlp(), train, test=test, name="small")


def fails_on_odd_seeds(problem: Problem) -> SNES:
    """A searcher that cannot be built at every other seed."""
    if problem.generator.initial_seed() % 2:
        raise RuntimeError("this seed is odd")
    return SNES(problem, stdev_init=1.0)


def dies_on_seed_one(problem: Problem) -> SNES:
    """A searcher that takes its whole process with it, as running out of memory does."""
    if problem.generator.initial_seed() == 1 and os.environ.get("EVOHBDE_TEST_PARENT") != str(os.getpid()):
        os._exit(9)
    return SNES(problem, stdev_init=1.0)


def plain_random(problem: Problem) -> RandomSearch:
    return RandomSearch(problem, popsize=10)


def no_reduction(theta0: torch.Tensor) -> torch.Tensor:
    return theta0


def unsplit(seed: int = 0) -> tuple[torch.nn.Module, TensorData]:
    """Network and samples alone."""
    return mlp(), digits(100)
