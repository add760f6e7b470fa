"""Which small networks and data do the tests of problems share?"""

import copy
from collections import OrderedDict

import torch
from sklearn.datasets import load_digits
from sklearn.metrics import f1_score
from torch import Tensor, nn

from evohbde.data import TensorData


def digits(num: int = 120) -> TensorData:
    """Some of the 8x8 digits, in an order of no meaning: `(num, 1, 8, 8)`."""
    bunch = load_digits()
    index = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))[:num]
    images = torch.from_numpy(bunch.images / 16.0).float()[:, None]
    return TensorData(images[index], torch.from_numpy(bunch.target)[index])


def mlp() -> nn.Sequential:
    """A network with dropout, 64-16-10, somewhat trained, in training mode."""
    modules = {"flatten": nn.Flatten(), "hidden": nn.Linear(64, 16), "dropout": nn.Dropout(0.5), "relu": nn.ReLU()}
    return trained(nn.Sequential(OrderedDict(modules, head=nn.Linear(16, 10))))


def cnn() -> nn.Sequential:
    """A network with BatchNorm and dropout, somewhat trained, in training mode."""
    modules = {"conv": nn.Conv2d(1, 6, 3, stride=2), "norm": nn.BatchNorm2d(6), "relu": nn.ReLU()}
    modules |= {"flatten": nn.Flatten(), "dropout": nn.Dropout(0.3), "head": nn.Linear(54, 10)}
    return trained(nn.Sequential(OrderedDict(modules)))


def trained(model: nn.Sequential) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        data, optimizer = digits(), torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(15):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.x), data.y).backward()
            optimizer.step()
    return model


def f1_of_scikit_learn(model: nn.Module, theta: Tensor, data: TensorData) -> float:
    """Macro-F1 of a fresh copy of `model` with all its weights replaced by `theta`."""
    network = copy.deepcopy(model).eval()
    nn.utils.vector_to_parameters(theta, network.parameters())
    with torch.no_grad():
        predicted = network(data.x).argmax(1)
    return float(f1_score(data.y.numpy(), predicted.numpy(), average="macro", zero_division=0))
