"""Does every searcher, stopped anywhere, go on as if it had not been?"""

import pickle
from copy import deepcopy

import pytest
import torch
from evotorch.algorithms import PGPE, SNES
from torch import Tensor

from evohbde import Distillation, NetworkProblem, ReducedProblem, run_until
from evohbde.checkpoint import Checkpointer
from evohbde.evaluator import NetworkEvaluator
from evohbde.reductions import Identity, RandomBlocking, RandomProjection
from evohbde.searchers import DE
from tests.checkpoint.programs import SEARCHERS, Killed, Noisy, blocks, die_at, raced, said_by, search
from tests.small_networks import cnn, digits, mlp


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in ("SHADE", "PGPE") else []) for name in SEARCHERS]
)
def test_wherever_it_dies_the_rest_of_the_run_is_the_same_bit_for_bit(name, tmp_path, monkeypatch):
    undisturbed = search(name, None)
    number, deaths = 1, 0
    while number < 12:
        with monkeypatch.context() as patch:
            die_at(patch, number)
            try:
                assert search(name, tmp_path) == undisturbed
                break
            except Killed:
                deaths += 1
        number += 3
    assert search(name, tmp_path) == undisturbed
    assert deaths >= 1


def test_what_is_there_is_not_computed_again(tmp_path, monkeypatch):
    first = search("DE, raced, old scores", tmp_path, 60)

    def refuse(*arguments, **options):
        raise AssertionError("a candidate was scored again")

    monkeypatch.setattr(NetworkEvaluator, "_evaluate", refuse)
    assert search("DE, raced, old scores", tmp_path, 60) == first


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path):
    search("SNES behind a prefix", tmp_path, 60)
    longer, end = search("SNES behind a prefix", tmp_path, 120)
    assert (longer, end) == search("SNES behind a prefix", None, 120)


def test_a_problem_of_evotorch_scores_nothing_twice_and_draws_the_same_noise(tmp_path, monkeypatch):
    problem = Noisy()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, 4)
        with Checkpointer(SNES(problem, popsize=10, stdev_init=0.1), tmp_path) as kept:
            run_until(SNES(problem, popsize=10, stdev_init=0.1), num_evaluations=100)
    assert kept.journal.num_added == 3
    again = Noisy()
    # The searcher that is run need not be the one that was given, only draw the same numbers.
    with Checkpointer(SNES(again, popsize=10, stdev_init=0.1), tmp_path) as kept:
        run_until(SNES(again, popsize=10, stdev_init=0.1), num_evaluations=100)
    assert (kept.journal.num_recalled, kept.journal.num_added) == (3, 7)
    assert again.num_scored == 70


def projection(center: Tensor) -> RandomProjection:
    return RandomProjection(center, 5, generator=torch.Generator().manual_seed(0))


def reduced() -> ReducedProblem:
    inner = NetworkProblem(mlp(), digits(), "cross_entropy", reduction=blocks, strategy="views")
    return ReducedProblem(inner, projection(inner.center), seed=1)


def reduced_foreign() -> ReducedProblem:
    return ReducedProblem(Noisy(), projection(torch.zeros(6)), seed=1)


@pytest.mark.parametrize("make", [reduced, reduced_foreign])
def test_a_problem_seen_through_a_reduction_is_kept_too(make, tmp_path, monkeypatch):
    def run(directory):
        searcher = SNES(make(), popsize=20, stdev_init=0.1)
        with Checkpointer(searcher, directory):
            run_until(searcher, num_evaluations=80)
        return said_by(searcher)

    undisturbed = run(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, 3)
        run(tmp_path / "stopped")
    assert run(tmp_path / "stopped") == undisturbed


@pytest.mark.slow
def test_actors_only_score_what_is_missing(tmp_path):
    def run(num_evaluations):
        problem = NetworkProblem(mlp(), digits(), "cross_entropy", reduction=blocks, num_actors=2, seed=1)
        searcher = DE(problem, popsize=8)
        with Checkpointer(searcher, tmp_path) as kept:
            run_until(searcher, num_evaluations=num_evaluations)
        problem.kill_actors()
        return said_by(searcher), kept.journal.num_added

    shorter, num_first = run(16)
    longer, num_added = run(32)
    # The strategy is an answer of its own.
    assert (num_first, num_added) == (3, 2)
    assert shorter != longer
    assert run(32) == (longer, 0)
    assert longer[1:4] == [32, 32 * 120, 4]


