"""Several candidates at once, for chains of linear layers and elementwise functions: batched matrix products."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evohbde.reductions import Reduction
from evohbde.strategies.onednn import has_product, product
from evohbde.strategies.views import Strategy, Working

ELEMENTWISE = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
    nn.Hardtanh,
    nn.Hardswish,
    nn.Identity,
    nn.Dropout,
)
"""Modules that in evaluation mode treat every number alike, whatever the shape."""

SAME_EVERYWHERE = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Identity, nn.Dropout)
"""Those that give a number the same bits wherever it lies; a CPU's vector and scalar kernels of others differ."""

GROUP_BYTES = 1 << 21
"""Activations of one layer of a group stay within a core's cache."""

GROUP_BYTES_CUDA = 1 << 28
"""A GPU wants many candidates at once, and has room for them."""

GRAIN = 16
"""Samples are the columns of all products here, and products of rows that do not start at a multiple of 16 bytes take
other kernels, whose results differ in the last bits."""

FEWEST_COLUMNS = 32
"""So do products of fewer columns."""


def group_bytes(device: torch.device) -> int:
    return GROUP_BYTES_CUDA if device.type == "cuda" else GROUP_BYTES


class Batched(Strategy):
    """See the module. `Batched.build` returns None where the chain holds anything else."""

    name = "batched"

    def __init__(self, working: Working, reduction: Reduction, chain: list[nn.Module]) -> None:
        super().__init__(working, reduction)
        self._chain, self._dtype = chain, working.theta.dtype
        self._width = max(module.out_features for module in chain if isinstance(module, nn.Linear))
        names = {id(parameter): name for name, parameter in working.network.named_parameters()}
        self._names = {id(p): names[id(p)] for module in chain for p in module.parameters()}
        self._theta = working.theta[None]
        self._views: dict[str, Tensor] = {}
        self._outputs: dict[int, Tensor] = {}

    @staticmethod
    def build(working: Working, reduction: Reduction) -> Batched | None:
        chain = list(working.tail)
        is_linear = [type(module) is nn.Linear for module in chain]
        if not any(is_linear):
            return None
        first = is_linear.index(True)
        head, rest = chain[:first], chain[first:]
        if any(not isinstance(module, (nn.Flatten, *ELEMENTWISE)) for module in head):
            return None
        if any(type(module) not in (nn.Linear, *ELEMENTWISE) for module in rest):
            return None
        if any(isinstance(module, nn.Linear) and module.out_features == 1 for module in rest):
            return None  # products of a matrix and a vector round by other rules
        return Batched(working, reduction, chain)

    def compute_in(self, precision: str) -> None:
        # Autocast knows no products that write into given memory.
        self._dtype = torch.float16 if precision == "float16" else self.working.theta.dtype

    def fit(self, num_samples: int) -> None:
        numbers = max(num_samples * self._width, self.working.layout.size)
        self.group = max(1, group_bytes(self._theta.device) // (numbers * self._theta.element_size()))

    def load(self, z: Tensor) -> Tensor:
        self._theta = self.expanded(z)
        self._views = self.working.layout.views(self._theta.to(self._dtype))
        return self._theta

    def run(self, features: Tensor) -> Tensor:
        num = len(features)
        x = _padded(features).to(self._dtype)
        for place, module in enumerate(self._chain):
            if isinstance(module, nn.Linear):
                x = self._linear(place, module, x)
            elif type(module) is nn.ReLU and x.ndim == 3:
                x = x.relu_()  # what a linear layer has made is ours to overwrite
            elif x.ndim == 3 and x.device.type == "cpu" and not isinstance(module, SAME_EVERYWHERE):
                x = torch.stack([module(one) for one in x])
            else:
                x = module(x)
        return x[..., :num].transpose(1, 2)

    def _linear(self, place: int, module: nn.Linear, x: Tensor) -> Tensor:
        """Numbers of a group, `(p, outputs, B)`, from those of the layer before or from the samples, `(B, inputs)`."""
        weight = self._of(module.weight)
        bias = None if module.bias is None else self._of(module.bias)[..., None]
        if x.ndim == 2:  # all candidates see the same inputs: one product serves them all
            out = self._shared_product(place, weight, x)
            return out if bias is None else out.add_(bias)
        out = self._output(place, (len(weight), weight.shape[1], x.shape[2]), x)
        return torch.bmm(weight, x, out=out) if bias is None else torch.baddbmm(bias, weight, x, out=out)

    def _shared_product(self, place: int, weight: Tensor, x: Tensor) -> Tensor:
        rows = weight.reshape(-1, weight.shape[2])
        if x.dtype == torch.float32 and has_product(x.device):
            return product(rows, x).view(*weight.shape[:2], len(x))
        out = self._output(place, (*weight.shape[:2], len(x)), x)
        torch.mm(rows, x.t(), out=out.view(-1, len(x)))
        return out

    def _output(self, place: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        # Fresh memory costs more than the arithmetic, so each layer keeps its own.
        out = self._outputs.get(place)
        if out is None or out.shape != shape:
            out = self._outputs[place] = like.new_empty(shape)
        return out

    def _of(self, parameter: Tensor) -> Tensor:
        name = self._names[id(parameter)]
        if name in self._views:
            return self._views[name]
        return parameter.to(self._dtype).expand(len(self._theta), *parameter.shape)


def _padded(features: Tensor) -> Tensor:
    """Samples, `(B, ...)`, and some of them once more, so that there are as many as products need."""
    num = len(features)
    columns = max(FEWEST_COLUMNS, num + -num % GRAIN)
    return features if columns == num else features[torch.arange(columns, device=features.device) % num]
