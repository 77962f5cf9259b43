"""The interface of MPE's tasks, and the pieces that several of them are made of; shapes as in ``physics``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from marl.envs.mpe.physics import WorldLayout, WorldState
from marl.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """WorldLayout, reset, rewards and observations of one task; its fields are the arguments of mpe2's version.

    ``render_mode``, ``dynamic_rescaling`` and ``benchmark_data`` are taken so that the same arguments serve the
    unmodified environment; they concern drawing and infos only, which batched environments do not have.
    """

    name: ClassVar[str]
    """mpe2's name with its version."""

    max_cycles: int = 25
    continuous_actions: bool = False
    render_mode: str | None = None
    dynamic_rescaling: bool = True
    benchmark_data: bool = False

    def __post_init__(self) -> None:
        check_count("max_cycles", self.max_cycles, 1)

    @abstractmethod
    def layout(self) -> WorldLayout:
        """The bodies."""

    @property
    def goal_choices(self) -> tuple[int, ...]:
        """The number of values, equally likely, of each goal that is drawn at reset after the positions."""
        return ()

    @property
    def stages(self) -> tuple[float, ...]:
        """The curriculum: the difficulty of each stage; empty without one."""
        return ()

    @property
    def stage_waits(self) -> bool:
        """True if a new stage waits for a copy's next reset; otherwise it counts at once."""
        return False

    @property
    def can_terminate(self) -> bool:
        """True if episodes can end before ``max_cycles``."""
        return False

    def speed_factor(self, state: WorldState) -> Tensor | None:
        """(A, E): the factor of accelerations and top speeds; None for 1."""
        return None

    def succeeded(self, state: WorldState) -> Tensor:
        """(E,) bool: episodes that end here, where the task can terminate."""
        return torch.zeros_like(state.difficulty, dtype=torch.bool)

    @abstractmethod
    def rewards(self, state: WorldState) -> Tensor:
        """(A, E): every agent's reward for arriving in this state."""

    @abstractmethod
    def observations(self, state: WorldState) -> list[Tensor]:
        """(agents, features, E) for each block of consecutive agents whose observations have equal sizes."""


def check_count(name: str, value: object, least: int) -> None:
    """Raises InputError unless ``value`` is an integer of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} is a whole number of at least {least}, not {value!r}")


def check_neighbors(**numbers: int | None) -> None:
    """Raises InputError unless each is a positive integer or None."""
    for name, value in numbers.items():
        if value is not None:
            check_count(name, value, 1)


def check_ratio(name: str, value: float) -> None:
    """Raises InputError unless the number lies in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise InputError(f"{name} is a proportion between 0 and 1, not {value!r}")


def relative(origins: Tensor, targets: Tensor) -> Tensor:
    """Offsets from each origin to each target: (n, xy, E), (m, xy, E) → (n, m, xy, E)."""
    return targets.unsqueeze(0) - origins.unsqueeze(1)


def lengths(offsets: Tensor) -> Tensor:
    """Euclidean lengths: (n, m, xy, E) → (n, m, E)."""
    return torch.sqrt(offsets[:, :, 0].square() + offsets[:, :, 1].square())


def without_self(pairs: Tensor) -> Tensor:
    """Drops the diagonal, keeping the order: (n, n, ...) → (n, n - 1, ...)."""
    n = pairs.shape[0]
    rest = pairs.shape[2:]
    if n <= 1:
        return pairs[:, :0]
    return pairs.flatten(0, 1)[1:].view(n - 1, n + 1, *rest)[:, :-1].reshape(n, n - 1, *rest)


def collisions(origins: Tensor, targets: Tensor, reach: float) -> Tensor:
    """Pairs that are closer than ``reach``, as numbers 0 and 1: (n, xy, E), (m, xy, E) → (n, m, E)."""
    return (lengths(relative(origins, targets)) < reach).to(origins.dtype)


def flat(features: Tensor) -> Tensor:
    """One row of features an agent: (n, m, xy, E) → (n, m · xy, E)."""
    return features.flatten(1, 2)


def goal_positions(landmarks: Tensor, goals: Tensor) -> Tensor:
    """Positions of the landmarks that are goals: (L, xy, E), (G, E) → (G, xy, E)."""
    return landmarks.gather(0, goals.unsqueeze(1).expand(-1, 2, -1))


def one_hot(indices: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """(n, E) int64 → (n, size, E) of zeros with a one at each index."""
    values = torch.arange(size, device=indices.device).view(1, size, 1)
    return (indices.unsqueeze(1) == values).to(dtype)


def nearest_targets(offsets: Tensor, count: int | None, *others: Tensor) -> tuple[Tensor, ...]:
    """Keeps what belongs to the ``count`` nearest targets, nearest first, zeros where there are fewer.

    Args:
        offsets: (n, m, xy, E), from the origins to the targets.
        count: how many to keep; None keeps all in their order.
        others: more features of the targets, (n, m, k, E) each.

    Returns:
        ``offsets`` and ``others``, (n, count, ·, E) each.
    """
    if count is None:
        return (offsets, *others)
    order = lengths(offsets).argsort(dim=1, stable=True)[:, :count].unsqueeze(2)
    kept: list[Tensor] = []
    for features in (offsets, *others):
        chosen = features.gather(1, order.expand(-1, -1, features.shape[2], -1))
        if missing := count - chosen.shape[1]:
            padding = chosen.new_zeros(chosen.shape[0], missing, *chosen.shape[2:])
            chosen = torch.cat((chosen, padding), dim=1)
        kept.append(chosen)
    return tuple(kept)


def boundary_penalty(position: Tensor) -> Tensor:
    """The cost of leaving the screen, summed over x and y: (n, xy, E) → (n, E)."""
    distance = position.abs()
    outside = torch.exp(2 * distance - 2).clamp_max(10.0)
    near = (distance - 0.9) * 10
    cost = torch.where(distance < 0.9, torch.zeros_like(distance), torch.where(distance < 1.0, near, outside))
    return cost.sum(dim=1)


def colors(goals: Tensor, choices: int, *, dull: float, bright: float, dtype: torch.dtype) -> Tensor:
    """The colour of each goal, bright in the component of its index: (n, E) int64 → (n, choices, E)."""
    return one_hot(goals, choices, dtype) * (bright - dull) + dull
