"""Which candidates are better when there are several objectives, and which of the equally good ones stay?

Losses are minimised in all columns. A candidate whose losses are all `inf` has failed and is dominated by every other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CHUNK = 2**24
FRONTS_PER_SYNC = 8
SYNC_EVERY_FRONT_ON = ("cpu",)


def nondominated_rank(losses: Tensor, violation: Tensor | None = None, *, stop_at: int | None = None) -> Tensor:
    """Index of each candidate's front, 0 is the best: `(N, M)`, `(N,) -> (N,)`, int64.

    Less violation dominates; among equals, Pareto dominance of the losses decides. After the front with which
    `stop_at` candidates are ranked, the others get N. Memory: N^2 bytes, and two temporaries of that size or of 16 MB.
    """
    popsize = len(losses)
    if losses.shape[1] == 1 and violation is None:
        return losses[:, 0].unique(return_inverse=True)[1]
    dominated_by = _domination_matrix(losses, violation)
    rank = torch.full((popsize,), popsize, device=losses.device)
    left = torch.ones(popsize, dtype=torch.uint8, device=losses.device)
    enough = popsize - (popsize if stop_at is None else min(stop_at, popsize))
    fronts_per_sync = 1 if losses.device.type in SYNC_EVERY_FRONT_ON else FRONTS_PER_SYNC
    for front in range(popsize):
        first = left * (1 - _is_dominated(dominated_by, left))
        rank.masked_fill_(first.bool(), front)
        left = left - first
        # A front too many finds nobody left and changes nothing.
        if front % fronts_per_sync == 0 and bool(left.sum() <= enough):
            break
    return rank if enough == 0 else _cut(rank, popsize - enough)


def _cut(rank: Tensor, stop_at: int) -> Tensor:
    """Unrank what lies behind the front with which `stop_at` are ranked: the same on every device."""
    last = rank.sort().values[stop_at - 1]
    return rank.masked_fill(rank > last, len(rank))


def is_nondominated(losses: Tensor, violation: Tensor | None = None) -> Tensor:
    """Whether nobody dominates a candidate: `(N, M)`, `(N,) -> (N,)`, without an N^2 matrix where N is large."""
    found = [_dominators(losses, violation, rows).any(1) for rows in _chunks(losses)]
    return ~torch.cat(found)


def _chunks(losses: Tensor) -> tuple[Tensor, ...]:
    index = torch.arange(len(losses), device=losses.device)
    return index.split(max(1, CHUNK // max(1, len(losses))))


def _dominators(losses: Tensor, violation: Tensor | None, rows: Tensor) -> Tensor:
    """Entry `[j, i]`: candidate i dominates candidate `rows[j]`: `(n, N)` bool."""
    no_worse = torch.ones(len(rows), len(losses), dtype=torch.bool, device=losses.device)
    better = torch.zeros_like(no_worse)
    for loss in losses.unbind(1):
        no_worse &= loss <= loss[rows, None]
        better |= loss < loss[rows, None]
    dominates = no_worse.logical_and_(better)
    if violation is None:
        return dominates
    dominates &= violation == violation[rows, None]
    return dominates.logical_or_(violation < violation[rows, None])


def _domination_matrix(losses: Tensor, violation: Tensor | None) -> Tensor:
    popsize = len(losses)
    # Bytes: PyTorch takes the maximum of bytes in a tenth of the time that `any` takes for bools.
    matrix = torch.empty(popsize, popsize, dtype=torch.uint8, device=losses.device)
    for rows in _chunks(losses):
        matrix[rows] = _dominators(losses, violation, rows).to(torch.uint8)
    return matrix


def _is_dominated(dominated_by: Tensor, left: Tensor) -> Tensor:
    """Whether one of those that are left dominates: `(N, N)`, `(N,) -> (N,)`, all uint8."""
    rows = max(1, CHUNK // len(left))
    return torch.cat([(part & left).amax(1) for part in dominated_by.split(rows)])


def crowding_distance(losses: Tensor, rank: Tensor | None = None) -> Tensor:
    """Deb's crowding distance within each front, divided by M: `(N, M)`, `(N,) -> (N,)`.

    Both ends of a front get `inf` in every objective, and so do all members of a front of at most two. An objective in
    which a front has no range, or an infinite one, adds nothing.

    Source: Deb et al. (2002), IEEE Trans. Evol. Comput. 6:182, section III-B.
    """
    popsize, num_objectives = losses.shape
    rank = torch.zeros(popsize, dtype=torch.int64, device=losses.device) if rank is None else rank
    total = losses.new_zeros(popsize)
    for loss in losses.unbind(1):
        total += _gaps(loss, rank)
    size = torch.zeros(popsize + 1, dtype=torch.int64, device=losses.device)
    size = size.scatter_add_(0, rank, torch.ones_like(rank))[rank]
    return (total / num_objectives).masked_fill_(size <= 2, torch.inf)


def _gaps(loss: Tensor, rank: Tensor) -> Tensor:
    """Distance between both neighbours in one objective, as a share of the front's range: `(N,), (N,) -> (N,)`."""
    order = loss.argsort(stable=True)
    order = order[rank[order].argsort(stable=True)]
    sorted_loss, sorted_rank = loss[order], rank[order]
    edge = loss.new_full((1,), torch.inf)
    gap = torch.where(sorted_rank[1:] == sorted_rank[:-1], sorted_loss.diff(), torch.inf)
    low = loss.new_full((len(loss) + 1,), torch.inf).scatter_reduce_(0, rank, loss, "amin")
    high = loss.new_full((len(loss) + 1,), -torch.inf).scatter_reduce_(0, rank, loss, "amax")
    width = (high - low)[sorted_rank]
    share = torch.cat([edge, gap]) / width + torch.cat([gap, edge]) / width
    share = torch.where((width > 0) & width.isfinite(), share, 0.0)
    return torch.empty_like(loss).scatter_(0, order, share)


