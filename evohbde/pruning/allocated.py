"""The default pruning: thresholds from what each tensor can lose alone, improved on fresh samples in every round.

Phase 1 of the published method, with three changes: it starts from thresholds that a look at every tensor alone
suggests, beside uniform and global magnitude pruning; what it searches is the divergence from the answers of the
network as given, which still tells networks apart where their errors are equal; and each round scores its networks on
samples that no earlier round has seen, the best of the round before among them. What it found is offered beside pruning
by magnitude alone, some of both with the weights that are left fitted anew, and validation samples decide.
`docs/pruning.md` says why.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evohbde.data import TensorData
from evohbde.objectives import AnyObjective, Divergence, resolve
from evohbde.outputs import predict
from evohbde.pruning.allocation import allocate
from evohbde.pruning.archive import Pruned, as_pruned
from evohbde.pruning.baselines import GLOBAL, UNIFORM
from evohbde.pruning.bits import unpack
from evohbde.pruning.front import thinned
from evohbde.pruning.job import Found, PruningJob
from evohbde.pruning.refit import reconstruct
from evohbde.reductions.thresholds import ThresholdPruning
from evohbde.searchers import NSGA2

DIVERGENCE = "divergence"

MAGNITUDE_LEVELS = tuple(level / 20 for level in range(1, 19))
"""Shares at which pruning by magnitude alone is offered beside what was found."""

FIT_SAMPLES = 200
FITTED_LEVELS = (0.4, 0.5, 0.6, 0.7, 0.8)
"""Shares at which pruning by global magnitude is offered with the weights that are left fitted anew."""


@dataclass(frozen=True)
class AllocatedPruning:
    """Our default.

    Attributes:
        objective: What is searched in place of the first objective: `"divergence"` from the answers of the network as
            given, or any objective's name; None: the first itself.
        popsize: Candidates per generation.
        rounds: How often the samples change.
        num_samples: Samples that score a candidate; fewer where the budget counts sample forwards.
        levels: Shares that are pruned from each tensor alone, to see what it costs.
        probe_share: Part of the budget that these looks may cost; fewer levels are tried where it does not suffice.
        focus: Networks that lose more than this part of what there is to lose, from the network as given to one that
            knows nothing, are left behind after the first round.
        most: Largest share that a tensor may lose.
        reconstructed: How many networks are offered a second time, the weights that are left fitted to the layers of
            the network as given (`evohbde.reconstruct`); 0: none, so that weights are kept as given or zero.
    """

    objective: str | None = DIVERGENCE
    popsize: int = 24
    rounds: int = 3
    num_samples: int = 1_000
    levels: tuple[float, ...] = (0.3, 0.5, 0.7, 0.85)
    probe_share: float = 0.25
    focus: float = 0.4
    most: float = 0.95
    reconstructed: int = 12

    def __post_init__(self) -> None:
        if self.reconstructed < 0:
            raise ValueError(f"`reconstructed` must be at least 0 networks, got {self.reconstructed}")
        if not 0 < self.most < 1:
            raise ValueError(f"`most` must lie in (0, 1), the largest share that a tensor may lose, got {self.most}")
        if (
            not self.levels
            or sorted({*self.levels}) != [*self.levels]
            or min(self.levels) <= 0
            or max(self.levels) >= 1
        ):
            raise ValueError(f"`levels` must rise and lie in (0, 1), got {self.levels}")
        if self.popsize < 8 or self.rounds < 1:
            raise ValueError(f"`popsize` must be at least 8 and `rounds` 1, got {self.popsize} and {self.rounds}")
        for name in ("probe_share", "focus"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must lie in [0, 1], got {getattr(self, name)}")

    @property
    def name(self) -> str:
        return "default"

    def run(self, job: PruningJob) -> Found:
        run = _Run(self, job)
        try:
            run.rounds()
        except KeyboardInterrupt:
            job.interrupted = True
        points = [*run.archive.points, *run.magnitudes()]
        return Found([*points, *run.reconstructed()] if not job.interrupted else points, run.notes)


class _Run:
    """One job under one set of switches."""

    def __init__(self, switches: AllocatedPruning, job: PruningJob) -> None:
        self.switches, self.job = switches, job
        self.size = job.selection_size(min(switches.num_samples, max(1, len(job.train) // switches.rounds)))
        self.reduction = ThresholdPruning(job.theta0, job.groups, most=switches.most)
        self.archive = job.archive()
        self.notes: list[str] = []

    def rounds(self) -> None:
        """Search round by round; the networks of the last one are the result."""
        job, switches = self.job, self.switches
        start, floor = self._first_start(), 0.0
        count = max(1, min(switches.rounds, job.affordable(self.size) // (3 * switches.popsize)))
        for number in range(count):
            data = job.selection(self.size, number)
            objectives = self._objectives(data)
            problem = job.problem(data, self.reduction, objectives)
            searcher = NSGA2(
                problem,
                popsize=switches.popsize,
                initial_population=start,
                bounds=(self.reduction.lower, self.reduction.upper),
                violation=_TooLight(self.reduction, floor),
            )
            archive, stage = job.archive(objectives), f"round {number + 1}"
            share = job.affordable(self.size) // (count - number)
            job.search(stage, problem, searcher, archive, num_evaluations=share)
            if archive.points:
                self.archive = archive
                self.notes.append(archive.summary(stage))
            if job.interrupted:
                return
            start, floor = self._next_start(problem.generator)

    def magnitudes(self) -> list[Pruned]:
        """Networks pruned by magnitude alone, not lighter than what the search found: what validation may prefer."""
        floor = min((point.kept for point in self.archive.points), default=0.0)
        levels = [level for level in MAGNITUDE_LEVELS if level <= min(self.switches.most, 1 - floor)]
        theta0, kinds = self.job.theta0, ((GLOBAL, self.reduction.global_magnitude), (UNIFORM, self.reduction.uniform))
        return [as_pruned(name, self.reduction.mask(make(level)), theta0) for name, make in kinds for level in levels]

    def reconstructed(self) -> list[Pruned]:
        """Some of what was found, and of pruning by global magnitude, with the weights that are left fitted anew."""
        job, limit = self.job, self.switches.reconstructed
        if not limit:
            return []
        levels = [level for level in FITTED_LEVELS if level <= self.switches.most][: limit // 2]
        masks = [self.reduction.mask(self.reduction.global_magnitude(level)) for level in levels]
        chosen = thinned([point for point in self.archive.points if point.kept < 1], limit - len(masks))
        chosen += [as_pruned(GLOBAL, mask, job.theta0) for mask in masks]
        job.history.begin(f"fitting what is left of {len(chosen)} networks")
        found, num_samples = reconstruct(job.scorer, chosen, job.selection(FIT_SAMPLES), job.seed)
        job.history.spend(0, num_samples)
        self.notes.append(f"what is left of {len(chosen)} networks was fitted anew: {num_samples:,} sample forwards")
        return found

    def _objectives(self, data: TensorData) -> list[AnyObjective]:
        """What is searched on these samples."""
        first, *others = self.job.scorer.objectives
        if self.switches.objective == DIVERGENCE:
            self.job.history.spend(0, len(data))
            return [Divergence(predict(self.job.scorer.model, data)), *others]
        return [first if self.switches.objective is None else resolve(self.switches.objective)[0], *others]

    def _first_start(self) -> Tensor:
        """Half the population from the costs of each tensor, the others pruned uniformly and by global magnitude."""
        quarter = self.switches.popsize // 4
        fractions = torch.linspace(0.1, 0.8, quarter).clamp(max=self.switches.most).tolist()
        seeds = [self.reduction.uniform(share) for share in fractions]
        seeds += [self.reduction.global_magnitude(share) for share in fractions]
        num = self.switches.popsize - len(seeds) - 1
        levels = self._levels()
        if levels:
            kept = torch.linspace(0.95, 0.2, num).tolist()
            found = allocate(self._costs(levels), levels, self.job.groups.long().bincount(), kept)
            seeds += list(found.clamp(max=self.switches.most).to(self.reduction.upper))
        else:
            self.notes.append("the budget is too small to prune every tensor alone first")
            seeds += [self.reduction.uniform(share) for share in torch.linspace(0.05, 0.85, num).tolist()]
        return torch.stack([self.reduction.center, *(seed.to(self.reduction.center) for seed in seeds)])

    def _levels(self) -> list[float]:
        """As many of the levels as the probes may cost."""
        known = [level for level in self.switches.levels if level <= self.switches.most]
        affordable = int(self.switches.probe_share * self.job.affordable(self.size) / self.reduction.dim)
        count = min(len(known), affordable)
        if count == 1:
            return [known[len(known) // 2]]
        return [known[index] for index in torch.linspace(0, len(known) - 1, count).round().long().tolist()]

    def _costs(self, levels: list[float]) -> Tensor:
        """What the first loss rises by when each tensor alone is pruned to each level: `(L, K)`."""
        num = self.reduction.dim
        alone = torch.eye(num, device=self.reduction.device).repeat_interleave(len(levels), 0)
        z = torch.cat([self.reduction.center[None], alone * torch.tensor(levels * num, device=alone.device)[:, None]])
        data = self.job.selection(self.size)
        objectives = self._objectives(data)
        problem = self.job.problem(data, self.reduction, objectives)
        self.archive = self.job.archive(objectives)
        losses = self.job.score("each tensor alone", problem, z.to(self.reduction.center), self.archive)[:, 0]
        costs = (losses[1:] - losses[0]).view(num, len(levels))
        names = self.job.scorer.layout.names
        order = costs[:, -1].argsort(descending=True)[:3].tolist()
        self.notes.append(
            f"pruning {levels[-1]:.0%} of one tensor alone costs most in " + ", ".join(names[index] for index in order)
        )
        return costs

    def _next_start(self, generator: torch.Generator | None) -> tuple[Tensor, float]:
        """The best of the last round, and mixtures of neighbours where there are too few; and the floor of density."""
        losses = self.archive.losses[:, 0]
        before = float(losses[int(torch.tensor([point.kept for point in self.archive.points]).argmax())])
        limit = before + self.switches.focus * max(0.0, self.archive.reference - before)
        good = [point for point, loss in zip(self.archive.points, losses.tolist(), strict=True) if loss <= limit]
        chosen = thinned(good, self.switches.popsize)
        theta0 = self.job.theta0
        masks = [unpack(point.bits, len(theta0)).to(theta0.device) for point in chosen]
        start = torch.stack([self.reduction.reduce(torch.where(mask, theta0, 0.0)) for mask in masks])
        missing = self.switches.popsize - len(start)
        pairs = torch.arange(missing, device=start.device) % max(1, len(start) - 1)
        share = torch.rand(missing, 1, generator=generator, device=start.device)
        mixed = torch.lerp(start[pairs], start[(pairs + 1).clamp(max=len(start) - 1)], share)
        return torch.cat([start, mixed]), min(point.kept for point in chosen)


class _TooLight:
    """How much fewer weights than a floor thresholds keep: `(n, L) -> (n,)`."""

    def __init__(self, reduction: ThresholdPruning, floor: float) -> None:
        self.reduction, self.floor = reduction, floor

    def __call__(self, z: Tensor) -> Tensor:
        kept = torch.stack([self.reduction.kept(one).sum() for one in z]) / self.reduction.full_dim
        return (self.floor - kept).clamp(min=0)
