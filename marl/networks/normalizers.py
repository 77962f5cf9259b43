"""Normalisation of observations, rewards and values by running moments, equal on all ranks.

An update has two halves, so that ranks can add up their shares in between:

    sums = normalizer.batch_moments(values, mask)      # this rank's samples; there may be none
    communicator.all_reduce(sums)
    normalizer.update(sums)                            # the same on every rank, whatever their number
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from marl.core import Saveable, State
from marl.networks.moments import ExponentialMoments, Moments, RunningMoments


class Normalizer(Saveable, ABC):
    """Shifts and scales by moments; subclasses choose the moments, and bound the scale from below.

    Args:
        moments: the source of mean and variance.
    """

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        # Casts to the dtypes in use, refreshed in place: captured graphs keep reading the same memory.
        self._casts: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    @abstractmethod
    def _std(self) -> Tensor:
        """(*shape) float64: what is divided by; never zero."""

    @property
    def mean(self) -> Tensor:
        """(*shape) float64."""
        return self.moments.mean

    @property
    def std(self) -> Tensor:
        """(*shape) float64, never zero."""
        return self._std()

    def to(self, device: torch.device) -> None:
        """Moves everything to a device, as modules are moved; before anything was normalised."""
        self.moments.to(device)
        self._casts.clear()

    def batch_moments(self, samples: Tensor, mask: Tensor | None = None) -> Tensor:
        """Sums to add up over ranks before ``update``, as ``Moments.batch_moments``."""
        return self.moments.batch_moments(samples, mask)

    def update(self, sums: Tensor) -> None:
        """Takes in a batch, given by its ``batch_moments``, added up over ranks."""
        self.moments.update(sums)
        self._refresh()

    def normalize(self, values: Tensor) -> Tensor:
        """(values - mean) / std, for (..., *shape) of any floating dtype and with gradients."""
        mean, std = self.moments_as(values.dtype)
        return (values - mean) / std

    def denormalize(self, values: Tensor) -> Tensor:
        """The inverse of ``normalize``: values · std + mean."""
        mean, std = self.moments_as(values.dtype)
        return values * std + mean

    def state_dict(self) -> State:
        """The moments."""
        return self.moments.state_dict()

    def load_state_dict(self, state: State) -> None:
        self.moments.load_state_dict(state)
        self._refresh()

    def moments_as(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Mean and deviation, (*shape) each, in a dtype; later updates change them in place."""
        if dtype not in self._casts:
            # Acting comes first, in inference mode, whose tensors could not be refreshed later.
            with torch.inference_mode(False):
                self._casts[dtype] = (self.mean.to(dtype, copy=True), self._std().to(dtype, copy=True))
        return self._casts[dtype]

    def _refresh(self) -> None:
        std = self._std()
        for mean_cast, std_cast in self._casts.values():
            mean_cast.copy_(self.mean)
            std_cast.copy_(std)


@final
class ObservationNormalizer(Normalizer):
    """Normalises observations, element by element, by the moments of all seen so far, and clips them.

    Args:
        shape: shape of one observation.
        clip: largest size of a normalised element.
        epsilon: added to the variance, for elements that never change.
        device: where the tensors live.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        clip: float = 10.0,
        epsilon: float = 1e-8,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(RunningMoments(shape, device=device))
        self.clip = clip
        self.epsilon = epsilon

    def _std(self) -> Tensor:
        return (self.moments.variance + self.epsilon).sqrt()

    def normalize(self, values: Tensor) -> Tensor:
        """(values - mean) / std, clipped."""
        return self.normalize_by(values, *self.moments_as(values.dtype))

    def normalize_by(self, values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """The same with these moments in place of its own."""
        return ((values - mean) / std).clamp(-self.clip, self.clip)


@final
class RewardNormalizer(Normalizer):
    """Normalises rewards, one number each, by the moments of all seen so far: to unit size, and if wanted mean 0.

    A mean that is subtracted is paid at every step, which turns a reward for lasting into none, or into a fine: it
    changes tasks whose length agents decide. Divided by their root mean square, rewards keep their signs.

    Args:
        center: whether the mean is subtracted; rewards are divided by their deviation then.
        epsilon: added to the mean square, for rewards that never change.
        device: where the tensors live.
    """

    def __init__(self, *, center: bool = False, epsilon: float = 1e-4, device: torch.device | str = "cpu") -> None:
        super().__init__(RunningMoments(device=device))
        self.center = center
        self.epsilon = epsilon

    @property
    def mean(self) -> Tensor:
        return self.moments.mean if self.center else torch.zeros_like(self.moments.mean)

    def _std(self) -> Tensor:
        square = self.moments.variance + self.epsilon
        return (square if self.center else square + self.moments.mean.square()).sqrt()


@final
class ValueNormalizer(Normalizer):
    """Normalises returns, and turns a critic's outputs into values: MAPPO's ValueNorm, or PopArt.

    ValueNorm lets a critic predict normalised returns. With ``output_layers`` it is PopArt (van Hasselt et al.
    2016, "Learning values across many orders of magnitude"): layers are rescaled with every update, so that
    denormalised outputs stay as they were. Optimizer moments of those layers are left alone, as in the paper.

    Args:
        shape: shape of one value; () for scalars.
        beta: how slowly old returns are forgotten; 0.99999 is MAPPO's.
        min_variance: lower bound; 0.01 is MAPPO's.
        output_layers: linear layers whose outputs are normalised values, (*shape) or (1,) wide.
        device: where the tensors live.

    Raises:
        ValueError: an output layer has no bias.
    """

    def __init__(
        self,
        shape: tuple[int, ...] = (),
        *,
        beta: float = 0.99999,
        min_variance: float = 1e-2,
        output_layers: Sequence[nn.Linear] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(ExponentialMoments(shape, beta=beta, device=device))
        self.min_variance = min_variance
        self.output_layers = tuple(output_layers)
        if any(layer.bias is None for layer in self.output_layers):
            raise ValueError("PopArt needs output layers with a bias")

    def _std(self) -> Tensor:
        return self.moments.variance.clamp_min(self.min_variance).sqrt()

    def update(self, sums: Tensor) -> None:
        """Takes in a batch, given by its ``batch_moments``, added up over ranks; rescales the output layers."""
        old_mean, old_std = self.mean.clone(), self.std
        super().update(sums)
        for layer in self.output_layers:
            popart_rescale(layer.weight, layer.bias, old_mean, old_std, self.mean, self.std)


@torch.no_grad()
def popart_rescale(
    weight: Tensor, bias: Tensor, old_mean: Tensor, old_std: Tensor, new_mean: Tensor, new_std: Tensor
) -> None:
    """Changes a linear layer in place, so that std · output + mean is the same with new moments as with old ones.

    W ← W σ/σ', b ← (σ b + μ - μ') / σ' (van Hasselt et al. 2016, proposition 1).

    Args:
        weight: (outputs, inputs) float.
        bias: (outputs,) float.
        old_mean: () or (outputs,), μ.
        old_std: () or (outputs,), σ.
        new_mean: () or (outputs,), μ'.
        new_std: () or (outputs,), σ'; not zero.
    """
    weight.copy_(weight * (old_std / new_std).unsqueeze(-1))
    bias.copy_((old_std * bias + old_mean - new_mean) / new_std)
