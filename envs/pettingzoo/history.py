"""The actions of current episodes, from which environments without a state of their own are restored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marl.envs.pettingzoo.spaces import Array
from marl.specs import ActionSpec, ContinuousActions, DiscreteActions, EnvironmentSpec


class History:
    """The actions of every copy's current episode, kept in the smallest dtype that holds them.

    Args:
        spec: the environment's spec.
        num_envs: number of copies, E.
    """

    def __init__(self, spec: EnvironmentSpec, num_envs: int) -> None:
        self._names = [group.name for group in spec.groups]
        self._rows: list[Array] = [
            np.zeros((64, num_envs, group.size, *group.action.array.shape), _compact_dtype(group.action))
            for group in spec.groups
        ]
        self._count = 0
        self._starts = np.zeros(num_envs, dtype=np.int64)

    def append(self, actions: Sequence[Array]) -> None:
        """Appends one step's actions, (E, A, ...) a group."""
        if self._count == len(self._rows[0]):
            self._resize()
        for rows, row in zip(self._rows, actions, strict=True):
            rows[self._count] = row
        self._count += 1

    def restart(self, first: NDArray[np.bool_]) -> None:
        """Forgets the copies that begin an episode now."""
        self._starts[first] = self._count

    def lengths(self) -> NDArray[np.int64]:
        """(E,) steps since each copy's reset."""
        return self._count - self._starts

    def save(self) -> dict[str, Tensor]:
        """(E, L, A, ...) a group, zeros beyond a copy's length."""
        lengths = self.lengths()
        saved = {}
        for name, rows in zip(self._names, self._rows, strict=True):
            padded = np.zeros((len(lengths), int(lengths.max()), *rows.shape[2:]), rows.dtype)
            for copy, length in enumerate(lengths):
                padded[copy, :length] = rows[self._count - length : self._count, copy]
            saved[name] = torch.from_numpy(padded)
        return saved

    def load(self, saved: Sequence[Array], lengths: Sequence[int]) -> None:
        """Restores the result of ``save``, the first ``lengths`` steps of each copy."""
        longest = max(lengths)
        for index, rows in enumerate(self._rows):
            room = np.zeros((max(64, longest), *rows.shape[1:]), rows.dtype)
            for copy, length in enumerate(lengths):
                room[longest - length : longest, copy] = saved[index][copy, :length]
            self._rows[index] = room
        self._count = longest
        self._starts = longest - np.asarray(lengths, dtype=np.int64)

    def _resize(self) -> None:
        oldest = int(self._starts.min())
        for index, rows in enumerate(self._rows):
            kept = rows[oldest : self._count]
            room = np.zeros((max(64, 2 * len(kept)), *rows.shape[1:]), rows.dtype)
            room[: len(kept)] = kept
            self._rows[index] = room
        self._starts -= oldest
        self._count -= oldest


def _compact_dtype(action: ActionSpec) -> Any:
    if isinstance(action, ContinuousActions):
        return np.float32
    largest = action.num_actions if isinstance(action, DiscreteActions) else max(action.nvec)
    return np.uint8 if largest <= 2**8 else np.int16 if largest <= 2**15 else np.int64
