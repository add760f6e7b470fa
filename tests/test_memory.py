"""Does a large generation fit into little memory, and does a long run stay where it is?"""

import sys

import pytest

from benchmarks.memory import MIB, in_a_process, peak_call

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the memory of a process from /proc"),
]


def test_a_thousand_candidates_of_resnet18_take_less_than_the_network_and_400_MB():
    network, peak = in_a_process(peak_call("views")).values()
    assert 40 < network < 50
    assert network < peak < network + 400 * 1e6 / MIB


def test_ten_thousand_generations_grow_by_less_than_10_MB():
    (growth,) = in_a_process("growth_of_a_run()").values()
    assert growth < 10 * 1e6 / MIB
