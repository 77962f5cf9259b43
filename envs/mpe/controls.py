"""From the groups' actions to the forces and the communication of MPE's agents; shapes as in ``physics``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from marl.envs.mpe.physics import AgentBody, WorldLayout
from marl.envs.mpe.task import one_hot
from marl.specs import ActionSpec, ContinuousActions, DiscreteActions, GroupSpec

_MOVES: Final = 5
"""Nothing, left, right, down, up."""


def action_spec(agent: AgentBody, *, num_words: int, continuous: bool) -> ActionSpec:
    """The actions of one agent, as in mpe2: a move, a word, or both."""
    if continuous:
        size = _MOVES * agent.movable + num_words * (not agent.silent)
        return ContinuousActions(low=(0.0,) * size, high=(1.0,) * size)
    return DiscreteActions(num_actions=(_MOVES if agent.movable else 1) * (1 if agent.silent else num_words))


class Controls:
    """Decodes actions. Called within the compiled step, so nothing here changes after construction.

    Args:
        layout: the bodies.
        groups: whose actions are given, side by side, in this order.
        continuous: whether actions are shares of all moves and words, rather than choices.
        dtype: of moves and words.
        device: where actions are.
    """

    def __init__(
        self,
        layout: WorldLayout,
        groups: Sequence[GroupSpec],
        *,
        continuous: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._continuous, self._dtype, self._num_words = continuous, dtype, layout.num_words
        agents, speakers = layout.agents, layout.speakers
        position: dict[str, int] = {}
        start: dict[str, int] = {}
        columns = 0
        for name, action in ((name, group.action) for group in groups for name in group.agents):
            position[name] = len(position)
            start[name] = columns
            columns += action.size if isinstance(action, ContinuousActions) else 1

        def indices(values: Sequence[Any], *shape: int) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device).reshape(*shape)

        order = [position[agent.name] for agent in agents]
        self._order = None if order == sorted(order) else indices(order, -1)
        self._speakers = indices(speakers, -1) if speakers else None
        self._word_divisor = indices([_MOVES if agents[index].movable else 1 for index in speakers], -1, 1)
        self._movable = torch.tensor([float(agent.movable) for agent in agents], dtype=dtype, device=device)
        self._movable = self._movable.view(-1, 1, 1)
        self._move_columns = indices(
            [[start[agent.name] + move if agent.movable else 0 for move in range(_MOVES)] for agent in agents],
            len(agents),
            _MOVES,
        )
        talking = [agents[index] for index in speakers]
        self._word_columns = indices(
            [
                [start[agent.name] + _MOVES * agent.movable + word for word in range(layout.num_words)]
                for agent in talking
            ],
            len(speakers),
            layout.num_words,
        )

    def __call__(self, actions: Sequence[Tensor], communication: Tensor) -> tuple[Tensor, Tensor]:
        """Moves (A, xy, E) and words (S, C, E).

        Args:
            actions: one tensor a group, (E, A of the group, ...).
            communication: (S, C, E), the words of the step before; returned where nobody speaks.
        """
        if self._continuous:
            return self._from_shares(torch.cat([action.flatten(1) for action in actions], dim=1).T.to(self._dtype))
        choices = (actions[0] if len(actions) == 1 else torch.cat(tuple(actions), dim=1)).T
        if self._order is not None:
            choices = choices[self._order]
        directions, words = choices, communication
        if self._speakers is not None:
            directions = choices % _MOVES
            said = choices[self._speakers] // self._word_divisor
            words = one_hot(said, self._num_words, self._dtype)
        right = (directions == 2).to(self._dtype) - (directions == 1).to(self._dtype)
        up = (directions == 4).to(self._dtype) - (directions == 3).to(self._dtype)
        # Immovable agents have no acceleration either, so their choice of a word moves nothing.
        return torch.stack((right, up), dim=1), words

    def _from_shares(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """From canonical numbers, (columns, E) in [-1, 1]."""
        shares = (shares.clamp(-1.0, 1.0) + 1.0) / 2.0
        push = shares[self._move_columns]
        moves = torch.stack((push[:, 2] - push[:, 1], push[:, 4] - push[:, 3]), dim=1)
        return moves * self._movable, shares[self._word_columns]
