"""The check that agents who learn from the sum of all rewards are one team, for all algorithms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from marl.core import Communicator
from marl.errors import InputError
from marl.specs import EnvironmentSpec
from marl.types import TimeStep

_REWARDED_STEPS: Final = 16
"""Steps with rewards from which on rewards that always cancel are those of a zero-sum game; fewer may by chance."""
_STEPS: Final = 4096
"""Steps after which correlations are judged: enough for rewards that stay alike over whole episodes."""
_OPPOSED: Final = -0.5
"""Correlation of two agents' rewards up to which one wins what the other loses. Under random play those of opponents
in MPE's tag, adversary and push lie between -0.6 and -0.73, those of its cooperative tasks above 0.6, and those of
agents who are rewarded apart, each for its own finds, near 0."""
_ADVERSARIES: Final = ("adversary", "leadadversary", "opponent", "eve_")
"""Beginnings of names by which environments call agents that play against the others."""
_ADVICE: Final = (
    "so a team has nothing to learn: use iql, ippo or mappo without --algorithm.team-reward, or marl league; if "
    "they are to maximise the sum of rewards all the same, say --algorithm.allow-opponents"
)


def refuse_adversaries(spec: EnvironmentSpec) -> None:
    """Raises InputError where the environment itself calls some of the agents, and not all, adversaries."""
    adversaries = [agent for agent in spec.agents if agent.lower().startswith(_ADVERSARIES)]
    if adversaries and len(adversaries) < len(spec.agents):
        raise InputError(f"{adversaries[0]} plays against the other agents, {_ADVICE}")


class TeamRewardCheck:
    """Watches rewards until it is known that agents are a team, or until the sums of rewards show that they are not.

    Args:
        spec: of the environment.
        communicator: the ranks, over which sums are taken.
    """

    def __init__(self, spec: EnvironmentSpec, communicator: Communicator) -> None:
        self._agents = [agent for group in spec.groups for agent in group.agents]
        self._turns = spec.turn_based
        self._communicator = communicator
        agents = len(self._agents)
        # Steps, steps with rewards, sums of absolute rewards and of the team's; then of rewards, and of products.
        self._sums = torch.zeros(4 + agents + agents * agents, dtype=torch.float64)

    def add(self, timestep: TimeStep) -> None:
        """Takes in a step's rewards, (E, A) of each group."""
        rewards = torch.cat([group.rewards for group in timestep.groups.values()], -1).double().cpu()
        totals = (len(rewards), (rewards != 0).any(-1).sum(), rewards.abs().sum(), rewards.sum(-1).abs().sum())
        self._sums += torch.cat((torch.tensor(totals).double(), rewards.sum(0), (rewards.t() @ rewards).flatten()))

    def decide(self) -> bool:
        """Returns whether the agents are known to be a team. Collective.

        Raises:
            InputError: they are not; on all ranks.
        """
        sums = self._sums.clone()
        self._communicator.all_reduce(sums)
        steps, rewarded, individual, team = sums[:4].tolist()
        if rewarded >= _REWARDED_STEPS and team <= 1e-6 * individual:
            raise InputError(f"the agents' rewards add up to 0 at every step, as in a competitive game, {_ADVICE}")
        if steps < _STEPS or rewarded < _REWARDED_STEPS:
            return False
        if not self._turns:  # where only the mover is rewarded, rewards take turns too
            self._refuse_opposed(_correlations(sums[4:], len(self._agents), steps), self._agents)
        return True

    @staticmethod
    def _refuse_opposed(correlations: Tensor, agents: Sequence[str]) -> None:
        least = int(correlations.argmin())
        if float(correlations.flatten()[least]) <= _OPPOSED:
            first, second = agents[least // len(agents)], agents[least % len(agents)]
            raise InputError(f"{first} wins what {second} loses, {_ADVICE}")


def _correlations(sums: Tensor, agents: int, steps: float) -> Tensor:
    """(agents, agents) correlations by sums of rewards and products; 0 where a reward never changes."""
    means = sums[:agents] / steps
    covariances = sums[agents:].view(agents, agents) / steps - torch.outer(means, means)
    variances = covariances.diagonal()
    # Rounding leaves a little of constants, which says nothing.
    known = variances > 1e-9 * (variances + means.square())
    deviations = variances.clamp_min(0.0).sqrt()
    both = torch.outer(known, known)
    return torch.where(both, covariances / torch.outer(deviations, deviations).clamp_min(1e-300), 0.0)
