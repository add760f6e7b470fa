"""Which codebook networks are the best of their size?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evohbde.compress.codebook import BlockingLike, BlockMerging, CodebookSize
from evohbde.data import TensorData
from evohbde.layout import ParameterLayout
from evohbde.objectives import AnyObjective, ObjectiveLike, WeightObjective, resolve
from evohbde.outputs import check_outputs
from evohbde.problem import NetworkProblem
from evohbde.pruning.archive import Pruned
from evohbde.pruning.bits import pack
from evohbde.pruning.front import UNPRUNED, Front, thinned
from evohbde.pruning.pipeline import VALIDATION_SHARE, prunable_layout
from evohbde.pruning.scoring import MaskScorer
from evohbde.run import run_until
from evohbde.searchers import NSGA2
from evohbde.threads import threads_for

SEARCHED = "searched"
COLUMNS = ("network", "values", "accuracy", "change", "macro-F1", "cross-entropy")
"""Headings of what `CodebookFront.cells` gives, all on the samples that decide."""


class CodebookScorer(MaskScorer):
    """Scores codebooks of one network: masks with one entry per block, of which True begins a new value.

    A mask that does not begin with True has no codebook: it is the network as given.

    Args:
        model, layout, num_classes, objectives: As in `MaskScorer`.
        merging: The finest blocks.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: ParameterLayout,
        num_classes: int,
        objectives: Sequence[AnyObjective],
        merging: BlockMerging,
    ) -> None:
        super().__init__(model, layout, num_classes, objectives)
        self.merging, self.weights = merging, self.theta0
        self.theta0 = self.weights.new_ones(merging.num_blocks)

    def _load(self, network: nn.Module, mask: Tensor, values: Tensor | None = None) -> nn.Module:
        if not bool(mask[0]):
            return self.layout.load_(network, self.weights)
        return self.layout.load_(network, self.merging.expand(mask[1:].to(self.weights)))


