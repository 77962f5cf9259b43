"""Copies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any


class Copies(ABC):
    """E environments of one kind, and how they are stepped. A window is a contiguous range of copies."""

    @abstractmethod
    def reset(self, window: slice) -> None:
        """Begins a new episode in the copies of the window, and writes their rows."""

    @abstractmethod
    def step(self, window: slice, actions: Sequence[Sequence[Any]]) -> None:
        """Takes a step in the copies of the window, and writes their rows; actions are in the order of seats."""
