"""E environments that are stepped one after the other and write into one storage: what Parallel and AEC share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from marl.envs.pettingzoo.failures import Failures
from marl.envs.pettingzoo.rows import ApiError
from marl.envs.pettingzoo.state import StateSource
from marl.envs.pettingzoo.storage import Storage


class EnvironmentBatch(ABC):
    """E environments of one kind, and how they are stepped. A window is a contiguous range of them.

    Args:
        environments: E fresh environments.
        storage: where their time steps go.
        state: how their global state is made, or None.
        next_seed: gives the seed of a copy's next episode.
        failures: counts exceptions of environments.
    """

    def __init__(
        self,
        environments: Sequence[Any],
        storage: Storage,
        state: StateSource | None,
        next_seed: Callable[[int], int],
        failures: Failures,
    ) -> None:
        self._environments = list(environments)
        self._storage = storage
        self._state = state
        self._next_seed = next_seed
        self._failures = failures
        self._gone: list[set[str]] = [set() for _ in range(storage.num_envs)]
        """Agents that died in each copy's episode."""
        self._prepare()

    @abstractmethod
    def _prepare(self) -> None:
        """Allocates what this kind of environment needs besides; called once, by the constructor."""

    @abstractmethod
    def reset(self, window: slice) -> None:
        """Begins a new episode in the copies of the window, and writes their rows."""

    @abstractmethod
    def step(self, window: slice, actions: Sequence[Sequence[Any]]) -> None:
        """Takes a step in the copies of the window, and writes their rows; actions are in the order of seats."""

    def release(self) -> None:
        """Lets go of the environments, after which none is stepped."""
        self._environments.clear()

    def _reset_environment(self, copy: int) -> Any:
        """Resets a copy with the seed of its next episode, and returns what its ``reset`` returns."""
        environment = self._environments[copy]
        return self._failures.reset_with_retry(copy, lambda: environment.reset(seed=self._next_seed(copy)))

    def _agents_after_reset(self, copy: int) -> set[str]:
        present = set(self._environments[copy].agents)
        self._storage.check_known(present, copy)
        if not present:
            raise ApiError("an episode begins with somebody alive", copy=copy, detail="env.agents is empty after reset")
        self._gone[copy].clear()
        return present
