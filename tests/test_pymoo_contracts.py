"""Do pymoo's algorithms, driven through the bridge, keep the contract of searchers, and where do they not?"""

import pytest

pytest.importorskip("pymoo", reason="pymoo is not installed")

from evohbde.pymoo_bridge import PymooSearcher
from evohbde.testing import check_searcher
from tests.pymoo_algorithms import MULTI, SINGLE, make_algorithm

# Their state is a running generator, or is lost in part when pickled; NelderMead can be copied between its moves only.
KNOWN_TO_BREAK = {
    "CMAES": {"copies"},
    "G3PCX": {"copies"},
    "MOEAD": {"copies"},
    "NelderMead": {"copies"},
    "PatternSearch": {"copies"},
}
NUM_STEPS = {"MOEAD": 30 * 14}  # it makes one candidate a step, the others about 14


def make(name: str):
    """A function that makes the searcher; RVEA needs to know how long it runs."""
    termination = ("n_gen", 1000) if name == "RVEA" else None
    return lambda problem: PymooSearcher(problem, make_algorithm(name), termination=termination)


@pytest.mark.parametrize("name", SINGLE)
def test_algorithms_for_one_objective_keep_the_contract(name):
    check_searcher(make(name), known_to_break=KNOWN_TO_BREAK.get(name, ()))


@pytest.mark.parametrize("name", MULTI)
def test_algorithms_for_several_objectives_keep_it_with_two(name):
    num_steps = NUM_STEPS.get(name, 30)
    check_searcher(make(name), num_steps=num_steps, num_objectives=2, known_to_break=KNOWN_TO_BREAK.get(name, ()))
