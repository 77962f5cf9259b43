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
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from marl.core import Adder, Saveable, State
from marl.errors import InputError
from marl.replay import Array, Ints, Replay, SequenceItems, TransitionItems, as_array
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

    seen: Mapping[str, Array]
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
        self._begin(self._seen(timestep), resuming=self._resuming)
        self._resuming = False

    @abstractmethod
    def _begin(self, seen: Mapping[str, Array], *, resuming: bool) -> None:
        """Begins new items in all copies, or sees the newest step of the current ones once more."""

    def _seen(self, timestep: TimeStep) -> dict[str, Array]:
        seen = {}
        for name in self._groups:
            group = timestep.groups[name]
            seen[f"{name}/observations"] = as_array(group.observations)
            seen[f"{name}/active"] = as_array(group.active)
            if group.action_masks is not None:
                seen[f"{name}/action_masks"] = as_array(group.action_masks)
        if self._has_state:
            if timestep.state is None:
                raise ValueError("replay's spec has a state, but time steps have none")
            seen["state"] = as_array(timestep.state)
        return seen

    def _arrival(self, timestep: TimeStep, seen: Mapping[str, Array]) -> _Arrival:
        final = timestep.final
        if final is None:
            return _Arrival(seen=seen, ended=np.zeros(0, np.int64), remaining=np.zeros(0, np.float32))
        ended = as_array(final.copies)
        last = {name: array.copy() for name, array in seen.items()}
        remaining = np.zeros(len(ended), np.bool_)
        for name in self._groups:
            step, group = timestep.groups[name], final.groups[name]
            last[f"{name}/observations"][ended] = as_array(group.observations)
            if group.action_masks is not None:
                last[f"{name}/action_masks"][ended] = as_array(group.action_masks)
            bootstrapped = (as_array(step.truncated) & ~as_array(step.terminated))[ended]
            last[f"{name}/active"][ended] = bootstrapped
            remaining |= bootstrapped.any(axis=1)
        if self._has_state:
            if final.state is None:
                raise ValueError("replay's spec has a state, but an episode's last step has none")
            last["state"][ended] = as_array(final.state)
        return _Arrival(seen=last, ended=ended, remaining=remaining.astype(np.float32))


