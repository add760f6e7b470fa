"""What does a pruned network cost, in bits and in multiply-adds?"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from evohbde.layout import ParameterLayout
from evohbde.objectives import WeightObjective


class StoredBits(WeightObjective):
    """Bits per searched weight that a file needs: of the kept weights and of which ones they are.

    Coding `"raw"` is what `evohbde.compress.compact` writes: one bit per weight for the mask, and each kept weight in
    full. Coding `"entropy"` is what the best code for independent symbols would come near: `D H(density)` bits for the
    mask, `H` in bits. With a codebook the kept weights are numbers of their different values, `ceil(log2 k)` bits each
    or, entropy-coded, the entropy of the numbers; the `k` values themselves are counted. 32 is a dense float32 network.

    Args:
        coding: `"raw"` or `"entropy"`.
        codebook: Whether equal weights share an entry, as those of a `Blocking` in mode `"replace"`.
        groups: Group of each weight, `(D,)`, integers >= 0, such as `layout.tensor_index`: the entropy of the mask is
            taken in each group, so that tensors of unlike density are cheaper; None: over all weights.

    Raises:
        ValueError: If `coding` is another word, or `groups` are given without entropy to take.

    Source: Shannon (1948); codebooks as in Han, Mao & Dally (2016), arXiv 1510.00149, section 3.
    """

    name, sense = "stored_bits", "min"

    def __init__(self, coding: str = "raw", *, codebook: bool = False, groups: Tensor | None = None) -> None:
        if coding not in ("raw", "entropy"):
            raise ValueError(f"`coding` must be 'raw' (as written) or 'entropy' (the least), got {coding!r}")
        if groups is not None and coding == "raw":
            raise ValueError("`groups` change nothing about raw masks: use coding='entropy', or leave them out")
        self.coding, self.codebook, self.groups = coding, codebook, groups

    def __call__(self, theta: Tensor) -> Tensor:
        return torch.as_tensor(self.total(theta) / theta.numel(), dtype=torch.float64, device=theta.device)

    def total(self, theta: Tensor) -> float:
        """Bits of all weights together: `(D,)`."""
        kept = theta != 0
        mask_bits = self._mask_bits(kept) if self.coding == "entropy" else float(theta.numel())
        return mask_bits + self._value_bits(theta[kept])

    def _mask_bits(self, kept: Tensor) -> float:
        groups = self.groups
        if groups is None:
            groups = torch.zeros(kept.shape, dtype=torch.int64)
        elif groups.shape != kept.shape:
            raise ValueError(f"`groups` are of shape {tuple(groups.shape)}, the weights of {tuple(kept.shape)}")
        groups = groups.to(kept.device).long()
        sizes = torch.bincount(groups).double()
        ones = torch.bincount(groups, weights=kept.double(), minlength=len(sizes))
        counts = torch.stack([ones, sizes - ones])
        return float((_plogp(sizes) - _plogp(counts).sum(0)).sum())

    def _value_bits(self, values: Tensor) -> float:
        width = 8 * values.element_size()
        if not self.codebook:
            return float(values.numel() * width)
        counts = values.unique(return_counts=True)[1].double()
        if self.coding == "raw":
            return float(values.numel() * index_width(len(counts)) + len(counts) * width)
        return float(_plogp(counts.sum()) - _plogp(counts).sum()) + len(counts) * width


def index_width(num_values: int) -> int:
    """Bits of a number that tells `num_values` values apart: `ceil(log2 num_values)`."""
    return max(num_values - 1, 0).bit_length()


def _plogp(counts: Tensor) -> Tensor:
    """`n log2 n`, 0 where n = 0."""
    return torch.special.xlogy(counts, counts) / torch.log(torch.tensor(2.0, dtype=torch.float64))


def weight_uses(model: nn.Module, x: Tensor) -> dict[str, int]:
    """How often a sample multiplies by each weight of a convolution or linear layer: one number per parameter name.

    A weight of a convolution is used once per output position (per input position if transposed), one of a linear
    layer once per row; layers that run several times, and tied weights, add up. Sums, norms, activations and products
    of two activations, as in attention, are not counted.

    Args:
        model: The network; run once in evaluation mode.
        x: Some samples, `(n, ...)`.

    Raises:
        ValueError: If no convolution or linear layer runs.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    uses: dict[str, int] = {}

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer.weight, Tensor)
        # Under torch.nn.utils.prune the parameter is `weight_orig`, and `weight` a product of it.
        owner = getattr(layer, "weight_orig", layer.weight)
        name = names[id(owner)]
        uses[name] = uses.get(name, 0) + _positions(layer, inputs[0], output)

    layers = [module for module in model.modules() if isinstance(module, _ConvNd | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            model.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    if not uses:
        raise ValueError(f"no convolution or linear layer of this {type(model).__name__} runs: nothing to count")
    return {name: seen // len(x) for name, seen in uses.items()}


def _positions(layer: nn.Module, inputs: Tensor, output: Tensor) -> int:
    """How often one call of a layer uses each weight, over all samples."""
    if isinstance(layer, nn.Linear):
        return output.numel() // output.shape[-1]
    reached = inputs if isinstance(layer, _ConvTransposeNd) else output
    return reached.numel() // reached.shape[1]


def multiply_adds(network: nn.Module, x: Tensor) -> int:
    """Multiply-adds of one sample in convolutions and linear layers, zeros included, see `weight_uses`."""
    return _dense(network, weight_uses(network, x))


def _dense(network: nn.Module, uses: dict[str, int]) -> int:
    return sum(parameter.numel() * uses.get(name, 0) for name, parameter in network.named_parameters())


class MultiplyAdds(WeightObjective):
    """Share of the multiply-adds whose weight is not zero, over all convolutions and linear layers.

    What hardware that skips zeros would compute; ordinary hardware skips none (see `Latency` for what it does).

    Args:
        model: The network; of weights that are not searched, its own zeros count.
        layout: Which weights are searched.
        x: Some samples, `(n, ...)`.
    """

    name, sense = "multiply_adds", "min"

    def __init__(self, model: nn.Module, layout: ParameterLayout, x: Tensor) -> None:
        uses = weight_uses(model, x)
        parameters = dict(model.named_parameters())
        self.total = _dense(model, uses)
        searched = set(layout.names)
        self._fixed = sum(
            int(torch.count_nonzero(parameters[name])) * seen for name, seen in uses.items() if name not in searched
        )
        self._pieces = [
            (slice(offset, offset + size), uses[name])
            for name, offset, size in zip(layout.names, layout.offsets, layout.sizes, strict=True)
            if name in uses
        ]

    def __call__(self, theta: Tensor) -> Tensor:
        counts = [torch.count_nonzero(theta[piece]).double() * seen for piece, seen in self._pieces]
        return (sum(counts, start=theta.new_zeros((), dtype=torch.float64)) + self._fixed) / self.total


class NetworkObjective:
    """One judged quantity of a network itself, whatever its shape; `"min"` or `"max"` is its `sense`."""

    name: str
    sense: str = "min"

    def __call__(self, network: nn.Module) -> float:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, sense={self.sense!r})"


class ParameterShare(NetworkObjective):
    """Parameters, as a share of those of the full network."""

    name = "parameters"

    def __init__(self, model: nn.Module) -> None:
        self.total = num_parameters(model)

    def __call__(self, network: nn.Module) -> float:
        return num_parameters(network) / self.total


class MultiplyAddsShare(NetworkObjective):
    """Multiply-adds, as a share of those of the full network.

    Cutting channels leaves the number of positions of each layer as it is, so no forward pass is needed.

    Args:
        model: The full network.
        x: Some samples, `(n, ...)`.
    """

    name = "multiply_adds"

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self._uses = weight_uses(model, x)
        self.total = _dense(model, self._uses)

    def __call__(self, network: nn.Module) -> float:
        return _dense(network, self._uses) / self.total


def num_parameters(network: nn.Module) -> int:
    """Numbers in the parameters of a network, tied ones once."""
    return sum(parameter.numel() for parameter in network.parameters())
