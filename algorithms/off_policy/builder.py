"""Builder of learners that sample replay: makes the replay and its adder, and refuses what cannot be learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from marl.adders.factory import make_replay_adder
from marl.algorithms.off_policy.config import OffPolicyConfig
from marl.algorithms.off_policy.memory import require_batch_memory
from marl.builders import ConfiguredBuilder, NetworksT, RunContext
from marl.core import Adder, Dataset
from marl.errors import InputError
from marl.learning.config_checks import require_above, require_at_least, require_unit_interval, require_widths
from marl.policy import Policy
from marl.replay import Items, ReplayDataset, TransitionItems
from marl.specs import EnvironmentSpec

_REPLAY: Final = "algorithm.replay"


@dataclass(frozen=True, kw_only=True)
class OffPolicyBuilder(ConfiguredBuilder[NetworksT]):
    """A builder whose learner samples replay."""

    config: OffPolicyConfig
    compile: bool = False
    """Whether updates run as kernels of torch's compiler; numbers agree up to rounding."""

    @property
    def on_policy(self) -> bool:
        return False

    def compiled(self) -> OffPolicyBuilder[NetworksT] | None:
        return replace(self, compile=True)

    def check(self, spec: EnvironmentSpec, context: RunContext) -> None:
        """Refuses turn-based games where it cannot learn from them, and numbers that make no sense."""
        if spec.turn_based and (reason := self.no_turns()) is not None:
            raise InputError(f"this game is turn-based, but {reason}")
        require_at_least(1, self.config, "n_step", "max_skipped_steps")
        require_unit_interval(self.config, "discount", "tau")
        # A rate of 0 would leave targets where they were for ever.
        require_above(0, self.config, "tau", "max_gradient_norm", "adam_epsilon")
        require_widths(self.config, "hidden_sizes")
        replay = self.config.replay
        require_at_least(1, replay, "capacity", "batch_size", "min_size", section=_REPLAY)
        require_above(0, replay, "samples_per_insert", "tolerance", section=_REPLAY)

    def no_turns(self) -> str | None:
        """Returns why it does not learn from turn-based games, and what does; None where it does."""
        return "this algorithm learns from joint steps, at which all agents act; use iql, mappo or ippo"

    def items(self) -> Items:
        """Items of replay: by default n-step transitions."""
        return TransitionItems(n_step=self.config.n_step)

    def make_dataset(
        self, spec: EnvironmentSpec, policies: Mapping[str, Policy], context: RunContext
    ) -> ReplayDataset[Any]:
        dataset = self.config.replay.make_dataset(spec, self.items(), context)
        require_batch_memory(spec, self.config, dataset.replay, context)
        return dataset

    def make_adder(self, spec: EnvironmentSpec, dataset: Dataset[Any], context: RunContext) -> Adder:
        assert isinstance(dataset, ReplayDataset)
        return make_replay_adder(dataset.replay, discount=self.config.discount)
