"""Does NSGA-II find fronts, in all senses and spaces, and does it resume and report?"""

import copy
import pickle

import pytest
import torch
from evotorch import Problem, SolutionBatch
from evotorch.logging import PandasLogger
from front_problems import ZDT, Drifting, bits_problem, losses_of, state_of
from torch import Tensor

from evohbde.run import run_until
from evohbde.searchers.nsga2 import NSGA2
from evohbde.searchers.pareto import is_nondominated
from evohbde.searchers.variation import BinaryVariation, Parents, RealVariation


@pytest.mark.parametrize("senses", [("max", "min"), ("min", "max"), ("max", "max")])
def test_senses_are_mirror_images(senses):
    reference, mirrored = (NSGA2(ZDT(3, kind), popsize=20) for kind in (("min", "min"), senses))
    reference.run(10)
    mirrored.run(10)
    assert torch.equal(state_of(reference)[:, :30], state_of(mirrored)[:, :30])
    assert torch.equal(losses_of(reference), losses_of(mirrored))
    assert reference.status["front_size"] == mirrored.status["front_size"]


@pytest.mark.parametrize("options", [{}, {"tournament": "rank"}, {"rescore_parents": True}])
def test_a_resumed_search_is_the_same_search(options):
    searcher = NSGA2(ZDT(), popsize=21, **options)
    for num_steps in (0, 1, 4):
        searcher.run(num_steps)
        twins = copy.deepcopy(searcher), pickle.loads(pickle.dumps(searcher))
        searcher.run(4)
        for twin in twins:
            twin.run(4)
            assert torch.equal(state_of(twin), state_of(searcher))
            assert twin.status["front_size"] == searcher.status["front_size"]


def test_the_front_never_loses_an_end():
    searcher = NSGA2(ZDT(3), popsize=16)
    searcher.run(1)
    for _ in range(40):
        before = losses_of(searcher).amin(0)
        searcher.run(1)
        assert (losses_of(searcher).amin(0) <= before).all()


def test_status_is_that_of_evotorch_and_the_size_of_the_front():
    problem = ZDT(1, ("min", "max"))
    searcher = NSGA2(problem, popsize=20)
    logger = PandasLogger(searcher)
    searcher.run(12)
    kinds = ("pop_best", "pop_best_eval", "mean_eval", "median_eval")
    expected = {f"obj{i}_{kind}" for i in (0, 1) for kind in kinds} | {"front_size", "iter", "best", "worst"}
    assert expected <= set(searcher.status.keys())
    assert "pop_best" not in searcher.status and searcher.obj_index is None
    assert searcher.status["obj1_pop_best_eval"] == float(searcher.population.evals[:, 1].max())
    assert logger.to_dataframe()["front_size"].between(1, 20).all()
    front = searcher.pareto_front
    assert isinstance(front, SolutionBatch) and len(front) == searcher.status["front_size"]
    assert is_nondominated(searcher.losses(front.evals.as_subclass(Tensor))).all()
    assert problem.num_evaluations == 12 * 20


def test_ask_and_tell_make_the_steps_that_run_makes():
    stepped, driven = NSGA2(ZDT(), popsize=20), NSGA2(ZDT(), popsize=20)
    stepped.run(5)
    for _ in range(5):
        z = driven.ask()
        batch = driven.problem.generate_batch(len(z), empty=True)
        batch.set_values(z)
        driven.problem.evaluate(batch)
        driven.tell(z, batch.evals)
    assert torch.equal(state_of(stepped), state_of(driven))
    with pytest.raises(ValueError, match=r"scores of shape \(n, 2\)"):
        driven.tell(z, z[:, 0])


def test_before_the_first_step_the_front_is_empty():
    searcher = NSGA2(ZDT(), popsize=8)
    assert len(searcher.pareto_front) == 0 and searcher.status["front_size"] == 0


def test_candidates_that_fail_in_one_objective_never_get_into_the_front():
    class Failing(ZDT):
        def _evaluate_batch(self, batch: SolutionBatch) -> None:
            super()._evaluate_batch(batch)
            batch._evdata[batch._data[:, 1] > 0.5, 1] = torch.nan
            batch._evdata[batch._data[:, 2] > 0.7, 0] = -torch.inf

    searcher = NSGA2(Failing(), popsize=20)
    searcher.run(10)
    values = searcher.pareto_front.values
    assert len(values) and (values[:, 1] <= 0.5).all() and (values[:, 2] <= 0.7).all()
    assert (searcher.population.values[:, 1] <= 0.5).all()


