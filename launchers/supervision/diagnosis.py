"""Diagnosis of a job that hangs: the ranks that are late, and the stacks of their threads."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from marl.launchers.jobs.processes import identity, is_stopped
from marl.launchers.supervision.heartbeat import Beat, read_beats

DUMP_SIGNAL: Final = signal.SIGUSR2
SHUTDOWN_TIMEOUT: Final = 300.0
"""Least seconds without progress that count as a hang once a rank has left training: W&B may take 90 to finish."""
_OUTERMOST: Final = ("<module>", "_run_module_as_main")
"""The outermost function of a main thread's stack, with ``python FILE`` and with ``python -m MODULE``."""
_FRAME: Final = re.compile(r'  File "(.*)", line (\d+) in (.*)')


@dataclass(frozen=True, slots=True)
class Verdict:
    """The diagnosis of a hanging job.

    Attributes:
        late: the ranks that the others wait for.
        reason: one line for the user.
    """

    late: tuple[int, ...]
    reason: str

    def save(self, folder: Path) -> bool:
        """Writes it into the folder; returns False if another process was first."""
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
        """Reads the verdict that was written; None if there is none."""
        try:
            value = json.loads((folder / "verdict.json").read_bytes())
            return cls(tuple(value["late"]), str(value["reason"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def find_hang(beats: Sequence[Beat], silent: Collection[int]) -> Verdict | None:
    """Finds the ranks that hang, or returns None: those that are silent may wait for one that gets on with its work.

    Args:
        beats: of all ranks.
        silent: ranks whose heartbeats have not changed for long.
    """
    if not silent:
        return None
    verdict = judge(beats)
    hung = [rank for rank in verdict.late if rank in silent]
    if len(hung) == len(verdict.late):
        return verdict
    if not hung or len(verdict.late) == len(beats):
        return None
    # Of those that the others wait for, these get on with their work and those do not.
    return judge([beat for beat in beats if beat.rank in silent or beat.rank not in verdict.late])


def judge(beats: Sequence[Beat]) -> Verdict:
    """Finds the ranks that the others of a hanging job wait for, and the reason."""
    stopped = [beat for beat in beats if beat.is_here and is_stopped(beat.pid)]
    if stopped:
        return Verdict(_ranks(stopped), f"{_name(stopped)} stopped by a signal (SIGSTOP) and did not go on")
    gone = [beat for beat in beats if beat.is_here and identity(beat.pid) != beat.identity]
    if gone:
        return Verdict(_ranks(gone), f"{_name(gone)} gone without a word")
    furthest = max(beat.entered for beat in beats)
    ahead = [beat for beat in beats if beat.entered == furthest]
    behind = [beat for beat in beats if beat.entered < furthest]
    # All have entered the newest collective; a rank that has left it already is late for the next one.
    behind = behind or [beat for beat in ahead if not beat.waits]
    if behind:
        # Ranks in their own work delay those that have left training, and both delay those in a collective.
        first = min((beat.waits, beat.over) for beat in behind)
        late = [beat for beat in behind if (beat.waits, beat.over) == first]
        waiting = [beat for beat in ahead if beat.waits]
        work = "at its end" if late[0].over else "in its own work"
        where = f"in {late[0].collective}" if late[0].waits else work
        others = f"; {_name(waiting)} waiting in {waiting[0].collective}" if waiting else ""
        return Verdict(_ranks(late), f"{_name(late)} late, {where} since update {late[0].updates}{others}")
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
    """Polls all heartbeats, and detects when one has stopped.

    Args:
        folder: the folder of the heartbeats.
        timeout: seconds without a change that count as a hang; ``SHUTDOWN_TIMEOUT`` at least once a rank has left
            training.
        clock: monotonic seconds; another one in tests.
        ignored: beats of a job before this one, which stay there until the ranks of this one remove them.
    """

    def __init__(
        self,
        folder: Path,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        ignored: Sequence[Beat] = (),
    ) -> None:
        self._folder = folder
        self._ignored = {(beat.host, beat.pid, beat.identity) for beat in ignored}
        self._timeout = timeout
        self._clock = clock
        self._seen: dict[int, tuple[Beat, float]] = {}
        self._last = clock()

    def poll(self) -> Verdict | None:
        """Returns the verdict over a job that hangs; None while it does not. To be called often."""
        now = self._clock()
        if now - self._last > max(5.0, self._timeout / 2):
            # This process was not running itself: the job was suspended as a whole, and no rank is late.
            self._seen.clear()
        self._last = now
        beats = [beat for beat in read_beats(self._folder) if (beat.host, beat.pid, beat.identity) not in self._ignored]
        for beat in beats:
            if beat.rank not in self._seen or self._seen[beat.rank][0] != beat:
                self._seen[beat.rank] = (beat, now)
        # Once a rank has left training the job is about to end, and shutdown has timeouts of its own.
        timeout = max(self._timeout, SHUTDOWN_TIMEOUT) if any(beat.over for beat in beats) else self._timeout
        return find_hang(beats, [beat.rank for beat in beats if now - self._seen[beat.rank][1] > timeout])


def has_stacks(folder: Path, rank: int) -> bool:
    """Returns whether a rank has dumped its stacks."""
    try:
        return (folder / f"{rank}.stack").stat().st_size > 0
    except OSError:
        return False


def dump_stacks(beats: Sequence[Beat]) -> None:
    """Signals all ranks of this machine to dump their Python stacks; a stopped one does it when it continues."""
    for beat in beats:
        # A rank that has left training handles the signal no more and would die.
        if beat.is_here and not beat.over and beat.pid != os.getpid() and identity(beat.pid) == beat.identity:
            with contextlib.suppress(OSError):
                os.kill(beat.pid, DUMP_SIGNAL)
                if is_stopped(beat.pid):
                    os.kill(beat.pid, signal.SIGCONT)


def read_frame(folder: Path, rank: int) -> str | None:
    """Returns the innermost frame of a rank's main thread in its last dump, as ``FILE:LINE in FUNCTION``."""
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
    # The main thread is the oldest, and is dumped last, unless the process ended during the dump.
    stacks = [stack for stack in stacks if stack]
    complete = [stack for stack in stacks if stack[-1][2] in _OUTERMOST] or stacks
    if not complete:
        return None
    file, number, function = complete[-1][0]
    return f"{file}:{number} in {function}"
