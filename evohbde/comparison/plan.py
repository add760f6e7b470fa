"""What is compared with what, on which problem, at which budget?"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from evotorch import Problem
from torch import Tensor, nn

from evohbde.data import Task, TensorData
from evohbde.layout import ParameterLayout
from evohbde.objectives import resolve as resolve_objectives
from evohbde.problem import NetworkProblem
from evohbde.record import as_plain
from evohbde.reductions import Reduction
from evohbde.references import call_factory, describe, parse_settings
from evohbde.references import resolve as resolve_reference

FORMAT = 1
HELD_OUT = ("f1_macro", "accuracy", "cross_entropy")
DEFAULT_REDUCTION = "HistogramBlocking:mode=offset"
HELD_OUT_SHARE = 0.2
"""Part of the training samples that is held out where a task brings no samples for that."""

GRADIENT_SEARCHER = "evohbde.gradient_searcher:GradientSearcher"


Job = tuple[str, str | None, int]
"""One run: searcher, reduction and seed."""


class Part(NamedTuple):
    """A searcher or a reduction of a comparison: what it is made by, and with which settings.

    Attributes:
        label: What tables call it.
        reference: Where it comes from, `module:name`, or the name of a function that was passed in.
        settings: Its arguments.
        kind: The class or function; None: to be looked up under `reference`.
    """

    label: str
    reference: str
    settings: Mapping[str, Any]
    kind: Any = None


def parse_part(text: str) -> Part:
    """Read `[label=]reference[:key=value,...]`; a bare name is one of ours.

    Raises:
        ValueError: If the text is not of that form.
    """
    label, equals, rest = text.partition("=")
    if not equals or ":" in label or not label.strip():
        label, rest = "", text
    reference, colon, last = rest.rpartition(":")
    if not colon or "=" not in last:
        reference, last = rest, ""
    settings = parse_settings(_split_settings(last))
    return Part(label.strip() or text.strip(), reference.strip(), settings)


def parse_parts(given: Iterable[str] | Mapping[str, Any], argument: str) -> dict[str, Part]:
    """Read the searchers or reductions of a comparison, by label; labels are short where that is enough.

    Args:
        given: Texts as for `parse_part`, or a mapping from labels to texts, classes or functions.
        argument: How messages call it.
    """
    if isinstance(given, str):
        given = [given]
    if isinstance(given, Mapping):
        parts = [_as_part(str(label), value, argument) for label, value in given.items()]
    else:
        parts = [parse_part(text) for text in given]
        short = [part.reference.rpartition(":")[2] for part in parts]
        texts = [str(text).strip() for text in given]
        parts = [
            part._replace(label=name) if part.label == text and short.count(name) == 1 else part
            for part, name, text in zip(parts, short, texts, strict=True)
        ]
    if not parts:
        raise ValueError(f"`{argument}` is empty: name at least one")
    labels = [part.label for part in parts]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"`{argument}` has {label!r} twice: give each a label of its own, as in 'other={label}'")
    return {part.label: part for part in parts}


def searcher_kind(part: Part) -> Callable[..., Any]:
    """The class or function of a searcher; a bare name is looked up in `evohbde.searchers`."""
    reference = GRADIENT_SEARCHER if part.reference == "GradientSearcher" else part.reference
    found = part.kind if part.kind is not None else resolve_reference(reference, default_module="evohbde.searchers")
    if not callable(found):
        raise TypeError(f"the searcher {part.label!r} is {describe(found)}: expected a class or a function")
    return found


class Instance(NamedTuple):
    """One problem to be searched once, with the samples that judge what is found."""

    problem: Problem
    train: TensorData | None
    held_out: TensorData | None
    objective: Any = None


@dataclass
class Plan:
    """A whole comparison before it runs; the same plan gives the same runs.

    Attributes:
        factory: The function that makes task or problem, or a reference to it; it is given `seed=` if it takes one.
        reference: How records call the factory.
        settings: Its other arguments.
        searchers, reductions: By label; a plain problem has no reductions.
        objective: What is searched, where the factory gives a task.
        num_evaluations, num_samples: The budget of one run; either may be None.
        seeds: One run of each for each seed.
        num_checkpoints: How often in a run the answer is scored on held-out samples.
        device: Where networks live; None: where the data are.
        num_threads: Threads of torch in a run.
        in_flight: Directory for what runs that have not ended need to go on; None: they begin anew.
    """

    factory: str | Callable[..., Any]
    reference: str
    settings: Mapping[str, Any]
    searchers: dict[str, Part]
    reductions: dict[str, Part]
    objective: Any
    num_evaluations: int | None
    num_samples: float | None
    seeds: tuple[int, ...]
    num_checkpoints: int = 10
    device: str | None = None
    num_threads: int = 1
    objective_sense: str = ""
    held_out: tuple[str, ...] = ()
    in_flight: Path | None = None
    _last: tuple[int | None, Any] | None = field(default=None, repr=False, compare=False)

    def jobs(self) -> list[Job]:
        """All runs, one seed after the other."""
        return [(one, other, seed) for seed in self.seeds for other in self.reduction_labels for one in self.searchers]

    def journal_of(self, job: Job) -> Path | None:
        """Where a run keeps what it has scored until it ends."""
        return None if self.in_flight is None else self.in_flight / f"run-{self.jobs().index(job)}"

    @property
    def reduction_labels(self) -> list[str | None]:
        """All reductions by label; None for the one of a plain problem."""
        return [*self.reductions] or [None]

    def gives_task(self) -> bool:
        """Whether the factory gives network and data, out of which the problem is made here."""
        seed = self.seeds[0]
        self._last = seed, self._call_factory(seed)
        return isinstance(self._last[1], Task)

    def make(self, reduction: str | None, seed: int) -> Instance:
        """Build a fresh problem; the task under it is made once per seed, since problems never write to it."""
        if self._last is None or self._last[0] != seed:
            self._last = seed, self._call_factory(seed)
        found = self._last[1]
        if isinstance(found, Task):
            return self._from_task(found, reduction, seed)
        self._last = None
        problem, test = found if isinstance(found, tuple) else (found, None)
        if not isinstance(problem, Problem):
            raise TypeError(
                f"{self.reference} returned {describe(found)}: expected an evohbde.Task, a tuple (model, train[, "
                "validation[, test]]), an EvoTorch Problem, or (problem, held-out TensorData)"
            )
        if len(problem.senses) != 1:
            raise ValueError(f"{self.reference} has {len(problem.senses)} objectives: compare searchers on one")
        if self.reductions:
            raise ValueError(f"{self.reference} returned a Problem, which has its reduction: leave `reductions` out")
        if test is not None and not isinstance(problem, NetworkProblem):
            raise TypeError(f"{self.reference} gave held-out samples with a problem that is no NetworkProblem")
        problem.manual_seed(seed)
        if isinstance(problem, NetworkProblem):
            return Instance(problem, problem.batches.data, test, problem.objective_names[0])
        return Instance(problem, None, None)

    def describe(self) -> dict[str, Any]:
        """What `compare.json` says of the plan; a comparison goes on only where all of it is the same."""
        return {
            "format": FORMAT,
            "reference": self.reference,
            "settings": as_plain(self.settings),
            "searchers": {name: _describe_part(part) for name, part in self.searchers.items()},
            "reductions": {name: _describe_part(part) for name, part in self.reductions.items()},
            "objective": self.objective if isinstance(self.objective, str) else getattr(self.objective, "name", None),
            "objective_sense": self.objective_sense,
            "held_out": list(self.held_out),
            "num_evaluations": self.num_evaluations,
            "num_samples": self.num_samples,
            "seeds": list(self.seeds),
            "num_checkpoints": self.num_checkpoints,
            "device": self.device,
            "num_threads": self.num_threads,
        }

    def _call_factory(self, seed: int) -> Any:
        factory = resolve_reference(self.factory) if isinstance(self.factory, str) else self.factory
        if isinstance(factory, (Task, Problem, nn.Module)):
            raise TypeError(
                f"{self.reference} is {describe(factory)}: expected a function that makes a fresh one, since EvoTorch "
                "keeps the best of all searches in the problem"
            )
        found = call_factory(factory, {**self.settings, **self._seed_setting(factory, seed)}, name=self.reference)
        if isinstance(found, tuple) and found and isinstance(found[0], nn.Module):
            found = Task(*found)
        return found

    def _seed_setting(self, factory: Any, seed: int) -> dict[str, int]:
        try:
            takes_seed = "seed" in inspect.signature(factory).parameters
        except (TypeError, ValueError):
            takes_seed = False
        return {"seed": seed} if takes_seed and "seed" not in self.settings else {}

    def _from_task(self, task: Task, reduction: str | None, seed: int) -> Instance:
        train, test = task.train, task.test if task.test is not None else task.validation
        if test is None:
            train, test = train.split(HELD_OUT_SHARE, seed)
        layout, part = ParameterLayout(task.model), None if reduction is None else self.reductions[reduction]
        problem = NetworkProblem(
            task.model,
            train,
            self.objective,
            layout=layout,
            reduction=None if part is None else lambda theta0: make_reduction(part, task.model, layout, theta0, seed),
            device=self.device,
            seed=seed,
        )
        return Instance(problem, train, test, self.objective)


def make_reduction(part: Part, model: nn.Module, layout: ParameterLayout, theta0: Tensor, seed: int) -> Reduction:
    """Build a reduction of a network's weights `theta0`, `(D,)`.

    What it takes besides the weights is filled in by the name of the argument: `shapes` from the layout, `generator`
    from the seed; `groups=tensor` is one group per tensor, and `selected=norm_names` (or another function of
    `evohbde.parts`) the weights of these names.
    """
    found = part.kind
    if found is None:
        reference = "Identity" if part.reference == "full" else part.reference
        found = resolve_reference(reference, default_module="evohbde.reductions")
    settings = dict(part.settings)
    if part.kind is None and part.reference == "full":
        settings.setdefault("mode", "offset")
    try:
        known = inspect.signature(found).parameters
    except (TypeError, ValueError) as error:
        wanted = "a class of evohbde.reductions or a function of the weights"
        raise TypeError(f"the reduction {part.label!r} is {describe(found)}: expected {wanted}") from error
    if isinstance(found, type) and issubclass(found, Reduction):
        if "shapes" in known:
            settings.setdefault("shapes", layout.shapes)
        if "generator" in known:
            settings.setdefault("generator", torch.Generator().manual_seed(seed))
        if settings.get("groups") == "tensor":
            settings["groups"] = layout.tensor_index.to(theta0.device)
        if isinstance(settings.get("selected"), str):
            names = getattr(importlib.import_module("evohbde.parts"), settings["selected"])
            settings["selected"] = layout.mask(names(model))
    made = call_factory(found, {next(iter(known), "theta0"): theta0, **settings}, name=part.label)
    if not isinstance(made, Reduction):
        raise TypeError(f"the reduction {part.label!r} gave {describe(made)}: expected an evohbde.Reduction")
    return made


def check_objective(objective: Any) -> str:
    """The sense of the one objective that is searched."""
    found = resolve_objectives(objective)
    if len(found) != 1:
        raise ValueError(f"`objective` must be one, got {len(found)}: compare searchers on one objective")
    return found[0].sense


def _as_part(label: str, value: Any, argument: str) -> Part:
    if isinstance(value, str):
        return parse_part(value)._replace(label=label)
    if not callable(value):
        raise TypeError(f"`{argument}` has {describe(value)} under {label!r}: expected a reference, class or function")
    module, name = getattr(value, "__module__", "?"), getattr(value, "__qualname__", type(value).__name__)
    return Part(label, f"{module}:{name}", {}, value)


def _describe_part(part: Part) -> dict[str, Any]:
    return {"reference": part.reference, "settings": as_plain(part.settings)}


def _split_settings(text: str) -> list[str]:
    """Cut at commas outside of brackets: `a=1,b=(2, 3)` into two."""
    pieces, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += letter
    return [piece for piece in pieces if piece.strip()]
