"""Loop."""

from __future__ import annotations


def next_due(steps: int, every: int | None) -> int | None:
    """When what is done ``every`` so many steps is due next; None where it never is."""
    return None if every is None else after(steps, every)


def after(steps: int, every: int) -> int:
    """The first multiple of ``every`` behind ``steps``."""
    return (steps // every + 1) * every
