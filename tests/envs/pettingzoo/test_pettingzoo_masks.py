"""Masks of agents that are cut off: over these actions their values are bootstrapped."""

from typing import Any

import numpy as np
import pytest
import torch
from endings import AGENTS, ParallelEndings, TurnEndings

from marl.core import EnvironmentRequest
from marl.envs.pettingzoo.vector import PettingZooVectorEnvironment

MASKED_GAME = 3
"""Seed of the game in which two of three actions are legal, and both agents are cut off after two steps."""


def last_masks(kind: type[Any], shown_last: str) -> list[Any]:
    """The last masks of both agents, who may be shown something else once they are cut off."""

    class Environment(kind):  # type: ignore[misc]
        def reset(self, seed: int | None = None, options: Any = None) -> Any:
            return super().reset(seed=MASKED_GAME)

        def observe(self, agent: str) -> Any:
            seen, index = super().observe(agent), AGENTS.index(agent)
            if self.taken[index] < self.lives[index] or shown_last == "its mask":
                return seen
            return None if shown_last == "nothing" else seen | {"action_mask": np.zeros(3, np.int8)}

    environment = PettingZooVectorEnvironment(lambda: Environment(team=False), EnvironmentRequest(num_envs=1))
    environment.reset()
    final = None
    while final is None:
        final = environment.step({"agent": torch.zeros(1, 2, dtype=torch.int64)}).final
    masks = final.groups["agent"].action_masks
    assert masks is not None
    return list(masks[0].tolist())


@pytest.mark.parametrize("kind", [ParallelEndings, TurnEndings])
@pytest.mark.parametrize("shown_last", ["its mask", "no legal action", "nothing"])
def test_an_agent_that_is_cut_off_keeps_its_mask(kind, shown_last):
    assert last_masks(kind, shown_last) == [[True, True, False]] * 2
