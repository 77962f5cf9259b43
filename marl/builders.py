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


class Builder(ABC, Generic[NetworksT]):
    """Makes the parts of one algorithm; a frozen configuration is all it holds."""

    @property
    @abstractmethod
    def sharing(self) -> Sharing:
        """Which agents share a policy."""

    @property
    @abstractmethod
    def with_state(self) -> bool:
        """Whether the algorithm reads the global state."""

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
    def make_policies(self, spec: EnvironmentSpec, networks: NetworksT, *, evaluation: bool) -> dict[str, Policy]:
        """One policy a group: exploring, or greedy for evaluation. They share the networks' parameters."""

    def frozen_policies(self, spec: EnvironmentSpec, networks: NetworksT, *, greedy: bool) -> dict[str, Policy]:
        """One policy a group of parameters that no longer change: as in training, or the best action.

        Policies whose exploration follows the progress of their training are greedy in any case.
        """
        policies = self.make_policies(spec, networks, evaluation=greedy)
        if any(hasattr(policy, "explore") for policy in policies.values()):
            return self.make_policies(spec, networks, evaluation=True)
        return policies

    @abstractmethod
    def make_dataset(self, spec: EnvironmentSpec, policies: Mapping[str, Policy], context: RunContext) -> Dataset[Any]:
        """Replay and what decides when to learn from it."""

    @abstractmethod
    def make_adder(self, spec: EnvironmentSpec, dataset: Dataset[Any], context: RunContext) -> Adder:
        """How steps become items of the dataset."""

    @abstractmethod
    def make_learner(
        self, spec: EnvironmentSpec, networks: NetworksT, dataset: Dataset[Any], context: RunContext
    ) -> Learner:
        """What improves the networks; it broadcasts rank 0's parameters once."""

    @abstractmethod
    def load_policies(self, networks: NetworksT, state: State) -> None:
        """Puts what a learner of this builder saved into networks that only act."""


class ConfiguredBuilder(Builder[NetworksT]):
    """A builder whose ``config`` says who shares a policy, and whether critics are centralized.

    The configuration has ``sharing`` and, where ``with_state`` is not overridden, ``centralized_critic``.
    """

    __slots__ = ()

    config: Any

    @property
    def sharing(self) -> Sharing:
        """See Builder."""
        sharing: Sharing = self.config.sharing
        return sharing

    @property
    def with_state(self) -> bool:
        """See Builder."""
        return bool(self.config.centralized_critic)
