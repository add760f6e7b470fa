"""Which weights does one threshold per tensor prune?"""

from __future__ import annotations

import torch
from torch import Tensor

from evohbde.reductions.base import Reduction, check_weights
from evohbde.reductions.masking import number_groups

RULES = ("quantile", "max", "std")


class ThresholdPruning(Reduction):
    """Prune the smallest weights of each tensor, as many as its threshold says: `theta = theta0 * mask(t)`.

    Thresholds are zero or more; zero prunes nothing, and a higher one prunes the same weights and more. Under the rule
    `"quantile"` a threshold is the share to prune, and of n weights exactly `floor(t n)` go, of equal ones the first.
    The other rules give the same masks along another scale: weights of at most `t max|w|`, or `3 t std(w)`, go.

    `expand` has no derivative. `reduce` gives thresholds that prune as many weights of each tensor as are zero.
    Memory: the weights, one number and one int32 per weight.

    Args:
        theta0: Trained weights, `(D,)`, finite.
        groups: Tensor of each weight, `(D,)`, integers: `layout.tensor_index`; -1: never pruned. Numbers that no
            weight has are left out.
        rule: `"quantile"`, `"max"` or `"std"`.
        most: Largest threshold of the first range, in (0, 1).

    Attributes:
        counts: Weights per tensor, `(L,)`, int64.
        level: Smallest threshold that prunes each weight, `(D,)`; infinite where none does.

    Raises:
        ValueError: If `groups` does not fit, or an option is out of its range.

    Source: arXiv 2604.01076, first phase; what a threshold means is our reading.
    """

    _tensors = ("theta0", "group", "counts", "level", "center", "lower", "upper")
    _options = ("dim", "full_dim", "rule", "most")

    is_unique = False
    is_smooth = False

    theta0: Tensor
    group: Tensor
    counts: Tensor
    level: Tensor
    rule: str
    most: float

    def __init__(self, theta0: Tensor, groups: Tensor, rule: str = "quantile", most: float = 0.95) -> None:
        theta0 = check_weights(theta0).clone()
        if rule not in RULES:
            raise ValueError(f"`rule` must be one of {', '.join(RULES)}, got {rule!r}")
        if not 0 < most < 1:
            raise ValueError(f"`most` must lie in (0, 1), so that something is kept and something pruned, got {most}")
        self.theta0, self.rule, self.most = theta0, rule, float(most)
        self.group, self.counts = number_groups(groups, theta0)
        self.dim, self.full_dim = len(self.counts), theta0.numel()
        self.center, self.lower = theta0.new_zeros(2, self.dim).unbind()
        self.upper = theta0.new_full((self.dim,), most)
        self.level = self._levels()

    def mask(self, z: Tensor) -> Tensor:
        """Tell which weights are kept: `(..., L) -> (..., D)`, bool."""
        self.check_z(z)
        padded = torch.cat([z, z.new_zeros(*z.shape[:-1], 1)], dim=-1)  # for weights that are never pruned
        return padded.index_select(-1, self.group) < self.level

    def kept(self, z: Tensor) -> Tensor:
        """Count the weights of each tensor that are kept: `(..., L) -> (..., L)`, int64."""
        return self._count(self.mask(z))

    def expand(self, z: Tensor) -> Tensor:
        return torch.where(self.mask(z), self.theta0, 0.0)

    def expand_into(self, z: Tensor, out: Tensor) -> Tensor:
        return out.copy_(self.theta0).masked_fill_(~self.mask(z), 0.0)

    def reduce(self, theta: Tensor) -> Tensor:
        self.check_theta(theta)
        return self._pruning(self._count(theta == 0))

    def uniform(self, fraction: float) -> Tensor:
        """Thresholds that prune the same share of each tensor, `floor(fraction n)` of its n weights: `(L,)`.

        Args:
            fraction: In [0, 1]; a threshold is cut to `most`.
        """
        _check_fraction(fraction)
        return self._pruning(_share(fraction, self.counts)).minimum(self.upper)

    def global_magnitude(self, fraction: float) -> Tensor:
        """Thresholds that prune the smallest weights of all tensors together: `(L,)`.

        Under the rule `"quantile"` the mask is that of global magnitude pruning, `floor(fraction D)` weights and of
        equal ones the first; under the others, equal weights of a tensor go together.

        Args:
            fraction: In [0, 1], of the weights that may be pruned; a threshold is cut to `most`.
        """
        _check_fraction(fraction)
        magnitude = self.theta0.abs().masked_fill(self.group == self.dim, torch.inf)
        num = int(_share(fraction, self.counts.sum()))
        smallest = magnitude.argsort(stable=True)[:num]
        counts = self.group[smallest].bincount(minlength=self.dim)
        return self._pruning(counts).minimum(self.upper)

    def _count(self, chosen: Tensor) -> Tensor:
        counts = torch.zeros(*chosen.shape[:-1], self.dim + 1, dtype=torch.int64, device=chosen.device)
        return counts.index_add_(-1, self.group, chosen.long())[..., : self.dim]

    def _pruning(self, counts: Tensor) -> Tensor:
        """Smallest thresholds that prune at least so many weights of each tensor: `(..., L) -> (..., L)`."""
        levels = self.level[_sorted_within(self.level, self.group)]
        last = (self.counts.cumsum(0) - self.counts + counts - 1).clamp(min=0)
        return torch.where(counts > 0, _rounded_up(levels[last], self.theta0.dtype), 0.0)

    def _levels(self) -> Tensor:
        kind = torch.promote_types(self.theta0.dtype, torch.float32)
        levels = self._shares(kind) if self.rule == "quantile" else self._sizes(kind)
        return levels.masked_fill(self.group == self.dim, torch.inf)

    def _shares(self, kind: torch.dtype) -> Tensor:
        """Share of its tensor that is gone with each weight, and never less: `(D,)`."""
        order = _sorted_within(self.theta0.abs(), self.group)
        counts = self.group.bincount()
        size, first = (values[self.group[order].long()] for values in (counts, counts.cumsum(0) - counts))
        place = torch.arange(1, self.full_dim + 1, device=order.device) - first
        level = _step(place.double().div(size).to(kind), -torch.inf)
        # The nearest number may lie on the wrong side of a share such as 1/3; the right one is at most one further.
        for _ in range(2):
            level = torch.where(level.double() * size < place, _step(level, torch.inf), level)
        return torch.empty_like(level).index_copy_(0, order, level)

    def _sizes(self, kind: torch.dtype) -> Tensor:
        """Size of each weight in units of its tensor's largest, or of three standard deviations: `(D,)`."""
        units = torch.stack(
            [_unit(self.theta0[self.group == tensor].double(), self.rule) for tensor in range(self.dim)]
        )
        units = torch.cat([units, units.new_ones(1)])
        # A weight of zero in a tensor of zeros counts as pruned; any other that has no unit is never pruned.
        return (self.theta0.abs().double() / units[self.group.long()]).nan_to_num(nan=0.0, posinf=torch.inf).to(kind)


def _unit(weights: Tensor, rule: str) -> Tensor:
    return weights.abs().max() if rule == "max" else 3 * weights.std(correction=0)


def _step(values: Tensor, towards: float) -> Tensor:
    return torch.nextafter(values, torch.full_like(values, towards))


def _rounded_up(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Nearest values of a narrower type that are no lower."""
    near = values.to(dtype)
    return torch.where(near.to(values.dtype) < values, _step(near, torch.inf), near)


def _sorted_within(values: Tensor, group: Tensor) -> Tensor:
    """Order by group, then by value, equal values as they come: `(D,)` and `(D,)` to `(D,)`, int64."""
    order = values.argsort(stable=True)
    return order[group[order].argsort(stable=True)]


def _share(fraction: float, counts: Tensor) -> Tensor:
    """Whole part of a share of each count; what is short of a whole number by rounding only is that number."""
    return (fraction * (1 + 1e-12) * counts.double()).floor().long()


def _check_fraction(fraction: float) -> None:
    if not 0 <= fraction <= 1:
        raise ValueError(f"`fraction` must lie in [0, 1], the share of the weights to prune, got {fraction}")
