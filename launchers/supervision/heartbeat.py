"""Heartbeats: a small file of each rank with its updates and collectives."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from marl.launchers.jobs.processes import identity

if TYPE_CHECKING:  # the supervisor reads heartbeats without loading torch
    from marl.counters import Counter


_RECORD: Final = struct.Struct("<7q")
_HEADER: Final = 64
"""Offset of the constant part of the file."""
ALL_REDUCE, BROADCAST, GATHER_ROWS = range(3)
_KINDS: Final = ("all_reduce", "broadcast", "gather_rows")
_BEAT_SECONDS: Final = 0.05
"""Least time between two signs of life that are written; environments may be stepped thousands of times a second."""


class Heartbeat:
    """Writes one rank's progress to its file; costs a system call at the begin and end of each collective.

    Args:
        rank: the rank.

    Attributes:
        counter: the source of the number of updates; None before there is one.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._descriptor = -1
        self._folder: Path | None = None
        self._entered = self._left = self._kind = self._size = self._signs = 0
        self._next_sign = 0.0
        self._over = False
        self.counter: Counter | None = None

    def open(self, folder: Path) -> None:
        """Opens ``folder/RANK.beat``; if that fails, the rank is not watched."""
        with contextlib.suppress(OSError):
            descriptor = os.open(folder / f"{self._rank}.beat", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
            header = {"host": socket.gethostname(), "pid": os.getpid(), "identity": identity(os.getpid())}
            os.pwrite(descriptor, json.dumps(header).encode(), _HEADER)
            self._descriptor, self._folder = descriptor, folder
            self._write()

    def enter(self, kind: int, size: int) -> None:
        """Records that this rank enters a collective of this kind and number of bytes."""
        self._entered += 1
        self._kind, self._size = kind, size
        self._write()

    def leave(self) -> None:
        """Records that this rank has left the collective."""
        self._left += 1
        self._write()

    def beat(self) -> None:
        """Records that this rank gets on with work without collectives, such as an evaluation; call it often."""
        now = time.monotonic()
        if now >= self._next_sign:
            self._next_sign = now + _BEAT_SECONDS
            self._signs += 1
            self._write()

    def refresh(self) -> None:
        """Records the newest number of updates, which may have grown since the last collective."""
        self._write()

    def end(self) -> None:
        """Records that this rank has left training, in order or by an error."""
        self._over = True
        self._write()

    def fail(self, reason: str) -> None:
        """Records the reason why this rank fails."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                (self._folder / f"{self._rank}.error").write_text(reason)

    def close(self) -> None:
        """Closes the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self) -> None:
        if self._descriptor >= 0:
            updates = -1 if self.counter is None else self.counter.updates
            record = _RECORD.pack(updates, self._entered, self._left, self._kind, self._size, self._over, self._signs)
            # A full disk or an unreachable file server must not end a run that is only watched.
            with contextlib.suppress(OSError):
                os.pwrite(self._descriptor, record, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """A rank's newest heartbeat.

    Attributes:
        rank: the rank.
        host: the name of its host.
        pid: its process id.
        identity: see ``processes.identity``.
        updates: updates done; -1 before training began.
        entered: collectives entered.
        left: collectives left.
        kind: the newest collective.
        size: the bytes of the newest collective.
        over: whether the rank has left training, in order or by an error; it then no longer handles signals.
        signs: signs of life in work without collectives.
    """

    rank: int
    host: str
    pid: int
    identity: str | None
    updates: int
    entered: int
    left: int
    kind: str
    size: int
    over: bool = False
    signs: int = 0

    @property
    def waits(self) -> bool:
        """True in a collective."""
        return self.entered > self.left

    @property
    def collective(self) -> str:
        """The kind and size of the newest collective."""
        return f"{self.kind} of {self.size:,} bytes" if self.size else self.kind

    @property
    def is_here(self) -> bool:
        """True if the rank is a process of this machine."""
        return self.host == socket.gethostname()


def read_beats(folder: Path) -> list[Beat]:
    """Reads the heartbeats of all ranks, in rank order, without files that cannot be read, or not yet."""
    beats = []
    try:
        names = os.listdir(folder)
    except FileNotFoundError:  # the run is over, maybe just now
        return []
    for path in (folder / name for name in names if name.endswith(".beat")):
        try:
            data = path.read_bytes()
            header = json.loads(data[_HEADER:])
            updates, entered, left, kind, size, over, signs = _RECORD.unpack(data[: _RECORD.size])
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
                signs=signs,
            )
        )
    return sorted(beats, key=lambda beat: beat.rank)
