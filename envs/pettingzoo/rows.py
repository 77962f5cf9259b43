"""Agents' places in the adapter's arrays, and the checks of what environments put there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from marl.envs.encodings import OutsideSpaceError
from marl.envs.pettingzoo.spaces import ACTION_MASK, ActionWriter, Array, ObservationReader, mask_in, mask_of
from marl.errors import InputError
from marl.specs import ContinuousActions, DiscreteActions

LARGEST_REWARD = float(np.finfo(np.float32).max)


class ApiError(InputError):
    """Raised where an environment breaks the PettingZoo API; names the rule, the agent and the copy in one line."""

    def __init__(
        self, rule: str, *, detail: str, agent: str | None = None, copy: int | None = None, when: str | None = None
    ) -> None:
        self.rule = rule
        self.agent = agent
        self.copy = copy
        self.when = when
        self.detail = detail
        where = ", ".join(
            text
            for text in (f"agent {agent}" if agent else "", f"copy {copy}" if copy is not None else "", when or "")
            if text
        )
        self.finding = f"at {where}: {detail}" if where else detail
        """All of the message but the rule."""
        super().__init__(
            f"the environment breaks a rule of PettingZoo ({rule}){f' at {where}' if where else ''}: {detail}"
        )

    def at(self, *, copy: int | None = None, when: str | None = None) -> ApiError:
        """The same error with its copy and time, where it has none yet."""
        return ApiError(
            self.rule,
            detail=self.detail,
            agent=self.agent,
            copy=copy if self.copy is None else self.copy,
            when=self.when or when,
        )

    def counted_from(self, first_env: int) -> ApiError:
        """The same error with the copy's global index, on a rank whose copies begin at ``first_env``."""
        copy = None if self.copy is None else first_env + self.copy
        return ApiError(self.rule, detail=self.detail, agent=self.agent, copy=copy, when=self.when)


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

    def read(self, raw: Any) -> Array:
        """The array within a raw observation.

        Raises:
            ApiError: the observation holds an action mask that its space does not promise.
        """
        reader = self.reader
        if not reader.masked and isinstance(raw, Mapping) and ACTION_MASK in raw:
            raise unexpected_mask(self.agent, "its observation")
        return reader.read(raw)

    def read_last_mask(self, raw: Any, info: Any) -> Any:
        """The agent's action mask as it is cut off, or None where it is shown none."""
        shown = mask_in(raw if self.reader.masked else info)
        return None if shown is None else self.read_mask(raw, info)

    def read_mask(self, raw: Any, info: Any) -> Any:
        """The agent's action mask, from its raw observation or its info; all ones where its info has none just now.

        Raises:
            ApiError: the observation lacks the mask that its space promises.
        """
        if self.reader.masked:
            mask = raw.get(ACTION_MASK) if isinstance(raw, Mapping) else None
            if mask is None:
                raise ApiError(
                    "an observation has the action_mask that its space promises",
                    agent=self.agent,
                    detail=f"it is {brief(raw)}; give ones where every action is legal",
                )
        else:
            mask = mask_in(info)
            if mask is None:
                return np.ones(self.writer.spec.mask_size, dtype=bool)
        # The masks of several choices may come in a tuple; those of one choice are rows already.
        return mask if isinstance(self.writer.spec, DiscreteActions) else mask_of(mask, self.writer.spec, self.agent)

    def check_unmasked(self, info: Any) -> None:
        """Raises ApiError where an agent without masks is given one in its info."""
        if info and mask_in(info) is not None:
            if isinstance(self.writer.spec, ContinuousActions):
                raise ApiError(
                    "action masks are for discrete actions",
                    agent=self.agent,
                    detail="its info holds one, but its actions are continuous",
                )
            raise unexpected_mask(self.agent, "its info")


def unexpected_mask(agent: str, where: str) -> ApiError:
    """The error of an action mask at an agent that was not expected to have any, so that it would not be heeded."""
    return ApiError(
        "action masks are given from the beginning, or promised by the observation space",
        agent=agent,
        detail=f"{where} holds an action_mask, and none was seen before; put it into the info of reset and of every "
        "step, or into a Dict observation space as action_mask",
    )


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
            # Concatenated rows only need to add up: without this, one agent's surplus becomes another's.
            if set(map(len, rows)) != {out.shape[1]}:
                raise ValueError("a row has another length")
            # One call for all rows; concatenation along their own first dimension is numpy's fastest way.
            np.concatenate(rows, axis=0, out=out.reshape(out.shape[0] * out.shape[1], *out.shape[2:]), casting=casting)
        else:
            np.stack(rows, out=out, casting=casting)
    except (TypeError, ValueError) as error:
        for index, row in enumerate(rows):
            agent, copy = names[index % len(names)]
            check_row(row, out.shape[1:], out.dtype, agent=agent, copy=copy, what=what, casting=casting)
        raise error


