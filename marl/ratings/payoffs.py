"""Results of games between pairs of players: games as arrays, and payoff tables of counts that add up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from marl.core import Communicator, Saveable, State
from marl.errors import InputError
from marl.types import Floats, Integers

LOSS: Final = 0
DRAW: Final = 1
WIN: Final = 2
"""Outcomes are twice the first seat's score, so they are exact integers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Games:
    """G two-sided games in arrays; a side is a player, or a whole team under one name."""

    players: tuple[str, ...]
    """Names of the P players; the arrays hold indices into it."""
    first: Integers
    """(G,) the player in the first seat."""
    second: Integers
    """(G,) the player in the second seat."""
    outcome: Integers
    """(G,) LOSS, DRAW or WIN of the first seat."""
    pair: Integers
    """(G,) a number that games of one seed (seats swapped) share: not independent, they are resampled together."""

    def __post_init__(self) -> None:
        if len(set(self.players)) != len(self.players):
            raise InputError(f"players need distinct names, not {', '.join(self.players)}")
        shapes = {array.shape for array in (self.first, self.second, self.outcome, self.pair)}
        if len(shapes) != 1 or self.first.ndim != 1:
            raise ValueError(f"first, second, outcome and pair must be one-dimensional and equally long, not {shapes}")
        _check_indices(self.first, self.second, len(self.players))
        if self.outcome.size and not 0 <= int(self.outcome.min()) <= int(self.outcome.max()) <= 2:
            raise ValueError("outcomes are 0 (loss of the first seat), 1 (draw) or 2 (win)")

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[str, str, float, int]], players: Sequence[str] | None = None) -> Games:
        """Games from (first player, second player, score of the first: 0, 0.5 or 1, pair) rows.

        Args:
            rows: one a game, in any order.
            players: all players; by default those that occur, sorted.

        Raises:
            InputError: a row names an unknown player, or a score is not 0, 0.5 or 1.
        """
        listed = list(rows)
        names = tuple(players) if players is not None else tuple(sorted({name for row in listed for name in row[:2]}))
        index = {name: i for i, name in enumerate(names)}
        for first, second, score, _ in listed:
            if unknown := [name for name in (first, second) if name not in index]:
                raise InputError(f"a game names {unknown[0]}, but the players are {', '.join(names)}")
            if score not in (0, 0.5, 1):
                raise InputError(f"the score of {first} against {second} is 0, 0.5 or 1, not {score}")
        return cls(
            players=names,
            first=np.array([index[row[0]] for row in listed], dtype=np.int64),
            second=np.array([index[row[1]] for row in listed], dtype=np.int64),
            outcome=np.array([round(2 * row[2]) for row in listed], dtype=np.int64),
            pair=np.array([row[3] for row in listed], dtype=np.int64),
        )

    def counts(self) -> Integers:
        """Number of games of each ordered pair of players by outcome: (P, P, 3), the last axis LOSS, DRAW, WIN."""
        size = len(self.players)
        counts = np.zeros((size, size, 3), dtype=np.int64)
        np.add.at(counts, (self.first, self.second, self.outcome), 1)
        return counts

    def pair_scores(self, player: str, opponent: str) -> Integers:
        """Twice ``player``'s score in each complete pair of games with ``opponent``: (N,) in 0..4, by pair number.

        A pair is complete when it holds one game from each seat; others are left out.
        """
        a, b = (_index(self.players, name) for name in (player, opponent))
        forth = (self.first == a) & (self.second == b)
        back = (self.first == b) & (self.second == a)
        scores_forth = dict(zip(self.pair[forth].tolist(), self.outcome[forth].tolist(), strict=True))
        scores_back = dict(zip(self.pair[back].tolist(), (2 - self.outcome[back]).tolist(), strict=True))
        complete = sorted(scores_forth.keys() & scores_back.keys())
        return np.array([scores_forth[pair] + scores_back[pair] for pair in complete], dtype=np.int64)


