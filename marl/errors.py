"""The exception for invalid user input, and suggestions for mistyped words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Raised for invalid user input. The message is one line: the cause, and the way out; commands exit with code 2."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` with the nearest known word, or all of them where none is near."""
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(words)}"
