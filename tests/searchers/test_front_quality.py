"""Are the fronts of our NSGA-II and MOEA/D at least as good as those of pymoo, at equal evaluations?"""

import numpy as np
import pytest

pytest.importorskip("pymoo", reason="pymoo is not installed")

from scipy.stats import mannwhitneyu

from benchmarks.fronts import BUDGETS, hypervolume

SEEDS = range(70, 75)
# What the quartiles of pymoo's own runs differ by, about; five seeds cannot tell smaller differences from chance.
NOISE = {"zdt1": 0.005, "zdt2": 0.01, "zdt3": 0.01, "zdt4": 0.01, "dtlz2": 0.01}


def volumes(name: str, searcher: str, num_evaluations: int, seeds: range = SEEDS) -> list[float]:
    return [hypervolume(name, searcher, seed, num_evaluations) for seed in seeds]


@pytest.mark.parametrize("name", ["zdt1", "zdt2", "zdt3", "dtlz2"])
def test_our_nsga2_finds_fronts_like_pymoos(name):
    ours, theirs = (volumes(name, f"{owner} NSGA2", 10_000) for owner in ("our", "pymoo"))
    assert np.median(ours) > np.median(theirs) - NOISE[name], (ours, theirs)


# Of ZDT4's front nothing is found by then where losses are scaled or replacements limited.
@pytest.mark.parametrize(("name", "num_evaluations"), [("zdt4", 10_000), ("dtlz2", 5_000)])
def test_our_moead_finds_fronts_like_pymoos_after_few_evaluations(name, num_evaluations):
    ours, theirs = (volumes(name, f"{owner} MOEAD", num_evaluations, SEEDS[:3]) for owner in ("our", "pymoo"))
    assert np.median(ours) > np.median(theirs) - 0.02, (ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["NSGA2", "MOEAD"])
@pytest.mark.parametrize("name", BUDGETS)
def test_pymoos_fronts_are_not_better(name, kind):
    seeds = range(70, 81)
    ours, theirs = (volumes(name, f"{owner} {kind}", BUDGETS[name], seeds) for owner in ("our", "pymoo"))
    is_near = np.median(ours) > np.median(theirs) - NOISE[name]
    # Ten such tests: a level of 0.001 each is one of 0.01 for all.
    assert is_near and mannwhitneyu(ours, theirs, alternative="less").pvalue > 0.001, (ours, theirs)
