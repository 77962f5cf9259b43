"""Runs of `marl train` in tests: small ones, and comparisons of what they left."""

import time
from pathlib import Path

import torch
from command_line import rows_of

from marl.checkpoints.checkpoint import load_checkpoint
from marl.experiments.resource_usage import MACHINE

TINY = ("--algorithm.rollout-length", "4", "--algorithm.epochs", "1", "--algorithm.hidden-sizes", "16")


def newest(run):
    return load_checkpoint(run / "checkpoints")


def same_state(one, other):
    """Whether two runs stand at exactly the same point: parameters, optimizers, environments, streams."""
    first, second = newest(one).tensors, newest(other).tensors
    different = [name for name in first if not torch.equal(first[name], second[name])]
    return (first.keys() == second.keys(), different) == (True, [])


def timeless(rows):
    return [{key: value for key, value in row.items() if key not in MACHINE} for row in rows]


def wait_for_rows(run: Path, count: int, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (run / "metrics.jsonl").exists() and len(rows_of(run)) >= count:
            return
        time.sleep(0.02)
    raise TimeoutError(f"{run} did not come to {count} rows")
