"""Small games with known answers, as PettingZoo Parallel environments.

Rewards: in team games each of the n agents receives payoff / n, so that an episode's return summed over agents is
the payoff that papers print. In the others each agent receives its own payoff.

============================  =======================================================================================
``two_step``                  best 8; 7 for a sum of the agents' utilities (Rashid et al. 2018, "QMIX", section 5)
``climbing``                  best 11 a step (Claus and Boutilier 1998, "The dynamics of reinforcement learning in
                              cooperative multiagent systems"); 275 in 25 steps, published learners 175
``penalty``                   best 10 a step, safe 2 (the same); 250 in 25 steps, published learners 50
``qtran``                     best 8, not monotonic (Son et al. 2019, "QTRAN", table 1a)
``rock_paper_scissors``       value 0, equilibrium (1/3, 1/3, 1/3)
``prisoners_dilemma``         one equilibrium: both defect
============================  =======================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import ArrayLike, NDArray
from pettingzoo import ParallelEnv

from marl.errors import InputError

Observe = Literal["state", "constant"]
Vector = NDArray[np.float32]

_END: Final = -1


class MatrixGame(ParallelEnv):  # type: ignore[misc]  # PettingZoo is untyped
    """Agents choose at once, a table says what each receives and which stage comes next.

    Args:
        name: the environment's name.
        payoffs: (S, n, K1, ..., Kn) what each of n agents receives in stage s for a joint action.
        stages: (S, K1, ..., Kn) the next stage, -1 where the episode ends; the default is that a game of one stage
            is repeated.
        steps: joint actions after which the game is over (terminated, not truncated: this is part of the game).
        observe: ``state`` shows agents the stage, and the last joint action if it is remembered; ``constant``
            shows them nothing, a single 1. ``state()`` is the same either way.
        remember_actions: whether the last joint action is a part of the state.
    """

    def __init__(
        self,
        name: str,
        payoffs: ArrayLike,
        *,
        stages: ArrayLike | None = None,
        steps: int = 1,
        observe: Observe = "state",
        remember_actions: bool = False,
    ) -> None:
        self._payoffs = np.asarray(payoffs, np.float64)
        num_stages, num_agents, *choices = self._payoffs.shape
        if len(choices) != num_agents:
            raise ValueError(f"payoffs for {num_agents} agents have {len(choices)} action dimensions")
        self._stages = np.zeros((num_stages, *choices), np.int64) if stages is None else np.asarray(stages, np.int64)
        if self._stages.shape != (num_stages, *choices) or self._stages.max() >= num_stages:
            raise ValueError("stages do not fit the payoffs")
        if steps < 1:
            raise InputError(f"a game has at least 1 step, not {steps}")
        if observe not in ("state", "constant"):
            raise InputError(f"observe is state or constant, not {observe!r}")
        self.metadata = {"name": name, "render_modes": [], "is_parallelizable": True}
        self.render_mode = None
        self.possible_agents = [f"agent_{i}" for i in range(num_agents)]
        self.agents: list[str] = []
        self._choices, self._steps, self._observe, self._remember = choices, steps, observe, remember_actions
        size = num_stages + (sum(choices) if remember_actions else 0)
        self.state_space = Box(0.0, 1.0, (size,), np.float32)
        shown = self.state_space if observe == "state" else Box(0.0, 1.0, (1,), np.float32)
        self.observation_spaces = {agent: Box(0.0, 1.0, shown.shape, np.float32) for agent in self.possible_agents}
        self.action_spaces = {
            agent: Discrete(count) for agent, count in zip(self.possible_agents, choices, strict=True)
        }
        self._stage, self._time, self._last = 0, 0, np.full(num_agents, -1)

    @property
    def payoffs(self) -> NDArray[np.float64]:
        """(S, n, K1, ..., Kn): what each agent receives."""
        return self._payoffs

    def observation_space(self, agent: str) -> Box:
        """The agent's observations."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Discrete:
        """The agent's choices."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Vector], dict[str, dict[str, Any]]]:
        """Begins in stage 0; there is no chance in these games."""
        self.agents = list(self.possible_agents)
        self._stage, self._time = 0, 0
        self._last = np.full(len(self.agents), -1)
        return self._observations(), {agent: {} for agent in self.agents}

    def step(
        self, actions: Mapping[str, int]
    ) -> tuple[dict[str, Vector], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Pays for the joint action and goes to the next stage."""
        agents = self.agents
        joint = tuple(int(actions[agent]) for agent in agents)
        received = [float(table[joint]) for table in self._payoffs[self._stage]]
        following = int(self._stages[self._stage][joint])
        self._time += 1
        over = following == _END or self._time >= self._steps
        self._last = np.array(joint)
        # The last observation shows the stage in which the game ended.
        self._stage = self._stage if following == _END else following
        observations = self._observations()
        rewards = dict(zip(agents, received, strict=True))
        self.agents = [] if over else agents
        return (
            observations,
            rewards,
            dict.fromkeys(agents, over),
            dict.fromkeys(agents, False),
            {agent: {} for agent in agents},
        )

    def state(self) -> Vector:
        """(S [+ K1 + ... + Kn],) float32: one-hot stage, and one-hot last actions if remembered (zero at first)."""
        stage = np.zeros(len(self._payoffs), np.float32)
        stage[self._stage] = 1.0
        if not self._remember:
            return stage
        last = [(np.arange(count) == action) for count, action in zip(self._choices, self._last, strict=True)]
        return np.concatenate((stage, *last)).astype(np.float32)

    def render(self) -> None:
        """These games have nothing to show."""

    def close(self) -> None:
        """Nothing is held."""

    def _observations(self) -> dict[str, Vector]:
        shown = self.state() if self._observe == "state" else np.ones(1, np.float32)
        return {agent: shown.copy() for agent in self.possible_agents}


