"""Named tensors of nested parts: a part's name, a dot, and the name within the part.

Some parts are named after agents, whose names users choose: dots in them are written ``%2E``, percent signs ``%25``,
and an empty name ``%00``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from torch import Tensor

from marl.core import State

_ORIGINALS: Final = {"%25": "%", "%2E": ".", "%00": ""}
_ESCAPES: Final = re.compile("|".join(_ORIGINALS))


def flatten_state(parts: Mapping[str, Mapping[str, Any] | Tensor]) -> State:
    """Joins the states of parts, ``{"learner": {"policy.bias": …}}`` to ``{"learner.policy.bias": …}``, any depth.

    Raises:
        ValueError: two tensors would have one name.
    """
    state: State = {}
    for part, value in parts.items():
        for name, tensor in _leaves(_escaped(part), value):
            if name in state:
                raise ValueError(f"two tensors are called {name}")
            state[name] = tensor
    return state


def unflatten_state(state: Mapping[str, Tensor]) -> dict[str, State]:
    """Splits names at their first dot: the states of the parts, without those that have no tensors.

    Raises:
        ValueError: a name without a dot.
    """
    parts: dict[str, State] = {}
    for name, tensor in state.items():
        part, dot, rest = name.partition(".")
        if not dot:
            raise ValueError(f"{name!r} has no part: a name is PART.REST")
        parts.setdefault(_ESCAPES.sub(lambda found: _ORIGINALS[found[0]], part), {})[rest] = tensor
    return parts


def _leaves(prefix: str, value: Mapping[str, Any] | Tensor) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield prefix, value
    else:
        for name, child in value.items():
            yield from _leaves(f"{prefix}.{name if isinstance(child, Tensor) else _escaped(name)}", child)


def _escaped(part: str) -> str:
    return part.replace("%", "%25").replace(".", "%2E") or "%00"
