"""Does every searched weight lie where the layout says, and is a bound buffer the network?"""

import pytest
import torch
from torch import nn

from evohbde.layout import ParameterLayout


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)).eval()


@pytest.fixture
def network() -> nn.Sequential:
    with torch.random.fork_rng():
        return small_network()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.embedding(x))


def test_order_names_and_offsets_are_those_of_named_parameters(network):
    layout = ParameterLayout(network)
    parameters = dict(network.named_parameters())
    assert layout.names == tuple(parameters)
    assert layout.shapes == tuple(p.shape for p in parameters.values())
    assert layout.sizes == (12, 3, 3, 3, 6, 2) and layout.offsets == (0, 12, 15, 18, 21, 27)
    assert layout.size == len(layout) == sum(p.numel() for p in parameters.values())
    assert torch.equal(layout.flatten(network), nn.utils.parameters_to_vector(network.parameters()))


def test_tensor_index_numbers_the_tensor_of_each_weight(network):
    layout = ParameterLayout(network)
    assert layout.tensor_index.dtype == torch.int32
    assert layout.tensor_index.tolist() == [0] * 12 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 6 + [5] * 2


@pytest.mark.parametrize(
    ("include", "exclude", "names"),
    [
        ("*", (), ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]),
        ("3.*", (), ["3.weight", "3.bias"]),
        (["0.*", "3.bias"], (), ["0.weight", "0.bias", "3.bias"]),
        (["3.bias", "0.*"], (), ["0.weight", "0.bias", "3.bias"]),
        ("*", "*.bias", ["0.weight", "1.weight", "3.weight"]),
        ("0.*", "0.*s", ["0.weight"]),
        ("?.[wb]*", ["1.*", "0.bias"], ["0.weight", "3.weight", "3.bias"]),
    ],
)
def test_patterns_choose_names_and_exclude_wins(network, include, exclude, names):
    assert list(ParameterLayout(network, include, exclude).names) == names


def test_a_tied_weight_counts_once_and_moves_both_uses():
    model = Tied()
    layout = ParameterLayout(model)
    assert layout.names == ("embedding.weight", "head.bias") and layout.size == 20
    buffer = layout.bind_(model)
    buffer.fill_(0.5)
    assert model.head.weight is model.embedding.weight
    assert torch.equal(model(torch.tensor([1])), torch.full((1, 5), 3 * 0.25 + 0.5))


def test_buffers_are_never_searched(network):
    assert not any("running" in name or "num_batches" in name for name in ParameterLayout(network).names)
    statistics = network[1].running_mean.clone()
    layout = ParameterLayout(network)
    layout.load_(network, torch.ones(layout.size))
    assert torch.equal(network[1].running_mean, statistics)


def test_frozen_parameters_are_left_out_unless_asked_for(network):
    network[0].requires_grad_(False)
    assert ParameterLayout(network).names == ("1.weight", "1.bias", "3.weight", "3.bias")
    assert len(ParameterLayout(network, include_frozen=True).names) == 6


def test_integer_complex_and_empty_parameters_are_left_out(network):
    network.register_parameter("codes", nn.Parameter(torch.arange(4), requires_grad=False))
    network.register_parameter("phase", nn.Parameter(torch.ones(2, dtype=torch.complex64)))
    network.register_parameter("nothing", nn.Parameter(torch.empty(0, 3)))
    assert len(ParameterLayout(network, include_frozen=True).names) == 6


def test_a_mask_marks_the_weights_of_the_chosen_parameters(network):
    layout = ParameterLayout(network)
    for include, exclude in (("*", ()), ("*.bias", ()), ("*", "*.bias")):
        chosen = ParameterLayout(network, include, exclude).names
        expected = [name in chosen for name, size in zip(layout.names, layout.sizes, strict=True) for _ in range(size)]
        assert layout.mask(include, exclude).tolist() == expected
    with pytest.raises(ValueError, match=r"`include` pattern 'nothing\.\*' matches no parameter"):
        layout.mask("nothing.*")


def test_flatten_and_load_are_inverse(network):
    layout = ParameterLayout(network, exclude="1.*")
    theta = torch.arange(layout.size, dtype=torch.float32)
    kept = network[1].weight.clone()
    assert layout.load_(network, theta) is network
    assert torch.equal(layout.flatten(network), theta)
    assert torch.equal(network[1].weight, kept)
    flat, kept = layout.flatten(network), theta.clone()
    flat.zero_()
    theta.zero_()
    assert torch.equal(layout.flatten(network), kept), "flatten and load_ must copy"
    assert not flat.requires_grad and all(p.requires_grad for p in network.parameters())


def test_views_name_the_pieces_of_one_or_many_candidates_without_copying(network):
    layout = ParameterLayout(network)
    theta = torch.randn(2, 3, layout.size)
    views = layout.views(theta)
    assert views["0.weight"].shape == (2, 3, 3, 4) and views["3.bias"].shape == (2, 3, 2)
    assert torch.equal(views["0.weight"][1, 2].flatten(), theta[1, 2, :12])
    assert all(view.untyped_storage().data_ptr() == theta.untyped_storage().data_ptr() for view in views.values())
    assert torch.equal(layout.views(theta.transpose(0, 1))["3.weight"], views["3.weight"].transpose(0, 1))


