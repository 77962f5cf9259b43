"""Common settings, networks, checks, rollouts and adder of on-policy algorithms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from marl.adders.trajectories import TrajectoryAdder, TrajectoryDataset
from marl.algorithms.on_policy.advantages import AdvantageConfig
from marl.algorithms.on_policy.networks import (
    OnPolicyNetworks,
    PolicyNetwork,
    PolicyValueNetworks,
    ValueNetwork,
)
from marl.algorithms.on_policy.policy import StochasticPolicy
from marl.builders import ConfiguredBuilder, RunContext
from marl.checkpoints.state import unflatten_state
from marl.core import Adder, Dataset, State
from marl.errors import InputError
from marl.learning.config_checks import require_above, require_at_least, require_unit_interval, require_widths
from marl.networks.normalizers import ObservationNormalizer, ValueNormalizer
from marl.networks.torso import Activation, Torso, prepare_input
from marl.policy import Policy
from marl.specs import ArraySpec, EnvironmentSpec, GroupSpec, Sharing


@dataclass(frozen=True, kw_only=True)
class OnPolicyConfig(AdvantageConfig):
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
    """Lower the step size linearly to zero over the experiment."""
    adam_epsilon: float = 1e-5
    """Adam's epsilon."""
    max_gradient_norm: float = 10.0
    """Norm to which each network's gradient is clipped, after the all-reduce."""
    value_normalization: Literal["moments", "popart", "none"] = "moments"
    """Normalisation of returns: by running moments (ValueNorm), PopArt, or none."""
    normalize_observations: bool = False
    """Whether observations are normalised by running moments."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    activation: Activation = "tanh"
    """After each hidden layer."""
    layer_norm: bool = True
    """Whether inputs and hidden layers are layer-normalised, as in the paper."""
    convolutions: bool = True
    """Read images with convolutions. Of a small board plain layers learn about as much, and several times faster."""
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
        before = context.counter.env_steps - self.rollout_length * context.total_envs
        progress = min(1.0, max(0.0, before / context.total_steps))
        return self.learning_rate * (1.0 - progress)

    def make_torso(self, inputs: Sequence[ArraySpec], num_agents: int) -> Torso:
        """Makes the hidden layers of an actor or a critic."""
        return Torso(
            inputs,
            num_agents=num_agents,
            hidden_sizes=self.hidden_sizes,
            activation=self.activation,
            layer_norm=self.layer_norm,
            recurrent=self.recurrent,
            convolve=self.convolutions,
            bfloat16=self.bfloat16,
        )

    def prepare(self, spec: ArraySpec, raw: Tensor) -> Tensor:
        """Prepares (..., *shape) raw inputs for these layers."""
        return prepare_input(spec, raw, normalize=self.layer_norm, convolve=self.convolutions)


@dataclass(frozen=True, kw_only=True)
class OnPolicyBuilder(ConfiguredBuilder[OnPolicyNetworks]):
    """A builder whose learner learns once from each rollout of the present policy."""

    config: OnPolicyConfig
    compile: bool = False
    """Whether acting and updates run as kernels of torch's compiler; numbers agree up to rounding."""

    @property
    def on_policy(self) -> bool:
        return True

    def compiled(self) -> OnPolicyBuilder | None:
        """The same through torch's compiler; recurrent networks stay as they are."""
        return None if self.config.recurrent else replace(self, compile=True)

    def check(self, spec: EnvironmentSpec, context: RunContext) -> None:
        config = self.config
        require_at_least(1, config, "rollout_length", "chunk_length")
        require_at_least(0, config, "learning_rate")
        require_above(0, config, "adam_epsilon", "max_gradient_norm")
        require_unit_interval(config, "discount", "gae_lambda")
        require_widths(config, "hidden_sizes")
        for group in spec.groups:
            if config.normalize_observations and not group.observation.dtype.is_floating_point:
                raise InputError(
                    f"{group.name} observes images of bytes: --algorithm.normalize-observations is not for them"
                )

    def make_networks(self, spec: EnvironmentSpec) -> OnPolicyNetworks:
        return {group.name: self._make_group(spec, group) for group in spec.groups}

    def _make_group(self, spec: EnvironmentSpec, group: GroupSpec) -> PolicyValueNetworks:
        config = self.config
        actor = PolicyNetwork(group, config.make_torso)
        critic = ValueNetwork(
            group,
            spec.state if config.centralized_critic else None,
            config.make_torso,
            reads_observations=not config.centralized_critic or config.agent_features,
        )
        value_normalizer: ValueNormalizer | None = None
        if config.value_normalization != "none":
            layers = [critic.head.linear] if config.value_normalization == "popart" else []
            value_normalizer = ValueNormalizer(output_layers=layers)
        return PolicyValueNetworks(
            spec=group.observation,
            actor=actor,
            critic=critic,
            observation_normalizer=(
                ObservationNormalizer(group.observation.shape) if config.normalize_observations else None
            ),
            value_normalizer=value_normalizer,
            prepare=config.prepare,
        )

    def make_policies(
        self,
        spec: EnvironmentSpec,
        networks: OnPolicyNetworks,
        *,
        evaluation: bool,
        context: RunContext | None = None,
    ) -> dict[str, Policy]:
        return {
            group.name: StochasticPolicy(group, networks[group.name], greedy=evaluation, compile=self.compile)
            for group in spec.groups
        }

    def make_dataset(
        self, spec: EnvironmentSpec, policies: Mapping[str, Policy], context: RunContext
    ) -> TrajectoryDataset:
        return TrajectoryDataset(
            spec,
            length=self.config.rollout_length,
            num_envs=context.num_envs,
            extras={name: policy.extras for name, policy in policies.items()},
            device=context.device,
        )

    def make_adder(self, spec: EnvironmentSpec, dataset: Dataset[Any], context: RunContext) -> Adder:
        assert isinstance(dataset, TrajectoryDataset)
        return TrajectoryAdder(dataset)

    def load_policies(self, networks: OnPolicyNetworks, state: State) -> None:
        parts = unflatten_state(state)
        for name, group in networks.items():
            group.load_state_dict(parts[name])
