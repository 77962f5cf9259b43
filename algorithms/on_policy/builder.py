"""The builder that on-policy algorithms share: networks, checks, rollouts and adder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from marl.adders.trajectories import TrajectoryAdder, TrajectoryDataset
from marl.algorithms.on_policy.config import OnPolicyConfig
from marl.algorithms.on_policy.memory import require_update_memory
from marl.algorithms.on_policy.networks import (
    OnPolicyNetworks,
    PolicyNetwork,
    PolicyValueNetworks,
    ValueNetwork,
)
from marl.algorithms.on_policy.policy import StochasticPolicy
from marl.builders import ConfiguredBuilder, RunContext
from marl.core import Adder, Dataset, State
from marl.learning.config_checks import require_above, require_at_least, require_unit_interval, require_widths
from marl.networks.inputs import InputReader
from marl.networks.normalizers import ValueNormalizer
from marl.policy import Policy
from marl.specs import EnvironmentSpec, GroupSpec
from marl.states import unflatten_state


@dataclass(frozen=True, kw_only=True)
class OnPolicyBuilder(ConfiguredBuilder[OnPolicyNetworks]):
    """A builder whose learner learns once from each rollout of the present policy."""

    config: OnPolicyConfig
    compile: bool = False
    """Whether acting and updates run as kernels of torch's compiler; numbers agree up to rounding."""

    @property
    def on_policy(self) -> bool:
        return True

    @property
    def minibatches(self) -> int:
        """Parts of a rollout whose gradients are computed one after the other; 1 for the whole at once."""
        return 1

    def compiled(self) -> OnPolicyBuilder | None:
        """The same through torch's compiler; recurrent networks stay as they are."""
        return None if self.config.recurrent else replace(self, compile=True)

    def check(self, spec: EnvironmentSpec, context: RunContext) -> None:
        config = self.config
        require_at_least(1, config, "rollout_length", "chunk_length", "max_skipped_steps")
        require_at_least(0, config, "learning_rate")
        require_above(0, config, "adam_epsilon", "max_gradient_norm")
        require_unit_interval(config, "discount", "gae_lambda")
        require_widths(config, "hidden_sizes")

    def make_networks(self, spec: EnvironmentSpec) -> OnPolicyNetworks:
        state = None
        if self.config.centralized_critic and spec.state is not None:
            state = self.config.make_reader(spec.state)
        return {group.name: self._make_group(spec, group, state) for group in spec.groups}

    def _make_group(self, spec: EnvironmentSpec, group: GroupSpec, state: InputReader | None) -> PolicyValueNetworks:
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
            observations=config.make_reader(group.observation),
            state=state,
            actor=actor,
            critic=critic,
            value_normalizer=value_normalizer,
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

    def frozen_policies(self, spec: EnvironmentSpec, networks: OnPolicyNetworks, *, greedy: bool) -> dict[str, Policy]:
        """Makes policies that are not compiled: evaluations come in many shapes, each of which would take seconds."""
        return {group.name: StochasticPolicy(group, networks[group.name], greedy=greedy) for group in spec.groups}

    def make_dataset(
        self, spec: EnvironmentSpec, policies: Mapping[str, Policy], context: RunContext
    ) -> TrajectoryDataset:
        require_update_memory(spec, self.config, context, minibatches=self.minibatches)
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
