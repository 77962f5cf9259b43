"""Simple adversary: agents know the goal and hide it from an adversary who seeks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from marl.envs.mpe.physics import AgentBody, LandmarkBody, WorldLayout, WorldState
from marl.envs.mpe.task import (
    Task,
    check_count,
    check_neighbors,
    flat,
    goal_positions,
    lengths,
    nearest_targets,
    relative,
    without_self,
)


@dataclass(frozen=True, kw_only=True)
class SimpleAdversary(Task):
    """``mpe2.simple_adversary_v3``."""

    name: ClassVar[str] = "simple_adversary_v3"

    N: int = 2
    num_agent_neighbors: int | None = None
    num_landmark_neighbors: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("N", self.N, 1)
        check_neighbors(
            num_agent_neighbors=self.num_agent_neighbors, num_landmark_neighbors=self.num_landmark_neighbors
        )

    def layout(self) -> WorldLayout:
        """One adversary, N agents, N landmarks; nothing collides."""
        names = ("adversary_0", *(f"agent_{i}" for i in range(self.N)))
        return WorldLayout(
            agents=tuple(AgentBody(name=name, size=0.15, collide=False) for name in names),
            landmarks=(LandmarkBody(size=0.08),) * self.N,
        )

    @property
    def goal_choices(self) -> tuple[int, ...]:
        """The goal."""
        return (self.N,)

    def rewards(self, state: WorldState) -> Tensor:
        """The adversary's distance from the goal counts against it and for the agents, whose nearest counts too."""
        goal = goal_positions(state.position[self.N + 1 :], state.goals)
        distances = lengths(relative(state.position[: self.N + 1], goal)).squeeze(1)
        agents = distances[:1] - distances[1:].amin(dim=0, keepdim=True)
        return torch.cat((-distances[:1], agents.expand(self.N, -1)))

    def observations(self, state: WorldState) -> list[Tensor]:
        """Landmarks and other agents; agents see the goal before them."""
        agents, landmarks = state.position[: self.N + 1], state.position[self.N + 1 :]
        (seen_landmarks,) = nearest_targets(relative(agents, landmarks), self.num_landmark_neighbors)
        (seen_agents,) = nearest_targets(without_self(relative(agents, agents)), self.num_agent_neighbors)
        seen = torch.cat((flat(seen_landmarks), flat(seen_agents)), dim=1)
        goal = flat(relative(agents[1:], goal_positions(landmarks, state.goals)))
        return [seen[:1], torch.cat((goal, seen[1:]), dim=1)]
