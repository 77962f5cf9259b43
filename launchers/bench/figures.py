"""A figure of speed and its reference, as ``marl bench`` prints them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

Figure = dict[str, Any]


def figure(name: str, values: Sequence[float], references: Sequence[float], unit: str) -> Figure:
    """Medians of what was measured in turns, and the median of their ratios.

    Args:
        name: what was measured.
        values: of each turn.
        references: of the same turns, as many.
        unit: of both.

    Returns:
        ``name, value, unit, reference, ratio``.
    """
    ratios = [value / reference for value, reference in zip(values, references, strict=True)]
    return {
        "name": name,
        "value": statistics.median(values),
        "unit": unit,
        "reference": statistics.median(references),
        "ratio": statistics.median(ratios),
    }
