"""A supervisor outside of mpirun: restarts a run that died from its newest checkpoint, and says what it died of."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from signal import SIGUSR1, Signals
from typing import IO, Final

from marl.errors import InputError
from marl.launchers.jobs.hosts import look_at_hosts
from marl.launchers.jobs.job import STATED_CODES, Ended, marl_command, run_job
from marl.launchers.jobs.processes import Job, identity, jobs_named
from marl.launchers.jobs.signals import Stop
from marl.launchers.stopping import STOPPED
from marl.launchers.supervision.diagnosis import Observer, Verdict, dump_stacks, read_frame
from marl.launchers.supervision.heartbeat import Beat, read_beats

SAME_FAILURE: Final = 3
"""So many failures of one kind at one update, one after the other, are the update's fault and not the machine's."""
_FIRST_DELAY: Final = 1.0
_LONGEST_DELAY: Final = 60.0
_LONGEST_START: Final = 30.0
"""Seconds after which ranks that write down nothing are thought to listen."""
_SIGNALLED: Final = re.compile(rb"process rank (\d+)[^\0]*?exited on\s+signal (\d+)")
_FATAL: Final = re.compile(r"^Fatal Python error: (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a job failed, as far as its ranks' files and mpirun tell."""

    update: int
    """Updates that were done; -1 where training had not begun."""
    cause: str
    """The rank, and its signal or exception."""
    ranks: tuple[str, ...]
    """A line a rank: what it was doing."""


def rank_folder(run: Path) -> Path:
    """Where the ranks of a run write down what they do; see ``marl.launchers.watchdog``."""
    return run / "ranks"


def explain_failure(ended: Ended, folder: Path, verdict: Verdict | None = None) -> Failure:
    """Finds out why a job failed.

    Args:
        ended: what mpirun returned and said.
        folder: the ranks' files.
        verdict: the supervisor's own, where it ended the job.
    """
    beats = read_beats(folder)
    verdict = Verdict.load(folder) or verdict
    return Failure(
        update=max((beat.updates for beat in beats), default=-1),
        cause=verdict.reason if verdict is not None else _cause(ended, folder, beats),
        ranks=tuple(_describe(beat, folder) for beat in beats),
    )


def _cause(ended: Ended, folder: Path, beats: list[Beat]) -> str:
    killed = _SIGNALLED.search(ended.notices)
    for beat in beats:
        stack = folder / f"{beat.rank}.stack"
        if stack.exists() and (fatal := _FATAL.search(stack.read_text(errors="replace"))):
            return f"rank {beat.rank} crashed: {fatal[1]}"
    errors = [(beat.rank, folder / f"{beat.rank}.error") for beat in beats]
    said = [(rank, path.stat().st_mtime, path.read_text()) for rank, path in errors if path.exists()]
    if killed is not None:
        return f"rank {int(killed[1])} was killed by {_signal(int(killed[2]))}"
    if said:
        rank, _, error = min(said, key=lambda entry: entry[1])
        return f"rank {rank} raised {error}"
    if ended.died:
        return "all ranks died"
    if ended.code < 0:
        return f"mpirun was killed by {_signal(ended.signal)}"
    if ended.signal:
        return f"mpirun ended with exit code {ended.code}, as if by {_signal(ended.signal)}"
    return f"mpirun ended with exit code {ended.code}"


def _describe(beat: Beat, folder: Path) -> str:
    done = f"after update {beat.updates}" if beat.updates >= 0 else "before the first update"
    doing = f", in {beat.collective}" if beat.waits else ""
    frame = read_frame(folder, beat.rank)
    return f"rank {beat.rank}: {done}{doing}{f', at {frame}' if frame else ', no stack'}"


def _signal(number: int) -> str:
    with contextlib.suppress(ValueError):
        return f"signal {number} ({Signals(number).name})"
    return f"signal {number}"


