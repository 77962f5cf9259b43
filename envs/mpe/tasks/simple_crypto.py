"""Simple crypto: Alice sends Bob a message with a shared key, Eve listens without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from marl.envs.mpe.physics import AgentBody, LandmarkBody, WorldLayout, WorldState
from marl.envs.mpe.task import Task, one_hot

_WORDS = 4


@dataclass(frozen=True, kw_only=True)
class SimpleCrypto(Task):
    """``mpe2.simple_crypto_v3``."""

    name: ClassVar[str] = "simple_crypto_v3"

    def layout(self) -> WorldLayout:
        """Eve, Bob and Alice speak and do not move."""
        return WorldLayout(
            agents=tuple(
                AgentBody(name=name, collide=False, movable=False, silent=False)
                for name in ("eve_0", "bob_0", "alice_0")
            ),
            landmarks=(LandmarkBody(),) * 2,
            num_words=_WORDS,
        )

    @property
    def goal_choices(self) -> tuple[int, ...]:
        """The message, and the key."""
        return (2, 2)

    def rewards(self, state: WorldState) -> Tensor:
        """Squared errors of Eve's and Bob's reconstructions; silence is no attempt."""
        message = one_hot(state.goals[:1], _WORDS, state.position.dtype)
        attempts = state.communication[:2]
        spoken = (attempts != 0).any(dim=1)
        errors = torch.where(spoken, (attempts - message).square().sum(dim=1), 0.0)
        eve, bob = errors
        return torch.stack((-eve, eve - bob, eve - bob))

    def observations(self, state: WorldState) -> list[Tensor]:
        """Eve hears Alice; Bob sees the key and hears Alice; Alice sees message and key."""
        message, key = one_hot(state.goals, _WORDS, state.position.dtype).unsqueeze(1)
        heard = state.communication[2:]
        return [heard, torch.cat((key, heard), dim=1), torch.cat((message, key), dim=1)]
