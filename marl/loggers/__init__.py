"""Loggers of metrics: the journal, the terminal, W&B, TensorBoard, and small wrappers around them."""

from __future__ import annotations

from marl.loggers.base import MultiLogger, NullLogger, OnlyNewer
from marl.loggers.journal import JournalLogger, read_journal
from marl.loggers.tensorboard import TensorBoardLogger
from marl.loggers.terminal import TerminalLogger
from marl.loggers.wandb import WandbLogger

__all__ = [
    "JournalLogger",
    "MultiLogger",
    "NullLogger",
    "OnlyNewer",
    "TensorBoardLogger",
    "TerminalLogger",
    "WandbLogger",
    "read_journal",
]
