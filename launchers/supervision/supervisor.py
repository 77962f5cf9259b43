"""A supervisor outside of mpirun: restarts a failed run from its newest checkpoint, and explains the failure."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGUSR1
from typing import Final

from marl.errors import InputError
from marl.launchers.jobs.hosts import check_hosts
from marl.launchers.jobs.job import STATED_CODES, JobResult, marl_command, run_job
from marl.launchers.jobs.processes import Job, identity, jobs_named
from marl.launchers.jobs.signals import ForwardedStop
from marl.launchers.run.run_directory import RunDirectory
from marl.launchers.stopping import STOPPED
from marl.launchers.supervision.diagnosis import Observer, Verdict, dump_stacks
from marl.launchers.supervision.failure import Failure, explain_failure
from marl.launchers.supervision.heartbeat import read_beats
from marl.resources.streams import ByteSink, ErrorBytes

SAME_FAILURE: Final = 3
"""Consecutive equal failures at one update that are thought to be the update's fault and not the machine's."""
_FIRST_DELAY: Final = 1.0
_LONGEST_DELAY: Final = 60.0
_LONGEST_START: Final = 30.0
"""Seconds after which ranks without heartbeats are thought to handle signals."""
_OBSERVER_INTERVAL: Final = 1.0


def rank_folder(run: Path) -> Path:
    """Returns the folder of a run's heartbeats; see ``marl.launchers.supervision.watchdog``."""
    return run / "ranks"


