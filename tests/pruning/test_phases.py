"""Do both phases search where they should, and does the archive hold what they found?"""

import numpy as np
import pytest
import torch
from scipy.interpolate import PchipInterpolator
from scipy.optimize import minimize

from evohbde.history import History
from evohbde.layout import ParameterLayout
from evohbde.objectives import resolve
from evohbde.parts import prunable_names
from evohbde.pruning.allocation import allocate
from evohbde.pruning.archive import Archive
from evohbde.pruning.bits import unpack
from evohbde.pruning.hierarchical import HierarchicalPruning2026
from evohbde.pruning.importance import magnitude, ranks
from evohbde.pruning.job import PruningJob
from evohbde.pruning.phases import Corridor, find_corridor, first_masks, spread_start, threshold_searcher
from evohbde.pruning.scoring import MaskScorer
from evohbde.reductions.corridor import CorridorMask
from evohbde.reductions.thresholds import ThresholdPruning
from tests.small_networks import cnn, digits


def job(num_evaluations=96, num_samples=None, objectives=("error", "density"), on_row=None):
    model = cnn()
    scorer = MaskScorer(model, ParameterLayout(model, prunable_names(model)), 10, objectives)
    return PruningJob(scorer, digits(), num_evaluations, num_samples, 0, History(on_row))


def thresholds(some_job):
    return ThresholdPruning(some_job.theta0, some_job.groups)


def masks_of(points, size):
    return torch.stack([unpack(point.bits, size) for point in points])


def test_the_first_thresholds_are_levels_of_both_kinds_and_a_latin_hypercube():
    pruning = thresholds(job())
    start = spread_start(pruning, 100, torch.Generator().manual_seed(0))
    assert start.shape == (100, 2)
    for row, level in zip(start[:10], np.linspace(0, 0.9, 10), strict=True):
        assert torch.equal(row, pruning.uniform(float(level)))
    for row, level in zip(start[10:19], np.linspace(0, 0.9, 10)[1:], strict=True):
        assert torch.equal(row, pruning.global_magnitude(float(level)))
    strata = (start[19:] / pruning.upper * 81).floor().long()
    assert all(torch.equal(column.sort().values, torch.arange(81)) for column in strata.T)


@pytest.mark.parametrize("popsize", [4, 7, 20, 33])
def test_a_first_population_of_any_size_begins_with_the_network_as_given(popsize):
    pruning = thresholds(job())
    start = spread_start(pruning, popsize, torch.Generator().manual_seed(0))
    assert start.shape == (popsize, 2)
    assert not start[0].any()
    assert (start <= pruning.upper).all() and (start >= 0).all()


def archive_of(rows):
    archive = Archive(resolve(("error", "density")), 10)
    pruning = ThresholdPruning(torch.arange(1.0, 101.0), torch.zeros(100, dtype=torch.int64), most=0.99)
    z = torch.stack([pruning.uniform(1 - kept) for _, kept in rows])
    archive.add("phase 1", pruning, z, torch.tensor(rows))
    return archive


def test_anchors_are_the_best_network_and_the_lightest_within_the_loss():
    rows = [(0.10, 1.0), (0.09, 0.9), (0.10, 0.7), (0.14, 0.5), (0.16, 0.4)]
    archive = archive_of(rows)
    assert len(archive.points) == 4  # the unpruned network is worse than one that keeps 0.9
    found = find_corridor(archive, heavy="best", heavy_loss=0.005, light_loss=0.05, size=100)
    assert (found.heavy.kept, found.light.kept) == (pytest.approx(0.9), pytest.approx(0.5))
    found = find_corridor(archive, heavy="lightest", heavy_loss=0.015, light_loss=0.08, size=100)
    assert (found.heavy.kept, found.light.kept) == (pytest.approx(0.7), pytest.approx(0.4))
    assert (found.core <= found.upper).all()
    assert (int(found.core.sum()), int(found.upper.sum())) == (40, 70)


def test_one_network_is_no_corridor():
    assert find_corridor(archive_of([(0.1, 1.0)]), heavy="best", heavy_loss=0.0, light_loss=0.05, size=100) is None


