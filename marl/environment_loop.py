"""Actors meet environments here; episodes are counted on the way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from marl.core import Actor, Communicator, Metrics, Saveable, State, VectorEnvironment
from marl.specs import EnvironmentSpec
from marl.types import TimeStep


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedEpisodes:
    """The K episodes that ended at one step."""

    copies: Tensor
    """(K,) int64: in which copies."""
    returns: Tensor
    """(K, agents) float64: undiscounted sum of each agent's rewards, in the order of ``EpisodeTracker.agents``."""
    lengths: Tensor
    """(K,) int64: environment steps."""


class EpisodeTracker(Saveable):
    """Adds up each agent's rewards until an episode ends."""

    def __init__(self, spec: EnvironmentSpec, num_envs: int) -> None:
        self.agents = tuple(agent for group in spec.groups for agent in group.agents)
        """All agents, group by group."""
        self._returns = torch.zeros(num_envs, len(self.agents), dtype=torch.float64)
        self._lengths = torch.zeros(num_envs, dtype=torch.int64)

    def track(self, timestep: TimeStep) -> EndedEpisodes | None:
        """Takes in one step; returns the episodes that it ended, if any."""
        self._returns += torch.cat([step.rewards for step in timestep.groups.values()], dim=1).to(self._returns)
        self._lengths += 1
        if timestep.final is None:
            return None
        copies = timestep.final.copies
        ended = EndedEpisodes(copies=copies, returns=self._returns[copies], lengths=self._lengths[copies])
        self._returns[copies] = 0.0
        self._lengths[copies] = 0
        return ended

    def copies_state_dict(self) -> State:
        """Unfinished episodes' sums."""
        return {"returns": self._returns, "lengths": self._lengths}

    def load_copies_state_dict(self, state: State) -> None:
        """See Saveable."""
        self._returns.copy_(state["returns"])
        self._lengths.copy_(state["lengths"])


class EpisodeStatistics:
    """Means over the episodes that ended since they were last asked for, on all ranks."""

    def __init__(self, tracker: EpisodeTracker) -> None:
        self._tracker = tracker
        self._sums = torch.zeros(len(tracker.agents) + 2, dtype=torch.float64)

    def observe(self, timestep: TimeStep) -> None:
        """Takes in one step."""
        ended = self._tracker.track(timestep)
        if ended is not None:
            self._sums[0] += ended.copies.numel()
            self._sums[1] += ended.lengths.sum()
            self._sums[2:] += ended.returns.sum(0)

    def reduce(self, communicator: Communicator, *flags: bool) -> tuple[int, Metrics, tuple[bool, ...]]:
        """Number of episodes and their means over ranks, and each flag: whether any rank raised it.

        The flags travel with the sums, so that agreeing on them costs no collective of its own. Means are
        missing where no episode ended.
        """
        message = torch.cat((self._sums, torch.tensor(flags, dtype=torch.float64)))
        communicator.all_reduce(message)
        self._sums.zero_()
        count, length, *figures = message.tolist()
        raised = tuple(value > 0 for value in figures[len(self._tracker.agents) :])
        if count == 0:
            return 0, {}, raised
        returns = {agent: total / count for agent, total in zip(self._tracker.agents, figures, strict=False)}
        metrics = {"episode_return/mean": sum(returns.values()), "episode_length/mean": length / count}
        metrics |= {f"episode_return/{agent}": value for agent, value in returns.items()}
        return int(count), metrics, raised


class EnvironmentLoop:
    """Steps all copies with an actor.

    Args:
        environment: the copies.
        actor: who acts, and whom to tell.
        statistics: counts episodes; None to leave that.
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
