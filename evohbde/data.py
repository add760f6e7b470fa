"""Which samples score this generation?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor, nn

ORDERS = ("stratified", "file", "shuffled")
PARENT_POLICIES = ("refresh", "stale", "fixed")

MOST_CLASSES = 2**31
"""Labels from here on are no class numbers but something else that landed in `y`."""


class TensorData:
    """A whole data set as two tensors on one device.

    Args:
        x: Inputs, `(n, ...)`.
        y: Class labels, `(n,)`, any integer type; kept as int64.

    Raises:
        ValueError: If there are no samples, the lengths differ, or a label is negative or not a whole number.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        x, y = torch.as_tensor(x), torch.as_tensor(y)
        if x.ndim == 0 or len(x) == 0:
            raise ValueError("the data are empty: `x` has no samples")
        if y.ndim != 1 or len(y) != len(x):
            raise ValueError(f"expected `y` of shape ({len(x)},), one label per sample of `x`, got {tuple(y.shape)}")
        if y.is_floating_point() and not bool((y == y.round()).all()):
            raise ValueError("expected `y` to hold class numbers, got fractions: evohbde searches classifiers")
        low, high = y.min().item(), y.max().item()
        if not (low >= 0 and high < MOST_CLASSES):
            raise ValueError(f"expected class labels numbered from 0 in `y`, got {low} to {high}")
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            raise ValueError("`x` holds NaN or infinite values: clean the data first")
        self.x = x
        self.y = y.to(device=x.device, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"TensorData({len(self)} samples of shape {tuple(self.x.shape[1:])}, {self.num_classes} classes)"

    def __deepcopy__(self, memo: dict[int, object]) -> TensorData:
        return self  # never written to, so that clones of a problem share one copy

    @classmethod
    def from_dataset(cls, dataset: Iterable[tuple[Tensor, int]]) -> TensorData:
        """Read any map-style PyTorch data set (torchvision's, say) of (tensor, label) pairs into memory, once."""
        pairs = list(dataset)
        if not pairs:
            raise ValueError("the data set is empty")
        return cls(torch.stack([x for x, _ in pairs]), torch.tensor([int(y) for _, y in pairs]))

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def num_classes(self) -> int:
        """Largest label plus one."""
        return int(self.y.max()) + 1

    def to(self, device: torch.device | str) -> TensorData:
        return self if self.device == torch.device(device) else TensorData(self.x.to(device), self.y.to(device))

    def subset(self, index: Tensor) -> TensorData:
        return TensorData(self.x[index], self.y[index])

    def split(self, share: float, seed: int = 0) -> tuple[TensorData, TensorData]:
        """Part the samples at random, stratified by class: about `1 - share` of each class, and `share` of it."""
        if not 0 < share < 1:
            raise ValueError(f"`share` must lie strictly between 0 and 1, got {share}")
        order = stratified_order(self.y, seeded(seed))
        if len(self) < 2:
            raise ValueError("cannot split a single sample into two parts")
        cut = len(self) - min(max(1, round(share * len(self))), len(self) - 1)
        return self.subset(order[:cut]), self.subset(order[cut:])


@dataclass(frozen=True)
class Task:
    """A trained network with the data to improve it on, and data to judge it by.

    Attributes:
        model: The network.
        train: What a search may see.
        validation: What decisions between stages are made on; None: a part of `train` is set aside.
        test: What only the report sees; None: a part of `validation` is set aside.
        name: How tables and figures call it.
    """

    model: nn.Module
    train: TensorData
    validation: TensorData | None = None
    test: TensorData | None = None
    name: str = ""


def seeded(seed: int) -> torch.Generator:
    """A generator of this seed on the CPU."""
    if not isinstance(seed, (int, Integral)):
        raise TypeError(f"expected `seed` to be an integer, got {seed!r}")
    return torch.Generator().manual_seed(int(seed))


def stratified_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Order samples so that every stretch of them holds the classes in nearly the proportions of all: `(n,)`."""
    labels = labels.cpu()
    shuffled = torch.randperm(len(labels), generator=generator)
    counts = torch.bincount(labels)
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    rank = torch.cat([torch.arange(int(count)) for count in counts])
    start = torch.rand(len(counts), generator=generator, dtype=torch.float64)
    position = (rank + start[labels[by_class]]) / counts[labels[by_class]]
    return by_class[torch.argsort(position, stable=True)]


class SuperBatches:
    """Circular super-batches: consecutive pieces of the training set that score one generation each.

    Piece `s` holds samples `[s * size, (s + 1) * size)` of the chosen order, `s` running through `floor(n / size)`
    pieces and starting again; the last `n mod size` samples are never used (published behaviour).

    Args:
        data: The training set.
        size: Samples per super-batch; a larger set than there is means all samples, every time.
        order: `"stratified"` (classes evenly spread), `"file"` (as given; published) or `"shuffled"`.
        advance: `"generation"`: the next piece at each call of `problem.evaluate`, or a number of candidate
            evaluations after which the piece changes (published: 100).
        parents: What a searcher with survivors does about old scores: `"refresh"` (re-score them with the new
            candidates, counted), `"stale"` (keep them; published) or `"fixed"` (one piece for the whole search).
        seed: Seed of the order.

    Source: arXiv 2408.07194, circular super-batches.
    """

    def __init__(
        self,
        data: TensorData,
        size: int = 1_000,
        *,
        order: str = "stratified",
        advance: str | int = "generation",
        parents: str = "refresh",
        seed: int = 0,
    ) -> None:
        if not isinstance(data, TensorData):
            raise TypeError(f"expected `data` to be a TensorData, got {type(data).__name__}: wrap it, TensorData(x, y)")
        if not isinstance(size, (int, Integral)):
            raise TypeError(f"expected `size` to be a number of samples, got {size!r}")
        if size < 1:
            raise ValueError(f"`size` must be at least 1 sample, got {size}")
        if order not in ORDERS:
            raise ValueError(f"`order` must be one of {', '.join(ORDERS)}, got {order!r}")
        if parents not in PARENT_POLICIES:
            raise ValueError(f"`parents` must be one of {', '.join(PARENT_POLICIES)}, got {parents!r}")
        if advance != "generation" and (not isinstance(advance, (int, Integral)) or advance < 1):
            raise ValueError(f"`advance` must be 'generation' or a number of evaluations >= 1, got {advance!r}")
        self.size = min(int(size), len(data))
        self.order, self.advance, self.parents = order, advance, parents
        self.data = data if order == "file" else data.subset(self._order(data, seed))

    def _order(self, data: TensorData, seed: int) -> Tensor:
        generator = seeded(seed)
        if self.order == "shuffled":
            return torch.randperm(len(data), generator=generator)
        return stratified_order(data.y, generator)

    def __len__(self) -> int:
        """Number of different super-batches."""
        return 1 if self.parents == "fixed" else len(self.data) // self.size

    def __repr__(self) -> str:
        options = f"order={self.order!r}, advance={self.advance!r}, parents={self.parents!r}"
        return f"SuperBatches({len(self)} of {self.size} samples, {options})"

    @property
    def rescore_parents(self) -> bool:
        """Whether scores of an earlier generation have to be taken again to be comparable."""
        return self.parents == "refresh" and len(self) > 1

    def span(self, step: int) -> slice:
        """Where super-batch number `step` lies in `data`."""
        start = (step % len(self)) * self.size
        return slice(start, start + self.size)

    def steps(self, num_calls: int, num_evaluations: int, popsize: int) -> Tensor:
        """Super-batch number of each of the next `popsize` candidates: `(popsize,)`, int64.

        Args:
            num_calls: Calls of `problem.evaluate` so far.
            num_evaluations: Candidates scored so far.
            popsize: Candidates in this call.
        """
        if self.advance == "generation":
            return torch.full((popsize,), num_calls % len(self))
        return (num_evaluations + torch.arange(popsize)) // int(self.advance) % len(self)

    def to(self, device: torch.device | str) -> SuperBatches:
        self.data = self.data.to(device)
        return self