def test_copies_and_pickles_do_not_write_to_the_directory(tmp_path):
    searcher = DE(raced(), popsize=8)
    with Checkpointer(searcher, tmp_path) as kept:
        searcher.step()
        assert kept.journal.num_added == 1
        for other in (
            deepcopy(searcher.problem),
            searcher.problem.clone(),
            pickle.loads(pickle.dumps(searcher.problem)),
        ):
            assert not {"evaluate", "_get_cloned_state"} & set(vars(other))
            other.evaluate(other.generate_batch(2))
        assert kept.journal.num_added == 1
        searcher.step()
        assert kept.journal.num_added == 2
    searcher.step()
    assert kept.journal.num_added == 2


def test_a_copy_of_a_problem_of_evotorch_is_free(tmp_path):
    problem = Noisy()
    with Checkpointer(SNES(problem, popsize=10, stdev_init=0.1), tmp_path) as kept:
        other = problem.clone()
        assert "_evaluate_all" not in vars(other)
        other.evaluate(other.generate_batch(2))
        assert (kept.journal.num_added, problem.num_scored, other.num_scored) == (0, 0, 2)


def test_another_seed_is_found_out(tmp_path):
    def run(seed):
        problem = NetworkProblem(mlp(), digits(), reduction=blocks, seed=seed)
        searcher = DE(problem, popsize=8)
        with Checkpointer(searcher, tmp_path):
            searcher.run(2)

    run(1)
    with pytest.raises(
        ValueError, match=r"the run does not repeat what the checkpoint in .* holds: answer 1 .* a seed"
    ):
        run(2)
    run(1)


def test_another_network_or_other_data_are_named(tmp_path):
    def attach(model, data):
        problem = NetworkProblem(model, data, reduction=blocks, seed=1)
        searcher = DE(problem, popsize=8)
        with Checkpointer(searcher, tmp_path):
            searcher.run(1)

    attach(mlp(), digits())
    other = mlp()
    with torch.no_grad():
        other[1].weight[0, 0] += 1e-6
    with pytest.raises(ValueError, match=r"is that of another run: `network` was 'Sequential, 1,210 numbers"):
        attach(other, digits())
    with pytest.raises(ValueError, match=r"`data` was '120 samples .* and is '119 samples"):
        attach(mlp(), digits(119))


def one_generation(problem, folder):
    searcher = DE(problem, popsize=8)
    with Checkpointer(searcher, folder):
        searcher.run(1)


@pytest.mark.parametrize(
    "other", [{"teacher": mlp}, {"temperature": 3.0}, {"alpha": 0.5}], ids=lambda one: next(iter(one))
)
def test_another_teacher_temperature_or_mixture_is_named(other, tmp_path):
    def follow(teacher=cnn, **options):
        teaching = Distillation(teacher(), **options)
        one_generation(NetworkProblem(mlp(), digits(), teaching, reduction=blocks, seed=1), tmp_path)

    follow()
    with pytest.raises(ValueError, match="is that of another run: `objectives` was"):
        follow(**other)
    follow()


def test_other_blocks_of_the_same_number_and_centre_are_named(tmp_path):
    def attach(seed, make):
        def random_blocks(theta):
            return RandomBlocking(theta, num_blocks=20, generator=torch.Generator().manual_seed(seed))

        one_generation(make(random_blocks), tmp_path / make.__name__)

    def direct(reduction):
        return NetworkProblem(mlp(), digits(), reduction=reduction, seed=1)

    def outside(reduction):
        full = NetworkProblem(mlp(), digits(), reduction=Identity, seed=1)
        return ReducedProblem(full, reduction(full.center), seed=1)

    for make in (direct, outside):
        attach(0, make)
        with pytest.raises(ValueError, match="is that of another run: `reduction` was"):
            attach(1, make)
        attach(0, make)


def test_where_nothing_can_be_recorded_it_says_so(tmp_path):
    searcher = DE(raced(), popsize=8)
    searcher.step()
    with pytest.raises(ValueError, match="has made 1 steps already: make the Checkpointer before the first one"):
        Checkpointer(searcher, tmp_path)
    problem = NetworkProblem(mlp(), digits(), reduction=blocks, num_actors=2)
    searcher = PGPE(
        problem, popsize=8, center_learning_rate=0.1, stdev_learning_rate=0.1, stdev_init=0.1, distributed=True
    )
    with pytest.raises(ValueError, match="use distributed=False, where actors only score"):
        Checkpointer(searcher, tmp_path)
    with (
        Checkpointer(DE(raced(), popsize=8), tmp_path) as kept,
        pytest.raises(ValueError, match="close that one first"),
    ):
        Checkpointer(DE(kept.problem, popsize=8), tmp_path)
