"""Policy and value networks of on-policy algorithms.

They are handed the torsos' settings as a function, so that nothing here knows an algorithm's configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from marl.core import State
from marl.networks.action_heads import make_distribution, num_outputs
from marl.networks.distributions import Distribution
from marl.networks.inputs import InputReader
from marl.networks.normalizers import ValueNormalizer
from marl.networks.torso import Head, Torso
from marl.specs import ArraySpec, ContinuousActions, GroupSpec
from marl.states import unflatten_state

MakeTorso = Callable[[Sequence[ArraySpec], int], Torso]
"""Specs of inputs and the number of agents that share the network, to a torso."""


class PolicyNetwork(nn.Module):
    """Observations to the parameters of an action distribution."""

    def __init__(self, group: GroupSpec, make_torso: MakeTorso) -> None:
        super().__init__()
        self._action = group.action
        self.torso = make_torso([group.observation], group.size)
        self.head = Head(self.torso.size, num_outputs(group.action), 0.01)
        self.log_std: nn.Parameter | None = None
        if isinstance(group.action, ContinuousActions):
            self.log_std = nn.Parameter(torch.full((group.action.size,), -0.5))

    def distribution(self, features: Tensor, masks: Tensor | None) -> Distribution:
        """The action distribution for (..., size) features."""
        return make_distribution(self._action, self.head(features), masks, log_std=self.log_std)


class ValueNetwork(nn.Module):
    """State and observations, or one of them alone, to values in normalised units.

    Args:
        group: whose values.
        state: the global state, where the critic reads it.
        make_torso: makes the hidden layers.
        reads_observations: whether it reads the agent's own observation and id; without a state it must.
    """

    def __init__(
        self, group: GroupSpec, state: ArraySpec | None, make_torso: MakeTorso, *, reads_observations: bool
    ) -> None:
        super().__init__()
        self.reads_state = state is not None
        self._reads_observations = reads_observations
        inputs = [] if state is None else [state]
        if reads_observations:
            inputs.append(group.observation)
        self.torso = make_torso(inputs, group.size if reads_observations else 1)
        self.head = Head(self.torso.size, 1, 1.0)

    def features(self, observations: Tensor, state: Tensor | None, agents: Tensor | None = None) -> Tensor:
        """Features of (..., A, *) observations and (..., 1, *) state, or of flat ones; see Torso."""
        inputs = [state] if self.reads_state and state is not None else []
        if self._reads_observations:
            inputs.append(observations)
        features = self.torso.features(inputs, agents)
        shape = observations.shape[: features.dim() - 1]
        return features if self._reads_observations else features.expand(*shape, -1)

    def values(self, features: Tensor) -> Tensor:
        """(..., size) features to (...) values."""
        values: Tensor = self.head(features).squeeze(-1)
        return values


@dataclass(slots=True, kw_only=True)
class PolicyValueNetworks:
    """The networks and normalisers of one group."""

    observations: InputReader
    state: InputReader | None
    """All groups'; None where there is no state, or no critic that reads it."""
    actor: PolicyNetwork
    critic: ValueNetwork
    value_normalizer: ValueNormalizer | None
    """Of returns; None where values are in the rewards' own units."""

    def state_dict(self) -> dict[str, State]:
        """Parameters and moments, by part."""
        parts: dict[str, State] = {"actor": self.actor.state_dict(), "critic": self.critic.state_dict()}
        for name, reader in self._readers().items():
            parts[name] = reader.state_dict()
        if self.value_normalizer is not None:
            parts["values"] = self.value_normalizer.state_dict()
        return parts

    def load_state_dict(self, state: State) -> None:
        """Takes back what ``state_dict`` gave, flattened."""
        parts = unflatten_state(state)
        self.actor.load_state_dict(parts["actor"])
        self.critic.load_state_dict(parts["critic"])
        for name, reader in self._readers().items():
            reader.load_state_dict(parts[name])
        if self.value_normalizer is not None:
            self.value_normalizer.load_state_dict(parts["values"])

    def _readers(self) -> dict[str, InputReader]:
        """Those with running moments, by the names under which these are saved."""
        readers = {"observations": self.observations, "state": self.state}
        return {name: reader for name, reader in readers.items() if reader is not None and reader.normalizer}


OnPolicyNetworks = dict[str, PolicyValueNetworks]
"""By group."""
