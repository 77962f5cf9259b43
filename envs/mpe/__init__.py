"""MPE on tensors: many copies of a task stepped together, equal in every number to ``mpe2``."""

from __future__ import annotations

from marl.envs.mpe.environment import BatchedMPE
from marl.envs.mpe.factory import TASKS, bench_step, make_batched, make_task

__all__ = ["TASKS", "BatchedMPE", "bench_step", "make_batched", "make_task"]
