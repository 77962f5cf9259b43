"""Trains off-policy algorithms on 1, 2 and 4 ranks, and shows that what they learn does not depend on that.

    python benchmarks/ranks.py [--only NAME] [--out runs/ranks]

The same environment steps, copies over all ranks, and samples per insert. One rank with three seeds tells how far
seeds lie apart; 2 and 4 ranks have the first seed. Prints the table of docs/results.md and draws its picture into
--out. Runs that are there already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from marl.launchers.reports.drawing import new_figure

SPREAD, SPEAKER = "mpe2.simple_spread_v3", "mpe2.simple_speaker_listener_v4"
CONTINUOUS = ("--env-kwargs", '{"continuous_actions": true}')
RUNS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "iql": (SPREAD, 100_000, ()),
    "vdn": (SPREAD, 100_000, ()),
    "qmix": (SPREAD, 100_000, ()),
    "qplex": (SPREAD, 100_000, ()),
    "maddpg": (SPEAKER, 100_000, ()),
    "iddpg": (SPEAKER, 100_000, ()),
    "isac": (SPEAKER, 100_000, ()),
    "matd3": (SPREAD, 60_000, CONTINUOUS),
    "masac": (SPREAD, 60_000, CONTINUOUS),
}
PARTS = ((1, 0), (1, 1), (1, 2), (2, 0), (4, 0))
"""Ranks and seeds."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(RUNS))
    parser.add_argument("--out", type=Path, default=Path("runs/ranks"))
    options = parser.parse_args()
    returns: dict[str, list[float]] = {}
    print("| algorithm | environment | steps | 1 rank, seeds 0, 1, 2 | 2 ranks | 4 ranks |")
    print("|---|---|---|---|---|---|", flush=True)
    for name, (env, steps, flags) in RUNS.items():
        if options.only in (None, name):
            values = returns[name] = [measure(options.out, name, env, steps, flags, *part) for part in PARTS]
            each = [f"{value:.1f}" for value in values]
            print(f"| {name} | {env} | {steps:,} | {', '.join(each[:3])} | {each[3]} | {each[4]} |", flush=True)
    draw(returns, options.out / "ranks.png")
    return 0


def measure(out: Path, name: str, env: str, steps: int, flags: tuple[str, ...], ranks: int, seed: int) -> float:
    """The greedy return over 100 episodes of one run on the unmodified environment."""
    run = out / f"{name}-{ranks}-ranks-seed-{seed}"
    marl = str(Path(sys.executable).parent / "marl")
    if not (run / "summary.json").exists():
        words = ["train", name, env, "--steps", steps, "--ranks", ranks, "--seed", seed, "--backend", "batched"]
        words += [*flags, "--evaluation-episodes", 0, "--out", run]
        subprocess.run([marl, *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    result = out / f"{run.name}.json"
    if not result.exists():
        command = [marl, "evaluate", str(run), "--episodes", "100", "--json"]
        result.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return float(json.loads(result.read_text())["evaluation/return_mean"])


def draw(returns: dict[str, list[float]], path: Path) -> None:
    """One column an algorithm: a bar over the seeds of one rank, and a mark for 2 and for 4 ranks."""
    figure = new_figure(8, 4)
    axes = figure.add_subplot()
    marks = (("1 rank", "o", 0, -0.12), ("2 ranks", "s", 3, 0.0), ("4 ranks", "^", 4, 0.12))
    for column, values in enumerate(returns.values()):
        axes.plot(
            [column] * 2,
            [min(values[:3]), max(values[:3])],
            color="lightgrey",
            linewidth=12,
            solid_capstyle="butt",
            zorder=1,
        )
    for color, (label, shape, index, shift) in enumerate(marks):
        places = [column + shift for column in range(len(returns))]
        axes.scatter(
            places, [values[index] for values in returns.values()], marker=shape, color=f"C{color}", label=label
        )
    axes.set_xticks(range(len(returns)), list(returns))
    axes.set_ylabel("greedy return, sum over agents")
    axes.set_title("1, 2 and 4 ranks at the same steps; grey: three seeds of one rank")
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
