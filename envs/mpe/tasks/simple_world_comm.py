"""Simple world comm: tag with food, forests that hide, and a leader of the adversaries who sees all and speaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from marl.envs.mpe.physics import AgentBody, LandmarkBody, WorldLayout, WorldState
from marl.envs.mpe.task import Task, boundary_penalty, check_count, collisions, flat, lengths, relative, without_self

_HUNTER_SIZE, _PREY_SIZE, _FOOD_SIZE, _FOREST_SIZE = 0.075, 0.045, 0.03, 0.3


@dataclass(frozen=True, kw_only=True)
class SimpleWorldComm(Task):
    """``mpe2.simple_world_comm_v3``."""

    name: ClassVar[str] = "simple_world_comm_v3"

    num_good: int = 2
    num_adversaries: int = 4
    num_obstacles: int = 1
    num_food: int = 2
    num_forests: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        # Rewards are distances to the nearest prey and food, so there must be some; the leader is an adversary.
        check_count("num_good", self.num_good, 1)
        check_count("num_adversaries", self.num_adversaries, 1)
        check_count("num_obstacles", self.num_obstacles, 0)
        check_count("num_food", self.num_food, 1)
        check_count("num_forests", self.num_forests, 0)

    def layout(self) -> WorldLayout:
        """The leader, other adversaries, prey; obstacles, food, forests. Only obstacles are solid."""
        names = ("leadadversary_0", *(f"adversary_{i}" for i in range(self.num_adversaries - 1)))
        hunters = tuple(
            AgentBody(name=name, size=_HUNTER_SIZE, acceleration=3.0, max_speed=1.0, silent=name != names[0])
            for name in names
        )
        prey = tuple(
            AgentBody(name=f"agent_{i}", size=_PREY_SIZE, acceleration=4.0, max_speed=1.3) for i in range(self.num_good)
        )
        return WorldLayout(
            agents=hunters + prey,
            landmarks=(
                *(LandmarkBody(size=0.2, collide=True, spread=0.9),) * self.num_obstacles,
                *(LandmarkBody(size=_FOOD_SIZE, spread=0.9),) * self.num_food,
                *(LandmarkBody(size=_FOREST_SIZE, spread=0.9),) * self.num_forests,
            ),
            num_words=4,
        )

    def rewards(self, state: WorldState) -> Tensor:
        """Adversaries: 5 for every touch of any of them, and nearness to prey; prey: not caught, on screen, food."""
        hunters, prey = self._split(state)
        first_food = self.num_adversaries + self.num_good + self.num_obstacles
        food = state.position[first_food : first_food + self.num_food]
        touches = collisions(hunters, prey, _HUNTER_SIZE + _PREY_SIZE)
        hunting = 5.0 * touches.sum(dim=(0, 1)) - 0.1 * lengths(relative(hunters, prey)).amin(dim=1)
        eaten = collisions(prey, food, _PREY_SIZE + _FOOD_SIZE).sum(dim=1)
        hungry = lengths(relative(prey, food)).amin(dim=1)
        fleeing = -5.0 * touches.sum(dim=0) - 2.0 * boundary_penalty(prey) + 2.0 * eaten - 0.05 * hungry
        return torch.cat((hunting, fleeing))

    def observations(self, state: WorldState) -> list[Tensor]:
        """Own velocity and position, all landmarks, visible agents and prey's velocities, own forests, the word.

        One agent sees another if they share a forest or neither is in one; the leader sees everybody. Prey does
        not hear the word.
        """
        total, hunters = self.num_adversaries + self.num_good, self.num_adversaries
        agents, landmarks = state.position[:total], state.position[total:]
        inside = self._inside_forests(state)
        hidden = inside.any(dim=1)
        shared = (inside.unsqueeze(1) & inside.unsqueeze(0)).any(dim=2)
        visible = shared | ~(hidden.unsqueeze(1) | hidden.unsqueeze(0))
        visible = torch.cat((torch.ones_like(visible[:1]), visible[1:])).unsqueeze(2).to(agents.dtype)

        others = flat(without_self(relative(agents, agents) * visible))
        moving = state.velocity[hunters:].unsqueeze(0) * visible[:, hunters:]
        forests = inside.to(agents.dtype) * 2.0 - 1.0
        own = torch.cat((state.velocity, agents, flat(relative(agents, landmarks)), others), dim=1)
        word = state.communication.expand(hunters, -1, -1)
        return [
            torch.cat((own[:hunters], flat(moving[:hunters]), forests[:hunters], word), dim=1),
            torch.cat((own[hunters:], forests[hunters:], flat(without_self(moving[hunters:]))), dim=1),
        ]

    def _split(self, state: WorldState) -> tuple[Tensor, Tensor]:
        agents = state.position[: self.num_adversaries + self.num_good]
        return agents[: self.num_adversaries], agents[self.num_adversaries :]

    def _inside_forests(self, state: WorldState) -> Tensor:
        """(A, forests, E) bool."""
        hunters, prey = self._split(state)
        forests = state.position[state.position.shape[0] - self.num_forests :]
        return torch.cat(
            (
                collisions(hunters, forests, _HUNTER_SIZE + _FOREST_SIZE),
                collisions(prey, forests, _PREY_SIZE + _FOREST_SIZE),
            )
        ).to(torch.bool)
