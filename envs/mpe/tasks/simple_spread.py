"""Simple spread: N agents cover N landmarks without running into each other."""

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
    check_ratio,
    collisions,
    flat,
    lengths,
    nearest_targets,
    relative,
    without_self,
)

_SIZE = 0.15
_WORDS = 2
_CAPTURE_RADIUS = 0.1


@dataclass(frozen=True, kw_only=True)
class SimpleSpread(Task):
    """``mpe2.simple_spread_v3``; the curriculum's first stage has no penalty for collisions."""

    name: ClassVar[str] = "simple_spread_v3"

    N: int = 3
    local_ratio: float = 0.5
    curriculum: bool = False
    terminate_on_success: bool = False
    num_agent_neighbors: int | None = None
    num_landmark_neighbors: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("N", self.N, 1)
        check_ratio("local_ratio", self.local_ratio)
        check_neighbors(
            num_agent_neighbors=self.num_agent_neighbors, num_landmark_neighbors=self.num_landmark_neighbors
        )

    def layout(self) -> WorldLayout:
        """N agents, N landmarks; nobody speaks, though observations have room for words."""
        return WorldLayout(
            agents=tuple(AgentBody(name=f"agent_{i}", size=_SIZE) for i in range(self.N)),
            landmarks=(LandmarkBody(),) * self.N,
        )

    @property
    def stages(self) -> tuple[float, ...]:
        """The weight of the collision penalty."""
        return (0.0, 1.0) if self.curriculum else ()

    @property
    def can_terminate(self) -> bool:
        """True once every landmark is covered, if asked for."""
        return self.terminate_on_success

    def succeeded(self, state: WorldState) -> Tensor:
        """Every landmark has an agent within the capture radius."""
        return (self._landmark_distances(state) < _CAPTURE_RADIUS).all(dim=0)

    def rewards(self, state: WorldState) -> Tensor:
        """Shared: minus the distances from landmarks to their nearest agents; own: minus one a collision."""
        agents = state.position[: self.N]
        shared = -self._landmark_distances(state).sum(dim=0)
        # An agent always touches itself, which does not count.
        own = 1.0 - collisions(agents, agents, 2 * _SIZE).sum(dim=1)
        if self.curriculum:
            own = own * state.difficulty
        return shared * (1 - self.local_ratio) + own * self.local_ratio

    def observations(self, state: WorldState) -> list[Tensor]:
        """Own velocity and position, landmarks, other agents, and zeros for their words."""
        agents, landmarks = state.position[: self.N], state.position[self.N :]
        (seen_landmarks,) = nearest_targets(relative(agents, landmarks), self.num_landmark_neighbors)
        (seen_agents,) = nearest_targets(without_self(relative(agents, agents)), self.num_agent_neighbors)
        silence = agents.new_zeros(()).expand(self.N, seen_agents.shape[1] * _WORDS, agents.shape[-1])
        return [torch.cat((state.velocity, agents, flat(seen_landmarks), flat(seen_agents), silence), dim=1)]

    def _landmark_distances(self, state: WorldState) -> Tensor:
        """(L, E): from each landmark to the nearest agent."""
        return lengths(relative(state.position[: self.N], state.position[self.N :])).amin(dim=0)
