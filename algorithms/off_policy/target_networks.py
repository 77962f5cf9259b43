"""Target networks, which follow online networks by Polyak averaging or by copies now and then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from marl.distributed.flat_parameters import FlatParameters
from marl.learning.replicated_adam import ReplicatedAdam


class TargetNetworks:
    """Parameters that follow those of an optimizer slowly; equal on all ranks as these are.

    Args:
        segments: the targets' parameters, by the same names and in the same order as the optimizer's.
        optimizer: of the online parameters.
    """

    def __init__(self, segments: Mapping[str, Sequence[nn.Parameter]], optimizer: ReplicatedAdam) -> None:
        for parameters in segments.values():
            for parameter in parameters:
                parameter.requires_grad_(False)
        self._flat = FlatParameters(segments)
        self._optimizer = optimizer
        self.update(1.0)

    @torch.no_grad()
    def update(self, tau: float) -> None:
        """Moves the targets towards the online parameters: targets += tau * (online - targets)."""
        if tau == 1.0:
            self._flat.parameters.copy_(self._optimizer.parameters)
        else:
            self._flat.parameters.lerp_(self._optimizer.parameters, tau)
