"""Counts of environment steps, updates and episodes, over all ranks and restarts of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from marl.files import Json

MAX_STEPS: Final = 10_000
"""Step limit of an episode or game without learning; policies may come to play one that never ends."""
_COUNTS = ("env_steps", "updates", "episodes", "began")


class Counter:
    """Global counts of a run, and the wall-clock seconds that it took, restarts left out.

    Equal on all ranks, but for ``wall_seconds``, which is each rank's own and decides nothing.

    Args:
        clock: seconds that never go back; ``time.monotonic`` but in tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.env_steps = 0
        """Environment steps over all copies and ranks."""
        self.updates = 0
        """Updates of the learner."""
        self.episodes = 0
        """Episodes ended, over all copies and ranks."""
        self.began = 0
        """Environment steps at which the learner last began anew."""
        self._clock = clock
        self._started = clock()
        self._seconds_before = 0.0

    @property
    def wall_seconds(self) -> float:
        """Seconds since the start, without the time between a checkpoint and its resumption."""
        return self._seconds_before + self._clock() - self._started

    @property
    def steps_since_began(self) -> int:
        """Environment steps since the learner last began anew: what all schedules of a learner go by."""
        return self.env_steps - self.began

    def row(self) -> dict[str, float]:
        """The counts as the first entries of a row for loggers."""
        return {
            "env_steps": self.env_steps,
            "updates": self.updates,
            "episodes": self.episodes,
            "wall_seconds": self.wall_seconds,
        }

    def state_dict(self) -> dict[str, Json]:
        """The counts, for a checkpoint's metadata."""
        return {**{name: getattr(self, name) for name in _COUNTS}, "wall_seconds": self.wall_seconds}

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Goes on from the counts of a checkpoint.

        Raises:
            ValueError: a count is missing, negative or not a number.
        """
        counts = {name: state.get(name) for name in _COUNTS}
        seconds = state.get("wall_seconds")
        for name, count in counts.items():
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise ValueError(f"saved counter {name} is {count!r}, not a count")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
            raise ValueError(f"saved counter wall_seconds is {seconds!r}, not a time")
        for name, count in counts.items():
            setattr(self, name, count)
        self._seconds_before, self._started = float(seconds), self._clock()
