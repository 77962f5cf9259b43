"""OpenSpiel's games as PettingZoo AEC environments, through Shimmy."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo.utils import BaseWrapper
from shimmy.openspiel_compatibility import OpenSpielCompatibilityV0

from marl.envs.pettingzoo.spaces import Array


def make_game(name: str, parameters: dict[str, Any] | None = None) -> Any:
    """An AEC environment of an OpenSpiel game.

    Shimmy shows the observation tensor, which in many games of imperfect information forgets what was played
    before (Leduc poker's holds the pot, not the betting). There agents are shown the information state instead,
    where the game has one: policies over it are what exploitability is defined for.

    Args:
        name: OpenSpiel's short name, such as ``kuhn_poker``.
        parameters: the game's parameters, such as ``{"players": 3}``.
    """
    import pyspiel

    environment = WholeGame(game_name=name, config=parameters or None)
    kind = environment.game_type
    if (
        kind.information == pyspiel.GameType.Information.IMPERFECT_INFORMATION
        and kind.provides_information_state_tensor
    ):
        return InformationState(environment)
    return environment


class WholeGame(OpenSpielCompatibilityV0):  # type: ignore[misc]  # Shimmy is not typed here
    """A game that is played to its end.

    Shimmy 2.0 truncates a game once its count of moves, deals included, exceeds OpenSpiel's longest game, deals not
    included: Kuhn poker after the first move. OpenSpiel's games end by themselves.
    """

    def _update_termination_truncation(self) -> None:
        self.game_length = 0
        super()._update_termination_truncation()


class InformationState(BaseWrapper):  # type: ignore[misc]  # PettingZoo is not typed here
    """Shows agents the information state tensor, float32."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        shape = tuple(env._env.information_state_tensor_shape())
        self._space = spaces.Box(-np.inf, np.inf, shape, np.float32)
        self._seen: dict[str, Array] = {}

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """The same for all agents."""
        return self._space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Begins an episode."""
        self._seen.clear()
        self.env.reset(seed=seed, options=options)

    def observe(self, agent: str) -> Array:
        """The agent's information state; in a game that has ended, the last one that was asked for."""
        state = self.env.game_state
        if state.is_terminal():
            return self._seen.get(agent, np.zeros(self._space.shape, np.float32))
        tensor = state.information_state_tensor(self.env.agent_name_id_mapping[agent])
        self._seen[agent] = np.asarray(tensor, np.float32).reshape(self._space.shape)
        return self._seen[agent]
