"""Standard output and error, whatever stands in their place: a file, a notebook's stream, or nothing at all.

In a notebook ``sys.stdout`` takes text only and has no file beneath it; in a process without a console it is None.
"""

from __future__ import annotations

import codecs
import contextlib
import sys
from typing import Protocol, TextIO


def flush_standard_streams() -> None:
    """Hands on what was printed so far."""
    for stream in (sys.stdout, sys.stderr):
        _flush(stream)


def write_error(text: str) -> None:
    """Writes to standard error at once."""
    with contextlib.suppress(AttributeError, ValueError):  # there is none, or it is closed
        sys.stderr.write(text)
    _flush(sys.stderr)


class ByteSink(Protocol):
    """A stream that takes bytes."""

    def write(self, data: bytes, /) -> object:
        """Writes all of it."""

    def flush(self) -> None:
        """Hands on what was written so far."""


class ErrorBytes:
    """Standard error as a sink of bytes, which are UTF-8 where it takes text only."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def write(self, data: bytes) -> None:
        """Writes all of it."""
        try:
            sys.stderr.buffer.write(data)
        except AttributeError:
            write_error(self._decoder.decode(data))
        except ValueError:
            pass  # it is closed

    def flush(self) -> None:
        """Hands on what was written so far."""
        _flush(sys.stderr)


def is_terminal(stream: TextIO | None) -> bool:
    """Returns whether a person looks at a stream through a terminal."""
    try:
        return stream is not None and stream.isatty()
    except (AttributeError, ValueError):
        return False


def accept_any_character() -> None:
    """Lets standard streams of a narrow encoding write what they lack in escapes, where printing it would raise."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _flush(stream: TextIO | None) -> None:
    with contextlib.suppress(AttributeError, ValueError, OSError):
        stream.flush()  # type: ignore[union-attr]
