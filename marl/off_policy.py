"""What builders of off-policy algorithms have in common: replay, its adder, and the numbers that they all have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marl.actors import Policy
from marl.builders import ConfiguredBuilder, NetworksT, Placement
from marl.config_checks import require_above, require_at_least, require_share, require_widths
from marl.core import Adder, Dataset
from marl.errors import InputError
from marl.replay import Items, ReplayDataset, TransitionItems
from marl.replay_adders import make_replay_adder
from marl.specs import EnvironmentSpec
from marl.turn_adder import TurnAdder


class ReplayBuilder(ConfiguredBuilder[NetworksT]):
    """A builder whose learner samples replay.

    Its ``config`` has ``replay`` (a ReplayConfig), ``discount``, ``n_step``, ``target_rate``, ``max_gradient_norm``,
    ``adam_epsilon`` and ``hidden_sizes``, besides what ConfiguredBuilder asks for.
    """

    __slots__ = ()

    def check(self, spec: EnvironmentSpec, placement: Placement) -> None:
        """See Builder: refuses turn-based games where it cannot learn from them, and numbers that make no sense."""
        if spec.turn_based and (reason := self.no_turns()) is not None:
            raise InputError(f"this game is turn-based, but {reason}")
        require_at_least(1, self.config, "n_step")
        require_share(self.config, "discount", "target_rate")
        # A rate of 0 would leave targets where they were for ever.
        require_above(0, self.config, "target_rate", "max_gradient_norm", "adam_epsilon")
        require_widths(self.config, "hidden_sizes")

    def no_turns(self) -> str | None:
        """Why it does not learn from turn-based games, and what does; None where it does."""
        return "this algorithm learns from joint steps, at which all agents act; use iql, mappo or ippo"

    def items(self) -> Items:
        """What replay holds: by default n-step transitions."""
        return TransitionItems(n_step=self.config.n_step)

    def make_dataset(
        self, spec: EnvironmentSpec, policies: Mapping[str, Policy], placement: Placement
    ) -> ReplayDataset[Any]:
        """See Builder."""
        dataset: ReplayDataset[Any] = self.config.replay.make_dataset(spec, self.items(), placement)
        return dataset

    def make_adder(self, spec: EnvironmentSpec, dataset: Dataset[Any], placement: Placement) -> Adder:
        """See Builder."""
        assert isinstance(dataset, ReplayDataset)
        make = TurnAdder if spec.turn_based else make_replay_adder
        return make(dataset.replay, discount=self.config.discount)