def test_a_scalar_parameter_has_its_place():
    model = nn.Module()
    model.scale = nn.Parameter(torch.tensor(2.0))
    model.rest = nn.Linear(2, 1)
    layout = ParameterLayout(model)
    assert layout.shapes[0] == () and layout.size == 4
    assert layout.load_(model, torch.arange(4.0)).scale == 0


def test_writing_the_bound_buffer_is_writing_the_network(network):
    layout, x = ParameterLayout(network), torch.randn(5, 4)
    before = network(x)
    buffer = layout.bind_(network)
    assert layout.is_bound(network, buffer)
    assert torch.equal(network(x), before)
    buffer.copy_(torch.linspace(-1, 1, layout.size))
    expected = layout.load_(small_network(), buffer)(x)
    assert torch.equal(network(x), expected) and not torch.equal(expected, before)
    with torch.no_grad():
        network[3].bias[1] = 7
    assert buffer[-1] == 7, "memory is shared in both directions"


def test_binding_a_part_leaves_the_rest_alone(network):
    layout = ParameterLayout(network, "3.*")
    kept = network[0].weight.data_ptr()
    buffer = layout.bind_(network)
    assert buffer.shape == (8,) and network[0].weight.data_ptr() == kept


@pytest.mark.parametrize(
    "undo",
    [
        lambda network: network.double(),
        lambda network: network.half(),
        lambda network: network.load_state_dict({k: v.clone() for k, v in network.state_dict().items()}, assign=True),
        lambda network: setattr(network[3], "bias", nn.Parameter(torch.zeros(2))),
    ],
    ids=["double", "half", "assign", "new parameter"],
)
def test_what_undoes_the_binding_is_noticed(network, undo):
    layout = ParameterLayout(network)
    buffer = layout.bind_(network)
    undo(network)
    assert not layout.is_bound(network, buffer)


def test_loading_a_state_without_assign_keeps_the_binding(network):
    layout, state = ParameterLayout(network), small_network().state_dict()
    buffer = layout.bind_(network)
    network.load_state_dict({name: value + 1 if value.is_floating_point() else value for name, value in state.items()})
    assert layout.is_bound(network, buffer)
    assert torch.equal(buffer, layout.flatten(small_network()) + 1)


def test_equal_layouts_are_equal_and_hash_alike(network):
    layout, other = ParameterLayout(network), ParameterLayout(small_network())
    assert layout == other and hash(layout) == hash(other)
    assert layout != ParameterLayout(network, "0.*") and layout != "layout"
    assert repr(layout) == "ParameterLayout(29 weights in 6 tensors)"


def test_the_type_of_the_weights_is_kept(network):
    layout = ParameterLayout(network.double())
    assert layout.dtype == torch.float64 and layout.flatten(network).dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "arguments", "remedy"),
    [
        (lambda network: network[0].double(), {}, r"several types .*model\.float\(\)"),
        (lambda network: network[0].to("meta"), {}, r"several devices \(cpu, meta\).*move the model to one"),
        (lambda network: network.requires_grad_(False), {}, "pass include_frozen=True"),
        (
            lambda network: network,
            {"include": "layer9.*"},
            "matches no parameter; names look like: 0.weight",
        ),
        (lambda network: network, {"exclude": "Bias"}, "`exclude` pattern 'Bias' matches no parameter"),
        (lambda network: network, {"exclude": "*"}, "widen `include` or shorten `exclude`"),
        (lambda network: network, {"include": ()}, "widen `include`"),
    ],
)
def test_nothing_to_search_and_mixed_types_name_the_remedy(network, change, arguments, remedy):
    change(network)
    with pytest.raises(ValueError, match=remedy):
        ParameterLayout(network, **arguments)


def test_a_model_without_parameters_is_an_error():
    with pytest.raises(ValueError, match="the model has no parameters"):
        ParameterLayout(nn.ReLU())


def test_wrong_arguments_name_what_was_expected(network):
    with pytest.raises(TypeError, match=r"expected `model` to be a torch\.nn\.Module, got OrderedDict"):
        ParameterLayout(network.state_dict())
    with pytest.raises(TypeError, match="expected `include` to be a name pattern or a list of them"):
        ParameterLayout(network, include=[3])


def test_a_vector_or_model_that_does_not_fit_is_an_error(network):
    layout = ParameterLayout(network)
    for theta in (torch.zeros(28), torch.zeros(2, 30), torch.tensor(0.0)):
        with pytest.raises(ValueError, match=r"expected `theta` of shape \(\.\.\., 29\), one column per"):
            layout.views(theta)
    with pytest.raises(ValueError, match=r"one flat vector `theta` of shape \(29,\), got \(2, 29\)"):
        layout.load_(network, torch.zeros(2, 29))
    with pytest.raises(ValueError, match=r"does not fit this layout: expected '0.weight' of shape .3, 4., got .4, 4."):
        layout.flatten(nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(ValueError, match="got no such parameter"):
        layout.bind_(nn.Sequential(nn.Linear(4, 3, bias=False)))