def _shared(payoffs: ArrayLike, num_agents: int) -> NDArray[np.float64]:
    """Every agent's share of a team's payoffs: (S, K1, ..., Kn) to (S, n, K1, ..., Kn)."""
    team = np.asarray(payoffs, np.float64)
    return np.repeat(team[:, None] / num_agents, num_agents, axis=1)


def two_step(*, observe: Observe = "state") -> MatrixGame:
    """The two-step game: the first agent's first action chooses between two games (Rashid et al. 2018, table 1).

    In game 2A everything pays 7; in game 2B the payoffs are ((0, 1), (1, 8)).
    """
    nothing, game_a, game_b = np.zeros((2, 2)), np.full((2, 2), 7.0), np.array(((0.0, 1.0), (1.0, 8.0)))
    end = np.full((2, 2), _END)
    return MatrixGame(
        "two_step",
        _shared((nothing, game_a, game_b), 2),
        stages=(np.array(((1, 1), (2, 2))), end, end),
        steps=2,
        observe=observe,
    )


def _team_game(
    name: str, payoffs: Sequence[Sequence[float]], steps: int, observe: Observe, remember_actions: bool
) -> MatrixGame:
    return MatrixGame(name, _shared((payoffs,), 2), steps=steps, observe=observe, remember_actions=remember_actions)


def climbing(*, steps: int = 25, observe: Observe = "state", remember_actions: bool = False) -> MatrixGame:
    """The climbing game (Claus and Boutilier 1998): the way to the best pair, (0, 0), leads past -30."""
    payoffs = ((11.0, -30.0, 0.0), (-30.0, 7.0, 6.0), (0.0, 0.0, 5.0))
    return _team_game("climbing", payoffs, steps, observe, remember_actions)


def penalty(
    *, k: float = -100.0, steps: int = 25, observe: Observe = "state", remember_actions: bool = False
) -> MatrixGame:
    """The penalty game (Claus and Boutilier 1998): two best pairs, and ``k`` ≤ 0 for mixing them up."""
    if k > 0:
        raise InputError(f"the penalty k must be at most 0, not {k}")
    payoffs = ((k, 0.0, 10.0), (0.0, 2.0, 0.0), (10.0, 0.0, k))
    return _team_game("penalty", payoffs, steps, observe, remember_actions)


def qtran(*, steps: int = 1, observe: Observe = "state", remember_actions: bool = False) -> MatrixGame:
    """The 3×3 game of Son et al. 2019, table 1a: only (0, 0) pays, and either agent alone in it is punished."""
    payoffs = ((8.0, -12.0, -12.0), (-12.0, 0.0, 0.0), (-12.0, 0.0, 0.0))
    return _team_game("qtran", payoffs, steps, observe, remember_actions)


def rock_paper_scissors(*, steps: int = 1, observe: Observe = "state", remember_actions: bool = False) -> MatrixGame:
    """Rock (0), paper (1), scissors (2): 1 for the winner, -1 for the loser."""
    first = np.array(((0.0, -1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 1.0, 0.0)))
    return MatrixGame(
        "rock_paper_scissors",
        np.stack((first, -first))[None],
        steps=steps,
        observe=observe,
        remember_actions=remember_actions,
    )


def prisoners_dilemma(
    *,
    temptation: float = 5.0,
    reward: float = 3.0,
    punishment: float = 1.0,
    sucker: float = 0.0,
    steps: int = 1,
    observe: Observe = "state",
    remember_actions: bool = False,
) -> MatrixGame:
    """Cooperate (0) or defect (1), by default with the payoffs of Axelrod 1984, "The evolution of cooperation".

    Raises:
        InputError: the payoffs are not a dilemma: temptation > reward > punishment > sucker.
    """
    if not temptation > reward > punishment > sucker:
        raise InputError("a prisoner's dilemma needs temptation > reward > punishment > sucker")
    first = np.array(((reward, sucker), (temptation, punishment)))
    return MatrixGame(
        "prisoners_dilemma",
        np.stack((first, first.T))[None],
        steps=steps,
        observe=observe,
        remember_actions=remember_actions,
    )
