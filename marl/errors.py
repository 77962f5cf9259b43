"""The exception for invalid user input, and suggestions for mistyped words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Raised for invalid user input. The message is one line: the cause, and the way out; commands exit with code 2."""


def nearest(word: str, known: Iterable[str], *, prefix: str = "", list_all: bool = True) -> str:
    """``; did you mean 'x'?`` with the nearest known word, or all of them where none is near.

    Args:
        word: as it was typed, without the prefix.
        known: words that there are.
        prefix: put before each known word.
        list_all: whether all are listed where none is near; otherwise there is no suggestion then.
    """
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {prefix + near[0]!r}?"
    return f"; there are {', '.join(prefix + known for known in words)}" if list_all else ""
