"""Adder that fills reservoirs on the way."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from marl.algorithms.imitation.reservoir import Reservoir
from marl.core import Adder, State
from marl.types import Actions, TimeStep


class ReservoirAdder(Adder):
    """Passes everything to another adder, and adds decisions that its policies flagged to reservoirs.

    Args:
        adder: takes everything.
        reservoirs: by group.
        flag: name among the policies' extras of the (E, A) bool tensor of decisions to keep.
    """

    def __init__(self, adder: Adder, reservoirs: Mapping[str, Reservoir], *, flag: str) -> None:
        self._adder = adder
        self._reservoirs = reservoirs
        self._flag = flag
        self._observed: dict[str, tuple[Tensor, Tensor | None, Tensor]] = {}

    def add_first(self, timestep: TimeStep) -> None:
        self._observe(timestep)
        self._adder.add_first(timestep)

    def add(self, actions: Actions, extras: Mapping[str, State], timestep: TimeStep) -> None:
        for name, reservoir in self._reservoirs.items():
            observations, masks, active = self._observed[name]
            reservoir.add(observations, masks, actions[name], active & extras[name][self._flag])
        self._observe(timestep)
        self._adder.add(actions, extras, timestep)

    def _observe(self, timestep: TimeStep) -> None:
        """Clones the observations, since the environment writes the next step over them."""
        for name in self._reservoirs:
            step = timestep.groups[name]
            masks = None if step.action_masks is None else step.action_masks.clone()
            self._observed[name] = (step.observations.clone(), masks, step.active.clone())

    def state_dict(self) -> State:
        return self._adder.state_dict()

    def load_state_dict(self, state: State) -> None:
        self._adder.load_state_dict(state)

    def env_state_dict(self) -> State:
        return self._adder.env_state_dict()

    def load_env_state_dict(self, state: State) -> None:
        self._adder.load_env_state_dict(state)
