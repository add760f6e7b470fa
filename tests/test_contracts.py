"""Does every reduction keep the contract, and does the check see the ones that do not?"""

import pytest
import torch
from torch import Tensor

from evohbde import reductions
from evohbde.layout import ParameterLayout
from evohbde.reductions import (
    Chain,
    ChannelScaling,
    CorridorMask,
    GroupMask,
    HistogramBlocking,
    Identity,
    KMeansBlocking,
    LowRank,
    QuantileBlocking,
    RandomBlocking,
    RandomProjection,
    Reduction,
    SparseBlocks,
    Subspace,
    ThresholdPruning,
    channel_groups,
    magnitude_blocks,
)
from evohbde.testing import check_reduction


def weights(dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (0.1 * torch.randn(1_500, generator=generator, dtype=torch.float64)).to(dtype)


SHAPES = ((20, 5, 3, 3), (20,), (29, 20))
"""Of the 1,500 weights as a convolution, a vector and a matrix."""

TENSORS = torch.arange(3).repeat_interleave(torch.tensor([900, 20, 580]))

SOME = torch.arange(1_500) % 7 == 0


def with_zeros(theta0):
    return theta0 * (torch.arange(1_500) >= 100)


def masked_blocks(theta0):
    outer = HistogramBlocking(theta0, 300)
    return Chain(outer, GroupMask(outer.center, torch.arange(outer.dim)))


def low_rank_part(theta0):
    outer = Subspace(theta0, torch.arange(1_500) >= 920, mode="offset")
    return Chain(outer, LowRank(outer.center, SHAPES[2:], rank=3))


def chain(theta0):
    outer = HistogramBlocking(theta0, 300, mode="offset")
    return Chain(outer, RandomProjection(outer.center, 20))


REDUCTIONS = {
    "identity": Identity,
    "identity, offset": lambda theta0: Identity(theta0, mode="offset"),
    "histogram": lambda theta0: HistogramBlocking(theta0, num_bins=50),
    "histogram, fine": HistogramBlocking,
    "histogram, offset": lambda theta0: HistogramBlocking(theta0, num_bins=50, mode="offset"),
    "histogram, authors": lambda theta0: HistogramBlocking(theta0, num_bins=50, rule="authors"),
    "histogram, authors, offset": lambda theta0: HistogramBlocking(theta0, num_bins=50, mode="offset", rule="authors"),
    "histogram, groups": lambda theta0: HistogramBlocking(theta0, num_bins=50, groups=torch.arange(1_500) % 7),
    "histogram, one block": lambda theta0: HistogramBlocking(theta0, num_bins=1),
    "quantile": lambda theta0: QuantileBlocking(theta0, num_blocks=60),
    "quantile, offset": lambda theta0: QuantileBlocking(theta0, num_blocks=60, mode="offset"),
    "k-means": lambda theta0: KMeansBlocking(theta0, num_blocks=40),
    "k-means, offset": lambda theta0: KMeansBlocking(theta0, num_blocks=40, mode="offset"),
    "random": lambda theta0: RandomBlocking(theta0, num_blocks=64),
    "projection, sparse": lambda theta0: RandomProjection(theta0, 50, num_nonzeros=3),
    "chain": chain,
    "low rank": lambda theta0: LowRank(theta0, SHAPES),
    "low rank, all options": lambda theta0: LowRank(theta0, SHAPES, rank=3, scale=0.5, include_vectors=True),
    "low rank, A frozen": lambda theta0: LowRank(theta0, SHAPES, freeze_a=True),
    "low rank, A frozen, all options": lambda theta0: LowRank(
        theta0, SHAPES, rank=50, scale=3.0, freeze_a=True, include_vectors=True
    ),
    "low rank, inner": low_rank_part,
    "low rank, outer": lambda theta0: Chain(
        LowRank(theta0, SHAPES, freeze_a=True), RandomBlocking(LowRank(theta0, SHAPES, freeze_a=True).center, 9)
    ),
    "subspace": lambda theta0: Subspace(theta0, SOME),
    "subspace, offset": lambda theta0: Subspace(theta0, SOME, mode="offset"),
    "channel scaling": lambda theta0: ChannelScaling(theta0, SHAPES),
    "channel scaling, vectors": lambda theta0: ChannelScaling(theta0, SHAPES, include_vectors=True),
    "channel scaling, zero channels": lambda theta0: ChannelScaling(with_zeros(theta0), SHAPES),
    "mask": lambda theta0: GroupMask(theta0, torch.arange(1_500) % 30),
    "mask, exempt": lambda theta0: GroupMask(theta0, channel_groups(SHAPES), threshold=0.0),
    "mask, zero groups": lambda theta0: GroupMask(with_zeros(theta0), torch.arange(1_500) // 10),
    "mask, inner": masked_blocks,
    "thresholds": lambda theta0: ThresholdPruning(theta0, TENSORS),
    "thresholds, max": lambda theta0: ThresholdPruning(with_zeros(theta0), TENSORS, rule="max"),
    "thresholds, std": lambda theta0: ThresholdPruning(theta0, TENSORS - 1, rule="std", most=0.5),
    "corridor": lambda theta0: CorridorMask(theta0, SOME, SOME | (torch.arange(1_500) % 5 == 0)),
    "corridor, zero weights": lambda theta0: CorridorMask(with_zeros(theta0), SOME & ~SOME, SOME),
    "sparse blocks": lambda theta0: SparseBlocks(theta0, magnitude_blocks(theta0, TENSORS)),
    "sparse blocks, alike": lambda theta0: SparseBlocks(theta0, HistogramBlocking(theta0, 30).block, move="alike"),
    "sparse blocks, exempt": lambda theta0: SparseBlocks(with_zeros(theta0), channel_groups(SHAPES)),
    "random, replace": lambda theta0: RandomBlocking(theta0, num_blocks=64, mode="replace"),
}

# A kind that is exported but not listed above is checked with its defaults; one that needs more must be listed.
ABSTRACT = {"Reduction", "Blocking"}
LISTED = {"Chain", "ChannelScaling", "CorridorMask", "GroupMask", "LowRank", "SparseBlocks", "Subspace"}
LISTED |= {"ThresholdPruning"}
KINDS = {
    name: kind for name, kind in vars(reductions).items() if isinstance(kind, type) and issubclass(kind, Reduction)
}
EXPORTED = {name: kind for name, kind in KINDS.items() if name not in ABSTRACT | LISTED}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("build", [*REDUCTIONS.values(), *EXPORTED.values()], ids=[*REDUCTIONS, *EXPORTED])
def test_every_reduction_keeps_the_contract(build, dtype):
    check_reduction(build(weights(dtype)))


def test_every_exported_kind_is_checked():
    assert {type(build(weights())).__name__ for build in REDUCTIONS.values()} | set(EXPORTED) == set(KINDS) - ABSTRACT


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "name",
    [name for name in REDUCTIONS if name.startswith(("low", "subspace", "ch", "mask", "thresholds", "corr", "sparse"))],
)
def test_parts_of_half_precision_weights_keep_the_contract(name, dtype):
    check_reduction(REDUCTIONS[name](weights(dtype)), atol=0.03)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("build", [HistogramBlocking, QuantileBlocking, KMeansBlocking, RandomBlocking])
def test_reductions_of_half_precision_weights_keep_the_contract(build, dtype):
    check_reduction(build(weights(dtype), 40), atol=0.02)


def test_a_reduction_of_a_network_keeps_the_contract():
    network = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3))
    layout = ParameterLayout(network)
    check_reduction(HistogramBlocking(layout.flatten(network), 8, groups=layout.tensor_index))


