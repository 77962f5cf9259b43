"""Exceptions for invalid user input and for an end in order, and suggestions for mistyped words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Raised for invalid user input. The message is one line: the cause, and the way out; commands exit with code 2."""


class OrderlyExit(SystemExit):
    """Raised by marl itself to leave with an exit code, once everything is said that is to be said.

    Any other SystemExit is somebody else's, an environment's for instance, and no end of the work.
    """


def closest(word: str, known: Iterable[str], *, cutoff: float = 0.5) -> str | None:
    """The known word that is most like ``word``, whatever the case; None where none is (a ``cutoff`` in 0 to 1)."""
    lower = {one.lower(): one for one in known}
    return lower.get(next(iter(difflib.get_close_matches(word.lower(), lower, n=1, cutoff=cutoff)), ""))


def nearest(word: str, known: Iterable[str], *, prefix: str = "", list_all: bool = True) -> str:
    """``; did you mean 'x'?`` with the closest known word, or all of them where none is close.

    Args:
        word: as it was typed, without the prefix.
        known: words that there are.
        prefix: put before each known word.
        list_all: whether all are listed where none is close; otherwise there is no suggestion then.
    """
    words = sorted(known)
    near = closest(word, words)
    if near is not None:
        return f"; did you mean {prefix + near!r}?"
    return f"; there are {', '.join(prefix + known for known in words)}" if list_all else ""
