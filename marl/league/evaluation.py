"""Evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from marl.acting.evaluation import Evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class GameEvaluation(Evaluation):
    """Games of one player, greedy, against random opponents; complete on all ranks."""

    names: tuple[str, ...]
    """Of the S sides."""
    sides: Tensor
    """(N,) int64: on which side the player sat."""
    points: Tensor
    """(N,) float64: 1 for a win, 0.5 for a draw; the mean over opponents where there are several."""

    def summary(self) -> dict[str, float]:
        """Mean return of the player's side with its 95 % interval, and points a game from each side."""
        figures = super(GameEvaluation, self).summary()
        for number, name in enumerate(self.names):
            points = self.points[self.sides == number]
            if len(points):
                figures[f"evaluation/score/{name}"] = float(points.mean())
                figures[f"evaluation/losses/{name}"] = float((points < 0.5).sum())
        return figures | {"evaluation/score": float(self.points.mean())}
