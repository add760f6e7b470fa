"""Does a recording follow what is loaded, and is it never taken where it cannot be made?"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from evohbde.layout import ParameterLayout
from evohbde.reductions import Identity
from evohbde.strategies import choice
from evohbde.strategies.graphs import Graphs
from evohbde.strategies.views import Views, Working
from tests.small_networks import digits
from tests.strategies.odd_networks import network_of

DATA = digits(100)


class Rerun:
    """Stands in for a CUDA graph: runs the function again, into the memory of the first time."""

    made = 0

    def __init__(self, function: Callable[[], Tensor]) -> None:
        Rerun.made += 1
        self._function, self.output = function, function().clone()

    def replay(self) -> None:
        self.output.copy_(self._function())


def parts(name: str = "BatchNorm") -> tuple[Working, Identity]:
    network = network_of(name)
    layout = ParameterLayout(network)
    return Working(network, layout, DATA.x, None), Identity(layout.flatten(network))


@pytest.mark.parametrize("inner", ["views", "folded"])
@torch.inference_mode()
def test_a_recording_gives_the_bits_of_what_it_records(inner):
    working, reduction = parts()
    plain, recorded = (next(choice.build(inner, working, reduction)) for _ in range(2))
    graphs = Graphs(recorded, Rerun)
    noise = torch.Generator().manual_seed(0)
    for scale in (0.0, 0.1, 0.2):
        z = reduction.center + scale * torch.randn(1, reduction.dim, generator=noise)
        for piece in (DATA.x[:48], DATA.x[48:96], DATA.x[:20]):
            plain.load(z)
            expected = plain.run(plain.prepare(piece)).clone()
            assert torch.equal(graphs.load(z), reduction.expand(z))
            assert torch.equal(graphs.run(graphs.prepare(piece)), expected)


@torch.inference_mode()
def test_one_recording_serves_all_candidates_and_pieces_of_a_shape():
    working, reduction = parts()
    graphs, Rerun.made = Graphs(Views(working, reduction), Rerun), 0
    for _ in range(5):
        graphs.load(reduction.center[None])
        for piece in DATA.x.split(32):
            graphs.run(piece)
    assert Rerun.made == 3  # load, 32 samples, 4 samples
    graphs.compute_in("float16")
    graphs.run(DATA.x[:32])
    assert Rerun.made == 4


@torch.inference_mode()
def test_a_recording_that_forgets_its_inputs_is_refused():
    class Frozen(Rerun):
        def replay(self) -> None:
            pass

    working, reduction = parts()
    views = Views(working, reduction)
    assert choice.deviation_of(Graphs(Views(working, reduction), Rerun), views, DATA.x[:16]) == 0
    assert choice.deviation_of(Graphs(Views(working, reduction), Frozen), views, DATA.x[:16]) > 1e-3


@torch.inference_mode()
def test_a_recording_that_fails_is_refused():
    def refuse(function: Callable[[], Tensor]) -> Rerun:
        raise RuntimeError("operation not permitted when stream is capturing")

    working, reduction = parts()
    views = Views(working, reduction)
    assert choice.deviation_of(Graphs(Views(working, reduction), refuse), views, DATA.x[:16]) == float("inf")


def test_graphs_need_a_CUDA_device():
    working, reduction = parts()
    assert list(choice.build("graphs", working, reduction)) == []
    with pytest.raises(ValueError, match="'graphs' cannot run this network: it needs a CUDA device"):
        choice.choose("graphs", working, reduction, 32, reduction.center[None], DATA.x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.inference_mode()
def test_CUDA_graphs_give_the_outputs_of_the_network():
    network, images = network_of("BatchNorm").cuda(), DATA.x.cuda()
    layout = ParameterLayout(network)
    reduction = Identity(layout.flatten(network))
    working = Working(network, layout, images, None)
    strategy, taken = choice.choose("graphs", working, reduction, 32, reduction.center[None], images)
    assert taken.deviations["graphs"] <= choice.TOLERANCE
    for scale in (1.0, 1.3):
        strategy.load(scale * reduction.center[None])
        found = strategy.run(strategy.prepare(images)).clone()
        views = Views(working, reduction)
        views.load(scale * reduction.center[None])
        torch.testing.assert_close(found, views.run(images), rtol=1e-3, atol=1e-3)
