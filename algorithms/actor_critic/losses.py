"""Losses of critics: squared temporal differences of all groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from marl.algorithms.actor_critic.batches import JointBatch
from marl.algorithms.off_policy.gradient_steps import Losses

CRITIC_METRICS: Final = ("samples", "critic_loss", "value")
"""The metrics of ``critic_losses``."""


def critic_losses(batch: JointBatch, values: Mapping[str, Tensor], next_values: Mapping[str, Tensor]) -> Losses:
    """Weighs squared errors of values against one-step targets.

    Args:
        batch: rewards, discount factors and weights.
        values: (C, B, A) by group, the critics' values of the actions taken, with gradient.
        next_values: (B, A) by group, at the next step.

    Returns:
        The sum of losses, (groups, 3) sums of CRITIC_METRICS, and (B,) the items' mean absolute errors over critics
        and agents.
    """
    losses: list[Tensor] = []
    metrics: list[Tensor] = []
    td_errors = torch.zeros_like(batch.weights)
    weight = torch.zeros_like(batch.weights)
    for name, data in batch.groups.items():
        targets = data.rewards + data.discounts * next_values[name]
        errors = values[name] - targets
        losses.append((errors.square() * data.critic_weights).sum())
        counted = (data.critic_weights > 0).to(errors.dtype)
        value = (values[name].detach().mean(0) * counted).sum()
        metrics.append(torch.stack([counted.sum(), losses[-1].detach() / len(values[name]), value]))
        td_errors = td_errors + (errors.detach().abs().mean(0) * counted).sum(1)
        weight = weight + counted.sum(1)
    return Losses(
        total=torch.stack(losses).sum(), metrics=torch.stack(metrics), td_errors=td_errors / weight.clamp_min(1.0)
    )
