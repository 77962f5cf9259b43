"""Kinds of values that options take: the forms in which each is typed, and what it is called in messages."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from marl.errors import closest

NONE: Final = "none"
_TRUE: Final = ("true", "yes", "on", "1")
_FALSE: Final = ("false", "no", "off", "0")
_MULTIPLES: Final = {"k": 1_000, "M": 1_000_000}
_LARGEST: Final = 10**18


class ValueRefused(ValueError):  # noqa: N818 - it becomes an InputError that names the option
    """Raised for words that are no such value; the message, which may be empty, says what helps."""


class Kind(ABC):
    """A kind of value."""

    @property
    @abstractmethod
    def metavar(self) -> str:
        """Its place in help: ``N``."""

    @property
    @abstractmethod
    def wanted(self) -> str:
        """The value in messages, with an example: ``a whole number, for instance 1e6``."""

    def count(self, words: Sequence[str]) -> int:
        """Counts the words behind an option, at least one, that are its value."""
        return 1

    @abstractmethod
    def read(self, words: Sequence[str]) -> Any:
        """Reads the value; raises ValueRefused."""

    def show(self, value: Any) -> str:
        """Writes a value as it would be typed."""
        return str(value)


class Count(Kind):
    """A whole number: ``1000000``, ``1_000_000``, ``1e6``, ``1.5e6``, ``1M``, ``200k``."""

    metavar = "N"
    wanted = "a whole number, for instance 1000 or 1e6"

    def read(self, words: Sequence[str]) -> int:
        (word,) = words
        multiple = _MULTIPLES.get(word[-1:], 1)
        try:
            number = Decimal(word.removesuffix(word[-1:]) if multiple > 1 else word) * multiple
        except ArithmeticError:
            raise ValueRefused from None
        # Decimals of a thousand digits would take a while to write out.
        if not number.is_finite() or abs(number) > _LARGEST or number != int(number):
            raise ValueRefused
        return int(number)


class Number(Kind):
    """A number: ``0.5``, ``5e-4``, ``inf``."""

    metavar = "X"
    wanted = "a number, for instance 0.5 or 5e-4"

    def read(self, words: Sequence[str]) -> float:
        try:
            number = float(words[0])
        except ValueError:
            raise ValueRefused from None
        if math.isnan(number):
            raise ValueRefused
        return number

    def show(self, value: Any) -> str:
        return f"{value:g}"


@dataclass(frozen=True, slots=True)
class Switch(Kind):
    """On or off: the option alone, or with true or false, yes or no, on or off, 1 or 0 behind it."""

    off: tuple[str, ...] = _FALSE

    metavar = ""
    wanted = "true or false, or nothing for true"

    def count(self, words: Sequence[str]) -> int:
        return int(words[0].lower() in (*_TRUE, *self.off))

    def read(self, words: Sequence[str]) -> bool:
        word = words[0].lower() if words else "true"
        if word not in (*_TRUE, *self.off):
            raise ValueRefused
        return word in _TRUE

    def show(self, value: Any) -> str:
        return "on" if value else "off"


SECTION: Final = Switch(off=(*_FALSE, NONE))
"""Turns on settings that may be absent."""


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """Any word, as it stands."""

    metavar: str = "TEXT"
    wanted: str = "one word, in quotes if there are blanks in it"

    def read(self, words: Sequence[str]) -> str:
        return words[0]


class File(Kind):
    """A path."""

    metavar = "PATH"
    wanted = "a path, for instance runs/a"

    def read(self, words: Sequence[str]) -> Path:
        if not words[0]:
            raise ValueRefused
        return Path(words[0]).expanduser()


@dataclass(frozen=True, slots=True)
class Choice(Kind):
    """One of several words."""

    choices: tuple[str, ...]

    @property
    def metavar(self) -> str:
        return "|".join(self.choices)

    @property
    def wanted(self) -> str:
        return join_words(self.choices)

    def read(self, words: Sequence[str]) -> str:
        if words[0] not in self.choices:
            near = closest(words[0], self.choices)
            raise ValueRefused("" if near is None else f"did you mean {near!r}?")
        return words[0]


@dataclass(frozen=True, slots=True)
class Maybe(Kind):
    """A value, or none."""

    kind: Kind

    @property
    def metavar(self) -> str:
        return self.kind.metavar

    @property
    def wanted(self) -> str:
        return f"{self.kind.wanted}, or none"

    def count(self, words: Sequence[str]) -> int:
        return 1 if words[0].lower() == NONE else self.kind.count(words)

    def read(self, words: Sequence[str]) -> Any:
        return None if len(words) == 1 and words[0].lower() == NONE else self.kind.read(words)

    def show(self, value: Any) -> str:
        return NONE if value is None else self.kind.show(value)


def join_words(words: Sequence[str]) -> str:
    """``a, b or c``."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
