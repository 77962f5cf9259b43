"""Runs other frameworks beside this one on simple_spread, each in a virtual environment of its own, and prints a table.

    python benchmarks/peers.py [--rounds 3] [--seconds 20] [--venvs build/peers]

What is compared takes turns on all cores of this machine; a figure is the median over rounds. Configurations are as
equal as the frameworks allow: 64x64 tanh networks, discrete actions, 128 steps a copy, 4 epochs of 4 minibatches.
VMAS's and JaxMARL's simple_spread have dynamics of their own; ours are mpe2's to 1e-5.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = Path(__file__).parent / "peers"
SPREAD = "mpe2.simple_spread_v3"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A framework as its users install it."""

    name: str
    installs: tuple[tuple[str, ...], ...]
    """What is installed, one command after the other."""
    shown: tuple[str, ...]
    """Packages whose versions the table names."""


# The newest BenchMARL reads MPE from PettingZoo, which has given it away since. torch first and alone: with nothing
# installed, a looser requirement may take a build with gigabytes of CUDA.
BENCHMARL = Peer(
    name="BenchMARL",
    installs=(("torch",), ("benchmarl==1.5.2", "vmas==1.5.2", "pettingzoo[mpe]==1.24.3")),
    shown=("benchmarl", "torchrl", "vmas", "pettingzoo", "torch"),
)
JAXMARL = Peer(name="JaxMARL", installs=(("jaxmarl==0.2.0",),), shown=("jaxmarl", "jax"))


@dataclass(frozen=True, kw_only=True)
class Contest:
    """One task, and who takes turns at it."""

    task: str
    ours: tuple[str, ...]
    """Words of a command of this project's Python that prints a line of JSON."""
    theirs: tuple[tuple[Peer, str, tuple[str, ...]], ...]
    """Peer, name in the table, words of its program."""


def _bench(rounds: int, *words: str) -> tuple[str, ...]:
    return ("-m", "marl.launchers.main", "bench", "train", "--ranks", "2", "--rounds", str(rounds), *words)


def _stepping(copies: int, seconds: str) -> Contest:
    words = (str(copies), seconds)
    return Contest(
        task=f"stepping alone, {copies} copies",
        ours=(str(PROGRAMS / "marl_stepping.py"), *words),
        theirs=(
            (JAXMARL, "JaxMARL", ("jaxmarl_stepping.py", *words)),
            (BENCHMARL, "VMAS", ("vmas_stepping.py", *words)),
        ),
    )


def contests(seconds: str) -> list[Contest]:
    """All of them; each program measures for about so many seconds."""
    return [
        Contest(
            task="training, unmodified PettingZoo",
            ours=_bench(5, "--num-envs", "32"),
            theirs=(
                (BENCHMARL, "BenchMARL, PettingZoo", ("benchmarl_training.py", "pettingzoo", "8", "128", seconds)),
            ),
        ),
        Contest(
            task="training, batched, 128 copies",
            ours=_bench(10, "--backend", "batched"),
            theirs=((BENCHMARL, "BenchMARL, VMAS", ("benchmarl_training.py", "vmas", "128", "128", seconds)),),
        ),
        _stepping(128, seconds),
        _stepping(4096, seconds),
    ]


def main() -> int:
    """Installs what is missing, measures, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", default="20")
    parser.add_argument("--venvs", type=Path, default=Path("build/peers"))
    options = parser.parse_args()
    pythons = {peer.name: _install(peer, options.venvs) for peer in (BENCHMARL, JAXMARL)}
    print(f"{platform.machine()}, {os.cpu_count()} cores, {datetime.date.today()}; " + _versions(pythons))
    print("\n| task | system | env steps/s | ours is |\n|---|---|---|---|", flush=True)
    for contest in contests(options.seconds):
        ours: list[float] = []
        theirs: dict[str, list[float]] = {name: [] for _, name, _ in contest.theirs}
        for _ in range(options.rounds):
            ours.append(_measure([sys.executable, *contest.ours]))
            for peer, name, (program, *words) in contest.theirs:
                theirs[name].append(_measure([pythons[peer.name], str(PROGRAMS / program), *words]))
        mine = statistics.median(ours)
        print(f"| {contest.task} | marl | {mine:,.0f} | |")
        for name, rates in theirs.items():
            rate = statistics.median(rates)
            print(f"| | {name} | {rate:,.0f} | {mine / rate:.1f} × |", flush=True)
    return 0


def _install(peer: Peer, folder: Path) -> str:
    venv = (folder / peer.name.lower()).resolve()
    python = venv / "bin" / "python"
    if not (venv / "ready").exists():
        print(f"installing {peer.name} into {venv}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        for requirements in peer.installs:
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
            subprocess.run(pip, check=True)
        (venv / "ready").touch()
    return str(python)


def _versions(pythons: dict[str, str]) -> str:
    told = []
    for peer in (BENCHMARL, JAXMARL):
        program = "import importlib.metadata as m, sys; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')"
        done = subprocess.run(
            [pythons[peer.name], "-c", program, *peer.shown], check=True, capture_output=True, text=True
        )
        told.append(done.stdout.strip())
    return "; ".join(told)


def _measure(command: Sequence[str]) -> float:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=900)
    line = json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))
    return float(line.get("rate", line.get("value")))


if __name__ == "__main__":
    sys.exit(main())
