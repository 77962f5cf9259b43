"""Named tensors of nested parts: a part's name, a dot, and the name within the part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from marl.core import State


def flatten_state(parts: Mapping[str, Mapping[str, Any] | Tensor]) -> State:
    """Joins the states of parts, ``{"learner": {"policy.bias": …}}`` to ``{"learner.policy.bias": …}``, any depth.

    Raises:
        ValueError: a part's name has a dot or is empty, so that ``unflatten_state`` could not invert this.
    """
    state: State = {}
    for part, value in parts.items():
        if not part or "." in part:
            raise ValueError(f"a part's name is not empty and has no dot, unlike {part!r}")
        for name, tensor in _leaves(part, value):
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
        parts.setdefault(part, {})[rest] = tensor
    return parts


def _leaves(prefix: str, value: Mapping[str, Any] | Tensor) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield prefix, value
    else:
        for name, child in value.items():
            yield from _leaves(f"{prefix}.{name}", child)
