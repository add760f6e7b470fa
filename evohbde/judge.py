"""How good are these networks on samples that nothing was decided on?"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from evohbde.data import TensorData
from evohbde.outputs import predict, score
from evohbde.statistics import Interval, bootstrap_difference, bootstrap_score

COLUMNS = ("network", "macro-F1 [95 %]", "gain in F1 [95 %]", "accuracy", "cross-entropy", "sample forwards")
"""Headings of what `Entry.cells` gives."""


@dataclass(frozen=True)
class Entry:
    """One network in the final table, scored on held-out samples.

    Attributes:
        name: What it is.
        scores: Macro-F1, accuracy, balanced accuracy and cross-entropy.
        f1: Macro-F1 with its 95 % bootstrap interval.
        f1_gain, accuracy_gain: Difference to the untouched network, paired over the samples; None for that network.
        num_samples: Sample forwards spent to get it.
    """

    name: str
    scores: dict[str, float]
    f1: Interval
    f1_gain: Interval | None
    accuracy_gain: Interval | None
    num_samples: float

    def cells(self) -> tuple[str, ...]:
        """What a table says of this network, one text per heading in `COLUMNS`."""
        gain = self.f1_gain
        return (
            self.name,
            str(self.f1),
            "" if gain is None else f"{gain.value:+.4f} [{gain.lower:+.4f}, {gain.upper:+.4f}]",
            f"{self.scores['accuracy']:.4f}",
            f"{self.scores['cross_entropy']:.4f}",
            f"{self.num_samples:,.0f}",
        )


def judge(networks: list[tuple[str, nn.Module, float]], test: TensorData) -> list[Entry]:
    """Score (name, network, sample forwards spent) on held-out samples; the first one is the baseline of all gains."""
    entries: list[Entry] = []
    baseline: Tensor | None = None
    for name, network, num_samples in networks:
        predicted = predict(network, test).argmax(-1)
        gains: list[Interval | None] = [None, None]
        if baseline is None:
            baseline = predicted
        else:
            gains = [bootstrap_difference(predicted, baseline, test.y, measure) for measure in ("f1_macro", "accuracy")]
        entries.append(
            Entry(name, score(network, test), bootstrap_score(predicted, test.y), gains[0], gains[1], num_samples)
        )
    return entries


def markdown_table(entries: list[Entry]) -> str:
    """Lay the entries out as a Markdown table."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(entry.cells() for entry in entries)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
