"""Simple speaker-listener: the speaker sees which landmark is the goal, the listener goes there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from marl.envs.mpe.physics import AgentBody, LandmarkBody, WorldLayout, WorldState
from marl.envs.mpe.task import Task, colors, flat, goal_positions, relative

_NUM_LANDMARKS = 3


@dataclass(frozen=True, kw_only=True)
class SimpleSpeakerListener(Task):
    """``mpe2.simple_speaker_listener_v4``."""

    name: ClassVar[str] = "simple_speaker_listener_v4"

    def layout(self) -> WorldLayout:
        """A speaker who cannot move, a listener who cannot speak, three landmarks."""
        return WorldLayout(
            agents=(
                AgentBody(name="speaker_0", size=0.075, collide=False, movable=False, silent=False),
                AgentBody(name="listener_0", size=0.075, collide=False),
            ),
            landmarks=(LandmarkBody(size=0.04),) * _NUM_LANDMARKS,
            num_words=3,
        )

    @property
    def goal_choices(self) -> tuple[int, ...]:
        """The listener's goal."""
        return (_NUM_LANDMARKS,)

    def rewards(self, state: WorldState) -> Tensor:
        """For both, minus the squared distance between listener and goal."""
        goal = goal_positions(state.position[2:], state.goals)
        return -(state.position[1:2] - goal).square().sum(dim=1).expand(2, -1)

    def observations(self, state: WorldState) -> list[Tensor]:
        """The speaker sees the goal's colour; the listener its velocity, the landmarks and the word."""
        seen = flat(relative(state.position[1:2], state.position[2:]))
        return [
            colors(state.goals, _NUM_LANDMARKS, dull=0.15, bright=0.65, dtype=seen.dtype),
            torch.cat((state.velocity[1:], seen, state.communication), dim=1),
        ]
