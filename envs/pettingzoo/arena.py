"""PettingZoo environments that are begun with given seeds and stepped in any selection: for games."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from marl.core import EnvironmentRequest
from marl.envs.pettingzoo.aec import strip_wrappers
from marl.envs.pettingzoo.spaces import Array
from marl.envs.pettingzoo.vector import PettingZooVectorEnvironment
from marl.games.game import Arena
from marl.specs import EnvironmentSpec, Sharing
from marl.types import FinalStep, Integers, TimeStep


class PettingZooArena(Arena):
    """Any PettingZoo environment, Parallel or AEC, as games to play.

    Args:
        make: makes one environment; called ``num_envs`` + 1 times.
        num_envs: number of environments, E.
        sharing: how agents are put into the groups of time steps.

    Raises:
        InputError: as PettingZooVectorEnvironment.
    """

    def __init__(self, make: Callable[[], Any], num_envs: int, *, sharing: Sharing = "spaces") -> None:
        self._environment = _SeededEnvironment(
            lambda: strip_wrappers(make()), EnvironmentRequest(num_envs=num_envs, sharing=sharing, with_state=False)
        )

    @property
    def spec(self) -> EnvironmentSpec:
        return self._environment.spec

    @property
    def num_envs(self) -> int:
        return self._environment.num_envs

    def begin(self, seeds: Sequence[int]) -> TimeStep:
        return self._environment.begin(seeds)

    def step(self, envs: Integers, actions: Sequence[Array]) -> list[int]:
        return self._environment.step_some(envs, actions)

    def final(self) -> FinalStep | None:
        """The last observations in the games that ended at the last step, if they were of one call."""
        return self._environment.ended_step()

    def text(self, env: int) -> str:
        """The text of an environment whose render mode is ``ansi``; empty for others."""
        return self._environment.text(env)

    def close(self) -> None:
        self._environment.close()


class _SeededEnvironment(PettingZooVectorEnvironment):
    _seeds: Sequence[int] = ()

    def begin(self, seeds: Sequence[int]) -> TimeStep:
        self._seeds = seeds
        with self._process_state:
            self._envs.reset(slice(0, len(seeds)))
        return self._storage.timestep()

    def step_some(self, envs: Integers, actions: Sequence[Array]) -> list[int]:
        choices = self._choices(actions)
        ended: list[int] = []
        with self._process_state:
            for window in _windows(envs):
                self._envs.step(window, choices[window])
                ended += self._storage.ended
        return ended

    def ended_step(self) -> FinalStep | None:
        return self._storage.timestep().final

    def text(self, copy: int) -> str:
        if getattr(self._environments[copy], "render_mode", None) != "ansi":
            return ""
        return str(self.render(copy))

    def _next_seed(self, copy: int) -> int:
        return self._seeds[copy] if copy < len(self._seeds) else 0


def _windows(envs: Integers) -> Iterator[slice]:
    """Ascending numbers as slices without gaps."""
    breaks = np.flatnonzero(np.diff(envs) != 1) + 1
    starts = [0, *breaks.tolist()]
    stops = [*breaks.tolist(), len(envs)]
    for start, stop in zip(starts, stops, strict=True):
        yield slice(int(envs[start]), int(envs[stop - 1]) + 1)
