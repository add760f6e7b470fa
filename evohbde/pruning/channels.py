"""Which channels of a network go together, and what is the network without some of them?

The only module that imports torch-pruning, whose dependency graph knows what each layer loses with a channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

try:
    import torch_pruning
    from torch_pruning import ops
    from torch_pruning.pruner.function import PrunerBox
except ImportError as error:
    raise ImportError("pruning of channels needs torch-pruning: pip install 'evohbde[structured]'") from error

TOLERANCE = 1e-6
"""Largest difference of outputs, as a share of the largest output, at which two networks count as equal (float64)."""


@dataclass(frozen=True, eq=False)
class Cut:
    """What one layer loses with the channels of a group.

    Attributes:
        module: Name of the layer.
        side: Method of torch-pruning's pruner for it: `"prune_out_channels"` or `"prune_in_channels"`.
        axes: Parameters that lose something, each with the axis along which it does.
        positions: Places along these axes, `(n,)`, int64.
        channels: Channel of the group to which each place belongs, `(n,)`, int64.
    """

    module: str
    side: str
    axes: tuple[tuple[str, int], ...]
    positions: Tensor
    channels: Tensor


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that several layers have in common: channel `c` goes from all of them or from none.

    Attributes:
        name: The layer whose outputs they are, one of them if there are several.
        num_channels: How many there are.
        cuts: What each layer loses with them.
    """

    name: str
    num_channels: int
    cuts: tuple[Cut, ...]


def find_groups(
    model: nn.Module, x: Tensor, *, exclude: str | Iterable[str] = (), require_equal: bool = True
) -> tuple[list[ChannelGroup], dict[str, str]]:
    """Find the groups of channels that can be cut out of `model`, and say why others cannot.

    A group is taken only after a trial: with its first channel cut, and with every second one, the network has to run
    and to give outputs of the same shape.

    Args:
        model: The network; it is traced on a copy in evaluation mode.
        x: Some samples, `(n, ...)`.
        exclude: Shell-style patterns of layer names whose channels all stay.
        require_equal: Whether the smaller network must also give the outputs of the full one with zeros in place of the
            channels. Not so behind a LayerNorm or GroupNorm over them, nor where a shortcut shifts channels.

    Returns:
        The groups in the order of definition, and the reason for each one that was left out, by name.

    Raises:
        ValueError: If torch-pruning cannot trace the network, or no group is left.

    Source: Fang, Ma, Song, Mi & Wang (2023), arXiv 2301.12900 (DepGraph).
    """
    patterns = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    groups: list[ChannelGroup] = []
    left_out: dict[str, str] = {}
    probe, inputs = deepcopy(model).eval().double(), x.double() if x.is_floating_point() else x
    for name, cuts in _traced(model, x):
        fault = _fault(name, cuts, patterns)
        group = ChannelGroup(name, int(cuts[0].channels.max()) + 1 if cuts else 0, tuple(cuts))
        fault = fault or _trial(probe, inputs, group, require_equal)
        if fault:
            left_out[name] = fault
        else:
            groups.append(group)
    if not groups:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items()) or "no layer has any"
        raise ValueError(f"no channels of this {type(model).__name__} can be cut: {reasons}")
    return groups, left_out


def shrunk(model: nn.Module, groups: Sequence[ChannelGroup], keep: Tensor) -> nn.Module:
    """Copy `model` without some channels: a smaller network in evaluation mode.

    Args:
        model: The network that the groups were found in.
        groups: The groups.
        keep: Which channels stay, those of all groups one after the other, `(C,)`, bool.

    Raises:
        ValueError: If a layer would lose all of its channels.
    """
    network = deepcopy(model).eval()
    modules = dict(network.named_modules())
    # A layer may lose channels to two groups, after a concatenation say: all places count in the full layer.
    gone: dict[tuple[str, str], set[int]] = {}
    for group, kept in _by_group(groups, keep):
        for cut in group.cuts:
            if not bool(kept[cut.channels].any()):
                raise ValueError(
                    f"`keep` leaves nothing of layer {cut.module!r}: keep a channel of each cut's `channels`"
                )
            lost = cut.positions[~kept[cut.channels]].tolist()
            gone.setdefault((cut.module, cut.side), set()).update(lost)
    for (name, side), places in gone.items():
        if places:
            _prune(modules[name], side, sorted(places))
    return network


