"""Trains what docs/results.md shows, and prints its table: greedy returns on the unmodified environments.

    python benchmarks/learning.py [--seeds 3] [--only NAME] [--out runs/learning]

Runs that are there already are not repeated, so an interrupted one goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

CONTINUOUS = ("--env-kwargs", '{"continuous_actions": true}')
SPREAD, SPEAKER = "mpe2.simple_spread_v3", "mpe2.simple_speaker_listener_v4"
RUNS = {
    "mappo spread": ("mappo", SPREAD, ()),
    "ippo spread": ("ippo", SPREAD, ()),
    "recurrent mappo spread": ("mappo", SPREAD, ("--algorithm.recurrent",)),
    "mappo spread continuous": ("mappo", SPREAD, CONTINUOUS),
    "mappo speaker-listener": ("mappo", SPEAKER, ()),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--only", choices=sorted(RUNS))
    parser.add_argument("--backend", choices=("pettingzoo", "batched"), default="pettingzoo")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    options = parser.parse_args()
    marl = str(Path(sys.executable).parent / "marl")
    print("| run | greedy return of each seed | mean | env steps/s |")
    print("|---|---|---|---|", flush=True)
    for name, (algorithm, env, flags) in RUNS.items():
        if options.only not in (None, name):
            continue
        returns: list[float] = []
        rates: list[float] = []
        for seed in range(options.seeds):
            run = options.out / f"{name.replace(' ', '-')}-{seed}"
            if not (run / "summary.json").exists():
                words = ["train", algorithm, env, "--seed", seed, "--steps", options.steps, "--ranks", options.ranks]
                words += ["--backend", options.backend, *flags, "--out", run]
                subprocess.run([marl, *map(str, words)], check=True, stdout=subprocess.DEVNULL)
            figures = [marl, "evaluate", str(run), "--episodes", "100", "--json"]
            result = json.loads(subprocess.run(figures, check=True, capture_output=True, text=True).stdout)
            returns.append(result["evaluation/return_mean"])
            rates.append(json.loads((run / "summary.json").read_text())["env_steps_per_second"])
        each = ", ".join(f"{value:.1f}" for value in returns)
        print(f"| {name} | {each} | {statistics.mean(returns):.1f} | {statistics.median(rates):,.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
