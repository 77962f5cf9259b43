"""Targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from marl.distributed.flat_parameters import FlatParameters
from marl.learning.optimizers import ReplicatedAdam


class TargetParameters:
    """Copies of parameters that follow them slowly, equal on all ranks as they are.

    Args:
        segments: the copies, by the same names and in the same order as those that they follow.
        source: the optimizer of the parameters that they follow.
    """

    def __init__(self, segments: Mapping[str, Sequence[nn.Parameter]], source: ReplicatedAdam) -> None:
        for parameters in segments.values():
            for parameter in parameters:
                parameter.requires_grad_(False)
        self._flat = FlatParameters(segments)
        self._source = source
        self.update(1.0)

    @torch.no_grad()
    def update(self, rate: float) -> None:
        """Goes this part of the way, between 0 and 1, to the parameters: copies += rate * (parameters - copies)."""
        if rate == 1.0:
            self._flat.parameters.copy_(self._source.parameters)
        else:
            self._flat.parameters.lerp_(self._source.parameters, rate)
