"""Config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from marl.acting.evaluation import MAX_STEPS, Evaluation
from marl.builders import Builder
from marl.core import EnvironmentFactory, Metrics, State
from marl.counters import Counter
from marl.policy import Policy
from marl.specs import EnvironmentSpec

_CPU: Final = torch.device("cpu")


Measure = Callable[[EnvironmentSpec, Mapping[str, Policy]], Metrics]
"""From the spec and what the policies have come to (see ``Builder.frozen_policies``) to figures, such as their
exploitability."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentConfig:
    """What to train, where, and for how long. All counts are global: over all copies and ranks."""

    builder: Builder[Any]
    """The algorithm."""
    environment: EnvironmentFactory
    """What it learns on."""
    seed: int = 0
    """From which, and global indices, every random number follows."""
    steps: int = 1_000_000
    """Environment steps."""
    num_envs: int = 128
    """Environment copies."""
    evaluation_episodes: int = 100
    """Greedy episodes at the end; 0 for none."""
    evaluation_max_steps: int = MAX_STEPS
    """Where an episode of an evaluation is cut, if it has not ended; in a league a game, which is a draw then."""
    evaluate_every: int | None = None
    """Also evaluate each time that many environment steps have passed."""
    measure: Measure | None = None
    """What to measure, on rank 0, between updates and at the end; None for nothing."""
    measure_every: int | None = None
    """Measure each time that many environment steps have passed."""
    checkpoint_every: int | None = None
    """Save each time that many environment steps have passed; at the end in any case."""
    row_every: int = 0
    """Environment steps between rows of metrics; 0 for a row an update."""
    device: torch.device = _CPU
    """Where policies and learners compute. The environment's factory makes time steps that are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of an experiment."""

    counter: Counter
    learner_state: State = field(repr=False)
    """The learner's parameters and all it needs to go on."""
    evaluation: Evaluation | None
    """The final evaluation; complete on rank 0."""
    stopped: bool
    """Whether it stopped on request, before all its steps were done."""
    measured: Metrics = field(default_factory=dict)
    """What ``ExperimentConfig.measure`` said last; on rank 0."""
