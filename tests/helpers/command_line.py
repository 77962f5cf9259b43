"""What tests of the command share."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marl.launchers.main import main

HERE = Path(__file__).parent
SPREAD = "mpe2.simple_spread_v3"
POLITE = {"OMP_NUM_THREADS": "1", "OMPI_MCA_mpi_yield_when_idle": "true"}
"""The tests may share their cores with others."""
SHORT = ("--num-envs", "4", "--row-every", "1", "--evaluation-episodes", "2")
"""One update of MAPPO takes 100 environment steps with these."""


@dataclass(frozen=True)
class Finished:
    code: int
    stdout: str
    stderr: str


def rows_of(run: Path, *, final: bool = False) -> list[dict[str, Any]]:
    """The rows of training, or the final evaluation's instead."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if ("evaluation/final_env_steps" in row) == final]


def quietly(*argv: object) -> None:
    assert main([str(word) for word in argv]) == 0
