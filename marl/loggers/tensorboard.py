"""A logger that writes TensorBoard files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from marl.errors import InputError
from marl.loggers.base import Logger


class TensorBoardLogger(Logger):
    """Writes every metric as a scalar over environment steps.

    Args:
        directory: the folder of the event files.
        resume_at: environment steps of the checkpoint that a resumed run starts from; later points of the run
            that was broken off are hidden.

    Raises:
        InputError: TensorBoard is not installed.
    """

    def __init__(self, directory: Path, *, resume_at: int | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError("TensorBoard is not installed; pip install 'marl[tensorboard]'") from error
        purge_step = None if resume_at is None else resume_at + 1
        self._writer = SummaryWriter(str(directory), purge_step=purge_step)
        self._step = resume_at or 0

    def write(self, row: Mapping[str, float]) -> None:
        """Adds the row's metrics at its ``env_steps``, or at those of the row before if it has none."""
        self._step = int(row.get("env_steps", self._step))
        for key, value in row.items():
            if key != "env_steps":
                self._writer.add_scalar(key, value, self._step)

    def close(self) -> None:
        self._writer.close()
