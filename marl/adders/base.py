"""The base of the adders of replay, which alone interpret how episodes end.

The weight of a next value (the ``discounts`` of items) is decided here:

- where an agent terminated, nothing remains: 0;
- where its episode was truncated, its value is bootstrapped from the true last observation, not from the first one
  of the next episode;
- the team's value counts until all agents of all groups terminated. Agents that left the game before the others are
  not ``active`` at the next step, so a mixer leaves them out.

Rewards of a step count for the team whoever receives them, for an agent itself from its first action to its end.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marl.core import Adder, Saveable
from marl.errors import InputError
from marl.replay import Replay
from marl.types import Integers, TimeStep

Singles = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStep:
    """The step after an action, within its episode: where the episode ended, its last observations."""

    seen: Mapping[str, Tensor]
    """Observations, masks and active flags (E, A, ...) and the state (E, ...), by the field names of items."""
    ended: Integers
    """(K,) indices of copies whose episode ended."""
    remaining: Singles
    """(K,) 1 where some agent's value remains, 0 where all terminated."""


class ReplayAdder(Adder, Saveable):
    """The base of the adders of replay.

    Checkpoints hold unfinished items only where they hold replay's records; otherwise these items are dropped and
    a resumed run begins new ones. After ``load_env_state_dict`` the next ``add_first`` is taken for the saved
    environment's ``current`` time step, so that unfinished items go on.
    """

    def __init__(self, replay: Replay, *, discount: float) -> None:
        if not 0.0 <= discount <= 1.0:
            raise InputError(f"the discount factor must be within [0, 1], not {discount}")
        self._replay = replay
        self._discount = np.float32(discount)
        self._groups = tuple(group.name for group in replay.spec.groups)
        self._has_state = replay.spec.state is not None
        self._resuming = False

    def add_first(self, timestep: TimeStep) -> None:
        """Begins with the environment's first time step; unfinished items are dropped, except after a resume."""
        if not self._resuming:
            self._begin(self._seen(timestep))
        self._resuming = False

    @abstractmethod
    def _begin(self, seen: Mapping[str, Tensor]) -> None:
        """Begins new items in all copies."""

    def _seen(self, timestep: TimeStep) -> dict[str, Tensor]:
        seen = {}
        for name in self._groups:
            group = timestep.groups[name]
            seen[f"{name}/observations"] = group.observations
            seen[f"{name}/active"] = group.active
            if group.action_masks is not None:
                seen[f"{name}/action_masks"] = group.action_masks
        if self._has_state:
            if timestep.state is None:
                raise ValueError("replay's spec has a state, but time steps have none")
            seen["state"] = timestep.state
        return {name: tensor.cpu() for name, tensor in seen.items()}

    def _next_step(self, timestep: TimeStep, seen: Mapping[str, Tensor]) -> NextStep:
        final = timestep.final
        if final is None:
            return NextStep(seen=seen, ended=np.zeros(0, np.int64), remaining=np.zeros(0, np.float32))
        ended = final.envs
        last = {name: tensor.clone() for name, tensor in seen.items()}
        remaining = torch.zeros(len(ended), dtype=torch.bool)
        for name in self._groups:
            step, group = timestep.groups[name], final.groups[name]
            last[f"{name}/observations"][ended] = group.observations.cpu()
            if group.action_masks is not None:
                last[f"{name}/action_masks"][ended] = group.action_masks.cpu()
            bootstrapped = (step.truncated & ~step.terminated).cpu()[ended]
            last[f"{name}/active"][ended] = bootstrapped
            remaining |= bootstrapped.any(dim=1)
        if self._has_state:
            if final.state is None:
                raise ValueError("replay's spec has a state, but an episode's last step has none")
            last["state"][ended] = final.state.cpu()
        return NextStep(seen=last, ended=ended.numpy(), remaining=remaining.numpy().astype(np.float32))
