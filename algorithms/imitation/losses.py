"""Losses of imitation."""

from __future__ import annotations

import torch
from torch import Tensor

from marl.algorithms.imitation.networks import AverageNetwork
from marl.algorithms.imitation.reservoir import Decisions


def cloning_loss(network: AverageNetwork, batch: Decisions) -> Tensor:
    """Sums the negative log-likelihoods of decisions that count: behavioural cloning, ()."""
    distribution = network.distribution(batch.observations, batch.action_masks)
    losses = -distribution.log_prob(batch.actions)
    # Other decisions may be anything, even illegal actions.
    return torch.where(batch.counted, losses, torch.zeros_like(losses)).sum()
