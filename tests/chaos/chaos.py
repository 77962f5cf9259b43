"""The chaos harness: kills, damages, and what must be left of a run afterwards.

``python tests/chaos/chaos.py kills 400`` and the like print one JSON object of statistics and end with exit code 1 if
anything was lost. ``make chaos`` runs the long forms, the tests beside this file short ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from resumptions import resume_on_ranks
from stops import stop_runs
from supervised import OFTEN, PATIENCE, TRAIN, Series, SupervisedRun, compare, undisturbed

from marl.checkpoints.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from marl.errors import InputError
from marl.launchers.supervision.heartbeat import read_beats
from marl.launchers.supervision.supervisor import rank_folder

MARKS = Path(__file__).parent / "wandb_calls"
VICTIMS = (
    "any rank",
    "rank 0",
    "mpirun",
    "supervisor and children",
    "supervisor",
    "during a checkpoint",
    "rank 0 during a W&B call",
    "W&B's process during a call",
)
WANDB_CALLS = (("init", "log"), ("log",), ("log",), ("finish",))
"""Calls during which to kill; the first comes as the job starts, the last as it ends."""


@dataclass
class Soak(Series):
    """Statistics of a series of kills; seconds are from a kill to the first update of the next attempt.

    Attributes:
        kills: kills by victim.
        calls: calls of W&B during which their process, or the rank behind it, was killed.
    """

    kills: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)

    def summary(self) -> dict[str, Any]:
        return {
            "kills": sum(self.kills.values()),
            "by victim": dict(self.kills),
            "within calls of W&B": dict(self.calls),
            "runs": self.runs,
            "bit-identical": self.identical,
            "problems": self.problems,
            **self.summarize_seconds("restart seconds"),
        }


def await_progress(run: SupervisedRun, chance: random.Random) -> bool:
    """Waits for a random moment; False if the run came to its end before."""
    start, began = run.updates, time.monotonic()
    # One in four comes while the job starts, the others after it has gone on by a few updates.
    early = chance.random() < 0.25
    delay, progress = chance.uniform(0.0, 4.0), chance.randint(1, 12)
    while time.monotonic() - began < PATIENCE:
        if run.process.poll() is not None:
            return False
        now = run.updates
        if early and time.monotonic() - began > delay:
            break
        if not early and now >= 1 and (now >= start + progress or now < start):
            break
        time.sleep(0.01)
    time.sleep(chance.uniform(0.0, 0.05))
    return True


def kill_one(run: SupervisedRun, victim: str, chance: random.Random) -> bool:
    """Waits for a random moment and kills; False if the run came to its end before."""
    if not await_progress(run, chance):
        return False
    if victim == "during a checkpoint":
        end = time.monotonic() + 10
        while not run.is_writing and time.monotonic() < end and run.process.poll() is None:
            pass
    processes = run.processes
    ranks = sorted(name for name in processes if name.startswith("rank"))
    if victim in ("rank 0", "during a checkpoint"):
        chosen = [processes[name] for name in ranks[:1]]
    elif victim == "any rank":
        chosen = [processes[chance.choice(ranks)]] if ranks else []
    elif victim == "mpirun":
        chosen = [processes["mpirun"]] if "mpirun" in processes else []
    elif victim == "supervisor":
        chosen = [run.process.pid]
    else:
        chosen = [run.process.pid, *processes.values()]
    # Nothing is there to be killed between two attempts; the supervisor always is.
    for pid in chosen or [run.process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if not chosen or run.process.pid in chosen:
        run.process.wait()
        run.start()
    return True


def soak(folder: Path, kills: int, *, seed: int = 0, ranks: int = 2, per_run: int = 4, steps: int = 960) -> Soak:
    """Disturbs run after run until so many processes were killed, and compares each with the undisturbed one."""
    chance = random.Random(seed)
    arguments = [*TRAIN, *OFTEN, "--steps", str(steps)]
    reference = undisturbed(folder, arguments, ranks)
    series = Soak()
    victims: list[str] = []
    while sum(series.kills.values()) < kills and len(series.problems) < 5:
        victims += chance.sample(VICTIMS, len(VICTIMS)) if len(victims) < per_run else []
        chosen = [victims.pop() for _ in range(min(per_run, kills - sum(series.kills.values())))]
        run, calls = start_run(series.start(folder), arguments, ranks, chosen)
        try:
            for victim in chosen:
                if "W&B" in victim:
                    during = kill_within_call(run, calls, victim, chance)
                    if not during:
                        break
                    series.calls[during] += 1
                elif not kill_one(run, victim, chance):
                    break
                series.kills[victim] += 1
                if victim != "W&B's process during a call":
                    measure_restart(run, series)
            code = run.wait()
            problems = compare(run, reference, code)
        finally:
            run.close()
        series.end(run, problems, f"{sum(series.kills.values())} kills so far")
        if not problems:
            shutil.rmtree(calls, ignore_errors=True)
    return series


def start_run(run: Path, arguments: Sequence[str], ranks: int, victims: Sequence[str]) -> tuple[SupervisedRun, Path]:
    """A run that logs to W&B, offline, where that is to be disturbed; and the folder where W&B's calls are marked."""
    calls = run.with_suffix(".calls")
    if not any("W&B" in victim for victim in victims):
        return SupervisedRun(run, arguments, ranks), calls
    calls.mkdir()
    path = os.pathsep.join(filter(None, [str(MARKS), os.environ.get("PYTHONPATH")]))
    variables = {"PYTHONPATH": path, "MARL_WANDB_CALLS": str(calls)}
    return SupervisedRun(run, [*arguments, "--wandb", "offline"], ranks, variables), calls