def test_the_first_masks_begin_and_end_with_the_anchors_and_stay_between_them():
    some_job = job()
    generator = torch.Generator().manual_seed(0)
    size = len(some_job.theta0)
    heavy, light = (torch.rand(size, generator=generator) < share for share in (0.9, 0.5))
    archive = some_job.archive()
    searcher = threshold_searcher(some_job, some_job.train, thresholds(some_job), 12)
    some_job.search("phase 1", searcher.problem, searcher, archive, num_evaluations=12)
    corridor = Corridor(archive.points[0], archive.points[-1], heavy, light)
    reduction = CorridorMask(some_job.theta0, corridor.core, corridor.upper)
    importance = ranks(magnitude(some_job.theta0, some_job.groups)[reduction.free])
    bits = first_masks(corridor, reduction, importance, archive.points, 30, 0.1, generator)
    assert bits.shape == (30, reduction.dim)
    masks = reduction.mask(bits)
    assert torch.equal(masks[0], light) and torch.equal(masks[-1], heavy)
    assert (masks >= corridor.core).all() and (masks <= corridor.upper).all()
    projected = masks_of(archive.points, size) & corridor.upper | corridor.core
    assert sum(bool((mask == projected).all(1).any()) for mask in masks[1:-1]) >= 2


@pytest.mark.parametrize("switches", [{}, {"algorithm": "MOEAD"}, {"reading": "R2"}, {"guided": False}])
def test_phase_two_stays_in_the_corridor_of_phase_one(switches):
    some_job = job(128)
    preset = HierarchicalPruning2026(light_loss=0.2, **switches)
    found = preset.run(some_job)
    assert some_job.history.num_evaluations <= 128
    assert [row.stage for row in some_job.history.rows] == ["phase 1"] * 8 + ["phase 2"] * 8
    size = len(some_job.theta0)
    first = [point for point in found.points if point.origin == "phase 1"]
    second = masks_of([point for point in found.points if point.origin == "phase 2"], size)
    assert first and len(second)
    # All that phase 2 keeps is kept by one of two networks of phase 1, which the union may have dropped since.
    again = job(128)
    archive = again.archive()
    searcher = threshold_searcher(again, again.train, thresholds(again), 8)
    again.search("phase 1", searcher.problem, searcher, archive, num_evaluations=64)
    corridor = find_corridor(archive, heavy="best", heavy_loss=0.005, light_loss=0.2, size=size)
    assert (second <= corridor.upper).all()
    if preset.reading == "R1":
        assert (second >= corridor.core).all()
    else:
        densities = second.double().mean(1)
        assert (densities >= corridor.light.kept - 1e-9).all() or (densities < corridor.light.kept).any()


def test_without_a_corridor_every_weight_is_free():
    some_job = job(128)
    found = HierarchicalPruning2026(corridor=False, light_loss=0.2).run(some_job)
    assert any(f"{len(some_job.theta0):,} weights are free" in note for note in found.notes)


def test_no_corridor_means_that_phase_one_goes_on():
    some_job = job(128)
    found = HierarchicalPruning2026(light_loss=-1.0).run(some_job)
    assert {row.stage for row in some_job.history.rows} == {"phase 1"}
    assert [row.generation for row in some_job.history.rows] == list(range(1, 17))
    assert some_job.history.num_evaluations == 128
    assert any("went on instead" in note for note in found.notes)


def test_equal_seeds_give_equal_fronts():
    fronts = [HierarchicalPruning2026().run(job(96)).points for _ in range(2)]
    assert [point.origin for point in fronts[0]] == [point.origin for point in fronts[1]]
    assert all(torch.equal(one.bits, other.bits) for one, other in zip(*fronts, strict=True))


def test_the_archive_dominates_all_that_was_scored():
    some_job = job(96)
    searcher = threshold_searcher(some_job, some_job.train, thresholds(some_job), 12)
    archive, seen = some_job.archive(), []
    searcher.problem.after_eval_hook.append(lambda batch: seen.append(batch.evals.clone()))
    some_job.search("phase 1", searcher.problem, searcher, archive)
    scores = torch.cat(seen).double()
    assert len(scores) == archive.num_seen == 96
    no_worse = (archive.losses[None] <= scores[:, None] + 1e-6).all(2)
    assert no_worse.any(1).all()
    assert some_job.history.rows[-1].hypervolume == pytest.approx(archive.hypervolume())


