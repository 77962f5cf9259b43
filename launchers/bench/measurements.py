"""A measurement of speed and its reference, as ``marl bench`` prints them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TypedDict


class Measurement(TypedDict):
    """A measured value beside a reference from the same run."""

    name: str
    value: float
    unit: str
    reference: float
    ratio: float


def compare(name: str, values: Sequence[float], references: Sequence[float], unit: str) -> Measurement:
    """Takes medians of a value and its reference, which were measured in turns, and of their ratios.

    Args:
        name: the measured quantity.
        values: one for each turn.
        references: one for each turn.
        unit: of both.
    """
    ratios = [value / reference for value, reference in zip(values, references, strict=True)]
    return Measurement(
        name=name,
        value=statistics.median(values),
        unit=unit,
        reference=statistics.median(references),
        ratio=statistics.median(ratios),
    )
