"""A past policy towards which a policy is pulled, so that self-play settles instead of going in circles.

Magnetic mirror descent (Sokota et al. 2023, "A unified approach to reinforcement learning, quantal response equilibria,
and two-player zero-sum games", section 4) improves a policy with a penalty of alpha KL(policy, magnet). With the
uniform policy as magnet that is an entropy bonus, and self-play comes to rest at a quantal response equilibrium, alpha
away from the game's own. A magnet that is now and then put where the policy is takes that distance away; Perolat et
al. 2021, "From Poincaré recurrence to convergence in imperfect information games", show that the sequence converges.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from marl.algorithms.on_policy.networks import PolicyNetwork
from marl.algorithms.on_policy.rollouts import Rollout
from marl.core import Saveable, State
from marl.errors import InputError
from marl.learning.config_checks import require_at_least, require_unit_interval
from marl.networks.categorical import MaskedCategorical
from marl.specs import DiscreteActions, EnvironmentSpec


@dataclass(frozen=True, kw_only=True)
class MagnetConfig:
    """Settings of the policy that takes the uniform one's place in the entropy bonus."""

    magnet_updates: int | None = None
    """The entropy bonus pulls towards the uniform policy; with this, towards the policy as it was a while ago, anew
    after so many updates at the full step size. Self-play then settles at an equilibrium (see
    ``marl.algorithms.on_policy.magnet``)."""
    magnet_uniform_share: float = 0.0
    """Share of the uniform policy in that policy, so that no action is given up for good."""


def check_magnet(config: MagnetConfig, spec: EnvironmentSpec, *, recurrent: bool) -> None:
    """InputError where the policies cannot be held by a magnet."""
    require_at_least(1, config, "magnet_updates")
    require_unit_interval(config, "magnet_uniform_share")
    if config.magnet_updates is None:
        return
    if recurrent or not all(isinstance(group.action, DiscreteActions) for group in spec.groups):
        raise InputError(
            "--algorithm.magnet-updates is for networks without memory that choose one action out of several"
        )


class Magnet(Saveable):
    """Actors as they were a while ago; equal on all ranks, as the actors are.

    Args:
        actors: one a group, without memory, that choose one action out of several.
        config: how often they are copied anew, from the first update on, and the share of the uniform policy. With some
            of that no action is given up for good, and what follows actions that seem bad, which a best response may
            well take, goes on being learned.
    """

    def __init__(self, actors: Mapping[str, PolicyNetwork], config: MagnetConfig) -> None:
        assert config.magnet_updates is not None
        self._actors = actors
        self._past_actors = {name: copy.deepcopy(actor) for name, actor in actors.items()}
        self._period = config.magnet_updates
        self._uniform_share = config.magnet_uniform_share
        self._left = 0.0

    def advance(self, share: float = 1.0) -> None:
        """Puts the magnet where the policy is, if that is due; to be called before each update.

        Args:
            share: of the full step size, that the update will take. With smaller steps a policy takes longer to come
                to rest; a magnet that does not wait for that holds nothing back.
        """
        if self._left <= 0.0:
            self._left += self._period
            for name, actor in self._actors.items():
                self._past_actors[name].load_state_dict(actor.state_dict())
        self._left -= share

    def attach(self, name: str, rollout: Rollout) -> Rollout:
        """Returns a group's rollout with the magnet's log-probabilities."""
        magnet = self.log_probs(name, rollout.observations, rollout.masks, rollout.weights > 0)
        return rollout._replace(magnet=magnet)

    @torch.no_grad()
    def log_probs(self, name: str, observations: Tensor, masks: Tensor | None, wanted: Tensor) -> Tensor:
        """Computes the magnet's log-probabilities of all actions.

        Args:
            name: of the group.
            observations: (B, A, *), as its network takes them.
            masks: (B, A, K) bool, or None.
            wanted: (B, A) bool, the rows that matter.

        Returns:
            (B, A, K) log-probabilities; zeros in the other rows.
        """
        actor = self._past_actors[name]
        rows, agents = wanted.nonzero(as_tuple=True)
        features = actor.torso.features([observations[rows, agents]], agents)
        distribution = actor.distribution(features, None if masks is None else masks[rows, agents])
        assert isinstance(distribution, MaskedCategorical)
        log_probs = distribution.log_probs
        if self._uniform_share:
            legal = torch.ones_like(log_probs) if masks is None else masks[rows, agents].to(log_probs.dtype)
            share = self._uniform_share * legal / legal.sum(-1, keepdim=True)
            mixed = (1.0 - self._uniform_share) * distribution.probs + share
            log_probs = torch.where(legal > 0, mixed.log(), log_probs)
        result = observations.new_zeros((*wanted.shape, log_probs.shape[-1]), dtype=torch.float32)
        result[rows, agents] = log_probs
        return result

    def state_dict(self) -> State:
        """The magnet's parameters, and how long it stays where it is."""
        state: State = {"left": torch.tensor(self._left, dtype=torch.float64)}
        for name, actor in self._past_actors.items():
            state |= {f"{name}/{key}": tensor for key, tensor in actor.state_dict().items()}
        return state

    def load_state_dict(self, state: State) -> None:
        self._left = float(state["left"])
        for name, actor in self._past_actors.items():
            actor.load_state_dict({key: state[f"{name}/{key}"] for key in actor.state_dict()})
