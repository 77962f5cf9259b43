"""A series of requests to stop, each at a random moment of a run that is then resumed, until the run is done."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "helpers"))

from processes import wait_until_handled
from supervised import OFTEN, PATIENCE, TRAIN, Series, SupervisedRun, compare, undisturbed

from marl.checkpoints.checkpoint import list_checkpoints, load_checkpoint
from marl.errors import InputError
from marl.launchers.jobs.processes import jobs_named
from marl.launchers.supervision.supervisor import rank_folder

TARGETS = ("supervisor", "supervisor", "mpirun", "a rank", "all of them")
"""Who is told. SLURM tells a command, or all its processes."""
LIMIT = 10.0
"""Seconds in which the command must have ended."""
_STEPS_AN_UPDATE = 16
_UPDATES = 60


@dataclass
class Stops(Series):
    """Statistics of a series of requests to stop; seconds are from the request to the end of the command.

    Attributes:
        targets: requests by the process that was told.
        moments: requests by what the run was doing.
        completed: requests that came when all steps were done, so that the exit code was 0.
    """

    targets: Counter[str] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)
    completed: int = 0

    def summary(self) -> dict[str, Any]:
        return {
            "requests": len(self.seconds),
            "by target": dict(self.targets),
            "by moment": dict(self.moments),
            "answered by completion": self.completed,
            "runs": self.runs,
            "bit-identical": self.identical,
            "problems": self.problems,
            **self.summarize_seconds("seconds to the end"),
        }


def stop_runs(folder: Path, requests: int, *, seed: int = 0, ranks: int = 2, per_run: int = 5) -> Stops:
    """Stops run after run by SIGUSR1, resumes it, stops it again, and compares it with the undisturbed one."""
    chance = random.Random(seed)
    arguments = [*TRAIN, *OFTEN, "--steps", str(_UPDATES * _STEPS_AN_UPDATE)]
    reference = undisturbed(folder, arguments, ranks)
    series = Stops()
    while len(series.seconds) < requests and len(series.problems) < 5:
        run = SupervisedRun(series.start(folder), arguments, ranks)
        try:
            problems, done = [], False
            for _ in range(min(per_run, requests - len(series.seconds))):
                found, done = stop_once(run, chance, series)
                problems += found
                if problems or done:
                    break
                run.start()
            if not problems:
                code = run.wait()
                problems += compare(run, reference, 0 if code == 75 and done else code)
        finally:
            run.close()
        series.end(run, problems, f"{len(series.seconds)} requests so far")
    return series


def stop_once(run: SupervisedRun, chance: random.Random, series: Stops) -> tuple[list[str], bool]:
    """Asks a run that was just started to stop, at a random moment; what is wrong then, and whether it was done."""
    saved = _saved(run.run)
    target, late = chance.choice(TARGETS), chance.random() < 0.2
    if target == "supervisor" and chance.random() < 0.5:
        wait_until_handled(run.process.pid, signal.SIGUSR1)
        time.sleep(chance.uniform(0.0, 5.0))
    elif late:
        await_updates(run, _UPDATES)
        time.sleep(chance.uniform(0.0, 2.5))
    else:
        await_updates(run, chance.randint(0, 12))
        time.sleep(chance.uniform(0.0, 0.05))
    updates, processes = run.updates, run.processes
    ranks = [pid for name, pid in processes.items() if name.startswith("rank")]
    told = {
        "supervisor": [run.process.pid],
        "mpirun": [processes[name] for name in ("mpirun",) if name in processes],
        "a rank": [chance.choice(ranks)] if ranks else [],
        "all of them": [run.process.pid, *processes.values()],
    }[target]
    if run.process.poll() is not None:
        return [], True
    asked = time.monotonic()
    for pid in told:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
    code = run.wait()
    took = time.monotonic() - asked
    done = (run.run / "summary.json").exists()
    series.targets[target] += 1
    series.moments["starting" if updates < 0 else "ending" if updates == _UPDATES else "training"] += 1
    series.completed += code == 0
    series.seconds.append(took)
    what = f"SIGUSR1 to {target} after update {updates}"
    problems = []
    if code != 75 and not (done and code == 0):
        problems.append(f"{what}: exit code {code}; see {run.log}")
    if took > LIMIT:
        problems.append(f"{what}: {took:.1f} s")
    if (now := _saved(run.run)) < max(saved, updates * _STEPS_AN_UPDATE):
        problems.append(f"{what}: the newest checkpoint is of step {now}, after {saved} before")
    left = [job.processes() for job in jobs_named(str(run.run.resolve()))]
    problems += [f"{what}: {item} left" for item in (*left, *run.leftovers)]
    if rank_folder(run.run).exists():
        problems.append(f"{what}: the ranks' files are left")
    return problems, done


def await_updates(run: SupervisedRun, progress: int) -> None:
    """Waits until this attempt has begun to train, and gone on by so many updates; or has ended."""
    began, start = time.monotonic(), None
    while time.monotonic() - began < PATIENCE and run.process.poll() is None:
        updates = run.updates
        start = updates if start is None and updates >= 0 else start
        if start is not None and (updates < 0 or updates >= start + progress):
            return
        time.sleep(0.005)


def _saved(run: Path) -> int:
    """Environment steps of the newest checkpoint, which is loaded; -1 where there is none."""
    folder = run / "checkpoints"
    if not list_checkpoints(folder):
        return -1
    try:
        return load_checkpoint(folder, warn=lambda line: None).step
    except InputError:
        return -1
