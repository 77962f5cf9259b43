"""Outcomes of episodes in which sides oppose each other: wins, draws and losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from marl.acting.metric_names import agent_label

_TOLERANCE: Final = 1e-6
"""Difference of returns, relative to the greatest, below which they are equal: sums of floats come in any order."""


def are_opposed(returns: Tensor) -> bool | None:
    """Returns whether what one side gains, the others lose, as far as these episodes show.

    Args:
        returns: (N, S) of the sides.

    Returns:
        True where the sides' returns differ and add up to zero in all episodes, or to another constant while they
        change; False where they add up to different sums; None where every episode gave all sides the same.
    """
    if not len(returns):
        return None
    tolerance = _TOLERANCE * max(1.0, float(returns.abs().max()))
    totals = returns.sum(1)
    if float((totals - totals[0]).abs().max()) > tolerance:
        return False
    if float(totals.abs().max()) <= tolerance:
        return True if float(returns.abs().max()) > tolerance else None
    return True if float((returns - returns[0]).abs().max()) > tolerance else None


def points_of(returns: Tensor) -> Tensor:
    """(N, S) float64: 1 for the only side of the highest return, 0.5 for one of several, 0 for the others."""
    tolerance = _TOLERANCE * returns.abs().amax(1, keepdim=True).clamp_min(1.0)
    best = returns >= returns.amax(1, keepdim=True) - tolerance
    return best.double() / best.sum(1, keepdim=True).clamp_max(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Wins, draws and losses by the side that was played."""

    sides: tuple[str, ...]
    """Names of the S sides."""
    returns: Tensor
    """(N, S) float64, returns of the sides."""
    played: Tensor | None = None
    """(N,) int64, the side that the policies played, against others; None where they played all."""

    def summary(self, prefix: str) -> dict[str, float]:
        """Rates of wins, draws and losses, and mean returns where others played too, from each side that was played."""
        points = points_of(self.returns)
        metrics: dict[str, float] = {}
        own: list[Tensor] = []
        for number, name in enumerate(self.sides):
            rows = torch.ones(len(points), dtype=torch.bool) if self.played is None else self.played == number
            mine = points[rows, number]
            if not len(mine):
                continue
            own.append(mine)
            label = agent_label(name)
            if self.played is not None:
                metrics[f"{prefix}return/{label}"] = float(self.returns[rows, number].mean())
            metrics[f"{prefix}win_rate/{label}"] = float((mine == 1.0).double().mean())
            metrics[f"{prefix}draw_rate/{label}"] = float((mine == 0.5).double().mean())
            metrics[f"{prefix}loss_rate/{label}"] = float((mine == 0.0).double().mean())
        if self.played is not None and own:
            metrics[f"{prefix}score"] = float(torch.cat(own).mean())
            metrics[f"{prefix}games"] = len(points)
        return metrics
