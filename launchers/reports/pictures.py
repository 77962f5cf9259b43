"""Pictures of environments, whatever ``render`` returns, as frames of one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marl.envs.imports import one_line
from marl.envs.pettingzoo.vector import PettingZooVectorEnvironment
from marl.errors import InputError

Picture = NDArray[np.uint8]
_CHANNELS = (1, 3, 4)
_SCREENS = ("x11", "display", "screen", "video", "opengl", "egl")
_NO_SCREEN = "; where there is no screen, SDL_VIDEODRIVER=dummy helps pygame, xvfb-run others"


def draw(envs: PettingZooVectorEnvironment, name: str, copy: int = 0) -> NDArray[Any]:
    """Renders a copy.

    Args:
        envs: the copies.
        name: of the environment, for the message.
        copy: the copy to be drawn.

    Returns:
        (height, width, 3) numbers of its own, for ``frames``.

    Raises:
        InputError: it draws no pictures, or fails.
    """
    try:
        rendered = envs.render(copy)
    except Exception as error:
        said = one_line(error)
        hint = _NO_SCREEN if any(word in said.lower() for word in _SCREENS) else ""
        raise InputError(f"{name} cannot draw: {said}{hint}") from error
    # Some environments draw into the same array again and again.
    return np.array(read_picture(rendered, name))


def read_picture(rendered: Any, name: str) -> NDArray[Any]:
    """Reads what ``render`` returned: one picture, or a list of those since the last call, of which the newest counts.

    Args:
        rendered: grey or coloured numbers, (height, width), (height, width, 1, 3 or 4) or with channels first.
        name: of the environment, for the message.

    Returns:
        (height, width, 3), with numbers as they are.

    Raises:
        InputError: it is no picture.
    """
    if isinstance(rendered, (list, tuple)) and rendered and np.ndim(rendered[-1]) >= 2:
        rendered = rendered[-1]
    try:
        picture = np.asarray(rendered)
    except ValueError:  # rows of several lengths
        picture = np.asarray(None)
    if picture.ndim == 3 and picture.shape[0] in _CHANNELS and picture.shape[2] not in _CHANNELS:
        picture = np.moveaxis(picture, 0, -1)
    if picture.ndim == 2:
        picture = picture[..., None]
    if picture.ndim != 3 or picture.shape[2] not in _CHANNELS or not picture.size or picture.dtype.kind not in "fiub":
        what = "nothing" if rendered is None else f"a {type(rendered).__name__}"
        if picture.dtype.kind in "fiub" and picture.ndim:
            what = f"an array of shape {np.shape(rendered)}"
        raise InputError(
            f"{name} draws no pictures: its render() returned {what}, not (height, width, 3) numbers; it is asked for "
            "them by the argument render_mode='rgb_array', if it takes that"
        )
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture[..., :3]


def frames(pictures: Sequence[NDArray[Any]], *, even: bool = False) -> list[Picture]:
    """Makes frames of one size, with even sides if encoders want them so, from pictures of one episode.

    Real numbers count from 0 to 1 if none of the episode's is above, else from 0 to 255. Missing rows and columns
    repeat the last ones.
    """
    real = [picture for picture in pictures if picture.dtype.kind == "f"]
    unit = all(np.nanmax(picture, initial=0.0) <= 1.0 for picture in real)
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    if even:
        height, width = height + height % 2, width + width % 2
    return [_frame(picture, height, width, unit=unit) for picture in pictures]


def _frame(picture: NDArray[Any], height: int, width: int, *, unit: bool) -> Picture:
    if picture.dtype.kind == "b" or (picture.dtype.kind == "f" and unit):
        picture = picture * 255.0
    if picture.dtype != np.uint8:
        picture = np.clip(np.nan_to_num(picture), 0, 255).round().astype(np.uint8)
    missing = ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0))
    return np.ascontiguousarray(np.pad(picture, missing, mode="edge"))
