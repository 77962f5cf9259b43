"""Action-value critics of several agents: what they read, and networks that read it.

A group's critic values each of its agents' actions, for that agent's own reward. A centralized critic (Lowe et al.
2017, "Multi-agent actor-critic for mixed cooperative-competitive environments") reads the global state and what all
agents of all groups do; a decentralized one only what the agent itself sees and does. The agent's own observation
and action come first either way, so that one network serves all agents of a group.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from marl.networks.action_encodings import action_features
from marl.networks.torso import Activation, Head, Torso
from marl.specs import ArraySpec, EnvironmentSpec, GroupSpec


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
