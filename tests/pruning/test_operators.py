"""Do the operators on masks follow their formulas, rates and preferences?"""

import copy
import pickle
from itertools import permutations

import numpy as np
import pytest
import torch
from evotorch import Problem, SolutionBatch
from scipy.stats import binom
from torch import Tensor

from evohbde.layout import ParameterLayout
from evohbde.parts import prunable_names
from evohbde.problem import NetworkProblem
from evohbde.pruning.importance import magnitude, ranks
from evohbde.pruning.initialise import importance_guided
from evohbde.pruning.operators import VotingVariation, adapted, weighted_choice
from evohbde.reductions import CorridorMask, ThresholdPruning
from evohbde.searchers import MOEAD, NSGA2
from evohbde.searchers.variation import Parents
from tests.small_networks import cnn, digits

DIM = 5_000
RANKS = torch.linspace(0, 1, DIM)
NO_MUTATION = {"mutation_rate": 0.0, "num_generations": 1}


def bits(rows, seed=0, density=0.5):
    return (torch.rand(rows, DIM, generator=torch.Generator().manual_seed(seed)) < density).float()


def parents_of(population, scores=None, num_children=2, seed=0, generation=0, survived=None) -> Parents:
    """Individual 2k mates with 2k + 1; the first children go in front of the second ones."""
    num = len(population)
    return Parents(
        index=torch.arange(num).view(-1, 2).T,
        population=population,
        scores=torch.zeros(num, 2) if scores is None else torch.stack([scores, torch.zeros(num)], dim=1),
        num_children=num_children,
        box=None,
        generator=torch.Generator().manual_seed(seed),
        survived=survived,
        generation=generation,
        places=torch.arange(num_children * (num // 2)).view(num_children, -1),
    )


def crossed(parents, **options):
    """Children before mutation."""
    variation = VotingVariation(RANKS, **{"crossover_rate": 1.0, **options})
    return variation._cross(parents, torch.ones(parents.num_pairs, dtype=torch.bool))


def within_noise(found: int, num: int, share: float) -> bool:
    low, high = binom.interval(1 - 1e-6, num, share)
    return low <= found <= high


def test_bits_on_which_parents_agree_are_kept():
    parents = parents_of(bits(20))
    first, second = parents.values
    for child in crossed(parents).float():
        assert torch.equal(child[first == second], first[first == second])


@pytest.mark.parametrize(("lead", "share"), [(0.0, 0.5), (0.01, 1 / (1 + np.exp(-1))), (0.5, 0.8), (-0.5, 0.2)])
@pytest.mark.parametrize("sense", ["min", "max"])
def test_the_better_parent_has_its_share_of_the_votes(lead, share, sense):
    scores = torch.tensor([0.3, 0.3 - lead if sense == "max" else 0.3 + lead])
    parents = parents_of(bits(2), scores)
    first, second = parents.values[:, 0]
    differs = first != second
    child, sibling = crossed(parents, importance_rate=0.0, sense=sense).float()[:, 0]
    assert within_noise(int((child == first)[differs].sum()), int(differs.sum()), share)
    assert torch.equal((child == first)[differs], (sibling == second)[differs])


def test_a_parent_without_a_finite_score_has_a_fair_vote_or_the_least():
    for scores, share in ((torch.tensor([torch.nan, 0.1]), 0.5), (torch.tensor([torch.inf, 0.1]), 0.2)):
        parents = parents_of(bits(2), scores)
        first, second = parents.values[:, 0]
        child = crossed(parents, importance_rate=0.0).float()[0, 0]
        differs = first != second
        assert within_noise(int((child == first)[differs].sum()), int(differs.sum()), share)


def test_importance_decides_with_the_probability_of_the_rank():
    parents = parents_of(torch.stack([torch.ones(DIM), torch.zeros(DIM)] * 20))
    for child in crossed(parents, importance_rate=1.0).float():
        for part in torch.arange(DIM).split(DIM // 5):
            ones, num = int(child[:, part].sum()), 20 * len(part)
            assert within_noise(ones, num, float(RANKS[part].mean()))


def test_votes_and_importance_mix_at_their_rate():
    parents = parents_of(torch.stack([torch.ones(DIM), torch.zeros(DIM)] * 20), torch.tensor([0.1, 0.9] * 20))
    child, sibling = crossed(parents, importance_rate=0.25).float()
    top = RANKS > 0.9
    expected = 0.75 * np.array([0.8, 0.2]) + 0.25 * float(RANKS[top].mean())
    for found, share in zip((child, sibling), expected, strict=True):
        assert within_noise(int(found[:, top].sum()), 20 * int(top.sum()), share)


def test_only_a_share_of_the_pairs_is_crossed():
    population = torch.stack([torch.ones(DIM), torch.zeros(DIM)] * 300)
    children = VotingVariation(RANKS, crossover_rate=0.7, **NO_MUTATION)(parents_of(population, generation=0))
    is_copy = ((children[0] != 1).sum(1) <= 1) & ((children[1] != 0).sum(1) <= 1)
    assert within_noise(int((~is_copy).sum()), 300, 0.7)


def test_one_child_per_pair_is_the_first_of_two():
    one, two = (crossed(parents_of(bits(20), num_children=num)) for num in (1, 2))
    assert one.shape == (1, 10, DIM) and torch.equal(one[0], two[0])


def mutated(population, generation=0, seed=0, **options):
    """What mutation alone switched on and off in copies of all individuals, in their order."""
    variation = VotingVariation(RANKS, crossover_rate=0.0, **options)
    variation._generation = generation
    children = variation(parents_of(population, seed=seed, generation=generation))
    before = torch.stack([population[::2], population[1::2]])
    changed = (children != before).permute(1, 0, 2).flatten(0, 1)
    return changed & (population == 0), changed & (population == 1)


def test_the_expected_number_of_bits_flips_and_falls_over_the_generations():
    population = bits(400)
    for generation, expected in ((0, 26.0), (50, 25 * 0.5**1.5 + 1), (75, 25 * 0.25**1.5 + 1), (100, 1.0), (130, 1.0)):
        on, off = mutated(population, generation)
        flips = (on | off).sum(1)
        assert VotingVariation(RANKS).num_flips(generation) == pytest.approx(expected)
        assert set(flips.tolist()) <= {int(expected), int(np.ceil(expected))}
        assert within_noise(int((flips - int(expected)).sum()), 400, expected % 1)


def test_large_masks_keep_flipping_one_in_a_hundred_thousand():
    variation = VotingVariation(torch.linspace(0, 1, 1_000_000))
    assert variation.num_flips(0) == pytest.approx(5_010) and variation.num_flips(100) == pytest.approx(10)


def test_heavy_masks_get_heavier_and_light_ones_lighter():
    num = 20
    population = torch.cat([bits(1, row, (row + 0.5) / num) for row in range(num)])
    assert (population.sum(1).diff() > 0).all()
    on, off = torch.zeros(num), torch.zeros(num)
    for seed in range(100):
        switched = mutated(population, seed=seed)
        on, off = on + switched[0].sum(1), off + switched[1].sum(1)
    heaviness = (2 * np.arange(num) - (num - 1)) / num
    for row, share in enumerate(0.5 + 0.15 * heaviness):
        assert within_noise(int(on[row]), int(on[row] + off[row]), share)


def test_important_weights_come_back_and_unimportant_ones_go():
    on, off = mutated(bits(400))
    assert float(RANKS.expand(400, -1)[on].mean()) > 0.6 and float(RANKS.expand(400, -1)[off].mean()) < 0.4
    weight = RANKS.double() + 0.05
    for part in torch.arange(DIM).split(DIM // 5):
        share = float(weight[part].sum() / weight.sum())
        assert within_noise(int(on[:, part].sum()), int(on.sum()), share)
        assert within_noise(int(off.flip(1)[:, part].sum()), int(off.sum()), share)


def test_full_and_empty_masks_flip_what_they_have():
    population = torch.stack([torch.zeros(DIM), torch.ones(DIM)] * 10)
    on, off = mutated(population, mutation_rate=1.0)
    assert on[1::2].sum() == off[::2].sum() == 0
    assert (on[::2].sum(1) > 0.3 * DIM).all() and (off[1::2].sum(1) > 0.3 * DIM).all()


def test_pieces_of_a_population_are_all_mutated(monkeypatch):
    monkeypatch.setattr("evohbde.pruning.operators.PIECE", 3 * DIM)
    on, off = mutated(bits(20))
    assert ((on | off).sum(1) == 26).all()


def inclusion_probabilities(weights, count):
    """By the definition: one column after the other, by the weights of what is left."""
    found = np.zeros(len(weights))
    for order in permutations(range(len(weights)), count):
        probability, left = 1.0, sum(weights)
        for column in order:
            probability *= weights[column] / left
            left -= weights[column]
        found[list(order)] += probability
    return found


@pytest.mark.parametrize("count", [1, 2, 3])
def test_draws_without_replacement_have_the_analytic_inclusion_probabilities(count):
    weights, num = [0.05, 0.3, 1.05, 0.6, 0.0], 20_000
    uniform = torch.rand(num, 5, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    drawn = weighted_choice(torch.tensor([weights] * num), torch.full((num,), count), uniform)
    assert (drawn.sum(1) == count).all()
    for column, probability in enumerate(inclusion_probabilities(weights, count)):
        assert within_noise(int(drawn[:, column].sum()), num, probability)


def test_rows_draw_as_many_as_they_are_asked_for_and_never_what_has_no_weight():
    weights = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0], [0.0, 3.0, 1.0]])
    drawn = weighted_choice(weights, torch.tensor([2, 0, 1]), torch.zeros(3, 3))
    assert drawn.sum(1).tolist() == [2, 0, 1] and not (drawn & (weights == 0)).any()


def generations(variation, survival, num, popsize=40):
    """Let children survive by `survival(children are crossed, (N,)) -> (N,)`, generation after generation."""
    population, survived = bits(popsize), None
    for generation in range(num):
        variation(parents_of(population, generation=generation, survived=survived, seed=generation))
        survived = survival(variation._is_crossed)
    return variation


@pytest.mark.parametrize(("share", "factor"), [(0.5, 1.1**3), (0.1, 0.9**3), (0.2, 1.0)])
def test_rates_follow_the_share_of_children_that_survive(share, factor):
    def survive(is_crossed):
        return torch.arange(len(is_crossed)) % 10 < 10 * share

    variation = generations(VotingVariation(RANKS, crossover_rate=1.0), survive, 4)
    assert variation.mutation_factor == pytest.approx(factor)
    assert variation.crossover_factor == pytest.approx(factor)
    assert variation.num_flips(0) == pytest.approx(26 * factor)


def test_each_operator_is_judged_by_its_own_children():
    variation = generations(VotingVariation(RANKS, crossover_rate=0.5), lambda is_crossed: ~is_crossed, 6)
    assert variation.crossover_factor == pytest.approx(0.9**5) and variation.mutation_factor == pytest.approx(1.1**5)


def test_success_is_that_of_five_generations():
    survival = iter([1.0] * 3 + [0.0] * 7)

    def survive(is_crossed):
        return torch.full_like(is_crossed, next(survival) > 0)

    # The share over five is 1, 1, 1, 3/4, 3/5, 2/5, 1/5 and then 0.
    variation = generations(VotingVariation(RANKS), survive, 9)
    assert variation.mutation_factor == pytest.approx(1.1**6 * 0.9)


def test_factors_stay_between_a_quarter_and_four():
    factor = 1.0
    for _ in range(40):
        factor = adapted(factor, 1, 2)
    assert factor == 4.0 and adapted(1.0, 0, 0) == 1.0
    for _ in range(60):
        factor = adapted(factor, 0, 2)
    assert factor == 0.25


def test_rates_stay_where_they_are_if_asked():
    variation = generations(VotingVariation(RANKS, is_adaptive=False), torch.zeros_like, 4)
    assert variation.mutation_factor == variation.crossover_factor == 1.0


def test_a_second_search_starts_with_fresh_rates():
    variation = generations(VotingVariation(RANKS), torch.zeros_like, 4)
    generations(variation, torch.zeros_like, 1)
    assert variation.mutation_factor == variation.crossover_factor == 1.0


def test_children_made_anew_take_the_place_of_those_they_replace():
    variation = VotingVariation(RANKS, crossover_rate=1.0)
    parents = parents_of(bits(8))
    variation(parents)
    again = parents_of(bits(8))
    again.places[:] = torch.tensor([[2, -1, -1, -1], [-1, -1, -1, 7]])
    variation.crossover_factor = 0.0
    variation(again)
    assert variation._is_crossed.tolist() == [True, True, False, True, True, True, True, False]


def problem_of_a_network():
    model = cnn()
    layout = ParameterLayout(model, prunable_names(model))
    theta0, groups = layout.flatten(model), layout.tensor_index
    ends = ThresholdPruning(theta0, groups)
    core, upper = ends.mask(ends.uniform(0.8)), ends.mask(ends.uniform(0.1))
    reduction = CorridorMask(theta0, core, upper)
    problem = NetworkProblem(model, digits(60), ["error", "density"], layout=layout, reduction=reduction, seed=1)
    return problem, ranks(magnitude(theta0, groups)[reduction.free]), core, upper


def searcher_of(kind):
    problem, importance, core, upper = problem_of_a_network()
    start = importance_guided(importance, 12, problem.generator).float()
    variation = VotingVariation(importance, num_generations=4)
    return kind(problem, popsize=12, variation=variation, initial_population=start), core, upper


@pytest.mark.parametrize("kind", [NSGA2, MOEAD])
def test_searches_by_votes_stay_in_the_corridor_and_adapt_their_rates(kind):
    searcher, core, upper = searcher_of(kind)
    searcher.step()
    start = searcher.population.evals[:, 0].as_subclass(Tensor).clone()
    searcher.run(3)
    mask = searcher.problem.reduction.mask(searcher.population.values.as_subclass(Tensor))
    assert (mask | ~core).all() and not (mask & ~upper).any()
    assert float(searcher.population.evals[:, 0].min()) <= float(start.min())
    factors = searcher._variation.mutation_factor, searcher._variation.crossover_factor
    assert all(factor != 1.0 for factor in factors)


@pytest.mark.parametrize("kind", [NSGA2, MOEAD])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda searcher: pickle.loads(pickle.dumps(searcher))])
def test_a_copy_goes_on_bit_for_bit(kind, copied):
    searcher, *_ = searcher_of(kind)
    searcher.run(3)
    other = copied(searcher)
    for each in (searcher, other):
        each.run(3)
    assert torch.equal(searcher.population.values.as_subclass(Tensor), other.population.values.as_subclass(Tensor))
    assert torch.equal(searcher.population.evals.as_subclass(Tensor), other.population.evals.as_subclass(Tensor))
    assert vars(searcher._variation)["_counts"] == vars(other._variation)["_counts"] != []


