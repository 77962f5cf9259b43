"""The one exception that means: the user can mend this."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Wrong input. The message is one clear line: the cause, and the way out; commands exit with code 2."""


def closest(word: str, known: Iterable[str], *, cutoff: float = 0.5) -> str | None:
    """The known word that is most like ``word``; None where none is like it (a similarity of ``cutoff`` in 0 to 1)."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)), None)


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` with the closest known word, or all of them where none is close."""
    words = sorted(known)
    near = closest(word, words)
    return f"; there are {', '.join(words)}" if near is None else f"; did you mean {near!r}?"
