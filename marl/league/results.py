"""A learner's results, until its league counts them."""

from __future__ import annotations

import torch
from torch import Tensor

from marl.core import Communicator
from marl.ratings.payoffs import WIN
from marl.self_play.opponents import LEARNER


class LeagueResults:
    """A learner's games since they were last drained: counts and returns by opponent and seat.

    Attributes:
        counts: (2, P, 3) int64: seat 0 counts LOSS, DRAW and WIN of the learner sitting before the opponent; seat 1
            those of the opponent sitting before the learner, as a PayoffTable's columns do.
        returns: (2, P, 2) float64: sums of returns of the first and the second of the two.
        sides: (S, 2) float64: games and points (a draw is half) of the learner on each side of the game.
    """

    def __init__(self, num_players: int, num_sides: int) -> None:
        self.counts = torch.zeros(2, num_players, 3, dtype=torch.int64)
        self.returns = torch.zeros(2, num_players, 2, dtype=torch.float64)
        self.sides = torch.zeros(num_sides, 2, dtype=torch.float64)

    def add(self, players: Tensor, returns: Tensor) -> None:
        """Counts K games, each as one between the learner and every other player in it.

        Args:
            players: (K, S); games in which LEARNER sits on no side, or on all, count for nothing.
            returns: (K, S) of the sides.
        """
        own = players == LEARNER
        counted = own.any(1) & ~own.all(1)
        num_players = self.counts.shape[1]
        for mine in range(players.shape[1]):
            for other in range(players.shape[1]):
                rows = counted & own[:, mine] & (players[:, other] >= 0)
                if mine == other or not bool(rows.any()):
                    continue
                pair = torch.stack((returns[rows, mine], returns[rows, other]), dim=1)
                points = 1 + (pair[:, 0] - pair[:, 1]).sign().long()
                self.sides[mine, 0] += len(pair)
                self.sides[mine, 1] += float(points.sum()) / 2
                seat = int(mine > other)
                if seat:
                    pair, points = pair.flip(1), WIN - points
                who = players[rows, other]
                cells = who * 3 + points
                self.counts[seat] += torch.bincount(cells, minlength=num_players * 3).view(-1, 3)
                self.returns[seat].index_add_(0, who, pair.to(torch.float64))

    def drain(self, communicator: Communicator) -> LeagueResults:
        """Returns the sum over ranks, and resets all counts to zero. Collective."""
        total = LeagueResults(self.counts.shape[1], len(self.sides))
        parts = [self.counts.to(torch.float64), self.returns, self.sides]
        buffer = torch.cat([part.flatten() for part in parts])
        communicator.all_reduce(buffer)
        counts, returns, sides = buffer.split([part.numel() for part in parts])
        total.counts = counts.round().to(torch.int64).view_as(self.counts)
        total.returns = returns.view_as(self.returns).clone()
        total.sides = sides.view_as(self.sides).clone()
        for tensor in (self.counts, self.returns, self.sides):
            tensor.zero_()
        return total

    def resize(self, num_players: int) -> None:
        """Makes room for players that have joined; to be called when there are no games in it."""
        if num_players == self.counts.shape[1]:
            return
        self.counts = torch.zeros(2, num_players, 3, dtype=torch.int64)
        self.returns = torch.zeros(2, num_players, 2, dtype=torch.float64)
