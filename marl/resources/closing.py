"""The closing of things of others' make, whose failure must cost neither what was done nor what is closed after."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final, Protocol

_LOG: Final = logging.getLogger("marl")
_told: Final[set[str]] = set()
"""Lines that were printed: a run makes and closes the same environments many times."""


class Closeable(Protocol):
    """Something with an end."""

    def close(self) -> object:
        """Frees what it holds."""


def close_all(parts: Iterable[Closeable], what: str, *, quiet: bool = False) -> None:
    """Closes every one of them, whichever raise; the first error of a kind is told once, in one line.

    Args:
        parts: to be closed, in order.
        what: they are, for the line.
        quiet: whether another rank tells it.
    """
    for part in parts:
        try:
            part.close()
        except (Exception, SystemExit) as error:
            reason = " ".join(str(error).split())[:200]
            line = f"marl: closing {what} raised {type(error).__name__}{f': {reason}' if reason else ''}"
            if not quiet and line not in _told:
                _told.add(line)
                _LOG.warning("%s; nothing is lost by it", line)
