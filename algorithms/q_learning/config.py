"""Configuration of Q-learners."""

from __future__ import annotations

from dataclasses import dataclass, field

from marl.algorithms.off_policy.config import OffPolicyConfig
from marl.learning.schedules import LinearSchedule
from marl.replay import ReplayConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class QLearningConfig(OffPolicyConfig):
    """Settings of all Q-learners."""

    team_reward: bool = True
    """Learn from the sum of all agents' rewards. Only independent learners may learn from their own."""
    replay: ReplayConfig = field(
        default_factory=lambda: ReplayConfig(capacity=200_000, batch_size=256, samples_per_insert=8.0, min_size=2_000)
    )
    """Replay; its items are transitions, or with ``recurrent`` sequences."""
    discount: float = 0.99
    max_gradient_norm: float = 10.0
    learning_rate: float = 5e-4
    """Adam's step size."""
    double: bool = True
    """Select the next action by the online network, and evaluate it by the target network (van Hasselt et al. 2016)."""
    dueling: bool = False
    """Split values into that of the observation and advantages of actions (Wang et al. 2016)."""
    target_period: int = 1
    """Updates between target updates."""
    huber_delta: float | None = None
    """Where the loss turns from quadratic to linear; None for quadratic."""
    standardize_rewards: bool = False
    """Learn from rewards over their running root mean square."""
    center_rewards: bool = False
    """Whether these lose their mean too, as in EPyMARL; not for agents who decide how long episodes last."""
    epsilon_start: float = 1.0
    """Probability of a random action at first."""
    epsilon_end: float = 0.05
    """Probability of a random action in the end."""
    epsilon_decay_steps: int = 50_000
    """Environment steps, over all environments, in which it goes from the one to the other."""
    epsilon_exponent: float = 0.0
    """Environments explore less and less: the last with epsilon to the power of one plus this (Horgan et al. 2018)."""
    recurrent: bool = False
    """Add a GRU, and learn from sequences."""
    sequence_length: int = 25
    """Steps of a sequence; with at least the longest episode's, sequences are whole episodes."""
    td_lambda: float | None = None
    """λ of TD(λ) targets along sequences (0.6 in pymarl2); none for targets over ``n_step`` steps."""
    burn_in: int = 0
    """First steps of sequences within an episode that only warm up the GRU."""

    def epsilon(self) -> LinearSchedule:
        """Probability of a random action, by environment steps."""
        return LinearSchedule(start=self.epsilon_start, end=self.epsilon_end, steps=self.epsilon_decay_steps)
