"""Which image networks do the problems use, and how do they get their weights?

The CIFAR ResNets of He et al., "Deep Residual Learning for Image Recognition" (2016), section 4.2, with
parameter-free shortcuts (option A), and torchvision's ResNet-18.
"""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters: `(n, C, h, w) -> (n, out_channels, h / s, w / s)`."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        if out_channels < in_channels:
            raise ValueError(
                f"`out_channels` must be at least `in_channels` = {in_channels}, as the shortcut can only add "
                f"zero channels; got {out_channels}"
            )
        self.stride = stride
        self.padding = out_channels - in_channels
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def shortcut(self, x: Tensor) -> Tensor:
        """Keep every `stride`-th pixel and put the new, zero channels half before and half after the old ones."""
        before = self.padding // 2
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, before, self.padding - before))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def cifar_resnet(depth: int, *, num_classes: int = 10) -> nn.Sequential:
    """Build the ResNet of `depth` = 6n + 2 layers for `(n, 3, 32, 32)` images, with random weights."""
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"`depth` must be 6n + 2 with n >= 1, such as 20, 32, 44, 56 or 110; got {depth}")
    num_blocks = (depth - 2) // 6
    network = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 16, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(16),
            relu=nn.ReLU(),
            layer1=_stage(16, 16, num_blocks, stride=1),
            layer2=_stage(16, 32, num_blocks, stride=2),
            layer3=_stage(32, 64, num_blocks, stride=2),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            linear=nn.Linear(64, num_classes),
        )
    )
    return network.apply(_he_initialise)


def resnet20(num_classes: int = 10) -> nn.Sequential:
    """Build the CIFAR ResNet-20 (D = 269,722 for 10 classes)."""
    return cifar_resnet(20, num_classes=num_classes)


def resnet32(num_classes: int = 10) -> nn.Sequential:
    """Build the CIFAR ResNet-32 (D = 464,154 for 10 classes)."""
    return cifar_resnet(32, num_classes=num_classes)


def resnet44(num_classes: int = 10) -> nn.Sequential:
    """Build the CIFAR ResNet-44 (D = 658,586 for 10 classes)."""
    return cifar_resnet(44, num_classes=num_classes)


def resnet56(num_classes: int = 10) -> nn.Sequential:
    """Build the CIFAR ResNet-56 (D = 853,018 for 10 classes)."""
    return cifar_resnet(56, num_classes=num_classes)


def resnet110(num_classes: int = 10) -> nn.Sequential:
    """Build the CIFAR ResNet-110 (D = 1,727,962 for 10 classes)."""
    return cifar_resnet(110, num_classes=num_classes)


def resnet18(num_classes: int = 10, weights: str | None = None) -> nn.Module:
    """Build torchvision's ResNet-18 with a new last layer (D = 11,181,642 for 10 classes, 11,227,812 for 100).

    `weights` is a torchvision name such as "IMAGENET1K_V1", which torchvision downloads; None means random.
    """
    try:
        from torchvision.models import resnet18 as imagenet_resnet18
    except ImportError as error:
        raise ImportError("resnet18 needs torchvision: pip install 'evohbde[vision]'") from error
    network = imagenet_resnet18(weights=weights)
    network.fc = nn.Linear(network.fc.in_features, num_classes)
    return network


def initialised(build: Callable[[], AnyModule], seed: int) -> AnyModule:
    """Call `build` with its random weights drawn from `seed`, leaving torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return build()


def load_safetensors(model: AnyModule, path: str | Path) -> AnyModule:
    """Fill `model` in place from a safetensors file and put it in eval mode.

    Every weight and BatchNorm statistic must be in the file with its shape, and nothing else;
    only BatchNorm's batch counter, which inference does not read, may be absent.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; expected a .safetensors file")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    _check_fit(model.state_dict(), tensors, path)
    model.load_state_dict(tensors, strict=False)
    return model.eval()


def _stage(in_channels: int, out_channels: int, num_blocks: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride=stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels) for _ in range(num_blocks - 1)))


def _he_initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)


def _check_fit(expected: dict[str, Tensor], tensors: dict[str, Tensor], path: Path) -> None:
    required = {name for name in expected if not name.endswith("num_batches_tracked")}
    missing, surplus = sorted(required - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or surplus:
        raise ValueError(
            f"{path.name} does not belong to this model: {len(missing)} names missing (first {missing[:3]}), "
            f"{len(surplus)} not in the model (first {surplus[:3]}); build the architecture the file was saved from"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"{path.name}: `{name}` has shape {tuple(tensor.shape)}, the model expects "
                f"{tuple(expected[name].shape)}; check `num_classes`"
            )
