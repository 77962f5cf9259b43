"""Object player."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np

from marl.games.player import _PLAYERS_OWN, Player, PlayerError, Turn, _fault, time_limit
from marl.specs import ContinuousActions, EnvironmentSpec, GroupSpec
from marl.types import Bools


@final
class ObjectPlayer(Player):
    """Plays by objects of a user's own class, one a board, asked agent by agent.

    An object has ``act(agent, observation, action_mask)``: it is given the array that networks read, and the legal
    actions as an array of bool or None, and returns an action as ``marl.specs`` describes them (a choice, counted
    from 0; choices; or numbers from -1 to 1). If it has ``reset(agents, seed)``, that is called before each game.

    Args:
        make: makes one object.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._objects: list[Any] = []
        self._begun: dict[int, PlayerError] = {}

    def begin(self, spec: EnvironmentSpec, boards: int, owned: Bools, seeds: Sequence[int]) -> None:
        """See Player. A failure here is a forfeit at the first decision."""
        self._begun.clear()
        self._seats = [
            (index, group, row, agent)
            for index, group in enumerate(spec.groups)
            for row, agent in enumerate(group.agents)
        ]
        for board in range(boards):
            try:
                if board == len(self._objects):
                    self._objects.append(self._make())
                if hasattr(self._objects[board], "reset"):
                    agents = [seat[3] for seat, mine in zip(self._seats, owned[board], strict=True) if mine]
                    self._objects[board].reset(agents, seeds[board])
            except _PLAYERS_OWN as error:
                if board == len(self._objects):
                    self._objects.append(None)
                self._begun[board] = _fault(board, error, 0.0)

    def act(self, turn: Turn) -> list[PlayerError]:
        """See Player."""
        faults: list[PlayerError] = []
        for board, must in zip(turn.boards.tolist(), turn.must_act, strict=True):
            if board in self._begun:
                faults.append(self._begun[board])
                continue
            for column in np.flatnonzero(must).tolist():
                if fault := self._decide(turn, board, *self._seats[column]):
                    faults.append(fault)
                    break
        return faults

    def _decide(self, turn: Turn, board: int, index: int, group: GroupSpec, row: int, agent: str) -> PlayerError | None:
        step = turn.step.groups[group.name]
        observation = step.observations[board, row].numpy().copy()
        mask = None if step.action_masks is None else step.action_masks[board, row].numpy().copy()
        try:
            with time_limit(turn.move_seconds):
                answer = self._objects[board].act(agent, observation, mask)
                action = np.asarray(answer)
        except _PLAYERS_OWN as error:
            return _fault(board, error, turn.move_seconds)
        out = turn.actions[index][board, row]
        kinds = "fiu" if isinstance(group.action, ContinuousActions) else "iu"
        if action.shape != out.shape or action.dtype.kind not in kinds:
            detail = f"{agent} answered {' '.join(repr(answer).split())[:80]}, which is no action"
            return PlayerError(board=board, kind="illegal", detail=detail)
        turn.actions[index][board, row] = action
        return None
