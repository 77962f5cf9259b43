"""Preprocessing of image observations, and of the image state with them, through SuperSuit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv
from pettingzoo.utils import BaseParallelWrapper, BaseWrapper

from marl.envs.pettingzoo.spaces import Array, ensure_spaces
from marl.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Transformations of observations (and of ``state()`` where it is an image), in this order."""

    grey: bool = False
    """One channel instead of three; images stay (height, width, 1)."""
    resize: tuple[int, int] | None = None
    """Height and width."""
    frame_stack: int = 1
    """This many newest observations together, along the last dimension; the first is repeated after a reset."""
    dtype: Literal["uint8", "float32"] | None = None
    """None leaves it as it is: images of uint8 are kept as such until a network reads them."""

    def __post_init__(self) -> None:
        if self.frame_stack < 1:
            raise InputError(f"frame_stack is at least 1, not {self.frame_stack}")
        if self.resize is not None and (len(self.resize) != 2 or min(self.resize) < 1):
            raise InputError(f"resize is a height and a width in pixels, not {self.resize}")
        if self.dtype not in (None, "uint8", "float32"):
            raise InputError(f"dtype is uint8 or float32, not {self.dtype!r}")

    @property
    def is_identity(self) -> bool:
        """True if everything stays as it is."""
        return self == Preprocessing()


def preprocess(environment: Any, preprocessing: Preprocessing) -> Any:
    """Wraps a PettingZoo environment, Parallel or AEC.

    Args:
        environment: its observations are Boxes; for grey and resize, images (height, width, 3 or more).
        preprocessing: the transformations.

    Raises:
        InputError: the observations of an agent are not such images.
    """
    if preprocessing.is_identity:
        return environment
    # SuperSuit is imported where it is used: with nothing to do, nothing is loaded.
    from supersuit import color_reduction_v0, dtype_v0, frame_stack_v2, resize_v1
    from supersuit.lambda_wrappers import observation_lambda_v0

    ensure_spaces(environment)
    for agent in environment.possible_agents:
        _check(environment.observation_space(agent), agent, preprocessing)
    inner = environment
    if preprocessing.grey:
        environment = color_reduction_v0(environment, mode="full")
        environment = observation_lambda_v0(environment, lambda image, _: image[..., None], _with_channel)
    if preprocessing.resize is not None:
        height, width = preprocessing.resize
        environment = resize_v1(environment, x_size=width, y_size=height)
    if preprocessing.dtype is not None:
        environment = dtype_v0(environment, np.dtype(preprocessing.dtype))
    if preprocessing.frame_stack > 1:
        environment = frame_stack_v2(environment, stack_size=preprocessing.frame_stack)
    if not _has_image_state(inner):
        return environment
    transform = StateTransform(preprocessing)
    wrapper = _TurnState if isinstance(environment, AECEnv) else _ParallelState
    return wrapper(environment, transform)


def _with_channel(space: spaces.Box) -> spaces.Box:
    return spaces.Box(space.low[..., None], space.high[..., None], dtype=space.dtype.type)


def _check(space: spaces.Space[Any], agent: str, preprocessing: Preprocessing) -> None:
    if not isinstance(space, spaces.Box) or not 1 <= len(space.shape) <= 3:
        raise InputError(
            f"observations of {agent} cannot be preprocessed, only boxes of one to three dimensions: {space}"
        )
    image = len(space.shape) == 3
    if preprocessing.grey and not (image and space.shape[2] == 3):
        raise InputError(f"observations of {agent} cannot be made grey: {space} is not a (height, width, 3) image")
    if preprocessing.resize is not None and not image:
        raise InputError(f"observations of {agent} cannot be resized: {space} is not an image")


def _has_image_state(environment: Any) -> bool:
    space = getattr(environment, "state_space", None)
    return isinstance(space, spaces.Box) and len(space.shape) == 3 and space.shape[2] == 3 and space.dtype == np.uint8


class StateTransform:
    """Preprocesses an image state like the observations; keeps the newest frames of one episode."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self._preprocessing = preprocessing
        self._frames: list[Array] = []

    def begin(self, state: Array) -> None:
        """Takes an episode's first state."""
        self._frames = [self._one(state)] * self._preprocessing.frame_stack

    def add(self, state: Array) -> None:
        """Takes the next state."""
        self._frames = [*self._frames[1:], self._one(state)]

    def value(self) -> Array:
        """The preprocessed state."""
        return self._frames[0] if len(self._frames) == 1 else np.concatenate(self._frames, axis=-1)

    def _one(self, state: Array) -> Array:
        from supersuit.utils.basic_transforms import color_reduction, resize

        image: Array = state
        if self._preprocessing.grey:
            image = color_reduction.change_observation(image, None, "full")[..., None]
        if self._preprocessing.resize is not None:
            height, width = self._preprocessing.resize
            image = resize.change_observation(image, spaces.Box(0, 255, image.shape, np.uint8), (width, height, True))
        if self._preprocessing.dtype is not None:
            image = image.astype(self._preprocessing.dtype)
        return image


class _ParallelState(BaseParallelWrapper):  # type: ignore[misc]  # PettingZoo is not typed here
    """Shows the preprocessed state of a ParallelEnv."""

    def __init__(self, env: Any, transform: StateTransform) -> None:
        super().__init__(env)
        self._transform = transform

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        result = self.env.reset(seed=seed, options=options)
        self._transform.begin(self.env.state())
        return result

    def step(self, actions: Any) -> Any:
        result = self.env.step(actions)
        self._transform.add(self.env.state())
        return result

    def state(self) -> Array:
        return self._transform.value()


class _TurnState(BaseWrapper):  # type: ignore[misc]  # PettingZoo is not typed here
    """Shows the preprocessed state of an AECEnv."""

    def __init__(self, env: Any, transform: StateTransform) -> None:
        super().__init__(env)
        self._transform = transform

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        self.env.reset(seed=seed, options=options)
        self._transform.begin(self.env.state())

    def step(self, action: Any) -> None:
        self.env.step(action)
        self._transform.add(self.env.state())

    def state(self) -> Array:
        return self._transform.value()


Make = Callable[[], Any]


def preprocessed(make: Make, preprocessing: Preprocessing) -> Make:
    """A callable whose environments are preprocessed."""
    return make if preprocessing.is_identity else lambda: preprocess(make(), preprocessing)
