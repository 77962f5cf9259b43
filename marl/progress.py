"""Progress of work that takes long: a sign of life for whoever watches, and a line for people."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], object]
"""Told often what is being done, how much of it is done, and of how much, 0 where nobody knows; on each rank about its
own share."""


def unwatched(what: str, done: int, total: int) -> None:
    """Tells nobody."""
