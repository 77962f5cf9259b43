"""Simple reference: each of two agents knows the other's goal, and tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from marl.envs.mpe.physics import AgentBody, LandmarkBody, WorldLayout, WorldState
from marl.envs.mpe.task import Task, check_ratio, colors, flat, goal_positions, relative

_NUM_LANDMARKS = 3


@dataclass(frozen=True, kw_only=True)
class SimpleReference(Task):
    """``mpe2.simple_reference_v3``."""

    name: ClassVar[str] = "simple_reference_v3"

    local_ratio: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio("local_ratio", self.local_ratio)

    def layout(self) -> WorldLayout:
        """Two agents who move and speak, three landmarks, ten words."""
        return WorldLayout(
            agents=tuple(AgentBody(name=f"agent_{i}", collide=False, silent=False) for i in range(2)),
            landmarks=(LandmarkBody(),) * _NUM_LANDMARKS,
            num_words=10,
        )

    @property
    def goal_choices(self) -> tuple[int, ...]:
        """The other agent's goal, which each agent knows."""
        return (_NUM_LANDMARKS, _NUM_LANDMARKS)

    def rewards(self, state: WorldState) -> Tensor:
        """Minus the other agent's distance from its goal, mixed with the mean of both."""
        goals = goal_positions(state.position[2:], state.goals)
        own = -torch.sqrt((state.position[:2].flip(0) - goals).square().sum(dim=1))
        return own.mean(dim=0) * (1 - self.local_ratio) + own * self.local_ratio

    def observations(self, state: WorldState) -> list[Tensor]:
        """Own velocity, the landmarks, the colour of the other's goal, and the other's word."""
        seen = flat(relative(state.position[:2], state.position[2:]))
        color = colors(state.goals, _NUM_LANDMARKS, dull=0.25, bright=0.75, dtype=seen.dtype)
        return [torch.cat((state.velocity, seen, color, state.communication.flip(0)), dim=1)]