class Supervisor:
    """Runs a training command on several ranks, and restarts it when it fails.

    Args:
        arguments: of the command, without --ranks, --max-restarts, --out and --resume.
        run: the run directory.
        ranks: the number of ranks.
        max_restarts: the number of times that a failed job is restarted.
        watchdog: seconds without progress after which a job is ended; 0 for never. The ranks' own watchdogs come
            first; this one detects ranks that hold Python's lock, or that are all stopped.
        resume: whether the first attempt resumes a run.
        elastic: whether the job goes on when ranks die.
        stderr: the sink of messages; this process's own standard error by default.
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
        stderr: ByteSink | None = None,
        first_delay: float = _FIRST_DELAY,
    ) -> None:
        self._arguments = arguments
        self._run = run
        self._ranks = ranks
        self._max_restarts = max_restarts
        self._watchdog = watchdog
        self._resume = resume
        self._elastic = elastic
        self._sink = ErrorBytes() if stderr is None else stderr
        self._first_delay = first_delay
        self._job = Job.of_this_process(str(run.resolve()))
        self._verdict: Verdict | None = None
        self._started_at = 0.0
        self._hostfile: str | None = None

    def supervise(self) -> int:
        """Runs the job until it has completed, is stopped, is refused, or fails too often.

        Returns:
            0 done, 2 invalid input, 75 stopped on request and resumable, 1 failed.

        Raises:
            InputError: another process works on this run.
        """
        self._kill_orphans()
        failures: list[Failure] = []
        with ForwardedStop(self._ranks_listen) as stop:
            while True:
                if stop.requests > 0:
                    return self._stopped()
                result = self._attempt(stop)
                if result.code in STATED_CODES and not result.vanished:
                    return result.code
                if stop.requests > 1:
                    return 1
                if stop.early or (stop.requests and result.signal == SIGUSR1):
                    # As it starts or ends, mpirun may die of the request; no update is lost then.
                    self._change_files(lambda: shutil.rmtree(rank_folder(self._run), ignore_errors=True))
                    return self._stopped()
                failures.append(explain_failure(result, rank_folder(self._run), self._verdict))
                again = self._report(failures, stop)
                self._change_files(self._archive_rank_files)
                if not again:
                    return 1
                self._wait(failures, stop)
                self._check_hosts()
                self._resume = self._has_begun

    @property
    def _has_begun(self) -> bool:
        return (self._run / "config.json").exists()

    def _stopped(self) -> int:
        how = f"with --resume --out {self._run}" if self._has_begun else "by the same command; nothing was begun"
        self._say(f"stopped while no rank was training; go on {how}")
        return STOPPED

    def _ranks_listen(self) -> bool:
        """Returns whether the ranks handle a request to stop: they do once one of them trains."""
        beats = read_beats(rank_folder(self._run))
        if any(not beat.is_here or identity(beat.pid) == beat.identity for beat in beats):
            return True
        # The heartbeats of ranks that write to another host's disk are not seen here.
        return time.monotonic() - self._started_at > _LONGEST_START

    def _kill_orphans(self) -> None:
        """Kills the processes of this run that a killed supervisor has left."""
        for job in jobs_named(self._job.name):
            if job.owner_is_alive:
                raise InputError(f"process {job.owner.partition('-')[0]} is at work on {self._run} already")
            self._say("ending what an earlier job on this run left behind")
            job.kill()

    def _attempt(self, stop: ForwardedStop) -> JobResult:
        self._verdict = None
        self._started_at = time.monotonic()
        arguments = [*self._arguments, "--out", str(self._run), *(["--resume"] if self._resume else [])]
        return run_job(
            marl_command(arguments),
            self._ranks,
            self._job,
            stop,
            stderr=self._sink,
            elastic=self._elastic,
            hostfile=self._hostfile,
            should_kill=self._make_hang_check(),
            before_kill=self._dump_stacks,
        )

    def _make_hang_check(self) -> Callable[[], bool]:
        if self._watchdog <= 0:
            return lambda: False
        folder = rank_folder(self._run)
        # Heartbeats that a killed supervisor's job left tell nothing about this one, which may take long to start.
        observer = Observer(folder, self._watchdog * 1.2 + 5, ignored=read_beats(folder))
        polled_at = 0.0

        def is_hanging() -> bool:
            nonlocal polled_at
            if time.monotonic() - polled_at < _OBSERVER_INTERVAL:
                return False
            polled_at = time.monotonic()
            self._verdict = observer.poll()
            if self._verdict is None:
                return False
            self._verdict.save(folder)
            self._dump_stacks()
            return True

        return is_hanging

    def _dump_stacks(self) -> None:
        dump_stacks(read_beats(rank_folder(self._run)))
        time.sleep(0.5)

    def _report(self, failures: list[Failure], stop: ForwardedStop) -> bool:
        """Prints the newest failure and what follows from it; returns whether to restart."""
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

    def _wait(self, failures: list[Failure], stop: ForwardedStop) -> None:
        """Waits before the next attempt, or until a stop is requested."""
        idle = 0
        for earlier, later in zip(failures[-2::-1], failures[:0:-1], strict=True):
            if later.update > earlier.update:
                break
            idle += 1
        delay = min(self._first_delay * 2**idle, _LONGEST_DELAY)
        source = "from its newest checkpoint" if self._has_begun else "from the beginning"
        self._say(f"restart {len(failures)} of {self._max_restarts}, {source}, in {delay:g} s")
        deadline = time.monotonic() + delay
        while time.monotonic() < deadline and not stop.requests:
            time.sleep(0.05)

    def _check_hosts(self) -> None:
        """Leaves unreachable hosts out of the next attempt."""
        hosts = check_hosts()
        self._hostfile = None
        if hosts is not None and hosts.unreachable:
            self._hostfile = hosts.hostfile
            self._say(f"no answer from {', '.join(hosts.unreachable)}; {self._ranks} ranks start on the other hosts")

    def _change_files(self, action: Callable[[], None]) -> None:
        """Changes files of the run, unless another job is at work on it."""
        run = RunDirectory(self._run)
        with contextlib.suppress(InputError), run.locked():
            action()

    def _archive_rank_files(self) -> None:
        """Moves the ranks' files of a failed attempt to ``failures/NUMBER``."""
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
