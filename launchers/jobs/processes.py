"""Processes of a job and its shared memory: finding, killing and removing all of them.

Every process of a job has the variable MARL_JOB in its environment, which names the process that started the job and
the work. So orphans (mpirun was killed, a rank started helpers) are found too. Linux only: where there is no ``/proc``,
nothing is found, and mpirun alone ends its ranks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

JOB: Final = "MARL_JOB"
_PROC: Final = Path("/proc")
_SHARED_MEMORY: Final = Path("/dev/shm")


def identity(pid: int) -> str | None:
    """Returns ``PID-STARTTIME``, unique on this machine since it was booted; None if the process has ended."""
    stat = _stat(pid)
    # Fields 3 and 22 of /proc/PID/stat, proc(5).
    return None if stat is None or stat[0] in "ZX" else f"{pid}-{stat[19]}"


def is_stopped(pid: int) -> bool:
    """Returns whether a process was stopped by a signal (SIGSTOP, SIGTSTP) or a debugger."""
    stat = _stat(pid)
    return stat is not None and stat[0] in "Tt"


def _stat(pid: int) -> list[str] | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (OSError, ValueError):
        return None
    # The command's name is in parentheses and may contain anything, parentheses too.
    return text.rpartition(")")[2].split()


@dataclass(frozen=True, slots=True)
class Job:
    """One job.

    Attributes:
        name: of the work, for instance the path of a run directory; two jobs of one name must not run together.
        owner: ``identity`` of the process that started it.
    """

    name: str
    owner: str

    @classmethod
    def of_this_process(cls, name: str) -> Job:
        """Makes a job owned by this process."""
        return cls(name, identity(os.getpid()) or f"{os.getpid()}-0")

    @property
    def mark(self) -> str:
        """The value of MARL_JOB in its processes' environment."""
        return f"{self.owner}:{self.name}"

    @property
    def owner_is_alive(self) -> bool:
        """Returns whether the process that started the job is still running."""
        return identity(int(self.owner.partition("-")[0])) == self.owner

    def processes(self) -> list[int]:
        """Lists the process ids of the job, without this process."""
        return [pid for pid, job in _marked() if job == self]

    def kill(self, *, timeout: float = 10.0) -> list[int]:
        """Kills every process of the job (SIGKILL) and waits until all have ended.

        Args:
            timeout: seconds to wait; a process within a system call that hangs cannot be killed.

        Returns:
            The processes that are left.
        """
        deadline = time.monotonic() + timeout
        while left := self.processes():
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                return left
            time.sleep(0.02)
        return []


def jobs_named(name: str) -> set[Job]:
    """Finds the jobs of one name that have processes on this machine."""
    return {job for _, job in _marked() if job.name == name}


def _marked() -> Iterator[tuple[int, Job]]:
    if not _PROC.is_dir():
        return
    for entry in os.listdir(_PROC):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            variables = (_PROC / entry / "environ").read_bytes().split(b"\0")
        except OSError:  # another user's, or ended
            continue
        for variable in variables:
            if variable.startswith(JOB.encode() + b"="):
                owner, colon, name = os.fsdecode(variable).partition("=")[2].partition(":")
                if colon and owner.partition("-")[0].isdigit() and identity(int(entry)) is not None:
                    yield int(entry), Job(name, owner)


class Scratch:
    """Folders of one job for MPI's shared memory and sockets, so that a killed job leaves nothing.

    Open MPI's ranks and daemons remove their files when they end by themselves, not when they are killed. Folders are
    named after the process that started the job; the next job removes those whose process has ended.

    Args:
        job: the job.
    """

    def __init__(self, job: Job) -> None:
        self._roots = [Path(tempfile.gettempdir())]
        if os.access(_SHARED_MEMORY, os.W_OK):
            self._roots.append(_SHARED_MEMORY)
        self._prefix = f"marl-{os.getuid()}-"
        self._name = f"{self._prefix}{job.owner}"

    def renew(self) -> dict[str, str]:
        """Removes stale folders, makes new ones, and returns the variables that make Open MPI use them."""
        self.remove()
        for root in self._roots:
            for folder in root.glob(f"{self._prefix}*-*"):
                owner = folder.name.removeprefix(self._prefix)
                pid = owner.partition("-")[0]
                if pid.isdigit() and identity(int(pid)) != owner:
                    shutil.rmtree(folder, ignore_errors=True)
            (root / self._name).mkdir(mode=0o700)
        variables = {"PRTE_MCA_prte_tmpdir_base": str(self._roots[0] / self._name)}
        if len(self._roots) > 1:
            variables["OMPI_MCA_btl_sm_backing_directory"] = str(self._roots[1] / self._name)
        return variables

    @property
    def hostfile(self) -> Path:
        """The hostfile of this job, where it is not the user's own."""
        return self._roots[0] / self._name / "hosts"

    def remove(self) -> None:
        """Removes the folders with their content."""
        for root in self._roots:
            shutil.rmtree(root / self._name, ignore_errors=True)
