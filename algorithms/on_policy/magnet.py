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

import torch
from torch import Tensor, nn

from marl.algorithms.on_policy.losses import Actor
from marl.core import Saveable, State
from marl.networks.categorical import MaskedCategorical


class Magnet(Saveable):
    """Copies of actors as they were a while ago; equal on all ranks, as the actors are.

    Args:
        actors: one a group, feed-forward nn.Modules that choose one action out of several.
        period: updates at full step size between copies, at least 1. The first copy is of the actors as they begin.
        uniform_share: of the uniform policy in the magnet, between 0 and 1. With some of it no action is given up for
            good, and what follows actions that seem bad, which a best response may well take, goes on being learned.
    """

    def __init__(self, actors: Mapping[str, Actor], period: int, *, uniform_share: float = 0.0) -> None:
        self._actors = actors
        self._copies = {name: copy.deepcopy(actor) for name, actor in actors.items()}
        self._period = period
        self._uniform_share = uniform_share
        self._left = 0.0

    def advance(self, share: float = 1.0) -> None:
        """To be called before each update: puts the magnet where the policy is, if that is due.

        Args:
            share: of the full step size, that the update will take. With smaller steps a policy takes longer to come
                to rest; a magnet that does not wait for that holds nothing back.
        """
        if self._left <= 0.0:
            self._left += self._period
            for name, actor in self._actors.items():
                _module(self._copies[name]).load_state_dict(_module(actor).state_dict())
        self._left -= share

    @torch.no_grad()
    def log_probs(self, name: str, observations: Tensor, masks: Tensor | None, wanted: Tensor) -> Tensor:
        """What the magnet would do.

        Args:
            name: of the group.
            observations: (B, A, *), as its network takes them.
            masks: (B, A, K) bool, or None.
            wanted: (B, A) bool, the rows that matter.

        Returns:
            (B, A, K) log-probabilities; zeros in the other rows.
        """
        actor = self._copies[name]
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
        for name, actor in self._copies.items():
            state |= {f"{name}/{key}": tensor for key, tensor in _module(actor).state_dict().items()}
        return state

    def load_state_dict(self, state: State) -> None:
        """See Saveable."""
        self._left = float(state["left"])
        for name, actor in self._copies.items():
            module = _module(actor)
            module.load_state_dict({key: state[f"{name}/{key}"] for key in module.state_dict()})


def _module(actor: Actor) -> nn.Module:
    assert isinstance(actor, nn.Module)
    return actor
