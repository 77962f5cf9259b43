"""Simple: one agent goes to one landmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from marl.envs.mpe.physics import AgentBody, LandmarkBody, WorldLayout, WorldState
from marl.envs.mpe.task import Task, flat, relative


@dataclass(frozen=True, kw_only=True)
class Simple(Task):
    """``mpe2.simple_v3``."""

    name: ClassVar[str] = "simple_v3"

    def layout(self) -> WorldLayout:
        """One agent, one landmark."""
        return WorldLayout(agents=(AgentBody(name="agent_0", collide=False),), landmarks=(LandmarkBody(),))

    def rewards(self, state: WorldState) -> Tensor:
        """Minus the squared distance."""
        return -(state.position[:1] - state.position[1:]).square().sum(dim=1)

    def observations(self, state: WorldState) -> list[Tensor]:
        """Own velocity, and the landmark."""
        return [torch.cat((state.velocity, flat(relative(state.position[:1], state.position[1:]))), dim=1)]
