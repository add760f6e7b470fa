"""How does an interrupted run go on where it stopped?

By running again: the program starts from its seed, and what an earlier process has scored comes from a journal
(`evohbde.journal`), so that the run takes the same way bit for bit and only what is missing is computed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from evotorch import Problem, SolutionBatch
from evotorch.algorithms.searchalgorithm import SearchAlgorithm
from torch import Tensor, nn

from evohbde.data import TensorData
from evohbde.journal import SECONDS_BETWEEN_SYNCS, Answer, Journal, activated, digest, recorded
from evohbde.objectives import Objective, WeightObjective
from evohbde.record import as_plain, package_versions
from evohbde.reductions import Reduction

ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""What the text of a function or an object has that changes from process to process."""

DESCRIBED_SAMPLES = 16
"""What an objective is recognised by: its score on so many samples."""


@contextmanager
def checkpointing(
    directory: str | Path | None,
    fingerprint: Mapping[str, object],
    *,
    every_seconds: float = SECONDS_BETWEEN_SYNCS,
) -> Iterator[Journal | None]:
    """Keep what is computed inside the block in a directory; the same block again continues from there.

    Recorded are candidates that a problem of ours scores, and what `predict` and `score` are asked. All else in the
    block is run again, and has to depend on nothing but its seeds.

    Args:
        directory: Where to; made with its parents. None: keep nothing; a block outside of this one still does.
        fingerprint: What decides the results, by name: arguments, seeds, `describe_network`, `describe_data`.
        every_seconds: How often the file is forced onto the disk, which is what a power cut may lose. A process that is
            killed loses only what it was computing.

    Yields:
        The journal; None without a directory.

    Raises:
        ValueError: If the directory holds another run, or the run does not repeat what is there.
        OSError: If the directory cannot be written, or another process uses it.
    """
    if directory is None:
        yield None
        return
    journal = Journal(directory, _plain(fingerprint), _versions(), every_seconds=every_seconds)
    try:
        with activated(journal):
            yield journal
    finally:
        journal.close()


def describe_network(network: nn.Module) -> str:
    """Type, size and hash of a network: parameters and buffers, and how its modules are set up."""
    state = [(name, value) for name, value in network.state_dict().items() if isinstance(value, Tensor)]
    modules = [f"{name} {type(module).__name__} {module.extra_repr()}" for name, module in network.named_modules()]
    num = sum(value.numel() for _, value in state)
    return f"{type(network).__name__}, {num:,} numbers ({digest(*modules, *(part for one in state for part in one))})"


def describe_data(data: TensorData | None) -> str | None:
    """Size and hash of samples and labels."""
    return None if data is None else f"{len(data):,} samples ({digest(data.x, data.y)})"


def describe_reduction(reduction: Reduction) -> str:
    """Type, sizes and what becomes of two vectors: equal centres do not make equal reductions."""
    step = torch.cos(torch.arange(reduction.dim, dtype=reduction.center.dtype)).to(reduction.device)
    with torch.no_grad():
        found = [reduction.expand(z) for z in (reduction.center, reduction.center + step)]
    return f"{type(reduction).__name__}, {reduction.dim:,} of {reduction.full_dim:,} ({digest(*found)})"


def describe_objectives(
    objectives: Sequence[Objective | WeightObjective], network: nn.Module, theta: Tensor, data: TensorData
) -> list[str]:
    """Name, sense and score of a network on a few samples, which tells teachers, temperatures and averages apart.

    Args:
        objectives: As they judge the data.
        network: In evaluation mode.
        theta: Its searched weights, `(D,)`.
        data: All samples; the first few are used, and counted nowhere.
    """
    rows = slice(0, DESCRIBED_SAMPLES)
    with torch.no_grad():
        logits, labels = network(data.x[rows])[None], data.y[rows]
        scores = [
            one(theta) if isinstance(one, WeightObjective) else one.for_rows(rows)(logits, labels)[0]
            for one in objectives
        ]
    return [f"{one.name}, {one.sense}, {float(score):.4g}" for one, score in zip(objectives, scores, strict=True)]


