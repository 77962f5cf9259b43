"""Returns and lengths of episodes, and their means over ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from marl.core import Communicator, Metrics, Saveable, State
from marl.specs import EnvironmentSpec
from marl.types import TimeStep


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedEpisodes:
    """The K episodes that ended at one step."""

    envs: Tensor
    """(K,) int64: indices of their copies."""
    returns: Tensor
    """(K, agents) float64: undiscounted sum of each agent's rewards, in the order of ``EpisodeTracker.agents``."""
    lengths: Tensor
    """(K,) int64: environment steps."""


class EpisodeTracker(Saveable):
    """Adds up each agent's rewards until an episode ends.

    Args:
        spec: of the environment.
        num_envs: E, copies of this rank.
        device: of time steps; sums are kept there, so that no step waits for them.
    """

    def __init__(self, spec: EnvironmentSpec, num_envs: int, *, device: torch.device | str = "cpu") -> None:
        self.agents = tuple(agent for group in spec.groups for agent in group.agents)
        """All agents, group by group."""
        self._returns = torch.zeros(num_envs, len(self.agents), dtype=torch.float64, device=device)
        self._lengths = torch.zeros(num_envs, dtype=torch.int64, device=device)

    @property
    def device(self) -> torch.device:
        """Device of the sums."""
        return self._returns.device

    def track(self, timestep: TimeStep) -> EndedEpisodes | None:
        """Adds one step; returns the episodes that it ended, if any. Those that were dropped are forgotten."""
        self._returns += torch.cat([step.rewards for step in timestep.groups.values()], dim=1).to(self._returns)
        self._lengths += 1
        if timestep.final is None:
            return None
        over, dropped = timestep.final.envs, timestep.final.dropped
        envs = over if dropped is None else over[~dropped]
        return self._end(envs.to(self._returns.device), over.to(self._returns.device))

    def cut(self, max_steps: int) -> EndedEpisodes:
        """Counts the episodes that have lasted ``max_steps`` as ended; their copies play on."""
        envs = (self._lengths >= max_steps).nonzero().squeeze(1)
        return self._end(envs, envs)

    def _end(self, counted: Tensor, over: Tensor) -> EndedEpisodes:
        ended = EndedEpisodes(envs=counted, returns=self._returns[counted], lengths=self._lengths[counted])
        self._returns[over] = 0.0
        self._lengths[over] = 0
        return ended

    def env_state_dict(self) -> State:
        """Unfinished episodes' sums."""
        return {"returns": self._returns, "lengths": self._lengths}

    def load_env_state_dict(self, state: State) -> None:
        self._returns.copy_(state["returns"])
        self._lengths.copy_(state["lengths"])


class EpisodeStatistics(Saveable):
    """Means over the episodes that ended since the last ``reduce``, on all ranks.

    Every copy has sums of its own, so that a resumed run adds them up in the same order as an uninterrupted one.
    """

    def __init__(self, tracker: EpisodeTracker, num_envs: int) -> None:
        self._tracker = tracker
        # Episodes, dropped ones, their steps, and each agent's return.
        self._sums = torch.zeros(num_envs, len(tracker.agents) + 3, dtype=torch.float64, device=tracker.device)

    def observe(self, timestep: TimeStep) -> None:
        """Adds one step."""
        ended = self._tracker.track(timestep)
        if ended is not None:
            self._sums[ended.envs, 0] += 1
            self._sums[ended.envs, 2] += ended.lengths
            self._sums[ended.envs, 3:] += ended.returns
            if timestep.final is not None and timestep.final.dropped is not None:
                dropped = timestep.final.envs[timestep.final.dropped]
                self._sums[dropped.to(self._sums.device), 1] += 1

    def reduce(self, communicator: Communicator) -> tuple[int, Metrics]:
        """Number of episodes and their means over ranks; one collective.

        Means are missing where no episode ended, the number of dropped episodes where there is none.
        """
        message = self._sums.sum(0).cpu()
        communicator.all_reduce(message)
        self._sums.zero_()
        count, dropped, length, *totals = message.tolist()
        metrics = {"dropped_episodes": dropped} if dropped else {}
        if count:
            returns = {agent: total / count for agent, total in zip(self._tracker.agents, totals, strict=True)}
            metrics |= {"episode_return/mean": sum(returns.values()), "episode_length/mean": length / count}
            metrics |= {f"episode_return/{agent}": value for agent, value in returns.items()}
        return int(count), metrics

    def env_state_dict(self) -> State:
        """The sums of episodes since the last ``reduce``."""
        return {"sums": self._sums}

    def load_env_state_dict(self, state: State) -> None:
        self._sums.copy_(state["sums"])