def test_a_search_may_go_on_and_every_cost_is_counted_once():
    some_job = job(60)
    searcher = threshold_searcher(some_job, some_job.train, thresholds(some_job), 12)
    archive = some_job.archive()
    for _ in range(3):
        some_job.search("phase 1", searcher.problem, searcher, archive, num_evaluations=24)
    assert some_job.history.num_evaluations == 60
    assert [row.num_evaluations for row in some_job.history.rows] == [12, 24, 36, 48, 60]
    assert some_job.history.num_samples_seen == pytest.approx(60 * 120, rel=0.01)
    assert len(searcher.problem.after_eval_hook) == 0


@pytest.mark.parametrize(
    ("num_evaluations", "num_samples", "expected"),
    [(500, None, 120), (None, 1e9, 120), (None, 1e4, 100), (20, 2.2e3, 110)],
)
def test_the_budget_decides_how_many_samples_score_a_candidate(num_evaluations, num_samples, expected):
    assert job(num_evaluations, num_samples).selection_size(5_000) == expected


def test_parts_of_the_selection_share_no_sample_while_there_are_others():
    parts = [job().selection(30, part).x.flatten(1) for part in range(5)]
    together = torch.cat(parts[:4])
    assert len(together.unique(dim=0)) == len(digits().x.flatten(1).unique(dim=0))
    assert torch.equal(parts[4], parts[0])


def test_allocation_finds_the_cheapest_thresholds_that_keep_a_share():
    levels = (0.25, 0.5, 0.75, 0.9)
    scales, counts = np.array([1.0, 0.2, 3.0]), np.array([100, 400, 500])
    costs = scales[:, None] * np.array(levels) ** 2
    kept = 0.55
    (found,) = allocate(torch.tensor(costs), levels, torch.tensor(counts), [kept])
    sizes = counts / counts.sum()
    curves = [PchipInterpolator([0, *levels], [0, *row]) for row in costs]

    def total(t):
        return float(sum(curve(one) for curve, one in zip(curves, t, strict=True)))

    constraint = {"type": "eq", "fun": lambda t: sizes @ (1 - t) - kept}
    best = minimize(total, x0=[0.45] * 3, bounds=[(0, 0.9)] * 3, constraints=[constraint])
    assert sizes @ (1 - found.numpy()) == pytest.approx(kept, abs=1e-6)
    assert total(found.numpy()) == pytest.approx(best.fun, rel=0.02)


def test_allocation_ignores_gains_that_are_noise_and_keeps_what_is_wanted():
    costs = torch.tensor([[-0.3, 0.1, -0.2], [0.0, 0.0, 0.0], [0.5, 0.9, 2.0]])
    kept = [0.95, 0.7, 0.4]
    counts = torch.tensor([10, 20, 30])
    found = allocate(costs, (0.3, 0.6, 0.9), counts, kept)
    shares = (counts * (1 - found)).sum(1) / counts.sum()
    assert shares.tolist() == pytest.approx(kept, abs=1e-6)
    assert ((found >= 0) & (found <= 0.9)).all()
    assert (found[0, 1] > found[0, 2]) and (found[1:] >= found[:-1] - 1e-6).all()


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"most": 1.0}, r"`most` must lie in \(0, 1\), the largest share .* got 1.0"),
        ({"algorithm": "SPEA2"}, "`algorithm` must be one of NSGA2, MOEAD, got 'SPEA2'"),
        ({"reading": "R3"}, "`reading` must be one of R1, R2"),
        ({"first_share": 0.0}, r"`first_share` must lie in \(0, 1\]"),
        ({"popsize": 3}, "`popsize` must be at least 4, got 3"),
        ({"temperature": 0.0}, "`temperature` must be above 0"),
    ],
)
def test_a_switch_out_of_range_is_named_at_once(switches, message):
    with pytest.raises(ValueError, match=message):
        HierarchicalPruning2026(**switches)
