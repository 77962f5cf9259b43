"""One vector from each value of a composite space, by steps that are worked out once a space.

The numbers are those of ``gymnasium.spaces.flatten``, which finds its way through the space anew at every call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from marl.errors import InputError
from marl.types import Array

Encode = Callable[[Any], Array]
"""From a value to a fresh float32 vector; raises ``MisfitError``."""
_Write = Callable[[Any, Array], None]
"""Writes a value into its part of a vector of zeros; raises ``MisfitError``."""


class MisfitError(Exception):
    """Raised where a value is not of its space; the message says which part, the value and the space."""


class OutsideSpaceError(InputError):
    """Raised where an observation does not belong to its space; names the agent, the value and the space."""

    def __init__(self, agent: str, reason: str) -> None:
        self.reason = reason
        super().__init__(f"an observation of {agent} does not belong to its space: {reason}")


def encoder(space: spaces.Space[Any], agent: str) -> Encode | None:
    """A function from the values of a space to float32 vectors of ``gymnasium.spaces.flatdim`` numbers.

    Discrete and MultiDiscrete become one-hot; parts come in the order of the space. Numbers beyond the bounds of a
    Box pass, as they do everywhere; choices, bits and shapes that the space does not have are refused, since they
    would be read as others.

    Args:
        space: Dict, Tuple, OneOf, Discrete, MultiDiscrete, MultiBinary, Box, or another that gymnasium flattens.
        agent: whose observations they are, for the message.

    Returns:
        None where the space has no fixed size, or holds texts. The function raises OutsideSpaceError.
    """
    if not is_numeric(space):
        return None
    size = int(spaces.flatdim(space))
    write = _writer(space, 0)

    def encode(value: Any) -> Array:
        out = np.zeros(size, np.float32)
        try:
            write(value, out)
        except MisfitError as misfit:
            raise OutsideSpaceError(agent, str(misfit)) from None
        return out

    return encode


def is_numeric(space: spaces.Space[Any]) -> bool:
    """Returns whether values of the space are a fixed number of numbers.

    Texts can be flattened to numbers of letters, but no network should read those.
    """
    if isinstance(space, spaces.Dict):
        return all(is_numeric(part) for part in space.spaces.values())
    if isinstance(space, (spaces.Tuple, spaces.OneOf)):
        return all(is_numeric(part) for part in space.spaces)
    return bool(space.is_np_flattenable) and not isinstance(space, spaces.Text)


def show(value: Any) -> str:
    """A value in one short line, for messages."""
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _writer(space: spaces.Space[Any], start: int) -> _Write:
    """Makes the function that writes values of a space from index ``start`` on."""
    if isinstance(space, spaces.Dict):
        return _dict_writer(space, start)
    if isinstance(space, spaces.Tuple):
        return _tuple_writer(space, start)
    if isinstance(space, spaces.OneOf):
        return _one_of_writer(space, start)
    if isinstance(space, spaces.Discrete):
        return _discrete_writer(space, start)
    if isinstance(space, spaces.MultiDiscrete):
        return _multi_discrete_writer(space, start)
    if isinstance(space, (spaces.Box, spaces.MultiBinary)):
        return _array_writer(space, start)
    return _flattening_writer(space, start)


def _dict_writer(space: spaces.Dict, start: int) -> _Write:
    parts = []
    for key, part in space.spaces.items():
        parts.append((key, _writer(part, start)))
        start += int(spaces.flatdim(part))

    def write(value: Any, out: Array) -> None:
        key: Any = None
        try:
            for key, write_part in parts:
                write_part(value[key], out)
        except MisfitError as misfit:
            raise MisfitError(f"[{key!r}] {misfit}") from None
        except (KeyError, IndexError, TypeError) as error:
            raise MisfitError(f"{show(value)} has no entry {key!r}") from error

    return write


def _tuple_writer(space: spaces.Tuple[Any], start: int) -> _Write:
    parts = []
    for part in space.spaces:
        parts.append(_writer(part, start))
        start += int(spaces.flatdim(part))

    def write(value: Any, out: Array) -> None:
        if not hasattr(value, "__len__") or len(value) != len(parts):
            raise MisfitError(f"{show(value)} is not a tuple of {len(parts)}")
        for index, (part, write_part) in enumerate(zip(value, parts, strict=True)):
            try:
                write_part(part, out)
            except MisfitError as misfit:
                raise MisfitError(f"[{index}] {misfit}") from None

    return write


def _one_of_writer(space: spaces.OneOf[Any], start: int) -> _Write:
    """The index of the alternative, then its value, filled up with its own first number as gymnasium does."""
    alternatives = [(_writer(part, start + 1), start + 1 + int(spaces.flatdim(part))) for part in space.spaces]
    stop = start + int(spaces.flatdim(space))

    def write(value: Any, out: Array) -> None:
        try:
            index, sample = value
            alternative, end = alternatives[_index(index, 0, len(alternatives))]
        except (TypeError, ValueError) as error:
            raise MisfitError(f"{show(value)} is not in {show(space)}") from error
        alternative(sample, out)
        out[start] = index
        if end < stop:
            out[end:stop] = out[start + 1]

    return write


def _discrete_writer(space: spaces.Discrete, start: int) -> _Write:
    low, high = int(space.start), int(space.start + space.n)
    shift = start - low

    def write(value: Any, out: Array) -> None:
        try:
            out[_index(value, low, high) + shift] = 1.0
        except (TypeError, ValueError) as error:
            raise MisfitError(f"{show(value)} is not in {space}") from error

    return write


def _index(value: Any, low: int, high: int) -> int:
    """An integer from ``low`` to below ``high``, or an array of one; raises TypeError or ValueError where it is not."""
    if type(value) is not int:
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "iu":
            raise TypeError
        value = int(array.reshape(-1)[0])
    if not low <= value < high:
        raise ValueError
    index: int = value
    return index


def _multi_discrete_writer(space: spaces.MultiDiscrete, start: int) -> _Write:
    shape = space.nvec.shape
    counts = space.nvec.reshape(-1).astype(np.uint64)
    starts = np.asarray(space.start, np.int64).reshape(-1)
    offsets = start + np.concatenate(([0], np.cumsum(space.nvec.reshape(-1))[:-1])).astype(np.int64)

    def write(value: Any, out: Array) -> None:
        array = _checked(value, shape, "iu", space)
        chosen = np.subtract(array.reshape(-1), starts, dtype=np.int64)
        # As unsigned numbers, those below the start are huge: one comparison serves both bounds.
        if np.count_nonzero(chosen.view(np.uint64) >= counts):
            raise MisfitError(f"{show(value)} is not in {show(space)}")
        out[offsets + chosen] = 1.0

    return write


def _array_writer(space: spaces.Box | spaces.MultiBinary, start: int) -> _Write:
    shape = tuple(space.shape)
    where = slice(start, start + int(np.prod(shape)))
    flat = len(shape) == 1
    bits = isinstance(space, spaces.MultiBinary)

    def write(value: Any, out: Array) -> None:
        array = _checked(value, shape, "fiub", space)
        # Shifted by a bit, 0 and 1 alone are zero.
        if bits and np.count_nonzero((array != 0) != array if array.dtype.kind == "f" else array >> 1):
            raise MisfitError(f"{show(value)} is not in {space}")
        out[where] = array if flat else array.reshape(-1)

    return write


def _checked(value: Any, shape: tuple[int, ...], kinds: str, space: spaces.Space[Any]) -> Array:
    """A value as an array, where its shape and the kind of its numbers fit."""
    try:
        array = value if type(value) is np.ndarray else np.asarray(value)
    except ValueError as error:  # lists of several lengths
        raise MisfitError(f"{show(value)} is not in {show(space)}") from error
    if array.dtype.kind == "O":
        raise MisfitError(f"{show(value)} is not in {show(space)}")
    if array.shape != shape:
        raise MisfitError(f"{show(value)} has shape {array.shape} instead of {shape}, in {show(space)}")
    if array.dtype.kind not in kinds:
        raise MisfitError(f"{show(value)} holds {array.dtype} instead of {space.dtype}, in {show(space)}")
    return array


def _flattening_writer(space: spaces.Space[Any], start: int) -> _Write:
    """Spaces of the user's own, in gymnasium's way."""
    where = slice(start, start + int(spaces.flatdim(space)))

    def write(value: Any, out: Array) -> None:
        if not space.contains(value):
            raise MisfitError(f"{show(value)} is not in {show(space)}")
        out[where] = spaces.flatten(space, value)

    return write
