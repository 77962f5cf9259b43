"""Losses of policies and values, as pure functions: one number a sample, so that callers take masked sums."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from marl.learning.shape_checks import check_equal_shapes


class PolicyLoss(NamedTuple):
    """Results of ``ppo_policy_loss``, each of the samples' shape."""

    loss: Tensor
    """To be minimised."""
    approx_kl: Tensor
    """Estimates of KL(old ‖ new), never negative, without gradient."""
    clipped: Tensor
    """1 where the ratio is outside of the clip range, else 0; without gradient."""


def ppo_policy_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip_epsilon: float) -> PolicyLoss:
    """PPO's clipped surrogate objective, negated.

    -min(ρ A, clip(ρ, 1-ε, 1+ε) A) with ρ = π(a)/π_old(a) (Schulman et al. 2017, "Proximal policy optimization
    algorithms", equation 7). The divergence is estimated by ρ - 1 - log ρ, unbiased under the old policy and of
    low variance (k3 of Schulman 2020, "Approximating KL divergence").

    Args:
        log_probs: (...) float, log-probabilities of the actions under the policy that learns.
        old_log_probs: (...) float, under the policy that acted.
        advantages: (...) float.
        clip_epsilon: ε.

    Returns:
        Loss, divergence estimate and clip indicator, each (...).

    Raises:
        ValueError: shapes differ.
    """
    check_equal_shapes(log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages)
    log_ratio = log_probs - old_log_probs
    ratio = log_ratio.exp()
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1.0 - clip_epsilon, 1.0 + clip_epsilon) * advantages)
    with torch.no_grad():
        # expm1 keeps the digits that ratio - 1 loses while the policies are still close.
        approx_kl = torch.expm1(log_ratio) - log_ratio
        clipped = ((ratio - 1.0).abs() > clip_epsilon).to(loss.dtype)
    return PolicyLoss(loss, approx_kl, clipped)


def huber(errors: Tensor, delta: float) -> Tensor:
    """Huber's loss: e²/2 where |e| ≤ δ, else δ (|e| - δ/2) (Huber 1964, "Robust estimation of a location parameter").

    Args:
        errors: (...) float.
        delta: δ, where the parabola turns into a line; positive.

    Returns:
        (...) float.
    """
    size = errors.abs()
    parabola = size.clamp(max=delta)
    return parabola * (size - 0.5 * parabola)


def _error_loss(errors: Tensor, huber_delta: float | None) -> Tensor:
    return 0.5 * errors.square() if huber_delta is None else huber(errors, huber_delta)


def clipped_value_loss(
    values: Tensor,
    old_values: Tensor,
    targets: Tensor,
    clip: float | None = None,
    huber_delta: float | None = None,
) -> Tensor:
    """PPO's value loss: the larger of the losses of the new value and of the new value kept near the old one.

    max(l(V - R), l(V_old + clip(V - V_old, -ε, ε) - R)), where l is e²/2 or Huber's (Yu et al. 2022, "The
    surprising effectiveness of PPO in cooperative multi-agent games", appendix A).

    Args:
        values: (...) float, of the critic that learns.
        old_values: (...) float, of the critic that acted.
        targets: (...) float, normalised like the values.
        clip: ε, or None for the plain loss.
        huber_delta: δ of Huber's loss, or None for e²/2.

    Returns:
        (...) float.

    Raises:
        ValueError: shapes differ.
    """
    check_equal_shapes(values=values, old_values=old_values, targets=targets)
    loss = _error_loss(values - targets, huber_delta)
    if clip is None:
        return loss
    near = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum(loss, _error_loss(near - targets, huber_delta))


def td_loss(values: Tensor, targets: Tensor, huber_delta: float | None = None) -> Tensor:
    """Loss of temporal-difference errors; no gradient flows into the targets.

    Args:
        values: (...) float, predictions.
        targets: (...) float.
        huber_delta: δ of Huber's loss (as in Mnih et al. 2015, with 1), or None for e²/2.

    Returns:
        (...) float.

    Raises:
        ValueError: shapes differ.
    """
    check_equal_shapes(values=values, targets=targets)
    return _error_loss(values - targets.detach(), huber_delta)
