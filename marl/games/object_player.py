"""A player made of objects of a user's own class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, final

import numpy as np

from marl.games.player import DecisionRequest, Player, PlayerError, call_player
from marl.specs import ContinuousActions, EnvironmentSpec, GroupSpec
from marl.types import Array, Bools


@final
class ObjectPlayer(Player):
    """Plays by objects of a user's own class, one a game, asked agent by agent.

    An object has ``act(agent, observation, action_mask)``: it is given the array that networks read, and the legal
    actions as an array of bool or None, and returns an action as ``marl.specs`` describes them (a choice, counted
    from 0; choices; or numbers from -1 to 1). If it has ``reset(agents, seed)``, that is called before each game.

    Args:
        make: makes one object.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._objects: dict[int, Any] = {}
        self._failed: dict[int, PlayerError] = {}
        """Games whose object could not be made or reset; they are forfeited at the first decision."""

    def begin(self, spec: EnvironmentSpec, num_games: int, owned: Bools, seeds: Sequence[int]) -> None:
        self._failed.clear()
        self._seats = [
            (index, group, row, agent)
            for index, group in enumerate(spec.groups)
            for row, agent in enumerate(group.agents)
        ]
        for game in range(num_games):
            agents = [seat[3] for seat, mine in zip(self._seats, owned[game], strict=True) if mine]
            error = call_player(partial(self._begin_game, game, agents, seeds[game]), game, 0.0)
            if error is not None:
                self._failed[game] = error

    def _begin_game(self, game: int, agents: list[str], seed: int) -> None:
        if game not in self._objects:
            self._objects[game] = self._make()
        if hasattr(self._objects[game], "reset"):
            self._objects[game].reset(agents, seed)

    def act(self, request: DecisionRequest) -> list[PlayerError]:
        errors: list[PlayerError] = []
        for game, must in zip(request.games.tolist(), request.must_act, strict=True):
            if game in self._failed:
                errors.append(self._failed[game])
                continue
            for column in np.flatnonzero(must).tolist():
                if error := self._decide(request, game, *self._seats[column]):
                    errors.append(error)
                    break
        return errors

    def _decide(
        self, request: DecisionRequest, game: int, index: int, group: GroupSpec, row: int, agent: str
    ) -> PlayerError | None:
        step = request.step.groups[group.name]
        observation = step.observations[game, row].numpy().copy()
        mask = None if step.action_masks is None else step.action_masks[game, row].numpy().copy()

        def decide() -> tuple[Any, Array]:
            answer = self._objects[game].act(agent, observation, mask)
            return answer, np.asarray(answer)

        decided = call_player(decide, game, request.move_seconds)
        if isinstance(decided, PlayerError):
            return decided
        answer, action = decided
        out = request.actions[index][game, row]
        kinds = "fiu" if isinstance(group.action, ContinuousActions) else "iu"
        if action.shape != out.shape or action.dtype.kind not in kinds:
            detail = f"{agent} answered {' '.join(repr(answer).split())[:80]}, which is no action"
            return PlayerError(game=game, kind="illegal", detail=detail)
        request.actions[index][game, row] = action
        return None
