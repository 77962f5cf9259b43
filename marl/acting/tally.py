"""The count of an evaluation's episodes on one rank."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from marl.acting.episodes import EndedEpisodes


class Tally:
    """The episodes of this rank that count, and those still to be played.

    Args:
        episodes: over all ranks.
        total_envs: copies over all ranks.
        first_env: global index of this rank's first copy.
        num_envs: copies of this rank.
    """

    def __init__(self, episodes: int, total_envs: int, first_env: int, num_envs: int) -> None:
        self._total_envs, self._first_env = total_envs, first_env
        self._wanted = [len(range(first_env + env, episodes, total_envs)) for env in range(num_envs)]
        self._rows: list[list[float]] = []
        self._infos: list[Mapping[str, float]] = []
        self.played: Tensor = torch.zeros(num_envs, dtype=torch.int64)
        """(E,) int64: episodes of each copy that count."""
        self.missing = sum(self._wanted)
        """Episodes still to be played."""

    @property
    def info_names(self) -> set[str]:
        """Names of all numbers in the episodes' last infos."""
        return {name for infos in self._infos for name in infos}

    def rows(self, info_names: Sequence[str]) -> list[list[float]]:
        """Returns of each episode its number, 1 if it reached the step limit, length, returns, and infos."""
        return [
            [*row, *(infos.get(name, math.nan) for name in info_names)]
            for row, infos in zip(self._rows, self._infos, strict=True)
        ]

    def add(self, ended: EndedEpisodes) -> None:
        """Counts episodes that ended."""
        self._add(ended, stopped=False)

    def add_stopped(self, ended: EndedEpisodes) -> None:
        """Counts episodes that reached the step limit; their copies play no further ones."""
        for env in self._add(ended, stopped=True):
            self.missing -= self._wanted[env] - int(self.played[env])
            self.played[env] = self._wanted[env]

    def _add(self, ended: EndedEpisodes, *, stopped: bool) -> list[int]:
        """Returns the copies whose episodes count."""
        counted = []
        episodes = zip(ended.envs.tolist(), ended.lengths.tolist(), ended.returns.tolist(), strict=True)
        for row, (env, length, returns) in enumerate(episodes):
            played = int(self.played[env])
            if played < self._wanted[env]:
                number = played * self._total_envs + self._first_env + env
                self._rows.append([number, float(stopped), length, *returns])
                self._infos.append(ended.infos[row] if ended.infos else {})
                self.played[env] += 1
                self.missing -= 1
                counted.append(env)
        return counted
