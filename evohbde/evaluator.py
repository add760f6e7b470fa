"""What do N candidate networks score on these samples?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from evohbde.data import TensorData
from evohbde.engine import Engine
from evohbde.journal import Answer, recorded
from evohbde.layout import ParameterLayout
from evohbde.objectives import AnyObjective, Objective, WeightObjective, has_finite_outputs
from evohbde.racing import Contest, Racer, SampleOrder, Standings
from evohbde.reductions import Reduction
from evohbde.stages import CACHE_BYTES
from evohbde.strategies import Choice, check_precision, check_strategy, computing, recall_choice

LOGIT_BYTES = 64 << 20
"""Outputs of so many candidates are judged together as fit into this size."""

HOT_BYTES = 2 << 20
"""So many on a CPU, whose cache then holds them, unless the order of the samples is learned from all of them."""

RACED_IMAGES = 96
"""Images on a CPU after which a race looks at its bound: where a pass is cheaper than that, it takes whole pieces."""

COMPARED = 4
"""Candidates that are scored in float32 too, to say by how much a lower precision changes scores."""


class NetworkEvaluator:
    """Score reduced vectors as networks: `(N, d) -> (N, M)`.

    Candidates are written into flat buffers of which a working network's parameters are views, so memory is that of a
    few networks whatever N is. Where every searched weight lies behind some point of the network, the activations in
    front of it are computed once (`PrefixCache`). The fastest strategy that computes the same is found by a short
    measurement at the first call (`evohbde.strategies`), which `num_samples_seen` does not count. Out of memory halves
    `batch_size` and goes on.

    Args:
        model: The network; copied, the copy stays in evaluation mode with its BatchNorm statistics as they are.
        layout: Which weights are searched.
        reduction: How they are expanded.
        objectives: What is judged, M of them.
        data: The samples that `__call__` refers to by slices.
        batch_size: Samples per forward pass, from 32 on in steps of 32, so that scores do not depend on it; None: as
            many as a CPU's cache holds the largest layer's outputs of, at least 32, at most 4,096; on a GPU 4,096.
        stages: Names of the modules that form the network, in order; None finds them.
        cache_bytes: Limit of the kept activations.
        strategy: `"auto"`, or one of `evohbde.strategies.NAMES` by name.
        precision: `"float32"`; on CUDA `"tf32"` for products of 10 bits in the mantissa; `"float16"` for autocast. By
            how much that moves scores is in `choice`. `score` and `predict` always take float32.

    Attributes:
        choice: The strategy taken and its measurements; None before the first call.
        is_bound: Of the last call: which candidates were given up early (see `Contest`); their score is only a bound.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: ParameterLayout,
        reduction: Reduction,
        objectives: Sequence[AnyObjective],
        data: TensorData,
        *,
        batch_size: int | None = None,
        stages: Sequence[str] | None = None,
        cache_bytes: int = CACHE_BYTES,
        strategy: str = "auto",
        precision: str = "float32",
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1 sample, got {batch_size}")
        check_strategy(strategy)
        check_precision(precision, data.device)
        self.model, self.layout, self.reduction = model, layout, reduction
        self.objectives, self.data = [objective.for_data(data) for objective in objectives], data
        self.batch_size = batch_size
        self.stage_names = None if stages is None else tuple(stages)
        self.cache_bytes, self.strategy, self.precision = cache_bytes, strategy, precision
        self.choice: Choice | None = None
        self.is_bound: Tensor | None = None
        self.order = SampleOrder(len(data), data.device)
        self._output_objectives = [o for o in self.objectives if isinstance(o, Objective)]
        self._engine: Engine | None = None

    def __getstate__(self) -> dict[str, Any]:
        # The working network is views of one buffer, which no copy or pickle would keep.
        return {**self.__dict__, "_engine": None}

    @property
    def engine(self) -> Engine:
        if self._engine is None or not self._engine.working.is_bound:
            self._engine = Engine(
                self.model,
                self.layout,
                self.reduction,
                self.data,
                batch_size=self.batch_size,
                stage_names=self.stage_names,
                cache_bytes=self.cache_bytes,
                precision=self.precision,
            )
        return self._engine

    @property
    def num_samples_seen(self) -> float:
        """Sample forwards so far in units of one pass through the whole network, by multiply-adds."""
        return 0.0 if self._engine is None else self._engine.num_samples_seen

    @torch.inference_mode()
    def precompute(self) -> None:
        """Compute the activations in front of the first searched weight for all samples now (counted, as ever)."""
        span = slice(0, len(self.data))

        def compute() -> Answer:
            self.engine.activations(span)
            return self._answer()

        self._recall(recorded("activations", tuple, compute), span)

    @torch.inference_mode()
    def settle(self, z: Tensor, span: slice) -> Choice:
        """Choose the strategy now, so that copies of this evaluator in other processes take the same one."""
        engine = self.engine

        def compute() -> Answer:
            with computing("float32", z.device):
                features = engine.working.stages.run(self.data.x[span][: engine.batch_size], 0, engine.working.depth)
            start = span.indices(len(self.data))[0]
            self._choose(engine, z, features, slice(start, start + len(features)))
            return self._answer()

        self._recall(recorded("strategy", lambda: [z, span], compute), None)
        assert self.choice is not None
        return self.choice

    @torch.inference_mode()
    def __call__(self, z: Tensor, span: slice, contest: Contest | None = None, extra: Tensor | None = None) -> Tensor:
        """Score candidates on the samples in `span`: `(N, d) -> (N, M)`, float64; NaN where outputs are not finite.

        Args:
            z: The candidates.
            span: The samples.
            contest: What each candidate has to reach; those that cannot are given up early. Ignored where there is no
                exact bound: several objectives, one without `bound`, a strategy that runs several candidates at once.
            extra: `(N,)`, what the caller adds to the scores before they meet a threshold; None: nothing.
        """

        def compute() -> Answer:
            num_learned = self.order.num_learned
            scores = self._evaluate(z, span, contest, extra)
            assert self.is_bound is not None
            tensors = {"scores": scores, "is_bound": self.is_bound}
            if self.order.num_learned != num_learned:
                tensors |= {"errors": self.order.errors[span], "margins": self.order.margins[span]}
            return self._answer(tensors)

        answer = recorded("scores", lambda: [z, span, *(contest or ()), extra], compute)
        self._recall(answer, span)
        return answer.tensors["scores"].to(z.device)

    def _answer(self, tensors: dict[str, Tensor] | None = None) -> Answer:
        """What was found, and all that later calls depend on."""
        choice = None if self.choice is None else dict(vars(self.choice))
        counters = (self._engine or self.engine).counters()
        return Answer(tensors or {}, {"choice": choice, "counters": counters})

    def _recall(self, answer: Answer, span: slice | None) -> None:
        """Be as after the call that gave a recalled answer."""
        if not answer.is_recalled:
            return
        self.engine.recall(answer.facts["counters"], span)
        if self.choice is None and answer.facts["choice"] is not None:
            self.choice = recall_choice(Choice(**answer.facts["choice"]))
        if "is_bound" in answer.tensors:
            self.is_bound = answer.tensors["is_bound"].to(self.data.device)
        if "errors" in answer.tensors:
            assert span is not None
            self.order.recall(span, answer.tensors["errors"], answer.tensors["margins"])

    def _evaluate(self, z: Tensor, span: slice, contest: Contest | None, extra: Tensor | None) -> Tensor:
        engine = self.engine
        features = engine.activations(span)
        self._choose(engine, z, features, span)
        self.is_bound = torch.zeros(len(z), dtype=torch.bool, device=z.device)
        scores = torch.full((len(z), len(self.objectives)), torch.nan, dtype=torch.float64, device=z.device)
        learns = self._may_race(engine, features)
        if contest is None or not learns or not engine.is_invariant(features, self._race_size(engine)):
            self._score(
                engine, z, torch.arange(len(z), device=z.device), features, span, scores, 1.0 if learns else 0.0
            )
            return scores
        contest.check(len(z))
        in_full, raced = (rows.nonzero()[:, 0] for rows in (~contest.has_threshold, contest.has_threshold))
        if len(in_full):
            self._score(engine, z, in_full, features, span, scores, len(in_full) / max(len(in_full), len(raced)))
        if len(raced):
            self._race(engine, z, raced, features, span, contest, extra, scores)
        return scores

    def _choose(self, engine: Engine, z: Tensor, features: Tensor, span: slice) -> Choice:
        name = self.strategy if self.choice is None else self.choice.name
        choice = engine.choose(name, z, features)
        if self.choice is None:
            self.choice = replace(choice, score_deviations=self._score_deviations(engine, z, features, span))
        return self.choice

    def _score_deviations(self, engine: Engine, z: Tensor, features: Tensor, span: slice) -> dict[str, float]:
        """By how much this precision moves the scores of a few candidates, by objective."""
        if self.precision == "float32":
            return {}
        exact = engine.reference(z[:COMPARED], features)
        taken = engine.outputs(z[:COMPARED], features)
        deviations = {}
        for objective in self._output_objectives:
            pair = [self._judged(objective, logits, span) for logits in (taken, exact)]
            deviations[objective.name] = float((pair[0] - pair[1]).abs().nan_to_num(nan=0.0).max())
        return deviations

    def _score(
        self, engine: Engine, z: Tensor, rows: Tensor, features: Tensor, span: slice, scores: Tensor, share: float
    ) -> None:
        """Score candidates in full, and let the order of the samples learn from them by this share."""
        labels = self.data.y[span]
        strategy, features = engine.start(features)
        limit = HOT_BYTES if z.device.type == "cpu" and not share else LOGIT_BYTES
        for some in rows.split(_rows_at_once(strategy.group, len(labels) * engine.working.num_outputs * 4, limit)):
            logits = engine.room(len(some), len(labels)) if self._output_objectives else None
            candidates = z[some]
            for start in range(0, len(some), strategy.group):
                group = slice(start, min(start + strategy.group, len(some)))
                theta = engine.load(candidates[group])
                for j, objective in enumerate(self.objectives):
                    if isinstance(objective, WeightObjective):
                        scores[some[group], j] = torch.stack([objective(one).double() for one in theta])
                if logits is not None:
                    engine.forward(features, logits[group])
            if logits is not None:
                self._judge(some, logits, span, scores)
                if share:
                    self.order.learn(logits, labels, span, share * len(some) / len(rows))

    def _judge(self, rows: Tensor, logits: Tensor, span: slice, scores: Tensor) -> None:
        finite = has_finite_outputs(logits)
        for j, objective in enumerate(self.objectives):
            if isinstance(objective, Objective):
                scores[rows, j] = torch.where(finite, self._judged(objective, logits, span), torch.nan)

    def _judged(self, objective: Objective, logits: Tensor, span: slice) -> Tensor:
        return objective.for_rows(span)(logits, self.data.y[span]).double()

    def _may_race(self, engine: Engine, features: Tensor) -> bool:
        """Whether there is an exact bound, and more than one piece of samples of one candidate at a time."""
        is_bounded = len(self.objectives) == 1 and self.objectives == self._output_objectives
        if not is_bounded or not self._output_objectives[0].has_bound or len(features) < 2 * self._race_size(engine):
            return False
        return engine.start(features)[0].group == 1

    def _race_size(self, engine: Engine) -> int:
        """Samples between two looks at the bound."""
        is_image = self.data.x.ndim >= 4 and self.data.device.type == "cpu"
        return min(engine.batch_size, RACED_IMAGES) if is_image else engine.batch_size

    def _race(
        self,
        engine: Engine,
        z: Tensor,
        rows: Tensor,
        features: Tensor,
        span: slice,
        contest: Contest,
        extra: Tensor | None,
        scores: Tensor,
    ) -> None:
        """Score candidates until they have lost; what is scored to the end gets its full score."""
        assert self.is_bound is not None
        order, labels = self.order.hardest_first(span), self.data.y[span]
        _, features = engine.start(features[order])
        extra = torch.zeros(len(z), dtype=torch.float64) if extra is None else extra
        final = scores[:, 0] + extra.to(scores.device)
        threshold = contest.resolve(final)
        standings = Standings(contest, final, self._output_objectives[0].sense)
        racer = Racer(self._output_objectives[0], labels[order], engine.working.num_outputs, threshold.dtype)
        sorted_logits = engine.working.theta.new_empty(1, len(labels), engine.working.num_outputs)
        logits = torch.empty_like(sorted_logits)
        for row, own, price in zip(
            rows.tolist(), threshold[rows].tolist(), extra[rows.to(extra.device)].tolist(), strict=True
        ):
            reach = standings.reach(row, own)
            engine.load(z[row : row + 1])
            bound = racer.run(engine.run, features, self._race_size(engine), sorted_logits, reach, price)
            if bound is not None:
                scores[row, 0], self.is_bound[row] = bound, True
                continue
            logits[:, order] = sorted_logits
            self._judge(torch.tensor([row], device=z.device), logits, span, scores)
            standings.enter(row, float(scores[row, 0]) + price)
            self.order.learn(logits, labels, span, 1 / len(rows))


def _rows_at_once(group: int, bytes_per_row: int, limit: int) -> int:
    """Candidates whose outputs fit into so many bytes: whole groups of them, at least one."""
    return max(1, limit // max(1, bytes_per_row * group)) * group
