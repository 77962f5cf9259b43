"""Schedules: numbers that change with the environment steps of the whole experiment."""

from __future__ import annotations

import math
from dataclasses import dataclass

from marl.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSchedule:
    """From one number to another in a straight line, then constant.

    Args:
        initial: the number at step 0.
        final: the number from step ``steps`` on.
        steps: environment steps over all copies and ranks; 0 for the final number at once.

    Raises:
        InputError: steps are negative, or a number is not finite.
    """

    initial: float
    final: float
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"a schedule takes at least 0 steps, not {self.steps}")
        if not (math.isfinite(self.initial) and math.isfinite(self.final)):
            raise InputError(f"a schedule goes between finite numbers, not from {self.initial} to {self.final}")

    def __call__(self, step: int) -> float:
        """The number at this step."""
        if step >= self.steps:
            return self.final
        return self.initial + (self.final - self.initial) * max(0, step) / self.steps
