"""QMIX, QPLEX, VDN and IQL: Q-learning of teams from replay.

Rashid et al. (2018), "QMIX: monotonic value function factorisation"; Wang et al. (2021), "QPLEX: duplex dueling
multi-agent Q-learning"; Sunehag et al. (2018), "Value-decomposition networks"; Tan (1993) for independent learners.
``mixer`` is the whole difference: the network that mixes the agents' values into the team's, if any.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from marl.algorithms.q_learning.builder import QLearningBuilder
from marl.algorithms.q_learning.config import QLearningConfig
from marl.algorithms.q_learning.mixers import DuplexDuelingMixer, Mixer, MonotonicMixer, SumMixer
from marl.algorithms.q_learning.networks import num_actions
from marl.builders import RunContext
from marl.errors import InputError
from marl.learning.config_checks import require_at_least
from marl.specs import EnvironmentSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class QMIXConfig(QLearningConfig):
    """Settings of QMIX, QPLEX, VDN and IQL."""

    mixer: Literal["none", "vdn", "qmix", "qplex"] = "qmix"
    """Mixer of the agents' values: none (IQL), the sum (VDN), a monotonic network (QMIX), or QPLEX's."""
    mixer_embedding: int = 32
    """Width of QMIX's mixing network."""
    mixer_hidden: int = 64
    """Width of the networks that read the state."""
    mixer_heads: int = 4
    """Heads of QPLEX's attention."""


@dataclass(frozen=True, kw_only=True)
class QMIX(QLearningBuilder):
    """Builds QMIX, or with another ``mixer`` QPLEX, VDN or IQL."""

    config: QMIXConfig = field(default_factory=QMIXConfig)

    @property
    def with_state(self) -> bool:
        return self.config.mixer in ("qmix", "qplex")

    def check(self, spec: EnvironmentSpec, context: RunContext) -> None:
        config = self.config
        super().check(spec, context)
        if config.mixer != "none" and not config.team_reward:
            raise InputError(
                f"a mixer decomposes the team's value, so {config.mixer} cannot learn from individual rewards, as in a "
                "competitive game; drop --algorithm.no-team-reward, or use iql"
            )
        require_at_least(1, config, "mixer_embedding", "mixer_hidden", "mixer_heads")

    def make_mixer(self, spec: EnvironmentSpec) -> Mixer | None:
        config = self.config
        if config.mixer == "none":
            return None
        if config.mixer == "vdn":
            return SumMixer()
        assert spec.state is not None, "the environment was asked for its state"
        agents = sum(group.size for group in spec.groups)
        if config.mixer == "qmix":
            return MonotonicMixer(
                agents,
                spec.state,
                embedding=config.mixer_embedding,
                hidden=config.mixer_hidden,
                convolutions=config.convolutions,
            )
        actions = sum(group.size * num_actions(group) for group in spec.groups)
        return DuplexDuelingMixer(
            agents,
            actions,
            spec.state,
            heads=config.mixer_heads,
            hidden=config.mixer_hidden,
            convolutions=config.convolutions,
        )
