"""Evaluation: a fixed set of episodes, the same for any number of ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from marl.actors import Policy, PolicyActor
from marl.communicators import split
from marl.core import Communicator, EnvironmentFactory, EnvironmentRequest
from marl.environment_loop import EpisodeTracker
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

    @property
    def totals(self) -> Tensor:
        """(N,) float64: returns summed over agents."""
        return self.returns.sum(1)

    def summary(self) -> dict[str, float]:
        """Mean return with its 95 % interval (half width, normal approximation), and each agent's mean."""
        totals, count = self.totals, len(self.totals)
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
) -> Evaluation:
    """Plays ``episodes`` episodes, spread over copies and ranks.

    Episode n is the (n // num_envs)th of copy n % num_envs, so that which episodes count depends neither on
    their lengths nor on the number of ranks.
    """
    total = min(num_envs, episodes)
    first, count = split(total, communicator.size, communicator.rank)
    rows: list[tuple[int, int, list[float]]] = []
    if count:
        request = EnvironmentRequest(
            num_envs=count, first_copy=first, seed=seed, purpose="evaluate", sharing=sharing, with_state=with_state
        )
        copies = environment(request)
        tracker = EpisodeTracker(copies.spec, count, device=device)
        actor = PolicyActor(
            policies,
            {group.name: group.size for group in spec.groups},
            num_envs=count,
            seed=seed,
            purpose="evaluate",
            first_copy=first,
            device=device,
        )
        wanted = [len(range(first + copy, episodes, total)) for copy in range(count)]
        missing = sum(wanted)
        done = [0] * count
        timestep = copies.reset()
        while missing:
            timestep = copies.step(actor.select_actions(timestep))
            ended = tracker.track(timestep)
            if ended is None:
                continue
            for copy, length, returns in zip(
                ended.copies.tolist(), ended.lengths.tolist(), ended.returns.tolist(), strict=True
            ):
                if done[copy] < wanted[copy]:
                    rows.append((done[copy] * total + first + copy, length, returns))
                    missing -= 1
                done[copy] += 1
        copies.close()
    agents = tuple(agent for group in spec.groups for agent in group.agents)
    flat = [[number, length, *returns] for number, length, returns in rows]
    table = torch.tensor(flat, dtype=torch.float64).reshape(-1, 2 + len(agents))
    table = communicator.gather_rows(table)
    table = table[table[:, 0].argsort()]
    return Evaluation(agents=agents, returns=table[:, 2:], lengths=table[:, 1].long())
