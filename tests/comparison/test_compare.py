"""Are all runs made, from the same start and within the budget, however often a comparison is interrupted?"""

import json
import os
import random

import numpy as np
import pytest
import torch

from evohbde import Comparison, compare
from evohbde.comparison import records
from evohbde.comparison.plan import Plan
from evohbde.evaluator import NetworkEvaluator
from evohbde.problem import NetworkProblem
from tests.comparison import factories

HERE = "tests.comparison.factories"
SNES = "evotorch.algorithms:SNES"


def plain(**changes):
    given = {"num_evaluations": 60, "seeds": range(3), "num_workers": 1, **changes}
    return compare(f"{HERE}:sphere", given.pop("searchers", ["RandomSearch:popsize=10", SNES]), **given)


def small(**changes):
    given = {"num_evaluations": 60, "seeds": range(2), "num_workers": 1, **changes}
    searchers = given.pop("searchers", {"DE": "DE:popsize=10", "SNES": f"{SNES}:popsize=10"})
    return compare(
        f"{HERE}:small_task", searchers, **{"reductions": ["HistogramBlocking:num_bins=30,mode=offset"], **given}
    )


def facts(found):
    return [{key: run[key] for key in run if key not in ("seconds", "trajectory")} for run in found.runs]


@pytest.fixture(scope="module")
def networks():
    return small()


def test_every_searcher_runs_on_every_seed_within_the_budget(networks):
    assert networks.methods == ["DE", "SNES"] and networks.num_missing == 0 and not networks.errors
    assert [(run["searcher"], run["seed"]) for run in networks.runs] == [("DE", 0), ("DE", 1), ("SNES", 0), ("SNES", 1)]
    for run in networks.runs:
        assert 50 <= run["num_evaluations"] <= 60 and run["stop_reason"] == "num_evaluations"
        assert 0 < run["num_samples_seen"] <= 60 * 60
        assert run["best"] <= run["untouched"]["selection"] + 1e-6 or run["searcher"] == "SNES"


def test_held_out_scores_are_those_of_the_answer_and_all_start_from_the_same_network(networks):
    by_seed = {run["seed"]: run["untouched"] for run in networks.runs}
    assert all(run["untouched"] == by_seed[run["seed"]] for run in networks.runs)
    task = factories.small_task(0)
    problem = NetworkProblem(task.model, task.train)
    expected = problem.score(task.model.eval(), task.test, ["accuracy", "cross_entropy"])
    assert by_seed[0]["accuracy"] == pytest.approx(expected["accuracy"])
    assert by_seed[0]["cross_entropy"] == pytest.approx(expected["cross_entropy"], rel=1e-5)


def test_trajectories_improve_and_end_in_the_result(networks):
    for run in networks.runs:
        rows = run["trajectory"]
        best = [row["best"] for row in rows]
        assert best == sorted(best, reverse=True) and best[-1] == run["best"] <= run["first"]
        assert [row["num_evaluations"] for row in rows] == sorted({row["num_evaluations"] for row in rows})
        taken = [row["held_out"] for row in rows if row["held_out"]]
        assert taken[-1] == run["held_out"] and 2 <= len(taken) <= 10


def test_the_price_of_held_out_scores_is_not_part_of_the_budget(networks):
    often, seldom = small(num_checkpoints=30, seeds=[0]), small(num_checkpoints=1, seeds=[0])
    for one, other in zip(often.runs, seldom.runs, strict=True):
        for key in ("best", "num_evaluations", "num_samples_seen", "held_out"):
            assert one[key] == other[key]
        assert sum(row["held_out"] is not None for row in one["trajectory"]) > 1


def test_plain_problems_are_judged_by_their_best():
    found = plain()
    assert found.metric == "best" and found.settings["held_out"] == [] and found.settings["reductions"] == {}
    assert all(run["held_out"] == {} and run["reduction"] is None for run in found.runs)
    best = found.scores()
    num_behind = sum(best["SNES"][seed] > best["RandomSearch"][seed] for seed in range(3))
    assert found.mean_ranks()["SNES"] == pytest.approx(1 + num_behind / 3)


@pytest.mark.parametrize("num_done", range(1, 6))
def test_an_interrupted_comparison_goes_on_and_ends_as_if_it_had_not_been(tmp_path, num_done):
    class StopError(Exception):
        pass

    def stop(run, found):
        if run is not None and len(found.runs) == num_done:
            raise StopError

    if num_done < 6:
        with pytest.raises(StopError):
            plain(out=tmp_path / "out", on_run=stop)
    started = []
    found = plain(out=tmp_path / "out", on_run=lambda run, _: started.append(run))
    assert len(started) == 1 + 6 - num_done
    assert facts(found) == facts(plain()) == facts(Comparison.load(tmp_path / "out"))


