"""Adders of replay: they make transitions and sequences of time steps, and alone interpret how episodes end.

What a value counts for (the ``discounts`` of items) is decided here:

- where an agent terminated, nothing remains: 0;
- where its episode was truncated, its value is bootstrapped from the true last observation, not from the first one
  of the next episode;
- the team's value counts until all agents of all groups terminated. Agents that left the game before the others are
  not ``active`` at the next step, so a mixer leaves them out.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marl.core import Adder, Saveable, State
from marl.errors import InputError
from marl.replay import Replay, SequenceItems, Staging, TransitionItems
from marl.replay.layout import Ints, as_array
from marl.types import Actions, GroupStep, TimeStep

Bools = NDArray[np.bool_]
Singles = NDArray[np.float32]


def make_replay_adder(replay: Replay, *, discount: float) -> ReplayAdder:
    """The adder that makes the replay's items.

    Args:
        replay: where the items go.
        discount: the discount factor gamma of one step.

    Raises:
        InputError: the discount factor is outside [0, 1].
    """
    if isinstance(replay.items, TransitionItems):
        return TransitionAdder(replay, discount=discount)
    return SequenceAdder(replay, discount=discount)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arrival:
    """Where a step led, within the episode: in copies whose episode ended, the last observations of the old one."""

    seen: Mapping[str, Tensor]
    """By field name, as an item's step: observations, masks and active flags (E, A, ...), state (E, ...)."""
    ended: Ints
    """(K,) copies whose episode ended."""
    remaining: Singles
    """(K,) 1 where some agent's value remains, 0 where all terminated."""


class ReplayAdder(Adder, Saveable):
    """What the adders of replay have in common.

    Checkpoints hold unfinished items only where they hold replay's records; otherwise these items are dropped and
    a resumed run begins new ones. After ``load_copies_state_dict`` the next ``add_first`` is taken for the saved
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

    def _arrival(self, timestep: TimeStep, seen: Mapping[str, Tensor]) -> _Arrival:
        final = timestep.final
        if final is None:
            return _Arrival(seen=seen, ended=np.zeros(0, np.int64), remaining=np.zeros(0, np.float32))
        ended = final.copies
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
        return _Arrival(seen=last, ended=ended.numpy(), remaining=remaining.numpy().astype(np.float32))


class _Window:
    """The transitions of all copies that began at one step and are being made."""

    def __init__(self, replay: Replay) -> None:
        envs = replay.num_envs
        self.staging = Staging(replay.layout, (envs,))
        self.running: dict[str, Bools] = {
            group.name: np.zeros((envs, group.size), np.bool_) for group in replay.spec.groups
        }
        """Agents whose n steps have not come to an early end."""
        self.team_running: Bools = np.zeros(envs, np.bool_)
        self.untouched = False
        """Whether all of them are known to run: mostly so, and then masks can be left out."""

    def open(self, seen: Mapping[str, Tensor]) -> None:
        """Begins with what is seen now."""
        self.staging.write(seen)
        arrays = self.staging.arrays
        for name, running in self.running.items():
            arrays[f"{name}/rewards"].fill(0.0)
            # An agent that does not act earns nothing and counts for nothing.
            arrays[f"{name}/discounts"][...] = arrays[f"{name}/active"]
            running.fill(True)
        arrays["discounts"].fill(1.0)
        self.team_running.fill(True)
        self.untouched = True

    def accumulate(self, name: str, rewards: Singles, factors: Singles | np.float32) -> None:
        """Adds one step's rewards of a group, (E, A), and multiplies its discounts."""
        sums, discounts = self.staging.arrays[f"{name}/rewards"], self.staging.arrays[f"{name}/discounts"]
        where: Bools | Literal[True] = True if self.untouched else self.running[name]
        np.add(sums, discounts * rewards, out=sums, where=where)
        np.multiply(discounts, factors, out=discounts, where=where)

    def accumulate_team(self, discount: np.float32) -> None:
        """Multiplies the team's discounts."""
        discounts = self.staging.arrays["discounts"]
        np.multiply(discounts, discount, out=discounts, where=True if self.untouched else self.team_running)


