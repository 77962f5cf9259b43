"""Builders: how an algorithm makes its parts, without knowing where they will run."""

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
    """Where the parts of one process stand in the whole experiment."""

    communicator: Communicator
    seed: int
    num_envs: int
    """Copies on this rank, E."""
    total_envs: int
    """Copies over all ranks."""
    first_env: int
    """Global index of this rank's first copy."""
    total_steps: int
    """Environment steps of the whole experiment, over all copies: what schedules run against."""
    counter: Counter
    device: torch.device


class OfflineBuilder(ABC, Generic[NetworksT]):
    """Makes the parts of an algorithm that learns from a dataset, whoever filled it; a frozen configuration is all it
    holds.

    What an algorithm can do is declared here, and never guessed from the types of its parts.
    """

    @property
    @abstractmethod
    def sharing(self) -> Sharing:
        """Which agents share a policy."""

    @property
    @abstractmethod
    def with_state(self) -> bool:
        """Whether the algorithm reads the global state."""

    @property
    @abstractmethod
    def team_reward(self) -> bool:
        """Whether it learns from the sum of all agents' rewards, opponents' among them."""

    @abstractmethod
    def check(self, spec: EnvironmentSpec, context: RunContext) -> None:
        """Raises InputError with the reason if the algorithm cannot learn on this environment or split."""

    def compiled(self) -> Builder[NetworksT] | None:
        """The same algorithm through torch's compiler; None where it is not written for it."""
        return None

    @abstractmethod
    def make_networks(self, spec: EnvironmentSpec) -> NetworksT:
        """All networks, initialised from torch's global generator, which the caller has seeded."""

    @abstractmethod
    def make_policies(
        self, spec: EnvironmentSpec, networks: NetworksT, *, evaluation: bool, context: RunContext | None = None
    ) -> dict[str, Policy]:
        """One policy a group: exploring, or greedy for evaluation. They share the networks' parameters.

        Args:
            spec: of the environment.
            networks: as ``make_networks`` made them.
            evaluation: whether policies are greedy.
            context: the run whose progress exploration follows; None where nothing is explored.
        """

    def frozen_policies(self, spec: EnvironmentSpec, networks: NetworksT, *, greedy: bool) -> dict[str, Policy]:
        """One policy a group of parameters that no longer change: as in training, or the best action.

        Policies whose exploration follows the progress of their training are greedy in any case.
        """
        return self.make_policies(spec, networks, evaluation=greedy)

    @abstractmethod
    def make_learner(
        self, spec: EnvironmentSpec, networks: NetworksT, dataset: Dataset[Any], context: RunContext
    ) -> Learner:
        """What improves the networks; it broadcasts rank 0's parameters once."""

    @abstractmethod
    def load_policies(self, networks: NetworksT, state: State) -> None:
        """Puts what a learner of this builder saved into networks that only act."""


class Builder(OfflineBuilder[NetworksT]):
    """Makes the parts of an algorithm that gathers its own experience."""

    @property
    @abstractmethod
    def on_policy(self) -> bool:
        """Whether it learns once from fresh rollouts of the present policy, or again and again from replay."""

    @abstractmethod
    def make_dataset(self, spec: EnvironmentSpec, policies: Mapping[str, Policy], context: RunContext) -> Dataset[Any]:
        """Replay and what decides when to learn from it."""

    @abstractmethod
    def make_adder(self, spec: EnvironmentSpec, dataset: Dataset[Any], context: RunContext) -> Adder:
        """How steps become items of the dataset."""


class ConfiguredBuilder(Builder[NetworksT]):
    """A builder whose ``config`` says who shares a policy, whose rewards count, and whether critics are centralized.

    The configuration has ``sharing``, ``team_reward`` and, where ``with_state`` is not overridden,
    ``centralized_critic``.
    """

    config: Any

    @property
    def sharing(self) -> Sharing:
        """See Builder."""
        sharing: Sharing = self.config.sharing
        return sharing

    @property
    def team_reward(self) -> bool:
        """See OfflineBuilder."""
        return bool(self.config.team_reward)

    @property
    def with_state(self) -> bool:
        """See Builder."""
        return bool(self.config.centralized_critic)
