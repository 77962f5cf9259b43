"""An algorithm of your own: plain policy gradients with a baseline, on the parts that on-policy algorithms share.

What is here is what is new: a loss, and a learner that takes one gradient step a rollout (Williams 1992, REINFORCE).
Networks, rollouts, advantages, policies and checkpoints are the family's, and any number of ranks is one line:
``reduce`` sums gradients over all of them.
"""

from dataclasses import dataclass

import torch

from marl.algorithms.on_policy.advantages import AdvantageEstimator
from marl.algorithms.on_policy.builder import OnPolicyBuilder
from marl.algorithms.on_policy.config import OnPolicyConfig
from marl.algorithms.on_policy.losses import RolloutLoss, mean_metrics
from marl.algorithms.on_policy.optimizer import make_optimizer
from marl.algorithms.on_policy.rollouts import RolloutReader
from marl.core import Learner
from marl.envs.factory import make_factory
from marl.experiments.config import ExperimentConfig
from marl.experiments.experiment import run_experiment
from marl.states import flatten_state, unflatten_state

STEPS = 200_000
SETTINGS = OnPolicyConfig(learning_rate=3e-3, rollout_length=5, centralized_critic=False)


class PolicyGradientLoss(RolloutLoss):
    """``-log π(a|o) Â`` for the actor, the squared error for the critic."""

    METRICS = ("samples", "policy_loss", "value_loss", "value_samples")

    def _loss(self, rows, distribution, critic_features):
        log_probs = distribution.log_prob(rows.take(rows.rollout.actions))
        errors = self.critic.values(critic_features) - rows.take(rows.rollout.targets)
        policy_loss = -(log_probs * rows.take(rows.rollout.advantages) * rows.weights).sum()
        value_loss = (errors.square() * rows.value_weights).sum()
        return policy_loss + value_loss, (rows.weights.sum(), policy_loss, value_loss, rows.value_weights.sum())


class PolicyGradientLearner(Learner):
    """One gradient step a rollout."""

    def __init__(self, spec, networks, dataset, config, context):
        self._networks, self._dataset, self._context = networks, dataset, context
        self._optimizer = make_optimizer(networks, config, context, PolicyGradientLoss.METRICS)
        self._reader = RolloutReader(networks, config)
        self._estimator = AdvantageEstimator(spec, networks, config, context)
        self._losses = {n: PolicyGradientLoss(g.actor, g.critic, sparse=False) for n, g in networks.items()}

    def step(self):
        """Sums the groups' gradients, here and over ranks, and takes one step with them."""
        trajectory = self._dataset.sample()
        inputs = self._reader.read(trajectory)
        estimates = self._estimator.estimate(trajectory, inputs)
        self._optimizer.zero()
        sums = self._optimizer.tail.view(len(self._networks), -1)
        for (name, loss), row in zip(self._losses.items(), sums, strict=True):
            rollout = self._reader.rollout(name, trajectory, inputs, estimates[name])
            total, metrics = loss(rollout, slice(None), None)
            total.backward()
            row += metrics
        self._optimizer.reduce()
        counts = {}
        for name, row in zip(self._losses, sums.tolist(), strict=True):
            counts |= {f"{name}.actor": row[0], f"{name}.critic": row[-1]}
        averages = mean_metrics(tuple(self._losses), PolicyGradientLoss.METRICS, sums.flatten())
        norm = self._optimizer.step(counts)
        self._reader.update_moments(trajectory, self._context.communicator)
        return {**averages, "gradient_norm": norm}

    def get_variables(self):
        return flatten_state({name: group.state_dict() for name, group in self._networks.items()})

    def state_dict(self):
        return {**self.get_variables(), **flatten_state({"optimizer": self._optimizer.state_dict()})}

    def load_state_dict(self, state):
        parts = unflatten_state(state)
        for name, group in self._networks.items():
            group.load_state_dict(parts[name])
        self._optimizer.load_state_dict(parts["optimizer"])


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(OnPolicyBuilder):
    """Builds it; everything that is not said here is the family's."""

    config: OnPolicyConfig = SETTINGS

    def make_learner(self, spec, networks, dataset, context):
        return PolicyGradientLearner(spec, networks, dataset, self.config, context)


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = run_experiment(
        ExperimentConfig(builder=PolicyGradient(), environment=make_factory("mpe2.simple_v3"), steps=STEPS, num_envs=32)
    )
    assert result.evaluation is not None
    print(f"return {result.evaluation.summary()['evaluation/return_mean']:.1f}; random play gives about -40")
