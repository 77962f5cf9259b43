"""Schedules: numbers that change with the environment steps of the whole experiment."""

from __future__ import annotations

import math
from dataclasses import dataclass

from marl.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSchedule:
    """A linear change from one number to another, then constant.

    Args:
        start: the number at step 0.
        end: the number from step ``steps`` on.
        steps: environment steps over all copies and ranks; 0 for the last number at once.

    Raises:
        InputError: steps are negative, or a number is not finite.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"a schedule takes at least 0 steps, not {self.steps}")
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise InputError(f"a schedule goes between finite numbers, not from {self.start} to {self.end}")

    def __call__(self, step: int) -> float:
        """The number at this step."""
        if step >= self.steps:
            return self.end
        return self.start + (self.end - self.start) * max(0, step) / self.steps