class Supervisor:
    """Runs a training command on several ranks, again and again if need be.

    Args:
        arguments: of the command, without --ranks, --max-restarts, --out and --resume.
        run: the run directory.
        ranks: how many.
        max_restarts: how many times a failed job is started again.
        watchdog: seconds without progress after which a job is ended; 0 for never. The ranks' own watchdogs come
            first; this one sees those that hold Python's lock, or all stopped.
        resume: whether the first attempt goes on with a run.
        elastic: whether ranks are to outlive each other.
        stderr: where lines go; this process's own standard error by default.
        first_delay: seconds before the first restart; doubled at each failure without progress.
    """

    def __init__(
        self,
        arguments: list[str],
        run: Path,
        ranks: int,
        *,
        max_restarts: int,
        watchdog: float,
        resume: bool,
        elastic: bool = False,
        stderr: IO[bytes] | None = None,
        first_delay: float = _FIRST_DELAY,
    ) -> None:
        self._arguments = arguments
        self._run = run
        self._ranks = ranks
        self._max_restarts = max_restarts
        self._watchdog = watchdog
        self._resume = resume
        self._elastic = elastic
        self._sink = sys.stderr.buffer if stderr is None else stderr
        self._first_delay = first_delay
        self._job = Job.of_this_process(str(run.resolve()))
        self._verdict: Verdict | None = None
        self._began = 0.0
        self._hostfile: str | None = None

    def supervise(self) -> int:
        """Runs until the job has done its work, is stopped, is refused, or fails too often.

        Returns:
            0 done, 2 wrong input, 75 stopped on request and resumable, 1 failed.

        Raises:
            InputError: somebody else is at work on this run.
        """
        self._clear_away()
        failures: list[Failure] = []
        with Stop(self._listens) as stop:
            while True:
                if stop.requests > 0:
                    return self._stopped()
                ended = self._attempt(stop)
                if ended.code in STATED_CODES and not ended.died:
                    return ended.code
                if stop.requests > 1:
                    return 1
                if stop.early or (stop.requests and ended.signal == SIGUSR1):
                    # In its first and last moments mpirun may die of the request, and there is nothing to be lost.
                    shutil.rmtree(rank_folder(self._run), ignore_errors=True)
                    return self._stopped()
                failure = explain_failure(ended, rank_folder(self._run), self._verdict)
                failures.append(failure)
                again = self._explain(failures, stop, ended)
                self._put_aside()
                if not again:
                    return 1
                self._wait(failures, stop)
                self._look_at_hosts()
                self._resume = self._begun

    @property
    def _begun(self) -> bool:
        return (self._run / "config.json").exists()

    def _stopped(self) -> int:
        how = f"with --resume --out {self._run}" if self._begun else "by the same command; nothing was begun"
        self._say(f"stopped while no rank was training; go on {how}")
        return STOPPED

    def _listens(self) -> bool:
        """Whether the ranks hear a request to stop: they do once one of them trains."""
        beats = read_beats(rank_folder(self._run))
        if any(not beat.is_here or identity(beat.pid) == beat.identity for beat in beats):
            return True
        # Nothing may be seen of ranks that write to another host's disk.
        return time.monotonic() - self._began > _LONGEST_START

    def _clear_away(self) -> None:
        """Ends what a killed supervisor of this run left behind."""
        for job in jobs_named(self._job.name):
            if job.owner_lives:
                raise InputError(f"process {job.owner.partition('-')[0]} is at work on {self._run} already")
            self._say("ending what an earlier job on this run left behind")
            job.kill()

    def _attempt(self, stop: Stop) -> Ended:
        self._verdict = None
        self._began = time.monotonic()
        observer = None
        if self._watchdog > 0:
            # What a killed supervisor's job left tells nothing about this one, which may take long to start.
            folder = rank_folder(self._run)
            observer = Observer(folder, self._watchdog * 1.2 + 5, former=read_beats(folder))
        looked = 0.0

        def watch() -> bool:
            nonlocal looked
            if observer is None or time.monotonic() - looked < 1:
                return False
            looked = time.monotonic()
            self._verdict = observer.look()
            if self._verdict is None:
                return False
            self._verdict.save(rank_folder(self._run))
            self._ask_for_stacks()
            return True

        words = [*self._arguments, "--out", str(self._run), *(["--resume"] if self._resume else [])]
        return run_job(
            marl_command(words),
            self._ranks,
            self._job,
            stop,
            stderr=self._sink,
            elastic=self._elastic,
            hostfile=self._hostfile,
            watch=watch,
            last_words=self._ask_for_stacks,
        )

    def _ask_for_stacks(self) -> None:
        dump_stacks(read_beats(rank_folder(self._run)))
        time.sleep(0.5)

    def _explain(self, failures: list[Failure], stop: Stop, ended: Ended) -> bool:
        """Says what happened and what comes next; returns whether to start again."""
        failure, restarts = failures[-1], len(failures) - 1
        where = f"after update {failure.update}" if failure.update >= 0 else "before the first update"
        self._say(f"the job failed {where}: {failure.cause}")
        for line in failure.ranks:
            self._say(f"  {line}")
        same = [
            other
            for other in failures[-SAME_FAILURE:]
            if (other.update, other.cause) == (failure.update, failure.cause)
        ]
        if stop.requests:
            self._say("not started again: it was asked to stop")
        elif restarts >= self._max_restarts:
            if self._max_restarts:
                self._say(f"not started again: {restarts} restarts were allowed (--max-restarts)")
        elif len(same) == SAME_FAILURE:
            self._say(f"not started again: the same failure {where} came {SAME_FAILURE} times in a row")
        else:
            return True
        return False

    def _wait(self, failures: list[Failure], stop: Stop) -> None:
        """Waits before the next attempt, unless it is asked to stop meanwhile."""
        idle = 0
        for earlier, later in zip(failures[-2::-1], failures[:0:-1], strict=True):
            if later.update > earlier.update:
                break
            idle += 1
        delay = min(self._first_delay * 2**idle, _LONGEST_DELAY)
        what = "from its newest checkpoint" if self._begun else "from the beginning"
        self._say(f"restart {len(failures)} of {self._max_restarts}, {what}, in {delay:g} s")
        deadline = time.monotonic() + delay
        while time.monotonic() < deadline and not stop.requests:
            time.sleep(0.05)

    def _look_at_hosts(self) -> None:
        """Leaves out hosts that do not answer, for the next attempt."""
        hosts = look_at_hosts()
        self._hostfile = None
        if hosts is not None and hosts.lost:
            self._hostfile = hosts.left
            self._say(f"no answer from {', '.join(hosts.lost)}; {self._ranks} ranks start on the other hosts")

    def _put_aside(self) -> None:
        """Keeps the ranks' files of a failed attempt in ``failures/NUMBER``."""
        folder = rank_folder(self._run)
        if not folder.is_dir():
            return
        with contextlib.suppress(OSError):
            target = self._run / "failures"
            target.mkdir(exist_ok=True)
            numbers = [int(path.name) for path in target.iterdir() if path.name.isdigit()]
            shutil.move(folder, target / str(max(numbers, default=0) + 1))

    def _say(self, line: str) -> None:
        self._sink.write(f"marl: {line}\n".encode())
        self._sink.flush()