class PayoffTable(Saveable):
    """Counts of wins, draws and losses, and sums of returns, for every ordered pair of players.

    Tables over the same players add up, so each rank may count its own games and one all-reduce makes the
    table of all. The order of games does not matter, and counts stay exact.

    Attributes:
        counts: (P, P, 3) int64: entry [i, j] counts LOSS, DRAW and WIN of i in the first seat against j in the second.
        returns: (P, P, 2) float64: sums of the undiscounted returns of the first and of the second seat.
    """

    counts: Tensor
    returns: Tensor

    def __init__(self, players: Iterable[str] = ()) -> None:
        self._players: list[str] = []
        self.counts = torch.zeros(0, 0, 3, dtype=torch.int64)
        self.returns = torch.zeros(0, 0, 2, dtype=torch.float64)
        self.add_players(players)

    @property
    def players(self) -> tuple[str, ...]:
        """The P players in the order of the rows."""
        return tuple(self._players)

    def index(self, player: str) -> int:
        """Row of a player; raises InputError if there is none of that name."""
        return _index(self._players, player)

    def add_players(self, players: Iterable[str]) -> None:
        """Adds players without games; raises InputError where a name is taken."""
        for player in players:
            if player in self._players or "\n" in player or not player:
                raise InputError(f"player names are not empty, have one line and are used once: {player!r}")
            self._players.append(player)
        before, after = self.counts.shape[0], len(self._players)
        if after > before:
            counts, returns = self.counts, self.returns
            self.counts = torch.zeros(after, after, 3, dtype=torch.int64)
            self.returns = torch.zeros(after, after, 2, dtype=torch.float64)
            self.counts[:before, :before] = counts
            self.returns[:before, :before] = returns

    def add(self, first: Any, second: Any, outcome: Any, returns: Any = None) -> None:
        """Counts games.

        Args:
            first: (G,) or scalar integers: rows of the players in the first seat.
            second: the same for the second seat.
            outcome: LOSS, DRAW or WIN of the first seat, of the same shape.
            returns: (G, 2) returns of both seats; by default score and opposite, +1, 0 or -1 for the first seat.
        """
        rows, columns, outcomes = (np.atleast_1d(np.asarray(x, dtype=np.int64)) for x in (first, second, outcome))
        _check_indices(rows, columns, len(self._players))
        if not ((outcomes >= LOSS) & (outcomes <= WIN)).all():
            raise ValueError("outcomes are 0 (loss of the first seat), 1 (draw) or 2 (win)")
        if returns is None:
            returns = np.stack((outcomes - 1, 1 - outcomes), axis=-1)
        np.add.at(self.counts.numpy(), (rows, columns, outcomes), 1)
        np.add.at(self.returns.numpy(), (rows, columns), np.asarray(returns, dtype=np.float64).reshape(-1, 2))

    def all_reduce(self, communicator: Communicator) -> None:
        """Sums the tables of all ranks, in place. Collective; all hold the same players in the same order."""
        if not self._players:
            return
        # One float64 buffer, so one collective; counts below 2⁵³ stay exact in it.
        size = self.counts.numel()
        buffer = torch.cat((self.counts.flatten().to(torch.float64), self.returns.flatten()))
        communicator.all_reduce(buffer)
        self.counts = buffer[:size].round().to(torch.int64).view_as(self.counts)
        self.returns = buffer[size:].clone().view_as(self.returns)

    def clear(self) -> None:
        """Forgets all games and keeps the players."""
        self.counts.zero_()
        self.returns.zero_()

    def games(self) -> Integers:
        """Games between each two players, from both seats: (P, P), symmetric."""
        ordered = self.counts.sum(-1).numpy()
        games: Integers = ordered + ordered.T
        return games

    def win_rates(self, *, prior_games: float = 0.0) -> Floats:
        """Score of each player (row) against each other (column) a game, a draw counting half, both seats together.

        Args:
            prior_games: imaginary games added to each pairing, half of them won, so that few games say little.

        Returns:
            (P, P) float64 in [0, 1]; 0.5 where nothing was played and on the diagonal.
        """
        points = self.counts.numpy() @ np.array([0.0, 0.5, 1.0])
        games = self.counts.sum(-1).numpy().astype(np.float64)
        points = points + (games - points).T
        games = games + games.T
        rates: Floats = np.full(games.shape, 0.5)
        np.divide(points + prior_games / 2, games + prior_games, out=rates, where=games + prior_games > 0)
        np.fill_diagonal(rates, 0.5)
        return rates

    def mean_returns(self) -> tuple[Floats, Floats]:
        """Mean returns of the first and of the second seat: two of (P, P), zero where nothing was played."""
        games = np.maximum(self.counts.sum(-1).numpy(), 1)[..., None]
        means = self.returns.numpy() / games
        return means[..., 0].copy(), means[..., 1].copy()

    def antisymmetric_payoff(self) -> Floats:
        """Mean of (own return minus the opponent's) / 2 over both seats with equal weight: (P, P), antisymmetric.

        It is the payoff of the zero-sum game in which seats are drawn by lot, which Nash averaging takes. A seat
        in which a pairing was never played is left out.
        """
        played = self.counts.sum(-1).numpy() > 0
        own, other = self.mean_returns()
        advantage = (own - other) / 2
        seats = np.maximum(played.astype(np.float64) + played.T, 1.0)
        payoff: Floats = (advantage - advantage.T) / seats
        np.fill_diagonal(payoff, 0.0)
        return payoff

    def state_dict(self) -> State:
        """Names as UTF-8 bytes, counts and returns."""
        names = np.frombuffer("\n".join(self._players).encode(), dtype=np.uint8).copy()
        return {"players": torch.from_numpy(names), "counts": self.counts.clone(), "returns": self.returns.clone()}

    def load_state_dict(self, state: State) -> None:
        """Replaces players and games; raises ValueError if the shapes do not fit."""
        text = bytes(state["players"].to(torch.uint8).tolist()).decode()
        players = text.split("\n") if text else []
        size = len(players)
        if state["counts"].shape != (size, size, 3) or state["returns"].shape != (size, size, 2):
            raise ValueError(f"payoff table of {size} players has counts of shape {tuple(state['counts'].shape)}")
        self._players = players
        self.counts = state["counts"].to(torch.int64, copy=True).contiguous()
        self.returns = state["returns"].to(torch.float64, copy=True).contiguous()


def _check_indices(first: Integers, second: Integers, size: int) -> None:
    for side in (first, second):
        if side.size and not 0 <= int(side.min()) <= int(side.max()) < size:
            raise ValueError(f"player indices must be in [0, {size})")


def _index(players: Sequence[str], player: str) -> int:
    try:
        return players.index(player)
    except ValueError:
        raise InputError(f"there is no player called {player}; there are {', '.join(players)}") from None
