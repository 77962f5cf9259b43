"""Builder of Q-learners; an algorithm adds its mixer, if it has one."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from marl.algorithms.off_policy.builder import OffPolicyBuilder
from marl.algorithms.q_learning.config import QLearningConfig
from marl.algorithms.q_learning.learner import QLearner
from marl.algorithms.q_learning.mixers import Mixer
from marl.algorithms.q_learning.networks import QNetwork, QNetworks, require_discrete_actions
from marl.algorithms.q_learning.policy import QPolicy
from marl.builders import RunContext
from marl.core import Dataset, State
from marl.errors import InputError
from marl.learning.config_checks import option, require_above, require_at_least, require_unit_interval
from marl.policy import Policy
from marl.replay import Items, ReplayDataset, SequenceItems
from marl.specs import EnvironmentSpec
from marl.states import unflatten_state


@dataclass(frozen=True, kw_only=True)
class QLearningBuilder(OffPolicyBuilder[QNetworks]):
    """A builder of Q-learners."""

    config: QLearningConfig

    @abstractmethod
    def make_mixer(self, spec: EnvironmentSpec) -> Mixer | None:
        """Makes the network that mixes the agents' values; None for independent learners."""

    def compiled(self) -> OffPolicyBuilder[QNetworks] | None:
        """Returns the same algorithm through torch's compiler; not with sequences, nor running moments of rewards."""
        if self.config.recurrent or self.config.standardize_rewards:
            return None
        return super().compiled()

    def check(self, spec: EnvironmentSpec, context: RunContext) -> None:
        config = self.config
        super().check(spec, context)
        require_discrete_actions(spec)
        require_at_least(1, config, "target_period", "sequence_length")
        require_unit_interval(config, "epsilon_start", "epsilon_end", "td_lambda")
        require_above(0, config, "learning_rate", "huber_delta")
        require_at_least(0, config, "epsilon_decay_steps", "epsilon_exponent", "burn_in")
        if config.burn_in >= config.sequence_length:
            raise InputError(
                f"{option('burn_in')} {config.burn_in} leaves nothing to learn from sequences of "
                f"{config.sequence_length}; lower it, or raise {option('sequence_length')}"
            )
        if config.td_lambda is not None and not (config.recurrent and config.n_step == 1):
            raise InputError(
                f"{option('td_lambda')} is for sequences, of {option('recurrent')} learners, and in place of "
                f"{option('n_step')}"
            )
        if config.standardize_rewards and config.n_step > 1 and not config.recurrent:
            raise InputError(
                f"{option('standardize_rewards')} needs single rewards, but replay holds sums of {config.n_step}; "
                f"use {option('n_step')} 1"
            )

    def no_turns(self) -> str | None:
        """Refuses all but independent learners without a memory, which learn from each agent's own turns."""
        config = self.config
        if config.team_reward:
            return "a team's value is of joint steps, at which all agents act; use iql, mappo or ippo"
        if config.recurrent or config.n_step > 1:
            wrong = "recurrent" if config.recurrent else "n_step"
            return f"replay of turns holds single ones; leave out {option(wrong)}"
        return None

    def items(self) -> Items:
        """Items of replay: sequences where networks have a memory, else n-step transitions."""
        config = self.config
        if config.recurrent:
            return SequenceItems(length=config.sequence_length, burn_in=config.burn_in)
        return super().items()

    def make_networks(self, spec: EnvironmentSpec) -> QNetworks:
        groups = {group.name: QNetwork(group, self.config) for group in spec.groups}
        return QNetworks(groups, self.make_mixer(spec))

    def make_policies(
        self, spec: EnvironmentSpec, networks: QNetworks, *, evaluation: bool, context: RunContext | None = None
    ) -> dict[str, Policy]:
        """Makes epsilon-greedy policies, whose exploration needs the run's context, or greedy ones."""
        if context is None and not evaluation:
            raise ValueError("exploration follows a run's progress: give its context")
        return {
            group.name: QPolicy(group, networks.of(group), self.config, context=None if evaluation else context)
            for group in spec.groups
        }

    def is_stochastic(self, spec: EnvironmentSpec) -> bool:
        return False

    def frozen_policies(self, spec: EnvironmentSpec, networks: QNetworks, *, greedy: bool) -> dict[str, Policy]:
        """Makes greedy policies in any case: without a run there is no progress that exploration could follow."""
        return self.make_policies(spec, networks, evaluation=True)

    def make_learner(
        self, spec: EnvironmentSpec, networks: QNetworks, dataset: Dataset[Any], context: RunContext
    ) -> QLearner:
        assert isinstance(dataset, ReplayDataset)
        return QLearner(spec, networks, dataset, self.config, context, compile=self.compile)

    def load_policies(self, networks: QNetworks, state: State) -> None:
        networks.load_state_dict(unflatten_state(state)["networks"])
