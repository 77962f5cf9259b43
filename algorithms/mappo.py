"""MAPPO and IPPO: proximal policy optimisation with a centralized critic, or with each agent's own.

Yu et al. (2022), "The surprising effectiveness of PPO in cooperative multi-agent games"; de Witt et al. (2020)
for IPPO. ``centralized_critic`` is the whole difference: the critic reads the global state, or what the actor reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from marl.algorithms.on_policy.advantages import AdvantageEstimator
from marl.algorithms.on_policy.builder import OnPolicyBuilder
from marl.algorithms.on_policy.config import OnPolicyConfig
from marl.algorithms.on_policy.losses import PPOLoss, PPOLossConfig, mean_metrics
from marl.algorithms.on_policy.magnet import Magnet, MagnetConfig, check_magnet
from marl.algorithms.on_policy.networks import OnPolicyNetworks
from marl.algorithms.on_policy.optimizer import make_optimizer
from marl.algorithms.on_policy.passes import PassesConfig, RolloutPasses, check_passes
from marl.algorithms.on_policy.rollouts import Rollout, RolloutReader
from marl.builders import RunContext
from marl.core import Dataset, Learner, Metrics, State
from marl.learning.config_checks import require_above, require_at_least
from marl.specs import EnvironmentSpec
from marl.states import flatten_state, unflatten_state
from marl.types import Trajectory

_APPROX_KL = PPOLoss.METRICS.index("approx_kl")


@dataclass(frozen=True, kw_only=True)
class MAPPOConfig(MagnetConfig, PPOLossConfig, PassesConfig, OnPolicyConfig):
    """Settings of MAPPO and IPPO; the defaults are the MAPPO paper's where it speaks."""

    target_kl: float | None = None
    """Stop the update's remaining passes once the policy moved this far (in nats, over all ranks)."""


class MAPPOLearner(Learner):
    """Learns from each rollout in several passes, then throws it away."""

    def __init__(
        self,
        spec: EnvironmentSpec,
        networks: OnPolicyNetworks,
        dataset: Dataset[Trajectory],
        config: MAPPOConfig,
        context: RunContext,
        *,
        compile: bool = False,
    ) -> None:
        self._networks = networks
        self._dataset = dataset
        self._config = config
        self._context = context
        self._optimizer = make_optimizer(networks, config, context, PPOLoss.METRICS)
        self._reader = RolloutReader(networks, config)
        self._estimator = AdvantageEstimator(spec, networks, config, context)
        self._magnet: Magnet | None = None
        if config.magnet_updates is not None:
            self._magnet = Magnet({name: group.actor for name, group in networks.items()}, config)
        sparse = spec.turn_based and not config.recurrent
        self._passes = RolloutPasses(
            {name: PPOLoss(group.actor, group.critic, config, sparse=sparse) for name, group in networks.items()},
            context,
            config,
            chunk_length=config.unroll_length,
            compile=compile and not spec.turn_based,
        )

    def step(self) -> Metrics:
        """Makes one update: advantages, then ``epochs`` passes of ``minibatches`` gradient steps."""
        trajectory = self._dataset.sample()
        self._optimizer.set_learning_rate(self._config.current_learning_rate(self._context))
        inputs = self._reader.read(trajectory)
        estimates = self._estimator.estimate(trajectory, inputs)
        rollouts = {name: self._reader.rollout(name, trajectory, inputs, estimates[name]) for name in self._networks}
        if self._magnet is not None:
            full = self._config.learning_rate
            self._magnet.advance(self._optimizer.learning_rate / full if full else 1.0)
            rollouts = {name: self._magnet.attach(name, rollout) for name, rollout in rollouts.items()}
        metrics = self._learn(rollouts, trajectory.length)
        self._reader.update_moments(trajectory, self._context.communicator)
        return metrics

    def _learn(self, rollouts: Mapping[str, Rollout], length: int) -> Metrics:
        """All gradient steps of an update."""
        optimizer, target_kl = self._optimizer, self._config.target_kl
        totals = torch.zeros_like(optimizer.tail, dtype=torch.float64)
        norms: list[float] = []
        for units in self._passes.cut(length):
            optimizer.zero()
            sums = optimizer.tail.view(len(rollouts), len(PPOLoss.METRICS))
            for (name, rollout), row in zip(rollouts.items(), sums, strict=True):
                self._passes.add_gradients(name, rollout, units, row)
            optimizer.reduce()
            if target_kl is not None and _divergence(sums) > target_kl:
                break
            totals += optimizer.tail
            counts: dict[str, float] = {}
            for name, row in zip(rollouts, sums.tolist(), strict=True):
                counts |= {f"{name}.actor": row[0], f"{name}.critic": row[-1]}
            norms.append(optimizer.step(counts))
        return {
            **mean_metrics(tuple(rollouts), PPOLoss.METRICS, totals),
            "gradient_norm": max(norms, default=0.0),
            "learning_rate": optimizer.learning_rate,
            "gradient_steps": len(norms),
            "skipped_steps": optimizer.skipped,
        }

    def get_variables(self) -> State:
        """All parameters and normalisers by name."""
        return flatten_state({name: group.state_dict() for name, group in self._networks.items()})

    def state_dict(self) -> State:
        """Parameters, normalisers, optimizer, and the number of passes, from which minibatches follow."""
        own: dict[str, State] = {
            "optimizer": self._optimizer.state_dict(),
            "minibatches": self._passes.state_dict(),
        }
        if self._magnet is not None:
            own["magnet"] = self._magnet.state_dict()
        return {**self.get_variables(), **flatten_state(own)}

    def load_state_dict(self, state: State) -> None:
        parts = unflatten_state(state)
        for name, group in self._networks.items():
            group.load_state_dict(parts[name])
        self._optimizer.load_state_dict(parts["optimizer"])
        self._passes.load_state_dict(parts["minibatches"])
        if self._magnet is not None:
            self._magnet.load_state_dict(parts["magnet"])

    def env_state_dict(self) -> State:
        """The critics' recurrent states."""
        return self._estimator.env_state_dict()

    def load_env_state_dict(self, state: State) -> None:
        self._estimator.load_env_state_dict(state)


def _divergence(sums: Tensor) -> float:
    """The largest group's mean divergence from the policy that acted; a group without samples has moved nowhere."""
    return float((sums[:, _APPROX_KL] / sums[:, 0].clamp(min=1.0)).max())


@dataclass(frozen=True, kw_only=True)
class MAPPO(OnPolicyBuilder):
    """Builds MAPPO, or with ``centralized_critic=False`` IPPO."""

    config: MAPPOConfig = MAPPOConfig()

    @property
    def minibatches(self) -> int:
        return self.config.minibatches

    def check(self, spec: EnvironmentSpec, context: RunContext) -> None:
        super().check(spec, context)
        config = self.config
        require_at_least(0, config, "entropy_coef", "value_coef")
        require_above(0, config, "clip_epsilon", "huber_delta", "target_kl")
        check_passes(config, context, rollout_length=config.rollout_length, chunk_length=config.unroll_length)
        check_magnet(config, spec, recurrent=config.recurrent)

    def make_learner(
        self, spec: EnvironmentSpec, networks: OnPolicyNetworks, dataset: Dataset[Any], context: RunContext
    ) -> MAPPOLearner:
        return MAPPOLearner(spec, networks, dataset, self.config, context, compile=self.compile)
