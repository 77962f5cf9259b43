"""Observations of an environment held against its spaces, for ``marl doctor``: all that ``Space.contains`` refuses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from marl.acting.random_actions import RandomActions
from marl.core import EnvironmentRequest
from marl.envs.encodings import OutsideSpaceError, show
from marl.envs.factory import vectorize
from marl.envs.pettingzoo.spaces import observation_reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Stray:
    """An observation that is not in its agent's space."""

    agent: str
    message: str
    readable: bool
    """Whether it is read as it is all the same, as numbers beyond the bounds of a Box are."""


def find_strays(make: Callable[[], Any], *, steps: int) -> list[Stray]:
    """Plays random actions and looks at every observation; finds at most one of each kind for each agent.

    Args:
        make: makes a PettingZoo environment.
        steps: of one copy.
    """
    found: dict[tuple[str, str], Stray] = {}

    def note(environment: Any, agent: str, raw: Any) -> None:
        space = environment.observation_space(agent)
        for kind, stray in _strays(space, raw, agent):
            found.setdefault((agent, kind), stray)

    def watched() -> Any:
        environment = make()
        _watch(environment, functools.partial(note, environment))
        return environment

    try:
        played = vectorize(watched)(EnvironmentRequest(num_envs=1, with_state=False))
        choose = RandomActions(played.spec, num_envs=1)
        timestep = played.reset()
        for _ in range(steps):
            timestep = played.step(choose(timestep))
        played.close()
    except Exception:
        # Told by the checks whose business it is; what was seen before counts.
        return list(found.values())
    return list(found.values())


def _watch(environment: Any, note: Callable[[str, Any], None]) -> None:
    """Has every observation that the environment gives noted; its own methods and class stay."""
    if hasattr(environment, "agent_selection") or hasattr(type(environment), "last"):
        observe = environment.observe

        def noted_observe(agent: str) -> Any:
            raw = observe(agent)
            # What the dead see is as it may be.
            if agent in environment.agents and raw is not None:
                note(agent, raw)
            return raw

        environment.observe = noted_observe
        return

    def noted(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            observations = result[0] if isinstance(result, tuple) and result else None
            if isinstance(observations, Mapping):
                for agent, raw in observations.items():
                    note(agent, raw)
            return result

        return call

    environment.reset = noted(environment.reset)
    environment.step = noted(environment.step)


def _strays(space: spaces.Space[Any], raw: Any, agent: str) -> Iterator[tuple[str, Stray]]:
    if space.contains(raw):
        return
    try:
        observation_reader(space, agent).read(raw)
    except OutsideSpaceError as error:
        yield "unreadable", Stray(agent=agent, message=error.reason, readable=False)
        return
    except Exception as error:
        reason = f"{show(raw)} cannot be read as {show(space)} ({type(error).__name__}: {show(error)})"
        yield "unreadable", Stray(agent=agent, message=reason, readable=False)
        return
    for where, part, value in _leaves(space, raw, ""):
        if not part.contains(value):
            kind, reason = _describe(part, value)
            yield f"{where} {kind}", Stray(agent=agent, message=f"{where}{reason}", readable=True)


def _leaves(space: spaces.Space[Any], value: Any, where: str) -> Iterator[tuple[str, spaces.Space[Any], Any]]:
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _leaves(part, value[key], f"{where}[{key!r}] ")
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield from _leaves(part, value[index], f"{where}[{index}] ")
    else:
        yield where, space, value


def _describe(space: spaces.Space[Any], value: Any) -> tuple[str, str]:
    """The kind of a readable value that its space does not contain, and the reason in words."""
    array = np.asarray(value)
    if array.shape != space.shape:
        return "shape", f"has shape {array.shape} instead of {space.shape}"
    if space.dtype is not None and not np.can_cast(array.dtype, space.dtype):
        return "dtype", f"is of {array.dtype}, and its space of {space.dtype}: it is read as it is"
    if isinstance(space, spaces.Box) and array.size:
        beyond = (array < space.low) | (array > space.high)
        if beyond.any():
            low, high = space.low[beyond].reshape(-1)[0], space.high[beyond].reshape(-1)[0]
            return "bounds", (
                f"holds {array[beyond].reshape(-1)[0]}, and its space is from {low} to {high}: it is read as it is"
            )
    return "type", f"is a {type(value).__name__} that {show(space)} does not contain: it is read all the same"
