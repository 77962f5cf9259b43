"""PPO's loss over parts of a rollout, for networks that are called on rows of it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from marl.learning.losses import clipped_value_loss, ppo_policy_loss
from marl.networks.categorical import MaskedCategorical
from marl.networks.distributions import Distribution
from marl.networks.torso import Torso

FIGURES = ("samples", "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "value_samples")
"""What ``PPOLoss`` sums over samples, in this order."""


class Rollout(NamedTuple):
    """One group's rollout; the rows of all copies lie behind each other, time after time: (T · E, A, ...)."""

    observations: Tensor
    """As networks take them; see ``networks.prepare_input``."""
    actions: Tensor
    log_probs: Tensor
    """Of the actions, when they were taken."""
    advantages: Tensor
    old_values: Tensor
    targets: Tensor
    weights: Tensor
    """1 where the actor learns, else 0."""
    value_weights: Tensor
    """1 where the critic learns, else 0."""
    magnet: Tensor | None
    """(T · E, A, K) log-probabilities of another policy, for single choices: it takes the uniform policy's place, so
    that the bonus is minus the divergence from it."""
    masks: Tensor | None
    state: Tensor | None
    """(T · E, *), prepared."""
    first: Tensor | None
    """(T · E,) bool; for recurrent networks, as are the two that follow."""
    actor_states: Tensor | None
    critic_states: Tensor | None


class Actor(Protocol):
    """What ``PPOLoss`` needs of an actor network."""

    torso: Torso

    def distribution(self, features: Tensor, masks: Tensor | None) -> Distribution:
        """The action distribution for (..., size) features."""
        ...


class Critic(Protocol):
    """What ``PPOLoss`` needs of a critic network."""

    torso: Torso

    def features(self, observations: Tensor, state: Tensor | None, agents: Tensor | None = None) -> Tensor:
        """Features of (..., A, *) observations and (..., 1, *) state."""
        ...

    def values(self, features: Tensor) -> Tensor:
        """(..., size) features to (...) values."""
        ...


class PPOLoss(nn.Module):
    """The losses of actor and critic, summed over samples; see ``losses``.

    Args:
        actor: the group's actor, an nn.Module.
        critic: the group's critic, an nn.Module.
        clip_epsilon: PPO's ε.
        clip_value: whether values are clipped too.
        huber_delta: of the value loss, or None.
        value_coefficient: weight of the value loss.
        entropy_coef: weight of the entropy bonus.
        sparse: compute only the rows that count; where most agents wait for their turn.
    """

    def __init__(
        self,
        actor: Actor,
        critic: Critic,
        *,
        clip_epsilon: float,
        clip_value: bool,
        huber_delta: float | None,
        value_coefficient: float,
        entropy_coef: float,
        sparse: bool,
    ) -> None:
        super().__init__()
        self.actor = actor
        self.critic = critic
        self._clip_epsilon = clip_epsilon
        self._value_clip = clip_epsilon if clip_value else None
        self._huber_delta = huber_delta
        self._value_coefficient = value_coefficient
        self._entropy_coef = entropy_coef
        self._sparse = sparse

    def forward(self, rollout: Rollout, rows: Tensor | slice, inside: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss, and FIGURES, over some rows.

        Args:
            rollout: of one group.
            rows: which: (B,) int64 or a slice; for recurrent networks (L, B), sequences.
            inside: of the shape of rows, False for rows that only fill up; None where all count.

        Returns:
            The loss, a scalar, and (len(FIGURES),) sums without gradient.
        """
        weights, value_weights = rollout.weights[rows], rollout.value_weights[rows]
        if inside is not None:
            weights, value_weights = weights * inside.unsqueeze(-1), value_weights * inside.unsqueeze(-1)
        agents = chosen = None
        if self._sparse:
            chosen, agents = weights.nonzero(as_tuple=True)
            weights = value_weights = weights[chosen, agents]

        def take(x: Tensor) -> Tensor:
            x = x[rows]
            return x if chosen is None else x[chosen, agents]

        state = rollout.state
        if state is not None:
            state = state[rows]
            state = state.unsqueeze(weights.dim() - 1) if chosen is None else state[chosen]
        observations = take(rollout.observations)
        features = self.actor.torso.features([observations], agents)
        critic_features = self.critic.features(observations, state, agents)
        if rollout.first is not None:
            assert rollout.actor_states is not None
            assert rollout.critic_states is not None
            first = rollout.first[rows].unsqueeze(-1).expand(weights.shape)
            features = self.actor.torso.unroll(features, take(rollout.actor_states)[0], first)
            critic_features = self.critic.torso.unroll(critic_features, take(rollout.critic_states)[0], first)
        distribution = self.actor.distribution(features, None if rollout.masks is None else take(rollout.masks))
        policy = ppo_policy_loss(
            distribution.log_prob(take(rollout.actions)),
            take(rollout.log_probs),
            take(rollout.advantages),
            self._clip_epsilon,
        )
        value_loss = clipped_value_loss(
            self.critic.values(critic_features),
            take(rollout.old_values),
            take(rollout.targets),
            self._value_clip,
            self._huber_delta,
        )
        policy_loss, entropy, approx_kl, clipped = (
            (term * weights).sum() for term in (policy.loss, distribution.entropy(), policy.approx_kl, policy.clipped)
        )
        value_loss = (value_loss * value_weights).sum()
        sums = (weights.sum(), policy_loss, value_loss, entropy, approx_kl, clipped, value_weights.sum())
        bonus = entropy
        if rollout.magnet is not None:
            assert isinstance(distribution, MaskedCategorical)
            # Entropy and this are minus the divergence of the policy from the magnet.
            bonus = entropy + ((distribution.probs * take(rollout.magnet)).sum(-1) * weights).sum()
        loss = policy_loss + self._value_coefficient * value_loss - self._entropy_coef * bonus
        return loss, torch.stack(sums).detach()


class TensorLoss(nn.Module):
    """``PPOLoss`` as a function of tensors alone, for a compiler.

    Args:
        loss: what is computed.
        like: which of a rollout's fields are there.
    """

    def __init__(self, loss: PPOLoss, like: Rollout) -> None:
        super().__init__()
        self.loss = loss
        self._present = [field is not None for field in like]

    def forward(self, rows: Tensor, inside: Tensor, *fields: Tensor) -> tuple[Tensor, Tensor]:
        """See ``PPOLoss``; ``fields`` are those of the rollout that are there."""
        given = iter(fields)
        rollout = Rollout(*(next(given) if present else None for present in self._present))  # type: ignore[arg-type]
        result: tuple[Tensor, Tensor] = self.loss(rollout, rows, inside)
        return result
