"""Configuration of off-policy actor-critics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from marl.algorithms.off_policy.config import OffPolicyConfig
from marl.replay import ReplayConfig

_REPLAY: Final = ReplayConfig(samples_per_insert=10.24)
"""A batch of 1024 every 100 steps, as in the MADDPG paper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorCriticConfig(OffPolicyConfig):
    """Settings of all off-policy actor-critic algorithms."""

    centralized_critic: bool = True
    """Whether critics read the global state and all agents' actions, or only the agent's own observation and action."""
    team_reward: bool = False
    replay: ReplayConfig = _REPLAY
    discount: float = 0.95
    max_gradient_norm: float = 0.5
    actor_learning_rate: float = 1e-3
    """Adam's step size for actors."""
    critic_learning_rate: float = 1e-3
    """Adam's step size for critics."""
    num_critics: int = 1
    """Critics of each group; targets take the least of their values."""
    resample_other_actions: bool = False
    """Improve actors against the other agents' present policies, instead of the actions stored in replay."""
    random_warmup: bool = True
    """Whether actions are uniformly random until learning begins."""
