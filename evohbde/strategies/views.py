"""One candidate at a time, in a network whose parameters are views of one flat buffer."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from evohbde.layout import ParameterLayout
from evohbde.reductions import Reduction
from evohbde.stages import PROBE_SAMPLES, Stages, find_stages, widest_output


class Working:
    """The network that candidates are written into, and what is known about it.

    Attributes:
        network: A copy of the model in evaluation mode, its searched parameters views of `theta`.
        theta: The flat buffer, `(D,)`.
        stages: The network as a chain of modules.
        depth: Number of stages in front of the first searched weight.
        num_outputs: Class scores per sample.
        prefix_share: Share of the multiply-adds of a forward pass that lie in front of the first searched weight.
        widest: Numbers per sample in the largest output of any module.
    """

    def __init__(
        self, model: nn.Module, layout: ParameterLayout, probe: Tensor, stage_names: tuple[str, ...] | None
    ) -> None:
        # No gradients: in inference mode, counting multiply-adds trips over parametrized weights that want them.
        self.network, self.layout = deepcopy(model).eval().requires_grad_(False), layout
        self.theta = layout.bind_(self.network)
        probe = probe[:PROBE_SAMPLES]
        with torch.inference_mode():
            self.num_outputs = self.network(probe)[0].numel()
            self.widest = widest_output(self.network, probe)
            self.stages: Stages = find_stages(self.network, probe, stage_names)
        parameters = dict(self.network.named_parameters())
        self.depth = self.stages.first_searched(parameters[name] for name in layout.names)
        shares = self.stages.cost_shares(probe) if self.depth else [1.0]
        self.prefix_share = sum(shares[: self.depth])

    @property
    def is_bound(self) -> bool:
        return self.layout.is_bound(self.network, self.theta)

    @property
    def tail(self) -> tuple[nn.Module, ...]:
        """The stages from the first searched weight on."""
        return self.stages.modules[self.depth :]


class Strategy:
    """Writes a group of candidates into a network and runs it: `load`, then `run` for each piece of samples.

    Attributes:
        name: How the strategy is asked for.
        group: Candidates that `load` takes at once.
    """

    name: str
    group = 1

    def __init__(self, working: Working, reduction: Reduction) -> None:
        self.working, self.reduction = working, reduction
        self._rows = working.theta[None]

    def compute_in(self, precision: str) -> None:
        """Get ready to `run` in this precision, which the caller has set around it; `load` stays in float32."""

    def fit(self, num_samples: int) -> None:
        """Set `group` for pieces of this many samples."""

    def prepare(self, features: Tensor) -> Tensor:
        """Features in the memory layout that `run` likes best; once for all candidates."""
        return features

    def load(self, z: Tensor) -> Tensor:
        """Write candidates `(p, d)`, p <= group, and return their weights, `(p, D)`, valid until the next call."""
        raise NotImplementedError

    def run(self, features: Tensor) -> Tensor:
        """Outputs of the loaded candidates on one piece: `(B, ...) -> (p, B, C)`, valid until the next call."""
        raise NotImplementedError

    def expanded(self, z: Tensor) -> Tensor:
        """Weights of a group, `(p, d) -> (p, D)`, in memory that the next call writes again.

        On a CPU each candidate is expanded alone if `expand` sums, so that its bits do not depend on its company, and
        into memory that is there: fresh memory costs more than the gather. On a GPU one launch for all counts for more.
        """
        if z.device.type != "cpu":
            return self.reduction.expand(z)
        if len(self._rows) < len(z):
            self._rows = z.new_empty(len(z), self.working.layout.size)
        if self.reduction.is_gather:
            return self.reduction.expand_into(z, self._rows[: len(z)])
        for one, row in zip(z, self._rows, strict=False):
            self.reduction.expand_into(one, row)
        return self._rows[: len(z)]


class Views(Strategy):
    """The reference: a forward pass of the network itself, as the user wrote it."""

    name = "views"

    def load(self, z: Tensor) -> Tensor:
        return self.reduction.expand_into(z[0], self.working.theta)[None]

    def run(self, features: Tensor) -> Tensor:
        return self.working.stages.run(features, self.working.depth)[None]
