"""Distributions over one agent's action, built from raw network outputs.

Samples are pure functions of uniform numbers (from ``marl.streams``), so that they depend on neither the rank nor
a global generator. Leading dimensions, written (...), are those of the network outputs without the last.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Final, final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import log_softmax, pad, softplus

from marl.specs import ActionSpec, ContinuousActions, DiscreteActions, MultiDiscreteActions

LOG_STD_RANGE: Final = (-20.0, 2.0)
"""Where log standard deviations that a network puts out are kept (Haarnoja et al. 2018, the authors' code)."""

_HALF_LOG_TWO_PI: Final = 0.5 * math.log(2.0 * math.pi)


class Distribution(ABC):
    """A distribution over actions; action dimensions are independent, and the joint is meant throughout."""

    @abstractmethod
    def sample(self, uniforms: Tensor) -> Tensor:
        """Actions, one for each row of uniform numbers.

        Args:
            uniforms: (..., num_uniforms) float in (0, 1).

        Returns:
            (..., *action shape). Those of the Gaussians carry gradients (reparameterisation).
        """

    @abstractmethod
    def mode(self) -> Tensor:
        """The greedy actions, (..., *action shape)."""

    @abstractmethod
    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probabilities, or log-densities, of actions (..., *action shape): (...)."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """Entropies in nats, (...); differential entropies for continuous actions."""

    def sample_and_log_prob(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Actions as from ``sample``, and their log-probabilities (...) along the path of the sample."""
        actions = self.sample(uniforms)
        return actions, self.log_prob(actions)


def _impossible(logits: Tensor) -> float:
    """A logit of no probability: half of the least number, not -inf, so that its product with 0 is 0."""
    return 0.5 * torch.finfo(logits.dtype).min


def _log_softmax(logits: Tensor) -> Tensor:
    """log_softmax over the last dimension, also fast where that is small: the usual case here."""
    if logits.shape[-1] < 16 and logits.device.type == "cpu":
        # Torch's kernel takes rows shorter than a vector register one number at a time, 6 × slower (2.13, K = 5).
        return log_softmax(logits.movedim(-1, 0), dim=0).movedim(0, -1)
    return log_softmax(logits, dim=-1)


@final
class MaskedCategorical(Distribution):
    """One choice out of K, among the legal ones; actions are int64 (...), and a sample takes 1 uniform number.

    Illegal choices have probability 0 exactly, are never sampled, and send no gradient into their logits.

    Args:
        logits: (..., K) float.
        mask: (..., K) bool, True where legal, at least one a row; None if all are.

    Raises:
        ValueError: the mask's shape is not that of the logits.
    """

    __slots__ = ("log_probs",)

    log_probs: Tensor
    """(..., K) normalised log-probabilities; hugely negative, but finite, where illegal."""

    def __init__(self, logits: Tensor, mask: Tensor | None = None) -> None:
        if mask is not None:
            if mask.shape != logits.shape:
                raise ValueError(f"mask has shape {tuple(mask.shape)}, logits have {tuple(logits.shape)}")
            logits = logits.masked_fill(~mask, _impossible(logits))
        self.log_probs = _log_softmax(logits)

    @property
    def probs(self) -> Tensor:
        """(..., K) probabilities."""
        return self.log_probs.exp()

    def sample(self, uniforms: Tensor) -> Tensor:
        """Actions by the inverse of the cumulative distribution; see Distribution."""
        with torch.no_grad():
            probs = self.probs
            cumulative = probs.cumsum(dim=-1)
            # The first choice at which the sum reaches a threshold in (0, total]: there the sum has just risen, so
            # the choice has a probability above 0.
            thresholds = (uniforms * cumulative[..., -1:]).clamp_min(torch.finfo(probs.dtype).tiny)
            actions = (cumulative < thresholds).sum(dim=-1)
            if probs.device.type != "cpu":
                # Parallel sums may fall by a rounding error from one choice to the next.
                impossible = probs.gather(-1, actions.clamp_max(probs.shape[-1] - 1).unsqueeze(-1)) <= 0.0
                actions = torch.where(impossible.squeeze(-1), probs.argmax(dim=-1), actions)
            return actions

    def mode(self) -> Tensor:
        """The most probable choices; see Distribution."""
        return self.log_probs.argmax(dim=-1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probabilities; see Distribution."""
        return self.log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Entropies; see Distribution."""
        return -(self.probs * self.log_probs).sum(dim=-1)


def _padded(choices: Tensor, nvec: tuple[int, ...], filling: float) -> Tensor:
    """Choices of different sizes (..., sum of nvec), side by side: (..., K, max), filled up."""
    widest = max(nvec)
    parts = choices.split(nvec, dim=-1)
    return torch.stack(
        [pad(part, (0, widest - size), value=filling) for part, size in zip(parts, nvec, strict=True)], dim=-2
    )


@final
class MultiCategorical(Distribution):
    """K independent choices; actions are int64 (..., K), and a sample takes K uniform numbers.

    Args:
        logits: (..., sum of nvec) float, one choice's logits after the other's.
        nvec: numbers of alternatives, one for each choice.
        mask: (..., sum of nvec) bool, True where legal, at least one for each choice; None if all are.

    Raises:
        ValueError: the last dimensions do not fit.
    """

    __slots__ = ("_choices",)

    def __init__(self, logits: Tensor, nvec: tuple[int, ...], mask: Tensor | None = None) -> None:
        if logits.shape[-1] != sum(nvec):
            raise ValueError(f"logits have last dimension {logits.shape[-1]}, not {sum(nvec)}, the sum of nvec")
        if mask is not None and mask.shape != logits.shape:
            raise ValueError(f"mask has shape {tuple(mask.shape)}, logits have {tuple(logits.shape)}")
        if min(nvec) == max(nvec):
            shape = (*logits.shape[:-1], len(nvec), nvec[0])
            logits, mask = logits.view(shape), None if mask is None else mask.view(shape)
        else:
            # Padded to equal sizes, with choices of no probability, all of them go through one kernel.
            logits = _padded(logits, nvec, _impossible(logits))
            mask = None if mask is None else _padded(mask, nvec, False)
        self._choices = MaskedCategorical(logits, mask)

    def sample(self, uniforms: Tensor) -> Tensor:
        """Actions by the inverses of the cumulative distributions; see Distribution."""
        return self._choices.sample(uniforms.unsqueeze(-1))

    def mode(self) -> Tensor:
        """The most probable choices; see Distribution."""
        return self._choices.mode()

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probabilities; see Distribution."""
        return self._choices.log_prob(actions).sum(dim=-1)

    def entropy(self) -> Tensor:
        """Entropies; see Distribution."""
        return self._choices.entropy().sum(dim=-1)


def standard_normal(uniforms: Tensor) -> Tensor:
    """Quantiles of the standard normal distribution."""
    return math.sqrt(2.0) * torch.erfinv(2.0 * uniforms - 1.0)


@final
class DiagonalGaussian(Distribution):
    """Independent normal numbers; actions are float (..., D), and a sample takes D uniform numbers.

    Args:
        mean: (..., D) float.
        log_std: (..., D) float, or anything that broadcasts to it.
    """

    __slots__ = ("log_std", "mean")

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean = mean
        self.log_std = log_std.expand_as(mean)

    def sample(self, uniforms: Tensor) -> Tensor:
        """Actions by the inverse of the cumulative distribution; see Distribution."""
        return self.mean + self.log_std.exp() * standard_normal(uniforms)

    def mode(self) -> Tensor:
        """The means; see Distribution."""
        return self.mean

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-densities; see Distribution."""
        return self._log_density((actions - self.mean) * torch.exp(-self.log_std))

    def entropy(self) -> Tensor:
        """Differential entropies; see Distribution."""
        return (self.log_std + (0.5 + _HALF_LOG_TWO_PI)).sum(dim=-1)

    def sample_and_log_prob(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Actions and their log-densities; see Distribution."""
        noise = standard_normal(uniforms)
        return self.mean + self.log_std.exp() * noise, self._log_density(noise)

    def _log_density(self, noise: Tensor) -> Tensor:
        return (-0.5 * noise.square() - self.log_std - _HALF_LOG_TWO_PI).sum(dim=-1)


_POINTS, _WEIGHTS = (numbers.tolist() for numbers in np.polynomial.hermite_e.hermegauss(16))
_gauss_hermite_cache: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}


def _gauss_hermite(like: Tensor) -> tuple[Tensor, Tensor]:
    """Points, and weights that sum to sqrt(2 pi), of integrals against exp(-x²/2); kept on each device."""
    key = (like.dtype, like.device)
    if key not in _gauss_hermite_cache:
        _gauss_hermite_cache[key] = (like.new_tensor(_POINTS), like.new_tensor(_WEIGHTS))
    return _gauss_hermite_cache[key]


@final
class SquashedGaussian(Distribution):
    """The hyperbolic tangent of independent normal numbers (Haarnoja et al. 2018, "Soft actor-critic", appendix C).

    Actions are float (..., D) in [-1, 1], and a sample takes D uniform numbers.

    Args:
        mean: (..., D) float, before the tangent.
        log_std: (..., D) float, or anything that broadcasts to it.
    """

    __slots__ = ("_gaussian",)

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self._gaussian = DiagonalGaussian(mean, log_std)

    def sample(self, uniforms: Tensor) -> Tensor:
        """Actions by the inverse of the cumulative distribution; see Distribution."""
        return torch.tanh(self._gaussian.sample(uniforms))

    def mode(self) -> Tensor:
        """The tangents of the means (the medians): what soft actor-critic plays greedily; see Distribution."""
        return torch.tanh(self._gaussian.mean)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-densities; see Distribution.

        Actions that were rounded to -1 or 1 are taken for their neighbours inside. Where the sample is at hand,
        ``sample_and_log_prob`` needs no inverse and is exact there too.
        """
        limit = 1.0 - torch.finfo(actions.dtype).eps
        raw = torch.atanh(actions.clamp(-limit, limit))
        return self._gaussian.log_prob(raw) - _log_tanh_slope(raw).sum(dim=-1)

    def entropy(self) -> Tensor:
        """Differential entropies: the normal's plus E[log(1 - tanh² x)]; see Distribution.

        There is no closed form. The expectation is a sum over Gauss-Hermite points, without randomness and with
        gradients; it is off by less than 0.004 nats a dimension for standard deviations up to 2, by 0.23 at e².
        """
        points, weights = _gauss_hermite(self._gaussian.mean)
        raw = self._gaussian.mean.unsqueeze(-1) + self._gaussian.log_std.exp().unsqueeze(-1) * points
        expectations = (_log_tanh_slope(raw) @ weights) / math.sqrt(2.0 * math.pi)
        return self._gaussian.entropy() + expectations.sum(dim=-1)

    def sample_and_log_prob(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Actions and their log-densities; see Distribution."""
        raw, log_density = self._gaussian.sample_and_log_prob(uniforms)
        return torch.tanh(raw), log_density - _log_tanh_slope(raw).sum(dim=-1)


def _log_tanh_slope(raw: Tensor) -> Tensor:
    """log(1 - tanh² x), without the cancellation of that formula: 2 (log 2 - x - softplus(-2x))."""
    return 2.0 * (math.log(2.0) - raw - softplus(-2.0 * raw))


def num_outputs(action_spec: ActionSpec, *, state_dependent_std: bool = False) -> int:
    """How many numbers a network must put out for ``make_distribution``.

    Args:
        action_spec: what an agent can do.
        state_dependent_std: for continuous actions, whether log standard deviations come from the network too.
    """
    if isinstance(action_spec, ContinuousActions):
        return action_spec.size * (2 if state_dependent_std else 1)
    return action_spec.mask_size


def num_uniforms(action_spec: ActionSpec) -> int:
    """How many uniform numbers a sample takes."""
    return action_spec.array.size


def make_distribution(
    action_spec: ActionSpec,
    outputs: Tensor,
    mask: Tensor | None,
    *,
    log_std: Tensor | None = None,
    squashed: bool = False,
) -> Distribution:
    """The distribution over actions that network outputs stand for.

    Args:
        action_spec: what an agent can do.
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
    nvec = (action_spec.num_actions,) if isinstance(action_spec, DiscreteActions) else action_spec.nvec
    perturbed = (logits - torch.log(-torch.log(uniforms))) / temperature
    if mask is not None:
        perturbed = perturbed.masked_fill(~mask, _impossible(logits))
    parts = []
    for scores in perturbed.split(nvec, dim=-1):
        soft = _log_softmax(scores).exp()
        # Not scatter, which torch's compiler gets wrong among other kernels (torch 2.13).
        hard = (scores.argmax(dim=-1, keepdim=True) == torch.arange(scores.shape[-1], device=scores.device)).to(soft)
        # In this order the sum is exactly 0 or 1.
        parts.append(hard + (soft - soft.detach()))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
