"""Agents' places in the adapter's arrays, and the checks of what environments put there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np

from marl.envs.encodings import OutsideSpaceError
from marl.envs.pettingzoo.spaces import ActionWriter, Array, ObservationReader, mask_of
from marl.errors import InputError
from marl.specs import DiscreteActions


class ApiError(InputError):
    """Raised where an environment breaks the PettingZoo API; names the rule, the agent and the copy in one line."""

    def __init__(self, rule: str, *, detail: str, agent: str | None = None, copy: int | None = None) -> None:
        self.rule = rule
        self.agent = agent
        self.copy = copy
        self.detail = detail
        where = ", ".join(
            text for text in (f"agent {agent}" if agent else "", f"copy {copy}" if copy is not None else "") if text
        )
        super().__init__(
            f"the environment breaks a rule of PettingZoo ({rule}){f' at {where}' if where else ''}: {detail}"
        )

    def counted_from(self, first_env: int) -> ApiError:
        """The same error with the copy's global index, on a rank whose copies begin at ``first_env``."""
        if self.copy is None or first_env == 0:
            return self
        return ApiError(self.rule, detail=self.detail, agent=self.agent, copy=first_env + self.copy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One agent's place in the arrays, and how its values are read and written."""

    agent: str
    group: int
    row: int
    """Index within the group."""
    reader: ObservationReader
    writer: ActionWriter
    mask_in_info: bool
    """Action masks come in ``infos[agent]["action_mask"]``."""

    @property
    def masked(self) -> bool:
        """True if the agent is given action masks at all."""
        return self.reader.masked or self.mask_in_info

    def read_mask(self, raw: Any, info: Any) -> Any:
        """The agent's action mask, from its raw observation or its info; all ones where it has none just now."""
        mask = self.reader.read_mask(raw, info)
        if mask is None:
            return np.ones(self.writer.spec.mask_size, dtype=bool)
        # The masks of several choices may come in a tuple; those of one choice are rows already.
        return mask if isinstance(self.writer.spec, DiscreteActions) else mask_of(mask, self.writer.spec, self.agent)


def write_rows(
    rows: Sequence[Any],
    out: Array,
    *,
    names: Sequence[tuple[str | None, int]],
    what: str,
    casting: Literal["same_kind", "unsafe"] = "same_kind",
) -> None:
    """Writes environment arrays into ``out``, one array a row, checking shapes and dtypes.

    Args:
        rows: B arrays of the shape ``out.shape[1:]``.
        out: (B, ...), contiguous.
        names: whose they are: agent and copy of each row (repeated as often as it takes), for the message.
        what: what they are, for the message.
        casting: ``unsafe`` for masks, whose numbers become truth values.

    Raises:
        ApiError: a row has another shape, or a dtype that does not fit.
    """
    try:
        if out.ndim > 1:
            # One call for all rows; concatenation along their own first dimension is numpy's fastest way.
            np.concatenate(rows, axis=0, out=out.reshape(out.shape[0] * out.shape[1], *out.shape[2:]), casting=casting)
        else:
            np.stack(rows, out=out, casting=casting)
    except (TypeError, ValueError) as error:
        for index, row in enumerate(rows):
            agent, copy = names[index % len(names)]
            check_row(row, out.shape[1:], out.dtype, agent=agent, copy=copy, what=what, casting=casting)
        raise error


def check_row(
    row: Any,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    agent: str | None,
    copy: int,
    what: str,
    casting: Literal["same_kind", "unsafe"] = "same_kind",
) -> Array:
    """The row as an array, if its shape and dtype fit; raises ApiError otherwise."""
    array = np.asarray(row)
    if array.shape != shape:
        raise ApiError(
            f"the {what} has the shape of its space",
            agent=agent,
            copy=copy,
            detail=f"its shape is {array.shape}, and should be {shape}",
        )
    if not np.can_cast(array.dtype, dtype, casting):
        raise ApiError(
            f"the {what} has the dtype of its space",
            agent=agent,
            copy=copy,
            detail=f"its dtype is {array.dtype}, which does not fit {dtype}",
        )
    return array


def read_observation(seat: Seat, raw: Any, copy: int) -> Array:
    """The array within an agent's raw observation; raises ApiError where it cannot be read at all."""
    try:
        return seat.reader.read(raw)
    except OutsideSpaceError as error:
        rule = "an observation belongs to its space"
        raise ApiError(rule, agent=seat.agent, copy=copy, detail=error.reason) from error
    except Exception as error:  # whatever gymnasium raises for values outside of their space
        raise ApiError(
            "an observation belongs to its space",
            agent=seat.agent,
            copy=copy,
            detail=f"{brief(raw)} cannot be read ({type(error).__name__}: {brief(error)})",
        ) from error


def missing(what: str, agent: str, copy: int) -> NoReturn:
    """Raises ApiError: an agent has no entry in one of the dictionaries that ``step`` or ``reset`` returned."""
    raise ApiError(f"{what} has an entry for every agent that is alive", agent=agent, copy=copy, detail="it has none")


def brief(value: Any) -> str:
    """A value in one short line, for messages."""
    text = " ".join(str(value).split()) if isinstance(value, BaseException) else " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
