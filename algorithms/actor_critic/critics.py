"""Action-value critics of several agents.

A group's critic values each of its agents' actions, for that agent's own reward. A centralized critic (Lowe et al.
2017, "Multi-agent actor-critic for mixed cooperative-competitive environments") reads the global state and the joint
action of all groups; a decentralized one only the agent's own observation and action. The agent's own observation
and action come first either way, so that one network serves all agents of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marl.algorithms.actor_critic.config import ActorCriticConfig
from marl.networks.action_encodings import action_features
from marl.networks.torso import Head, Torso
from marl.specs import ArraySpec, EnvironmentSpec, GroupSpec


class CriticNetwork(nn.Module):
    """Several independent critics of one group, of the same shape.

    Args:
        group: whose actions are valued.
        spec: the environment's.
        config: number of critics, C, whether they are centralized, and their layers.
        reads_own_action: True for the value of the action taken, (..., A); False for the values of all actions of
            one discrete choice at once, (..., A, K).
    """

    def __init__(
        self, group: GroupSpec, spec: EnvironmentSpec, config: ActorCriticConfig, *, reads_own_action: bool = True
    ) -> None:
        super().__init__()
        features = action_features(group.action)
        self._reads_own_action = reads_own_action
        self._reads_state = config.centralized_critic and spec.state is not None
        self._reads_others = config.centralized_critic
        inputs = [group.observation]
        if reads_own_action:
            inputs.append(ArraySpec(shape=(features,)))
        if self._reads_state and spec.state is not None:
            inputs.append(spec.state)
        if self._reads_others:
            inputs.append(ArraySpec(shape=(sum(other.size * action_features(other.action) for other in spec.groups),)))
        self.torsos = nn.ModuleList(
            Torso(
                inputs,
                num_agents=group.size,
                hidden_sizes=config.hidden_sizes,
                activation=config.activation,
                layer_norm=config.hidden_layer_norm,
            )
            for _ in range(config.num_critics)
        )
        outputs = 1 if reads_own_action else features
        self.heads = nn.ModuleList(Head(config.hidden_sizes[-1], outputs, 1.0) for _ in range(config.num_critics))

    def forward(self, observations: Tensor, own: Tensor | None, state: Tensor | None, others: Tensor | None) -> Tensor:
        """Computes action values.

        Args:
            observations: (B, A, *) prepared inputs.
            own: (B, A, features) own actions; ignored where they are not read.
            state: (B, 1, *) prepared; ignored by decentralized critics.
            others: (B, A, N) from ``JointActions.others``; ignored by decentralized critics.

        Returns:
            (C, B, A), or (C, B, A, K) values of all actions.
        """
        inputs = [observations]
        for read, tensor in (
            (self._reads_own_action, own),
            (self._reads_state, state),
            (self._reads_others, others),
        ):
            if read:
                assert tensor is not None
                inputs.append(tensor)
        values = [head(torso.features(inputs)) for torso, head in zip(self.torsos, self.heads, strict=True)]  # type: ignore[operator]
        stacked = torch.stack(values)
        return stacked.squeeze(-1) if self._reads_own_action else stacked

    def taken_values(self, observations: Tensor, own: Tensor, state: Tensor | None, others: Tensor | None) -> Tensor:
        """(C, B, A) values of the agents' own encoded actions; other arguments as in ``forward``."""
        values: Tensor = self(observations, own, state, others)
        # The encoded action of agents that did not act is zero.
        return values if self._reads_own_action else (values * own).sum(-1)