class OfYourOwn(Reduction):
    """Pair each weight with its neighbour: what a third party would write."""

    _tensors = ("center", "lower", "upper")

    def __init__(self, theta0: Tensor) -> None:
        self.dim, self.full_dim = theta0.numel() // 2, theta0.numel()
        self.center = theta0.reshape(-1, 2).mean(1)
        self.lower, self.upper = self.center - 1, self.center + 1

    def expand(self, z: Tensor) -> Tensor:
        self.check_z(z)
        return z.repeat_interleave(2, dim=-1)

    def reduce(self, theta: Tensor) -> Tensor:
        self.check_theta(theta)
        return theta.unflatten(-1, (-1, 2)).mean(-1)


def test_a_reduction_of_ones_own_needs_two_methods():
    check_reduction(OfYourOwn(weights()))


class TwoForOne(OfYourOwn):
    """Each weight is the sum of two values, of which `reduce` finds one pair among many."""

    is_unique = False

    def __init__(self, theta0: Tensor) -> None:
        super().__init__(theta0)
        self.dim = 2 * theta0.numel()
        self.center = torch.cat([theta0, torch.zeros_like(theta0)])
        self.lower, self.upper = self.center - 1, self.center + 1

    def expand(self, z: Tensor) -> Tensor:
        self.check_z(z)
        return z[..., : self.full_dim] + z[..., self.full_dim :]

    def reduce(self, theta: Tensor) -> Tensor:
        self.check_theta(theta)
        return torch.cat([theta, torch.zeros_like(theta)], dim=-1)


class Signs(OfYourOwn):
    """The weights are signs, of which a value says only which."""

    is_binary = True

    def __init__(self, theta0: Tensor) -> None:
        super().__init__(theta0)
        self.center = (self.center > 0).to(theta0)

    def expand(self, z: Tensor) -> Tensor:
        return super().expand((z > 0.5).to(z) * 2 - 1)

    def reduce(self, theta: Tensor) -> Tensor:
        return (super().reduce(theta) + 1) / 2


