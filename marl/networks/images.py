"""Images among a network's inputs: which of them are read with convolutions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from marl.specs import ArraySpec

Convolutions = Literal["auto", "yes", "no"]
LARGE_IMAGE: Final = 36
"""Sides in pixels from which on the layers of Mnih et al. (2015) fit."""
_SMALLEST_IMAGE: Final = 5
_LEAST_SIDES: Final[dict[Convolutions, float]] = {"auto": LARGE_IMAGE, "yes": _SMALLEST_IMAGE, "no": math.inf}


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """The reading of images, which all algorithms with networks have among their settings."""

    convolutions: Convolutions = "auto"
    """Read images with convolutions: yes, no, or auto: those of 36 pixels a side or more. Of small boards and local
    maps plain layers learn about as much, and many times faster."""


def is_convolved(spec: ArraySpec, convolutions: Convolutions) -> bool:
    """Returns whether an input is read with convolutions: (height, width, channels) with sides that are long enough."""
    return spec.is_image and min(spec.shape[:2]) >= _LEAST_SIDES[convolutions]


def resolve_convolutions(convolutions: Convolutions, specs: Iterable[ArraySpec]) -> Convolutions:
    """The choice that reads these inputs as ``auto`` does; ``auto`` itself where small and large images are among them.

    A run keeps it, so that its networks stay what they are should ``auto`` ever mean something else.
    """
    images = [spec for spec in specs if is_convolved(spec, "yes")]
    if convolutions != "auto" or not images:
        return convolutions
    choices: set[Convolutions] = {"yes" if is_convolved(spec, "auto") else "no" for spec in images}
    return choices.pop() if len(choices) == 1 else "auto"


def describe_reading(convolutions: Convolutions, specs: Iterable[ArraySpec]) -> str | None:
    """Says in one line how images are read, and how to change it; None where there are none.

    Args:
        convolutions: the setting.
        specs: of all inputs.
    """
    shapes: dict[bool, list[str]] = {True: [], False: []}
    suspects = []
    for spec in dict.fromkeys(specs):
        text = "×".join(map(str, spec.shape))
        if is_convolved(spec, "yes"):
            shapes[is_convolved(spec, convolutions)].append(text)
        if spec.is_image and _has_channels_first(spec.shape):
            suspects.append(text)
    parts = []
    if shapes[False]:
        parts.append(
            f"images of {' and '.join(shapes[False])} are read by plain layers (--algorithm.convolutions yes for "
            "convolutions)"
        )
    if shapes[True]:
        parts.append(
            f"images of {' and '.join(shapes[True])} are read with convolutions (--algorithm.convolutions no for plain "
            "layers)"
        )
    if suspects:
        parts.append(
            f"{' and '.join(suspects)} looks like (channels, height, width), and images are (height, width, channels): "
            "turn it with numpy's moveaxis(image, 0, -1)"
        )
    return "; ".join(parts) or None


def _has_channels_first(shape: tuple[int, ...]) -> bool:
    """Returns whether (a, b, c) is more likely channels of squares than rows of pixels."""
    return shape[0] < shape[1] == shape[2]
