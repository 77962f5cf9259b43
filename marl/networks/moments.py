"""Running mean and variance, equal on all ranks: over all samples, or exponentially forgetting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from marl.core import Saveable, State


class Moments(Saveable, ABC):
    """Mean and variance of a stream of arrays of one shape, element by element, in float64.

    Args:
        shape: shape of one sample; () for scalars.
        device: where the tensors live.
    """

    def __init__(self, shape: tuple[int, ...] = (), *, device: torch.device | str = "cpu") -> None:
        self.shape = shape
        self.mean = torch.zeros(shape, dtype=torch.float64, device=device)
        """(*shape) float64; 0 before the first update."""

    @property
    @abstractmethod
    def variance(self) -> Tensor:
        """(*shape) float64; 1 before the first update."""

    def to(self, device: torch.device) -> None:
        """Moves everything to a device."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))

    @torch.no_grad()
    def batch_moments(self, samples: Tensor, mask: Tensor | None = None) -> Tensor:
        """Sums over a batch for ``update``. Those of two batches add up to those of both together.

        Args:
            samples: (..., *shape) float.
            mask: (...) bool, True where a sample counts; None if all do. What the others hold does not matter.

        Returns:
            (1 + 2 · size,) float64: count, sums of deviations from the current mean, sums of their squares.
            Deviations, because sums of squares would lose the variance of samples that lie far from zero.

        Raises:
            ValueError: shapes do not fit.
        """
        leading = samples.shape[: samples.dim() - len(self.shape)]
        if samples.shape != (*leading, *self.shape):
            raise ValueError(f"samples have shape {tuple(samples.shape)}, which does not end in {self.shape}")
        deviations = samples.to(torch.float64) - self.mean
        count = torch.full((1,), leading.numel(), dtype=torch.float64, device=samples.device)
        if mask is not None:
            if mask.shape != leading:
                raise ValueError(f"mask has shape {tuple(mask.shape)}, samples need {tuple(leading)}")
            count = mask.sum(dtype=torch.float64).view(1)
            deviations = deviations.masked_fill(~mask.view(*leading, *(1 for _ in self.shape)), 0.0)
        deviations = deviations.reshape(leading.numel(), self.mean.numel())
        return torch.cat((count, deviations.sum(dim=0), deviations.square().sum(dim=0)))

    @abstractmethod
    def update(self, sums: Tensor) -> None:
        """Takes in a batch, given by its ``batch_moments``, added up over ranks; an empty one changes nothing."""

    def _split(self, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        size = self.mean.numel()
        if sums.shape != (1 + 2 * size,):
            raise ValueError(f"sums have shape {tuple(sums.shape)}, not {(1 + 2 * size,)}")
        return sums[0], sums[1 : 1 + size].view(self.shape), sums[1 + size :].view(self.shape)


@final
class RunningMoments(Moments):
    """Moments of all samples so far, with equal weights; arguments as in Moments.

    Batches are merged as in Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", which
    for sums of deviations from the mean so far is: mean += S₁/N and M₂ += S₂ - S₁²/N with the new count N.
    """

    def __init__(self, shape: tuple[int, ...] = (), *, device: torch.device | str = "cpu") -> None:
        super().__init__(shape, device=device)
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self._squares = torch.zeros_like(self.mean)

    @property
    def variance(self) -> Tensor:
        """(*shape) float64: mean squared deviation; 1 before the first update."""
        return torch.where(self.count > 0, self._squares / self.count.clamp_min(1.0), 1.0)

    @torch.no_grad()
    def update(self, sums: Tensor) -> None:
        count, deviations, squares = self._split(sums)
        self.count += count
        step = deviations / self.count.clamp_min(1.0)
        self._squares += squares - step * deviations
        # Rounding may leave a constant slightly below zero.
        self._squares.clamp_min_(0.0)
        self.mean += step

    def state_dict(self) -> State:
        """Count, mean and sums of squared deviations."""
        return {"count": self.count.clone(), "mean": self.mean.clone(), "squares": self._squares.clone()}

    def load_state_dict(self, state: State) -> None:
        _load(state, {"count": self.count, "mean": self.mean, "squares": self._squares})


@final
class ExponentialMoments(Moments):
    """Moments in which every update's batch weighs 1-β and what came before fades by β; see Moments.

    Equal to running means of x and x², both divided by the sum of weights (the debiasing term of MAPPO's
    ValueNorm; Yu et al. 2022, "The surprising effectiveness of PPO in cooperative multi-agent games", and the
    authors' code), but kept as mean and variance, so that no small difference of large numbers is taken.

    Args:
        shape: shape of one sample; () for scalars.
        beta: β, between 0 and 1.
        device: where the tensors live.
    """

    def __init__(
        self, shape: tuple[int, ...] = (), *, beta: float = 0.99999, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(shape, device=device)
        self.beta = beta
        self._weight = torch.zeros((), dtype=torch.float64, device=device)
        self._variance = torch.ones_like(self.mean)

    @property
    def variance(self) -> Tensor:
        """(*shape) float64; 1 before the first update."""
        return self._variance

    @torch.no_grad()
    def update(self, sums: Tensor) -> None:
        count, deviations, squares = self._split(sums)
        share = torch.where(count > 0, 1.0 - self.beta, 0.0)
        self._weight += share * (1.0 - self._weight)
        # The batch's share in the debiased means: all of it at the first update, almost 1-β much later.
        share = share / self._weight.clamp_min(torch.finfo(torch.float64).tiny)
        step = share * deviations / count.clamp_min(1.0)
        self._variance += share * (squares / count.clamp_min(1.0) - self._variance) - step.square()
        self._variance.clamp_min_(0.0)
        self.mean += step

    def state_dict(self) -> State:
        """Weight, mean and variance."""
        return {"weight": self._weight.clone(), "mean": self.mean.clone(), "variance": self._variance.clone()}

    def load_state_dict(self, state: State) -> None:
        _load(state, {"weight": self._weight, "mean": self.mean, "variance": self._variance})


def _load(state: State, targets: State) -> None:
    """Copies tensors by name, in place; the devices may differ."""
    for name, target in targets.items():
        if state[name].shape != target.shape:
            raise ValueError(f"{name} has shape {tuple(state[name].shape)}, not {tuple(target.shape)}")
    for name, target in targets.items():
        target.copy_(state[name])
