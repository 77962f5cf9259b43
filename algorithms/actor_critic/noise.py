"""Random numbers of updates, which do not depend on how a batch is split over ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from marl.random_streams import Stream


class UpdateNoise:
    """Uniform random numbers of updates, by position in the global batch; made for several small updates at once.

    Args:
        stream: the random numbers.
        sizes: agents, and random numbers that each of them needs, by group.
    """

    _NUMBERS: Final = 2**17

    def __init__(self, stream: Stream, sizes: Mapping[str, tuple[int, int]]) -> None:
        self._stream = stream
        self._sizes = sizes
        self._widths = [agents * numbers for agents, numbers in sizes.values()]
        self._drawn: Tensor | None = None
        self._first = 0

    def __call__(self, update: int, positions: Tensor) -> dict[str, Tensor]:
        """(B, A, numbers) uniform for each group, at (B,) positions in the global batch of an update."""
        total = sum(self._widths)
        if total == 0:
            uniforms = torch.zeros((len(positions), 0), device=positions.device)
        else:
            if self._drawn is None or not 0 <= update - self._first < len(self._drawn):
                one_update = self._stream.uniforms(update, total)
                more = self._NUMBERS // one_update.numel() - 1
                following = [self._stream.uniforms(update + 1, total, rows=more)] if more > 0 else []
                self._drawn, self._first = torch.cat([one_update, *following]), update
            uniforms = self._drawn[update - self._first][positions]
        parts = uniforms.split(self._widths, dim=-1)
        return {
            name: part.reshape(len(positions), agents, numbers)
            for (name, (agents, numbers)), part in zip(self._sizes.items(), parts, strict=True)
        }
