"""The optimizer of on-policy learners."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from marl.algorithms.on_policy.config import OnPolicyConfig
from marl.algorithms.on_policy.networks import OnPolicyNetworks
from marl.builders import RunContext
from marl.learning.replicated_adam import ReplicatedAdam


def make_optimizer(
    networks: OnPolicyNetworks, config: OnPolicyConfig, context: RunContext, metrics: Sequence[str]
) -> ReplicatedAdam:
    """Makes an optimizer with the segments ``GROUP.actor`` and ``GROUP.critic``, each of whose gradients is clipped.

    Args:
        networks: of all groups.
        config: step size and clipping.
        context: whose ranks reduce the gradients.
        metrics: names of the sums that travel with each group's gradients, ``RolloutLoss.METRICS``.
    """
    segments: dict[str, Sequence[nn.Parameter]] = {}
    for name, group in networks.items():
        segments[f"{name}.actor"] = list(group.actor.parameters())
        segments[f"{name}.critic"] = list(group.critic.parameters())
    return ReplicatedAdam(
        segments,
        context.communicator,
        learning_rate=config.learning_rate,
        epsilon=config.adam_epsilon,
        max_gradient_norm=config.max_gradient_norm,
        bookkeeping=len(networks) * len(metrics),
        max_skipped_steps=config.max_skipped_steps,
    )
