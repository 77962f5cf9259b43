"""Small OpenSpiel games as tensors: all histories, numbered, with what follows each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marl.errors import InputError

MAX_NODES: Final = 100_000
"""Histories up to which a game counts as small."""
CHANCE: Final = -1
TERMINAL: Final = -2


@dataclass(frozen=True, slots=True, kw_only=True)
class GameTree:
    """A sequential game of N histories for P players with K actions; history 0 is the beginning."""

    mover: Tensor
    """(N,) int64: the player that is to move, CHANCE or TERMINAL."""
    children: Tensor
    """(N, K) int64: the history after each action; -1 where it is illegal or nobody moves."""
    returns: Tensor
    """(N, P) float32: each player's returns so far."""
    information: Tensor
    """(N, P) int64: the row of ``observations`` that each player sees."""
    observations: Tensor
    """(I, D) float32: information state tensors; row 0 is all zeros, seen before one's first move."""
    chance: Tensor
    """(N,) int64: at chance's turns, the row of the two tables that follow; elsewhere 0."""
    thresholds: Tensor
    """(C, M) float32: probabilities added up, chance's moves in a row taken together; 2 beyond the last one."""
    outcomes: Tensor
    """(C, M) int64: the histories to which they lead, where chance is not to move."""

    @property
    def num_players(self) -> int:
        """P."""
        return self.returns.shape[1]

    @property
    def num_actions(self) -> int:
        """K."""
        return self.children.shape[1]


def read_tree(game: Any, *, max_nodes: int = MAX_NODES) -> GameTree:
    """Walks through an OpenSpiel game.

    Args:
        game: sequential, of imperfect information, with information state tensors.
        max_nodes: how many histories it may have.

    Raises:
        InputError: it is another kind of game, or larger.
    """
    import pyspiel

    kind = game.get_type()
    name = kind.short_name
    if (
        kind.dynamics != pyspiel.GameType.Dynamics.SEQUENTIAL
        or kind.information != pyspiel.GameType.Information.IMPERFECT_INFORMATION
        or kind.chance_mode == pyspiel.GameType.ChanceMode.SAMPLED_STOCHASTIC
        or not kind.provides_information_state_tensor
    ):
        raise InputError(
            f"openspiel/{name} has no batched version: there are those of games with turns and hidden cards whose "
            "information states OpenSpiel shows; use --backend pettingzoo"
        )
    players, actions = game.num_players(), game.num_distinct_actions()
    states = [game.new_initial_state()]
    mover: list[int] = []
    children: list[list[int]] = []
    chances: list[list[tuple[int, float]]] = []
    returns: list[list[float]] = []
    information: list[list[int]] = []
    blank = (0.0,) * int(np.prod(game.information_state_tensor_shape()))
    rows: dict[tuple[float, ...], int] = {blank: 0}
    # Histories are numbered in the order in which they are found, so children come after their parents.
    for node, state in enumerate(_growing(states)):
        following, odds, seen = [-1] * actions, list[tuple[int, float]](), [0] * players
        if state.is_terminal():
            mover.append(TERMINAL)
        elif state.is_chance_node():
            mover.append(CHANCE)
            for action, probability in state.chance_outcomes():
                odds.append((len(states), probability))
                states.append(state.child(action))
        else:
            mover.append(state.current_player())
            for player in range(players):
                tensor = tuple(state.information_state_tensor(player))
                seen[player] = rows.setdefault(tensor, len(rows))
            for action in state.legal_actions():
                following[action] = len(states)
                states.append(state.child(action))
        if len(states) > max_nodes:
            raise InputError(
                f"openspiel/{name} has no batched version: it has more than {max_nodes:,} histories; use "
                "--backend pettingzoo"
            )
        children.append(following)
        chances.append(odds)
        returns.append(list(state.returns()))
        information.append(seen)
        states[node] = None
    chance, thresholds, outcomes = _chances(mover, chances)
    return GameTree(
        mover=torch.tensor(mover),
        children=torch.tensor(children),
        returns=torch.tensor(returns, dtype=torch.float32),
        information=torch.tensor(information),
        observations=torch.tensor(list(rows), dtype=torch.float32),
        chance=chance,
        thresholds=thresholds,
        outcomes=outcomes,
    )


def _growing(items: list[Any]) -> Any:
    """The items of a list that grows meanwhile."""
    number = 0
    while number < len(items):
        yield items[number]
        number += 1


def _chances(mover: list[int], chances: list[list[tuple[int, float]]]) -> tuple[Tensor, Tensor, Tensor]:
    """The tables of chance: see GameTree."""
    settled: dict[int, list[tuple[int, float]]] = {}
    for node in reversed(range(len(mover))):
        if mover[node] == CHANCE:
            settled[node] = [
                (end, probability * share)
                for child, probability in chances[node]
                for end, share in settled.get(child, [(child, 1.0)])
            ]
    number = torch.zeros(len(mover), dtype=torch.int64)
    width = max((len(odds) for odds in settled.values()), default=1)
    thresholds = torch.full((max(1, len(settled)), width), 2.0)
    outcomes = torch.zeros((max(1, len(settled)), width), dtype=torch.int64)
    for row, (node, odds) in enumerate(sorted(settled.items())):
        number[node] = row
        sums: NDArray[np.float64] = np.cumsum([share for _, share in odds])
        thresholds[row, : len(odds)] = torch.from_numpy(sums)
        # Sums of rounded numbers may fall short of 1.
        thresholds[row, len(odds) - 1] = 2.0
        outcomes[row, : len(odds)] = torch.tensor([end for end, _ in odds])
    return number, thresholds, outcomes