def best_by_rank_and_crowding(rank: Tensor, crowding: Tensor, keep: int, tie_break: Tensor) -> Tensor:
    """Indices of the `keep` candidates of lowest rank, of a rank the least crowded first: `(keep,)`."""
    order = tie_break.argsort()
    order = order[crowding[order].argsort(descending=True, stable=True)]
    return order[rank[order].argsort(stable=True)][:keep]


def domination_sign(pairs: Tensor, losses: Tensor, violation: Tensor | None = None) -> Tensor:
    """-1 where the first of a pair dominates, 1 where the second does, else 0: `(2, n) -> (n,)`, int8."""
    first, second = losses[pairs]
    no_worse, no_better = (first <= second).all(1), (first >= second).all(1)
    sign = no_better.to(torch.int8) - no_worse.to(torch.int8)
    if violation is None:
        return sign
    difference = violation[pairs[0]].sub(violation[pairs[1]])
    return torch.where(violation[pairs[0]] == violation[pairs[1]], sign, difference.sign().to(torch.int8))


def crowded_tournament(pairs: Tensor, sign: Tensor, crowding: Tensor, coin: Tensor) -> Tensor:
    """Winner of each pair: the first where the sign is negative, at 0 the less crowded, in doubt by a coin in [0, 1).

    `(2, n)` pairs, `(n,)` signs and coins, `(N,)` crowding -> `(n,)`.
    """
    first, second = pairs
    crowding_first, crowding_second = crowding[first], crowding[second]
    wins = torch.where(crowding_first == crowding_second, coin < 0.5, crowding_first > crowding_second)
    return torch.where(torch.where(sign == 0, wins, sign < 0), first, second)


def slots(survivors: Tensor, popsize: int) -> Tensor:
    """Which member of parents and children, `(2N)`, goes where, so that surviving parents stay in place: `(N,)`."""
    kept = torch.zeros(2 * popsize, dtype=torch.bool, device=survivors.device).scatter_(0, survivors, True)
    stays, enters = kept[:popsize], kept[popsize:]
    newcomers = popsize + enters.to(torch.uint8).argsort(descending=True, stable=True)
    vacancy = (~stays).cumsum(0).sub_(1).clamp_(min=0)
    return torch.where(stays, torch.arange(popsize, device=survivors.device), newcomers[vacancy])


def simplex_lattice(num_objectives: int, num_points: int) -> Tensor:
    """Evenly spread weight vectors that sum to 1, as near to `num_points` as the lattice allows: `(n, M)`, float64.

    With H divisions there are binom(H + M - 1, M - 1) of them: any number for two objectives, 91, 105, 120 for three.

    Source: Das & Dennis (1998), SIAM J. Optim. 8:631.
    """
    if num_objectives == 1:
        return torch.ones(num_points, 1, dtype=torch.float64)

    def size(divisions: int) -> int:
        return math.comb(divisions + num_objectives - 1, num_objectives - 1)

    divisions = 1
    while abs(size(divisions + 1) - num_points) <= abs(size(divisions) - num_points):
        divisions += 1
    # Stars and bars: where the M - 1 bars stand among H stars.
    bars = torch.combinations(torch.arange(divisions + num_objectives - 1), num_objectives - 1)
    edges = torch.nn.functional.pad(bars, (1, 0), value=-1)
    edges = torch.nn.functional.pad(edges, (0, 1), value=divisions + num_objectives - 1)
    return (edges.diff(dim=1) - 1).double() / divisions
