"""Evaluation: a fixed set of episodes, the same for any number of ranks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from marl.acting.actors import PolicyActor
from marl.acting.episodes import EpisodeTracker
from marl.acting.metric_names import agent_label
from marl.acting.modes import Mode
from marl.acting.outcomes import Outcomes
from marl.acting.random_opponents import RandomOpponents
from marl.acting.tally import Tally
from marl.core import Communicator, EnvironmentFactory, EnvironmentRequest
from marl.counters import MAX_STEPS
from marl.distributed.communicators import split
from marl.distributed.names import agree_on_names
from marl.games.sides import Sides
from marl.policy import Policy
from marl.progress import Progress, unwatched
from marl.resources.closing import close_all
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
    mode: Mode = "greedy"
    """How policies acted."""
    infos: Mapping[str, Tensor] = field(default_factory=dict)
    """(N,) float64 by name: numbers in the episodes' last infos, NaN where an episode had none."""
    outcomes: Outcomes | None = None
    """Wins, draws and losses of the policies among themselves, where sides oppose each other."""
    against_random: Outcomes | None = None
    """The same of other games, in which the policies played each side in turn against uniformly random moves."""
    sampled: Evaluation | None = None
    """The same of actions that were drawn, where both modes were played and this is the greedy one."""

    @property
    def totals(self) -> Tensor:
        """(N,) float64: returns summed over agents."""
        return self.returns.sum(1)

    def summary(self) -> dict[str, float]:
        """Mean return with its 95 % interval (half width, normal approximation), and each agent's mean.

        ``evaluation/…`` is of the greedy episodes, if there are any; ``evaluation/sampled/…`` of sampled ones.
        """
        metrics = self._metrics("evaluation/")
        if self.mode == "sampled":
            metrics |= self._metrics("evaluation/sampled/")
        elif self.sampled is not None:
            metrics |= self.sampled._metrics("evaluation/sampled/")
        return metrics

    def _metrics(self, prefix: str) -> dict[str, float]:
        totals, count = self.totals, len(self.totals)
        spread = float(totals.std()) if count > 1 else math.nan
        metrics = {
            f"{prefix}return_mean": float(totals.mean()),
            f"{prefix}return_ci95": 1.96 * spread / math.sqrt(count),
            f"{prefix}episodes": count,
            f"{prefix}episode_length": float(self.lengths.double().mean()),
            **{
                f"{prefix}return/{agent_label(agent)}": float(value)
                for agent, value in zip(self.agents, self.returns.mean(0), strict=True)
            },
        }
        if self.stopped:
            metrics[f"{prefix}step_limits"] = float(self.stopped)
        for name, values in self.infos.items():
            metrics[f"{prefix}info/{name}"] = float(values.nanmean())
        if self.outcomes is not None:
            metrics |= self.outcomes.summary(prefix)
        if self.against_random is not None:
            metrics |= self.against_random.summary(f"{prefix}random/")
        return metrics


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
    mode: Mode = "greedy",
    sides: Sides | None = None,
    progress: Progress = unwatched,
) -> Evaluation:
    """Plays ``episodes`` episodes, spread over copies and ranks.

    Episode n is the (n // num_envs)th of copy n % num_envs, so that which episodes count depends neither on
    their lengths nor on the number of ranks. One that has not ended after ``max_steps`` counts with its returns up to
    there, and is its copy's last: episodes begin anew by their own end only.

    Args:
        policies: one a group; they act in all seats, but for ``sides``.
        spec: of the environment.
        environment: makes it.
        episodes: over all ranks.
        num_envs: copies over all ranks, at most.
        seed: of the episodes and actions. Both modes play the same episodes, with random numbers of their own.
        communicator: the ranks.
        sharing: as the policies were trained.
        with_state: whether policies read the state.
        device: where policies compute.
        max_steps: step limit of an episode.
        mode: how the policies act.
        sides: where given, the policies play one side in each episode, in turn, and random moves the others; the
            result has ``against_random`` then.
        progress: told of this rank's episodes at every step.
    """
    total = min(num_envs, episodes)
    first, count = split(total, communicator.size, communicator.rank)
    tally = Tally(episodes, total, first, count)
    what = f"{mode} evaluation" + (" against random moves" if sides is not None else "")
    # Policies' own numbers differ between the modes and the kinds of games; the environments' do not.
    purpose = {"greedy": "evaluate", "sampled": "evaluate/sampled"}[mode] + ("/random" if sides is not None else "")
    if count:
        request = EnvironmentRequest(
            num_envs=count, first_env=first, seed=seed, purpose="evaluate", sharing=sharing, with_state=with_state
        )
        envs = environment(request)
        tracker = EpisodeTracker(envs.spec, count, device=device)
        sizes = {group.name: group.size for group in spec.groups}
        actor = PolicyActor(policies, sizes, num_envs=count, seed=seed, purpose=purpose, first_env=first, device=device)
        opponents = (
            None
            if sides is None
            else RandomOpponents(
                spec, sides, num_envs=count, seed=seed, purpose=purpose, first_env=first, device=device
            )
        )
        wanted = tally.missing
        timestep = envs.reset()
        for step in itertools.count(1):
            actions = actor.select_actions(timestep)
            if opponents is not None:
                actions = opponents.replace(actions, timestep, tally.played)
            timestep = envs.step(actions)
            ended = tracker.track(timestep)
            if ended is not None:
                tally.add(ended)
            if step >= max_steps:
                tally.add_stopped(tracker.cut(max_steps))
            progress(what, wanted - tally.missing, wanted)
            if not tally.missing:
                break
        close_all([envs], "the environments of an evaluation", quiet=first > 0)
    agents = tuple(agent for group in spec.groups for agent in group.agents)
    names = agree_on_names(tally.info_names, communicator)
    table = torch.tensor(tally.rows(names), dtype=torch.float64).reshape(-1, 3 + len(agents) + len(names))
    table = communicator.gather_rows(table)
    table = table[table[:, 0].argsort()]
    numbers, returns = table[:, 0].long(), table[:, 3 : 3 + len(agents)].contiguous()
    return Evaluation(
        agents=agents,
        returns=returns,
        lengths=table[:, 2].long(),
        stopped=int(table[:, 1].sum()),
        mode=mode,
        infos={name: table[:, 3 + len(agents) + index] for index, name in enumerate(names)},
        against_random=None
        if sides is None
        else Outcomes(
            sides=sides.names,
            returns=sides.returns(returns),
            played=RandomOpponents.own_sides(numbers % max(total, 1), numbers // max(total, 1), len(sides)),
        ),
    )