def test_the_seed_of_the_problem_decides_everything():
    runs = [searcher_of(NSGA2)[0] for _ in range(2)]
    for seed, searcher in enumerate(runs):
        torch.manual_seed(seed)
        searcher.run(3)
    assert torch.equal(*(searcher.population.values.as_subclass(Tensor) for searcher in runs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranks": torch.tensor([0.0, 2.0])}, r"`ranks` of shape \(d,\) with values in \[0, 1\]"),
        ({"ranks": torch.zeros(0)}, r"got shape \(0,\)"),
        ({"num_generations": 0}, "`num_generations` must be at least 1, got 0"),
        ({"vote_scale": 0.0}, "`vote_scale` must be above 0, got 0.0: 0.01 is one point"),
        ({"sense": "up"}, "`sense` must be 'min' or 'max', got 'up'"),
        ({"importance_rate": 1.5}, r"`importance_rate` must lie in \[0, 1\], got 1.5"),
        ({"mutation_rate": -1.0}, r"`mutation_rate` must lie in \[0, 1\]"),
        ({"crossover_rate": 2.0}, r"`crossover_rate` must lie in \[0, 1\]"),
    ],
)
def test_wrong_arguments_name_what_was_expected(options, message):
    with pytest.raises(ValueError, match=message):
        VotingVariation(**{"ranks": RANKS, **options})


