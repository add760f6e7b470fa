"""Which modules of a network may something else compute in their place?"""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from evohbde.strategies.views import Working


class Calls:
    """The modules that a traced network calls.

    Attributes:
        modules: The module of each node that calls one, in order.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        nodes = [node for node in graph.graph.nodes if node.op == "call_module"]
        self.modules: dict[fx.Node, Any] = {node: graph.get_submodule(str(node.target)) for node in nodes}
        self._counts = [id(module) for module in self.modules.values()]

    def is_plain(self, node: fx.Node, kind: type[nn.Module]) -> bool:
        """Whether nothing but this kind of module's own arithmetic happens here."""
        module = self.modules.get(node)
        if module is None:
            return False
        has_hooks = bool(module._forward_hooks or module._forward_pre_hooks)
        return type(module) is kind and not has_hooks

    def is_only_call(self, node: fx.Node) -> bool:
        """Whether the module is called nowhere else."""
        return self._counts.count(id(self.modules[node])) == 1

    def behind(self, node: fx.Node, kind: type[nn.Module]) -> fx.Node | None:
        """The plain module of this kind that alone takes what `node` gives, if that is so."""
        users = list(node.users)
        return users[0] if len(users) == 1 and self.is_plain(users[0], kind) else None


def trace(working: Working) -> fx.GraphModule | None:
    """What follows the first searched weight as a graph; None where `forward` cannot be traced."""
    try:
        return fx.symbolic_trace(nn.Sequential(*working.tail))
    except Exception:  # noqa: BLE001 - whatever a user's forward raises when traced, it then runs as it is
        return None


def put_in_place(graph: fx.GraphModule, chain: list[fx.Node], name: str, module: nn.Module) -> None:
    """Let one module compute what a chain of nodes does, each of which only the next one uses."""
    first, last = chain[0], chain[-1]
    graph.add_submodule(name, module)
    with graph.graph.inserting_before(first):
        last.replace_all_uses_with(graph.graph.call_module(name, first.args, first.kwargs))
    for node in reversed(chain):
        graph.graph.erase_node(node)
