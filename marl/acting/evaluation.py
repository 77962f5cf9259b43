"""Evaluation: a fixed set of episodes, the same for any number of ranks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from marl.acting.actors import PolicyActor
from marl.acting.episodes import EndedEpisodes, EpisodeTracker
from marl.closing import close_all
from marl.core import Communicator, EnvironmentFactory, EnvironmentRequest
from marl.counters import MAX_STEPS
from marl.distributed.communicators import split
from marl.policy import Policy
from marl.specs import EnvironmentSpec, Sharing


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Undiscounted returns of N episodes; on rank 0 only, empty elsewhere."""

    agents: tuple[str, ...]
    """All agents, group by group."""
    returns: Tensor
    """(N, agents) float64."""
    lengths: Tensor
    """(N,) int64."""
    stopped: int = 0
    """Number of those that reached the step limit, and count with their returns up to there."""

    @property
    def totals(self) -> Tensor:
        """(N,) float64: returns summed over agents."""
        return self.returns.sum(1)

    def summary(self) -> dict[str, float]:
        """Mean return with its 95 % interval (half width, normal approximation), and each agent's mean."""
        totals, count = self.totals, len(self.totals)
        stopped = {"evaluation/step_limits": float(self.stopped)} if self.stopped else {}
        spread = float(totals.std()) if count > 1 else math.nan
        return {
            "evaluation/return_mean": float(totals.mean()),
            "evaluation/return_ci95": 1.96 * spread / math.sqrt(count),
            "evaluation/episodes": count,
            "evaluation/episode_length": float(self.lengths.double().mean()),
            **{
                f"evaluation/return/{agent}": float(value)
                for agent, value in zip(self.agents, self.returns.mean(0), strict=True)
            },
            **stopped,
        }


def evaluate(
    policies: Mapping[str, Policy],
    spec: EnvironmentSpec,
    environment: EnvironmentFactory,
    *,
    episodes: int,
    num_envs: int,
    seed: int,
    communicator: Communicator,
    sharing: Sharing = "spaces",
    with_state: bool = False,
    device: torch.device | str = "cpu",
    max_steps: int = MAX_STEPS,
) -> Evaluation:
    """Plays ``episodes`` episodes, spread over copies and ranks.

    Episode n is the (n // num_envs)th of copy n % num_envs, so that which episodes count depends neither on
    their lengths nor on the number of ranks. One that has not ended after ``max_steps`` counts with its returns up to
    there, and is its copy's last: episodes begin anew by their own end only.
    """
    total = min(num_envs, episodes)
    first, count = split(total, communicator.size, communicator.rank)
    tally = _Tally(episodes, total, first, count)
    if count:
        request = EnvironmentRequest(
            num_envs=count, first_env=first, seed=seed, purpose="evaluate", sharing=sharing, with_state=with_state
        )
        envs = environment(request)
        tracker = EpisodeTracker(envs.spec, count, device=device)
        actor = PolicyActor(
            policies,
            {group.name: group.size for group in spec.groups},
            num_envs=count,
            seed=seed,
            purpose="evaluate",
            first_env=first,
            device=device,
        )
        timestep = envs.reset()
        for step in itertools.count(1):
            timestep = envs.step(actor.select_actions(timestep))
            ended = tracker.track(timestep)
            if ended is not None:
                tally.add(ended)
            if step >= max_steps:
                tally.add_stopped(tracker.cut(max_steps))
            if not tally.missing:
                break
        close_all([envs], "the environments of an evaluation", quiet=first > 0)
    agents = tuple(agent for group in spec.groups for agent in group.agents)
    table = torch.tensor(tally.rows, dtype=torch.float64).reshape(-1, 3 + len(agents))
    table = communicator.gather_rows(table)
    table = table[table[:, 0].argsort()]
    return Evaluation(agents=agents, returns=table[:, 3:], lengths=table[:, 2].long(), stopped=int(table[:, 1].sum()))


class _Tally:
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
        self._played = [0] * num_envs
        self.missing = sum(self._wanted)
        """Episodes still to be played."""
        self.rows: list[list[float]] = []
        """Number of the episode, 1 if it reached the step limit, length, and each agent's return."""

    def add(self, ended: EndedEpisodes) -> None:
        """Counts episodes that ended."""
        self._add(ended, stopped=False)

    def add_stopped(self, ended: EndedEpisodes) -> None:
        """Counts episodes that reached the step limit; their copies play no further ones."""
        for env in self._add(ended, stopped=True):
            self.missing -= self._wanted[env] - self._played[env]
            self._played[env] = self._wanted[env]

    def _add(self, ended: EndedEpisodes, *, stopped: bool) -> list[int]:
        """Returns the copies whose episodes count."""
        counted = []
        episodes = zip(ended.envs.tolist(), ended.lengths.tolist(), ended.returns.tolist(), strict=True)
        for env, length, returns in episodes:
            if self._played[env] < self._wanted[env]:
                number = self._played[env] * self._total_envs + self._first_env + env
                self.rows.append([number, float(stopped), length, *returns])
                self._played[env] += 1
                self.missing -= 1
                counted.append(env)
        return counted
