"""From gymnasium's spaces to specs, and from an environment's own values to arrays and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from marl.envs.encodings import Encode, encoder
from marl.specs import ActionSpec, ArraySpec, ContinuousActions, DiscreteActions, MultiDiscreteActions, SpecError

Array = NDArray[Any]

OBSERVATION = "observation"
ACTION_MASK = "action_mask"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationReader:
    """Reads one agent's raw observations as arrays of its spec."""

    spec: ArraySpec
    masked: bool = False
    """Raw observations are dictionaries with an ``action_mask``."""
    key: str | None = None
    """The entry of a raw observation that is the array; None where it is the whole."""
    flatten: Encode | None = None
    """Makes one vector of a composite observation, or turns an image; None where observations are as their spec."""

    @property
    def plain(self) -> bool:
        """Raw observations are arrays of the spec's shape already."""
        return self.key is None and self.flatten is None

    def read_mask(self, raw: Any, info: Any) -> Any:
        """The action mask within a raw observation or an agent's info, as the environment gave it, or None."""
        return raw[ACTION_MASK] if self.masked else mask_in(info)

    def read(self, raw: Any) -> Array:
        """The array within a raw observation; its shape is whatever the environment gave."""
        value = raw if self.key is None else raw[self.key]
        return self.flatten(value) if self.flatten is not None else np.asarray(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionWriter:
    """Writes rows of an action tensor as the actions that an environment's space contains."""

    space: spaces.Space[Any]
    spec: ActionSpec
    write: Callable[[Array], list[Any]]
    """From (B, *action shape) to B actions: one number or array of the space's shape and dtype each."""


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """The dtype in which arrays of ``dtype`` are kept: uint8 stays, everything else becomes float32."""
    return torch.uint8 if dtype == np.uint8 else torch.float32


def array_spec(shape: tuple[int, ...], dtype: np.dtype[Any]) -> ArraySpec:
    """The spec of arrays of ``shape`` and ``dtype``: images (three dimensions of uint8) stay, others are float32."""
    return ArraySpec(shape=tuple(shape), dtype=torch_dtype(dtype) if len(shape) == 3 else torch.float32)


def ensure_spaces(environment: Any) -> None:
    """Resets an environment whose agents or spaces exist only after a reset, so that they can be read."""
    try:
        if _look_up_spaces(environment):
            return
    except Exception:  # whatever a lookup that comes too early raises
        environment.reset(seed=0)
        _look_up_spaces(environment)
    else:
        environment.reset(seed=0)


def _look_up_spaces(environment: Any) -> bool:
    """Returns whether there are agents, all of which have their spaces."""
    names = list(getattr(environment, "possible_agents", None) or ())
    for name in names:
        environment.observation_space(name)
        environment.action_space(name)
    return bool(names)


def has_channels_first(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Returns whether arrays are images of uint8 with one, three or four channels before height and width."""
    channels = (1, 3, 4)
    if len(shape) != 3 or dtype != np.uint8 or min(shape[1:]) < 5:
        return False
    return shape[0] in channels and shape[2] not in channels


def channels_last(image: Any) -> Array:
    """A (channels, height, width) array as (height, width, channels); arrays of fewer or more dimensions stay."""
    array = np.asarray(image)
    return array.transpose(1, 2, 0) if array.ndim == 3 else array


def observation_reader(space: spaces.Space[Any], agent: str) -> ObservationReader:
    """Describes one agent's observations.

    A Box keeps its shape (images of uint8 their dtype too, and their channels come last). A Dict with an
    ``action_mask`` is an observation with a mask: its ``observation``, or the rest of it. Every other space is
    flattened to one float32 vector; see ``marl.envs.encodings``.

    Args:
        space: the agent's observation space.
        agent: its name, for the message.

    Raises:
        SpecError: the space has no fixed size, or holds nothing.
    """
    if isinstance(space, spaces.Dict) and ACTION_MASK in space.spaces:
        rest = {key: inner for key, inner in space.spaces.items() if key != ACTION_MASK}
        if set(rest) == {OBSERVATION}:
            reader = observation_reader(rest[OBSERVATION], agent)
            if reader.masked:
                raise SpecError(f"the observation space of {agent} has an action_mask within its observation: {space}")
            return replace(reader, masked=True, key=OBSERVATION)
        unmasked = spaces.Dict(rest)
        return replace(observation_reader(unmasked, agent), masked=True)
    if isinstance(space, spaces.Box):
        if 0 in space.shape:
            raise SpecError(f"the observation space of {agent} holds nothing: {space}")
        if has_channels_first(space.shape, space.dtype):
            spec = array_spec((*space.shape[1:], space.shape[0]), space.dtype)
            return ObservationReader(spec=spec, flatten=channels_last)
        return ObservationReader(spec=array_spec(space.shape, space.dtype))
    flatten = encoder(space, agent)
    if flatten is None:
        raise SpecError(f"the observation space of {agent} has no fixed size, so no network can read it: {space}")
    size = int(spaces.flatdim(space))
    if size == 0:
        raise SpecError(f"the observation space of {agent} holds nothing: {space}")
    return ObservationReader(spec=ArraySpec(shape=(size,)), flatten=flatten)


def action_writer(space: spaces.Space[Any], agent: str) -> ActionWriter:
    """Describes one agent's actions.

    Discrete, MultiDiscrete (of any shape) and MultiBinary count from 0 on our side and from the space's start on
    the environment's. Box actions are canonical on our side, in [-1, 1], and are scaled to the space's bounds and
    clipped; a dimension without two finite bounds is handed on as it is and clipped where it has a bound.

    Args:
        space: the agent's action space.
        agent: its name, for the message.

    Raises:
        SpecError: spaces of other kinds, integer boxes, and spaces that hold nothing.
    """
    if isinstance(space, spaces.Discrete):
        start, number = int(space.start), space.dtype
        return ActionWriter(
            space=space,
            spec=DiscreteActions(num_actions=int(space.n)),
            # Numbers of numpy, as the space's own samples are: some environments ask them for item().
            write=lambda rows: list((rows + start).astype(number, copy=False)),
        )
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.size > 0:
        shape, dtype, starts = space.nvec.shape, space.dtype, np.asarray(space.start).reshape(-1)
        return ActionWriter(
            space=space,
            spec=MultiDiscreteActions(nvec=tuple(int(n) for n in space.nvec.reshape(-1))),
            write=lambda rows: list((rows + starts).astype(dtype).reshape(-1, *shape)),
        )
    if isinstance(space, spaces.MultiBinary) and np.prod(space.shape) > 0:
        shape, dtype = space.shape, space.dtype
        return ActionWriter(
            space=space,
            spec=MultiDiscreteActions(nvec=(2,) * int(np.prod(shape))),
            write=lambda rows: list(rows.astype(dtype).reshape(-1, *shape)),
        )
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating) and np.prod(space.shape) > 0:
        return _box_writer(space)
    raise SpecError(
        f"the action space of {agent} is not supported: {space}; "
        "supported are Discrete, MultiDiscrete, MultiBinary and Box of real numbers"
    )


def _box_writer(space: spaces.Box) -> ActionWriter:
    shape, dtype = space.shape, space.dtype
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    bounded = np.isfinite(low) & np.isfinite(high)
    # Halves first: the difference of two huge bounds may overflow.
    half = np.where(bounded, 0.5 * np.where(bounded, high, 0) - 0.5 * np.where(bounded, low, 0), 1).astype(dtype)
    centre = np.where(bounded, 0.5 * np.where(bounded, high, 0) + 0.5 * np.where(bounded, low, 0), 0).astype(dtype)

    def write(rows: Array) -> list[Any]:
        # A fresh array every time: environments may keep the rows that they are given.
        scaled = rows * half + centre
        return list(np.clip(scaled, low, high).astype(dtype, copy=False).reshape(-1, *shape))

    return ActionWriter(
        space=space,
        spec=ContinuousActions(low=tuple(float(x) for x in low), high=tuple(float(x) for x in high)),
        write=write,
    )


def mask_of(mask: Any, spec: ActionSpec, agent: str) -> Array:
    """An environment's action mask as one bool vector of the spec's mask size.

    Raises:
        SpecError: the mask has another size, or the agent's actions are continuous.
    """
    if isinstance(spec, ContinuousActions):
        raise SpecError(f"{agent} is given an action mask, but its actions are continuous")
    # gymnasium masks a MultiDiscrete space by a tuple of vectors.
    parts = cast("tuple[Any, ...]", mask) if isinstance(mask, (tuple, list)) else (mask,)
    flat: Array = np.concatenate([np.asarray(part).reshape(-1) for part in parts]) != 0
    if flat.size != spec.mask_size:
        raise SpecError(f"the action mask of {agent} has {flat.size} entries, but it has {spec.mask_size} actions")
    return flat


def mask_in(info: Any) -> Any:
    """The action mask within one agent's info, or None."""
    return info.get(ACTION_MASK) if isinstance(info, Mapping) else None
