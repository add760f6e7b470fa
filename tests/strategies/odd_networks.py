"""Which networks are hard to run in any way but their own? All take 8x8 digits and give 10 class scores."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.small_networks import mlp


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x.flatten(1)).tanh()).relu())


class Branching(nn.Module):
    """What it does depends on the data, so that it cannot be traced; a batch is cut by nobody's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if float(x.abs().max()) >= 0:
            x = x.relu()
        return self.head(functional.max_pool2d(x, 4).flatten(1))


class Functional(nn.Module):
    """ReLU as a function, a residual sum, and `view`, which not every memory layout allows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm1(self.conv1(x)))
        x = functional.relu(self.norm2(self.conv2(x)) + x)
        return self.head(functional.max_pool2d(x, 4).view(-1, 32))


class Twice(nn.Module):
    """One convolution and one BatchNorm, each used two times."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv, self.norm = (
            nn.Conv2d(1, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.BatchNorm2d(8),
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = self.norm(self.conv(self.conv(x))).relu()
        return self.head(functional.max_pool2d(x, 4).flatten(1))


def of_layers(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.MaxPool2d(4), nn.Flatten(), nn.Linear(32, 10))


def normed() -> nn.Sequential:
    return of_layers(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())


def frozen() -> nn.Sequential:
    network = of_layers(nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    network[0].requires_grad_(False)
    network[2].requires_grad_(False)
    return network


def depthwise() -> nn.Sequential:
    return of_layers(nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8))


def hooked() -> nn.Sequential:
    network = normed()
    network[0].register_forward_hook(lambda module, inputs, output: output * 2.0)
    return network


NETWORKS: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "mlp, dropout": (mlp, {"views", "onednn", "batched", "vmap"}),
    "mlp, narrow": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.SiLU(), nn.Linear(5, 10, bias=False)),
        {"views", "onednn", "batched", "vmap"},
    ),
    "tied": (Tied, {"views", "onednn", "vmap"}),
    "BatchNorm": (normed, {"views", "folded", "vmap"}),
    "BatchNorm, bias": (
        lambda: of_layers(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.5)),
        {"views", "folded", "vmap"},
    ),
    "BatchNorm without weights": (
        lambda: of_layers(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8, affine=False), nn.ReLU()),
        {"views", "folded", "vmap"},
    ),
    "no BatchNorm": (lambda: of_layers(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()), {"views", "folded", "vmap"}),
    "frozen parts": (frozen, {"views", "folded", "vmap"}),
    "depthwise": (depthwise, {"views", "folded", "vmap"}),
    "functional": (Functional, {"views", "folded", "vmap"}),
    "used twice": (Twice, {"views", "folded", "vmap"}),
    "branching": (Branching, {"views"}),
    "hooked": (hooked, {"views", "vmap"}),
}
"""Each network, and the strategies that can run it."""


def network_of(name: str) -> nn.Module:
    """With weights and BatchNorm statistics that differ from channel to channel."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = NETWORKS[name][0]()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.running_mean, module.bias):
                    _ = None if tensor is None else tensor.data.normal_(0, 0.5)
                for tensor in (module.running_var, module.weight):
                    _ = None if tensor is None else tensor.data.uniform_(0.3, 2.0)
    return network.eval()
