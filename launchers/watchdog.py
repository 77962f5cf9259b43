"""Noticing a rank that is stuck, without a call to MPI: what every rank writes down, and who reads it.

Each rank keeps a small file in the run directory's ``ranks`` folder that says how many updates it has done, how many
collectives it has entered and left, and which one it is in. A thread in every rank (and the supervisor) reads all of
them. Nobody compares clocks: a rank stands still if its file has not changed for a while on the reader's own clock. On
several hosts this needs a run directory that all of them see; ranks whose files are not seen are not watched.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import shutil
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from launchers.processes import identity, is_stopped

if TYPE_CHECKING:  # the supervisor reads along without loading torch
    from marl.counters import Counter

DUMP_SIGNAL: Final = signal.SIGUSR2
LONGEST_END: Final = 300.0
"""Seconds without progress that are borne at least, once a rank has left training: W&B alone may take 90 to finish."""
_RECORD: Final = struct.Struct("<6q")
_HEADER: Final = 64
"""Where the part of the file begins that never changes."""
_KINDS: Final = ("all_reduce", "broadcast", "gather_rows")
_OUTERMOST: Final = ("<module>", "_run_module_as_main")
"""Where a main thread's stack ends, with ``python FILE`` and with ``python -m MODULE``."""
_FRAME: Final = re.compile(r'  File "(.*)", line (\d+) in (.*)')


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


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who is late, and what is known of it."""

    late: tuple[int, ...]
    reason: str

    def save(self, folder: Path) -> bool:
        """Writes it into the folder; False if somebody else was first."""
        try:
            descriptor = os.open(folder / "verdict.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            return False
        except OSError:
            return True
        with os.fdopen(descriptor, "w") as file:
            json.dump({"late": self.late, "reason": self.reason}, file)
        return True

    @classmethod
    def load(cls, folder: Path) -> Verdict | None:
        """The one that was written; None where there is none."""
        try:
            value = json.loads((folder / "verdict.json").read_bytes())
            return cls(tuple(value["late"]), str(value["reason"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def judge(beats: Sequence[Beat]) -> Verdict:
    """Which ranks the others wait for, and why, when a job stands still."""
    stopped = [beat for beat in beats if beat.is_here and is_stopped(beat.pid)]
    if stopped:
        return Verdict(_ranks(stopped), f"{_name(stopped)} stopped by a signal (SIGSTOP) and did not go on")
    gone = [beat for beat in beats if beat.is_here and identity(beat.pid) != beat.identity]
    if gone:
        return Verdict(_ranks(gone), f"{_name(gone)} gone without a word")
    furthest = max(beat.entered for beat in beats)
    ahead = [beat for beat in beats if beat.entered == furthest]
    behind = [beat for beat in beats if beat.entered < furthest]
    # All that entered the newest collective but one that has left it already: that one is late for the next.
    behind = behind or [beat for beat in ahead if not beat.waits]
    if behind:
        # Whoever is at work holds up those that have left training, and both those that wait.
        least = min((beat.waits, beat.over) for beat in behind)
        late = [beat for beat in behind if (beat.waits, beat.over) == least]
        waiting = [beat for beat in ahead if beat.waits]
        work = "at its end" if late[0].over else "in its own work"
        where = f"in {late[0].collective}" if late[0].waits else work
        wait = f"; {_name(waiting)} waiting in {waiting[0].collective}" if waiting else ""
        return Verdict(_ranks(late), f"{_name(late)} late, {where} since update {late[0].updates}{wait}")
    kinds = {beat.collective for beat in beats}
    if len(kinds) > 1:
        parts = ", ".join(f"rank {beat.rank} is in {beat.collective}" for beat in beats)
        return Verdict(_ranks(beats), f"the ranks' collectives are out of step: {parts}")
    return Verdict(_ranks(beats), f"all ranks are in {beats[0].collective}, which does not end: MPI or the network")


def _ranks(beats: Sequence[Beat]) -> tuple[int, ...]:
    return tuple(beat.rank for beat in beats)


def _name(beats: Sequence[Beat]) -> str:
    if len(beats) == 1:
        return f"rank {beats[0].rank} is"
    return f"ranks {', '.join(str(beat.rank) for beat in beats)} are"


class Observer:
    """Reads all heartbeats again and again, and says when one stands still.

    Args:
        folder: where they are.
        timeout: seconds without a change that are too many; ``LONGEST_END`` at least once a rank has left training.
        clock: seconds that never go back; ``time.monotonic`` but in tests.
        former: beats of a job before this one, which stand still until the ranks of this one remove them.
    """

    def __init__(
        self,
        folder: Path,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        former: Sequence[Beat] = (),
    ) -> None:
        self._folder = folder
        self._former = {(beat.host, beat.pid, beat.identity) for beat in former}
        self._timeout = timeout
        self._clock = clock
        self._seen: dict[int, tuple[Beat, float]] = {}
        self._last = clock()

    def look(self) -> Verdict | None:
        """The verdict over a job that stands still; None while it does not. To be asked often."""
        now = self._clock()
        if now - self._last > max(5.0, self._timeout / 2):
            # This process stood still itself: the job was suspended as a whole, and nobody is late.
            self._seen.clear()
        self._last = now
        beats = [beat for beat in read_beats(self._folder) if (beat.host, beat.pid, beat.identity) not in self._former]
        for beat in beats:
            if beat.rank not in self._seen or self._seen[beat.rank][0] != beat:
                self._seen[beat.rank] = (beat, now)
        # Once a rank has left training the job is about to end, and what takes long then has limits of its own.
        timeout = max(self._timeout, LONGEST_END) if any(beat.over for beat in beats) else self._timeout
        if not any(now - self._seen[beat.rank][1] > timeout for beat in beats):
            return None
        return judge(beats)


class Watchdog:
    """A thread that ends this rank when the job stands still, or when what started the rank is gone.

    Each writes its stacks; whoever notices first says why, and asks those of its machine that have not written; then
    every rank leaves without another word to MPI, and mpirun ends what is left.

    Args:
        folder: where the heartbeats are.
        timeout: seconds; 0 to watch only over what started the rank.
        stacks: where this rank's stacks go; None for standard error.
        follows_parent: whether to end when the parent process is gone, as a rank of mpirun should.
        heartbeat: this rank's, to be kept fresh.
        leave: ends this process; ``os._exit`` but in tests.
    """

    def __init__(
        self,
        folder: Path,
        timeout: float,
        *,
        stacks: int | None = None,
        follows_parent: bool = False,
        heartbeat: Heartbeat | None = None,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._folder = folder
        self._observer = Observer(folder, timeout) if timeout > 0 else None
        self._interval = min(1.0, timeout / 5) if timeout > 0 else 1.0
        self._stacks = stacks
        self._parent = os.getppid() if follows_parent else None
        self._heartbeat = heartbeat
        self._leave = leave
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self._interval):
            if self._parent is not None and os.getppid() != self._parent:
                # mpirun was killed. Nobody else will end this rank, and its collectives may wait for ever.
                self._leave(1)
                return
            if self._heartbeat is not None:
                self._heartbeat.refresh()
            if self._observer is not None and (verdict := self._observer.look()) is not None:
                self._end(verdict)
                return

    def _end(self, verdict: Verdict) -> None:
        first = verdict.save(self._folder)
        if first:
            sys.stderr.write(f"marl: {verdict.reason}; stacks are in {self._folder}\n")
            sys.stderr.flush()
        self._write_stacks()
        # Ranks whose Python runs notice soon and write their own. A signal is for the others: its handler reads the
        # frames of threads that go on running.
        time.sleep(2 * self._interval + 0.5)
        if first:
            silent = [beat for beat in read_beats(self._folder) if not _has_stacks(self._folder, beat.rank)]
            dump_stacks(silent)
        # The others' stacks come while they still wait, and the first to leave ends them all.
        time.sleep(1.0)
        self._leave(1)

    def _write_stacks(self) -> None:
        if self._stacks is not None:
            faulthandler.dump_traceback(self._stacks, all_threads=True)
        else:
            faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)


def _has_stacks(folder: Path, rank: int) -> bool:
    try:
        return (folder / f"{rank}.stack").stat().st_size > 0
    except OSError:
        return False


def dump_stacks(beats: Sequence[Beat]) -> None:
    """Asks all ranks of this machine to write down where their Python is; a stopped one does it as it goes on."""
    for beat in beats:
        # To a rank that has left training the signal would be the end.
        if beat.is_here and not beat.over and beat.pid != os.getpid() and identity(beat.pid) == beat.identity:
            with contextlib.suppress(OSError):
                os.kill(beat.pid, DUMP_SIGNAL)
                if is_stopped(beat.pid):
                    os.kill(beat.pid, signal.SIGCONT)


@contextlib.contextmanager
def watched_rank(folder: Path, heartbeat: Heartbeat, rank: int, *, timeout: float, in_job: bool) -> Iterator[None]:
    """Writes heartbeats and, on demand or at the end, stacks into a folder; ends the rank if the job stands still.

    What a rank that ends badly wrote stays there: ``RANK.beat``, ``RANK.stack``, ``RANK.error``, ``verdict.json``.

    Args:
        folder: ``ranks`` in the run directory; where it is missing (another host's disk), nothing is written.
        heartbeat: this rank's.
        rank: its number.
        timeout: seconds without progress that are too many; 0 for any.
        in_job: whether this process is a rank of a job, whose signals and crashes are its own.
    """
    heartbeat.open(folder)
    try:
        stacks = os.open(folder / f"{rank}.stack", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError:
        stacks = -1
    in_job = in_job and stacks >= 0
    if in_job:
        faulthandler.enable(stacks, all_threads=True)
        faulthandler.register(DUMP_SIGNAL, stacks, all_threads=True)
        # mpirun ends the other ranks with SIGTERM when one has died.
        faulthandler.register(signal.SIGTERM, stacks, all_threads=True, chain=True)
    try:
        if timeout > 0 or in_job:
            with Watchdog(
                folder,
                timeout,
                stacks=stacks if stacks >= 0 else None,
                follows_parent=in_job,
                heartbeat=heartbeat,
            ):
                yield
        else:
            yield
    except BaseException as error:
        heartbeat.fail(f"{type(error).__name__}: {' '.join(str(error).split())}")
        raise
    finally:
        heartbeat.end()
        if in_job:
            faulthandler.unregister(signal.SIGTERM)
            faulthandler.unregister(DUMP_SIGNAL)
            faulthandler.disable()
        heartbeat.close()
        if stacks >= 0:
            os.close(stacks)


def make_folder(folder: Path) -> None:
    """An empty folder for this attempt's files; done by one rank before the others begin."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.mkdir()


def read_frame(folder: Path, rank: int) -> str | None:
    """Where a rank's main thread was when it last wrote its stacks: ``FILE:LINE in FUNCTION``."""
    try:
        lines = (folder / f"{rank}.stack").read_text(errors="replace").splitlines()
    except OSError:
        return None
    stacks: list[list[tuple[str, str, str]]] = []
    for line in lines:
        if line.endswith("(most recent call first):"):
            stacks.append([])
        elif stacks and (match := _FRAME.fullmatch(line)):
            stacks[-1].append((match[1], match[2], match[3]))
    # The main thread is the oldest, and the oldest is written last, unless the process ended while it wrote.
    whole = [stack for stack in stacks if stack and stack[-1][2] in _OUTERMOST] or [stack for stack in stacks if stack]
    if not whole:
        return None
    file, number, function = whole[-1][0]
    return f"{file}:{number} in {function}"
