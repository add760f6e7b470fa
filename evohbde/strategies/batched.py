"""Several candidates at once, for chains of linear layers and elementwise functions: batched matrix products."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evohbde.reductions import Reduction
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

COLUMNS = 16
"""Products with fewer columns take other kernels, whose results differ in the last bits."""

GRAIN = 4
"""So do products of a matrix that does not start at a multiple of 16 bytes: rows and widths are kept to this."""


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
        missing = -num % GRAIN
        x = torch.cat([features, features[:missing]]).to(self._dtype) if missing else features.to(self._dtype)
        for place, module in enumerate(self._chain):
            if isinstance(module, nn.Linear):
                x = self._linear(place, module, x)
            elif type(module) is nn.ReLU and x.ndim == 3:
                x = x.relu_()  # what a linear layer has made is ours to overwrite
            elif x.ndim == 3 and x.device.type == "cpu" and not isinstance(module, SAME_EVERYWHERE):
                x = torch.stack([module(one.contiguous()) for one in x])
            else:
                x = module(x)
        return x[:, :num]

    def _linear(self, place: int, module: nn.Linear, x: Tensor) -> Tensor:
        weight = self._of(module.weight)
        bias = None if module.bias is None else self._of(module.bias)
        group, num_outputs, num_inputs = weight.shape
        if x.ndim == 2:  # all candidates see the same inputs: one product serves them all
            if group * num_outputs < COLUMNS:
                repeats = -(-COLUMNS // (group * num_outputs))
                weight, bias = weight.repeat(repeats, 1, 1), None if bias is None else bias.repeat(repeats, 1)
            flat = weight.reshape(-1, num_inputs).t()
            out = self._output(place, (len(x), flat.shape[1]), x)
            torch.mm(x, flat, out=out) if bias is None else torch.addmm(bias.reshape(-1), x, flat, out=out)
            out = out.view(len(x), -1, num_outputs).transpose(0, 1)[:group]
            return out.contiguous() if num_outputs % GRAIN else out
        out = self._output(place, (*x.shape[:2], num_outputs), x)
        weight = weight.transpose(1, 2)
        return torch.bmm(x, weight, out=out) if bias is None else torch.baddbmm(bias[:, None], x, weight, out=out)

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
