"""Configuration of all off-policy algorithms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from marl.learning.replicated_adam import MAX_SKIPPED_STEPS
from marl.networks.images import ImageConfig
from marl.networks.torso import Activation, Torso, prepare_input
from marl.replay import ReplayConfig
from marl.specs import ArraySpec, Sharing


@dataclass(frozen=True, slots=True, kw_only=True)
class OffPolicyConfig(ImageConfig):
    """Settings of all off-policy algorithms."""

    sharing: Sharing = "spaces"
    """Which agents share their networks: spaces, none, all, or a map from agent to group."""
    team_reward: bool
    """Learn from the sum of all agents' rewards instead of each agent's own."""
    allow_opponents: bool = False
    """Learn from that sum even where agents are opponents: where one wins what another loses."""
    replay: ReplayConfig
    """Capacity, batches, and how much is learned from each step."""
    n_step: int = 1
    """Steps whose rewards are summed before the bootstrap."""
    discount: float
    """Weight of the next step's value, gamma."""
    adam_epsilon: float = 1e-8
    """Adam's epsilon."""
    max_gradient_norm: float
    """Norm to which each network's gradient is clipped, after the all-reduce."""
    max_skipped_steps: int = MAX_SKIPPED_STEPS
    """Gradient steps in a row that may be skipped because gradients are not finite; then the run ends."""
    tau: float = 0.01
    """Rate of Polyak averaging: how far target networks move towards the online ones at each update; 1 copies them."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    activation: Activation = "relu"
    """After each hidden layer."""
    input_normalization: Literal["none", "layer"] = "none"
    """Normalisation of observations and states: none, or each vector by its own moments, which deletes its scale."""
    hidden_layer_norm: bool = False
    """Whether hidden layers are layer-normalised."""

    def make_torso(self, inputs: Sequence[ArraySpec], num_agents: int, *, recurrent: bool = False) -> Torso:
        """Makes the hidden layers of a network."""
        return Torso(
            inputs,
            num_agents=num_agents,
            hidden_sizes=self.hidden_sizes,
            activation=self.activation,
            layer_norm=self.hidden_layer_norm,
            recurrent=recurrent,
            convolutions=self.convolutions,
        )

    def prepare(self, spec: ArraySpec, raw: Tensor) -> Tensor:
        """Prepares (..., *shape) raw inputs for these layers."""
        return prepare_input(spec, raw, normalize=self.input_normalization == "layer", convolutions=self.convolutions)