def kill_within_call(run: SupervisedRun, calls: Path, victim: str, chance: random.Random) -> str:
    """Kills W&B's process, or the rank that started it, within a call of W&B; says which, empty where none came."""
    wanted = chance.choice(WANDB_CALLS)
    if "init" not in wanted:
        await_progress(run, chance)
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE and run.process.poll() is None:
        for mark in calls.iterdir():
            call, _, pid = mark.name.partition("-")
            if call not in wanted:
                continue
            try:
                parent = int((Path("/proc") / pid / "stat").read_text().rpartition(")")[2].split()[1])
                owner = (Path("/proc") / str(parent) / "cmdline").read_bytes()
            except OSError:
                owner = b""
            if b"marl.launchers.main" not in owner:
                mark.unlink(missing_ok=True)  # of a process that is dead, or an orphan
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid) if victim.startswith("W&B") else parent, signal.SIGKILL)
                # W&B takes its mark away when the call is over.
                if mark.exists():
                    return call
        time.sleep(0.001)
    return ""


def measure_restart(run: SupervisedRun, series: Soak) -> None:
    """Waits for the first update of the next attempt, one time in three, and notes how long it took."""
    if len(series.seconds) * 3 > sum(series.kills.values()):
        return
    began, old = time.monotonic(), {beat.identity for beat in read_beats(rank_folder(run.run))}
    while time.monotonic() - began < PATIENCE and run.process.poll() is None:
        beats = [beat for beat in read_beats(rank_folder(run.run)) if beat.identity not in old]
        if any(beat.updates > 0 and beat.entered > 5 for beat in beats):
            series.seconds.append(time.monotonic() - began)
            return
        time.sleep(0.02)


@dataclass
class Losses(Series):
    """Statistics of ranks that died while the others went on; seconds are from a kill to the next new update.

    Attributes:
        victims: kills by rank.
        went_on: losses after which the survivors went on.
        fell_back: losses after which the job was restarted.
    """

    victims: Counter[str] = field(default_factory=Counter)
    went_on: int = 0
    fell_back: int = 0

    def summary(self) -> dict[str, Any]:
        return {
            "kills": sum(self.victims.values()),
            "by victim": dict(self.victims),
            "runs": self.runs,
            "went on": self.went_on,
            "fell back to a restart": self.fell_back,
            "problems": self.problems,
            **self.summarize_seconds("seconds to the next update"),
            "within 3 s": sum(seconds <= 3 for seconds in self.seconds),
        }


def lose_ranks(
    folder: Path, kills: int, *, seed: int = 0, ranks: int = 4, per_run: int = 1, steps: int = 3200
) -> Losses:
    """Kills ranks of runs that are to go on without them, and compares each run with the undisturbed one.

    Sums over fewer ranks are other sums of floats, so weights are equal up to rounding only.
    """
    chance = random.Random(seed)
    arguments = [*TRAIN, *OFTEN, "--num-envs", "8", "--steps", str(steps), "--elastic"]
    reference = undisturbed(folder, arguments, ranks)
    series = Losses()
    while sum(series.victims.values()) < kills and len(series.problems) < 5:
        run = SupervisedRun(series.start(folder), arguments, ranks)
        try:
            for _ in range(min(per_run, kills - sum(series.victims.values()))):
                if not lose_one(run, chance, series):
                    break
            code = run.wait()
            problems = compare(run, reference, code, exactly=False)
        finally:
            run.close()
        series.end(run, problems, str(series.seconds[-1:]))
    return series


def lose_one(run: SupervisedRun, chance: random.Random, series: Losses) -> bool:
    """Kills one rank at a random moment and measures; False if the run came to its end before."""
    progress, began = run.updates + chance.randint(1, 40), time.monotonic()
    while run.updates < max(1, progress):
        if run.process.poll() is not None or time.monotonic() - began > PATIENCE:
            return False
        time.sleep(0.005)
    time.sleep(chance.uniform(0.0, 0.05))
    victim, pid = chance.choice([item for item in run.processes.items() if item[0].startswith("rank")])
    restarts, done = run.log.read_text().count("marl: restart "), run.updates
    os.kill(pid, signal.SIGKILL)
    series.victims["rank 0" if victim == "rank 0" else "another rank"] += 1
    killed = time.monotonic()
    # For a moment there are no files of ranks, or only those of before.
    while run.process.poll() is None and run.updates <= done and time.monotonic() - killed < PATIENCE:
        time.sleep(0.005)
    took = time.monotonic() - killed
    if run.log.read_text().count("marl: restart ") > restarts:
        series.fell_back += 1
    else:
        series.went_on += 1
        series.seconds.append(took)
    return True


