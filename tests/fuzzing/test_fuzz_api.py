"""Do constructors and functions take or refuse whatever they are given, in words, and leave the process as it was?"""

import inspect
import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from evotorch import Problem
from evotorch.algorithms.searchalgorithm import SearchAlgorithm
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from typer.testing import CliRunner

from evohbde import reductions, searchers
from evohbde.cli import app
from evohbde.data import SuperBatches, TensorData
from evohbde.finetune import fine_tune
from evohbde.hbde_2024 import HBDE2024
from evohbde.layout import ParameterLayout
from evohbde.problem import NetworkProblem
from evohbde.pruning.hierarchical import HierarchicalPruning2026
from evohbde.pruning.pipeline import prune
from evohbde.references import call_factory, parse_settings, resolve
from evohbde.run import run_until
from evohbde.staged import Staged
from tests.fuzzing.unharmed import unharmed
from tests.small_networks import digits, mlp

REFUSALS = (ValueError, TypeError)

# Of a size that is computed at once: asking for a billion blocks is answered by the memory of the machine.
NUMBERS = st.one_of(
    st.integers(-3, 40), st.floats(-3, 3), st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, 1e300])
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    st.tuples(NUMBERS, NUMBERS),
    st.sampled_from(["", "auto", "all", "min", "max", "own", "reflect", "replace", "offset", "rand/1/bin", "*", "é\0"]),
    st.text(max_size=4),
    st.lists(NUMBERS, max_size=3),
)
TENSORS = st.builds(lambda n, value: torch.full((n,), value), st.integers(0, 13), st.sampled_from([0.0, 1.0, math.nan]))
TAKE_TENSORS = ("center_init", "stdev_init", "initial_population", "bounds", "groups")


def options_of(function: Callable, leave_out: tuple[str, ...] = ()) -> list[str]:
    """Names that may be given by keyword."""
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [one.name for one in parameters if one.kind in kinds and one.name not in leave_out]


def some_options(function: Callable, leave_out: tuple[str, ...] = (), *, most: int = 3) -> st.SearchStrategy[dict]:
    """A few keywords of a function, each with anything."""
    names = options_of(function, leave_out)
    if not names:
        return st.just({})
    chosen = st.lists(st.sampled_from(names), max_size=most, unique=True)
    return chosen.flatmap(
        lambda some: st.fixed_dictionaries(
            {name: VALUES | TENSORS if name in TAKE_TENSORS else VALUES for name in some}
        )
    )


WEIGHTS = st.one_of(
    st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=12).map(torch.tensor),
    st.lists(st.floats(width=32), max_size=12).map(torch.tensor),
    st.sampled_from([torch.zeros(12), torch.ones(3, 4), torch.arange(12), torch.linspace(-1, 1, 12).double()]),
)


def classes_of(module: ModuleType, base: type) -> list[str]:
    """Names of the subclasses of `base` that a module exports."""
    kinds = {name: kind for name, kind in vars(module).items() if isinstance(kind, type)}
    return [name for name, kind in kinds.items() if issubclass(kind, base) and kind is not base]


@pytest.mark.parametrize("name", classes_of(reductions, reductions.Reduction))
@given(data=st.data())
def test_a_reduction_is_made_and_expands_or_is_refused(name, data):
    kind = getattr(reductions, name)
    names = options_of(kind)
    given_options = data.draw(some_options(kind, (names[0],)))
    weights = data.draw(WEIGHTS)
    with unharmed():
        try:
            made = kind(weights, **given_options)
            expanded = made.expand(made.center)
        except REFUSALS:
            return
        assert expanded.shape == (made.full_dim,)


@given(data=st.data())
def test_data_and_super_batches_are_made_or_refused(data):
    x = data.draw(WEIGHTS)
    y = data.draw(st.lists(st.integers(-1, 5), max_size=12).map(torch.tensor) | WEIGHTS)
    share, options = data.draw(NUMBERS), data.draw(some_options(SuperBatches, ("data",)))
    with unharmed():
        try:
            samples = TensorData(x, y)
            assert len(samples) == len(x)
            samples.split(share, 0)
        except REFUSALS:
            samples = digits(20)
        try:
            batches = SuperBatches(samples, **options)
        except REFUSALS:
            return
        span = batches.span(int(batches.steps(3, 7, 2)[0]))
        assert 0 <= span.start < span.stop <= len(batches.data)


PATTERNS = st.text(alphabet="*?[]!-.^\\headwib", max_size=8) | VALUES


@given(include=PATTERNS, exclude=PATTERNS | st.lists(PATTERNS, max_size=2))
def test_patterns_choose_parameters_or_are_refused(include, exclude):
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    with unharmed():
        try:
            layout = ParameterLayout(network, include, exclude)
        except REFUSALS:
            return
        assert layout.flatten(network).shape == (layout.size,)


NO_ACTORS = ("model", "data", "num_actors", "num_gpus_per_actor", "num_subbatches", "subbatch_size", "cache_bytes")


