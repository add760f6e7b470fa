"""Does our CMA-ES do what EvoTorch's does, in less memory, and take a step size per variable?"""

import pytest
import torch
from evotorch import Problem
from evotorch.algorithms import CMAES as HostCMAES

from evohbde.searchers import CMAES


def ellipsoid(x):
    return ((x - 1).square() * torch.logspace(0, 3, x.shape[1])).sum(-1)


def problem(length=20, seed=1):
    return Problem(
        "min",
        ellipsoid,
        solution_length=length,
        initial_bounds=(-1, 1),
        seed=seed,
        vectorized=True,
        dtype=torch.float64,
    )


@pytest.mark.parametrize("separable", [False, True])
def test_it_walks_the_path_of_the_host_step_by_step(separable):
    ours = CMAES(problem(), stdev_init=0.3, center_init=torch.zeros(20), separable=separable)
    host = HostCMAES(problem(), stdev_init=0.3, center_init=torch.zeros(20), separable=separable)
    for _ in range(60):
        ours.step()
        host.step()
        assert torch.allclose(ours.m, host.m, atol=1e-9)
    assert torch.allclose(ours.C, host.C, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("separable", [False, True])
def test_a_step_size_per_variable_is_the_spread_of_the_first_population(separable):
    stdev = torch.linspace(0.1, 2.0, 20, dtype=torch.float64)
    searcher = CMAES(problem(), stdev_init=stdev, popsize=4_000, center_init=torch.zeros(20), separable=separable)
    _, _, candidates = searcher.sample_distribution()
    assert torch.allclose(candidates.std(0), stdev, rtol=0.06)


def test_equal_step_sizes_are_one_step_size():
    one = CMAES(problem(), stdev_init=0.3, center_init=torch.zeros(20))
    many = CMAES(problem(), stdev_init=torch.full((20,), 0.3, dtype=torch.float64), center_init=torch.zeros(20))
    one.run(20)
    many.run(20)
    assert torch.allclose(one.m, many.m, atol=1e-9)


def test_no_popsize_by_d_by_d_tensor_is_made(monkeypatch):
    """At d = 600 and popsize 200 EvoTorch's temporaries would hold 72 million numbers."""
    largest = []
    original = torch.Tensor.__matmul__

    def watched(left, right):
        found = original(left, right)
        largest.append(found.numel())
        return found

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    searcher = CMAES(problem(600), stdev_init=0.3, popsize=200, center_init=torch.zeros(600))
    unsqueezed = []
    monkeypatch.setattr(torch.Tensor, "unsqueeze", lambda self, dim: unsqueezed.append(self.shape) or self[None])
    zs, ys = torch.randn(2, 200, 600, dtype=torch.float64)
    searcher.p_c = torch.zeros(600, dtype=torch.float64)
    searcher.update_C(zs, ys, searcher.weights, torch.tensor(1.0))
    assert not unsqueezed
    assert max(largest) == 600 * 600


@pytest.mark.parametrize("stdev", [0.0, -1.0, float("nan"), torch.tensor([0.1] * 19 + [0.0])])
def test_step_sizes_that_are_none_are_refused(stdev):
    with pytest.raises(ValueError, match="`stdev_init` must be positive and finite"):
        CMAES(problem(), stdev_init=stdev)


def test_a_wrong_number_of_step_sizes_is_refused():
    with pytest.raises(ValueError, match=r"a number, or shape \(20,\), got \(3,\)"):
        CMAES(problem(), stdev_init=torch.ones(3))


@pytest.mark.parametrize("popsize", [-1, 0, 1, 4.0])
def test_a_popsize_that_has_no_better_half_is_refused(popsize):
    with pytest.raises(ValueError, match=f"`popsize` must be an integer of at least 2, got {popsize}"):
        CMAES(problem(), stdev_init=0.3, popsize=popsize)


def test_a_centre_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="`center_init` holds NaN or infinite values"):
        CMAES(problem(), stdev_init=0.3, center_init=torch.full((20,), float("nan")))


@pytest.mark.parametrize("extreme", [1e-160, 1e200])
def test_step_sizes_whose_squares_are_no_numbers_are_refused(extreme):
    with pytest.raises(ValueError, match=r"`stdev_init` must be of similar sizes, from .* scale the variables"):
        CMAES(problem(), stdev_init=torch.tensor([1.0] * 19 + [extreme], dtype=torch.float64))
