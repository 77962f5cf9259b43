"""The reason why a job failed, from the files of its ranks and the notices of mpirun."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Final

from marl.launchers.jobs.job import JobResult
from marl.launchers.supervision.diagnosis import Verdict, read_frame
from marl.launchers.supervision.heartbeat import Beat, read_beats

_KILLED: Final = re.compile(rb"process rank (\d+)[^\0]*?exited on\s+signal (\d+)")
_FATAL: Final = re.compile(r"^Fatal Python error: (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The reason why a job failed, from its ranks' files and mpirun's notices.

    Attributes:
        update: updates that were done; -1 if training had not begun.
        cause: the rank, and its signal or exception.
        ranks: the state of each rank, in one line.
    """

    update: int
    cause: str
    ranks: tuple[str, ...]


def explain_failure(result: JobResult, folder: Path, verdict: Verdict | None = None) -> Failure:
    """Finds the reason why a job failed.

    Args:
        result: mpirun's exit code and notices.
        folder: the ranks' files.
        verdict: the supervisor's own, if it ended the job.
    """
    beats = read_beats(folder)
    verdict = Verdict.load(folder) or verdict
    return Failure(
        update=max((beat.updates for beat in beats), default=-1),
        cause=verdict.reason if verdict is not None else _cause(result, folder, beats),
        ranks=tuple(_describe(beat, folder) for beat in beats),
    )


def _cause(result: JobResult, folder: Path, beats: list[Beat]) -> str:
    killed = _KILLED.search(result.notices)
    for beat in beats:
        stack = folder / f"{beat.rank}.stack"
        if stack.exists() and (fatal := _FATAL.search(stack.read_text(errors="replace"))):
            return f"rank {beat.rank} crashed: {fatal[1]}"
    paths = [(beat.rank, folder / f"{beat.rank}.error") for beat in beats]
    errors = [(path.stat().st_mtime, rank, path.read_text()) for rank, path in paths if path.exists()]
    if killed is not None:
        return f"rank {int(killed[1])} was killed by {_signal(int(killed[2]))}"
    if errors:
        _, rank, error = min(errors)
        return f"rank {rank} raised {error}"
    if result.vanished:
        return "the ranks ended, as if all were well, before their work was done"
    if result.code < 0:
        return f"mpirun was killed by {_signal(result.signal)}"
    if result.signal:
        return f"mpirun ended with exit code {result.code}, as if by {_signal(result.signal)}"
    return f"mpirun ended with exit code {result.code}"


def _describe(beat: Beat, folder: Path) -> str:
    done = f"after update {beat.updates}" if beat.updates >= 0 else "before the first update"
    collective = f", in {beat.collective}" if beat.waits else ""
    frame = read_frame(folder, beat.rank)
    return f"rank {beat.rank}: {done}{collective}{f', at {frame}' if frame else ', no stack'}"


def _signal(number: int) -> str:
    with contextlib.suppress(ValueError):
        return f"signal {number} ({Signals(number).name})"
    return f"signal {number}"
