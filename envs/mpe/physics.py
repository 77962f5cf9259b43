"""The world of MPE on tensors: bodies, contact forces, integration and communication of E copies at once.

Constants and order of operations are those of ``mpe2`` 1.1 (``mpe2/_mpe_utils/core.py``; Lowe et al. 2017,
"Multi-agent actor-critic for mixed cooperative-competitive environments"). The copies are the LAST dimension of
every tensor here, so that each operation runs over contiguous memory whatever the number of agents.

Letters in shapes: A agents, L landmarks, S agents that speak, C words, G goals, E copies; xy is 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

TIME_STEP: Final = 0.1
DAMPING: Final = 0.25
CONTACT_FORCE: Final = 1e2
CONTACT_MARGIN: Final = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentBody:
    """The body of an agent; ``acceleration`` is the force of a full move, masses are 1."""

    name: str
    size: float = 0.05
    movable: bool = True
    collide: bool = True
    silent: bool = True
    acceleration: float = 5.0
    max_speed: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LandmarkBody:
    """The body of a landmark; it begins anywhere in [-spread, spread]² and never moves."""

    size: float = 0.05
    collide: bool = False
    spread: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldLayout:
    """The bodies of one task, in mpe2's order, and the number of words that agents can say."""

    agents: tuple[AgentBody, ...]
    landmarks: tuple[LandmarkBody, ...]
    num_words: int = 0

    @property
    def speakers(self) -> tuple[int, ...]:
        """Indices of the agents that are not silent."""
        return tuple(index for index, agent in enumerate(self.agents) if not agent.silent)


class WorldState(NamedTuple):
    """The variables of E copies."""

    position: Tensor
    """(A + L, xy, E): agents, then landmarks."""
    velocity: Tensor
    """(A, xy, E)."""
    communication: Tensor
    """(S, C, E): the last word of each speaker."""
    goals: Tensor
    """(G, E) int64: which landmarks are goals or keys; drawn at reset."""
    difficulty: Tensor
    """(E,): the difficulty by the curriculum's stage; 1 without a curriculum."""


class World:
    """The physics of one layout on one device.

    Args:
        layout: the bodies.
        dtype: of positions, velocities and forces.
        device: where states live.
    """

    def __init__(self, layout: WorldLayout, *, dtype: torch.dtype, device: torch.device) -> None:
        agents = layout.agents

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device).unsqueeze(-1)

        self.num_agents = len(agents)
        self._acceleration = column([agent.acceleration if agent.movable else 0.0 for agent in agents])
        limits = [agent.max_speed for agent in agents]
        self._max_speed = (
            column([torch.inf if limit is None else limit for limit in limits])
            if any(limit is not None for limit in limits)
            else None
        )
        bodies: list[AgentBody | LandmarkBody] = [*agents, *layout.landmarks]
        pushed = [index for index, agent in enumerate(agents) if agent.collide and agent.movable]
        pushing = [index for index, body in enumerate(bodies) if body.collide]
        self._contacts = len(pushed) > 0 and len(pushing) > 1
        self._all_collide = pushed == list(range(len(agents))) and pushing == list(range(len(pushing)))
        self._num_pushing = len(pushing)
        self._pushed = torch.tensor(pushed, dtype=torch.int64, device=device)
        self._pushing = torch.tensor(pushing, dtype=torch.int64, device=device)
        reach = [[bodies[a].size + bodies[b].size for b in pushing] for a in pushed]
        same = [[float(a == b) for b in pushing] for a in pushed]
        self._reach = torch.tensor(reach, dtype=dtype, device=device).unsqueeze(-1)
        self._same = torch.tensor(same, dtype=dtype, device=device).unsqueeze(-1)

    def contact_forces(self, position: Tensor) -> Tensor:
        """Forces on agents from everything that they touch: softened penetration times 100, along the line.

        Args:
            position: (A + L, xy, E).

        Returns:
            (A, xy, E).
        """
        # One pass over ordered pairs; the agent itself is kept at distance 1 with a zero direction.
        if self._all_collide:
            pushed, pushing = position[: self.num_agents], position[: self._num_pushing]
        else:
            pushed, pushing = position[self._pushed], position[self._pushing]
        offset = pushed.unsqueeze(1) - pushing.unsqueeze(0)
        distance = torch.sqrt(offset[:, :, 0].square() + offset[:, :, 1].square() + self._same)
        depth = (self._reach - distance) / CONTACT_MARGIN
        penetration = (depth.clamp_min(0.0) + torch.log1p(torch.exp(-depth.abs()))) * CONTACT_MARGIN
        force = (offset * (CONTACT_FORCE * penetration / distance).unsqueeze(2)).sum(dim=1)
        if self._all_collide:
            return force
        return force.new_zeros(self.num_agents, *force.shape[1:]).index_copy(0, self._pushed, force)

    def step(self, state: WorldState, moves: Tensor, words: Tensor, speed_factor: Tensor | None = None) -> WorldState:
        """One time step: old velocities move bodies, then forces change velocities; words replace words.

        Args:
            state: the world before.
            moves: (A, xy, E), each agent's wish in [-1, 1]; that of immovable agents counts for nothing.
            words: (S, C, E).
            speed_factor: (A, E), scales accelerations and top speeds; None for 1.

        Returns:
            The world after.
        """
        acceleration = self._acceleration if speed_factor is None else self._acceleration * speed_factor
        force = moves * acceleration.unsqueeze(1)
        if self._contacts:
            force = force + self.contact_forces(state.position)
        moved = state.position[: self.num_agents] + state.velocity * TIME_STEP
        velocity = state.velocity * (1 - DAMPING) + force * TIME_STEP
        if self._max_speed is not None:
            limit = self._max_speed if speed_factor is None else self._max_speed * speed_factor
            speed = torch.sqrt(velocity[:, 0].square() + velocity[:, 1].square())
            too_fast = (speed > limit).unsqueeze(1)
            velocity = torch.where(too_fast, velocity / speed.unsqueeze(1) * limit.unsqueeze(1), velocity)
        position = torch.cat((moved, state.position[self.num_agents :]))
        return state._replace(position=position, velocity=velocity, communication=words)
