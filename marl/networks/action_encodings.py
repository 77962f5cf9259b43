"""Action encodings."""

from __future__ import annotations

import torch
from torch import Tensor

from marl.specs import ActionSpec, ContinuousActions, DiscreteActions


def action_features(action_spec: ActionSpec) -> int:
    """How many numbers an action is for a network: its dimensions, or the sum of its choices' alternatives."""
    return action_spec.size if isinstance(action_spec, ContinuousActions) else action_spec.mask_size


def encode_actions(action_spec: ActionSpec, actions: Tensor) -> Tensor:
    """Actions as a network reads them.

    Args:
        action_spec: what an agent can do.
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
    """(...) int64 choices to (..., size) bool; torch's own looks at the values, which no compiler can."""
    return choices.unsqueeze(-1) == torch.arange(size, device=choices.device)
