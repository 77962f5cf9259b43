"""Returns and lengths of episodes, and their means over ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from marl.acting.metric_names import agent_label
from marl.core import Communicator, Metrics, Saveable, State
from marl.distributed.names import agree_on_names, decode_lines, encode_names
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
    infos: Sequence[Mapping[str, float]] = ()
    """Numbers in each one's last infos; empty where the environment gives none."""


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
        infos = timestep.final.infos
        if infos and dropped is not None:
            infos = [numbers for numbers, lost in zip(infos, dropped.tolist(), strict=True) if not lost]
        return self._end(envs.to(self._returns.device), over.to(self._returns.device), infos)

    def cut(self, max_steps: int) -> EndedEpisodes:
        """Counts the episodes that have lasted ``max_steps`` as ended; their copies play on."""
        envs = (self._lengths >= max_steps).nonzero().squeeze(1)
        return self._end(envs, envs)

    def _end(self, counted: Tensor, over: Tensor, infos: Sequence[Mapping[str, float]] = ()) -> EndedEpisodes:
        ended = EndedEpisodes(envs=counted, returns=self._returns[counted], lengths=self._lengths[counted], infos=infos)
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
        self._infos = InfoSums(num_envs)

    def observe(self, timestep: TimeStep) -> None:
        """Adds one step."""
        ended = self._tracker.track(timestep)
        if ended is not None:
            self._sums[ended.envs, 0] += 1
            self._sums[ended.envs, 2] += ended.lengths
            self._sums[ended.envs, 3:] += ended.returns
            if ended.infos:
                self._infos.add(ended.envs.tolist(), ended.infos)
            if timestep.final is not None and timestep.final.dropped is not None:
                dropped = timestep.final.envs[timestep.final.dropped]
                self._sums[dropped.to(self._sums.device), 1] += 1

    def reduce(self, communicator: Communicator) -> tuple[int, Metrics]:
        """Number of episodes and their means over ranks; collectives, one unless infos have numbers of new names.

        Means are missing where no episode ended, the number of dropped episodes where there is none.
        """
        known = self._infos.totals()
        message = torch.cat((self._sums.sum(0).cpu(), known, torch.tensor([float(self._infos.has_new)])))
        communicator.all_reduce(message)
        self._sums.zero_()
        count, dropped, length, *totals = message[: 3 + len(self._tracker.agents)].tolist()
        infos = self._infos.reduce(message[3 + len(self._tracker.agents) :], communicator)
        metrics = {"dropped_episodes": dropped} if dropped else {}
        if count:
            returns = {agent: total / count for agent, total in zip(self._tracker.agents, totals, strict=True)}
            metrics |= {"episode_return/mean": sum(returns.values()), "episode_length/mean": length / count}
            metrics |= {f"episode_return/{agent_label(agent)}": value for agent, value in returns.items()}
        return int(count), {**metrics, **infos}

    def state_dict(self) -> State:
        """Names of the numbers in infos."""
        return {"info_names": encode_names(self._infos.names)} if self._infos.names else {}

    def load_state_dict(self, state: State) -> None:
        (names,) = decode_lines(state["info_names"]) if "info_names" in state else ([],)
        self._infos.know(names)

    def env_state_dict(self) -> State:
        """The sums of episodes since the last ``reduce``."""
        return {"sums": self._sums} | ({"infos": self._infos.sums} if self._infos.names else {})

    def load_env_state_dict(self, state: State) -> None:
        self._sums.copy_(state["sums"])
        if self._infos.names:
            self._infos.sums.copy_(state["infos"])


class InfoSums:
    """Sums of the numbers in episodes' last infos, by names that all ranks have agreed on.

    Numbers of other names wait for the next ``reduce``, and are not part of checkpoints before it.

    Args:
        num_envs: E, copies of this rank.
    """

    def __init__(self, num_envs: int) -> None:
        self.names: tuple[str, ...] = ()
        """Those that were agreed on."""
        self.sums = torch.zeros(num_envs, 0, dtype=torch.float64)
        """(E, 2 N): how many episodes had each of the N numbers, and then their sums."""
        self._new: list[tuple[int, Mapping[str, float]]] = []

    @property
    def has_new(self) -> bool:
        """True if this rank has seen other names."""
        return bool(self._new)

    def know(self, names: Sequence[str]) -> None:
        """Takes these names as agreed on; numbers that wait for them are added."""
        before, sums = self.names, self.sums
        self.names = tuple(names)
        self.sums = torch.zeros(len(sums), 2 * len(names), dtype=torch.float64)
        for index, name in enumerate(self.names):
            if name in before:
                for half in (0, 1):
                    self.sums[:, half * len(names) + index] = sums[:, half * len(before) + before.index(name)]
        waiting, self._new = self._new, []
        for env, numbers in waiting:
            self.add([env], [numbers])

    def add(self, envs: Sequence[int], infos: Sequence[Mapping[str, float]]) -> None:
        """Adds the numbers of episodes of these copies."""
        index = {name: place for place, name in enumerate(self.names)}
        for env, numbers in zip(envs, infos, strict=True):
            new = {name: value for name, value in numbers.items() if name not in index}
            if new:
                self._new.append((env, new))
            for name, value in numbers.items():
                if name in index:
                    self.sums[env, index[name]] += 1
                    self.sums[env, len(index) + index[name]] += value

    def totals(self) -> Tensor:
        """(2 N,) float64, over this rank's copies."""
        return self.sums.sum(0)

    def reduce(self, message: Tensor, communicator: Communicator) -> Metrics:
        """Means over ranks. Collective, where some rank has new names.

        Args:
            message: the sum over ranks of ``totals`` and ``has_new``, (2 N + 1,).
            communicator: the ranks.
        """
        totals = message[:-1]
        if message[-1] > 0:
            names = agree_on_names({*self.names, *(name for _, new in self._new for name in new)}, communicator)
            self.know(names)
            totals = self.totals()
            communicator.all_reduce(totals)
        self.sums.zero_()
        counts, sums = totals.view(2, -1).tolist()
        found = zip(self.names, counts, sums, strict=True)
        return {f"info/{name}": total / count for name, count, total in found if count}
