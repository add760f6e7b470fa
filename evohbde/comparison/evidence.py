"""What do runs over the same seeds show, and what can they not show?

Scores come as an array of one row per seed and one column per method; a larger score is better throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy import stats

from evohbde.statistics import Interval

LEVEL = 0.05
"""Chance of an error that is accepted, over all comparisons of a family together."""

MANY_PAIRS = 13
"""Pairs up to which all 2^n signs are tried where differences are equally large."""


class Pair(NamedTuple):
    """Two methods on the same seeds.

    Attributes:
        first, second: Columns of the two.
        num_ahead, num_behind, num_seeds: Seeds on which the first is better, worse, and all.
        p_value: Wilcoxon's signed-rank test, two-sided, not corrected.
        p_holm: The same, corrected by Holm for the family that it was tested in.
        a12: Chance that a run of the first beats one of the second (Vargha and Delaney), ties counted half.
    """

    first: int
    second: int
    num_ahead: int
    num_behind: int
    num_seeds: int
    p_value: float
    p_holm: float
    a12: float

    @property
    def is_shown(self) -> bool:
        """Whether the difference is one that the runs can show."""
        return self.p_holm < LEVEL


def a12(first: np.ndarray, second: np.ndarray) -> float:
    """Chance that a score of `first` is larger than one of `second`, ties counted half: `(n,), (m,) -> number`.

    Source: Vargha and Delaney, A critique and improvement of the CL common language effect size statistics, 2000.
    """
    above = (first[:, None] > second[None, :]).mean()
    equal = (first[:, None] == second[None, :]).mean()
    return float(above + equal / 2)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Correct p-values for being a family, so that the chance of any false alarm stays below the level.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected


def signed_rank(first: np.ndarray, second: np.ndarray) -> float:
    """p-value of Wilcoxon's signed-rank test, paired by seed; 1 where all pairs are equal.

    Equal pairs are left out. Exact, also with ties, for up to 13 pairs and without ties for up to 50.
    """
    differences = first - second
    differences = differences[differences != 0]
    if len(differences) == 0:
        return 1.0
    has_ties = len(np.unique(np.abs(differences))) < len(differences)
    is_small = len(differences) <= MANY_PAIRS
    method = stats.PermutationMethod(n_resamples=2**MANY_PAIRS) if has_ties and is_small else "auto"
    return float(stats.wilcoxon(differences, method=method).pvalue)


def friedman(scores: np.ndarray) -> float | None:
    """p-value of Friedman's test that some of three or more methods differ, `(n, k)`; None where it does not apply."""
    num_seeds, num_methods = scores.shape
    if num_methods < 3 or num_seeds < 2:
        return None
    if np.all(scores == scores[:, :1]):
        return 1.0
    return float(stats.friedmanchisquare(*scores.T).pvalue)


def mean_ranks(scores: np.ndarray) -> np.ndarray:
    """Rank of each method averaged over seeds, 1 is best, ties share: `(n, k) -> (k,)`."""
    return stats.rankdata(-scores, axis=1).mean(0)


def compare_pairs(scores: np.ndarray, pairs: Sequence[tuple[int, int]] | None = None) -> list[Pair]:
    """Test pairs of columns of `(n, k)`, all of them if not told, as one family."""
    pairs = list(combinations(range(scores.shape[1]), 2)) if pairs is None else pairs
    p_values = [signed_rank(scores[:, a], scores[:, b]) for a, b in pairs]
    return [
        Pair(
            first=a,
            second=b,
            num_ahead=int((scores[:, a] > scores[:, b]).sum()),
            num_behind=int((scores[:, a] < scores[:, b]).sum()),
            num_seeds=len(scores),
            p_value=p_value,
            p_holm=float(corrected),
            a12=a12(scores[:, a], scores[:, b]),
        )
        for (a, b), p_value, corrected in zip(pairs, p_values, holm(p_values), strict=True)
    ]


def cliques(scores: np.ndarray) -> list[list[int]]:
    """Groups of columns, neighbours by mean rank, none of whose pairs is shown to differ; only the largest, `(n, k)`.

    These are the bars of a critical-difference diagram; the tests are Wilcoxon's with Holm's correction.

    Source: Benavoli, Corani and Mangili, Should we really use post-hoc tests based on mean-ranks?, 2016.
    """
    order = np.argsort(mean_ranks(scores), kind="stable").tolist()
    differ = {frozenset((pair.first, pair.second)) for pair in compare_pairs(scores) if pair.is_shown}
    groups: list[list[int]] = []
    for start in range(len(order)):
        end = start + 1
        while end < len(order) and not any(frozenset((one, order[end])) in differ for one in order[start:end]):
            end += 1
        if end - start > 1 and (not groups or order[end - 1] not in groups[-1]):
            groups.append(order[start:end])
    return groups


def smallest_p(num_seeds: int, num_pairs: int = 1) -> float:
    """The smallest corrected p-value that so many seeds can give: all of them on one side, without ties."""
    return min(1.0, num_pairs * 2.0 ** (1 - num_seeds))


def median_interval(values: np.ndarray, *, num_resamples: int = 999, seed: int = 0) -> Interval:
    """Median with its 95 % percentile bootstrap interval over seeds: `(n,)`."""
    middle = float(np.median(values))
    if len(values) < 2 or np.all(values == values[0]):
        return Interval(middle, middle, middle)
    found = stats.bootstrap(
        (values,),
        np.median,
        n_resamples=num_resamples,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(middle, float(found.low), float(found.high))


def in_words(pair: Pair, first: str, second: str, num_pairs: int) -> str:
    """Say what the runs show of two methods, and where they are too few to show anything."""
    first_is_ahead = pair.num_ahead >= pair.num_behind
    ahead, behind = (first, second) if first_is_ahead else (second, first)
    seeds = f"{max(pair.num_ahead, pair.num_behind)} of {pair.num_seeds} seeds"
    effect = pair.a12 if first_is_ahead else 1 - pair.a12
    facts = f"p = {pair.p_holm:.2g}, A12 = {effect:.2f}"
    if pair.is_shown:
        return f"{ahead} is ahead of {behind} on {seeds}, {facts}."
    if smallest_p(pair.num_seeds, num_pairs) >= LEVEL:
        return (
            f"{first} and {second}: {pair.num_seeds} seed{'' if pair.num_seeds == 1 else 's'} cannot show a difference "
            f"among {num_pairs} comparison{'' if num_pairs == 1 else 's'}, however large ({ahead} is ahead on {seeds})."
        )
    return f"{first} and {second}: no difference that these runs can show ({ahead} is ahead on {seeds}, {facts})."
