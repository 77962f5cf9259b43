"""Jobs of MPI ranks: ``marl … --ranks N`` becomes mpirun with settings that are right on one machine.

The ranks' output is piped through mpirun, so on rank 0 ``isatty`` is False. ``launch`` therefore sets MARL_TERMINAL=1
where its own standard output is a terminal, with COLUMNS and LINES; a live view on rank 0 should treat the first as
"there is a terminal" (in rich: ``force_terminal=True``). Standard output reaches the terminal unchanged; standard error
passes through this process, unbuffered, which filters mpirun's own notices where the exit code says that the user has
been told already.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from marl.errors import InputError
from marl.launchers.environment_variables import LAST_WORD
from marl.launchers.jobs.hosts import HOSTFILE
from marl.launchers.jobs.mpirun import mpirun_command, rank_environment
from marl.launchers.jobs.notices import NoticeFilter
from marl.launchers.jobs.processes import JOB, Job, Scratch
from marl.launchers.jobs.signals import ForwardedStop
from marl.launchers.stopping import STOPPED
from marl.resources.streams import ByteSink, ErrorBytes, flush_standard_streams

STATED_CODES: Final = (0, 2, STOPPED)
"""Exit codes with a meaning of their own; all others become 1."""
_POLL_SECONDS: Final = 0.2
_ORPHAN_TIMEOUT: Final = 2.0
"""Seconds that processes may take to end by themselves after mpirun has ended."""
_ORDER_TIMEOUT: Final = 5.0
"""Seconds that mpirun may take to end its ranks when it was ordered to."""


def _die_with_parent() -> None:
    # If this process is killed, mpirun and with it the ranks must not go on alone (Linux: PR_SET_PDEATHSIG).
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(1, int(signal.SIGTERM), 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """The result of a job.

    Attributes:
        code: mpirun's exit code, the negative signal number where it was killed.
        notices: mpirun's own messages.
        completed: whether the ranks said that all was done.
    """

    code: int
    notices: bytes
    completed: bool = False

    @property
    def vanished(self) -> bool:
        """True if ranks ended without having done their work and mpirun took that for an orderly end."""
        return self.code == 0 and not self.completed

    @property
    def signal(self) -> int:
        """The signal that killed mpirun, or a rank as mpirun says; 0 for none."""
        return max(0, -self.code if self.code < 0 else self.code - 128)


def launch_program(program: list[str], ranks: int, *, stderr: ByteSink | None = None) -> int:
    """Runs a program under mpirun on this machine and waits for it.

    Ctrl-C, SIGTERM and SIGUSR1 reach the ranks as SIGUSR1, the request to stop at the next update; a second one
    ends the job at once. The ranks have no standard input.

    Args:
        program: the command line of one rank, which calls ``run_on_ranks``.
        ranks: the number of ranks.
        stderr: the sink of the ranks' standard error; this process's own by default.

    Returns:
        0, 2 (wrong input) and 75 (stopped on request) as the ranks returned them; 1 for every other failure.

    Raises:
        InputError: there is no mpirun, the number of ranks is not positive, or this already is a rank.
    """
    sink = ErrorBytes() if stderr is None else stderr
    with ForwardedStop() as stop:
        result = run_job(program, ranks, Job.of_this_process(secrets.token_hex(8)), stop, stderr=sink)
    if result.vanished and not stop.requests:
        sink.write(b"marl: the ranks ended, as if all were well, before their work was done\n")
    known = result.code in STATED_CODES and not result.vanished
    if not known and not stop.requests:
        sink.write(result.notices)
    sink.flush()
    return result.code if known else 1


def run_job(
    program: list[str],
    ranks: int,
    job: Job,
    stop: ForwardedStop,
    *,
    stderr: ByteSink,
    elastic: bool = False,
    hostfile: str | None = None,
    should_kill: Callable[[], bool] = lambda: False,
    before_kill: Callable[[], object] = lambda: None,
) -> JobResult:
    """Runs a program under mpirun once; when it returns, no process of the job and nothing in shared memory is left.

    Args:
        program: the command line of one rank.
        ranks: the number of ranks.
        job: the mark of all its processes.
        stop: forwards signals.
        stderr: the sink of the ranks' standard error, without mpirun's own notices.
        elastic: whether the job goes on when ranks die.
        hostfile: text that replaces the default hostfile; None for the default one, if any.
        should_kill: polled a few times a second; True ends the job.
        before_kill: called before the ranks of an mpirun that was killed are killed too.

    Raises:
        InputError: as in ``launch_program``.
    """
    if ranks < 1:
        raise InputError(f"--ranks must be at least 1, got {ranks}")
    if any(name in os.environ for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")):
        raise InputError("this process was started by mpirun already; leave out --ranks, or start it without mpirun")
    command = mpirun_command(program, ranks, elastic=elastic)
    # A control character, which no text has, and a secret of this job.
    last_word = f"\x1e{secrets.token_hex(16)}"
    notices = NoticeFilter(last_word)
    scratch = Scratch(job)
    flush_standard_streams()
    try:
        process = _start(command, ranks, job, scratch, hostfile, last_word)
        stop.attach(process)
        _copy_stderr(process, job, stop, notices, stderr, should_kill=should_kill, before_kill=before_kill)
        code = process.wait()
        stop.detach()
        stderr.write(notices.finish(show_notices=False))
        stderr.flush()
        return JobResult(code=code, notices=notices.notices, completed=notices.completed)
    finally:
        job.kill()
        scratch.remove()


def _start(
    command: list[str], ranks: int, job: Job, scratch: Scratch, hostfile: str | None, last_word: str
) -> subprocess.Popen[bytes]:
    variables = scratch.renew() | {JOB: job.mark, LAST_WORD: last_word}
    if hostfile is not None:
        scratch.hostfile.write_text(hostfile)
        variables[HOSTFILE] = str(scratch.hostfile)
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=rank_environment(ranks) | variables,
        # Ctrl-C in the terminal must come to this process alone, which turns it into a request.
        start_new_session=True,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )


def _copy_stderr(
    process: subprocess.Popen[bytes],
    job: Job,
    stop: ForwardedStop,
    notices: NoticeFilter,
    stderr: ByteSink,
    *,
    should_kill: Callable[[], bool],
    before_kill: Callable[[], object],
) -> None:
    """Copies the ranks' standard error until all processes have closed it; kills the job where it must end."""
    assert process.stderr is not None
    # Not select(), which takes no file numbers above 1023: a process with a thousand environments open has them.
    with process.stderr as source, selectors.DefaultSelector() as selector:
        selector.register(source, selectors.EVENT_READ)
        ended: float | None = None
        while True:
            if selector.select(_POLL_SECONDS):
                if not (data := os.read(source.fileno(), 65536)):
                    return
                stderr.write(notices.feed(data))
                stderr.flush()
            now = time.monotonic()
            if ended is None and process.poll() is not None:
                ended = now
                stop.detach()
                if process.returncode < 0:
                    before_kill()
            # The ranks of a killed mpirun do not end by themselves.
            orphaned = ended is not None and (now - ended > _ORPHAN_TIMEOUT or process.returncode < 0)
            disobeyed = stop.ordered is not None and now - stop.ordered > _ORDER_TIMEOUT
            if orphaned or disobeyed or (ended is None and (stop.early or should_kill())):
                process.kill()
                job.kill()


def launch(arguments: list[str], ranks: int) -> int:
    """Runs ``marl`` with these arguments on this number of ranks; see ``launch_program``."""
    return launch_program(marl_command(arguments), ranks)


def marl_command(arguments: list[str]) -> list[str]:
    """Returns the command line of ``marl`` with these arguments, run by this Python."""
    return [sys.executable, "-m", "marl.launchers.main", *arguments]
