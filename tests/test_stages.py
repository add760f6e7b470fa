"""Is a network cut only where the pieces still are the network, and is what lies in front computed once?"""

from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from evohbde.data import TensorData
from evohbde.stages import PrefixCache, Stages, find_stages, pieces, samples_at_once, widest_output


def nested() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = OrderedDict(conv=nn.Conv2d(1, 4, 3), norm=nn.BatchNorm2d(4), relu=nn.ReLU())
        inner = nn.Sequential(nn.Linear(144, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 3)))
        return nn.Sequential(OrderedDict(body=nn.Sequential(body), flatten=nn.Flatten(), head=inner)).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Swapped(nn.Module):
    """Children that would fit in the order of definition, but are used in another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.first(self.second(x))


class Branched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.side, self.head = nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.body(x).relu() + self.side(x)[:, :4])


class Flattening(nn.Module):
    """A convolutional network as torchvision writes them: it flattens in `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))

    def forward(self, x):
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


class Wrapped(nn.Sequential):
    """A Sequential only by name."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_nested_sequentials_are_unrolled(images):
    model = nested()
    stages = find_stages(model, images)
    assert stages.names == (
        "body.conv", "body.norm", "body.relu", "flatten", "head.0", "head.1.0", "head.1.1"
    )  # fmt: skip
    assert len(stages) == 7
    assert all(stages.modules[i] is model.get_submodule(name) for i, name in enumerate(stages.names))
    assert torch.equal(stages.run(images), model(images))
    assert torch.equal(stages.run(stages.run(images, 0, 3), 3), model(images))


def test_a_module_used_twice_appears_twice():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu, nn.Linear(4, 2)).eval()
    x = torch.randn(16, 4)
    stages = find_stages(model, x)
    assert stages.names == ("0", "1", "2", "3", "4") and torch.equal(stages.run(x), model(x))


def test_a_network_that_flattens_in_forward_is_cut_before_its_first_linear_layer(images):
    model = Flattening().eval()
    stages = find_stages(model, images)
    assert stages.names == (
        "features.0", "features.1", "pool", "flatten", "classifier.0", "classifier.1", "classifier.2"
    )  # fmt: skip
    assert torch.equal(stages.run(images), model(images))


def test_torchvision_resnet18_is_found():
    models = pytest.importorskip("torchvision.models", reason="torchvision is an extra")
    model = models.resnet18(num_classes=10).eval()
    x = torch.randn(4, 3, 32, 32)
    stages = find_stages(model, x)
    assert stages.names[-1] == "fc" and "layer4.1" in stages.names and len(stages) > 10
    with torch.no_grad():
        assert torch.equal(stages.run(x), model(x))
    assert stages.first_searched(model.layer3.parameters()) == stages.names.index("layer3.0")


@pytest.mark.parametrize("model", [Swapped(), Branched(), Wrapped(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Linear(4, 2)])
def test_what_is_no_chain_stays_whole(model):
    x = torch.randn(16, 4)
    stages = find_stages(model.eval(), x)
    assert stages.names == ("",) and stages.modules == (model,)
    assert torch.equal(stages.run(x), model(x))


def test_a_hook_that_changes_the_output_keeps_the_model_whole():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    model.register_forward_hook(lambda module, inputs, output: output + 1)
    assert find_stages(model, torch.randn(16, 4)).names == ("",)


def test_a_user_may_name_the_chain(images):
    model = nested()
    stages = find_stages(model, images, ["body", "flatten", "head"])
    assert stages.names == ("body", "flatten", "head") and torch.equal(stages.run(images), model(images))
    swapped = Swapped().eval()
    assert find_stages(swapped, torch.randn(16, 4), ["second", "first"]).names == ("second", "first")


@pytest.mark.parametrize(
    ("names", "remedy"),
    [
        (
            ["body", "tail"],
            "`stages` names 'tail', which the model does not have; its children are: body, flatten, head",
        ),
        (["body", "head"], "does not reproduce the model's outputs: name every module in the order"),
        (["flatten", "body", "head"], "does not reproduce the model's outputs"),
        ([], "does not reproduce the model's outputs.*or leave `stages` out"),
    ],
)
def test_names_that_are_wrong_are_refused(images, names, remedy):
    with pytest.raises(ValueError, match=remedy):
        find_stages(nested(), images, names)


def test_the_first_searched_stage_counts_tied_weights(images):
    model = nested()
    stages = find_stages(model, images)
    assert stages.first_searched([model.head[1][1].bias]) == 6
    assert stages.first_searched([model.head[1][1].bias, model.body.norm.weight]) == 1
    assert stages.first_searched(model.parameters()) == 0
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    assert Stages(tied.named_children()).first_searched([tied[2].weight]) == 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_cost_shares_are_those_of_the_multiply_adds(images, mode):
    with mode():
        shares = find_stages(nested(), images).cost_shares(images[:2])
    macs = [4 * 9 * 36, 0, 0, 0, 144 * 8, 0, 8 * 3]
    assert shares == pytest.approx([mac / sum(macs) for mac in macs])
    assert sum(shares) == pytest.approx(1)


def test_without_multiply_adds_the_stages_share_equally():
    assert Stages([("0", nn.ReLU()), ("1", nn.Tanh())]).cost_shares(torch.ones(2, 2)) == [0.5, 0.5]


class Counting(nn.Module):
    """Pass on what it is given, and remember how many samples came by."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        return x


def counted(images: torch.Tensor, depth: int = 4, limit: int = 1 << 20) -> tuple[PrefixCache, Counting, nn.Sequential]:
    counter = Counting()
    model = nn.Sequential(counter, nested()).eval()
    data = TensorData(images, torch.zeros(len(images)).long())
    return PrefixCache(data, find_stages(model, images), depth, batch_size=20, limit=limit), counter, model


@torch.inference_mode()
def test_a_prefix_is_computed_once_per_sample_and_equals_a_direct_run(images):
    cache, counter, model = counted(images)
    counter.seen = 0
    spans = [slice(0, 20), slice(20, 40)]
    for _ in range(3):
        for span in spans:
            kept = cache.activations(span)
            expected = cache.stages.run(images[span], 0, 4)
            counter.seen -= 20
            torch.testing.assert_close(kept, expected, rtol=0, atol=0)
            torch.testing.assert_close(cache.stages.run(kept, 4), model(images[span]))
            counter.seen -= 20
    assert cache.num_computed == counter.seen == 40
    assert cache.activations(slice(10, 30)).shape[0] == 20 and cache.num_computed == 40, "a span of known samples"


@torch.inference_mode()
def test_a_span_that_is_known_in_part_is_filled_in(images):
    cache, _, _ = counted(images)
    cache.activations(slice(0, 20))
    torch.testing.assert_close(cache.activations(slice(10, 30)), cache.stages.run(images[10:30], 0, 4))


@torch.inference_mode()
def test_a_cache_returns_the_same_memory_from_the_first_time_on(images):
    cache, _, _ = counted(images)
    first, again = (cache.activations(slice(0, 20)) for _ in range(2))
    assert first.data_ptr() == again.data_ptr(), "kernels may round by where their inputs lie"


@torch.inference_mode()
@pytest.mark.parametrize(("limit", "computed"), [(40 * 4 * 36 * 4, 20), (40 * 4 * 36 * 4 - 1, 60)])
def test_a_cache_keeps_to_its_limit(images, limit, computed):
    cache, _, _ = counted(images, limit=limit)
    results = [cache.activations(slice(0, 20)) for _ in range(3)]
    assert cache.num_computed == computed
    assert torch.equal(results[0], results[2])


@torch.inference_mode()
def test_a_cache_of_depth_zero_is_the_inputs(images):
    cache, counter, _ = counted(images, depth=0)
    counter.seen = 0
    assert cache.activations(slice(3, 9)).data_ptr() == images[3:].data_ptr()
    assert cache.num_computed == counter.seen == 0


@given(num=st.integers(1, 300), batch_size=st.integers(1, 100))
def test_pieces_leave_no_small_rest(num, batch_size):
    parts = pieces(torch.arange(num), batch_size)
    assert torch.equal(torch.cat(parts), torch.arange(num))
    assert all(len(part) == batch_size for part in parts[:-1])
    assert len(parts[-1]) < batch_size + 16
    assert len(parts) == 1 or len(parts[-1]) >= min(16, batch_size)


@given(widest=st.integers(1, 10**8))
def test_a_cpu_takes_as_many_samples_at_once_as_its_cache_holds(widest):
    num = samples_at_once(widest, torch.device("cpu"))
    assert num % 32 == 0
    assert 32 <= num <= 4_096
    assert num == 32 or 4 * num * widest <= 4 << 20
    assert num == 4_096 or 4 * (num + 32) * widest > 4 << 20
    assert samples_at_once(widest, torch.device("cuda")) == 4_096


@torch.inference_mode()
def test_the_widest_output_may_be_that_of_a_part(images):
    layers = [nn.Conv2d(1, 5, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(80, 10)]
    assert widest_output(nn.Sequential(*layers), images[:3]) == 5 * 8 * 8
    assert widest_output(nn.Flatten(), images[:3]) == 64


def test_a_network_that_fails_keeps_no_hooks(images):
    network = nn.Sequential(nn.Flatten(), nn.Linear(63, 10))
    with pytest.raises(RuntimeError):
        widest_output(network, images[:3])
    assert not any(module._forward_hooks for module in network.modules())
