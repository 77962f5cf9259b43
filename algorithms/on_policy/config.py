"""Settings of all on-policy algorithms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from marl.algorithms.on_policy.advantages import AdvantageConfig
from marl.builders import RunContext
from marl.learning.replicated_adam import MAX_SKIPPED_STEPS
from marl.learning.schedules import LinearSchedule
from marl.networks.images import ImageConfig
from marl.networks.inputs import InputNormalization, InputReader, make_reader
from marl.networks.torso import Activation, Torso
from marl.specs import ArraySpec, Sharing


@dataclass(frozen=True, kw_only=True)
class OnPolicyConfig(ImageConfig, AdvantageConfig):
    """Settings of all on-policy algorithms; the defaults are the MAPPO paper's where it speaks."""

    centralized_critic: bool = True
    """Whether the critic reads the global state (MAPPO) or the agent's observation (IPPO)."""
    agent_features: bool = True
    """Whether a centralized critic also reads the agent's own observation and id."""
    sharing: Sharing = "spaces"
    """Which agents share a policy: spaces, none, all, or a map from agent to group."""
    rollout_length: int = 25
    """Steps of each environment between updates."""
    learning_rate: float = 7e-4
    """Adam's step size, for actors and critics."""
    anneal_learning_rate: bool = False
    """Lower the step size linearly to zero over the experiment, or over each life of a player that restarts."""
    adam_epsilon: float = 1e-5
    """Adam's epsilon."""
    max_gradient_norm: float = 10.0
    """Norm to which each network's gradient is clipped, after the all-reduce."""
    max_skipped_steps: int = MAX_SKIPPED_STEPS
    """Gradient steps in a row that may be skipped because gradients are not finite; then the run ends."""
    value_normalization: Literal["moments", "popart", "none"] = "moments"
    """Normalisation of returns: by running moments (ValueNorm), PopArt, or none."""
    input_normalization: InputNormalization = "none"
    """Normalisation of observations and states: by running moments, each vector by its own (layer), or none."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    activation: Activation = "tanh"
    """After each hidden layer."""
    hidden_layer_norm: bool = True
    """Whether hidden layers are layer-normalised, as in the paper."""
    bfloat16: bool = False
    """Multiply matrices between hidden layers in bfloat16, faster on processors that have it, where layers are wide."""
    recurrent: bool = False
    """Add a GRU to actors and critics."""
    chunk_length: int = 10
    """Steps over which gradients flow back through a GRU."""

    @property
    def unroll_length(self) -> int | None:
        """Steps that stay together in minibatches; None for networks without memory."""
        return self.chunk_length if self.recurrent else None

    def current_learning_rate(self, context: RunContext) -> float:
        """The step size of the update that learns from the rollout counted last."""
        if not self.anneal_learning_rate:
            return self.learning_rate
        # Zero at the first update, so that the last one still moves.
        before = context.counter.steps_since_began - self.rollout_length * context.total_envs
        return LinearSchedule(start=self.learning_rate, end=0.0, steps=context.learner_steps)(before)

    def make_torso(self, inputs: Sequence[ArraySpec], num_agents: int) -> Torso:
        """Makes the hidden layers of an actor or a critic."""
        return Torso(
            inputs,
            num_agents=num_agents,
            hidden_sizes=self.hidden_sizes,
            activation=self.activation,
            layer_norm=self.hidden_layer_norm,
            recurrent=self.recurrent,
            convolutions=self.convolutions,
            bfloat16=self.bfloat16,
        )

    def make_reader(self, spec: ArraySpec) -> InputReader:
        """Makes what prepares and normalises raw inputs for these layers."""
        return make_reader(spec, self.input_normalization, convolutions=self.convolutions)