def content_of(step: int) -> dict[str, torch.Tensor]:
    """Tensors that tell which step they are of."""
    return {
        "weights": torch.arange(512, dtype=torch.float32) * step,
        "moments.mean": torch.full((64,), step / 7, dtype=torch.float64),
        "steps": torch.tensor(step),
    }


def check_content(folder: Path, least: int) -> str | None:
    """What is wrong with the newest whole checkpoint, which must be of this step or a later one."""
    try:
        checkpoint = load_checkpoint(folder, warn=lambda line: None)
    except InputError as error:
        return str(error)
    expected = content_of(checkpoint.step)
    if checkpoint.step < least:
        return f"step {checkpoint.step} was loaded, but {least} was complete"
    if not all(torch.equal(checkpoint.tensors[name], tensor) for name, tensor in expected.items()):
        return f"step {checkpoint.step} holds something else"
    return None


def kill_writers(folder: Path, kills: int, *, seed: int = 0) -> dict[str, Any]:
    """Kills a process that writes checkpoints, again and again, at random points of its writing."""
    chance = random.Random(seed)
    torch.set_num_threads(1)
    step, problems, within = 1, [], 0
    began = time.monotonic()
    save_checkpoint(folder, step, content_of(step), {})
    span = max(0.002, 2.5 * (time.monotonic() - began))
    for number in range(kills):
        pid = os.fork()
        if pid == 0:
            # The child writes until it is killed.
            with contextlib.suppress(BaseException):
                while True:
                    step += 1
                    save_checkpoint(folder, step, content_of(step), {})
            os._exit(1)
        time.sleep(chance.uniform(0.0, span))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        within += any(name.startswith(".tmp-") for name in os.listdir(folder))
        if problem := check_content(folder, step):
            problems.append(f"kill {number}: {problem}")
        paths = list_checkpoints(folder)
        step = max(step, int(paths[-1].name[:12]))
        for path in paths[:-2]:
            shutil.rmtree(path)
    return {"kills of the writer": kills, "within a checkpoint": within, "problems": problems}


def damage(path: Path, other: Path, chance: random.Random) -> str:
    """Damages one file of a checkpoint at random; says how, or nothing if it came out as it was."""
    file = chance.choice(sorted(path.iterdir()))
    before = file.read_bytes()
    data = bytearray(before)
    how = chance.choice(("bit", "cut", "swap", "exchange"))
    if how == "bit":
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif how == "cut":
        del data[chance.randrange(len(data)) :]
    elif how == "swap":
        size = chance.choice((1, 16, 64))
        first, second = (chance.randrange(max(1, len(data) - size)) for _ in range(2))
        data[first : first + size], data[second : second + size] = (
            data[second : second + size],
            data[first : first + size],
        )
    else:
        data = bytearray((other / file.name).read_bytes())
    if data == before:
        return ""
    file.write_bytes(data)
    return f"{how} in {file.name}"


def damage_checkpoints(folder: Path, damages: int, *, seed: int = 0) -> dict[str, Any]:
    """Damages the newest of two checkpoints, again and again; the one before must be taken."""
    chance = random.Random(seed)
    save_checkpoint(folder, 1, content_of(1), {"counter": 1})
    newest = save_checkpoint(folder, 2, content_of(2), {"counter": 2})
    whole = {path.name: path.read_bytes() for path in newest.iterdir()}
    kinds: Counter[str] = Counter()
    problems = []
    while sum(kinds.values()) < damages:
        if not (how := damage(newest, folder / f"{1:012d}", chance)):
            continue
        kinds[how.partition(" ")[0]] += 1
        loaded = load_checkpoint(folder, warn=lambda line: None)
        if loaded.step != 1 or not torch.equal(loaded.tensors["weights"], content_of(1)["weights"]):
            problems.append(f"{how}: step {loaded.step} was loaded")
        for name, data in whole.items():
            (newest / name).write_bytes(data)
    return {"damages": sum(kinds.values()), "by kind": dict(kinds), "problems": problems}


def main(argv: Sequence[str]) -> int:
    what, count = argv[0], int(argv[1])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seed = int(argv[2]) if len(argv) > 2 else int(time.time())
    folder = Path(tempfile.mkdtemp(prefix="marl-chaos."))
    if what == "kills":
        statistics = soak(folder, count, seed=seed).summary()
    elif what == "elastic":
        statistics = lose_ranks(folder, count, seed=seed).summary()
    elif what == "stops":
        statistics = stop_runs(folder, count, seed=seed).summary()
    elif what == "resume":
        statistics = resume_on_ranks(folder, count, seed=seed)
    elif what == "writers":
        statistics = kill_writers(folder, count, seed=seed)
    elif what == "damages":
        statistics = damage_checkpoints(folder, count, seed=seed)
    else:
        raise SystemExit("kills, stops, resume, elastic, writers or damages, and how many")
    print(json.dumps({"chaos": what, "seed": seed, **statistics}), flush=True)  # noqa: T201
    if statistics["problems"]:
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
