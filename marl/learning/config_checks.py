"""Checks of numbers in algorithms' configurations: refused in one line that names the option."""

from __future__ import annotations

import math
from typing import Any

from marl.errors import InputError


def option(field: str, section: str = "algorithm") -> str:
    """The command-line option of a field of a configuration: ``--algorithm.learning-rate``.

    Args:
        field: its name.
        section: where the command line has the configuration.
    """
    return f"--{section}.{field}".replace("_", "-")


def require_at_least(minimum: float, config: Any, *fields: str, section: str = "algorithm") -> None:
    """Raises InputError where a field is below the minimum or not a finite number; None passes."""
    for field in fields:
        value = getattr(config, field)
        if value is not None and not (math.isfinite(value) and value >= minimum):
            raise InputError(f"{option(field, section)} must be at least {minimum:g}, not {value}")


def require_above(limit: float, config: Any, *fields: str, section: str = "algorithm") -> None:
    """Raises InputError where a field is not above the limit or not a finite number; None passes."""
    for field in fields:
        value = getattr(config, field)
        if value is not None and not (math.isfinite(value) and value > limit):
            raise InputError(f"{option(field, section)} must be a number above {limit:g}, not {value}")


def require_unit_interval(config: Any, *fields: str, section: str = "algorithm") -> None:
    """Raises InputError where a field does not lie between 0 and 1; None is fine."""
    for field in fields:
        if (value := getattr(config, field)) is not None and not 0.0 <= value <= 1.0:
            raise InputError(f"{option(field, section)} lies between 0 and 1, unlike {value}")


def require_widths(config: Any, *fields: str, section: str = "algorithm") -> None:
    """Raises InputError where a field of layers' widths is empty or has one below 1."""
    for field in fields:
        widths = getattr(config, field)
        if not widths or min(widths) < 1:
            raise InputError(f"{option(field, section)} needs at least one width, each at least 1")