@dataclass(frozen=True)
class CodebookFront(Front):
    """Codebook networks of which none is better than another in all objectives; see `Front`.

    The share of a point that is `kept` is that of its values in the finest codebook. Baselines are histograms,
    quantiles and k-means of the same blocks, at several sizes.

    Args:
        num_evaluations: Codebooks scored by the search.
        num_samples: Sample forwards, those on validation samples included.
    """

    num_evaluations: int = 0
    num_samples: float = 0.0

    def num_values(self, point: Pruned) -> int:
        """Entries of the codebook of a point; 0 for the network as given."""
        return int(self.mask(point).sum())

    def cells(self, point: Pruned) -> tuple[str, ...]:
        """What a table says of a point, one text per heading in `COLUMNS`."""
        origin, _, *rest = super().cells(point)
        return ("as given" if origin == UNPRUNED else origin, str(self.num_values(point) or ""), *rest)

    def table(self, num_rows: int | None = None) -> str:
        """The network as given and the front as a Markdown table; at most `num_rows` points, evenly over the sizes."""
        points = [self.unpruned, *thinned(self.points, num_rows or len(self))]
        rows = [COLUMNS, ("---",) * len(COLUMNS), *map(self.cells, points)]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def codebook_front(
    model: nn.Module,
    train: TensorData,
    *,
    validation: TensorData | None = None,
    blocking: BlockingLike | None = None,
    objective: ObjectiveLike = "cross_entropy",
    size: WeightObjective | None = None,
    num_evaluations: int = 1_000,
    popsize: int = 60,
    include: str | Sequence[str] | None = None,
    seed: int = 0,
    after_step: Callable[[int], None] | None = None,
) -> CodebookFront:
    """Search which neighbouring blocks of weights share a value: quality against the size of the codebook, by NSGA-II.

    Each candidate joins some neighbours of a fine blocking; their weights become the mean. The first population are
    histograms, quantiles and k-means of the blocks, at sizes that grow evenly on a logarithmic scale. What is found is
    scored again on validation samples, and what falls behind there is dropped. Every network of the front goes into a
    file by `save_compact(front.network(point), path, coding="huffman")`.

    Args:
        model: The trained network, pruned or not; copied. Zeros stay zero.
        train: Samples that score candidates.
        validation: What the front is scored on at the end, and chosen from; None: a fifth of `train` is set aside.
        blocking: Makes the finest blocks; None: a histogram of 256 edges.
        objective: What is to be kept: `"cross_entropy"`, `"f1_macro"` or any other of outputs.
        size: What is to fall; None: the number of values. `StoredBits("entropy", codebook=True)`: bits per weight.
        num_evaluations: Codebooks that may be scored.
        popsize: Of NSGA-II, at least 6.
        include: Names, or patterns of names, of the weights that share values; None: those of all convolutions and
            linear layers.
        seed: Seed of splits and search.
        after_step: Called with the number of codebooks scored so far.

    Returns:
        A `CodebookFront`; Ctrl-C during the search returns what was found until then.

    Raises:
        ValueError: If the data do not fit, there are fewer than two blocks, or an argument is out of range.

    Source: the two objectives, and merged neighbours, as in arXiv 2501.03095; there merging follows the search.
    """
    if popsize < 6:
        raise ValueError(f"`popsize` must be at least 6, two of each kind of start, got {popsize}")
    if validation is None:
        train, validation = train.split(VALIDATION_SHARE, seed)
    original = deepcopy(model).to(train.device).eval()
    check_outputs(original, validation)
    layout = prunable_layout(original, include)
    merging = BlockMerging(layout.flatten(original), blocking)
    objectives = [*resolve(objective), size or CodebookSize()]
    scorer = CodebookScorer(original, layout, train.num_classes, objectives, merging)
    problem = NetworkProblem(original, train, objectives, layout=layout, reduction=merging, seed=seed)
    starts = list(_starts(merging, popsize, seed))
    searcher = NSGA2(
        problem, popsize=popsize, variation="binary", initial_population=torch.stack([z for _, z in starts])
    )

    def tell() -> None:
        if after_step is not None:
            after_step(problem.num_evaluations)

    with threads_for(original):
        run_until(searcher, num_evaluations=num_evaluations, after_step=tell)
        found = searcher.pareto_front.values.as_subclass(Tensor)
        front = CodebookFront(
            scorer,
            tuple(_point(SEARCHED, z) for z in found),
            Pruned(UNPRUNED, pack(torch.zeros(merging.num_blocks, dtype=torch.bool)), 1.0),
            tuple(_point(name, z) for name, z in starts),
            num_evaluations=problem.num_evaluations,
            num_samples=problem.num_samples_seen + (len(found) + len(starts) + 1) * len(validation),
        )
        return front.rescore(validation.to(train.device))


def _point(origin: str, z: Tensor) -> Pruned:
    mask = torch.cat([z.new_ones(1), z]) > 0.5
    return Pruned(origin, pack(mask.cpu()), float(mask.double().mean()))


def _starts(merging: BlockMerging, popsize: int, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Borders that three plain schemes would keep, at sizes from 2 to that of the finest codebook: `(d,)` each."""
    per_scheme = [popsize // 3 + (place < popsize % 3) for place in range(3)]
    for (name, assign), count in zip(SCHEMES.items(), per_scheme, strict=True):
        for share in torch.linspace(0, 1, count).tolist():
            size = round(2 * (merging.num_blocks / 2) ** share)
            yield name, (assign(merging, size, seed).diff() != 0).to(merging.center)


def _by_width(merging: BlockMerging, size: int, seed: int) -> Tensor:
    span = merging.mean - merging.mean[0]
    return (span / span[-1] * size).long().clamp(max=size - 1)


def _by_count(merging: BlockMerging, size: int, seed: int) -> Tensor:
    middle = merging.counts.cumsum(0).double() - merging.counts / 2
    return (middle / merging.counts.sum() * size).long()


def _by_k_means(merging: BlockMerging, size: int, seed: int) -> Tensor:
    from sklearn.cluster import KMeans

    search = KMeans(min(size, merging.num_blocks), n_init=1, random_state=seed)
    labels = search.fit_predict(merging.mean.cpu().numpy()[:, None], sample_weight=merging.counts.cpu().numpy())
    return torch.from_numpy(labels).to(merging.mean.device)


SCHEMES: dict[str, Callable[[BlockMerging, int, int], Tensor]] = {
    "histogram": _by_width,
    "quantiles": _by_count,
    "k-means": _by_k_means,
}