@pytest.mark.parametrize("bounds", [{"bounds": (0, 1)}, {"initial_bounds": (0, 1)}])
def test_strict_bounds_hold_and_initial_ones_only_give_the_scale(bounds):
    problem = ZDT(1, **bounds)
    searcher = NSGA2(
        problem,
        popsize=20,
        variation=RealVariation(mutation_rate=0.5, mutation_eta=3),
        stdev_init=0.5,
        center_init=torch.full((30,), 0.5),
    )
    searcher.run(5)
    scored = torch.cat(problem.scored)
    assert bool(((scored >= 0) & (scored <= 1)).all()) == ("bounds" in bounds)
    problem.scored.clear()
    searcher = NSGA2(
        problem, popsize=20, bounds=(0.2, torch.full((30,), 0.6)), initial_population=torch.full((20, 30), 0.4)
    )
    searcher.run(10)
    scored = torch.cat(problem.scored)
    assert scored.min() >= 0.2 and scored.max() <= 0.6 and scored.std() > 0.001


def too_small(values: Tensor) -> Tensor:
    return 0.4 - values[:, 0]


def test_constraints_come_before_scores():
    searcher = NSGA2(ZDT(), popsize=20, violation=too_small)
    searcher.run(15)
    assert (searcher.population.values[:, 0] >= 0.4).all()
    impossible = NSGA2(ZDT(), popsize=20, violation=lambda values: 2 + values[:, 0])
    impossible.run(20)
    assert impossible.population.values[:, 0].max() < 0.01
    assert impossible.status["front_size"] >= 1


def test_constraints_may_come_with_the_scores():
    def score(x: Tensor) -> Tensor:
        return torch.cat([x[:, :1], 1 - x[:, 1:2], (0.4 - x[:, :1])], dim=1)

    problem = Problem(
        ["min", "min"], score, solution_length=3, bounds=(0, 1), eval_data_length=1, vectorized=True, seed=1
    )
    searcher = NSGA2(problem, popsize=20, violation=0)
    searcher.run(20)
    assert (searcher.population.values[:, 0] >= 0.4).all()
    with pytest.raises(ValueError, match=r"`violation` 1 must be a column of the evaluation data"):
        NSGA2(problem, violation=1)


def test_no_candidate_is_scored_twice():
    problem = ZDT(1, length=4)
    searcher = NSGA2(problem, popsize=20, variation=RealVariation(crossover_rate=0.1, mutation_rate=0.05))
    searcher.run(20)
    for number, scored in enumerate(problem.scored):
        assert len(scored.unique(dim=0)) == 20, number
    assert len(searcher.population.values.unique(dim=0)) == 20


def test_where_the_space_is_too_small_duplicates_survive_last():
    searcher = NSGA2(bits_problem(length=4), popsize=20)
    searcher.run(20)
    values = searcher.population.values.as_subclass(Tensor)
    assert len(values.unique(dim=0)) == 16  # all there are
    front = searcher.pareto_front
    assert len(front) == len(front.values.as_subclass(Tensor).unique(dim=0)) == 4


def test_duplicates_can_be_left_alone():
    searcher = NSGA2(bits_problem(length=4), popsize=20, eliminate_duplicates=False)
    searcher.run(20)
    assert len(searcher.population.values.as_subclass(Tensor).unique(dim=0)) < 16


@pytest.mark.parametrize(
    ("options", "variation"),
    [
        ({}, None),
        ({"initial_bounds": (False, True)}, None),
        ({"dtype": torch.uint8, "bounds": (0, 1)}, None),
        ({"dtype": torch.float32, "bounds": (0, 1)}, "binary"),
        ({"dtype": torch.float32}, BinaryVariation(crossover="one-point")),
    ],
)
def test_binary_spaces_of_any_type_are_searched(options, variation):
    searcher = NSGA2(bits_problem(**options), popsize=30, variation=variation)
    searcher.run(60)
    values = searcher.population.values.as_subclass(Tensor)
    assert ((values == 0) | (values == 1)).all()
    # On the front, the second half is empty: the losses are (12 - k, k).
    losses = losses_of(searcher)
    assert len(losses[losses.sum(1) == 12].unique(dim=0)) >= 12


