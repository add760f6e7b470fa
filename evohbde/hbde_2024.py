"""The published method: histogram blocks searched by Differential Evolution on macro-F1.

Source: arXiv 2408.07194 (IEEE CCECE 2024) and the authors' code of January 2024. What the paper leaves open is a
switch here; defaults are the reference setting, weaknesses included: no individual is the trained network, blocks whose
members are all equal can never move, parents keep the score of the batch of their birth, the luckiest score wins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from evohbde.data import SuperBatches
from evohbde.layout import ParameterLayout
from evohbde.objectives import F1
from evohbde.preset_base import Assignment, Outcome
from evohbde.problem import NetworkProblem
from evohbde.reductions import HistogramBlocking
from evohbde.searchers import DE


@dataclass(frozen=True)
class HBDE2024:
    """HBDE as published.

    Attributes:
        num_bins: Histogram edges `N_max` (paper: 10,000).
        rule: `"closed"`, or `"authors"`: the largest weight is in no block and becomes 1.0.
        popsize, differential_weight, dither, crossover_rate, strategy: Of DE; `(0.1, 1.0)` per trial or per dimension
            and `"order/1/bin"` are the published alternatives.
        inject: `"none"`, or `"first"`: individual 0 is the trained network (its block means).
        batch_size: Samples of a super-batch; the authors' code also had 128 and 10,000.
        order, advance: Of the super-batches; the authors' code: `"file"` and 100.
        parents: `"stale"` as published, `"refresh"` or `"fixed"`.
        accept_equal: Whether a trial with an equal score replaces its parent; published: it does not, which stands
            still where all candidates score the same.
        average: F1 average, `"macro"`; `"weighted"` in the code of March 2024.
    """

    num_bins: int = 10_000
    rule: str = "closed"
    popsize: int = 100
    differential_weight: float | tuple[float, float] = 0.5
    dither: str = "trial"
    crossover_rate: float = 0.9
    strategy: str = "rand/1/bin"
    inject: str = "none"
    batch_size: int = 1_000
    order: str = "stratified"
    advance: str | int = "generation"
    parents: str = "stale"
    accept_equal: bool = False
    average: str = "macro"

    @property
    def name(self) -> str:
        return "hbde-2024"

    def run(self, job: Assignment) -> Outcome:
        if self.inject not in ("none", "first"):
            raise ValueError(f"`inject` must be 'none' or 'first', got {self.inject!r}")
        batches = SuperBatches(
            job.train, self.batch_size, order=self.order, advance=self.advance, parents=self.parents, seed=job.seed
        )
        layout = ParameterLayout(job.model)
        blocks = HistogramBlocking(layout.flatten(job.model), self.num_bins, rule=self.rule)
        problem = NetworkProblem(job.model, batches, F1(self.average), layout=layout, reduction=blocks, seed=job.seed)
        searcher = DE(
            problem,
            popsize=self.popsize,
            differential_weight=self.differential_weight,
            dither=self.dither,
            crossover_rate=self.crossover_rate,
            strategy=self.strategy,
            include_center=self.inject == "first",
            accept_equal=self.accept_equal,
        )
        job.search("hbde", problem, searcher)
        notes = [
            f"{blocks.full_dim:,} weights in {blocks.dim:,} blocks, of which {blocks.num_free:,} can move "
            "(the others hold equal weights)"
        ]
        tied = sum(row.best == row.mean for row in job.history.rows)
        if tied:
            notes.append(f"in {tied} of {len(job.history.rows)} generations all candidates scored the same")
        best = searcher.status["pop_best"]
        failed = abs(float(best.evals[0])) >= torch.finfo(problem.eval_dtype).max
        if failed:
            notes.append("no candidate gave finite outputs: the network is left as it was")
        return Outcome(
            network=job.model if failed else problem.make_network(best),
            notes=notes,
            reduction=blocks,
            round_trip=problem.make_network(problem.center),
        )
