"""Learner of action values, of a team with a mixer or of independent agents."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Final

import torch

from marl.algorithms.off_policy.gradient_steps import GradientStep, Losses, Noise, sum_losses
from marl.algorithms.off_policy.target_networks import TargetNetworks
from marl.algorithms.q_learning.batches import ValueBatch, read_batch
from marl.algorithms.q_learning.config import QLearningConfig
from marl.algorithms.q_learning.losses import TD_METRICS, TDTerms, agent_terms, td_losses, team_terms
from marl.algorithms.q_learning.networks import QNetworks
from marl.builders import RunContext
from marl.core import Learner, Metrics, State
from marl.networks.normalizers import RewardNormalizer
from marl.replay import ReplayDataset, Sequences, Transitions
from marl.specs import EnvironmentSpec
from marl.states import flatten_state, unflatten_state

_MOMENTS: Final = ("rewards/count", "rewards/sum", "rewards/squares")
"""Sums for the running moments of rewards: they travel with the metrics."""


class QLearner(Learner):
    """Takes a gradient step for each sample, and updates the target networks.

    Args:
        spec: the environment's.
        networks: to be improved, in place.
        dataset: of transitions, or of sequences for networks with a memory.
        config: settings.
        context: where this process stands.
        compile: whether losses and gradients run as kernels of torch's compiler; numbers agree up to rounding.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        networks: QNetworks,
        dataset: ReplayDataset[Any],
        config: QLearningConfig,
        context: RunContext,
        *,
        compile: bool = False,
    ) -> None:
        self._spec = spec
        self._networks = networks
        self._dataset = dataset
        self._config = config
        self._context = context
        self._targets = copy.deepcopy(networks)
        self._epsilon = config.epsilon()
        segments = networks.segments()
        self._gradient_step: GradientStep[Transitions | Sequences] = GradientStep(
            {name: {"networks": parameters} for name, parameters in segments.items()},
            TD_METRICS + _MOMENTS,
            self._losses,
            [networks, self._targets],
            context.communicator,
            learning_rate=config.learning_rate,
            epsilon=config.adam_epsilon,
            max_gradient_norm=config.max_gradient_norm,
            max_skipped_steps=config.max_skipped_steps,
            compiled_batch_size=config.replay.batch_size if compile else None,
        )
        self._optimizer = self._gradient_step.optimizer
        self._target_networks = TargetNetworks(self._targets.segments(), self._optimizer)
        self._rewards = {
            name: RewardNormalizer(center=config.center_rewards, device=context.device) for name in segments
        }
        self._updates = 0

    def step(self) -> Metrics:
        sample, config = self._dataset.sample(), self._config
        metrics, td_errors = self._gradient_step(sample, {})
        if config.replay.priorities is not None:
            self._dataset.update_priorities(sample.indices, td_errors)
        if config.standardize_rewards:
            # From the next update on, so that the moments travel with the gradients.
            table = self._optimizer.tail.view(len(self._rewards), -1)
            for normalizer, row in zip(self._rewards.values(), table, strict=True):
                normalizer.update(row[len(TD_METRICS) :].double())
        self._updates += 1
        if self._updates % config.target_period == 0:
            self._target_networks.update(config.tau)
        return {
            **{name: value for name, value in metrics.items() if not name.endswith(_MOMENTS)},
            "skipped_steps": float(self._optimizer.skipped),
            "epsilon": self._epsilon(self._context.counter.steps_since_began),
        }

    def _losses(self, sample: Transitions | Sequences, noise: Noise) -> Losses:
        """Computes the team's loss, or those of all groups."""
        batch = read_batch(self._spec, sample, self._networks, self._targets, self._config)
        if self._networks.mixer is not None:
            terms = {"team": team_terms(batch, self._networks, self._targets)}
        else:
            team_reward = self._config.team_reward
            terms = {name: agent_terms(group, batch, team_reward=team_reward) for name, group in batch.groups.items()}
        return sum_losses([self._loss(name, each, batch) for name, each in terms.items()])

    def _loss(self, name: str, terms: TDTerms, batch: ValueBatch) -> Losses:
        normalizer = self._rewards[name]
        moments = terms.values.new_zeros(len(_MOMENTS))
        if self._config.standardize_rewards:
            moments = normalizer.batch_moments(terms.rewards, terms.learn).to(moments)
            terms = terms._replace(rewards=normalizer.normalize(terms.rewards))
        losses = td_losses(terms, batch, self._config)
        return replace(losses, metrics=torch.cat((losses.metrics, moments)))

    def get_variables(self) -> State:
        return flatten_state({"networks": self._networks.state_dict()})

    def state_dict(self) -> State:
        return flatten_state(
            {
                "networks": self._networks.state_dict(),
                "targets": self._targets.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "rewards": {name: normalizer.state_dict() for name, normalizer in self._rewards.items()},
                "counts": {"updates": torch.tensor(self._updates)},
            }
        )

    def load_state_dict(self, state: State) -> None:
        parts = unflatten_state(state)
        self._networks.load_state_dict(parts["networks"])
        self._targets.load_state_dict(parts["targets"])
        self._optimizer.load_state_dict(parts["optimizer"])
        for name, moments in unflatten_state(parts["rewards"]).items():
            self._rewards[name].load_state_dict(moments)
        self._updates = int(parts["counts"]["updates"])
