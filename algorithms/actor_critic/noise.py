"""Noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from marl.streams import Stream


class _Noise:
    """Uniform numbers of updates, by place in the global batch; made for several small updates at once."""

    _NUMBERS: Final = 2**17

    def __init__(self, stream: Stream, sizes: Mapping[str, tuple[int, int]]) -> None:
        self._stream = stream
        self._sizes = sizes
        self._widths = [agents * numbers for agents, numbers in sizes.values()]
        self._drawn: Tensor | None = None
        self._first = 0

    def __call__(self, update: int, positions: Tensor) -> dict[str, Tensor]:
        """(B, A, numbers) for each group."""
        total = sum(self._widths)
        if total == 0:
            chosen = torch.zeros((len(positions), 0), device=positions.device)
        else:
            if self._drawn is None or not 0 <= update - self._first < len(self._drawn):
                a_row = self._stream.uniforms(update, total)
                more = self._NUMBERS // a_row.numel() - 1
                rest = [self._stream.uniforms(update + 1, total, rows=more)] if more > 0 else []
                self._drawn, self._first = torch.cat([a_row, *rest]), update
            chosen = self._drawn[update - self._first][positions]
        parts = chosen.split(self._widths, dim=-1)
        return {
            name: part.reshape(len(positions), agents, numbers)
            for (name, (agents, numbers)), part in zip(self._sizes.items(), parts, strict=True)
        }
