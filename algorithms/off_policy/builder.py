"""What off-policy algorithms have in common: settings, replay and its adder, and what they refuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from marl.adders.factory import make_replay_adder
from marl.builders import ConfiguredBuilder, NetworksT, RunContext
from marl.core import Adder, Communicator, Dataset
from marl.errors import InputError
from marl.learning.config_checks import require_above, require_at_least, require_unit_interval, require_widths
from marl.networks.torso import Activation
from marl.policy import Policy
from marl.replay import Items, ReplayConfig, ReplayDataset, Sequences, TransitionItems, Transitions
from marl.specs import EnvironmentSpec, Sharing

_PAID_STEPS = 16
"""So many sampled steps with rewards that cancel make a game a competitive one; in small batches, a quarter of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OffPolicyConfig:
    """Settings of all off-policy algorithms."""

    sharing: Sharing = "spaces"
    """Which agents share their networks: spaces, none, all, or a map from agent to group."""
    team_reward: bool
    """Learn from the sum of all agents' rewards instead of each agent's own."""
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
    tau: float = 0.01
    """How far targets go towards the learning networks at each target update, tau; 1 copies them."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    activation: Activation = "relu"
    """After each hidden layer."""
    layer_norm: bool = False
    """Whether inputs and hidden layers are layer-normalised."""


def refuse_opponents(sample: Transitions | Sequences, communicator: Communicator) -> None:
    """InputError where the agents' rewards cancel in all of a sample: then there is no team. Collective."""
    rewards = torch.cat([group.rewards for group in sample.groups.values()], -1)
    sums = torch.stack((rewards.sum(-1).abs().sum(), rewards.abs().sum(), (rewards != 0).any(-1).sum()))
    sums = sums.double().cpu()
    communicator.all_reduce(sums)
    team, own, paid = sums.tolist()
    if paid >= min(_PAID_STEPS, sample.global_batch_size // 4) and team <= 1e-6 * own:
        raise InputError(
            "the agents' rewards add up to 0 at every step, as in a competitive game, so a team has nothing to "
            "learn; use iql, ippo or mappo"
        )


class ReplayBuilder(ConfiguredBuilder[NetworksT]):
    """A builder whose learner samples replay."""

    config: OffPolicyConfig

    @property
    def on_policy(self) -> bool:
        """See Builder."""
        return False

    def check(self, spec: EnvironmentSpec, context: RunContext) -> None:
        """See Builder: refuses turn-based games where it cannot learn from them, and numbers that make no sense."""
        if spec.turn_based and (reason := self.no_turns()) is not None:
            raise InputError(f"this game is turn-based, but {reason}")
        require_at_least(1, self.config, "n_step")
        require_unit_interval(self.config, "discount", "tau")
        # A rate of 0 would leave targets where they were for ever.
        require_above(0, self.config, "tau", "max_gradient_norm", "adam_epsilon")
        require_widths(self.config, "hidden_sizes")

    def no_turns(self) -> str | None:
        """Why it does not learn from turn-based games, and what does; None where it does."""
        return "this algorithm learns from joint steps, at which all agents act; use iql, mappo or ippo"

    def items(self) -> Items:
        """What replay holds: by default n-step transitions."""
        return TransitionItems(n_step=self.config.n_step)

    def make_dataset(
        self, spec: EnvironmentSpec, policies: Mapping[str, Policy], context: RunContext
    ) -> ReplayDataset[Any]:
        """See Builder."""
        return self.config.replay.make_dataset(spec, self.items(), context)

    def make_adder(self, spec: EnvironmentSpec, dataset: Dataset[Any], context: RunContext) -> Adder:
        """See Builder."""
        assert isinstance(dataset, ReplayDataset)
        return make_replay_adder(dataset.replay, discount=self.config.discount)
