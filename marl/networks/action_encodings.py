"""Encodings of actions as inputs of networks: one-hot choices, continuous numbers as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from marl.specs import ActionSpec, ContinuousActions, DiscreteActions


def action_features(action_spec: ActionSpec) -> int:
    """Size of an encoded action: its dimensions, or the sum of its choices' alternatives."""
    return action_spec.size if isinstance(action_spec, ContinuousActions) else action_spec.mask_size


def encode_actions(action_spec: ActionSpec, actions: Tensor) -> Tensor:
    """Encodes actions for a network.

    Args:
        action_spec: of one agent.
        actions: (..., *action shape).

    Returns:
        (..., action_features) float: continuous actions as they are, choices one-hot, one after the other.
    """
    if isinstance(action_spec, ContinuousActions):
        return actions
    dtype = torch.get_default_dtype()
    if isinstance(action_spec, DiscreteActions):
        return one_hot(actions, action_spec.num_actions).to(dtype)
    parts = [one_hot(choice, size) for choice, size in zip(actions.unbind(-1), action_spec.nvec, strict=True)]
    return torch.cat(parts, dim=-1).to(dtype)


def one_hot(choices: Tensor, size: int) -> Tensor:
    """One-hot encodings (..., size) bool of choices (...) int64; torch's own reads values, which no compiler can."""
    return choices.unsqueeze(-1) == torch.arange(size, device=choices.device)
