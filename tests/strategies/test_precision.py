"""Is each precision what it says, reported, and never left switched on?"""

import pytest
import torch
from torch import nn

from evohbde.evaluator import NetworkEvaluator
from evohbde.layout import ParameterLayout
from evohbde.objectives import CrossEntropy, resolve
from evohbde.outputs import score
from evohbde.problem import NetworkProblem
from evohbde.reductions import RandomBlocking
from evohbde.strategies import computing, precision
from tests.small_networks import digits, mlp
from tests.strategies.odd_networks import network_of

DATA = digits(120)
CPU = torch.device("cpu")


def evaluator_of(network: nn.Module, taken: str, **options) -> NetworkEvaluator:
    layout = ParameterLayout(network)
    reduction = RandomBlocking(layout.flatten(network), 20)
    return NetworkEvaluator(network, layout, reduction, resolve("cross_entropy"), DATA, precision=taken, **options)


@pytest.mark.parametrize("taken", ["bfloat16", "bf16"])
def test_bfloat16_is_refused_with_the_reason(taken):
    with pytest.raises(ValueError, match="their ranking becomes chance; use 'float16'"):
        NetworkProblem(mlp(), DATA, precision=taken)


@pytest.mark.parametrize(
    ("taken", "message"),
    [
        ("tf32", "`precision` 'tf32' needs a CUDA device, the data are on 'cpu': use 'float32'"),
        ("half", "`precision` must be one of float32, tf32, float16, got 'half'"),
    ],
)
def test_other_precisions_are_refused(taken, message):
    with pytest.raises(ValueError, match=message):
        NetworkProblem(mlp(), DATA, precision=taken)


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("mlp, dropout", "views"),
        ("mlp, dropout", "onednn"),
        ("mlp, dropout", "batched"),
        ("BatchNorm", "views"),
        ("BatchNorm", "folded"),
    ],
)
def test_float16_is_near_float32_and_says_how_near(name, strategy):
    network = network_of(name)
    half, single = (evaluator_of(network, taken, strategy=strategy) for taken in ("float16", "float32"))
    z = half.reduction.center + 0.1 * torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    scores = [evaluator(z, slice(0, 120))[:, 0] for evaluator in (half, single)]
    difference = (scores[0] - scores[1]).abs()
    assert 0 < float(difference.max()) < 0.01 * float(scores[1].max())
    assert single.choice.score_deviations == {} and "float16" not in single.choice.deviations
    assert half.choice.score_deviations["cross_entropy"] == pytest.approx(float(difference[:4].max()), rel=0.05)
    assert 0 < half.choice.deviations["float16"] < 0.01
    assert half.num_samples_seen == single.num_samples_seen == 720


def test_a_precision_that_overflows_is_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10))
    nn.init.constant_(network[1].weight, 1e3)
    nn.init.constant_(network[2].weight, 1e3)
    evaluator = evaluator_of(network, "float16")
    with pytest.raises(ValueError, match="`precision` 'float16' overflows in this network"):
        evaluator(evaluator.reduction.center[None], slice(0, 120))


def test_a_device_that_lacks_a_precision_is_named():
    class Lacking(nn.Linear):
        def forward(self, x):
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("not implemented for 'Half'")
            return super().forward(x)

    evaluator = evaluator_of(nn.Sequential(nn.Flatten(), Lacking(64, 10)), "float16")
    with pytest.raises(ValueError, match=r"`precision` 'float16' cannot run this network on 'cpu': not impl.*float32"):
        evaluator(evaluator.reduction.center[None], slice(0, 120))


def test_float32_is_float32_whatever_is_set_outside():
    network = network_of("BatchNorm")
    evaluator = evaluator_of(network, "float32")
    z = evaluator.reduction.center[None]
    plain, scores = evaluator(z, slice(0, 120)), score(network, DATA)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(evaluator(z, slice(0, 120)), plain)
        assert score(network, DATA) == scores


def test_final_scores_are_taken_in_float32():
    network = network_of("mlp, dropout")
    options = {"reduction": lambda theta: RandomBlocking(theta, 20), "strategy": "views"}
    problems = [NetworkProblem(network, DATA, CrossEntropy(), precision=p, **options) for p in ("float16", "float32")]
    z = problems[0].center + 0.1
    for problem in problems:
        problem.evaluate(problem.generate_batch(2))
    assert problems[0].score(z, DATA) == problems[1].score(z, DATA)


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9")
def test_settings_of_CUDA_are_put_back_also_after_an_error():
    def found():
        return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision

    before = found()
    for name in ("ieee", "tf32"):
        with precision._cuda_products(name):
            assert found() == (name, name)
        assert found() == before
        with pytest.raises(KeyError), precision._cuda_products(name):
            raise KeyError
        assert found() == before


def test_autocast_is_on_for_float16_only_and_keeps_no_casts():
    with computing("float16", CPU):
        assert torch.is_autocast_enabled("cpu") and not torch.is_autocast_cache_enabled()
        with computing("float32", CPU):
            assert not torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")
