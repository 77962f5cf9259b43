"""Simple push: an agent goes to the goal, an adversary who does not know it pushes it away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from marl.envs.mpe.physics import AgentBody, LandmarkBody, WorldLayout, WorldState
from marl.envs.mpe.task import Task, flat, goal_positions, lengths, relative, without_self

_LANDMARK_COLORS = (0.1, 0.9, 0.1, 0.1, 0.1, 0.9)


@dataclass(frozen=True, kw_only=True)
class SimplePush(Task):
    """``mpe2.simple_push_v3``."""

    name: ClassVar[str] = "simple_push_v3"

    def layout(self) -> WorldLayout:
        """One adversary, one agent, two landmarks."""
        return WorldLayout(
            agents=(AgentBody(name="adversary_0"), AgentBody(name="agent_0")), landmarks=(LandmarkBody(),) * 2
        )

    @property
    def goal_choices(self) -> tuple[int, ...]:
        """The goal."""
        return (2,)

    def rewards(self, state: WorldState) -> Tensor:
        """The agent wants to be near the goal, the adversary nearer."""
        goal = goal_positions(state.position[2:], state.goals)
        adversary, agent = lengths(relative(state.position[:2], goal)).squeeze(1)
        return torch.stack((agent - adversary, -agent))

    def observations(self, state: WorldState) -> list[Tensor]:
        """Own velocity, landmarks and the other; the agent sees goal and colours too."""
        agents, landmarks = state.position[:2], state.position[2:]
        seen = flat(relative(agents, landmarks))
        other = flat(without_self(relative(agents, agents)))
        goal = flat(relative(agents[1:], goal_positions(landmarks, state.goals)))
        # The agent wears the goal's colour: 0.5 is added to component goal + 1.
        bright = [state.goals == component - 1 for component in range(3)]
        own_color = torch.stack([0.25 + 0.5 * chosen.to(seen.dtype) for chosen in bright], dim=1)
        painted = torch.tensor(_LANDMARK_COLORS, dtype=seen.dtype, device=seen.device).view(1, -1, 1)
        colors = painted.expand(-1, -1, seen.shape[-1])
        return [
            torch.cat((state.velocity[:1], seen[:1], other[:1]), dim=1),
            torch.cat((state.velocity[1:], goal, own_color, seen[1:], colors, other[1:]), dim=1),
        ]
