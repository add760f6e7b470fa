"""Several candidates at once through `torch.func.vmap`: any network, worth it where a candidate has few samples."""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call, vmap

from evohbde.reductions import Reduction
from evohbde.strategies.batched import group_bytes
from evohbde.strategies.views import Strategy, Working

MOST_SAMPLES = 64
"""Beyond so many samples per candidate a loop has always been faster."""


class Vmapped(Strategy):
    """See the module."""

    name = "vmap"

    def __init__(self, working: Working, reduction: Reduction) -> None:
        super().__init__(working, reduction)
        self._tail = nn.Sequential(*working.tail)
        names = {id(parameter): name for name, parameter in self._tail.named_parameters()}
        parameters = dict(working.network.named_parameters())
        self._names = {name: names[id(parameters[name])] for name in working.layout.names}
        self._theta = working.theta[None]
        self._views: dict[str, Tensor] = {}

    def fit(self, num_samples: int) -> None:
        numbers = max(num_samples * self.working.widest, self.working.layout.size)
        self.group = max(1, group_bytes(self._theta.device) // (numbers * self._theta.element_size()))

    def load(self, z: Tensor) -> Tensor:
        self._theta = self.expanded(z)
        views = self.working.layout.views(self._theta)
        self._views = {self._names[name]: view for name, view in views.items()}
        return self._theta

    def run(self, features: Tensor) -> Tensor:
        return vmap(self._one, in_dims=(0, None))(self._views, features)

    def _one(self, parameters: dict[str, Tensor], features: Tensor) -> Tensor:
        output: Tensor = functional_call(self._tail, parameters, (features,))
        return output
