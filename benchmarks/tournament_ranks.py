"""A league's snapshots in a tournament: the same table from any number of ranks and after kills, and how fast it is.

    python benchmarks/tournament_ranks.py [--games 100] [--kills 20] [--out runs/tournament-ranks]

Six snapshots of one league of connect four and ``random`` meet each other: from 1, 2 and 4 ranks, in turns, and once
more from 2 ranks that are all killed (SIGKILL) at random moments and started again. Prints one JSON object a line and
ends with code 1 where a table differs. The league in --out is trained first where it is missing. Seconds are those of
the clock, without the start of processes, so keep the machine free; ``load`` tells whether it was.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ENV = "classic/connect_four-v3"
FILES = ("games.jsonl", "results.json", "results.csv", "report.html", "report.png")
MARL = str(Path(sys.executable).parent / "marl")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--games", type=int, default=100, help="of each pair")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="timings of 1 and of 2 ranks, in turns")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which ranks are killed")
    parser.add_argument("--out", type=Path, default=Path("runs/tournament-ranks"))
    options = parser.parse_args()
    league = train(options.out / "league")
    seconds: dict[int, list[float]] = {1: [], 2: [], 4: []}
    paths = []
    for number in range(options.rounds):
        for ranks in (1, 2, 4) if number == 0 else (1, 2):
            path = fresh(options.out / f"ranks-{ranks}-{number}")
            seconds[ranks].append(run_tournament(league, path, options.games, ranks))
            paths.append(path)
    reference, *others = paths
    alike = [path.name for path in others if same(reference, path)]
    games = json.loads((reference / "results.json").read_text())["games"]
    say(
        "tournament/ranks",
        games=games,
        same_files=len(alike),
        of=len(others),
        load=os.getloadavg()[0],
        seconds={ranks: statistics.median(values) for ranks, values in seconds.items()},
        fastest={ranks: min(values) for ranks, values in seconds.items()},
        # The fastest of each are those that other processes disturbed least.
        speedup_of_2=min(seconds[1]) / min(seconds[2]),
    )
    if not options.kills:
        return int(len(alike) < len(others))
    path = fresh(options.out / "killed")
    killed, written = kill(league, path, options, statistics.median(seconds[2]))
    run_tournament(league, path, options.games, 2)
    say("tournament/kills", kills=killed, games_after_each=written, same_files=same(reference, path))
    return int(len(alike) < len(others) or not same(reference, path))


def say(name: str, **values: Any) -> None:
    print(json.dumps({"name": name, **values}), flush=True)


def train(path: Path) -> Path:
    """A league with six snapshots and more; how well they play does not matter here."""
    if not (path / "summary.json").exists():
        argv = ["league", "ippo", ENV, "--recipe", "none", "--steps", 48_000, "--save-steps", 8_000, "--num-envs", 32]
        argv += ["--evaluation-episodes", 0, "--out", path]
        subprocess.run([MARL, *map(str, argv)], check=True, stdout=subprocess.DEVNULL)
    return path


def command(league: Path, path: Path, games: int, ranks: int) -> list[str]:
    players = [f"main-{number}={league}@main-{number:04d}" for number in range(6)]
    argv = ["tournament", ENV, "--players", *players, "random", "--games", games, "--random-opening-moves", 4]
    return [MARL, *map(str, [*argv, "--ranks", ranks, "--out", path])]


def fresh(path: Path) -> Path:
    if path.exists():
        for file in path.rglob("*"):
            if file.is_file():
                file.unlink()
    return path


def run_tournament(league: Path, path: Path, games: int, ranks: int) -> float:
    """Plays a tournament to its end; the seconds that it says it took, without the start of the processes."""
    done = subprocess.run(command(league, path, games, ranks), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{path}: {done.stderr}")
    found = re.search(r"games, ([\d.]+) s;", done.stdout)
    assert found, done.stdout
    return float(found[1])


def same(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in FILES)


def kill(league: Path, path: Path, options: argparse.Namespace, seconds: float) -> tuple[int, list[int]]:
    """Starts and kills all processes at once, at random moments; how often, and how many games there were then."""
    generator, file = random.Random(options.seed), path / "games.jsonl"
    killed, written = 0, []
    while killed < options.kills:
        process = subprocess.Popen(
            command(league, path, options.games, 2),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # Three moments in ten may lie within the start, the others lie within the games.
        before = lines(file)
        if generator.random() < 0.7:
            while lines(file) == before and process.poll() is None:
                time.sleep(0.005)
            time.sleep(generator.uniform(0.0, 0.8 * seconds / options.kills))
        else:
            time.sleep(generator.uniform(0.0, 5.0))
        if process.poll() is not None:
            raise SystemExit("the tournament was over before all kills; raise --games")
        for pid in [process.pid, *descendants(process.pid)]:
            os.kill(pid, signal.SIGKILL)
        process.wait()
        killed += 1
        written.append(lines(file))
    return killed, written


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def descendants(pid: int) -> list[int]:
    """All processes that a process started, and those that they started."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in brackets may hold blanks.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        parents.setdefault(parent, []).append(int(stat.parent.name))
    found, waiting = [], [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


if __name__ == "__main__":
    raise SystemExit(main())
