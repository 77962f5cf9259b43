"""Target networks: slow copies of networks, which learners bootstrap from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Generic, TypeVar

from torch import Tensor, nn

from marl.checkpoints import flatten_state, unflatten_state
from marl.communicators import FlatParameters
from marl.core import Saveable, State

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class TargetNetworks(Saveable, Generic[ModuleT]):
    """Copies of networks that follow them by Polyak averaging, on one flat tensor.

    Args:
        networks: by name, in the order in which their optimizer has them as segments, before it makes them flat.
    """

    def __init__(self, networks: Mapping[str, ModuleT]) -> None:
        self._networks = {name: copy.deepcopy(network).requires_grad_(False) for name, network in networks.items()}
        self._flat = FlatParameters({name: list(network.parameters()) for name, network in self._networks.items()})

    def __getitem__(self, name: str) -> ModuleT:
        """The copy of the network called ``name``."""
        return self._networks[name]

    @property
    def parameters(self) -> Tensor:
        """All parameters of the copies, flat."""
        return self._flat.parameters

    def update(self, online: Tensor, rate: float) -> None:
        """Moves the copies towards their originals: ``target += rate * (online - target)``.

        Args:
            online: (N,) the originals' flat parameters, from their optimizer.
            rate: 1 copies them.
        """
        if online.shape != self._flat.parameters.shape:
            raise ValueError(f"{online.numel()} parameters for copies of {self._flat.parameters.numel()}")
        if rate == 1.0:
            self._flat.parameters.copy_(online)
        else:
            self._flat.parameters.lerp_(online, rate)

    def state_dict(self) -> State:
        """All copies' parameters by name."""
        return flatten_state({name: network.state_dict() for name, network in self._networks.items()})

    def load_state_dict(self, state: State) -> None:
        """See Saveable."""
        parts = unflatten_state(state)
        for name, network in self._networks.items():
            network.load_state_dict(parts[name])
