"""Numbers that environments report in the infos of an episode's last step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

_MOST_NAMES: Final = 64
"""Names that are read; an environment may put whole tables there."""


def numbers_in(infos: Any) -> dict[str, float]:
    """The finite numbers and truth values in agents' infos, each the mean over the agents that have it.

    Those in a dictionary within an info, such as ``{"episode_stats": {"kills": 2}}``, are called
    ``episode_stats/kills``.

    Args:
        infos: by agent, as PettingZoo gives them; whatever is something else is passed over.
    """
    found: dict[str, list[float]] = {}
    if isinstance(infos, Mapping):
        for info in infos.values():
            for name, value in _numbers(info, "", 2):
                if name in found or len(found) < _MOST_NAMES:
                    found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def _numbers(info: Any, prefix: str, depth: int) -> Iterator[tuple[str, float]]:
    if not isinstance(info, Mapping):
        return
    for key, value in info.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            if depth > 1:
                yield from _numbers(value, f"{name}/", depth - 1)
        elif isinstance(value, (bool, int, float, np.number, np.bool_)) or (
            isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "biuf"
        ):
            try:
                number = float(value)
            except (OverflowError, TypeError):  # a huge integer, or a complex number
                continue
            if math.isfinite(number):
                yield name, number
