"""What must an EvoTorch Problem bring along so that seeds, actors, clones and failed candidates are safe?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from evotorch import Problem, SolutionBatch
from torch import Tensor

from evohbde.actors import LOST, redo_where_actors_die
from evohbde.checkpoint import recorded_evaluation
from evohbde.racing import Contest


def check_senses(senses: str | Iterable[str]) -> list[str]:
    """Return the senses as a list, or name the one that is not `"max"` or `"min"`."""
    found = [senses] if isinstance(senses, str) else list(senses)
    for sense in found:
        if sense not in ("max", "min"):
            raise ValueError(f"`objective_sense` must be 'max' or 'min', got {sense!r}")
    if not found:
        raise ValueError("`objective_sense` is empty: name at least one of 'max' and 'min'")
    return found


class BaseProblem(Problem):
    """The common base of our problems; mends what EvoTorch 0.6.1 leaves open.

    - `seed` together with `num_actors` (EvoTorch's actors call a method `seed` that it does not have);
    - starting actors draws nothing from the problem's generator, so a seed gives the same search with and without them;
    - actors of a clone or an unpickled problem are prepared anew, and `kill_actors` may come at any time;
    - a candidate whose score is not finite gets the worst finite score, under either sense, and never becomes the best:
      until one has a finite score the status has no best;
    - a generation is scored again by new actors where one of them dies, and counted once;
    - `status` has `num_evaluations` and `num_samples_seen`, and the best solution also on an accelerator;
    - what searchers must reach may be told (`contest`), and scores that are bounds only enter no statistics;
    - `num_actors="num_devices"` on an accelerator means no actors, as documented.
    """

    takes_contest = True

    def __init__(self, objective_sense: str | Iterable[str], **options: Any) -> None:
        senses = check_senses(objective_sense)
        options.setdefault("store_solution_stats", True)
        device = options.get("device")
        if options.get("num_actors") == "num_devices" and device is not None and torch.device(device).type != "cpu":
            options["num_actors"] = 0
        self.num_calls = 0
        self.num_evaluations = 0
        self.is_bound: Tensor | None = None
        self._contest: Contest | None = None
        self._is_scoring = False
        super().__init__(senses if len(senses) > 1 else senses[0], **options)

    def seed(self, seed: int | None = None) -> None:
        """Seed the problem's own generator; EvoTorch's actors call this name."""
        self.manual_seed(seed)

    @property
    def num_samples_seen(self) -> float:
        """Sample forwards so far, in passes through the whole network; 0 where no network is involved."""
        return 0.0

    @property
    def rescore_parents(self) -> bool:
        """Whether scores of an earlier `evaluate` are no longer comparable; searchers that keep survivors ask this."""
        return False

    def evaluate(self, x: Any, *, contest: tuple[Tensor, ...] | None = None) -> None:
        """Score a batch in place.

        Args:
            x: `SolutionBatch` or `Solution`.
            contest: What each candidate has to reach (`evohbde.racing.Contest`). One that cannot reach it any more may
                be given up early: its score then is a bound, and `is_bound` says so. Ignored where the problem, or
                actors, cannot do that.
        """
        self._contest, self.is_bound = None if contest is None else Contest(*contest), None
        self._is_scoring = True
        try:
            super().evaluate(x)
        finally:
            self._contest, self._is_scoring = None, False
        if self.is_main:
            self.num_calls += 1
            self.num_evaluations += len(x) if isinstance(x, SolutionBatch) else 1
            self._after_eval_status["num_evaluations"] = self.num_evaluations
            self._after_eval_status["num_samples_seen"] = self.num_samples_seen

    @property
    def records_scores(self) -> bool:
        """Whether what scores candidates writes to a checkpoint itself (`evohbde.checkpoint`); else this does."""
        return False

    def _counters(self) -> dict[str, float]:
        """What has been counted elsewhere, and `_recall_counters` puts back."""
        return {}

    def _recall_counters(self, counters: Mapping[str, float]) -> None:
        pass

    def _evaluate_all(self, batch: SolutionBatch) -> None:
        if self.records_scores:
            return self._score_all(batch)
        answer = recorded_evaluation(self, batch, partial(self._score_all, batch), self._counters)
        if answer.is_recalled:
            self._recall_counters(answer.facts)

    def _score_all(self, batch: SolutionBatch) -> None:
        if self._actors is None:
            super()._evaluate_all(batch)
        else:
            redo_where_actors_die(self, partial(self._evaluate_in_actors, batch))
        for column, worst in enumerate(self._worst_scores(batch)):
            scores = batch._evdata[:, column]
            scores[~torch.isfinite(scores)] = worst

    def _evaluate_in_actors(self, batch: SolutionBatch) -> None:
        has_counters = super()._sync_before()
        super()._evaluate_all(batch)
        if has_counters:
            super()._sync_after()

    def _sync_before(self) -> bool:
        # While a batch is scored, `_evaluate_in_actors` does this, so that it is done again where an actor dies.
        return False if self._is_scoring else super()._sync_before()

    def _worst_scores(self, batch: SolutionBatch) -> list[float]:
        largest = torch.finfo(batch._evdata.dtype).max
        return [largest if sense == "min" else -largest for sense in self.senses]

    def _get_best_and_worst(self, batch: SolutionBatch) -> dict | None:
        scores = batch._evdata[:, : len(self.senses)].as_subclass(Tensor)
        counts = (scores != scores.new_tensor(self._worst_scores(batch))).all(1)
        if self.is_bound is not None:
            counts &= ~self.is_bound
        if bool(counts.all()):
            return super()._get_best_and_worst(batch)
        rows = counts.nonzero()[:, 0]
        if len(rows) == 0:
            return super()._get_best_and_worst(self._best[0].to_batch()) if self._best else {}
        return super()._get_best_and_worst(batch[rows])

    def _parallelize(self) -> None:
        generator = self.generator
        state = None if generator is None else generator.get_state()
        super()._parallelize()
        if generator is not None and state is not None:
            generator.set_state(state)

    def kill_actors(self) -> None:
        if self.is_main and self._actors is not None:
            super().kill_actors()
        self._prepared = False

    def _get_cloned_state(self, *, memo: dict) -> dict:
        try:
            state = super()._get_cloned_state(memo=memo)
        except LOST:  # a copy asks the actors for their state, and a dead one has none
            self.kill_actors()
            state = super()._get_cloned_state(memo=memo)
        state["_prepared"] = False
        return state
