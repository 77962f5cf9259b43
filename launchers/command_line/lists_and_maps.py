"""Kinds of values with several parts: lists and maps, in shell's forms and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from marl.launchers.command_line.kinds import Choice, Count, Kind, Number, ValueRefused


@dataclass(frozen=True, slots=True)
class Several(Kind):
    """Several values of one kind: ``64 64``, ``64,64`` or ``[64, 64]``.

    Args:
        item: the kind of each.
        length: how many there are; None for any number.
    """

    item: Kind
    length: int | None = None

    @property
    def metavar(self) -> str:
        return f"{self.item.metavar} ..." if self.length is None else " ".join([self.item.metavar] * self.length)

    @property
    def wanted(self) -> str:
        if isinstance(self.item, (Count, Number)):
            whole = "whole " if isinstance(self.item, Count) else ""
            example = "64 64 or [64, 64]" if whole else "0.5 20 or [0.5, 20]"
            many = "one or more" if self.length is None else _NUMERALS[self.length]
            return f"{many} {whole}numbers, for instance {example}"
        return 'one or more words, for instance a b or \'["a", "b"]\''

    def count(self, words: Sequence[str]) -> int:
        if words[0][:1] in ("[", "("):
            return _until(words, ("]", ")"))
        if self.length is None:
            return len(words)
        return 1 if "," in words[0] else min(self.length, len(words))

    def read(self, words: Sequence[str]) -> tuple[Any, ...]:
        text = " ".join(words).strip()
        items: list[str]
        if text[:1] in ("[", "(") and text[-1:] in ("]", ")"):
            items = _listed(text)
        elif len(words) == 1 and "," in text:
            items = [part.strip() for part in text.removesuffix(",").split(",")]
        else:
            items = list(words)
        if self.length not in (None, len(items)):
            raise ValueRefused
        return tuple(self.item.read([item]) for item in items)

    def show(self, value: Any) -> str:
        return " ".join(map(self.item.show, value))


_NUMERALS: Final = {2: "two", 3: "three"}


@dataclass(frozen=True, slots=True)
class Pairs(Kind):
    """Values by name: ``a=1 b=2``, ``a=1,b=2``, ``a 1 b 2``, or a JSON object.

    Args:
        example: pairs, for messages.
        texts: whether values are words; otherwise they are read as JSON where they are JSON.
        as_json: whether the result is the text of a JSON object instead of a dict.
    """

    example: str
    texts: bool = False
    as_json: bool = False

    @property
    def metavar(self) -> str:
        return "NAME=VALUE ..."

    @property
    def wanted(self) -> str:
        pairs = dict(part.split("=") for part in self.example.split())
        values = {name: value if self.texts else _json_or_text(value) for name, value in pairs.items()}
        return f"pairs or a JSON object, for instance {self.example} or '{json.dumps(values)}'"

    def count(self, words: Sequence[str]) -> int:
        if words[0].startswith("{"):
            return _until(words, ("}",))
        if "=" not in words[0]:
            return len(words)
        return next((index for index, word in enumerate(words) if "=" not in word), len(words))

    def read(self, words: Sequence[str]) -> Any:
        if words[0].lstrip().startswith("{"):
            pairs = self._from_json(" ".join(words))
        else:
            if len(words) == 1 and all("=" in part for part in words[0].split(",")):
                words = words[0].split(",")
            if all("=" in word for word in words):
                flat = [part for word in words for part in word.split("=", 1)]
            elif len(words) % 2 == 0 and not any("=" in word for word in words):
                flat = list(words)
            else:
                raise ValueRefused
            values = flat[1::2] if self.texts else [_json_or_text(value) for value in flat[1::2]]
            pairs = list(zip(flat[::2], values, strict=True))
        names = [name for name, _ in pairs]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueRefused(f"{twice[0]!r} is named twice")
        if not all(names) or (self.texts and not all(isinstance(value, str) and value for _, value in pairs)):
            raise ValueRefused
        return json.dumps(dict(pairs)) if self.as_json else dict(pairs)

    def _from_json(self, text: str) -> list[tuple[str, Any]]:
        try:
            pairs = json.loads(text, object_pairs_hook=_Object, parse_constant=_no_constant)
        except ValueError as error:
            raise ValueRefused(f"as JSON it is wrong ({error})") from None
        assert isinstance(pairs, _Object)
        return [(name, _plain(value)) for name, value in pairs.pairs]

    def show(self, value: Any) -> str:
        if isinstance(value, str):
            value = json.loads(value)
        return " ".join(f"{name}={part if isinstance(part, str) else json.dumps(part)}" for name, part in value.items())


@dataclass(frozen=True, slots=True)
class ChoiceOrPairs(Kind):
    """One of several words, or values by name."""

    choice: Choice
    pairs: Pairs

    @property
    def metavar(self) -> str:
        return f"{self.choice.metavar}|{self.pairs.metavar}"

    @property
    def wanted(self) -> str:
        return f"{', '.join(self.choice.choices)}, or {self.pairs.wanted}"

    def count(self, words: Sequence[str]) -> int:
        return 1 if words[0] in self.choice.choices else self.pairs.count(words)

    def read(self, words: Sequence[str]) -> Any:
        if len(words) == 1 and "=" not in words[0] and not words[0].startswith("{"):
            return self.choice.read(words)
        return self.pairs.read(words)

    def show(self, value: Any) -> str:
        return value if isinstance(value, str) else self.pairs.show(value)


def _until(words: Sequence[str], ends: tuple[str, ...]) -> int:
    """Words up to the one that closes a bracket; a shell has divided them where quotes were left out."""
    return next((index + 1 for index, word in enumerate(words) if word.endswith(ends)), len(words))


def _listed(text: str) -> list[str]:
    try:
        values = json.loads(f"[{text[1:-1].strip().removesuffix(',')}]", parse_int=str, parse_float=str)
    except ValueError:
        return [part.strip().strip("'\"") for part in text[1:-1].split(",") if part.strip()]
    return [value if isinstance(value, str) else json.dumps(value) for value in values]


def _json_or_text(word: str) -> Any:
    """The JSON that a word is, True, False and None included; else the word."""
    try:
        return json.loads(
            {"True": "true", "False": "false", "None": "null"}.get(word, word), parse_constant=_no_constant
        )
    except ValueError:
        return word


class _Object:
    """A JSON object with all its pairs, of which a dict would keep the last of equal names."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs


def _plain(value: Any) -> Any:
    if isinstance(value, _Object):
        return {name: _plain(part) for name, part in value.pairs}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number")
