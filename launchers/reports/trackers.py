"""Experiment trackers beside the journal: the one place where W&B and TensorBoard loggers are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from marl.experiments.training_loop import FINAL
from marl.launchers.run.run_directory import RunDirectory
from marl.loggers import OnlyNewer, TensorBoardLogger, WandbLogger
from marl.loggers.base import Logger

WandbMode = Literal["offline", "online"]


@dataclass(frozen=True, kw_only=True)
class TrackerOptions:
    """Options of commands that log to trackers while they run."""

    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """Whether to log to W&B."""
    wandb_project: str = "marl"
    """The W&B project."""
    tensorboard: bool = False
    """Whether to write TensorBoard files into the run directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trackers:
    """The trackers of a run."""

    loggers: tuple[Logger, ...]
    """All of them; each gets a row once, also where the steps after a checkpoint are done once more."""
    wandb: WandbLogger | None
    """The W&B run, for artifacts and the exit code; None where W&B is disabled."""


def make_trackers(
    options: TrackerOptions, run: RunDirectory, *, resume: bool, resume_at: int | None, group: str
) -> Trackers:
    """Makes the trackers that the options ask for.

    Args:
        options: of the command.
        run: the run directory, whose configuration and identity the trackers show.
        resume: whether the run continues one that was logged before.
        resume_at: environment steps of the checkpoint from which it continues; None for a new run.
        group: W&B shows runs of one group together.

    Raises:
        InputError: TensorBoard is not installed.
    """
    loggers: list[Logger] = []
    wandb: WandbLogger | None = None
    if options.tensorboard:
        loggers.append(TensorBoardLogger(run.path / "tensorboard", resume_at=resume_at))
    if options.wandb != "disabled":
        wandb = make_wandb_logger(run, options.wandb, options.wandb_project, resume=resume, group=group)
        loggers.append(wandb)
    # Trackers cannot take a row back.
    return Trackers(loggers=tuple(OnlyNewer(logger, "env_steps", FINAL) for logger in loggers), wandb=wandb)


def make_wandb_logger(
    run: RunDirectory,
    mode: WandbMode,
    project: str,
    *,
    resume: bool,
    run_id: str | None = None,
    group: str | None = None,
    **limits: Any,
) -> WandbLogger:
    """Makes the logger of a run directory's W&B run.

    Args:
        run: the run directory.
        mode: ``offline`` writes into the run directory, for ``wandb sync``.
        project: the W&B project.
        resume: whether to continue the online run of this identity, if there is one.
        run_id: identity of the W&B run; by default the run directory's own online, and a new one offline, where a
            second run of the same identity would overwrite the first.
        group: W&B shows runs of one group together.
        **limits: see WandbLogger.
    """
    online = mode == "online"
    return WandbLogger(
        project,
        run.path.resolve().name,
        mode=mode,
        config=run.config,
        directory=run.path,
        run_id=run_id or (run.run_id if online else None),
        resume=resume and online,
        group=group,
        **limits,
    )