class TransitionAdder(ReplayAdder):
    """Makes n-step transitions: the discounted sum of n rewards, and the bootstrap n steps later.

    Every step begins one item in every copy, and every item takes n steps to finish, even where the episode, and
    with it the item's window, ends before. So all copies finish one item a step, and ranks know each other's
    counts. Windows of fewer than n steps stand only at the end of episodes, and no step is lost there.

    Args:
        replay: where the items go.
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
        """Adds what was done at the previous time step, and where it led."""
        seen = self._seen(timestep)
        arrival = self._arrival(timestep, seen)
        for name in self._groups:
            self._windows[-1].staging.arrays[f"{name}/actions"][...] = as_array(actions[name])
            self._add_group(name, timestep.groups[name], arrival)
        for window in self._windows:
            window.accumulate_team(self._discount)
            if len(arrival.ended):
                self._end_team(window, arrival)
        if len(self._windows) == self._n:
            self._finish(arrival)
        self._open(seen)

    def _add_group(self, name: str, step: GroupStep, arrival: _Arrival) -> None:
        rewards, terminated = as_array(step.rewards), as_array(step.terminated)
        over = terminated | as_array(step.truncated)
        over[arrival.ended] = True
        if not over.any():
            for window in self._windows:
                window.accumulate(name, rewards, self._discount)
            return
        factors = self._discount * ~terminated
        for window in self._windows:
            window.accumulate(name, rewards, factors)
            running = window.running[name]
            copies, agents = np.nonzero(running & over)
            for part, following in self._parts[name]:
                window.staging.arrays[following][copies, agents] = arrival.seen[part].numpy()[copies, agents]
            running &= ~over
            window.untouched = False

    def _end_team(self, window: _Window, arrival: _Arrival) -> None:
        now = window.team_running[arrival.ended]
        copies = arrival.ended[now]
        window.staging.arrays["discounts"][copies] *= arrival.remaining[now]
        if self._has_state:
            window.staging.arrays["next_state"][copies] = arrival.seen["state"].numpy()[copies]
        window.team_running[copies] = False
        window.untouched = False

    def _finish(self, arrival: _Arrival) -> None:
        """Bootstraps the oldest window where it still runs, and hands it to replay."""
        window = self._windows.popleft()
        pairs = [
            (part, following, window.running[name]) for name in self._groups for part, following in self._parts[name]
        ]
        if self._has_state:
            pairs.append(("state", "next_state", window.team_running))
        if window.untouched:
            window.staging.write({following: arrival.seen[part] for part, following, _ in pairs})
        else:
            for part, following, running in pairs:
                field = window.staging.arrays[following]
                where = running.reshape(running.shape + (1,) * (field.ndim - running.ndim))
                np.copyto(field, arrival.seen[part].numpy(), where=where)
        self._replay.append(window.staging.records)
        self._spare.append(window)

    def copies_state_dict(self) -> State:
        """The items that are being made."""
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

    def load_copies_state_dict(self, state: State) -> None:
        """Takes them back."""
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
        self._resuming = True


class SequenceAdder(ReplayAdder):
    """Makes sequences of up to L steps of one episode, padded with zeros (and all-True masks) after its end.

    Args:
        replay: where the items go.
        discount: the discount factor gamma of one step.
    """

    def __init__(self, replay: Replay, *, discount: float) -> None:
        super().__init__(replay, discount=discount)
        if not isinstance(replay.items, SequenceItems):
            raise ValueError("this replay does not hold sequences")
        self._items = replay.items
        self._staging = Staging(replay.layout, (replay.num_envs,))
        self._envs: Ints = np.arange(replay.num_envs)
        self._times: Ints = np.zeros(replay.num_envs, np.int64)
        """Steps in every copy's unfinished sequence."""

    def _begin(self, seen: Mapping[str, Tensor]) -> None:
        self._open(self._envs, seen)

    def _open(self, copies: Ints, seen: Mapping[str, Tensor]) -> None:
        self._clear(copies)
        self._times[copies] = 0
        self._see(copies, seen)

    def _clear(self, copies: Ints) -> None:
        self._staging.records[copies] = 0
        for name in self._groups:
            if (masks := f"{name}/action_masks") in self._staging.arrays:
                self._staging.arrays[masks][copies] = True

    def _see(self, copies: Ints, seen: Mapping[str, Tensor]) -> None:
        times = self._times[copies]
        for name, tensor in seen.items():
            self._staging.arrays[name][copies, times] = tensor.numpy()[copies]

    def add(self, actions: Actions, extras: Mapping[str, State], timestep: TimeStep) -> None:
        """Adds what was done at the previous time step, and where it led."""
        arrays, items = self._staging.arrays, self._items
        seen = self._seen(timestep)
        arrival = self._arrival(timestep, seen)
        place = (self._envs, self._times)
        for name in self._groups:
            step, active = timestep.groups[name], arrays[f"{name}/active"][place]
            arrays[f"{name}/actions"][place] = as_array(actions[name])
            arrays[f"{name}/rewards"][place] = as_array(step.rewards) * active
            arrays[f"{name}/discounts"][place] = self._discount * (active & ~as_array(step.terminated))
        team = np.full(self._replay.num_envs, self._discount)
        team[arrival.ended] *= arrival.remaining
        arrays["discounts"][place] = team
        arrays["valid"][place] = True
        # Burn-in lies within what a sequence has in common with the one before; new steps are always learned from.
        arrays["learn"][place] = True
        self._times += 1
        self._see(self._envs, arrival.seen)
        finished = self._times == items.length
        finished[arrival.ended] = True
        copies = np.flatnonzero(finished)
        self._replay.append(self._staging.records, copies)
        going = np.setdiff1d(copies, arrival.ended)
        if len(going):
            self._go_on(going)
        if len(arrival.ended):
            self._open(arrival.ended, seen)

    def _go_on(self, copies: Ints) -> None:
        """Begins sequences in the middle of an episode, with the last steps of those before."""
        arrays, items = self._staging.arrays, self._items
        kept = {name: array[copies, items.stride :] for name, array in arrays.items()}
        self._clear(copies)
        for name, values in kept.items():
            arrays[name][copies, : values.shape[1]] = values
        arrays["learn"][copies] = arrays["valid"][copies] & (np.arange(items.length) >= items.burn_in)
        self._times[copies] = items.length - items.stride

    def copies_state_dict(self) -> State:
        """The sequences that are being made."""
        if not self._replay.saves:
            return {}
        state = {"records": self._staging.records, "times": self._times}
        return {name: torch.from_numpy(array.copy()) for name, array in state.items()}

    def load_copies_state_dict(self, state: State) -> None:
        """Takes them back."""
        if not state:
            return
        self._staging.records[...] = state["records"].numpy()
        self._times[...] = state["times"].numpy()
        self._resuming = True
