"""Uploads to W&B after the fact: a run's journal, or a tournament's ratings, into one W&B run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marl.checkpoints.checkpoint import list_checkpoints
from marl.errors import InputError
from marl.launchers.reports.trackers import WandbMode, make_wandb_logger
from marl.launchers.run.run_directory import RunDirectory
from marl.loggers.journal import read_journal
from marl.loggers.wandb import WandbLogger


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """The outcome of an upload."""

    url: str | None
    """The address of the W&B run, or its folder if offline; None where W&B has not begun."""
    failure: str | None
    """The reason for which not all was sent; None where all was."""
    warnings: tuple[str, ...]
    """Lines about trouble on the way."""


def upload_rows(
    run: RunDirectory,
    rows: Iterable[Mapping[str, float]],
    mode: WandbMode,
    project: str,
    *,
    attach: Callable[[WandbLogger], object],
    code: int = 0,
    **settings: Any,
) -> Upload:
    """Sends rows to one W&B run, all of them and in order; rows that an online run has already are not repeated.

    Args:
        run: a run directory.
        rows: metrics.
        mode: ``offline`` writes into the run directory, for ``wandb sync``.
        project: the W&B project.
        attach: sends tables and artifacts, after the rows.
        code: the exit code that W&B shows.
        **settings: see ``make_wandb_logger``.
    """
    warnings: list[str] = []
    logger = make_wandb_logger(run, mode, project, resume=True, most_bytes=None, warn=warnings.append, **settings)
    for row in rows:
        logger.write(row)
    attach(logger)
    logger.close(code)
    return Upload(url=logger.url, failure=logger.failure, warnings=tuple(warnings))


def track(
    path: Path,
    mode: WandbMode = "online",
    project: str = "marl",
    *,
    init_timeout: float = 60.0,
    finish_timeout: float = 600.0,
) -> str:
    """Replays ``metrics.jsonl`` into ONE W&B run, however many restarts the run had.

    Every row goes, in order, and the newest checkpoint as an artifact. Done twice, it adds what is new: the W&B
    run has the run's own identity.

    Args:
        path: a run directory.
        mode: ``offline`` writes into the run directory, for ``wandb sync``.
        project: the W&B project.
        init_timeout: seconds in which W&B must have begun.
        finish_timeout: seconds for the uploads.

    Returns:
        The address of the W&B run, or its folder if offline.

    Raises:
        InputError: no such run, nothing in it yet, or W&B is not available.
    """
    run = RunDirectory.open(path)
    rows = list(read_journal(run.metrics))
    if not rows:
        raise InputError(f"{run.metrics} has no rows yet")

    def attach_checkpoint(logger: WandbLogger) -> None:
        if checkpoints := list_checkpoints(run.checkpoints):
            logger.log_artifact(checkpoints[-1], f"{run.run_id}-checkpoint")

    upload = upload_rows(
        run,
        rows,
        mode,
        project,
        attach=attach_checkpoint,
        code=0 if run.summary is not None else 1,
        # Not the identity under which training itself may have logged: that run can have gaps.
        run_id=f"{run.run_id}-journal",
        init_timeout=init_timeout,
        finish_timeout=finish_timeout,
    )
    if upload.failure is not None:
        raise InputError(f"W&B is not available: {upload.failure}; nothing is lost, try again later or offline")
    return upload.url or str(run.path)
