"""Does a search take the same way, bit for bit, whether candidates that have lost are given up or not?"""

import pytest
import torch
from torch import Tensor, nn

from evohbde import HistogramBlocking, NetworkProblem, SuperBatches
from evohbde.searchers import (
    DE,
    JADE,
    JDE,
    LSHADE,
    SHADE,
    CoordinateSearch,
    IteratedLocalSearch,
    SimulatedAnnealing,
    TabuSearch,
)
from tests.small_networks import digits, trained

DATA = digits(240)
AROUND = {"stdev_init": 0.05, "include_center": True}
SEARCHERS = {
    "DE": lambda p: DE(p, popsize=8, **AROUND),
    "DE, strict": lambda p: DE(p, popsize=8, accept_equal=False, **AROUND),
    "JDE": lambda p: JDE(p, popsize=8, **AROUND),
    "JADE": lambda p: JADE(p, popsize=8, **AROUND),
    "SHADE": lambda p: SHADE(p, popsize=8, **AROUND),
    "LSHADE": lambda p: LSHADE(p, popsize=10, num_evaluations=100, **AROUND),
    "IteratedLocalSearch": lambda p: IteratedLocalSearch(p, popsize=8, patience=4, **AROUND),
    "SimulatedAnnealing": lambda p: SimulatedAnnealing(p, popsize=8, temperature_init=1e-3, **AROUND),
    "CoordinateSearch": lambda p: CoordinateSearch(p, popsize=4, **AROUND),
    "CoordinateSearch, authors' rule": lambda p: CoordinateSearch(p, popsize=4, rule="authors", **AROUND),
    "TabuSearch": lambda p: TabuSearch(p, popsize=2, num_neighbours=5, patience=3, tabu_radius=0.5, **AROUND),
    "SimulatedAnnealing, measured": lambda p: SimulatedAnnealing(
        p, popsize=8, acceptance_init=0.01, cooling="logarithmic", **AROUND
    ),
}


def network() -> nn.Sequential:
    """One whose outputs are the same bits in any batch, which convolutions of odd sizes are not."""
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten()]
    return trained(nn.Sequential(*layers, nn.Linear(32, 10)))


def problem_of(objective: str, racing: bool, data=DATA, batch_size: int | None = 20, **options) -> NetworkProblem:
    def reduction(theta0: Tensor) -> HistogramBlocking:
        return HistogramBlocking(theta0, 40, mode="offset")

    return NetworkProblem(
        network(),
        data,
        objective,
        reduction=reduction,
        racing=racing,
        seed=3,
        batch_size=batch_size,
        strategy="views",
        **options,
    )


def way_of(searcher, num_steps: int = 9) -> list[Tensor]:
    way = []
    for _ in range(num_steps):
        searcher.step()
        way += [searcher.population.values.clone(), searcher.population.evals.clone()]
        way.append(torch.tensor(searcher.status["best_eval"]))
    return way


@pytest.mark.parametrize("objective", ["f1_macro", "cross_entropy"])
@pytest.mark.parametrize("name", SEARCHERS)
def test_a_search_is_the_same_with_fewer_samples(name, objective):
    problems = [problem_of(objective, racing) for racing in (True, False)]
    raced, plain = (way_of(SEARCHERS[name](problem)) for problem in problems)
    assert all(torch.equal(one, other) for one, other in zip(raced, plain, strict=True))
    spent = [problem.num_samples_seen for problem in problems]
    # Losses of neighbours differ too little for their bound to see it before the end.
    assert spent[0] < 0.98 * spent[1] if objective == "f1_macro" else spent[0] <= spent[1]
    assert problems[0].num_evaluations == problems[1].num_evaluations


@pytest.mark.parametrize("parents", ["refresh", "stale"])
@pytest.mark.parametrize("pull", [0.0, 0.3])
def test_so_it_is_on_changing_batches_and_with_a_pull(parents, pull):
    data = SuperBatches(DATA, 120, parents=parents, order="stratified")
    problems = [problem_of("f1_macro", racing, data, pull=pull) for racing in (True, False)]
    raced, plain = (way_of(DE(problem, popsize=8, **AROUND)) for problem in problems)
    assert all(torch.equal(one, other) for one, other in zip(raced, plain, strict=True))
    assert problems[0].num_samples_seen < problems[1].num_samples_seen


def test_images_are_raced_in_pieces_that_are_smaller_than_a_forward_pass():
    problems = [problem_of("f1_macro", racing, batch_size=None) for racing in (True, False)]
    raced, plain = (way_of(DE(problem, popsize=8, **AROUND)) for problem in problems)
    assert all(torch.equal(one, other) for one, other in zip(raced, plain, strict=True))
    assert problems[0].num_samples_seen < 0.95 * problems[1].num_samples_seen


def test_losses_that_are_far_too_high_are_seen_early():
    problems = [problem_of("cross_entropy", racing) for racing in (True, False)]
    raced, plain = (way_of(DE(problem, popsize=8, stdev_init=0.5, include_center=True)) for problem in problems)
    assert all(torch.equal(one, other) for one, other in zip(raced, plain, strict=True))
    assert problems[0].num_samples_seen < 0.9 * problems[1].num_samples_seen


def test_a_bound_is_no_score():
    problem = problem_of("f1_macro", racing=True)
    searcher = DE(problem, popsize=8, stdev_init=0.2)
    searcher.run(1)
    worst = searcher.status["worst_eval"]
    assert worst == float(searcher.population.evals.min())
    given_up = 0
    for _ in range(6):
        searcher.step()
        given_up += int(problem.is_bound.sum())
        assert searcher.status["best_eval"] == float(searcher.population.evals.max())
    assert given_up > 0


def test_the_way_of_an_ask_and_tell_loop_is_that_of_the_problem():
    problem = problem_of("f1_macro", racing=True)
    by_hand = SimulatedAnnealing(problem_of("f1_macro", racing=False), popsize=8, temperature_init=1e-3, **AROUND)
    searcher = SimulatedAnnealing(problem, popsize=8, temperature_init=1e-3, **AROUND)
    for _ in range(6):
        searcher.step()
        z = by_hand.ask()
        batch = by_hand.problem.generate_batch(len(z), empty=True)
        batch.set_values(z)
        by_hand.problem.evaluate(batch)
        by_hand.tell(z, batch.evals)
    assert torch.equal(searcher.population.values, by_hand.population.values)
