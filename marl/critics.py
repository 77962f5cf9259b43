"""Action-value critics of several agents: what they read, and networks that read it.

A group's critic values each of its agents' actions, for that agent's own reward. A centralized critic (Lowe et al.
2017, "Multi-agent actor-critic for mixed cooperative-competitive environments") reads the global state and what all
agents of all groups do; a decentralized one only what the agent itself sees and does. The agent's own observation
and action come first either way, so that one network serves all agents of a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from marl.networks import Activation, Head, Torso, prepare_input
from marl.replay import Transitions
from marl.specs import ActionSpec, ArraySpec, ContinuousActions, DiscreteActions, EnvironmentSpec, GroupSpec


def action_features(action_spec: ActionSpec) -> int:
    """How many numbers an action is for a network: its dimensions, or the sum of its choices' alternatives."""
    return action_spec.size if isinstance(action_spec, ContinuousActions) else action_spec.mask_size


def encode_actions(action_spec: ActionSpec, actions: Tensor) -> Tensor:
    """Actions as a network reads them.

    Args:
        action_spec: what an agent can do.
        actions: (..., *action shape).

    Returns:
        (..., action_features) float: continuous actions as they are, choices one-hot, one after the other.
    """
    if isinstance(action_spec, ContinuousActions):
        return actions
    dtype = torch.get_default_dtype()
    if isinstance(action_spec, DiscreteActions):
        return one_hot(actions, action_spec.num_actions).to(dtype)
    parts = [one_hot(choice, size) for choice, size in zip(actions.unbind(-1), action_spec.nvec, strict=True)]
    return torch.cat(parts, dim=-1).to(dtype)


def one_hot(choices: Tensor, size: int) -> Tensor:
    """(...) int64 choices to (..., size) bool; torch's own looks at the values, which no compiler can."""
    return choices.unsqueeze(-1) == torch.arange(size, device=choices.device)


class JointActions:
    """Where each agent's action lies in the joint action: groups in sorted order, and their agents in order."""

    def __init__(self, spec: EnvironmentSpec, device: torch.device | str = "cpu") -> None:
        self._names = tuple(group.name for group in spec.groups)
        self.size = sum(group.size * action_features(group.action) for group in spec.groups)
        """Numbers of a joint action, N."""
        self._others: dict[str, Tensor] = {}
        start = 0
        for group in spec.groups:
            width = action_features(group.action)
            others = torch.ones((group.size, self.size), device=device)
            for row in others:
                row[start : start + width] = 0.0
                start += width
            self._others[group.name] = others

    def join(self, actions: Mapping[str, Tensor]) -> Tensor:
        """(B, A, features) of every group to (B, N)."""
        return torch.cat([actions[name].flatten(1) for name in self._names], dim=-1)

    def others(self, name: str, joint: Tensor) -> Tensor:
        """What the others do: (B, N) joint actions to (B, A, N), with zeros where the agent's own action is."""
        return joint.unsqueeze(1) * self._others[name]


