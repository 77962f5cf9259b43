"""Legal actions: drawn uniformly, and told from illegal ones."""

from __future__ import annotations

import torch
from torch import Tensor

from marl.specs import ActionSpec, ContinuousActions, DiscreteActions


def random_actions(spec: ActionSpec, uniforms: Tensor, masks: Tensor | None) -> Tensor:
    """Uniformly random legal actions from uniform numbers.

    Args:
        spec: of one agent's actions.
        uniforms: (..., K) in (0, 1), one number for each of the K choices or dimensions.
        masks: (..., mask size) bool, or None.

    Returns:
        (...) int64, (..., K) int64 or (..., K) float32, as the spec says.
    """
    if isinstance(spec, ContinuousActions):
        return 2 * uniforms - 1
    if masks is None:
        masks = torch.ones((*uniforms.shape[:-1], spec.mask_size), dtype=torch.bool, device=uniforms.device)
    choices = []
    for index, legal in enumerate(masks.split(spec.nvec, dim=-1)):
        rank = legal.cumsum(-1)
        # The k-th legal action, k uniform in 1 … number of legal ones; in float64, whose product never rounds up to it.
        wanted = (uniforms[..., index].double() * rank[..., -1]).long() + 1
        choices.append((rank >= wanted[..., None]).int().argmax(-1))
    return choices[0] if isinstance(spec, DiscreteActions) else torch.stack(choices, dim=-1)


def legal_actions(spec: ActionSpec, actions: Tensor, masks: Tensor | None) -> Tensor:
    """Returns whether actions are legal and within bounds.

    Args:
        spec: of one agent's actions.
        actions: (..., *action shape).
        masks: (..., mask size) bool, or None.

    Returns:
        (...) bool.
    """
    if isinstance(spec, ContinuousActions):
        return torch.isfinite(actions).all(-1)
    choices = actions[..., None] if isinstance(spec, DiscreteActions) else actions
    limits = torch.tensor(spec.nvec, device=actions.device)
    legal = ((choices >= 0) & (choices < limits)).all(-1)
    if masks is not None:
        offsets = limits.cumsum(0) - limits
        legal &= masks.gather(-1, choices.clamp(min=0).minimum(limits - 1) + offsets).all(-1)
    return legal
