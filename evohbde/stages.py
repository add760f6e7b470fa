"""At which points can a network be cut, and what lies in front of the cut?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from evohbde.data import TensorData

PROBE_SAMPLES = 16

PIECE_BYTES = 4 << 20
"""What the largest layer of one forward pass on a CPU may put out. More leaves the cache, and memory of several times
this size goes back to the system and returns page by page in every pass, which can cost as much as the arithmetic."""

LARGEST_PIECE = 4_096
"""Samples of one forward pass."""

PIECE_GRAIN = 32
"""Numbers at another place modulo the width of a CPU's vectors round differently, as in batches of an odd size."""

CACHE_BYTES = 1 << 30
"""Activations in front of the first searched weight are kept up to this size, else computed anew each time."""


class Stages:
    """A network as a chain of named modules whose composition is the network.

    Attributes:
        names: Name of each module inside the model; `""` is the whole model.
        modules: The modules, in the order in which data pass through them.
    """

    def __init__(self, named_modules: Iterable[tuple[str, nn.Module]]) -> None:
        pairs = list(named_modules)
        self.names = tuple(name for name, _ in pairs)
        self.modules = tuple(module for _, module in pairs)

    def __len__(self) -> int:
        return len(self.modules)

    def run(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Pass `x` through the modules `start` to `stop`."""
        for module in self.modules[start:stop]:
            x = module(x)
        return x

    def first_searched(self, parameters: Iterable[nn.Parameter]) -> int:
        """Index of the first module that holds one of `parameters`; tied weights count wherever they occur."""
        searched = {id(parameter) for parameter in parameters}
        for index, module in enumerate(self.modules):
            if any(id(parameter) in searched for parameter in module.parameters()):
                return index
        return 0

    def cost_shares(self, probe: Tensor) -> list[float]:
        """Share of the multiply-adds of one forward pass that each module does; they add up to 1."""
        costs = []
        with torch.no_grad():
            for module in self.modules:
                with FlopCounterMode(display=False) as counter:
                    probe = module(probe)
                costs.append(counter.get_total_flops())
        total = sum(costs)
        return [cost / total for cost in costs] if total else [1 / len(costs)] * len(costs)


def find_stages(model: nn.Module, probe: Tensor, names: Sequence[str] | None = None) -> Stages:
    """Cut `model` into a chain, and prove on `probe` that the chain computes exactly what the model computes.

    Without `names`, nested `nn.Sequential`s are unrolled; for other models the children are tried in the order of
    definition, flattened before the first linear layer (torchvision's ResNets, for one). What does not reproduce the
    model's outputs bit for bit is dropped: the result then is the whole model as a single stage.

    Args:
        model: The network, in evaluation mode.
        probe: Some inputs, `(b, ...)`.
        names: The modules in order, by name, where the user knows better (`["features", "head"]`).

    Raises:
        ValueError: If `names` do not exist, or their chain is not the model.
    """
    whole = Stages([("", model)])
    if names is not None:
        chain = Stages([(name, _module(model, name)) for name in names])
        if not _equal(chain, whole, probe):
            raise ValueError(
                f"the chain of `stages` {list(names)} does not reproduce the model's outputs: name every module "
                "in the order in which data pass through it, or leave `stages` out"
            )
        return chain
    chain = Stages(_unroll("", model) if _is_sequential(model) else _children(model))
    return chain if len(chain) > 1 and _equal(chain, whole, probe) else whole


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        known = ", ".join(child for child, _ in model.named_children())
        raise ValueError(f"`stages` names {name!r}, which the model does not have; its children are: {known}") from None


def _is_sequential(module: nn.Module) -> TypeGuard[nn.Sequential]:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _unroll(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    if not _is_sequential(module):
        return [(name, module)]
    prefix = f"{name}." if name else ""
    # named_children() would leave out the second use of a shared module, such as one ReLU for all layers.
    children = zip(module._modules, module, strict=True)
    return [stage for child, inner in children for stage in _unroll(prefix + child, inner)]


def _children(model: nn.Module) -> list[tuple[str, nn.Module]]:
    stages = [stage for name, child in model.named_children() for stage in _unroll(name, child)]
    linear = [i for i, (_, module) in enumerate(stages) if isinstance(module, nn.Linear)]
    if linear:
        stages.insert(linear[0], ("flatten", nn.Flatten(1)))
    return stages


@torch.no_grad()
def _equal(chain: Stages, whole: Stages, probe: Tensor) -> bool:
    try:
        return torch.equal(chain.run(probe), whole.run(probe))
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, NotImplementedError):
        return False  # the children do not even fit together in this order


class PrefixCache:
    """Activations in front of the first searched weight, computed once per sample and kept.

    Args:
        data: The inputs.
        stages: The network's chain.
        depth: Number of stages in front; 0 keeps nothing and returns the inputs.
        batch_size: Samples per forward pass.
        limit: Bytes that may be kept; a larger set is computed anew at every use.
    """

    def __init__(self, data: TensorData, stages: Stages, depth: int, batch_size: int, limit: int = CACHE_BYTES) -> None:
        self.data, self.stages, self.depth, self.batch_size = data, stages, depth, batch_size
        self.limit = limit
        self.num_computed = 0
        self._owed: list[slice] = []
        self._store: Tensor | None = None
        self._known = torch.zeros(len(data), dtype=torch.bool)

    def activations(self, span: slice) -> Tensor:
        """Activations of the samples in `span`."""
        if self.depth == 0:
            return self.data.x[span]
        self._settle()
        if self._store is not None and bool(self._known[span].all()):
            return self._store[span]
        fresh = self._compute(self.data.x[span])
        if self._store is None and fresh[0].numel() * fresh.element_size() * len(self.data) <= self.limit:
            self._store = fresh.new_empty(len(self.data), *fresh.shape[1:])
        if self._store is None:
            return fresh
        self._store[span] = fresh
        self._known[span] = True
        # Never `fresh` itself: it lies elsewhere in memory, where kernels may round differently from the next time on.
        return self._store[span]

    def recall(self, span: slice, num_computed: int) -> None:
        """Take over what another process counted after it asked for `span`; it is computed here when it is needed."""
        if num_computed > self.num_computed:
            self._owed.append(span)
        self.num_computed = num_computed

    def _settle(self) -> None:
        """Compute what is counted already, in the same pieces."""
        owed, self._owed = self._owed, []
        num_computed = self.num_computed
        for span in owed:
            self.activations(span)
            if self._store is None:
                break
        self.num_computed = num_computed

    def _compute(self, x: Tensor) -> Tensor:
        self.num_computed += len(x)
        return torch.cat([self.stages.run(piece, 0, self.depth) for piece in pieces(x, self.batch_size)])


def widest_output(network: nn.Module, probe: Tensor) -> int:
    """Numbers per sample in the largest output of any module, or in the sample itself."""
    sizes = [probe[0].numel()]

    def measure(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel() // len(probe))

    hooks = [module.register_forward_hook(measure) for module in network.modules()]
    try:
        network(probe)
    finally:
        for hook in hooks:
            hook.remove()
    return max(sizes)


def samples_at_once(widest: int, device: torch.device) -> int:
    """Samples per forward pass, a multiple of 32, that stay in a CPU's cache or keep a GPU busy.

    Args:
        widest: Numbers per sample in the largest output, see `widest_output`.
        device: Where the network runs.
    """
    if device.type != "cpu":
        return LARGEST_PIECE
    fitting = PIECE_BYTES // (4 * max(1, widest))
    return min(max(PIECE_GRAIN, fitting - fitting % PIECE_GRAIN), LARGEST_PIECE)


def pieces(x: Tensor, batch_size: int) -> list[Tensor]:
    """Cut samples into batches; a rest of fewer than 16 joins the batch before it.

    Very small batches take other kernels, whose results differ in the last bits.
    """
    smallest = min(16, batch_size)
    if len(x) < batch_size + smallest:
        return [x]  # asked for every candidate, some of which take microseconds
    parts = list(x.split(batch_size))
    if len(parts[-1]) < smallest:
        start = (len(parts) - 2) * batch_size
        parts[-2:] = [x[start:]]
    return parts
