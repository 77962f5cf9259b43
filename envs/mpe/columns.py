"""Tensors between layouts: a group's columns of a buffer of all agents, and copies first or last."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor


class Columns:
    """A group's columns in a buffer whose rows are copies and whose columns are all agents' values in mpe2's order.

    Where the group's agents are evenly spaced, the group's tensor is a view of the buffer; otherwise it has
    memory of its own, which ``refresh`` fills.
    """

    def __init__(self, buffer: Tensor, starts: Sequence[int], width: int | None) -> None:
        rows, total = buffer.shape
        shape = (rows, len(starts)) if width is None else (rows, len(starts), width)
        steps = {second - first for first, second in itertools.pairwise(starts)}
        self._buffer = buffer
        self._index: Tensor | None = None
        if len(steps) <= 1 and min(steps, default=1) > 0:
            strides = (total, min(steps, default=1), 1)
            self.tensor = buffer.as_strided(shape, strides[: len(shape)], buffer.storage_offset() + starts[0])
        else:
            self.tensor = buffer.new_zeros(shape)
            columns = [start + offset for start in starts for offset in range(width or 1)]
            self._index = torch.tensor(columns, device=buffer.device)

    def refresh(self) -> None:
        """Brings ``tensor`` up to date with the buffer."""
        if self._index is not None:
            torch.index_select(self._buffer, 1, self._index, out=self.tensor.view(self.tensor.shape[0], -1))


def envs_first(tensor: Tensor) -> Tensor:
    """(..., E) to (E, ...), a copy on the CPU."""
    return tensor.movedim(-1, 0).cpu().contiguous().clone()


def envs_last(tensor: Tensor) -> Tensor:
    """(E, ...) to (..., E)."""
    return tensor.movedim(0, -1)