def test_parents_are_scored_again_where_scores_change():
    problem = Drifting()
    searcher = NSGA2(problem, popsize=12)
    assert searcher.next_num_evaluations == 12
    searcher.run(4)
    assert problem.num_evaluations == 12 + 3 * 24 and searcher.next_num_evaluations == 24
    age = searcher.population.evals[:, 0] - searcher.population.values[:, 0]
    assert torch.allclose(age.as_subclass(Tensor), torch.tensor(4.0, dtype=torch.float64))


def test_a_budget_is_kept():
    problem = ZDT()
    assert run_until(NSGA2(problem, popsize=20), num_evaluations=95) == "num_evaluations"
    assert problem.num_evaluations == 80


class Noted:
    """A variation of one's own: copies of the first parent with one flip, and notes of what it was told."""

    is_binary = True

    def __init__(self) -> None:
        self.told: list[Parents] = []

    def __call__(self, parents: Parents) -> Tensor:
        self.told.append(parents)
        children = parents.values[: parents.num_children]
        place = (parents.rand(*children.shape[:-1], 1) * children.shape[-1]).long()
        return children.scatter(-1, place, ~children.gather(-1, place))


def test_a_variation_of_ones_own_learns_who_the_parents_are_and_what_became_of_its_children():
    variation = Noted()
    searcher = NSGA2(bits_problem(), popsize=10, variation=variation, eliminate_duplicates=False)
    searcher.run(2)
    before = state_of(searcher)
    searcher.run(1)
    first, last = variation.told[0], variation.told[-1]
    assert first.survived is None and first.index.shape == (2, 5) and first.num_children == 2
    assert first.scores.shape == (10, 2) and first.generator is searcher.problem.generator
    replaced = (state_of(searcher) != before).any(1)
    assert last.survived.shape == (10,) and replaced.sum() <= searcher._survived.sum()
    searcher._variation = lambda parents: parents.values[:1]
    with pytest.raises(ValueError, match=r"children of shape \(2, 5, 24\), got \(1, 5, 24\)"):
        searcher.run(1)


def test_the_center_can_be_in_the_first_population():
    searcher = NSGA2(ZDT(), popsize=8, center_init=torch.zeros(30), stdev_init=0.1, include_center=True)
    assert (searcher.population.values[0] == 0).all() and (searcher.population.values >= 0).all()


def linear(x: Tensor) -> Tensor:
    return torch.stack([x[:, 0], -x[:, 0]], dim=1).float()


@pytest.mark.parametrize(
    ("problem", "options", "message"),
    [
        ({}, {"popsize": 3}, r"`popsize` must be at least 4"),
        ({}, {"tournament": "best"}, r"`tournament` must be 'dominance' or 'rank'"),
        ({}, {"variation": "swap"}, r"`variation` must be 'real', 'binary' or a callable"),
        ({}, {"bounds": (1, 0)}, r"every lower bound must be finite"),
        ({}, {"bounds": (torch.zeros(2), 1)}, r"expected `bounds` of 5 values"),
        ({}, {"variation": "binary", "initial_population": torch.full((100, 5), 0.5)}, r"zeros and ones"),
        ({"bounds": (-1, torch.inf)}, {}, r"every lower bound must be finite"),
        ({"bounds": None}, {"stdev_init": 1.0, "center_init": torch.zeros(5)}, r"needs a problem with `bounds`"),
        ({"dtype": torch.int64, "bounds": (0, 5)}, {}, r"needs bounds 0 and 1"),
        ({"dtype": torch.bool, "bounds": None}, {"variation": "real"}, r"needs a floating point problem"),
        ({"dtype": torch.bool, "bounds": None}, {"stdev_init": 1.0}, r"has no `stdev_init`"),
    ],
)
def test_what_cannot_be_is_refused(problem, options, message):
    problem = {"bounds": (0, 1), "eval_dtype": torch.float32, **problem}
    with pytest.raises(ValueError, match=message):
        NSGA2(Problem(["min", "min"], linear, solution_length=5, vectorized=True, **problem), **options)


def test_a_violation_of_another_shape_is_refused():
    searcher = NSGA2(ZDT(), popsize=8, violation=lambda values: values)
    with pytest.raises(ValueError, match=r"expected `violation` to give shape"):
        searcher.run(1)
