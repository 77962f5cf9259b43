"""A probe that plays an environment for a few steps, to find its specs, its masks and the source of its state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pettingzoo import AECEnv, ParallelEnv

from marl.actions import random_actions
from marl.envs.imports import broken
from marl.envs.pettingzoo.rows import ApiError, brief
from marl.envs.pettingzoo.spaces import (
    ActionWriter,
    Array,
    ObservationReader,
    action_writer,
    ensure_spaces,
    mask_in,
    mask_of,
    observation_reader,
)
from marl.envs.pettingzoo.state import StateSource, assembled_spec, own_state, own_state_spec
from marl.errors import InputError
from marl.specs import AgentSpec, ContinuousActions, SpecError

PROBE_STEPS = 40
_LOOKS = 3
"""So often at least everybody is looked at for a mask, within PROBE_STEPS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Specs of an environment, and how its values are read and written."""

    turn_based: bool
    agents: tuple[AgentSpec, ...]
    readers: Mapping[str, ObservationReader]
    writers: Mapping[str, ActionWriter]
    masks_in_info: frozenset[str]
    state: StateSource | None


class RandomChoices:
    """Uniformly random legal actions of single agents, in the environment's own form.

    Args:
        readers: of observations, by agent.
        writers: of actions, by agent.
    """

    def __init__(self, readers: Mapping[str, ObservationReader], writers: Mapping[str, ActionWriter]) -> None:
        self._readers = readers
        self._writers = writers
        self._random = np.random.default_rng(0)

    def __call__(self, agent: str, raw: Any, info: Any) -> Any:
        """An action of the agent that saw this raw observation and info."""
        writer = self._writers[agent]
        mask = self._readers[agent].read_mask(raw, info)
        legal = None if mask is None else torch.from_numpy(mask_of(mask, writer.spec, agent))[None]
        uniforms = torch.from_numpy(self._random.random((1, writer.spec.array.size)))
        row = random_actions(writer.spec, uniforms, legal).to(writer.spec.array.dtype)
        return writer.write(row.numpy())[0]


def probe_environment(environment: Any, *, with_state: bool) -> Description:
    """Finds out an environment's specs, where its masks are, and where its state comes from, by playing a little.

    Args:
        environment: a fresh PettingZoo environment; it is stepped, but not closed.
        with_state: whether the state is of interest.

    Raises:
        InputError: it is not a PettingZoo environment.
        SpecError: spaces that cannot be described.
        ApiError: there are no ``possible_agents``, or ``reset`` takes no seed.
    """
    if not isinstance(environment, (AECEnv, ParallelEnv)):
        raise InputError(
            f"{brief(environment)} is a {type(environment).__name__}, neither a PettingZoo ParallelEnv nor an AECEnv"
        )
    try:
        ensure_spaces(environment)
    except Exception as error:
        if getattr(environment, "possible_agents", None):
            raise broken("the environment", "asked for its agents and their spaces", error) from error
    turn_based = isinstance(environment, AECEnv)
    names = list(getattr(environment, "possible_agents", None) or ())
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise ApiError("possible_agents lists all agents by name", detail=f"it is {brief(names or None)}")
    readers = {name: observation_reader(environment.observation_space(name), name) for name in names}
    writers = {name: action_writer(environment.action_space(name), name) for name in names}
    in_info: set[str] = set()
    own: Array | None = None
    repeats = with_state and not turn_based
    looks = dict.fromkeys(names, 0)
    for index, (observations, infos) in enumerate(_play(environment, turn_based, RandomChoices(readers, writers))):
        for name in looks.keys() & observations.keys():
            looks[name] += 1
        for name, info in infos.items():
            if name in readers and not readers[name].masked and (mask := mask_in(info)) is not None:
                mask_of(mask, writers[name].spec, name)
                in_info.add(name)
        if with_state and index == 0:
            own = own_state(environment)
        if repeats:
            repeats = own is not None and _is_concatenation(environment, names, readers, observations)
        elif min(looks.values()) >= _LOOKS:
            break
    for name in names:
        if readers[name].masked and isinstance(writers[name].spec, ContinuousActions):
            raise SpecError(f"{name} is given an action mask, but its actions are continuous")
    # Agents that were not there while the probe played are like those that were.
    masked_kinds = {(readers[name].spec, writers[name].spec) for name in in_info}
    in_info |= {
        name for name in names if not readers[name].masked and (readers[name].spec, writers[name].spec) in masked_kinds
    }
    source = None
    if with_state and own is not None:
        source = StateSource(own_state_spec(own), own=True, order=names if repeats else None)
    elif with_state:
        order = sorted(names)
        source = StateSource(assembled_spec([readers[name].spec for name in order]), own=False, order=order)
    return Description(
        turn_based=turn_based,
        agents=tuple(
            AgentSpec(
                name=name,
                observation=readers[name].spec,
                action=writers[name].spec,
                masked=readers[name].masked or name in in_info,
            )
            for name in names
        ),
        readers=readers,
        writers=writers,
        masks_in_info=frozenset(in_info),
        state=source,
    )


def _is_concatenation(
    environment: Any, names: Sequence[str], readers: Mapping[str, ObservationReader], observations: Mapping[str, Any]
) -> bool:
    if set(observations) != set(names) or set(environment.agents) != set(names):
        return True  # Not everybody alive: then the state is never put together from observations.
    state = own_state(environment)
    parts = [readers[name].read(observations[name]) for name in names]
    if state is None or any(part.dtype != np.float32 for part in parts):
        return False
    return state.dtype == np.float32 and np.array_equal(state, np.concatenate([part.reshape(-1) for part in parts]))


def _play(
    environment: Any, turn_based: bool, choose: RandomChoices
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Plays random legal actions and yields the observations and infos of agents, at most PROBE_STEPS times.

    An environment that breaks the API ends the play early: what it breaks is said when the copies are stepped.
    """
    try:
        begun = environment.reset(seed=0)
    except TypeError as error:
        if "seed" in str(error):
            raise ApiError("reset takes a seed", detail=brief(error)) from error
        raise broken("the environment", "reset", error) from error
    except Exception as error:
        raise broken("the environment", "reset", error) from error
    try:
        yield from (_take_turns if turn_based else _take_steps)(environment, begun, choose)
    except Exception:
        return


def _take_steps(
    environment: Any, begun: Any, choose: RandomChoices
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    observations, infos = begun
    for _ in range(PROBE_STEPS):
        if not isinstance(observations, Mapping):
            return
        infos = infos if isinstance(infos, Mapping) else {}
        yield observations, infos
        if environment.agents:
            observations, _, _, _, infos = environment.step(
                {name: choose(name, observations[name], infos.get(name)) for name in environment.agents}
            )
        else:
            observations, infos = environment.reset(seed=1)


def _take_turns(
    environment: Any, begun: Any, choose: RandomChoices
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    for _ in range(PROBE_STEPS):
        if not environment.agents:
            environment.reset(seed=1)
        name = environment.agent_selection
        observation, infos = environment.observe(name), environment.infos or {}
        # Whoever waits may have a mask already, and be asked for its first move only much later.
        yield {name: observation}, infos
        dead = environment.terminations[name] or environment.truncations[name]
        choice = None if dead else choose(name, observation, infos.get(name))
        environment.step(choice)
