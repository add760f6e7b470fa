"""Does MOEA/D replace as it should, and find fronts in all senses?"""

import copy
import pickle

import numpy as np
import pytest
import torch
from evotorch import SolutionBatch
from front_problems import ZDT, Drifting, Sphere3, bits_problem, losses_of, state_of
from hypothesis import given
from hypothesis import strategies as st
from pymoo.indicators.hv import HV
from torch import Tensor

from evohbde.searchers.moead import MOEAD, penalty_boundary, replace_in_turn, tchebycheff, weighted_sum
from evohbde.searchers.nsga2 import NSGA2
from evohbde.searchers.pareto import is_nondominated


@given(popsize=st.integers(1, 25), seed=st.integers(0, 1000), limit=st.integers(1, 3))
def test_children_take_at_most_so_many_places_of_their_pool_and_none_gets_worse(popsize, seed, limit):
    rng = np.random.default_rng(seed)
    held, offered = rng.integers(0, 5, popsize).astype(float), rng.integers(0, 5, (popsize, popsize)).astype(float)
    violations = rng.integers(0, 2, (2, popsize)).astype(float)
    pools = np.stack([rng.permutation(popsize) for _ in range(popsize)])
    pools[rng.random(popsize) < 0.5, popsize // 2 :] = -1
    order = rng.permutation(popsize)
    holder = replace_in_turn(held, offered, *violations, pools, order, max_replacements=limit)
    for k in range(popsize):
        taken = np.flatnonzero(holder == popsize + k)
        assert len(taken) <= limit and set(taken) <= set(pools[k])
    for j, k in enumerate(holder - popsize):
        if k >= 0:
            assert (violations[1, k], offered[k, j]) <= (violations[0, j], held[j])
    # The last child finds what it left alone better than itself, unless it has taken all it may.
    last = order[-1]
    if np.sum(holder == popsize + last) < limit:
        for j in pools[last][pools[last] >= 0]:
            k = holder[j] - popsize
            now = (violations[1, k], offered[k, j]) if k >= 0 else (violations[0, j], held[j])
            assert k == last or now < (violations[1, last], offered[last, j])


def test_decompositions_are_those_of_the_paper():
    losses, weights = torch.tensor([[0.2, 0.6], [0.5, 0.5]]), torch.tensor([0.25, 0.75])
    assert torch.allclose(tchebycheff(losses, weights), torch.tensor([0.45, 0.375]), atol=2e-4)
    assert torch.allclose(weighted_sum(losses, weights), torch.tensor([0.5, 0.5]))
    weakly_dominated = tchebycheff(torch.tensor([[0.4, 0.2], [0.4, 0.1]]), torch.tensor([1.0, 0.0]))
    assert weakly_dominated[0] > weakly_dominated[1]
    # What is left of a length of sqrt(50) after 6.2 along the weights: Pythagoras.
    along = 0.6 * 1 + 0.8 * 7
    expected = along + 5 * (50 - along**2) ** 0.5
    assert float(penalty_boundary(torch.tensor([1.0, 7.0]), torch.tensor([3.0, 4.0]))) == pytest.approx(expected)


class Stretched(ZDT):
    """One loss in thousandths."""

    def _evaluate_batch(self, batch: SolutionBatch) -> None:
        super()._evaluate_batch(batch)
        batch._evdata[:, 1] *= 1000


def test_normalised_losses_have_no_scale():
    plain, stretched = (MOEAD(kind(3), popsize=20, normalize=True) for kind in (ZDT, Stretched))
    plain.run(30)
    stretched.run(30)
    assert torch.allclose(losses_of(stretched), losses_of(plain) * torch.tensor([1.0, 1000.0]), rtol=1e-6)
    neglected = MOEAD(Stretched(3), popsize=20)
    neglected.run(30)
    assert losses_of(neglected)[:, 0].median() > 2 * losses_of(plain)[:, 0].median()


@pytest.mark.parametrize("senses", [("max", "min"), ("max", "max")])
def test_senses_are_mirror_images(senses):
    reference, mirrored = (MOEAD(ZDT(3, kind), popsize=20) for kind in (("min", "min"), senses))
    reference.run(10)
    mirrored.run(10)
    assert torch.equal(state_of(reference)[:, :30], state_of(mirrored)[:, :30])
    assert torch.equal(losses_of(reference), losses_of(mirrored))


@pytest.mark.parametrize("options", [{}, {"rescore_parents": True, "decomposition": "weighted-sum"}])
def test_a_resumed_search_is_the_same_search(options):
    searcher = MOEAD(ZDT(), popsize=21, **options)
    for num_steps in (0, 1, 4):
        searcher.run(num_steps)
        twins = copy.deepcopy(searcher), pickle.loads(pickle.dumps(searcher))
        searcher.run(4)
        for twin in twins:
            twin.run(4)
            assert torch.equal(state_of(twin), state_of(searcher))


def test_a_generation_is_one_batch_of_as_many_children_as_weights():
    problem = ZDT()
    searcher = MOEAD(problem, popsize=20)
    searcher.run(5)
    assert [len(scored) for scored in problem.scored] == [20] * 5
    assert searcher.status["front_size"] == len(searcher.pareto_front)
    assert is_nondominated(searcher.losses(searcher.pareto_front.evals.as_subclass(Tensor))).all()
    values = searcher.pareto_front.values.as_subclass(Tensor)
    assert len(values.unique(dim=0)) == len(values)


@pytest.mark.parametrize("decomposition", ["tchebycheff", "weighted-sum"])
def test_the_larger_the_weight_of_an_objective_the_smaller_the_loss(decomposition):
    searcher = MOEAD(ZDT(1), popsize=20, decomposition=decomposition)
    searcher.run(60)
    together = torch.stack([searcher.weights[:, 0], losses_of(searcher)[:, 0]])
    assert torch.corrcoef(together)[0, 1] < -0.8


@pytest.mark.parametrize("make", [lambda: ZDT(3), Sphere3])
def test_the_front_never_loses_an_end(make):
    searcher = MOEAD(make(), popsize=28)
    searcher.run(1)
    best = losses_of(searcher).amin(0)
    for _ in range(40):
        searcher.run(1)
        losses = losses_of(searcher)
        # What the other objectives may outweigh is a ten-thousandth of the range.
        assert (losses.amin(0) <= best + 1e-3 * (losses.amax(0) - losses.amin(0))).all()
        best = torch.minimum(best, losses.amin(0))


@pytest.mark.parametrize(("popsize", "expected"), [(90, 91), (100, 105), (91, 91)])
def test_three_objectives_get_the_nearest_lattice(popsize, expected):
    searcher = MOEAD(Sphere3(), popsize=popsize)
    assert searcher.popsize == expected == searcher.next_num_evaluations


def test_three_objectives_with_mixed_senses_are_covered_better_than_by_crowding():
    volume, hypervolumes = HV(ref_point=np.full(3, 8.5)), []
    for kind in (NSGA2, MOEAD):
        searcher = kind(Sphere3(), popsize=45)
        searcher.run(60)
        hypervolumes.append(volume(searcher.losses(searcher.pareto_front.evals.as_subclass(Tensor)).numpy()))
    # The Pareto set is the triangle (1, 1), (-1, 1), (1, -1), with 0 in the last two values.
    values = searcher.pareto_front.values.as_subclass(Tensor)
    assert values[:, 2:].abs().mean() < 0.1 and (values[:, 0] + values[:, 1]).min() > -0.2
    assert hypervolumes[1] > hypervolumes[0]


def too_small(values: Tensor) -> Tensor:
    return 0.4 - values[:, 0]


def test_constraints_come_before_scores():
    searcher = MOEAD(ZDT(), popsize=20, violation=too_small)
    searcher.run(30)
    assert (searcher.population.values[:, 0] >= 0.4).all()


def test_binary_spaces_are_searched():
    searcher = MOEAD(bits_problem(), popsize=30, max_replacements=3)
    searcher.run(80)
    losses = losses_of(searcher)
    assert len(losses[losses.sum(1) == 12].unique(dim=0)) >= 10


def test_parents_are_scored_again_where_scores_change():
    problem = Drifting()
    searcher = MOEAD(problem, popsize=12)
    searcher.run(4)
    assert problem.num_evaluations == 12 + 3 * 24
    age = searcher.population.evals[:, 0] - searcher.population.values[:, 0]
    assert torch.allclose(age.as_subclass(Tensor), torch.tensor(4.0, dtype=torch.float64))


def test_weights_and_decomposition_of_ones_own():
    weights = torch.tensor([[1.0, 0.0]]).repeat(6, 1)
    searcher = MOEAD(
        ZDT(), weights=weights, decomposition=lambda losses, weights: (losses * weights).amax(-1), max_replacements=2
    )
    searcher.run(30)
    assert searcher.popsize == 6 and searcher.population.evals[:, 0].max() < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"popsize": 3}, r"`popsize` must be at least 4"),
        ({"decomposition": "sum"}, r"`decomposition` must be one of tchebycheff, pbi, weighted-sum or a function"),
        ({"weights": torch.ones(5, 3)}, r"expected `weights` of shape \(N, 2\)"),
        ({"weights": torch.zeros(5, 2)}, r"`weights` must not be negative, nor all zero"),
        ({"neighbour_rate": 1.5}, r"`neighbour_rate` must lie in \[0, 1\]"),
        ({"num_neighbours": 1}, r"`num_neighbours` must be at least 2"),
        ({"max_replacements": 0}, r"`max_replacements` at least 1"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MOEAD(ZDT(), **options)
