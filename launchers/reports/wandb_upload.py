"""Sends a finished or broken-off run to W&B afterwards: its journal, into one W&B run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from marl.checkpoints.checkpoint import list_checkpoints
from marl.errors import InputError
from marl.launchers.run.run_directory import RunDirectory
from marl.loggers.journal import read_journal
from marl.loggers.wandb import WandbLogger


def track(
    run: Path,
    mode: Literal["online", "offline"] = "online",
    project: str = "marl",
    *,
    init_timeout: float = 60.0,
    finish_timeout: float = 600.0,
) -> str:
    """Replays ``metrics.jsonl`` into ONE W&B run, however many restarts the run had.

    Every row goes, in order, and the newest checkpoint as an artifact. Done twice, it adds what is new: the W&B
    run has the run's own identity.

    Args:
        run: a run directory.
        mode: ``offline`` writes into the run directory, for ``wandb sync``.
        project: the W&B project.
        init_timeout: seconds in which W&B must have begun.
        finish_timeout: seconds for the uploads.

    Returns:
        Where the W&B run is: its address, or its folder if offline.

    Raises:
        InputError: no such run, nothing in it yet, or W&B is not available.
    """
    directory = RunDirectory.open(run)
    rows = list(read_journal(directory.metrics))
    if not rows:
        raise InputError(f"{directory.metrics} has no rows yet")
    trouble: list[str] = []
    logger = WandbLogger(
        project,
        directory.path.resolve().name,
        mode=mode,
        config=directory.config,
        directory=directory.path,
        # Not the identity under which training itself may have logged: that run can have gaps.
        run_id=f"{directory.run_id}-journal",
        resume=mode == "online",
        init_timeout=init_timeout,
        finish_timeout=finish_timeout,
        most_bytes=None,
        warn=trouble.append,
    )
    for row in rows:
        logger.write(row)
    if checkpoints := list_checkpoints(directory.checkpoints):
        logger.log_artifact(checkpoints[-1], f"{directory.run_id}-checkpoint")
    logger.close(0 if directory.summary is not None else 1)
    if logger.failure is not None:
        raise InputError(f"W&B is not available: {logger.failure}; nothing is lost, try again later or offline")
    return logger.url or str(directory.path)
