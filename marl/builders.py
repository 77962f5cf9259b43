"""Builders: they make the parts of an algorithm, without knowing where these will run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from marl.core import Adder, Communicator, Dataset, Learner, State
from marl.counters import Counter
from marl.policy import Policy
from marl.specs import EnvironmentSpec, Sharing

NetworksT = TypeVar("NetworksT")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """The part of an experiment that one process runs."""

    communicator: Communicator
    seed: int
    num_envs: int
    """Environments on this rank, E."""
    total_envs: int
    """Environments over all ranks."""
    first_env: int
    """Global index of this rank's first environment."""
    total_steps: int
    """Environment steps of the whole experiment, over all ranks."""
    counter: Counter
    device: torch.device
    restart_steps: int | None = None
    """Environment steps after which, at the latest, the learner begins anew; None where it never does."""

    @property
    def learner_steps(self) -> int:
        """Environment steps of one life of the learner, against which its schedules run: ``steps_since_began``."""
        return self.total_steps if self.restart_steps is None else min(self.restart_steps, self.total_steps)


class OfflineBuilder(ABC, Generic[NetworksT]):
    """Makes the parts of an algorithm that learns from a given dataset; it holds nothing but a frozen configuration.

    The algorithm's capabilities are declared here, and never guessed from the types of its parts.
    """

    @property
    @abstractmethod
    def sharing(self) -> Sharing:
        """The rule by which agents share policies."""

    @property
    @abstractmethod
    def with_state(self) -> bool:
        """True if the algorithm reads the global state."""

    @property
    @abstractmethod
    def team_reward(self) -> bool:
        """True if it learns from the sum of all agents' rewards, including opponents'."""

    @property
    def allow_opponents(self) -> bool:
        """True if that sum is wanted even where agents turn out to be opponents."""
        return False

    def is_stochastic(self, spec: EnvironmentSpec) -> bool:
        """Returns whether trained policies draw their actions; others are evaluated by their best actions only.

        Noise that only serves exploration is no part of a trained policy.
        """
        return True

    @abstractmethod
    def check(self, spec: EnvironmentSpec, context: RunContext) -> None:
        """Raises InputError if the algorithm cannot learn on this environment or with these numbers of environments."""

    def compiled(self) -> Builder[NetworksT] | None:
        """Returns the same algorithm through torch's compiler; None if it does not support that."""
        return None

    @abstractmethod
    def make_networks(self, spec: EnvironmentSpec) -> NetworksT:
        """Makes all networks, initialised from torch's global generator, which the caller has seeded."""

    @abstractmethod
    def make_policies(
        self, spec: EnvironmentSpec, networks: NetworksT, *, evaluation: bool, context: RunContext | None = None
    ) -> dict[str, Policy]:
        """Makes one policy for each group, exploring or greedy, that shares the networks' parameters.

        Args:
            spec: of the environment.
            networks: as ``make_networks`` made them.
            evaluation: whether policies are greedy.
            context: the run whose progress exploration follows; None for policies that do not explore.
        """

    def frozen_policies(self, spec: EnvironmentSpec, networks: NetworksT, *, greedy: bool) -> dict[str, Policy]:
        """Makes one policy for each group, of parameters that no longer change: stochastic as in training, or greedy.

        Policies whose exploration follows the progress of their training are greedy in any case.
        """
        return self.make_policies(spec, networks, evaluation=greedy)

    @abstractmethod
    def make_learner(
        self, spec: EnvironmentSpec, networks: NetworksT, dataset: Dataset[Any], context: RunContext
    ) -> Learner:
        """Makes the learner, which broadcasts rank 0's parameters once."""

    @abstractmethod
    def load_policies(self, networks: NetworksT, state: State) -> None:
        """Loads the state of this builder's learner into networks that only act."""


class Builder(OfflineBuilder[NetworksT]):
    """Makes the parts of an algorithm that collects its own experience."""

    @property
    @abstractmethod
    def on_policy(self) -> bool:
        """True if it learns from rollouts of the current policy; False if it learns from replay."""

    @abstractmethod
    def make_dataset(self, spec: EnvironmentSpec, policies: Mapping[str, Policy], context: RunContext) -> Dataset[Any]:
        """Makes the dataset: replay or rollouts, and the rule that says when to learn from them."""

    @abstractmethod
    def make_adder(self, spec: EnvironmentSpec, dataset: Dataset[Any], context: RunContext) -> Adder:
        """Makes the adder, which turns steps into items of the dataset."""


class ConfiguredBuilder(Builder[NetworksT]):
    """A builder that takes its capabilities from its ``config``.

    The configuration has ``sharing``, ``team_reward``, ``allow_opponents`` and, where ``with_state`` is not overridden,
    ``centralized_critic``.
    """

    config: Any

    @property
    def sharing(self) -> Sharing:
        sharing: Sharing = self.config.sharing
        return sharing

    @property
    def team_reward(self) -> bool:
        return bool(self.config.team_reward)

    @property
    def allow_opponents(self) -> bool:
        return bool(self.config.allow_opponents)

    @property
    def with_state(self) -> bool:
        return bool(self.config.centralized_critic)
