"""Runs under a supervisor whose processes can be found, disturbed, and compared with a run that nobody disturbed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from marl.checkpoints.checkpoint import load_checkpoint
from marl.experiments.resource_usage import MACHINE
from marl.launchers.jobs.job import marl_command
from marl.launchers.jobs.processes import Job, jobs_named
from marl.launchers.supervision.heartbeat import read_beats
from marl.launchers.supervision.supervisor import rank_folder

GAME = ("ippo", "envs.matrix_games:two_step", "--recipe", "none")
QUICK = ("--num-envs", "4", "--algorithm.rollout-length", "4", "--algorithm.epochs", "1")
TRAIN = (*GAME, *QUICK, "--algorithm.hidden-sizes", "16", "--evaluation-episodes", "0")
OFTEN = ("--row-every", "32", "--checkpoint-every", "16")
"""Rows and checkpoints at distances that are no multiples of each other."""
PATIENCE = 600.0


class SupervisedRun:
    """A training run under a supervisor, whose processes can be found and killed.

    Args:
        run: its directory.
        arguments: of ``marl train``.
        ranks: how many.
        variables: more of the environment.
    """

    def __init__(
        self, run: Path, arguments: Sequence[str], ranks: int, variables: Mapping[str, str] | None = None
    ) -> None:
        self.run = run
        self.log = run.with_suffix(".log")
        self._arguments = list(arguments)
        self._ranks = ranks
        self._variables = variables or {}
        self._log = self.log.open("ab")
        self._supervisors: list[int] = []
        self.start()

    def start(self) -> None:
        """Starts the supervisor, as a user would after a machine went down."""
        resume = ["--resume"] if (self.run / "config.json").exists() else []
        command = marl_command(
            ["train", *self._arguments, "--ranks", str(self._ranks), "--max-restarts", "1000", "--out", str(self.run)]
        )
        self.process = subprocess.Popen(
            [*command, *resume],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OMPI_MCA_mpi_yield_when_idle": "true", **self._variables},
            start_new_session=True,
        )
        self._supervisors.append(self.process.pid)

    @property
    def processes(self) -> dict[str, int]:
        """Process ids by role: mpirun, rank 0, rank 1, ...; and others, which ranks have started."""
        found: dict[str, int] = {}
        for job in jobs_named(str(self.run.resolve())):
            for pid in job.processes():
                with contextlib.suppress(OSError):
                    found[_role(pid)] = pid
        return found

    @property
    def updates(self) -> int:
        """Updates that the job, as it runs now, has done; -1 before its first."""
        return max((beat.updates for beat in read_beats(rank_folder(self.run))), default=-1)

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is being written."""
        try:
            return any(name.startswith(".tmp-") for name in os.listdir(self.run / "checkpoints"))
        except FileNotFoundError:
            return False

    @property
    def leftovers(self) -> list[Path]:
        """Shared memory and temporary folders of this run's jobs whose owner is gone."""
        prefix = f"marl-{os.getuid()}-"
        found = []
        for root in (Path("/dev/shm"), Path(tempfile.gettempdir())):
            for pid in self._supervisors:
                for path in root.glob(f"{prefix}{pid}-*"):
                    if not Job("", path.name.removeprefix(prefix)).owner_is_alive:
                        found.append(path)
        return found

    def wait(self) -> int | None:
        """Its exit code; None where it does not end in time."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """Ends whatever is left."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for job in jobs_named(str(self.run.resolve())):
            job.kill()
        self._log.close()


def _role(pid: int) -> str:
    process = Path("/proc") / str(pid)
    variables = (process / "environ").read_bytes().split(b"\0")
    ranks = [v.partition(b"=")[2] for v in variables if v.startswith(b"OMPI_COMM_WORLD_RANK=")]
    if not ranks:
        return "mpirun"
    # W&B's processes are children of a rank.
    is_rank = b"marl.launchers.main" in (process / "cmdline").read_bytes()
    return f"rank {int(ranks[0])}" if is_rank else f"child {pid} of rank {int(ranks[0])}"


def undisturbed(folder: Path, arguments: Sequence[str], ranks: int) -> Path:
    """The run that nobody disturbs."""
    path = folder / "undisturbed"
    if not (path / "summary.json").exists():
        run = SupervisedRun(path, arguments, ranks)
        try:
            if run.wait() != 0:
                raise RuntimeError(f"the undisturbed run failed; see {run.log}")
        finally:
            run.close()
    return path


def compare(run: SupervisedRun, reference: Path, code: int | None, *, exactly: bool = True) -> list[str]:
    """What is not as it would be, had nobody disturbed the run; up to rounding, if not exactly."""
    if code != 0:
        return [f"exit code {code}; see {run.log}"]
    problems = []
    first, second = (load_checkpoint(path / "checkpoints") for path in (reference, run.run))
    tolerance = 0.0 if exactly else 1e-3
    names = [
        name
        for name in first.tensors.keys() | second.tensors.keys()
        if name not in first.tensors
        or name not in second.tensors
        or not torch.allclose(first.tensors[name], second.tensors[name], rtol=tolerance, atol=tolerance)
    ]
    if names or first.step != second.step:
        problems.append(f"step {second.step} differs in {', '.join(names[:5]) or 'nothing but its number'}")
    rows = [rows_of(path) for path in (reference, run.run)]
    if not exactly:
        counts = ("env_steps", "updates", "episodes", "episode_return/mean")
        rows = [[{name: row.get(name) for name in counts} for row in journal] for journal in rows]
    if rows[0] != rows[1]:
        problems.append("metrics.jsonl differs")
    if left := [job.processes() for job in jobs_named(str(run.run.resolve()))]:
        problems.append(f"processes are left: {left}")
    problems += [f"{path} is left" for path in run.leftovers]
    if rank_folder(run.run).exists():
        problems.append("the ranks' files are left")
    return problems


@dataclass
class Series:
    """Statistics of a series of disturbed runs.

    Attributes:
        runs: runs that were started.
        identical: runs that came out as the undisturbed one.
        problems: everything that did not.
        seconds: the time that each disturbance took.
    """

    runs: int = 0
    identical: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def start(self, folder: Path) -> Path:
        """Counts a run and returns its directory."""
        self.runs += 1
        return folder / f"run-{self.runs - 1}"

    def end(self, run: SupervisedRun, problems: Sequence[str], progress: str) -> None:
        """Counts what a run came to; only one with problems is kept."""
        name = run.run.name
        self.problems += [f"{name}: {problem}" for problem in problems]
        self.identical += not problems
        sys.stderr.write(f"{name}: {progress}, {problems or 'nothing lost'}\n")
        if not problems:
            shutil.rmtree(run.run)
            run.log.unlink()

    def summarize_seconds(self, name: str) -> dict[str, float | None]:
        """The median and the longest time."""
        times = sorted(self.seconds)
        return {
            f"{name}, median": round(times[len(times) // 2], 2) if times else None,
            f"{name}, worst": round(times[-1], 2) if times else None,
        }


def rows_of(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in MACHINE} for row in rows]
