"""Builder."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

from marl.algorithms.actor_critic.critics import CriticNetwork
from marl.algorithms.actor_critic.learner import ActorCriticLearner
from marl.algorithms.actor_critic.networks import ActorCriticConfig, Networks, load_policy
from marl.algorithms.actor_critic.policy import ActorCriticPolicy
from marl.algorithms.off_policy.builder import ReplayBuilder
from marl.builders import RunContext
from marl.checkpoints.state import unflatten_state
from marl.core import Dataset, State
from marl.errors import InputError
from marl.learning.config_checks import require_above, require_at_least
from marl.policy import Policy
from marl.replay import TransitionDataset
from marl.specs import ContinuousActions, EnvironmentSpec, GroupSpec


class ActorCriticBuilder(ReplayBuilder[Networks]):
    """What the builders of these algorithms have in common."""

    config: ActorCriticConfig
    compile: bool
    policy: ClassVar[type[ActorCriticPolicy]]
    learner: ClassVar[type[ActorCriticLearner]]

    def check(self, spec: EnvironmentSpec, context: RunContext) -> None:
        """See Builder."""
        super().check(spec, context)
        require_at_least(1, self.config, "num_critics")
        require_above(0, self.config, "actor_learning_rate", "critic_learning_rate")
        for group in spec.groups:
            action = group.action
            if isinstance(action, ContinuousActions) and not all(map(math.isfinite, (*action.low, *action.high))):
                raise InputError(
                    f"{group.name} has actions without bounds, but this algorithm's actions fill a bounded range; "
                    "bound them, or use mappo or ippo"
                )

    def compiled(self) -> ActorCriticBuilder:
        """See Builder."""
        return replace(self, compile=True)  # type: ignore[type-var]

    def make_critics(self, spec: EnvironmentSpec, group: GroupSpec, *, reads_own_action: bool = True) -> CriticNetwork:
        """A group's critics."""
        config = self.config
        return CriticNetwork(
            group,
            spec,
            centralized=config.centralized_critic,
            reads_own_action=reads_own_action,
            count=config.num_critics,
            hidden_sizes=config.hidden_sizes,
            activation=config.activation,
            layer_norm=config.layer_norm,
        )

    def make_policies(
        self, spec: EnvironmentSpec, networks: Networks, *, evaluation: bool, context: RunContext | None = None
    ) -> dict[str, Policy]:
        """See Builder."""
        return {
            group.name: self.policy(group, networks[group.name], self.config, greedy=evaluation)
            for group in spec.groups
        }

    def make_learner(
        self, spec: EnvironmentSpec, networks: Networks, dataset: Dataset[Any], context: RunContext
    ) -> ActorCriticLearner:
        """See Builder."""
        assert isinstance(dataset, TransitionDataset)
        return self.learner(spec, networks, dataset, self.config, context, compile=self.compile)

    def load_policies(self, networks: Networks, state: State) -> None:
        """See Builder."""
        parts = unflatten_state(state)
        for name, group in networks.items():
            load_policy(group, parts[name])
