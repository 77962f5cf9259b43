"""n-step transitions of all agents, of which every step begins one."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from marl.adders.base import NextStep, ReplayAdder, Singles
from marl.core import State
from marl.replay import Replay, Staging, TransitionItems
from marl.replay.layout import as_array
from marl.types import Actions, Bools, GroupStep, TimeStep


class _Window:
    """Unfinished transitions of all copies that began at one step."""

    def __init__(self, replay: Replay) -> None:
        envs = replay.num_envs
        self.staging = Staging(replay.layout, (envs,))
        self.running: dict[str, Bools] = {
            group.name: np.zeros((envs, group.size), np.bool_) for group in replay.spec.groups
        }
        """Agents whose n steps have not come to an early end."""
        self.team_running: Bools = np.zeros(envs, np.bool_)
        self.weight = np.float32(1.0)
        """Of the next step's rewards."""
        self.untouched = False
        """Whether all of them still run: mostly so, and then masks can be left out."""

    def open(self, seen: Mapping[str, Tensor]) -> None:
        """Begins with the present observations."""
        self.staging.write(seen)
        arrays = self.staging.arrays
        for name, running in self.running.items():
            arrays[f"{name}/rewards"].fill(0.0)
            # An agent that does not act has no value of its own.
            arrays[f"{name}/discounts"][...] = arrays[f"{name}/active"]
            running.fill(True)
        arrays["discounts"].fill(1.0)
        self.team_running.fill(True)
        self.weight = np.float32(1.0)
        self.untouched = True

    def accumulate(self, name: str, rewards: Singles, factors: Singles | np.float32) -> None:
        """Adds one step's rewards of a group, (E, A), and multiplies its discounts."""
        sums, discounts = self.staging.arrays[f"{name}/rewards"], self.staging.arrays[f"{name}/discounts"]
        where: Bools | Literal[True] = True if self.untouched else self.running[name]
        np.add(sums, self.weight * rewards, out=sums, where=where)
        np.multiply(discounts, factors, out=discounts, where=where)

    def accumulate_team(self, discount: np.float32) -> None:
        """Multiplies the team's discounts, and the weight of the rewards that follow."""
        self.weight *= discount
        discounts = self.staging.arrays["discounts"]
        np.multiply(discounts, discount, out=discounts, where=True if self.untouched else self.team_running)


class TransitionAdder(ReplayAdder):
    """Makes n-step transitions: the discounted sum of n rewards, and the bootstrap n steps later.

    Every step begins one item in every copy, and every item takes n steps to finish, even where the episode, and
    with it the item's window, ends before. So all copies finish one item a step, and ranks know each other's
    counts. Windows of fewer than n steps stand only at the end of episodes, and no step is lost there.

    Args:
        replay: stores the items.
        discount: the discount factor gamma of one step.
    """

    def __init__(self, replay: Replay, *, discount: float) -> None:
        super().__init__(replay, discount=discount)
        if not isinstance(replay.items, TransitionItems):
            raise ValueError("this replay does not hold transitions")
        self._n = replay.items.n_step
        self._spare = [_Window(replay) for _ in range(self._n)]
        self._windows: deque[_Window] = deque()
        """At most n, the oldest first."""
        parts = ("observations", "active", "action_masks")
        self._parts = {
            name: [
                (f"{name}/{part}", f"{name}/next_{part}") for part in parts if f"{name}/{part}" in replay.layout.fields
            ]
            for name in self._groups
        }

    def _begin(self, seen: Mapping[str, Tensor]) -> None:
        self._spare.extend(self._windows)
        self._windows.clear()
        self._open(seen)

    def _open(self, seen: Mapping[str, Tensor]) -> None:
        window = self._spare.pop()
        window.open(seen)
        self._windows.append(window)

    def add(self, actions: Actions, extras: Mapping[str, State], timestep: TimeStep) -> None:
        seen = self._seen(timestep)
        next_step = self._next_step(timestep, seen)
        for name in self._groups:
            self._windows[-1].staging.arrays[f"{name}/actions"][...] = as_array(actions[name])
            self._add_group(name, timestep.groups[name], next_step)
        for window in self._windows:
            window.accumulate_team(self._discount)
            if len(next_step.ended):
                self._end_team(window, next_step)
        if len(self._windows) == self._n:
            self._finish(next_step)
        self._open(seen)

    def _add_group(self, name: str, step: GroupStep, next_step: NextStep) -> None:
        rewards, terminated = as_array(step.rewards), as_array(step.terminated)
        over = terminated | as_array(step.truncated)
        over[next_step.ended] = True
        if not over.any():
            for window in self._windows:
                window.accumulate(name, rewards, self._discount)
            return
        factors = self._discount * ~terminated
        for window in self._windows:
            window.accumulate(name, rewards, factors)
            running = window.running[name]
            envs, agents = np.nonzero(running & over)
            for part, following in self._parts[name]:
                window.staging.arrays[following][envs, agents] = next_step.seen[part].numpy()[envs, agents]
            running &= ~over
            window.untouched = False

    def _end_team(self, window: _Window, next_step: NextStep) -> None:
        now = window.team_running[next_step.ended]
        envs = next_step.ended[now]
        window.staging.arrays["discounts"][envs] *= next_step.remaining[now]
        if self._has_state:
            window.staging.arrays["next_state"][envs] = next_step.seen["state"].numpy()[envs]
        window.team_running[envs] = False
        window.untouched = False

    def _finish(self, next_step: NextStep) -> None:
        """Bootstraps the oldest window where it still runs, and hands it to replay."""
        window = self._windows.popleft()
        pairs = [
            (part, following, window.running[name]) for name in self._groups for part, following in self._parts[name]
        ]
        if self._has_state:
            pairs.append(("state", "next_state", window.team_running))
        if window.untouched:
            window.staging.write({following: next_step.seen[part] for part, following, _ in pairs})
        else:
            for part, following, running in pairs:
                field = window.staging.arrays[following]
                where = running.reshape(running.shape + (1,) * (field.ndim - running.ndim))
                np.copyto(field, next_step.seen[part].numpy(), where=where)
        self._replay.append(window.staging.records)
        self._spare.append(window)

    def env_state_dict(self) -> State:
        """The unfinished items."""
        if not self._replay.saves:
            return {}
        windows = [*self._windows, *self._spare]
        state = {
            "records": np.stack([window.staging.records for window in windows], axis=1),
            "team_running": np.stack([window.team_running for window in windows], axis=1),
            "begun": np.full(self._replay.num_envs, len(self._windows)),
        }
        for name in self._groups:
            state[f"{name}.running"] = np.stack([window.running[name] for window in windows], axis=1)
        return {name: torch.from_numpy(array) for name, array in state.items()}

    def load_env_state_dict(self, state: State) -> None:
        if not state:
            return
        windows = [*self._windows, *self._spare]
        for index, window in enumerate(windows):
            window.staging.records[...] = state["records"][:, index].numpy()
            window.team_running[...] = state["team_running"][:, index].numpy()
            window.untouched = False
            for name in self._groups:
                window.running[name][...] = state[f"{name}.running"][:, index].numpy()
        begun = int(state["begun"][0])
        self._windows, self._spare = deque(windows[:begun]), windows[begun:]
        for age, window in enumerate(reversed(self._windows)):
            window.weight = np.prod([self._discount] * age, dtype=np.float32)
        self._resuming = True
