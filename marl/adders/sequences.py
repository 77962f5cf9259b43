"""Sequences of steps within episodes, padded at their ends."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from marl.adders.base import ReplayAdder
from marl.core import State
from marl.replay import Replay, SequenceItems, Staging
from marl.replay.layout import as_array
from marl.types import Actions, Integers, TimeStep


class SequenceAdder(ReplayAdder):
    """Makes sequences of up to L steps of one episode, padded with zeros (and all-True masks) after its end.

    Args:
        replay: stores the items.
        discount: the discount factor gamma of one step.
    """

    def __init__(self, replay: Replay, *, discount: float) -> None:
        super().__init__(replay, discount=discount)
        if not isinstance(replay.items, SequenceItems):
            raise ValueError("this replay does not hold sequences")
        self._items = replay.items
        self._staging = Staging(replay.layout, (replay.num_envs,))
        self._envs: Integers = np.arange(replay.num_envs)
        self._times: Integers = np.zeros(replay.num_envs, np.int64)
        """Steps in every copy's unfinished sequence."""

    def _begin(self, seen: Mapping[str, Tensor]) -> None:
        self._open(self._envs, seen)

    def _open(self, envs: Integers, seen: Mapping[str, Tensor]) -> None:
        self._clear(envs)
        self._times[envs] = 0
        self._see(envs, seen)

    def _clear(self, envs: Integers) -> None:
        self._staging.records[envs] = 0
        for name in self._groups:
            if (masks := f"{name}/action_masks") in self._staging.arrays:
                self._staging.arrays[masks][envs] = True

    def _see(self, envs: Integers, seen: Mapping[str, Tensor]) -> None:
        times = self._times[envs]
        for name, tensor in seen.items():
            self._staging.arrays[name][envs, times] = tensor.numpy()[envs]

    def add(self, actions: Actions, extras: Mapping[str, State], timestep: TimeStep) -> None:
        arrays, items = self._staging.arrays, self._items
        seen = self._seen(timestep)
        next_step = self._next_step(timestep, seen)
        place = (self._envs, self._times)
        for name in self._groups:
            step, active = timestep.groups[name], arrays[f"{name}/active"][place]
            arrays[f"{name}/actions"][place] = as_array(actions[name])
            arrays[f"{name}/rewards"][place] = as_array(step.rewards)
            arrays[f"{name}/discounts"][place] = self._discount * (active & ~as_array(step.terminated))
        team = np.full(self._replay.num_envs, self._discount)
        team[next_step.ended] *= next_step.remaining
        arrays["discounts"][place] = team
        arrays["valid"][place] = True
        # Burn-in lies within what a sequence has in common with the one before; new steps are always learned from.
        arrays["learn"][place] = True
        self._times += 1
        self._see(self._envs, next_step.seen)
        finished = self._times == items.length
        finished[next_step.ended] = True
        envs = np.flatnonzero(finished)
        self._replay.append(self._staging.records, envs)
        going = np.setdiff1d(envs, next_step.ended)
        if len(going):
            self._go_on(going)
        if len(next_step.ended):
            self._open(next_step.ended, seen)

    def _go_on(self, envs: Integers) -> None:
        """Begins sequences in the middle of an episode, with the last steps of those before."""
        arrays, items = self._staging.arrays, self._items
        kept = {name: array[envs, items.stride :] for name, array in arrays.items()}
        self._clear(envs)
        for name, values in kept.items():
            arrays[name][envs, : values.shape[1]] = values
        arrays["learn"][envs] = arrays["valid"][envs] & (np.arange(items.length) >= items.burn_in)
        self._times[envs] = items.length - items.stride

    def env_state_dict(self) -> State:
        """The unfinished sequences."""
        if not self._replay.saves:
            return {}
        state = {"records": self._staging.records, "times": self._times}
        return {name: torch.from_numpy(array.copy()) for name, array in state.items()}

    def load_env_state_dict(self, state: State) -> None:
        if not state:
            return
        self._staging.records[...] = state["records"].numpy()
        self._times[...] = state["times"].numpy()
        self._resuming = True
