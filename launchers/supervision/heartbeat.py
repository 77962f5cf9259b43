"""Heartbeat."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from marl.launchers.jobs.processes import identity

if TYPE_CHECKING:  # the supervisor reads along without loading torch
    from marl.counters import Counter


_RECORD: Final = struct.Struct("<6q")
_HEADER: Final = 64
"""Where the part of the file begins that never changes."""
_KINDS: Final = ("all_reduce", "broadcast", "gather_rows")


class Heartbeat:
    """What one rank writes down about itself; costs a system call at each collective's begin and end.

    Args:
        rank: whose.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._descriptor = -1
        self._folder: Path | None = None
        self._entered = self._left = self._kind = self._size = 0
        self._over = False
        self.counter: Counter | None = None
        """Where the number of updates is read; None while there is none."""

    def open(self, folder: Path) -> None:
        """Begins to write into ``folder/RANK.beat``; where that is impossible, the rank is not watched."""
        with contextlib.suppress(OSError):
            descriptor = os.open(folder / f"{self._rank}.beat", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
            header = {"host": socket.gethostname(), "pid": os.getpid(), "identity": identity(os.getpid())}
            os.pwrite(descriptor, json.dumps(header).encode(), _HEADER)
            self._descriptor, self._folder = descriptor, folder
            self._write()

    def enter(self, kind: int, size: int) -> None:
        """Says that this rank enters a collective, of so many bytes."""
        self._entered += 1
        self._kind, self._size = kind, size
        self._write()

    def leave(self) -> None:
        """Says that it is over."""
        self._left += 1
        self._write()

    def refresh(self) -> None:
        """Writes the newest number of updates, which may have grown since the last collective."""
        self._write()

    def end(self) -> None:
        """Says that this rank has left training, in order or not, and that its updates need not be waited for."""
        self._over = True
        self._write()

    def fail(self, reason: str) -> None:
        """Says why this rank ends."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                (self._folder / f"{self._rank}.error").write_text(reason)

    def close(self) -> None:
        """Stops writing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self) -> None:
        if self._descriptor >= 0:
            updates = -1 if self.counter is None else self.counter.updates
            record = _RECORD.pack(updates, self._entered, self._left, self._kind, self._size, self._over)
            # A full disk or a file server that is away must not end the run that this only watches.
            with contextlib.suppress(OSError):
                os.pwrite(self._descriptor, record, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What a rank wrote down last."""

    rank: int
    host: str
    pid: int
    identity: str | None
    updates: int
    """Updates done; -1 before training began."""
    entered: int
    """Collectives entered."""
    left: int
    """Collectives that are over."""
    kind: str
    """The newest collective."""
    size: int
    """Its bytes."""
    over: bool = False
    """Whether the rank has left training, in order or not: it closes what it holds, and no longer writes stacks."""

    @property
    def waits(self) -> bool:
        """Whether it is within a collective."""
        return self.entered > self.left

    @property
    def collective(self) -> str:
        """The newest collective in words."""
        return f"{self.kind} of {self.size:,} bytes" if self.size else self.kind

    @property
    def is_here(self) -> bool:
        """Whether the rank is a process of this machine."""
        return self.host == socket.gethostname()


def read_beats(folder: Path) -> list[Beat]:
    """What all ranks wrote down, in their order; files that cannot be read, or not yet, are left out."""
    beats = []
    for path in folder.glob("*.beat"):
        try:
            data = path.read_bytes()
            header = json.loads(data[_HEADER:])
            updates, entered, left, kind, size, over = _RECORD.unpack(data[: _RECORD.size])
        except (OSError, ValueError, struct.error):
            continue
        beats.append(
            Beat(
                rank=int(path.stem),
                **header,
                updates=updates,
                entered=entered,
                left=left,
                kind=_KINDS[kind],
                size=size,
                over=bool(over),
            )
        )
    return sorted(beats, key=lambda beat: beat.rank)