@pytest.mark.parametrize("kind", [TwoForOne, Signs])
def test_a_reduction_may_declare_the_weaker_law_or_binary_values(kind):
    check_reduction(kind(weights()))


class Undeclared(TwoForOne):
    is_unique = True


class NoWeakLaw(TwoForOne):
    def reduce(self, theta):
        return 1.01 * super().reduce(theta)


class NotBinary(Signs):
    is_binary = False


class NoLawOfBits(Signs):
    def reduce(self, theta):
        return 1 - super().reduce(theta)


class NumberForBool(OfYourOwn):
    is_unique = 1


class NoLaw(OfYourOwn):
    def reduce(self, theta):
        return 1.01 * super().reduce(theta)


class NoBatches(OfYourOwn):
    def reduce(self, theta):
        return super().reduce(theta).reshape(-1, self.dim)


class NoType(OfYourOwn):
    def expand(self, z):
        return super().expand(z).double()


class MixedRows(OfYourOwn):
    def expand(self, z):
        return super().expand(z if z.ndim == 1 else z.flip(0)) if z.shape[:1] != (3,) else super().expand(z)


class Drawn(OfYourOwn):
    def expand(self, z):
        theta = super().expand(z)
        return theta + 1e-7 * torch.rand(theta.shape)


class InPlace(OfYourOwn):
    def reduce(self, theta):
        theta[..., 1::2] = theta[..., ::2] = super().reduce(theta) + 1e-9
        return super().reduce(theta.mul_(1 + 1e-6))


class NewBuffer(OfYourOwn):
    def expand_into(self, z, out):
        return self.expand(z)


class HalfBuffer(OfYourOwn):
    def expand_into(self, z, out):
        out[::2] = z
        return out


class NoGradient(OfYourOwn):
    def expand(self, z):
        return super().expand(z.detach())


class NoWidth(OfYourOwn):
    def expand(self, z):
        return z[..., : self.dim].repeat_interleave(2, dim=-1)


class NotDeclared(OfYourOwn):
    def __init__(self, theta0):
        super().__init__(theta0)
        self.scale = torch.ones(())

    def expand(self, z):
        return super().expand(z) * self.scale


class LeftBehind(OfYourOwn):
    def __init__(self, theta0):
        super().__init__(theta0)
        self.scale = torch.ones(())


class NotPlain(OfYourOwn):
    _options = ("dim", "full_dim", "shift")

    def __init__(self, theta0):
        super().__init__(theta0)
        self.shift = object()


class Moving(OfYourOwn):
    def expand(self, z):
        self.center += 1e-7
        return super().expand(z)


class OutOfRange(OfYourOwn):
    def __init__(self, theta0):
        super().__init__(theta0)
        self.center = self.center + 2


class NumpyDim(OfYourOwn):
    def __init__(self, theta0):
        super().__init__(theta0)
        self.dim = torch.tensor(self.dim)


class ColumnCenter(OfYourOwn):
    def __init__(self, theta0):
        super().__init__(theta0)
        self.center = self.center[:, None]


@pytest.mark.parametrize(
    ("kind", "clause"),
    [
        (NoLaw, r"reduce\(expand\(z\)\) != z"),
        (Undeclared, r"reduce\(expand\(z\)\) != z inside"),
        (NoWeakLaw, r"expand\(reduce\(expand\(z\)\)\) != expand\(z\)"),
        (NotBinary, r"reduce\(expand\(z\)\) != z inside"),
        (NoLawOfBits, r"reduce\(expand\(z\)\) != z"),
        (NumberForBool, "`is_unique` must be True or False"),
        (NoBatches, r"`reduce` must return shape \(750,\)"),
        (NoType, "`expand` must keep the type torch.float32"),
        (MixedRows, r"expand of a batch \(2, 3\) differs"),
        (Drawn, "`expand` gives another result the second time"),
        (InPlace, "`reduce` (gives another result|changes its input)"),
        (NewBuffer, "must return the buffer"),
        (HalfBuffer, "bit for bit"),
        (NoGradient, "must be differentiable"),
        (NoWidth, "must raise ValueError for 751 columns"),
        (NotDeclared, "name every attribute in `_tensors`"),
        (LeftBehind, "`to` leaves scale behind"),
        (NotPlain, "cannot be loaded again"),
        (Moving, "changes its tensor `center`"),
        (OutOfRange, "`lower` <= `center` <= `upper`"),
        (NumpyDim, "`dim` must be an int"),
        (ColumnCenter, r"`center` must be a float tensor of shape \(750,\)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_check_names_the_broken_clause(kind, clause):
    with pytest.raises(AssertionError, match=f"{kind.__name__}: .*{clause}"):
        check_reduction(kind(weights()))
