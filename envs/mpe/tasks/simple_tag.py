"""Simple tag: slow adversaries hunt fast prey among obstacles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from marl.envs.mpe.physics import AgentBody, LandmarkBody, WorldLayout, WorldState
from marl.envs.mpe.task import (
    Task,
    boundary_penalty,
    check_count,
    check_neighbors,
    collisions,
    flat,
    nearest_targets,
    relative,
    without_self,
)

_HUNTER_SIZE, _PREY_SIZE = 0.075, 0.05


@dataclass(frozen=True, kw_only=True)
class SimpleTag(Task):
    """``mpe2.simple_tag_v3``; the curriculum's first stages have slower prey."""

    name: ClassVar[str] = "simple_tag_v3"

    num_good: int = 1
    num_adversaries: int = 3
    num_obstacles: int = 2
    curriculum: bool = False
    terminate_on_success: bool = False
    num_agent_neighbors: int | None = None
    num_landmark_neighbors: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_good", self.num_good, 0)
        check_count("num_adversaries", self.num_adversaries, 0 if self.num_good else 1)
        check_count("num_obstacles", self.num_obstacles, 0)
        check_neighbors(
            num_agent_neighbors=self.num_agent_neighbors, num_landmark_neighbors=self.num_landmark_neighbors
        )

    def layout(self) -> WorldLayout:
        """Adversaries first, then prey; obstacles are solid."""
        hunters = tuple(
            AgentBody(name=f"adversary_{i}", size=_HUNTER_SIZE, acceleration=3.0, max_speed=1.0)
            for i in range(self.num_adversaries)
        )
        prey = tuple(
            AgentBody(name=f"agent_{i}", size=_PREY_SIZE, acceleration=4.0, max_speed=1.3) for i in range(self.num_good)
        )
        obstacles = (LandmarkBody(size=0.2, collide=True, spread=0.9),) * self.num_obstacles
        return WorldLayout(agents=hunters + prey, landmarks=obstacles)

    @property
    def stages(self) -> tuple[float, ...]:
        """The prey's speed, as a part of its full speed."""
        return (0.5, 0.75, 1.0) if self.curriculum else ()

    @property
    def stage_waits(self) -> bool:
        """Speeds are set at reset."""
        return True

    @property
    def can_terminate(self) -> bool:
        """True once all prey is caught at once, if asked for."""
        return self.terminate_on_success

    def speed_factor(self, state: WorldState) -> Tensor | None:
        """The curriculum slows the prey."""
        if not self.curriculum:
            return None
        speed = state.difficulty.unsqueeze(0)
        return torch.cat((torch.ones_like(speed).expand(self.num_adversaries, -1), speed.expand(self.num_good, -1)))

    def succeeded(self, state: WorldState) -> Tensor:
        """Every prey touches an adversary."""
        return self._caught(state).any(dim=0).all(dim=0)

    def rewards(self, state: WorldState) -> Tensor:
        """Adversaries share 10 a touch; prey loses 10 a touch, and for leaving the screen."""
        touches = self._caught(state)
        hunters = 10.0 * touches.sum(dim=(0, 1)).unsqueeze(0).expand(self.num_adversaries, -1)
        prey = -10.0 * touches.sum(dim=0) - boundary_penalty(self._split(state)[1])
        return torch.cat((hunters, prey))

    def observations(self, state: WorldState) -> list[Tensor]:
        """Own velocity and position, obstacles, other agents, and the velocities of other prey."""
        total = self.num_adversaries + self.num_good
        agents = state.position[:total]
        (obstacles,) = nearest_targets(relative(agents, state.position[total:]), self.num_landmark_neighbors)
        others = without_self(relative(agents, agents))
        own = torch.cat((state.velocity, agents, flat(obstacles)), dim=1)
        if self.num_agent_neighbors is not None:
            visible = torch.cat((torch.zeros_like(state.velocity[: self.num_adversaries]), self._prey_velocity(state)))
            velocities = without_self(visible.unsqueeze(0).expand(total, -1, -1, -1))
            others, velocities = nearest_targets(others, self.num_agent_neighbors, velocities)
            return [torch.cat((own, flat(others), flat(velocities)), dim=1)]
        common = torch.cat((own, flat(others)), dim=1)
        moving = self._prey_velocity(state).unsqueeze(0)
        hunters = flat(moving.expand(self.num_adversaries, -1, -1, -1))
        prey = flat(without_self(moving.expand(self.num_good, -1, -1, -1)))
        blocks = []
        if self.num_adversaries:
            blocks.append(torch.cat((common[: self.num_adversaries], hunters), dim=1))
        if self.num_good:
            blocks.append(torch.cat((common[self.num_adversaries :], prey), dim=1))
        return blocks

    def _split(self, state: WorldState) -> tuple[Tensor, Tensor]:
        agents = state.position[: self.num_adversaries + self.num_good]
        return agents[: self.num_adversaries], agents[self.num_adversaries :]

    def _prey_velocity(self, state: WorldState) -> Tensor:
        return state.velocity[self.num_adversaries :]

    def _caught(self, state: WorldState) -> Tensor:
        """(adversaries, prey, E) of zeros and ones."""
        return collisions(*self._split(state), _HUNTER_SIZE + _PREY_SIZE)
