"""Losses over rows of a rollout, for networks that are called on these rows: PPO's, and what others share with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from marl.algorithms.on_policy.networks import PolicyNetwork, ValueNetwork
from marl.algorithms.on_policy.rollouts import Rollout, RolloutRows, select_rows
from marl.learning.losses import clipped_value_loss, ppo_policy_loss
from marl.networks.categorical import MaskedCategorical
from marl.networks.distributions import Distribution


class RolloutLoss(nn.Module, ABC):
    """A loss of actor and critic, summed over samples.

    Args:
        actor: of the group.
        critic: of the group.
        sparse: compute only the rows that count; where most agents wait for their turn.
    """

    METRICS: ClassVar[tuple[str, ...]]
    """Names of the sums beside the loss: ``samples`` first, ``value_samples`` last, and ``value_loss`` among them."""

    def __init__(self, actor: PolicyNetwork, critic: ValueNetwork, *, sparse: bool) -> None:
        super().__init__()
        self.actor = actor
        self.critic = critic
        self._sparse = sparse

    def forward(self, rollout: Rollout, indices: Tensor | slice, inside: Tensor | None) -> tuple[Tensor, Tensor]:
        """Computes the loss over some rows.

        Args:
            rollout: of one group.
            indices: which rows: (B,) int64 or a slice; for recurrent networks (L, B), sequences.
            inside: of the shape of the indices, False for rows that only fill up; None where all count.

        Returns:
            The loss, a scalar, and (len(METRICS),) sums without gradient.
        """
        rows = select_rows(rollout, indices, inside, sparse=self._sparse)
        features, critic_features = self._features(rows)
        distribution = self.actor.distribution(features, None if rollout.masks is None else rows.take(rollout.masks))
        loss, sums = self._loss(rows, distribution, critic_features)
        return loss, torch.stack(sums).detach()

    @abstractmethod
    def _loss(
        self, rows: RolloutRows, distribution: Distribution, critic_features: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The loss, a scalar, and a sum for each of the metrics."""

    def _features(self, rows: RolloutRows) -> tuple[Tensor, Tensor]:
        rollout = rows.rollout
        observations, state = rows.take(rollout.observations), rows.state
        features = self.actor.torso.features([observations], rows.agents)
        critic_features = self.critic.features(observations, state, rows.agents)
        if rollout.first is not None:
            assert rollout.actor_states is not None
            assert rollout.critic_states is not None
            first = rollout.first[rows.indices].unsqueeze(-1).expand(rows.weights.shape)
            features = self.actor.torso.unroll(features, rows.take(rollout.actor_states)[0], first)
            critic_features = self.critic.torso.unroll(critic_features, rows.take(rollout.critic_states)[0], first)
        return features, critic_features


@dataclass(frozen=True, kw_only=True)
class PPOLossConfig:
    """Settings of PPO's loss."""

    clip_epsilon: float = 0.2
    """Largest move of the probability ratio, and of a clipped value."""
    clip_value: bool = True
    """Whether the value loss is clipped too."""
    huber_delta: float | None = 10.0
    """Error from which on the value loss is linear instead of quadratic, in normalised units; None for quadratic."""
    value_coef: float = 1.0
    """Weight of the value loss."""
    entropy_coef: float = 0.01
    """Weight of the entropy bonus."""


class PPOLoss(RolloutLoss):
    """The clipped losses of proximal policy optimisation; see ``marl.learning.losses``.

    Args:
        actor: of the group.
        critic: of the group.
        config: clipping and weights.
        sparse: compute only the rows that count; where most agents wait for their turn.
    """

    METRICS = ("samples", "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "value_samples")

    def __init__(self, actor: PolicyNetwork, critic: ValueNetwork, config: PPOLossConfig, *, sparse: bool) -> None:
        super().__init__(actor, critic, sparse=sparse)
        self._config = config

    def _loss(
        self, rows: RolloutRows, distribution: Distribution, critic_features: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        config, rollout = self._config, rows.rollout
        weights, value_weights = rows.weights, rows.value_weights
        policy = ppo_policy_loss(
            distribution.log_prob(rows.take(rollout.actions)),
            rows.take(rollout.log_probs),
            rows.take(rollout.advantages),
            config.clip_epsilon,
        )
        value_loss = clipped_value_loss(
            self.critic.values(critic_features),
            rows.take(rollout.old_values),
            rows.take(rollout.targets),
            config.clip_epsilon if config.clip_value else None,
            config.huber_delta,
        )
        policy_loss, entropy, approx_kl, clipped = (
            (term * weights).sum() for term in (policy.loss, distribution.entropy(), policy.approx_kl, policy.clipped)
        )
        value_loss = (value_loss * value_weights).sum()
        bonus = entropy
        if rollout.magnet is not None:
            assert isinstance(distribution, MaskedCategorical)
            # Entropy and this are minus the divergence of the policy from the magnet.
            bonus = entropy + ((distribution.probs * rows.take(rollout.magnet)).sum(-1) * weights).sum()
        loss = policy_loss + config.value_coef * value_loss - config.entropy_coef * bonus
        return loss, (weights.sum(), policy_loss, value_loss, entropy, approx_kl, clipped, value_weights.sum())


class TensorLoss(nn.Module):
    """A ``RolloutLoss`` as a function of tensors alone, for a compiler.

    Args:
        loss: to compute.
        template: a rollout with the fields that there are.
    """

    def __init__(self, loss: RolloutLoss, template: Rollout) -> None:
        super().__init__()
        self.loss = loss
        self._present = [field is not None for field in template]

    def forward(self, indices: Tensor, inside: Tensor, *fields: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the loss over some rows; ``fields`` are those of the rollout that there are."""
        given = iter(fields)
        rollout = Rollout(*(next(given) if present else None for present in self._present))  # type: ignore[arg-type]
        result: tuple[Tensor, Tensor] = self.loss(rollout, indices, inside)
        return result


def mean_metrics(groups: Sequence[str], names: Sequence[str], sums: Tensor) -> dict[str, float]:
    """Averages over samples.

    Args:
        groups: names of the groups.
        names: ``RolloutLoss.METRICS``.
        sums: (groups · names,), over all ranks and gradient steps.

    Returns:
        ``GROUP/NAME`` of each but the numbers of samples.
    """
    metrics: dict[str, float] = {}
    for group, row in zip(groups, sums.view(len(groups), -1).tolist(), strict=True):
        samples, *values, value_samples = row
        for name, value in zip(names[1:-1], values, strict=True):
            metrics[f"{group}/{name}"] = value / max(value_samples if name == "value_loss" else samples, 1.0)
    return metrics
