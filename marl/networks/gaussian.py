"""Normal distributions over continuous actions: unbounded, or squashed into [-1, 1]."""

from __future__ import annotations

import math
from typing import Final, final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from marl.networks.distributions import Distribution

LOG_STD_RANGE: Final = (-20.0, 2.0)
"""Bounds of log standard deviations that a network puts out (Haarnoja et al. 2018, the authors' code)."""

_HALF_LOG_TWO_PI: Final = 0.5 * math.log(2.0 * math.pi)


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
        return self.mean + self.log_std.exp() * standard_normal(uniforms)

    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, actions: Tensor) -> Tensor:
        return self._log_density((actions - self.mean) * torch.exp(-self.log_std))

    def entropy(self) -> Tensor:
        return (self.log_std + (0.5 + _HALF_LOG_TWO_PI)).sum(dim=-1)

    def sample_and_log_prob(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        noise = standard_normal(uniforms)
        return self.mean + self.log_std.exp() * noise, self._log_density(noise)

    def _log_density(self, noise: Tensor) -> Tensor:
        return (-0.5 * noise.square() - self.log_std - _HALF_LOG_TWO_PI).sum(dim=-1)


_POINTS, _WEIGHTS = (numbers.tolist() for numbers in np.polynomial.hermite_e.hermegauss(16))
_gauss_hermite_cache: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}


def _gauss_hermite(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Points, and weights that sum to sqrt(2 pi), of integrals against exp(-x²/2); kept on each device."""
    if (dtype, device) not in _gauss_hermite_cache:
        points, weights = (torch.tensor(numbers, dtype=dtype, device=device) for numbers in (_POINTS, _WEIGHTS))
        _gauss_hermite_cache[dtype, device] = (points, weights)
    return _gauss_hermite_cache[dtype, device]


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
        return torch.tanh(self._gaussian.sample(uniforms))

    def mode(self) -> Tensor:
        return torch.tanh(self._gaussian.mean)  # the medians, which soft actor-critic plays greedily

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-densities of actions (..., D): (...).

        Actions that were rounded to -1 or 1 are taken for their neighbours inside. Where the sample is at hand,
        ``sample_and_log_prob`` needs no inverse and is exact there too.
        """
        limit = 1.0 - torch.finfo(actions.dtype).eps
        raw = torch.atanh(actions.clamp(-limit, limit))
        return self._gaussian.log_prob(raw) - _log_tanh_slope(raw).sum(dim=-1)

    def entropy(self) -> Tensor:
        """Differential entropies: the normal's plus E[log(1 - tanh² x)].

        There is no closed form. The expectation is a sum over Gauss-Hermite points, without randomness and with
        gradients; it is off by less than 0.004 nats a dimension for standard deviations up to 2, by 0.23 at e².
        """
        points, weights = _gauss_hermite(self._gaussian.mean.dtype, self._gaussian.mean.device)
        raw = self._gaussian.mean.unsqueeze(-1) + self._gaussian.log_std.exp().unsqueeze(-1) * points
        expectations = (_log_tanh_slope(raw) @ weights) / math.sqrt(2.0 * math.pi)
        return self._gaussian.entropy() + expectations.sum(dim=-1)

    def sample_and_log_prob(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        raw, log_density = self._gaussian.sample_and_log_prob(uniforms)
        return torch.tanh(raw), log_density - _log_tanh_slope(raw).sum(dim=-1)


def _log_tanh_slope(raw: Tensor) -> Tensor:
    """log(1 - tanh² x), without the cancellation of that formula: 2 (log 2 - x - softplus(-2x))."""
    return 2.0 * (math.log(2.0) - raw - softplus(-2.0 * raw))