class CriticNetwork(nn.Module):
    """Several independent critics of one group, of the same shape.

    Args:
        group: whose actions are valued.
        spec: the environment's.
        centralized: whether the critics read the global state and the other agents' actions.
        reads_own_action: True for the value of the action taken, (..., A); False for the values of all
            alternatives of one choice at once, (..., A, K).
        count: how many critics, C.
        hidden_sizes: see Torso; likewise ``activation`` and ``layer_norm``.
    """

    def __init__(
        self,
        group: GroupSpec,
        spec: EnvironmentSpec,
        *,
        centralized: bool,
        reads_own_action: bool = True,
        count: int = 1,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: Activation = "relu",
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        features = action_features(group.action)
        self._own = reads_own_action
        self._state = centralized and spec.state is not None
        self._others = centralized
        inputs = [group.observation]
        if reads_own_action:
            inputs.append(ArraySpec(shape=(features,)))
        if self._state and spec.state is not None:
            inputs.append(spec.state)
        if centralized:
            inputs.append(ArraySpec(shape=(sum(other.size * action_features(other.action) for other in spec.groups),)))
        self.torsos = nn.ModuleList(
            Torso(
                inputs,
                num_agents=group.size,
                hidden_sizes=hidden_sizes,
                activation=activation,
                layer_norm=layer_norm,
            )
            for _ in range(count)
        )
        self.heads = nn.ModuleList(
            Head(hidden_sizes[-1], 1 if reads_own_action else features, 1.0) for _ in range(count)
        )

    def forward(self, observations: Tensor, own: Tensor | None, state: Tensor | None, others: Tensor | None) -> Tensor:
        """Action values.

        Args:
            observations: (B, A, *) prepared inputs.
            own: (B, A, features) own actions; ignored where they are not read.
            state: (B, 1, *) prepared; ignored by decentralized critics.
            others: (B, A, N) from ``JointActions.others``; ignored by decentralized critics.

        Returns:
            (C, B, A), or (C, B, A, K) values of all alternatives.
        """
        inputs = [observations]
        for wanted, tensor in ((self._own, own), (self._state, state), (self._others, others)):
            if wanted:
                assert tensor is not None
                inputs.append(tensor)
        values = [head(torso.features(inputs)) for torso, head in zip(self.torsos, self.heads, strict=True)]  # type: ignore[operator]
        stacked = torch.stack(values)
        return stacked.squeeze(-1) if self._own else stacked


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupBatch:
    """What one group learns from, as networks read it."""

    observations: Tensor
    """(B, A, *) prepared."""
    next_observations: Tensor
    """(B, A, *) prepared."""
    actions: Tensor
    """(B, A, features); zero where the agent was not active."""
    masks: Tensor | None
    """(B, A, mask size) bool."""
    next_masks: Tensor | None
    """(B, A, mask size) bool."""
    rewards: Tensor
    """(B, A): the agent's own, or the team's."""
    discounts: Tensor
    """(B, A): what the value at the next step counts for."""
    actor_weights: Tensor
    """(B, A): 1 where the agent acted, else 0, times importance weights."""
    critic_weights: Tensor
    """(B, A): the same; with a team reward also where it was dead, since what its team receives goes on."""
    next_active: Tensor
    """(B, A, 1): 1 where the agent acts next, else 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JointBatch:
    """What all groups learn from."""

    groups: Mapping[str, GroupBatch]
    state: Tensor | None
    """(B, 1, *) prepared."""
    next_state: Tensor | None
    """(B, 1, *) prepared."""


def prepare_batch(spec: EnvironmentSpec, sample: Transitions, *, team_reward: bool, normalize: bool) -> JointBatch:
    """Transitions as actors and critics read them.

    Args:
        spec: the environment's.
        sample: this rank's share of a global batch.
        team_reward: whether all agents learn from the sum of all agents' rewards.
        normalize: see ``prepare_input``.
    """

    def prepared_state(state: Tensor | None) -> Tensor | None:
        if state is None or spec.state is None:
            return None
        return prepare_input(spec.state, state, normalize=normalize).unsqueeze(1)

    team = torch.stack([data.rewards.sum(1, keepdim=True) for data in sample.groups.values()]).sum(0)
    weights = sample.weights.unsqueeze(1)
    groups: dict[str, GroupBatch] = {}
    for group in spec.groups:
        data = sample.groups[group.name]
        active = data.active.to(weights.dtype)
        shape = active.shape
        groups[group.name] = GroupBatch(
            observations=prepare_input(group.observation, data.observations, normalize=normalize),
            next_observations=prepare_input(group.observation, data.next_observations, normalize=normalize),
            actions=encode_actions(group.action, data.actions) * active.unsqueeze(-1),
            masks=data.action_masks,
            next_masks=data.next_action_masks,
            rewards=team.expand(shape) if team_reward else data.rewards,
            discounts=sample.discounts.unsqueeze(1).expand(shape) if team_reward else data.discounts,
            actor_weights=active * weights,
            critic_weights=weights.expand(shape) if team_reward else active * weights,
            next_active=data.next_active.to(weights.dtype).unsqueeze(-1),
        )
    return JointBatch(groups=groups, state=prepared_state(sample.state), next_state=prepared_state(sample.next_state))