@given(options=some_options(NetworkProblem, NO_ACTORS))
def test_a_problem_is_made_or_refused(options):
    network, samples = mlp(), digits(20)  # made outside: a first use of torch's optimizers imports much
    with unharmed(but=("torch's generator",)):  # EvoTorch draws a seed from it
        try:
            problem = NetworkProblem(network, samples, **options)
        except (*REFUSALS, RuntimeError):  # torch says RuntimeError to a device that it does not know
            return
        assert problem.center.shape == (problem.solution_length,)


ABSTRACT = ("PopulationSearcher", "MultiObjectiveSearcher", "OneToOneSearcher", "ChainSearcher")


def sphere() -> Problem:
    problem = Problem(
        "min", lambda x: x.square().sum(-1), solution_length=3, initial_bounds=(-1, 1), vectorized=True, seed=1
    )
    problem.center, problem.stdev = torch.zeros(3), torch.ones(3)
    return problem


@pytest.mark.parametrize("name", [name for name in classes_of(searchers, SearchAlgorithm) if name not in ABSTRACT])
@given(data=st.data())
def test_a_searcher_is_made_and_steps_or_is_refused(name, data):
    kind = getattr(searchers, name)
    options = data.draw(some_options(kind, ("problem",)))
    if "popsize" in options_of(kind):
        options.setdefault("popsize", 6)
    with unharmed(but=("torch's generator",)):
        try:
            searcher = kind(sphere(), **options)
        except (*REFUSALS, IndexError, OverflowError):  # EvoTorch's answers to an objective that is not there
            return
        searcher.step()
        assert searcher.population.values.as_subclass(Tensor).shape[1] == 3


@given(data=st.data())
def test_limits_of_a_run_are_taken_or_refused(data):
    names = ("num_evaluations", "num_samples", "target", "patience", "seconds")
    limits = data.draw(st.dictionaries(st.sampled_from(names), NUMBERS, max_size=3))
    if not any(isinstance(limit, int) for name, limit in limits.items() if name in ("num_evaluations", "patience")):
        limits["num_evaluations"] = 30  # so that it ends
    with unharmed(but=("torch's generator",)):
        try:
            run_until(searchers.DE(sphere(), popsize=6), **limits)
        except REFUSALS:
            return


JOBS = {
    "fine_tune": (fine_tune, ("model", "train", "validation", "test", "checkpoint", "device")),
    "prune": (prune, ("model", "train", "validation", "test", "checkpoint", "device", "out")),
}
PRESETS = {"fine_tune": (Staged, HBDE2024), "prune": (HierarchicalPruning2026,)}


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
@given(data=st.data())
def test_a_job_runs_or_is_refused(name, data):
    function, leave_out = JOBS[name]
    options = data.draw(some_options(function, leave_out, most=2))
    kind = data.draw(st.sampled_from(PRESETS[name]))
    switches = data.draw(some_options(kind, most=2))
    options = {"num_evaluations": 12, "num_samples": 500, **options}
    if name == "fine_tune":
        options = {"pretrain_epochs": 0, **options, "compare_with_adam": False}
    network, samples = mlp(), digits(30)
    with unharmed():
        try:
            options.setdefault("preset", kind(**switches))
            function(network, samples, **options)
        except REFUSALS:
            return


KEYS = st.text(alphabet="ab_1 =\n\0é", max_size=4) | st.sampled_from(["seed", "popsize"])
LITERALS = st.one_of(
    VALUES.map(repr), st.text(max_size=8), st.sampled_from(["true", "(" * 300, "[" * 90, "1e999", "-"])
)


@given(texts=st.lists(st.tuples(KEYS, LITERALS).map("=".join) | st.text(max_size=6), max_size=3))
def test_settings_are_read_or_refused(texts):
    with unharmed():
        try:
            settings = parse_settings(texts)
        except ValueError:
            return
        assert len(settings) == len(texts)
        try:
            call_factory(lambda seed=0, popsize=1: (seed, popsize), settings, name="a factory")
        except REFUSALS:
            return


PLACES = st.sampled_from(
    ["math", "os.path", "nothing.at.all", "", "no/file.py", ".", "a b", "math:sqrt", "é", "\0", "x.py"]
)


@given(
    place=PLACES | st.text(alphabet="./:ab\\ \0", max_size=6), name=st.sampled_from(["sqrt", "", "a.b", "1", "__doc__"])
)
def test_references_are_resolved_or_refused(place, name):
    with unharmed():
        try:
            resolve(f"{place}:{name}")
        except (ValueError, FileNotFoundError, ImportError):
            return


WORDS = st.one_of(
    st.sampled_from(["--seed", "--preset", "--set", "--device", "--num-evaluations", "--num-samples", "--preset-set"]),
    st.sampled_from(
        ["-1", "0", "1e3", "nan", "inf", "hbde-2024", "default", "a=b", "popsize=x", "cuda:99", "meta", "--"]
    ),
    st.text(max_size=4),
)


@given(command=st.sampled_from(["tune", "prune", "resume", "nothing"]), words=st.lists(WORDS, max_size=4))
def test_a_command_with_any_words_ends_in_a_status(command, words):
    with unharmed(but=("filters of warnings",)):  # a process of its own sets them
        result = CliRunner().invoke(app, [command, "there.is.no:task", *words])
    assert result.exit_code == 2 or "--help" in words, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
