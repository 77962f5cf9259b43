"""Action heads: from a network's outputs to a distribution over actions, or to relaxed one-hot samples."""

from __future__ import annotations

import torch
from torch import Tensor

from marl.networks.categorical import MaskedCategorical, MultiCategorical, fast_log_softmax, mask_scores
from marl.networks.distributions import Distribution
from marl.networks.gaussian import LOG_STD_RANGE, DiagonalGaussian, SquashedGaussian
from marl.specs import ActionSpec, ContinuousActions, DiscreteActions, MultiDiscreteActions


def num_outputs(action_spec: ActionSpec, *, state_dependent_std: bool = False) -> int:
    """Number of network outputs that ``make_distribution`` reads.

    Args:
        action_spec: of one agent.
        state_dependent_std: for continuous actions, whether log standard deviations come from the network too.
    """
    if isinstance(action_spec, ContinuousActions):
        return action_spec.size * (2 if state_dependent_std else 1)
    return action_spec.mask_size


def num_uniforms(action_spec: ActionSpec) -> int:
    """Number of uniform numbers that one sample takes."""
    return action_spec.array.size


def make_distribution(
    action_spec: ActionSpec,
    outputs: Tensor,
    mask: Tensor | None,
    *,
    log_std: Tensor | None = None,
    squashed: bool = False,
) -> Distribution:
    """Makes the distribution over actions from network outputs.

    Args:
        action_spec: of one agent.
        outputs: (..., num_outputs) float: logits, or means, or means and then log standard deviations.
        mask: (..., mask size) bool, True where legal; None for all legal, and for continuous actions.
        log_std: (..., D) or (D,) float, where log standard deviations of continuous actions do not come from the
            outputs. Those that do are kept in LOG_STD_RANGE.
        squashed: whether continuous actions go through a tangent and so stay within their bounds.

    Raises:
        ValueError: shapes do not fit the action spec, or continuous actions come with a mask.
    """
    expected = num_outputs(action_spec, state_dependent_std=log_std is None)
    if outputs.shape[-1] != expected:
        raise ValueError(f"outputs have last dimension {outputs.shape[-1]}, but {action_spec} needs {expected}")
    if isinstance(action_spec, DiscreteActions):
        return MaskedCategorical(outputs, mask)
    if isinstance(action_spec, MultiDiscreteActions):
        return MultiCategorical(outputs, action_spec.nvec, mask)
    if mask is not None:
        raise ValueError("continuous actions cannot be masked")
    if log_std is None:
        outputs, log_std = outputs.chunk(2, dim=-1)
        log_std = log_std.clamp(*LOG_STD_RANGE)
    return SquashedGaussian(outputs, log_std) if squashed else DiagonalGaussian(outputs, log_std)


def relaxed_sample(
    action_spec: DiscreteActions | MultiDiscreteActions,
    logits: Tensor,
    mask: Tensor | None,
    uniforms: Tensor,
    *,
    temperature: float = 1.0,
) -> Tensor:
    """One-hot samples of choices that carry gradients: the straight-through Gumbel-softmax estimator.

    Jang et al. (2017), "Categorical reparameterization with Gumbel-softmax", section 2.2. The samples are those of
    the choices' distributions, whatever the temperature; the gradients are those of their relaxation.

    Args:
        action_spec: one or several choices.
        logits: (..., mask size) float, one choice's logits after the other's.
        mask: (..., mask size) bool, True where legal, at least one for each choice; None if all are.
        uniforms: (..., mask size) float in (0, 1).
        temperature: of the relaxation; low ones have less bias and more variance.

    Returns:
        (..., mask size) float, 1 for what was chosen and 0 else.

    Raises:
        ValueError: shapes do not fit.
    """
    for name, tensor in (("logits", logits), ("mask", mask), ("uniforms", uniforms)):
        if tensor is not None and (tensor.shape[-1] != action_spec.mask_size or tensor.shape != logits.shape):
            raise ValueError(f"{name} have shape {tuple(tensor.shape)}, which does not fit {action_spec}")
    perturbed = mask_scores((logits - torch.log(-torch.log(uniforms))) / temperature, mask)
    parts = []
    for scores in perturbed.split(action_spec.nvec, dim=-1):
        soft = fast_log_softmax(scores).exp()
        # Not scatter, which torch's compiler gets wrong among other kernels (torch 2.13).
        hard = (scores.argmax(dim=-1, keepdim=True) == torch.arange(scores.shape[-1], device=scores.device)).to(soft)
        # In this order the sum is exactly 0 or 1.
        parts.append(hard + (soft - soft.detach()))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
