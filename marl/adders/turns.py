"""Transitions of turn-based games: from each agent's turn to its own next one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from marl.adders.base import ReplayAdder
from marl.core import State
from marl.replay import Replay, Staging
from marl.replay.layout import as_array
from marl.types import Actions, Bools, TimeStep


class TurnAdder(ReplayAdder):
    """Makes transitions that reach from an agent's turn to its next one, or to the end of its life.

    What an agent receives while others move belongs to its last move, and the discount counts its own turns. Every
    step makes one item in every copy, as in TransitionAdder, so that ranks know each other's counts; in it those
    agents are active whose transition this step finished: mostly one, all of them where an episode ends, and nobody
    while all make their first move.

    Args:
        replay: stores the items, transitions of one step.
        discount: the discount factor gamma from one turn of an agent to its next.

    Raises:
        ValueError: replay holds other items, or joint states, which belong to no single agent's turn.
    """

    def __init__(self, replay: Replay, *, discount: float) -> None:
        super().__init__(replay, discount=discount)
        if not replay.in_step or self._has_state:
            raise ValueError("turns make transitions of single agents, without a joint state")
        envs = replay.num_envs
        self._begun = Staging(replay.layout, (envs,))
        """The unfinished turn of each agent."""
        self._done = Staging(replay.layout, (envs,))
        self._open: dict[str, Bools] = {
            group.name: np.zeros((envs, group.size), np.bool_) for group in replay.spec.groups
        }
        """Agents that have moved, and whose transition is not finished."""
        self._moves = {name: np.zeros_like(flags) for name, flags in self._open.items()}
        """Agents that are to move now."""
        self._parts = {
            name: [part for part in ("observations", "action_masks") if f"{name}/{part}" in replay.layout.fields]
            for name in self._groups
        }

    def _begin(self, seen: Mapping[str, Tensor]) -> None:
        for flags in self._open.values():
            flags.fill(False)
        self._see(seen)

    def _see(self, seen: Mapping[str, Tensor]) -> None:
        """Writes down the observations of the agents that move now."""
        for name in self._groups:
            moves = as_array(seen[f"{name}/active"]).copy()
            for part in self._parts[name]:
                self._begun.arrays[f"{name}/{part}"][moves] = as_array(seen[f"{name}/{part}"])[moves]
            self._moves[name] = moves

    def add(self, actions: Actions, extras: Mapping[str, State], timestep: TimeStep) -> None:
        seen = self._seen(timestep)
        next_step = self._next_step(timestep, seen)
        begun, done = self._begun.arrays, self._done.arrays
        for name in self._groups:
            step, opened, moved = timestep.groups[name], self._open[name], self._moves[name]
            begun[f"{name}/actions"][moved] = as_array(actions[name])[moved]
            begun[f"{name}/rewards"][moved] = 0.0
            opened |= moved
            begun[f"{name}/rewards"][...] += np.where(opened, as_array(step.rewards), np.float32(0.0))
            terminated = as_array(step.terminated)
            over = terminated | as_array(step.truncated) | as_array(seen[f"{name}/active"])
            over[next_step.ended] = True
            finished = opened & over
            for part in (*self._parts[name], "actions"):
                done[f"{name}/{part}"][...] = begun[f"{name}/{part}"]
            for part in self._parts[name]:
                done[f"{name}/next_{part}"][...] = as_array(next_step.seen[f"{name}/{part}"])
            done[f"{name}/active"][...] = finished
            done[f"{name}/next_active"][...] = finished & ~terminated
            done[f"{name}/rewards"][...] = np.where(finished, begun[f"{name}/rewards"], np.float32(0.0))
            done[f"{name}/discounts"][...] = self._discount * (finished & ~terminated)
            opened &= ~finished
        done["discounts"].fill(self._discount)
        done["discounts"][next_step.ended] *= next_step.remaining
        self._replay.append(self._done.records)
        self._see(seen)

    def env_state_dict(self) -> State:
        """The unfinished turns."""
        if not self._replay.saves:
            return {}
        state = {"records": torch.from_numpy(self._begun.records.copy())}
        for name in self._groups:
            state[f"{name}.open"] = torch.from_numpy(self._open[name].copy())
            state[f"{name}.moves"] = torch.from_numpy(self._moves[name].copy())
        return state

    def load_env_state_dict(self, state: State) -> None:
        if not state:
            return
        self._begun.records[...] = state["records"].numpy()
        for name in self._groups:
            self._open[name] = state[f"{name}.open"].numpy().copy()
            self._moves[name] = state[f"{name}.moves"].numpy().copy()
        self._resuming = True
