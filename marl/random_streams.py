"""Random numbers that depend on the seed and on their purpose, never on the rank or on history.

A stream is a counter-based generator (Philox4x32-10; Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3"): number k of environment copy e at step t is a pure function of (seed, purpose, t, e, k). So ranks that
hold different copies draw the same numbers as one rank that holds all of them, and a resumed run needs no saved
generator: the step counter is enough.
"""

from __future__ import annotations

import zlib
from typing import Final

import numpy as np
import torch
from torch import Tensor

_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_WEYL: Final = (0x9E3779B9, 0xBB67AE85)
_MASK: Final = 0xFFFFFFFF


def derive(seed: int, purpose: str, *indices: int) -> np.random.SeedSequence:
    """The seed sequence of one purpose, and optionally of global indices within it (copy, agent, episode)."""
    return np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()), *indices))


def derive_int(seed: int, purpose: str, *indices: int) -> int:
    """A seed of 31 bits, for libraries that take one."""
    return int(derive(seed, purpose, *indices).generate_state(1)[0] >> 1)


def philox(counter: tuple[Tensor | int, ...], key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four 32-bit words for each 128-bit counter.

    Args:
        counter: four words in [0, 2³²), int64 tensors that broadcast together, or ints.
        key: two words in [0, 2³²).

    Returns:
        Four int64 tensors of the broadcast shape, with values in [0, 2³²).
    """
    words = torch.broadcast_tensors(*(torch.as_tensor(word, dtype=torch.int64) for word in counter))
    c0, c1, c2, c3 = words
    k0, k1 = key
    for _ in range(10):
        # The product of two 32-bit words wraps in int64, but its 64 bits are right: shift and mask recover them.
        product0 = c0 * _MULTIPLIERS[0]
        product1 = c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product1 >> 32) & _MASK) ^ c1 ^ k0,
            product1 & _MASK,
            ((product0 >> 32) & _MASK) ^ c3 ^ k1,
            product0 & _MASK,
        )
        k0 = (k0 + _WEYL[0]) & _MASK
        k1 = (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


class Stream:
    """Random numbers of one purpose for a contiguous block of environment copies.

    Args:
        seed: the experiment's seed.
        purpose: what the numbers are for; two purposes never share numbers.
        first_env: global index of this rank's first copy.
        num_envs: number of copies on this rank, E.
        device: where the numbers are wanted.
    """

    def __init__(
        self,
        seed: int,
        purpose: str,
        *,
        first_env: int = 0,
        num_envs: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        words = derive(seed, purpose).generate_state(2)
        self._key = (int(words[0]), int(words[1]))
        self._envs = torch.arange(first_env, first_env + num_envs, device=device)
        self._device = torch.device(device)

    def words(self, step: int | Tensor, count: int, *, rows: int = 1) -> Tensor:
        """Random 32-bit words for ``rows`` consecutive steps.

        Args:
            step: global number of the first step (any counter below 2⁶⁴), or one a copy, (E,) int64.
            count: words a copy and step.
            rows: how many steps.

        Returns:
            (rows, E, count) int64 in [0, 2³²).
        """
        blocks = -(-count // 4)
        first = step.view(1, -1, 1) if isinstance(step, Tensor) else step
        steps = torch.arange(rows, device=self._device).view(rows, 1, 1) + first
        block = torch.arange(blocks, device=self._device)
        counter = (steps & _MASK, (steps >> 32) & _MASK, self._envs.view(1, -1, 1), block)
        words = torch.stack(philox(counter, self._key), dim=-1)
        return words.view(rows, self._envs.numel(), blocks * 4)[..., :count]

    def uniforms(self, step: int | Tensor, count: int, *, rows: int = 1) -> Tensor:
        """Uniform numbers in the open interval (0, 1): (rows, E, count) float32; arguments as in ``words``."""
        # 23 bits, shifted by half a unit: neither 0 nor 1, so logarithms and normal quantiles are finite. With 24
        # bits the half would be rounded off, and the last number would be 1.
        return ((self.words(step, count, rows=rows) >> 9).to(torch.float32) + 0.5) * 2.0**-23

    def normals(self, step: int | Tensor, count: int, *, rows: int = 1) -> Tensor:
        """Standard normal numbers by Box–Muller: (rows, E, count) float32; arguments as in ``words``."""
        pairs = -(-count // 2)
        radius, angle = self.uniforms(step, 2 * pairs, rows=rows).split(pairs, dim=-1)
        radius = torch.sqrt(-2.0 * torch.log(radius))
        angle = 2.0 * torch.pi * angle
        return torch.cat((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)[..., :count]
