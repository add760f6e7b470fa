"""Does the default see new samples in every round, keep what was good, and spend no more than it may?"""

import pytest
import torch

from evohbde.history import History
from evohbde.layout import ParameterLayout
from evohbde.outputs import predict
from evohbde.parts import prunable_names
from evohbde.pruning.allocated import AllocatedPruning
from evohbde.pruning.bits import unpack
from evohbde.pruning.job import PruningJob
from evohbde.pruning.scoring import MaskScorer
from tests.small_networks import cnn, digits


def job(num_evaluations=300, num_samples=None, on_stage=None):
    model = cnn()
    scorer = MaskScorer(model, ParameterLayout(model, prunable_names(model)), 10)
    return PruningJob(scorer, digits(180), num_evaluations, num_samples, 3, History(None, on_stage))


@pytest.fixture
def searched(monkeypatch):
    """The samples that each problem was made of, in order."""
    seen = []
    make = PruningJob.problem

    def problem(self, data, *arguments):
        seen.append(data)
        return make(self, data, *arguments)

    monkeypatch.setattr(PruningJob, "problem", problem)
    return seen


def test_each_round_scores_on_samples_of_its_own(searched):
    some_job = job()
    AllocatedPruning().run(some_job)
    probes, *rounds = searched
    assert torch.equal(probes.x, rounds[0].x)
    assert [len(data) for data in rounds] == [60, 60, 60]
    assert len(torch.cat([data.x for data in rounds]).flatten(1).unique(dim=0)) == len(
        digits(180).x.flatten(1).unique(dim=0)
    )


def test_what_is_searched_is_the_divergence_from_the_network_as_given(searched):
    some_job = job()
    found = AllocatedPruning(rounds=1).run(some_job)
    data = searched[-1]
    reference = predict(some_job.scorer.model, data).double().log_softmax(1)
    for point in found.points:
        if not point.scores:
            continue
        network = some_job.scorer.network(unpack(point.bits, len(some_job.theta0)))
        with torch.no_grad():
            outputs = network(data.x).double().log_softmax(1)
        expected = torch.nn.functional.kl_div(outputs, reference, reduction="batchmean", log_target=True)
        assert point.scores["selection"]["divergence"] == pytest.approx(float(expected), abs=1e-5)


def test_another_objective_is_searched_if_wanted():
    found = AllocatedPruning(objective="cross_entropy").run(job())
    assert set(found.points[0].scores["selection"]) == {"cross_entropy", "density"}
    found = AllocatedPruning(objective=None).run(job())
    assert set(found.points[0].scores["selection"]) == {"error", "density"}


def test_later_rounds_leave_networks_behind_that_know_nothing():
    some_job, kept = job(300), []

    def note(row):
        kept.append((row.stage, row.mean))

    some_job.history.on_row = note
    AllocatedPruning(focus=0.1).run(some_job)
    last = dict(kept)
    assert last["round 3"] < 0.5 * last["round 1"]


def test_pruning_by_magnitude_is_offered_beside_what_was_found():
    found = AllocatedPruning(reconstructed=0).run(job())
    origins = {point.origin for point in found.points}
    assert origins == {"round 3", "global magnitude", "uniform magnitude"}
    lightest = min(point.kept for point in found.points if point.origin == "round 3")
    assert all(point.kept >= lightest - 1 / 54 for point in found.points)  # a tensor has 54 weights at least


def test_some_networks_are_offered_a_second_time_with_fitted_weights():
    some_job = job()
    found = AllocatedPruning(reconstructed=8).run(some_job)
    fitted = [point for point in found.points if point.values is not None]
    assert [point.origin for point in fitted].count("round 3, reconstructed") == 4
    assert [point.origin for point in fitted].count("global magnitude, reconstructed") == 4
    as_given = {(point.origin, point.kept) for point in found.points if point.values is None}
    num_layers = 0  # that have zeros, each of which takes one pass
    for point in fitted:
        origin = point.origin.removesuffix(", reconstructed")
        assert origin == "global magnitude" or (origin, point.kept) in as_given
        mask = unpack(point.bits, len(some_job.theta0))
        theta = some_job.scorer.layout.flatten(some_job.scorer.network(mask, point.values))
        assert torch.equal(theta[mask], point.values) and not theta[~mask].any()
        assert not torch.equal(theta[mask], some_job.theta0[mask])
        num_layers += sum(not bool(mask[some_job.groups == group].all()) for group in range(2))
    searched = some_job.history.rows[-1].num_samples_seen
    assert some_job.history.num_samples_seen - searched == 200 * (1 + num_layers)


@pytest.mark.parametrize(
    ("limits", "stages"),
    [
        ({"num_evaluations": 300}, ["each tensor alone", "round 1", "round 2", "round 3"]),
        ({"num_evaluations": 80}, ["each tensor alone", "round 1"]),
        ({"num_evaluations": 6}, ["round 1"]),
        ({"num_evaluations": None, "num_samples": 20_000.0}, ["each tensor alone", "round 1", "round 2", "round 3"]),
    ],
)
def test_a_smaller_budget_means_fewer_looks_and_rounds(limits, stages):
    begun = []
    some_job = job(**limits, on_stage=begun.append)
    AllocatedPruning(reconstructed=0).run(some_job)
    assert begun == stages
    if limits["num_evaluations"] is None:
        assert some_job.history.num_samples_seen <= limits["num_samples"]
    else:  # the first generation is always scored
        assert some_job.history.num_evaluations <= max(limits["num_evaluations"], 24)