def read_rewards(rewards: Sequence[Any], agents: Sequence[str], first_copy: int) -> NDArray[np.float64]:
    """Reads what several copies paid all their agents in one step: (E A) numbers to (E, A).

    Args:
        rewards: of the first copy's agents, then of the next one's.
        agents: A names.
        first_copy: index of the first copy, for errors.

    Raises:
        ApiError: one of them is no number that float32 holds.
    """
    try:
        numbers = np.array(rewards)
    except (TypeError, ValueError):
        numbers = np.empty(0, dtype=object)
    readable = numbers.ndim == 1 and numbers.dtype.kind in "biuf"
    if not readable or not (numbers.min() >= -LARGEST_REWARD and numbers.max() <= LARGEST_REWARD):
        count = len(agents)
        numbers = np.array(
            [
                check_reward(reward, agents[index % count], first_copy + index // count)
                for index, reward in enumerate(rewards)
            ]
        )
    return numbers.reshape(-1, len(agents))


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
    if isinstance(row, Mapping):
        if agent is not None and ACTION_MASK in row:
            raise unexpected_mask(agent, "its observation").at(copy=copy)
        raise ApiError(
            f"the {what} has the shape of its space",
            agent=agent,
            copy=copy,
            detail=f"it is a dictionary of {', '.join(map(str, row))}, and its space is no Dict",
        )
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
        return seat.read(raw)
    except ApiError as error:
        raise error.at(copy=copy) from None
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


def check_reward(reward: Any, agent: str, copy: int) -> float:
    """The reward as a number that float32 holds; raises ApiError otherwise."""
    number = reward
    if not isinstance(reward, (int, float)):
        try:
            number = np.asarray(reward).item()
        except ValueError:  # more than one value
            number = None
        if np.ndim(reward) != 0 or not isinstance(number, (bool, int, float)):
            raise ApiError("a reward is a number", agent=agent, copy=copy, detail=f"it is {brief(reward)}")
    if isinstance(number, float) and not math.isfinite(number):
        raise ApiError("rewards are finite", agent=agent, copy=copy, detail=f"it is {brief(reward)}")
    if not -LARGEST_REWARD <= number <= LARGEST_REWARD:
        raise ApiError(
            "rewards fit into float32",
            agent=agent,
            copy=copy,
            detail=f"it is {brief(reward)}, and the largest is {LARGEST_REWARD:.1e}; scale rewards",
        )
    return float(number)


def missing(what: str, agent: str, copy: int) -> NoReturn:
    """Raises ApiError: an agent has no entry in one of the dictionaries that ``step`` or ``reset`` returned."""
    raise ApiError(f"{what} has an entry for every agent that is alive", agent=agent, copy=copy, detail="it has none")


def brief(value: Any) -> str:
    """A value in one short line, for messages."""
    text = " ".join(str(value).split()) if isinstance(value, BaseException) else " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


Gather = Callable[[Any, Any, list[Any], list[Any]], None]


def gatherer(seats: Sequence[Seat]) -> Gather:
    """Appends a group's observations and masks to lists of rows, as fast as its spaces allow."""
    get = getter([seat.agent for seat in seats])
    if all(seat.reader.plain and not seat.masked for seat in seats):

        def gather(observed: Any, infos: Any, rows: list[Any], masks: list[Any]) -> None:
            rows += get(observed)

    else:

        def gather(observed: Any, infos: Any, rows: list[Any], masks: list[Any]) -> None:
            for seat, raw in zip(seats, get(observed), strict=True):
                rows.append(seat.read(raw))
                if seat.masked:
                    masks.append(seat.read_mask(raw, infos.get(seat.agent)))

    return gather


def getter(keys: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """A function from a dictionary to the tuple of the values of ``keys``."""
    if len(keys) == 1:
        (key,) = keys
        return lambda values: (values[key],)
    return itemgetter(*keys)


def contents(rows: Sequence[Any]) -> list[bytes]:
    """The bytes of each row that is an array, to find out later whether it was changed."""
    return [row.tobytes() if isinstance(row, np.ndarray) else b"" for row in rows]
