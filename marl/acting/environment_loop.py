"""The loop of an actor and its environments, with statistics of episodes."""

from __future__ import annotations

from marl.acting.episodes import EpisodeStatistics
from marl.core import Actor, VectorEnvironment
from marl.types import TimeStep


class EnvironmentLoop:
    """Steps all copies with an actor.

    Args:
        environment: the copies.
        actor: selects actions, and observes their results.
        statistics: of episodes; None for none.
    """

    def __init__(self, environment: VectorEnvironment, actor: Actor, statistics: EpisodeStatistics | None = None):
        self._environment = environment
        self._actor = actor
        self._statistics = statistics
        self._timestep: TimeStep | None = None

    def begin(self, timestep: TimeStep | None = None) -> None:
        """Begins with new episodes in all copies, or where a checkpoint stopped."""
        self._timestep = self._environment.reset() if timestep is None else timestep
        self._actor.observe_first(self._timestep)

    def step(self) -> None:
        """One step of every copy."""
        assert self._timestep is not None, "begin first"
        actions = self._actor.select_actions(self._timestep)
        self._timestep = self._environment.step(actions)
        self._actor.observe(actions, self._timestep)
        if self._statistics is not None:
            self._statistics.observe(self._timestep)
