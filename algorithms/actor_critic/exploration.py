"""Exploration of deterministic policies: noise that is added to continuous actions, and its schedule.

Noise has no generator of its own: it is a pure function of normal numbers from ``marl.random_streams`` and, where it is
correlated in time, of a state for each environment and agent.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn

from marl.errors import InputError

NoiseKind = Literal["gaussian", "ornstein-uhlenbeck"]


class ActionNoise(ABC):
    """Noise of a given standard deviation, in units of canonical actions."""

    def initial_state(self, *shape: int) -> Tensor | None:
        """The state before an episode, (*shape) float32; None for noise without memory."""
        return None

    @abstractmethod
    def next(self, normals: Tensor, state: Tensor | None, first: Tensor) -> tuple[Tensor, Tensor | None]:
        """Computes the noise of one step.

        Args:
            normals: (E, A, D) standard normal numbers.
            state: (E, A, D) the state after the step before, or None.
            first: (E,) bool, True where an episode begins: there the state is forgotten.

        Returns:
            The noise (E, A, D), and the new state.
        """


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianNoise(ActionNoise):
    """Independent normal noise (Fujimoto et al. 2018, "Addressing function approximation error")."""

    deviation: float = 0.1

    def next(self, normals: Tensor, state: Tensor | None, first: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.deviation * normals, state


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OrnsteinUhlenbeckNoise(ActionNoise):
    """Noise that is correlated in time (Uhlenbeck and Ornstein 1930; Lillicrap et al. 2016, "Continuous control").

    ``x[t] = (1 - theta) x[t-1] + sigma n[t]``, from 0 at the beginning of an episode. Its deviation grows towards
    ``sigma / sqrt(1 - (1 - theta)²)``, and its correlation over k steps is ``(1 - theta) ** k``.

    Args:
        theta: how fast it is forgotten, in (0, 1]; with 1 it is Gaussian noise.
        sigma: standard deviation of the new noise of a step.

    Raises:
        InputError: theta is out of its range.
    """

    theta: float = 0.15
    sigma: float = 0.2

    def __post_init__(self) -> None:
        if not 0.0 < self.theta <= 1.0:
            raise InputError(f"theta of Ornstein-Uhlenbeck noise must be above 0 and at most 1, not {self.theta}")

    @property
    def limit(self) -> float:
        """The deviation after many steps."""
        return self.sigma / math.sqrt(1.0 - (1.0 - self.theta) ** 2)

    def initial_state(self, *shape: int) -> Tensor | None:
        return torch.zeros(shape)

    def next(self, normals: Tensor, state: Tensor | None, first: Tensor) -> tuple[Tensor, Tensor | None]:
        assert state is not None
        kept = state * (~first).view(-1, 1, 1).to(state.dtype)
        state = (1.0 - self.theta) * kept + self.sigma * normals
        return state, state


def make_noise(kind: NoiseKind, *, deviation: float, theta: float) -> ActionNoise:
    """Makes noise; ``deviation`` is that of a step's new noise, ``theta`` how fast correlated noise is forgotten.

    Raises:
        InputError: a number is out of its range.
    """
    if not (math.isfinite(deviation) and deviation >= 0.0):
        raise InputError(f"the deviation of exploration noise must be a number of at least 0, not {deviation}")
    if kind == "gaussian":
        return GaussianNoise(deviation=deviation)
    return OrnsteinUhlenbeckNoise(theta=theta, sigma=deviation)


class Exploration(nn.Module):
    """State of a policy's exploration; set by its learner, and kept in checkpoints."""

    scale: Tensor
    """() float32: factor of the noise."""
    learning: Tensor
    """() bool: False before the first update; until then actions may be uniformly random."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("learning", torch.tensor(False))

    def set(self, scale: float) -> None:
        """Marks that learning has begun, and from now on multiplies noise by ``scale``."""
        self.scale.fill_(scale)
        self.learning.fill_(True)
