"""Mixers: from the values of single agents to the value of the team, such that greedy agents are a greedy team.

All agents of all groups stand side by side, N of them. Agents that do not act are left out: their values change
nothing. Leading dimensions (...) are whatever the caller has: a batch, or time and batch.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from marl.learning.absent_agents import without_absent
from marl.networks.images import Convolutions, is_convolved
from marl.networks.torso import ImageEncoder, orthogonal
from marl.specs import ArraySpec

_MIN_WEIGHT = 1e-10


class Mixer(nn.Module):
    """The team's value as a function of the agents' values."""

    reads_state: bool = True
    """Whether ``forward`` needs the state."""
    reads_joint: bool = False
    """Whether ``forward`` needs the best values and the actions."""

    @abstractmethod
    def forward(
        self,
        chosen: Tensor,
        active: Tensor,
        state: Tensor | None = None,
        best: Tensor | None = None,
        actions: Tensor | None = None,
    ) -> Tensor:
        """Computes the team's values.

        Args:
            chosen: (..., N) float, each agent's value of its action.
            active: (..., N) bool, True for agents that act; the others are left out.
            state: (..., *state shape) global state from ``prepare_input``, where the mixer reads it.
            best: (..., N) float, each agent's value of its best legal action, where the mixer reads the joint action.
            actions: (..., sum of all agents' numbers of actions) one-hot actions side by side, zeros for agents that do
                not act, likewise.

        Returns:
            (...) float.
        """


class SumMixer(Mixer):
    """Value decomposition: Q_tot = Σ Q_i (Sunehag et al. 2018, "Value-decomposition networks", equation 1)."""

    reads_state = False

    def forward(
        self,
        chosen: Tensor,
        active: Tensor,
        state: Tensor | None = None,
        best: Tensor | None = None,
        actions: Tensor | None = None,
    ) -> Tensor:
        return without_absent(chosen, active).sum(-1)


def _hypernetwork(inputs: int, hidden: int, outputs: int, gain: float, bias: float = 0.0) -> nn.Sequential:
    """Makes two layers whose outputs begin around ``bias``."""
    last = orthogonal(nn.Linear(hidden, outputs), gain)
    nn.init.constant_(last.bias, bias)
    return nn.Sequential(orthogonal(nn.Linear(inputs, hidden), math.sqrt(2.0)), nn.ReLU(), last)


class _StateReader(nn.Module):
    """Global states as vectors."""

    def __init__(self, spec: ArraySpec, convolutions: Convolutions) -> None:
        super().__init__()
        self._encoder = ImageEncoder(spec, "relu") if is_convolved(spec, convolutions) else None
        self.size = spec.size if self._encoder is None else self._encoder.size

    def forward(self, state: Tensor) -> Tensor:
        """(..., *shape) prepared states to (..., size)."""
        if self._encoder is None:
            return state
        encoded: Tensor = self._encoder(state)
        return encoded


class MonotonicMixer(Mixer):
    """QMIX's mixing network: Q_tot grows with every Q_i.

    Two layers, whose weights are the absolute values of functions of the state, and whose biases are functions of
    the state, the last one a network of two layers (Rashid et al. 2018, "QMIX: monotonic value function
    factorisation", section 4 and figure 2).

    Args:
        num_agents: N.
        state: spec of the global state.
        embedding: width of the mixing network's hidden layer.
        hidden: width of the hypernetworks' hidden layers.
        convolutions: whether a state that is an image is read with convolutions.
    """

    def __init__(
        self,
        num_agents: int,
        state: ArraySpec,
        *,
        embedding: int = 32,
        hidden: int = 64,
        convolutions: Convolutions = "auto",
    ) -> None:
        super().__init__()
        self._shape = (num_agents, embedding)
        self.state = _StateReader(state, convolutions)
        size = self.state.size
        # With weights of this size Q_tot begins near the sum of the Q_i, whatever the widths.
        scale = 1.0 / math.sqrt(embedding)
        self.first_weights = _hypernetwork(size, hidden, num_agents * embedding, 1.0, scale)
        self.first_bias = orthogonal(nn.Linear(size, embedding), scale)
        self.last_weights = _hypernetwork(size, hidden, embedding, 1.0, scale)
        self.last_bias = _hypernetwork(size, embedding, 1, scale)

    def forward(
        self,
        chosen: Tensor,
        active: Tensor,
        state: Tensor | None = None,
        best: Tensor | None = None,
        actions: Tensor | None = None,
    ) -> Tensor:
        assert state is not None, "a monotonic mixer reads the state"
        features = self.state(state)
        weights = self.first_weights(features).abs().unflatten(-1, self._shape)
        acting = without_absent(chosen, active).unsqueeze(-2)
        hidden = torch.matmul(acting, weights).squeeze(-2) + self.first_bias(features)
        totals: Tensor = (functional.elu(hidden) * self.last_weights(features).abs()).sum(-1, keepdim=True)
        totals = totals + self.last_bias(features)
        return totals.squeeze(-1)


class DuplexDuelingMixer(Mixer):
    """QPLEX's mixing network: any joint value whose greedy joint action is that of greedy agents.

    Values are transformed by the state, Q_i ← w_i(s) Q_i + b_i(s) with w_i > 0, and split into the best value V_i and
    the advantage A_i ≤ 0. Then Q_tot = Σ V_i + Σ λ_i(s, a) A_i, where λ_i > 0 is attention of several heads over
    state and joint action (Wang et al. 2021, "QPLEX: duplex dueling multi-agent Q-learning", equations 7 to 10).
    As in the authors' code the advantages that λ scales carry no gradient: Q_tot = Σ Q_i + Σ (λ_i - 1) A_i.
    With that gradient, the 3×3 game of Son et al. 2019 was left in its poor equilibrium by most seeds.

    Args:
        num_agents: N.
        num_actions: sum of all agents' numbers of actions.
        state: spec of the global state.
        heads: of the attention.
        hidden: width of all hidden layers.
        convolutions: whether a state that is an image is read with convolutions.
    """

    reads_joint = True

    def __init__(
        self,
        num_agents: int,
        num_actions: int,
        state: ArraySpec,
        *,
        heads: int = 4,
        hidden: int = 64,
        convolutions: Convolutions = "auto",
    ) -> None:
        super().__init__()
        self._shape = (heads, num_agents)
        self.state = _StateReader(state, convolutions)
        size = self.state.size
        # Weights begin near one, and so does λ, where the sigmoids are 1/2: Q_tot begins near the sum of the Q_i.
        self.weights = _hypernetwork(size, hidden, num_agents, 1.0 / num_agents, 1.0)
        self.biases = _hypernetwork(size, hidden, num_agents, 1.0 / num_agents)
        self.keys = _hypernetwork(size, hidden, heads, 1.0, 4.0 / heads)
        self.agents = _hypernetwork(size, hidden, heads * num_agents, 1.0)
        self.actions = _hypernetwork(size + num_actions, hidden, heads * num_agents, 1.0)

    def importance(self, state: Tensor, actions: Tensor) -> Tensor:
        """(..., N) weights λ > 0 for states from ``prepare_input`` and one-hot joint actions (equation 10)."""
        features = self.state(state)
        keys = self.keys(features).abs() + _MIN_WEIGHT
        agents = torch.sigmoid(self.agents(features)).unflatten(-1, self._shape)
        chosen = torch.sigmoid(self.actions(torch.cat((features, actions), dim=-1))).unflatten(-1, self._shape)
        importance: Tensor = (keys.unsqueeze(-1) * agents * chosen).sum(-2)
        return importance

    def forward(
        self,
        chosen: Tensor,
        active: Tensor,
        state: Tensor | None = None,
        best: Tensor | None = None,
        actions: Tensor | None = None,
    ) -> Tensor:
        assert state is not None, "QPLEX's mixer reads the state"
        assert best is not None, "QPLEX's mixer reads the best values"
        assert actions is not None, "QPLEX's mixer reads the joint action"
        features = self.state(state)
        weights = self.weights(features).abs() + _MIN_WEIGHT
        acting = without_absent(chosen, active)
        advantages = (weights * (acting - without_absent(best, active))).detach()
        mixed: Tensor = weights * acting + self.biases(features) + (self.importance(state, actions) - 1.0) * advantages
        return without_absent(mixed, active).sum(-1)
