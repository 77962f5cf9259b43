"""OpenSpiel's games as PettingZoo AEC environments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv

from marl.envs.openspiel.games import load
from marl.envs.pettingzoo.spaces import Array

_SEED: Final = "rng_seed"
"""The parameter of games that draw chance's outcomes themselves."""


def make_game(name: str, parameters: Mapping[str, Any] | None = None) -> OpenSpielGame:
    """An AEC environment of an OpenSpiel game; see ``OpenSpielGame``.

    Args:
        name: OpenSpiel's short name, such as ``kuhn_poker``.
        parameters: the game's parameters, such as ``{"players": 3}``.

    Raises:
        InputError: there are no such parameters, or agents cannot learn in such a game; see ``load``.
    """
    return OpenSpielGame(name, parameters)


class OpenSpielGame(AECEnv):  # type: ignore[misc]  # PettingZoo is not typed here
    """One OpenSpiel game, played to its end.

    Agents are ``player_0`` and so on. They are shown the observation tensor, which in many games of imperfect
    information forgets what was played before (Leduc poker's holds the pot, not the betting). There they are shown the
    information state instead, where the game has one: policies over it are what exploitability is defined for. Masks of
    legal actions are in ``infos``. Where players move at once, they are asked one after the other, and see nothing of
    each other's choices; those that have none are left out. What a move changes in OpenSpiel's returns is its reward,
    so an episode's rewards sum to ``state.returns()``. Deals and the like follow from the seed of the reset.

    Args:
        name: OpenSpiel's short name.
        parameters: the game's parameters.

    Raises:
        InputError: see ``load``.
    """

    def __init__(self, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.metadata = {"name": name, "render_modes": ["ansi"], "is_parallelizable": False}
        self.render_mode = "ansi"
        self._name, self._parameters = name, dict(parameters or {})
        self.game = load(name, self._parameters)
        kind = self.game.get_type()
        players = range(self.game.num_players())
        self.possible_agents = [f"player_{player}" for player in players]
        self.agents: list[str] = []
        self._number = {agent: player for player, agent in enumerate(self.possible_agents)}
        hidden = kind.information == type(kind.information).IMPERFECT_INFORMATION
        self._shows_information = kind.provides_information_state_tensor and (
            hidden or not kind.provides_observation_tensor
        )
        shape = (
            self.game.information_state_tensor_shape if self._shows_information else self.game.observation_tensor_shape
        )
        self._observation_space = spaces.Box(-np.inf, np.inf, tuple(shape()), np.float32)
        self._action_spaces = {
            agent: spaces.Discrete(self.game.num_distinct_actions()) for agent in self.possible_agents
        }
        self._reseeds = _SEED in kind.parameter_specification and _SEED not in self._parameters
        self._random = np.random.default_rng()

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """The same for all agents."""
        return self._observation_space

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """All of the game's actions, legal or not."""
        return self._action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Begins an episode."""
        self._random = np.random.default_rng(seed)
        if self._reseeds:
            self.game = load(self._name, {**self._parameters, _SEED: int(self._random.integers(2**31))})
        self.game_state = self.game.new_initial_state()
        self.agents = self.possible_agents[:]
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        self._returns = [0.0] * len(self.agents)
        self._joint: dict[int, int] = {}
        self._legal: list[int] = []
        self._seen: dict[str, Array] = {}
        self._go_on()

    def step(self, action: int | None) -> None:
        """Takes the choice of the agent that is to move.

        Raises:
            ValueError: it is not legal.
        """
        agent = self.agent_selection
        if self.terminations[agent]:
            self._was_dead_step(action)
            return
        state = self.game_state
        if action is None or int(action) not in self._legal:
            raise ValueError(f"{agent} chose {action}, which is not legal; see the action_mask in its info")
        self._cumulative_rewards[agent] = 0.0
        self._clear_rewards()
        if state.is_simultaneous_node():
            self._joint[self._number[agent]] = int(action)
        else:
            state.apply_action(int(action))
        self._go_on()
        self._accumulate_rewards()

    def observe(self, agent: str) -> Array:
        """The agent's tensor, float32; in a game that has ended, the last one that was asked for."""
        state = self.game_state
        if state.is_terminal():
            return self._seen.get(agent, np.zeros(self._observation_space.shape, np.float32))
        tensor = state.information_state_tensor if self._shows_information else state.observation_tensor
        seen = np.asarray(tensor(self._number[agent]), np.float32).reshape(self._observation_space.shape)
        self._seen[agent] = seen
        return seen

    def render(self) -> str:
        """The game as text, as the player that is to move sees it; all of it where nothing is hidden, or at the end."""
        state, kind = self.game_state, self.game.get_type()
        player = self._number[self.agent_selection]
        if not state.is_terminal() and kind.information != type(kind.information).PERFECT_INFORMATION:
            if kind.provides_observation_string:
                return str(state.observation_string(player))
            if kind.provides_information_state_string:
                return str(state.information_state_string(player))
        # Of players that move at once, nobody's choice is in the state before all have chosen.
        return str(state)

    def close(self) -> None:
        """Does nothing: there is no window."""

    def _go_on(self) -> None:
        """Plays on to where an agent has to choose, or to the end."""
        state = self.game_state
        while not state.is_terminal():
            if state.is_chance_node():
                self._let_chance_move()
                continue
            if not state.is_simultaneous_node():
                self._ask(state.current_player())
                break
            left = [p for p in range(len(self.possible_agents)) if p not in self._joint and state.legal_actions(p)]
            if left:
                self._ask(left[0])
                break
            # OpenSpiel takes any number from those that have nothing to choose.
            state.apply_actions([self._joint.get(player, 0) for player in range(len(self.possible_agents))])
            self._joint.clear()
        if not self._joint:
            returns = state.returns()
            for agent, after, before in zip(self.possible_agents, returns, self._returns, strict=True):
                self.rewards[agent] = after - before
            self._returns = returns
        if state.is_terminal():
            self.terminations = dict.fromkeys(self.agents, True)
            self.agent_selection = self.agents[0]

    def _let_chance_move(self) -> None:
        outcomes, chances = zip(*self.game_state.chance_outcomes(), strict=True)
        weights = np.asarray(chances, np.float64)
        self.game_state.apply_action(int(self._random.choice(outcomes, p=weights / weights.sum())))

    def _ask(self, player: int) -> None:
        """Makes a player the one that is to move."""
        self.agent_selection = self.possible_agents[player]
        self._legal = self.game_state.legal_actions(player)
        mask = np.zeros(self._action_spaces[self.agent_selection].n, np.int8)
        mask[self._legal] = 1
        self.infos[self.agent_selection] = {"action_mask": mask}