@torch.no_grad()
def masked(model: nn.Module, groups: Sequence[ChannelGroup], keep: Tensor) -> nn.Module:
    """Copy `model` with zeros in place of the channels that `shrunk` cuts out, their norms and biases included."""
    network = deepcopy(model).eval()
    modules = dict(network.named_modules())
    for group, kept in _by_group(groups, keep):
        for cut in group.cuts:
            for name, axis in cut.axes:
                parameter = modules[cut.module].get_parameter(name)
                parameter.index_fill_(axis, cut.positions[~kept[cut.channels]].to(parameter.device), 0)
    return network


@torch.no_grad()
def importance(model: nn.Module, groups: Sequence[ChannelGroup]) -> Tensor:
    """L2 norm of the weights and gains that go with each channel, biases left out: `(C,)`, float64."""
    modules = dict(model.named_modules())
    scores = []
    for group in groups:
        squares = torch.zeros(group.num_channels, dtype=torch.float64)
        for cut in group.cuts:
            for name, axis in cut.axes:
                if "bias" not in name:
                    weights = modules[cut.module].get_parameter(name).double().cpu().movedim(axis, 0)
                    rows = weights.reshape(len(weights), -1)[cut.positions]
                    squares.index_add_(0, cut.channels, rows.square().sum(1))
        scores.append(squares.sqrt())
    return torch.cat(scores)


def _by_group(groups: Sequence[ChannelGroup], keep: Tensor) -> list[tuple[ChannelGroup, Tensor]]:
    sizes = [group.num_channels for group in groups]
    if keep.dtype != torch.bool or keep.shape != (sum(sizes),):
        raise ValueError(
            f"expected `keep` of shape ({sum(sizes)},), bool, one per channel of all groups, "
            f"got {keep.dtype} {tuple(keep.shape)}"
        )
    return list(zip(groups, keep.cpu().split(sizes), strict=True))


def _traced(model: nn.Module, x: Tensor) -> list[tuple[str, list[Cut]]]:
    """Each group of the dependency graph: the name of its root, and its cuts; no cuts if it holds a bare parameter."""
    network = deepcopy(model).eval().requires_grad_(True)
    names = {module: name for name, module in network.named_modules()}
    try:
        with torch.enable_grad():
            graph = torch_pruning.DependencyGraph().build_dependency(network, x[:1], verbose=False)
            found = list(graph.get_all_groups())
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError) as error:
        raise ValueError(f"torch-pruning cannot trace this {type(model).__name__}: {error}") from error
    # Traced from the outputs back; the order of definition is what a reader of the genes expects.
    found.sort(key=lambda group: list(names).index(group[0].dep.target.module))
    return [(names[group[0].dep.target.module], _cuts(group, names)) for group in found]


def _cuts(group: Any, names: dict[nn.Module, str]) -> list[Cut]:
    cuts = []
    for item in group:
        module, side = item.dep.target.module, item.dep.handler.__name__
        if isinstance(module, nn.Parameter):
            return []
        if module in names:  # the others stand for operations without parameters
            positions, channels = torch.tensor(item.idxs), torch.tensor(item.root_idxs)
            cuts.append(Cut(names[module], side, _axes(module, side), positions, channels))
    return cuts


def _axes(module: nn.Module, side: str) -> tuple[tuple[str, int], ...]:
    small = deepcopy(module)
    _prune(small, side, [0])
    return tuple(
        (name, axis)
        for name, parameter in module.named_parameters(recurse=False)
        for axis, length in enumerate(parameter.shape)
        if small.get_parameter(name).shape[axis] != length
    )


def _prune(module: nn.Module, side: str, places: list[int]) -> None:
    getattr(PrunerBox[ops.module2type(module)], side)(module, places)


def _fault(name: str, cuts: Sequence[Cut], patterns: Sequence[str]) -> str:
    if any(fnmatchcase(name, pattern) for pattern in patterns):
        return "excluded"
    if not cuts:
        return "a parameter outside of the layers has these channels"
    return ""


@torch.inference_mode()
def _trial(model: nn.Module, x: Tensor, group: ChannelGroup, require_equal: bool) -> str:
    """Why the group cannot be cut, or nothing."""
    if group.num_channels < 2:
        return "a single channel"
    expected = model(x)
    for gone in (slice(0, 1), slice(0, None, 2)):
        keep = torch.ones(group.num_channels, dtype=torch.bool)
        keep[gone] = False
        try:
            outputs = shrunk(model, [group], keep)(x)
            zeroed = masked(model, [group], keep)(x)
        except (RuntimeError, ValueError, IndexError) as error:
            return f"without some of them the network fails: {str(error).splitlines()[0]}"
        if outputs.shape != expected.shape:
            return "they are outputs of the network"
        if require_equal and not bool((outputs - zeroed).abs().max() <= TOLERANCE * zeroed.abs().max()):
            return "the smaller network is not the full one with zeros in their place"
    return ""
