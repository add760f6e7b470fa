"""Problems with several objectives whose fronts are known."""

import torch
from evotorch import Problem, SolutionBatch
from torch import Tensor

from evohbde.problem_base import BaseProblem
from evohbde.searchers import PopulationSearcher


def zdt(number: int, x: Tensor) -> Tensor:
    """Zitzler, Deb & Thiele (2000): `(N, d)` in [0, 1] to two losses, `(N, 2)`."""
    first, g = x[:, 0], 1 + 9 * x[:, 1:].mean(1)
    ratio = first / g
    shape = {1: 1 - ratio.sqrt(), 2: 1 - ratio**2, 3: 1 - ratio.sqrt() - ratio * torch.sin(10 * torch.pi * first)}
    return torch.stack([first, g * shape[number]], dim=1)


class ZDT(BaseProblem):
    """Problem 1, 2 or 3; `senses` decides which of the two losses is negated and maximised."""

    def __init__(self, number: int = 1, senses=("min", "min"), length: int = 30, **options) -> None:
        if "bounds" not in options and "initial_bounds" not in options:
            options["bounds"] = (0, 1)
        options = {"seed": 1, "dtype": torch.float64, **options}
        super().__init__(senses, solution_length=length, **options)
        self.number = number
        self.scored: list[Tensor] = []

    def _evaluate_batch(self, batch: SolutionBatch) -> None:
        x = batch.access_values(keep_evals=True).as_subclass(Tensor)
        self.scored.append(x.clone())
        signs = torch.tensor([1.0 if sense == "min" else -1.0 for sense in self.senses])
        batch.set_evals(zdt(self.number, x) * signs)


class Drifting(ZDT):
    """Its scores get worse by 1 with every call."""

    rescore_parents = True

    def _evaluate_batch(self, batch: SolutionBatch) -> None:
        super()._evaluate_batch(batch)
        batch.set_evals(batch.evals.as_subclass(Tensor) + len(self.scored))


class Sphere3(BaseProblem):
    """Distances to three corners of a square."""

    def __init__(self, **options) -> None:
        super().__init__(["min", "min", "max"], solution_length=4, bounds=(-1, 1), seed=1, **options)

    def _evaluate_batch(self, batch: SolutionBatch) -> None:
        x = batch.access_values(keep_evals=True).as_subclass(Tensor)
        goals = torch.tensor([[1.0, 1, 0, 0], [-1, 1, 0, 0], [1, -1, 0, 0]])
        losses = torch.cdist(x, goals).square()
        losses[:, 2] *= -1
        batch.set_evals(losses)


def ones_ahead(x: Tensor) -> Tensor:
    """Ones in each half; both minimised against each other: to have k ones in front costs k behind."""
    x = x.float()
    half = x.shape[1] // 2
    return torch.stack([half - x[:, :half].sum(1) + x[:, half:].sum(1), x[:, :half].sum(1)], dim=1)


def bits_problem(length: int = 24, **options) -> Problem:
    options = {"dtype": torch.bool, "eval_dtype": torch.float32, "seed": 1, **options}
    return Problem(["min", "min"], ones_ahead, solution_length=length, vectorized=True, **options)


def state_of(searcher: PopulationSearcher) -> Tensor:
    population = searcher.population
    return torch.cat([population.values.as_subclass(Tensor), population.evals.as_subclass(Tensor)], dim=1).clone()


def losses_of(searcher: PopulationSearcher) -> Tensor:
    return searcher.losses(searcher.population.evals.as_subclass(Tensor))