class Recording:
    """Random bits, of which many repeat, and what was told about them."""

    is_binary = True

    def __init__(self):
        self.made = {}

    def __call__(self, parents):
        children = (parents.rand(parents.num_children, parents.num_pairs, 4) < 0.5).float()
        for place, child in zip(parents.places.flatten().tolist(), children.flatten(0, 1), strict=True):
            if place >= 0:
                self.made[parents.generation, place] = child
        return children


@pytest.mark.parametrize("kind", [NSGA2, MOEAD])
def test_searchers_tell_in_which_generation_and_place_each_child_goes(kind):
    problem = Problem(["min", "max"], lambda z: torch.stack([z.sum(1), z[:, 0]], 1), solution_length=4,
                      initial_bounds=(0, 1), vectorized=True, seed=3)  # fmt: skip
    recording = Recording()
    searcher = kind(problem, popsize=7, variation=recording)
    for generation in range(-1, 4):
        z = searcher.ask()
        if generation >= 0:
            assert torch.equal(z, torch.stack([recording.made[generation, place] for place in range(7)]))
        batch = SolutionBatch(problem, popsize=len(z), empty=True)
        batch.set_values(z)
        problem.evaluate(batch)
        searcher.tell(z, batch.evals.as_subclass(Tensor))
    assert {generation for generation, _ in recording.made} == {0, 1, 2, 3}