def describe_job(
    preset: Any, arguments: Mapping[str, object], seed: int, network: nn.Module, splits: Sequence[TensorData | None]
) -> dict[str, object]:
    """What decides the result of a whole job, by name.

    Args:
        preset: A dataclass of switches with a name.
        arguments: Of the call, by name.
        seed: Its seed.
        network: What it starts from.
        splits: Training, validation and test samples; None: there are none.
    """
    data = zip(("train", "validation", "test"), splits, strict=True)
    described = {"preset": preset.name, "switches": dict(vars(preset)), **arguments, "seed": seed}
    return {**described, "model": describe_network(network), **{name: describe_data(split) for name, split in data}}


def recorded_training(kind: str, model: nn.Module, train: Callable[[], object]) -> nn.Module:
    """Train in place, or take the weights that this training arrived at before; the model in evaluation mode.

    Args:
        kind: What it is called in the journal.
        model: What `train` changes.
        train: Trains.
    """

    def compute() -> Answer:
        train()
        return Answer({name: value.detach().clone() for name, value in _state(model).items()})

    answer = recorded(kind, lambda: _state(model).values(), compute)
    if answer.is_recalled:
        model.load_state_dict(answer.tensors, strict=False)
    return model.eval()


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _plain(fingerprint: Mapping[str, object]) -> dict[str, object]:
    text = json.dumps({name: as_plain(value) for name, value in fingerprint.items()})
    return dict(json.loads(ADDRESS.sub("", text)))


def _versions() -> dict[str, object]:
    return {**package_versions(), "threads": torch.get_num_threads()}


def recorded_evaluation(
    problem: Problem,
    batch: SolutionBatch,
    evaluate: Callable[[], object],
    counters: Callable[[], Mapping[str, float]] = dict,
) -> Answer:
    """Score a batch of any numeric problem, or give it the scores that it had before.

    Random numbers that the evaluation draws, from the problem's generator or from torch's global one, are drawn from
    there on as if it had been scored again.

    Args:
        problem: The problem.
        batch: What is scored, in place.
        evaluate: Scores it.
        counters: What the problem has counted then; the facts of the answer.
    """

    def compute() -> Answer:
        before = _random_states(problem)
        evaluate()
        tensors: dict[str, Tensor] = {"evals": batch._evdata}
        bound = getattr(problem, "is_bound", None)
        if bound is not None:
            tensors["is_bound"] = bound
        after = _random_states(problem)
        tensors |= {name: after[name] for name in after if not torch.equal(after[name], before[name])}
        return Answer(tensors, counters())

    answer = recorded("evaluation", lambda: [batch.access_values(keep_evals=True)], compute)
    if answer.is_recalled:
        batch.set_evals(answer.tensors["evals"].to(batch.device))
        if "is_bound" in answer.tensors:
            problem.is_bound = answer.tensors["is_bound"].to(batch.device)
        if GLOBAL in answer.tensors:
            torch.set_rng_state(answer.tensors[GLOBAL])
        for name, generator in _generators(problem).items():
            if name in answer.tensors:
                generator.set_state(answer.tensors[name])
    return answer


GLOBAL = "global generator"


def _random_states(problem: Problem) -> dict[str, Tensor]:
    return {GLOBAL: torch.get_rng_state()} | {name: one.get_state() for name, one in _generators(problem).items()}


def _generators(problem: Problem) -> dict[str, torch.Generator]:
    """The generator of a problem, and of one that it wraps (`ReducedProblem`)."""
    found: dict[str, torch.Generator] = {}
    inner: Problem | None = problem
    while isinstance(inner, Problem):
        if inner.generator is not None:
            found[f"generator {len(found)}"] = inner.generator
        inner = getattr(inner, "problem", None)
    return found