def test_a_run_that_was_killed_within_a_generation_scores_nothing_twice(tmp_path, monkeypatch):
    calls, stop_at, inner = [], 4, NetworkEvaluator._evaluate

    def scored(self, z, *options):
        calls.append(len(z))
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return inner(self, z, *options)

    options = {"searchers": ["DE:popsize=10"], "seeds": [0]}
    with monkeypatch.context() as patch:
        patch.setattr(NetworkEvaluator, "_evaluate", scored)
        with pytest.raises(KeyboardInterrupt):
            small(out=tmp_path / "out", **options)
        assert any((tmp_path / "out" / records.IN_FLIGHT).iterdir())
        stop_at = 0
        found = small(out=tmp_path / "out", **options)
    assert sum(calls) == 60 + 10
    assert facts(found) == facts(small(**options))
    assert not (tmp_path / "out" / records.IN_FLIGHT).exists()


def test_a_failed_run_is_recorded_and_stops_no_other():
    found = plain(searchers={"odd": factories.fails_on_odd_seeds, "random": factories.plain_random})
    assert found.errors == {"odd, seed 1": found.errors["odd, seed 1"]}
    assert "RuntimeError: this seed is odd" in found.errors["odd, seed 1"]
    assert found.num_missing == 1
    words = " ".join(found.verdicts())
    assert "1 runs failed" in words and "compared are the 2 seeds that all have" in words


def test_two_processes_give_the_same_runs_as_none():
    searchers = {"random": lambda problem: factories.plain_random(problem)}
    assert facts(plain(searchers=searchers, seeds=[0, 1], num_workers=2)) == facts(
        plain(searchers=searchers, seeds=[0, 1])
    )


@pytest.mark.slow
def test_a_process_that_dies_takes_no_other_run_with_it(monkeypatch):
    monkeypatch.setenv("EVOHBDE_TEST_PARENT", str(os.getpid()))
    searchers = {"dies": factories.dies_on_seed_one, "random": lambda problem: factories.plain_random(problem)}
    found = plain(searchers=searchers, num_workers=2)
    assert list(found.errors) == ["dies, seed 1"]
    assert "process of this run died" in found.errors["dies, seed 1"]
    alone = plain(searchers=searchers)
    assert [run for run in facts(found) if run["error"] is None] == [
        run for run in facts(alone) if (run["searcher"], run["seed"]) != ("dies", 1)
    ]


def test_gradients_are_compared_by_sample_forwards():
    with pytest.raises(ValueError, match=r"'GradientSearcher' follows gradients.*num_samples"):
        small(searchers=["GradientSearcher"])
    found = small(searchers=["GradientSearcher", "DE:popsize=10"], num_evaluations=None, num_samples=1200, seeds=[0])
    assert not found.errors
    assert all(600 < run["num_samples_seen"] <= 1200 for run in found.runs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_evaluations": None}, "needs a budget"),
        ({"num_evaluations": 0}, "`num_evaluations` must be positive, got 0"),
        ({"seeds": []}, "`seeds` is empty"),
        ({"seeds": [1, 1]}, "`seeds` has one twice"),
        ({"num_workers": 0}, "`num_workers` must be at least 1"),
        ({"searchers": ["DEE"]}, "has no 'DEE'; did you mean"),
        ({"searchers": ["DE:popsze=3"]}, "DE does not know 'popsze'"),
        ({"num_evaluations": None, "num_samples": 100}, "counts no sample forwards"),
        ({"reductions": ["full"]}, "leave `reductions` out"),
        ({"objective": ["accuracy", "density"]}, "must be one"),
        ({"settings": {"lenght": 3}}, "does not know 'lenght'"),
    ],
)
def test_mistakes_are_told_before_anything_runs(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        plain(out=tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_records_say_what_was_compared_and_on_what(tmp_path):
    plain(out=tmp_path / "out", seeds=[4], settings={"solution_length": 3}, command="repeat me")
    about = json.loads((tmp_path / "out" / records.SETTINGS).read_text())
    assert about["reference"] == f"{HERE}:sphere" and about["settings"] == {"solution_length": 3}
    assert about["searchers"]["RandomSearch"] == {"reference": "RandomSearch", "settings": {"popsize": 10}}
    assert about["seeds"] == [4] and about["command"] == "repeat me" and about["objective_sense"] == "min"
    assert set(about["environment"]) >= {"python", "packages", "num_cpus", "commit"}


def test_global_random_states_are_left_as_they_were():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    plain(seeds=[0])
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before  # noqa: NPY002


def test_a_plan_lists_seed_after_seed():
    found = Plan("f", "f", {}, {"A": None, "B": None}, {"x": None, "y": None}, "", 1, None, (7, 8))
    assert found.jobs()[:5] == [("A", "x", 7), ("B", "x", 7), ("A", "y", 7), ("B", "y", 7), ("A", "x", 8)]
