"""Builder of off-policy actor-critics; an algorithm adds its networks, policy and learner."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from marl.algorithms.actor_critic.config import ActorCriticConfig
from marl.algorithms.actor_critic.learner import ActorCriticLearner
from marl.algorithms.actor_critic.networks import Networks, load_policy
from marl.algorithms.actor_critic.policy import ActorCriticPolicy
from marl.algorithms.off_policy.builder import OffPolicyBuilder
from marl.builders import RunContext
from marl.core import Dataset, State
from marl.errors import InputError
from marl.learning.config_checks import require_above, require_at_least
from marl.policy import Policy
from marl.replay import TransitionDataset
from marl.specs import ContinuousActions, EnvironmentSpec
from marl.states import unflatten_state


@dataclass(frozen=True, kw_only=True)
class ActorCriticBuilder(OffPolicyBuilder[Networks]):
    """A builder of off-policy actor-critics."""

    config: ActorCriticConfig
    policy: ClassVar[type[ActorCriticPolicy]]
    learner: ClassVar[type[ActorCriticLearner[Any]]]

    def check(self, spec: EnvironmentSpec, context: RunContext) -> None:
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

    def make_policies(
        self, spec: EnvironmentSpec, networks: Networks, *, evaluation: bool, context: RunContext | None = None
    ) -> dict[str, Policy]:
        return {
            group.name: self.policy(group, networks[group.name], self.config, greedy=evaluation)
            for group in spec.groups
        }

    def make_learner(
        self, spec: EnvironmentSpec, networks: Networks, dataset: Dataset[Any], context: RunContext
    ) -> ActorCriticLearner[Any]:
        assert isinstance(dataset, TransitionDataset)
        return self.learner(spec, networks, dataset, self.config, context, compile=self.compile)

    def load_policies(self, networks: Networks, state: State) -> None:
        parts = unflatten_state(state)
        for name, group in networks.items():
            load_policy(group, parts[name])