WRAPPED = ("evaluate", "_evaluate_all", "_get_cloned_state")
"""What a `Checkpointer` replaces on the problem."""


class Checkpointer:
    """Lets any searcher of a program of your own go on where it stopped.

    Give it a searcher that has not stepped yet, and then run that as you like: what its problem was asked before is
    answered from the directory, the rest is computed and kept. The searcher is never written to disk; the program has
    to build it in the same way each time, with a seed.

    Gradients are not recorded, and neither is what a problem keeps for itself from one evaluation to the next.

    Args:
        searcher: Any searcher of EvoTorch, ours or pymoo's (`PymooSearcher`), before its first step.
        directory: Where to keep what is computed; made with its parents.
        fingerprint: What else decides the results, by name, so that a change of it is found out at once.
        every_seconds: As in `checkpointing`.

    Raises:
        ValueError: If the searcher has stepped, its actors score candidates by themselves (`distributed=True`), the
            problem is not numeric, or the directory holds another run.
        OSError: If the directory cannot be written, or another process uses it.

    Example:
        >>> searcher = SNES(problem, stdev_init=0.1)
        >>> with Checkpointer(searcher, "checkpoint"):
        ...     run_until(searcher, num_evaluations=10_000)
    """

    def __init__(
        self,
        searcher: SearchAlgorithm,
        directory: str | Path,
        *,
        fingerprint: Mapping[str, object] | None = None,
        every_seconds: float = SECONDS_BETWEEN_SYNCS,
    ) -> None:
        problem = searcher.problem
        _check_searcher(searcher)
        self.problem = problem
        facts = {"searcher": type(searcher).__name__, **_describe_problem(problem), **(fingerprint or {})}
        self.journal = Journal(directory, _plain(facts), _versions(), every_seconds=every_seconds)
        # On the instance, and only while this is attached: copies and actors must not write to the same file.
        problem.evaluate, problem._get_cloned_state = self._evaluate, self._get_cloned_state
        if not hasattr(problem, "records_scores"):
            problem._evaluate_all = self._evaluate_all

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the problem and of the directory; the searcher stays usable."""
        for name in WRAPPED:
            self.problem.__dict__.pop(name, None)
        self.journal.close()

    def _evaluate(self, *arguments: Any, **options: Any) -> None:
        with activated(self.journal):
            type(self.problem).evaluate(self.problem, *arguments, **options)

    def _evaluate_all(self, batch: SolutionBatch) -> None:
        recorded_evaluation(self.problem, batch, lambda: type(self.problem)._evaluate_all(self.problem, batch))

    def _get_cloned_state(self, *, memo: dict) -> dict:
        attributes = self.problem.__dict__
        wrapped = {name: attributes.pop(name) for name in WRAPPED if name in attributes}
        try:
            return type(self.problem)._get_cloned_state(self.problem, memo=memo)
        finally:
            attributes.update(wrapped)


def _check_searcher(searcher: SearchAlgorithm) -> None:
    problem = searcher.problem
    problem.ensure_numeric()
    if searcher.step_count:
        raise ValueError(
            f"the searcher has made {searcher.step_count} steps already: make the Checkpointer before the first one"
        )
    if "evaluate" in problem.__dict__:
        raise ValueError("the problem has a Checkpointer already: close that one first")
    if getattr(problem, "_observation_normalization", False):
        raise ValueError(
            "the problem learns the range of observations while it scores, which no checkpoint keeps: use "
            "observation_normalization=False"
        )
    if getattr(searcher._step, "__name__", "") == "_step_distributed" and problem.num_actors:
        raise ValueError(
            "with distributed=True actors draw and score candidates by themselves, so that nothing can be recorded: "
            "use distributed=False, where actors only score"
        )


def _describe_problem(problem: Problem) -> dict[str, object]:
    described = {"problem": type(problem).__name__, "solution_length": problem.solution_length}
    return {**described, "objective_sense": list(problem.senses), **getattr(problem, "fingerprint", dict)()}
