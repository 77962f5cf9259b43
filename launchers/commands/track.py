"""``marl track``: a run's journal, sent to W&B afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from marl.launchers.command_line.options import Positional
from marl.launchers.console import read_options


@dataclass(frozen=True, kw_only=True)
class TrackOptions:
    """Options of ``marl track``."""

    run: Positional[Path]
    """A run directory."""
    mode: Literal["online", "offline"] = "online"
    """Send it, or write it for ``wandb sync``."""
    project: str = "marl"
    """The W&B project."""


def track(argv: list[str]) -> int:
    """Replays a journal into one W&B run."""
    options: TrackOptions = read_options(TrackOptions, argv, program="marl track")
    from marl.launchers.reports.wandb_upload import track as replay

    print(replay(options.run, options.mode, options.project))
    return 0
