"""Are the networks those of the papers, and do the released weights fit them exactly?"""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from problems import networks
from problems.cifar import find_data_dir


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def released(name: str):
    try:
        path = find_data_dir() / f"{name}.safetensors"
    except FileNotFoundError as error:
        pytest.skip(f"no data folder: {error}")
    if not path.is_file():
        pytest.skip(f"{path.name} is not in the data folder")
    return path


def saved_state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in network.state_dict().items() if "num_batches" not in name}


@pytest.mark.parametrize(
    ("build", "num_classes", "expected"),
    [
        (networks.resnet20, 10, 269_722),
        (networks.resnet20, 100, 275_572),
        (networks.resnet32, 10, 464_154),
        (networks.resnet44, 10, 658_586),
        (networks.resnet56, 10, 853_018),
        (networks.resnet110, 10, 1_727_962),
    ],
)
def test_cifar_resnets_have_the_published_size_and_output(build, num_classes, expected):
    network = build(num_classes).eval()
    assert num_parameters(network) == expected
    with torch.no_grad():
        assert network(torch.randn(2, 3, 32, 32)).shape == (2, num_classes)


@pytest.mark.parametrize(("num_classes", "expected"), [(10, 11_181_642), (100, 11_227_812)])
def test_resnet18_has_the_published_size_and_output(num_classes, expected):
    pytest.importorskip("torchvision", reason="ResNet-18 is torchvision's")
    network = networks.resnet18(num_classes).eval()
    assert num_parameters(network) == expected
    with torch.no_grad():
        assert network(torch.randn(2, 3, 32, 32)).shape == (2, num_classes)


@pytest.mark.parametrize("depth", [2, 18, 21])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth):
    with pytest.raises(ValueError, match=f"`depth` must be 6n \\+ 2 .* got {depth}"):
        networks.cifar_resnet(depth)


def test_shortcut_keeps_every_second_pixel_and_pads_channels_with_zeros_on_both_sides():
    x = torch.randn(2, 16, 8, 8)
    out = networks.BasicBlock(16, 32, stride=2).shortcut(x)
    assert out.shape == (2, 32, 4, 4)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any() and not out[:, 24:].any()


def test_a_block_whose_convolutions_are_silent_is_its_shortcut_after_relu():
    block = networks.BasicBlock(4, 8, stride=2).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(3, 4, 6, 6)
    assert torch.equal(block(x), block.shortcut(x).relu())


def test_a_block_that_loses_channels_is_refused():
    with pytest.raises(ValueError, match=r"`out_channels` must be at least `in_channels` = 8"):
        networks.BasicBlock(8, 4)


def test_initialised_depends_on_the_seed_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (networks.initialised(lambda: nn.Linear(3, 3), seed).weight for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("resnet20-cifar10", networks.resnet20),
        ("resnet20-jpeg-cifar10", networks.resnet20),
        ("resnet56-cifar10", networks.resnet56),
    ],
)
def test_released_weights_have_the_keys_of_the_network_and_are_loaded(name, build):
    path = released(name)
    network = networks.load_safetensors(build(), path)
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(saved_state(network))
        assert all(torch.equal(file.get_tensor(key), tensor) for key, tensor in saved_state(network).items())
    assert not network.training


def test_saved_weights_return_unchanged(tmp_path):
    one, other = networks.resnet20(), networks.resnet20()
    save_file(saved_state(one), tmp_path / "weights.safetensors")
    networks.load_safetensors(other, tmp_path / "weights.safetensors")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(one.eval()(x), other(x))


def test_weights_that_do_not_fit_are_refused_and_change_nothing(tmp_path):
    network, path = networks.resnet20(), tmp_path / "weights.safetensors"
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = saved_state(networks.resnet20(num_classes=100))
    save_file(state, path)
    with pytest.raises(ValueError, match=r"`linear.* check `num_classes`"):
        networks.load_safetensors(network, path)
    state["surplus"] = state.pop("linear.bias")
    save_file(state, path)
    with pytest.raises(ValueError, match=r"1 names missing \(first \['linear.bias'\]\).*\['surplus'\]"):
        networks.load_safetensors(network, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.safetensors"):
        networks.load_safetensors(networks.resnet20(), tmp_path / "nowhere.safetensors")