class TransitionAdder(ReplayAdder):
    """Makes n-step transitions: the discounted sum of n rewards, and the bootstrap n steps later.

    Every step begins one item in every copy, and every item takes n steps to complete, even where the episode, and
    with it the item's window, ends before. So all copies complete one item a step, and ranks know each other's
    counts. Items of fewer than n steps stand only at the end of episodes, and no step is lost there.

    Args:
        replay: where the items go.
        discount: the discount factor gamma of one step.
    """

    def __init__(self, replay: Replay, *, discount: float) -> None:
        super().__init__(replay, discount=discount)
        if not isinstance(replay.items, TransitionItems):
            raise ValueError("this replay does not hold transitions")
        self._n = replay.items.n_step
        self._begun = 0
        envs = replay.num_envs
        sizes = {group.name: group.size for group in replay.spec.groups}
        # Windows that are being filled: item number k has index k % n.
        self._sums: dict[str, Singles] = {g: np.zeros((self._n, envs, a), np.float32) for g, a in sizes.items()}
        self._factors: dict[str, Singles] = {g: np.zeros((self._n, envs, a), np.float32) for g, a in sizes.items()}
        self._running: dict[str, Bools] = {g: np.zeros((self._n, envs, a), np.bool_) for g, a in sizes.items()}
        self._team_factors: Singles = np.zeros((self._n, envs), np.float32)
        self._team_running: Bools = np.zeros((self._n, envs), np.bool_)

    def _begin(self, seen: Mapping[str, Array], *, resuming: bool) -> None:
        if not resuming:
            self._begun = 0
            for running in (*self._running.values(), self._team_running):
                running.fill(False)
            self._begun = 1
            self._open(seen)
        else:
            self._see(seen)

    def _newest(self) -> int:
        return int(self._replay.local_counts[0]) + self._begun - 1

    def _see(self, seen: Mapping[str, Array]) -> None:
        slot = self._newest() % self._replay.ring
        for name, array in seen.items():
            self._replay.fields[name][slot] = array

    def _open(self, seen: Mapping[str, Array]) -> None:
        self._see(seen)
        index = self._newest() % self._n
        for name in self._groups:
            self._sums[name][index] = 0.0
            self._factors[name][index] = seen[f"{name}/active"]
            self._running[name][index] = True
        self._team_factors[index] = 1.0
        self._team_running[index] = True

    def add(self, actions: Actions, extras: Mapping[str, State], timestep: TimeStep) -> None:
        """Adds what was done at the previous time step, and where it led."""
        fields, ring = self._replay.fields, self._replay.ring
        seen = self._seen(timestep)
        arrival = self._arrival(timestep, seen)
        newest = self._newest() % ring
        oldest = int(self._replay.local_counts[0])
        slots = (oldest + (np.arange(self._n) - oldest) % self._n) % ring
        for name in self._groups:
            fields[f"{name}/actions"][newest] = as_array(actions[name])
            self._accumulate(name, timestep.groups[name], arrival, slots)
        self._accumulate_team(arrival, slots)
        if self._begun == self._n:
            self._complete(oldest, arrival)
            self._begun -= 1
        self._begun += 1
        self._open(seen)

    def _accumulate(self, name: str, step: GroupStep, arrival: _Arrival, slots: Ints) -> None:
        sums, factors, running = self._sums[name], self._factors[name], self._running[name]
        terminated = as_array(step.terminated)
        np.add(sums, factors * as_array(step.rewards), out=sums, where=running)
        np.multiply(factors, np.where(terminated, np.float32(0.0), self._discount), out=factors, where=running)
        over = terminated | as_array(step.truncated)
        over[arrival.ended] = True
        if over.any():
            windows, copies, agents = np.nonzero(running & over)
            for part in _step_parts(name, arrival.seen):
                values = arrival.seen[part][copies, agents]
                self._replay.fields[_following(part)][slots[windows], copies, agents] = values
            running &= ~over

    def _accumulate_team(self, arrival: _Arrival, slots: Ints) -> None:
        factors, running, ended = self._team_factors, self._team_running, arrival.ended
        np.multiply(factors, self._discount, out=factors, where=running)
        if len(ended):
            factors[:, ended] *= np.where(running[:, ended], arrival.remaining, np.float32(1.0))
            if self._has_state:
                windows, places = np.nonzero(running[:, ended])
                copies = ended[places]
                self._replay.fields["next_state"][slots[windows], copies] = arrival.seen["state"][copies]
            running[:, ended] = False

    def _complete(self, number: int, arrival: _Arrival) -> None:
        fields, slot, index = self._replay.fields, number % self._replay.ring, number % self._n
        for name in self._groups:
            fields[f"{name}/rewards"][slot] = self._sums[name][index]
            fields[f"{name}/discounts"][slot] = self._factors[name][index]
            for part in _step_parts(name, arrival.seen):
                _fill(fields[_following(part)][slot], arrival.seen[part], self._running[name][index])
        fields["discounts"][slot] = self._team_factors[index]
        if self._has_state:
            _fill(fields["next_state"][slot], arrival.seen["state"], self._team_running[index])
        self._replay.commit()

    def copies_state_dict(self) -> State:
        """The windows that are being filled, (E, n, ...)."""
        if not self._replay.saves:
            return {}
        state = {name: torch.from_numpy(array.swapaxes(0, 1).copy()) for name, array in self._windows().items()}
        return state | {"begun": torch.full((self._replay.num_envs,), self._begun)}

    def load_copies_state_dict(self, state: State) -> None:
        """Takes the windows back; replay must have taken back its records."""
        if not state:
            return
        for name, array in self._windows().items():
            array[...] = state[name].numpy().swapaxes(0, 1)
        self._begun = int(state["begun"][0])
        self._resuming = True

    def _windows(self) -> dict[str, Array]:
        windows: dict[str, Array] = {"factors": self._team_factors, "running": self._team_running}
        for name in self._groups:
            windows[f"{name}/sums"] = self._sums[name]
            windows[f"{name}/factors"] = self._factors[name]
            windows[f"{name}/running"] = self._running[name]
        return windows


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
        self._envs: Ints = np.arange(replay.num_envs)
        self._times: Ints = np.zeros(replay.num_envs, np.int64)
        self._from_start: Bools = np.ones(replay.num_envs, np.bool_)

    def _slots(self) -> Ints:
        slots: Ints = self._replay.local_counts % self._replay.ring
        return slots

    def _begin(self, seen: Mapping[str, Array], *, resuming: bool) -> None:
        if not resuming:
            self._open(self._envs, seen)
        else:
            self._see(self._envs, self._times, seen)

    def _open(self, copies: Ints, seen: Mapping[str, Array]) -> None:
        self._clear(copies)
        self._times[copies] = 0
        self._from_start[copies] = True
        self._see(copies, self._times[copies], seen)

    def _clear(self, copies: Ints) -> None:
        slots = self._slots()[copies]
        self._replay.clear(copies, slots)
        for name in self._groups:
            if (masks := f"{name}/action_masks") in self._replay.fields:
                self._replay.fields[masks][slots, copies] = True

    def _see(self, copies: Ints, times: Ints, seen: Mapping[str, Array]) -> None:
        slots = self._slots()[copies]
        for name, array in seen.items():
            self._replay.fields[name][slots, copies, times] = array[copies]

    def add(self, actions: Actions, extras: Mapping[str, State], timestep: TimeStep) -> None:
        """Adds what was done at the previous time step, and where it led."""
        fields, items = self._replay.fields, self._items
        seen = self._seen(timestep)
        arrival = self._arrival(timestep, seen)
        place = (self._slots(), self._envs, self._times)
        for name in self._groups:
            step, active = timestep.groups[name], fields[f"{name}/active"][place]
            fields[f"{name}/actions"][place] = as_array(actions[name])
            fields[f"{name}/rewards"][place] = as_array(step.rewards) * active
            fields[f"{name}/discounts"][place] = self._discount * (active & ~as_array(step.terminated))
        team = np.full(self._replay.num_envs, self._discount)
        team[arrival.ended] *= arrival.remaining
        fields["discounts"][place] = team
        fields["valid"][place] = True
        fields["learn"][place] = self._from_start | (self._times >= items.burn_in)
        self._times += 1
        self._see(self._envs, self._times, arrival.seen)
        ended = np.zeros(self._replay.num_envs, np.bool_)
        ended[arrival.ended] = True
        going = np.flatnonzero((self._times == items.length) & ~ended)
        before = self._slots()[going]
        self._replay.commit(np.union1d(going, arrival.ended))
        if len(arrival.ended):
            self._open(arrival.ended, seen)
        if len(going):
            self._go_on(going, before)

    def _go_on(self, copies: Ints, before: Ints) -> None:
        """Begins sequences in the middle of an episode with the last steps of those before, which lie in ``before``."""
        fields, items = self._replay.fields, self._items
        self._clear(copies)
        slots = self._slots()[copies]
        for field in fields.values():
            kept = field.shape[2] - items.stride
            field[slots, copies, :kept] = field[before, copies, items.stride :]
        fields["learn"][slots, copies] = fields["valid"][slots, copies] & (np.arange(items.length) >= items.burn_in)
        self._times[copies] = items.length - items.stride
        self._from_start[copies] = False

    def copies_state_dict(self) -> State:
        """How far the sequences are that are being filled."""
        if not self._replay.saves:
            return {}
        return {
            "times": torch.from_numpy(self._times.copy()),
            "from_start": torch.from_numpy(self._from_start.copy()),
        }

    def load_copies_state_dict(self, state: State) -> None:
        """Takes them back; replay must have taken back its records."""
        if not state:
            return
        self._times[:] = state["times"].numpy()
        self._from_start[:] = state["from_start"].numpy()
        self._resuming = True


def _step_parts(group: str, seen: Mapping[str, Array]) -> list[str]:
    names = (f"{group}/{part}" for part in ("observations", "active", "action_masks"))
    return [name for name in names if name in seen]


def _following(name: str) -> str:
    """The field of the next step that corresponds to a field of this one."""
    group, _, part = name.rpartition("/")
    return f"{group}/next_{part}"


def _fill(field: Array, values: Array, where: Bools) -> None:
    """Overwrites rows of a field; mostly all of them."""
    if where.all():
        field[...] = values
    else:
        np.copyto(field, values, where=where.reshape(where.shape + (1,) * (field.ndim - where.ndim)))
