"""The global state of PettingZoo environments: their own ``state()``, or all agents' observations together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from marl.envs.pettingzoo.rows import Seat, check_row
from marl.envs.pettingzoo.spaces import Array, array_spec, channels_last, has_channels_first
from marl.envs.pettingzoo.storage import Storage
from marl.specs import ArraySpec


def own_state(environment: Any) -> Array | None:
    """The result of ``environment.state()``, or None where there is no such method or it does not work."""
    try:
        state = environment.state()
    except Exception:  # the base class raises NotImplementedError; others raise whatever they stumble over
        return None
    if not isinstance(state, np.ndarray) or state.size == 0 or not np.can_cast(state.dtype, np.float32, "same_kind"):
        return None
    return channels_last(state) if has_channels_first(state.shape, state.dtype) else state


def own_state_spec(state: Array) -> ArraySpec:
    """The spec of states like this one."""
    return array_spec(state.shape, state.dtype)


def assembled_spec(observations: Sequence[ArraySpec]) -> ArraySpec:
    """The spec of all observations together: images of one size are stacked, others flattened and concatenated."""
    if _stackable(observations):
        height, width, _ = observations[0].shape
        return ArraySpec(shape=(height, width, sum(spec.shape[2] for spec in observations)), dtype=torch.uint8)
    return ArraySpec(shape=(sum(spec.size for spec in observations),))


def _stackable(observations: Sequence[ArraySpec]) -> bool:
    return all(
        spec.dtype == torch.uint8 and spec.is_image and spec.shape[:2] == observations[0].shape[:2]
        for spec in observations
    )


class StateSource:
    """Writes states into storage.

    Args:
        spec: the state's spec.
        own: whether ``environment.state()`` is the state.
        order: the agents whose observations, concatenated in this order, are the state: all of them where the
            environment has no state of its own; where it has one, given if its state was found to be just that, so
            that observations need not be computed twice. None otherwise.
    """

    def __init__(self, spec: ArraySpec, *, own: bool, order: Sequence[str] | None) -> None:
        self.spec = spec
        self.own = own
        self.assembled = order is not None
        self._order = tuple(order or ())
        self._pieces: list[tuple[Seat, tuple[Any, ...]]] = []
        self._stacked = False

    def bind(self, storage: Storage) -> None:
        """Sets the arrays to read from and write to; called once."""
        self._storage = storage
        seats = [storage.seats[storage.index[agent]] for agent in self._order]
        self._stacked = len(self.spec.shape) == 3
        offset = 0
        for seat in seats:
            width = seat.reader.spec.shape[2] if self._stacked else seat.reader.spec.size
            self._pieces.append((seat, (..., slice(offset, offset + width))))
            offset += width
        self._piece_of = {seat.agent: where for seat, where in self._pieces}

    def read(self, environment: Any, copy: int) -> Array:
        """One copy's own state, checked; the last one known where the environment cannot tell it just now.

        Some environments (multiwalker) fail to give a state once somebody has died.
        """
        storage = self._storage
        assert storage.state is not None
        try:
            state = environment.state()
        except Exception:  # whatever the environment stumbles over
            last: Array = storage.state[copy]
            return last
        if isinstance(state, np.ndarray) and has_channels_first(state.shape, state.dtype):
            state = channels_last(state)
        return check_row(state, self.spec.shape, storage.state.dtype, agent=None, copy=copy, what="state")

    def assemble_all(self) -> None:
        """Writes the states of all copies from their observations."""
        storage = self._storage
        assert storage.state is not None
        for seat, where in self._pieces:
            rows = storage.groups[seat.group].observations[:, seat.row]
            storage.state[where] = rows if self._stacked else rows.reshape(storage.num_envs, -1)

    def assemble(self, copy: int) -> None:
        """Writes one copy's state from its observations."""
        storage = self._storage
        assert storage.state is not None
        for seat, where in self._pieces:
            row = storage.groups[seat.group].observations[copy, seat.row]
            storage.state[copy][where] = row if self._stacked else row.reshape(-1)

    def assemble_final(self, row: int) -> None:
        """Writes one row of final states from final observations."""
        storage = self._storage
        assert storage.final_state is not None
        for seat, where in self._pieces:
            last = storage.groups[seat.group].final_observations[row, seat.row]
            storage.final_state[row][where] = last if self._stacked else last.reshape(-1)

    def write_piece(self, copy: int, seat: Seat, observation: Array) -> None:
        """Writes one agent's share of one copy's state."""
        storage = self._storage
        assert storage.state is not None
        where = self._piece_of[seat.agent]
        storage.state[copy][where] = observation if self._stacked else observation.reshape(-1)
