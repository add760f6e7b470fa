"""Are references read as they are meant, and are problems fresh and seeded?"""

import pytest
import torch
from evotorch import Problem

from evohbde import HistogramBlocking, Identity, ParameterLayout, Subspace
from evohbde.comparison.plan import Plan, make_reduction, parse_part, parse_parts
from tests.comparison import factories

HERE = "tests.comparison.factories"


def plan_of(factory, **changes):
    given = {"settings": {}, "searchers": {}, "reductions": {}, "objective": "cross_entropy", "num_evaluations": 10}
    given |= {"num_samples": None, "seeds": (0, 1), "reference": str(factory), **changes}
    return Plan(factory=factory, **given)


@pytest.mark.parametrize(
    ("text", "label", "reference", "settings"),
    [
        ("DE", "DE", "DE", {}),
        ("DE:popsize=50,stdev_init=auto", None, "DE", {"popsize": 50, "stdev_init": "auto"}),
        ("a:B", "a:B", "a:B", {}),
        ("a.b:C:x=(1, 2),y=[3,4],z=e/f", None, "a.b:C", {"x": (1, 2), "y": [3, 4], "z": "e/f"}),
        ("small=DE:popsize=4", "small", "DE", {"popsize": 4}),
        ("mine=path/file.py:make", "mine", "path/file.py:make", {}),
    ],
)
def test_a_text_names_label_reference_and_settings(text, label, reference, settings):
    assert parse_part(text)[:3] == (label or text, reference, settings)


def test_labels_are_short_where_that_is_enough():
    assert list(parse_parts(["DE:popsize=4", "evotorch.algorithms:SNES"], "searchers")) == ["DE", "SNES"]
    assert list(parse_parts(["DE:popsize=4", "DE:popsize=8"], "searchers")) == ["DE:popsize=4", "DE:popsize=8"]
    assert list(parse_parts({"A": "DE", "B": factories.plain_random}, "searchers")) == ["A", "B"]
    with pytest.raises(ValueError, match="'DE' twice"):
        parse_parts(["DE", "DE"], "searchers")
    with pytest.raises(ValueError, match="`searchers` is empty"):
        parse_parts([], "searchers")
    with pytest.raises(TypeError, match="a int under 'A'"):
        parse_parts({"A": 3}, "searchers")


def test_every_problem_is_fresh_and_the_task_of_a_seed_is_shared():
    plan = plan_of(factories.small_task, reductions=parse_parts(["full", "HistogramBlocking:num_bins=9"], "reductions"))
    first, again, blocks = plan.make("full", 0), plan.make("full", 0), plan.make("HistogramBlocking", 0)
    assert first.problem is not again.problem and first.held_out is again.held_out
    assert first.problem.num_evaluations == 0 and first.problem.solution_length > blocks.problem.solution_length
    assert isinstance(first.problem.reduction, Identity) and first.problem.center.count_nonzero() == 0
    assert not plan.make("full", 1).train.x.equal(first.train.x)


def test_a_plain_problem_is_seeded_also_where_its_factory_takes_no_seed():
    plan = plan_of(lambda: Problem("min", lambda x: x.sum(-1), solution_length=3, initial_bounds=(0, 1)))
    drawn = [plan.make(None, seed).problem.generate_values(2).as_subclass(torch.Tensor) for seed in (0, 0, 1)]
    assert drawn[0].equal(drawn[1]) and not drawn[0].equal(drawn[2])


def test_samples_are_set_aside_where_a_task_has_none_to_be_judged_on():
    instance = plan_of(f"{HERE}:unsplit", reductions=parse_parts(["full"], "reductions")).make("full", 0)
    assert (len(instance.train), len(instance.held_out)) == (80, 20)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda: 3, "returned a int: expected an evohbde.Task"),
        (lambda: Problem(["min", "min"], lambda x: x, solution_length=2), "2 objectives"),
        (f"{HERE}:HERE", "has no 'HERE'"),
    ],
)
def test_what_is_no_problem_is_named(factory, message):
    with pytest.raises((TypeError, ValueError), match=message):
        plan_of(factory).make(None, 0)


def test_reductions_get_what_they_need_by_name():
    task = factories.small_task()
    layout = ParameterLayout(task.model)
    theta0 = layout.flatten(task.model)
    build = lambda text: make_reduction(parse_part(text), task.model, layout, theta0, 0)  # noqa: E731
    head = build("Subspace:selected=head_names,mode=offset")
    assert isinstance(head, Subspace) and head.dim == 170
    assert build("ChannelScaling").full_dim == len(theta0)
    assert build("RandomProjection:dim=7").dim == 7
    grouped = build("HistogramBlocking:num_bins=9,groups=tensor")
    assert isinstance(grouped, HistogramBlocking)
    expected = HistogramBlocking(theta0, 9, groups=layout.tensor_index)
    assert grouped.block.equal(expected.block)
    with pytest.raises(TypeError, match="expected a class of evohbde"):
        build("torch:zeros_like")
    with pytest.raises(TypeError, match=r"gave a Tensor: expected an evohbde\.Reduction"):
        build(f"{HERE}:no_reduction")
