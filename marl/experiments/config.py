"""The configuration of an experiment, and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from marl.acting.evaluation import Evaluation
from marl.acting.modes import EvaluationPolicy
from marl.builders import Builder
from marl.core import EnvironmentFactory, Metrics, State
from marl.counters import MAX_STEPS, Counter
from marl.errors import InputError
from marl.policy import Policy
from marl.progress import Progress
from marl.specs import EnvironmentSpec

_CPU: Final = torch.device("cpu")


Measure = Callable[[EnvironmentSpec, Mapping[str, Policy], Progress], Metrics]
"""From the spec and the policies as they act in training (see ``OfflineBuilder.frozen_policies``) to metrics, such as
their exploitability. What takes long tells the progress often, which is a sign of life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The length of a training run, and the times of its evaluations, checkpoints and rows of metrics.

    All counts are global, over all environments and ranks.
    """

    steps: int = 1_000_000
    """Environment steps, over all environments and ranks."""
    evaluation_episodes: int = 100
    """Episodes at the end, in each mode; 0 for none."""
    evaluation_policy: EvaluationPolicy = "both"
    """Evaluate actions drawn as in training (sampled), the best ones (greedy), or both. Policies that draw nothing,
    such as Q-learners', are evaluated greedily only. Evaluations before the end are of one mode: greedy, unless sampled
    is asked for."""
    evaluation_max_steps: int = MAX_STEPS
    """Step limit of an evaluation's episodes; a game of a league that reaches it is a draw."""
    evaluate_every: int | None = None
    """Environment steps between evaluations before the end; None for none."""
    checkpoint_every: int | None = None
    """Environment steps between checkpoints, of which the first is saved after the first update; the last one is saved
    at the end in any case."""
    checkpoint_minutes: float | None = None
    """Minutes after which one is saved even though the steps between checkpoints are not done; None for never."""
    row_every: int = 0
    """Environment steps between rows of metrics; 0 for a row at every update."""

    def check_schedule(self) -> None:
        """Raises InputError if a number is too small."""
        for name in ("steps", "evaluation_max_steps", "evaluate_every", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.checkpoint_minutes is not None and not self.checkpoint_minutes > 0:
            raise InputError(f"--checkpoint-minutes must be positive, got {self.checkpoint_minutes:g}")
        for name in ("evaluation_episodes", "row_every"):
            if getattr(self, name) < 0:
                raise InputError(f"--{name.replace('_', '-')} cannot be negative, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentConfig(Schedule):
    """An experiment: an algorithm, an environment, and a schedule."""

    builder: Builder[Any]
    """The algorithm."""
    environment: EnvironmentFactory
    """The environment to learn on."""
    seed: int = 0
    """Seed of all random numbers, together with global indices."""
    num_envs: int = 128
    """Environments, over all ranks."""
    measure: Measure | None = None
    """Measured on rank 0, between updates and at the end; None for nothing."""
    measure_every: int | None = None
    """Environment steps between measurements; None for one at the end only."""
    restart_steps: int | None = None
    """Environment steps after which, at the latest, whoever runs the experiment resets its learner; None for never.
    Schedules of learning run over them."""
    device: torch.device = _CPU
    """Device of policies and learners. The environment's factory makes time steps on it."""

    def __post_init__(self) -> None:
        self.check_schedule()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of an experiment."""

    counter: Counter
    learner_state: State = field(repr=False)
    """The learner's parameters and the rest of its state."""
    evaluation: Evaluation | None
    """The final evaluation; complete on rank 0."""
    stopped: bool
    """Whether it stopped on request, before all its steps were done."""
    measured: Metrics = field(default_factory=dict)
    """The last measurement (see ``ExperimentConfig.measure``); on rank 0."""
