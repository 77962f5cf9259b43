"""Trains Kuhn and Leduc poker by their recipes, and prints how exploitable the last policies are, exactly.

    python benchmarks/poker.py [--games kuhn_poker leduc_poker] [--seeds 3] [--ranks 2] [--out runs/poker]

Runs that are there already are not repeated, so an interrupted one goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", default=["kuhn_poker", "leduc_poker"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/poker"))
    options = parser.parse_args()
    marl = str(Path(sys.executable).parent / "marl")
    print("| game | exploitability of each seed | median | seconds |")
    print("|---|---|---|---|", flush=True)
    for game in options.games:
        found = []
        for seed in range(options.seeds):
            run = options.out / f"{game}-{seed}"
            if not (run / "summary.json").exists():
                words = ["train", "ippo", f"openspiel/{game}", "--seed", seed, "--ranks", options.ranks, "--out", run]
                subprocess.run([marl, *map(str, words)], check=True, stdout=subprocess.DEVNULL)
            found.append(json.loads((run / "summary.json").read_text()))
        values = [summary["exploitability"] for summary in found]
        each = ", ".join(f"{value:.4f}" for value in values)
        seconds = statistics.median(summary["wall_seconds"] for summary in found)
        print(f"| {game} | {each} | {statistics.median(values):.4f} | {seconds:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
