"""QMIX, QPLEX, VDN and IQL: Q-learning of teams from replay.

Rashid et al. (2018), "QMIX: monotonic value function factorisation"; Wang et al. (2021), "QPLEX: duplex dueling
multi-agent Q-learning"; Sunehag et al. (2018), "Value-decomposition networks"; Tan (1993) for independent learners.
``mixer`` is the whole difference: what makes the team's value of the agents' values, if anything does.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from marl.algorithms.off_policy.builder import OffPolicyConfig, ReplayBuilder, refuse_opponents
from marl.algorithms.off_policy.gradient_steps import GradientStep, Losses, Noise, added
from marl.algorithms.off_policy.targets import TargetParameters
from marl.algorithms.q_learning.losses import TD_FIGURES, GroupValues, TDTerms, ValueBatch, read_batch, td_losses
from marl.algorithms.q_learning.mixers import DuplexDuelingMixer, Mixer, MonotonicMixer, SumMixer
from marl.algorithms.q_learning.networks import QNetwork, QNetworks, num_actions, require_choices
from marl.algorithms.q_learning.policy import QPolicy
from marl.builders import RunContext
from marl.checkpoints.state import flatten_state, unflatten_state
from marl.core import Dataset, Learner, Metrics, State
from marl.errors import InputError
from marl.learning.config_checks import option, require_above, require_at_least, require_unit_interval
from marl.learning.schedules import LinearSchedule
from marl.networks.normalizers import RewardNormalizer
from marl.policy import Policy
from marl.replay import Items, ReplayConfig, ReplayDataset, SequenceItems, Sequences, Transitions
from marl.specs import EnvironmentSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class QMIXConfig(OffPolicyConfig):
    """Settings of QMIX, QPLEX, VDN and IQL."""

    mixer: Literal["none", "vdn", "qmix", "qplex"] = "qmix"
    """What makes the team's value: none (IQL), the sum (VDN), a monotonic network (QMIX), or QPLEX's."""
    team_reward: bool = True
    """Learn from the sum of all agents' rewards. Only independent learners may learn from their own."""
    replay: ReplayConfig = field(
        default_factory=lambda: ReplayConfig(capacity=200_000, batch_size=256, samples_per_insert=8.0, min_size=2_000)
    )
    """Replay; its items are transitions, or with ``recurrent`` sequences."""
    discount: float = 0.99
    max_gradient_norm: float = 10.0
    learning_rate: float = 5e-4
    """Adam's step size."""
    double: bool = True
    """Choose the next action by the learning network, and evaluate it by the target network."""
    dueling: bool = False
    """Split values into that of the observation and advantages of actions (Wang et al. 2016)."""
    target_period: int = 1
    """Updates between target updates."""
    huber_delta: float | None = None
    """Where the loss turns from quadratic to linear; None for quadratic."""
    standardize_rewards: bool = False
    """Learn from rewards less their mean, over their deviation, both running."""
    epsilon_start: float = 1.0
    """Probability of a random action at first."""
    epsilon_end: float = 0.05
    """Probability of a random action in the end."""
    epsilon_decay_steps: int = 50_000
    """Environment steps, over all copies, in which it goes from the one to the other."""
    epsilon_exponent: float = 0.0
    """Copies explore less and less: the last one with epsilon to the power of one plus this (Horgan et al. 2018)."""
    recurrent: bool = False
    """Add a GRU, and learn from sequences."""
    sequence_length: int = 25
    """Steps of a sequence; with at least the longest episode's, sequences are whole episodes."""
    burn_in: int = 0
    """First steps of sequences within an episode that only warm up the GRU."""
    mixer_embedding: int = 32
    """Width of QMIX's mixing network."""
    mixer_hidden: int = 64
    """Width of the networks that read the state."""
    mixer_heads: int = 4
    """Heads of QPLEX's attention."""

    def epsilon(self) -> LinearSchedule:
        """Probability of a random action, by environment steps."""
        return LinearSchedule(start=self.epsilon_start, end=self.epsilon_end, steps=self.epsilon_decay_steps)


def _make_mixer(spec: EnvironmentSpec, config: QMIXConfig) -> Mixer | None:
    if config.mixer == "none":
        return None
    if config.mixer == "vdn":
        return SumMixer()
    assert spec.state is not None, "the environment was asked for its state"
    agents = sum(group.size for group in spec.groups)
    if config.mixer == "qmix":
        return MonotonicMixer(agents, spec.state, embedding=config.mixer_embedding, hidden=config.mixer_hidden)
    actions = sum(group.size * num_actions(group) for group in spec.groups)
    return DuplexDuelingMixer(agents, actions, spec.state, heads=config.mixer_heads, hidden=config.mixer_hidden)


_MOMENTS = ("rewards/count", "rewards/sum", "rewards/squares")
"""Sums for the running moments of rewards: they travel with the figures."""


class QMIXLearner(Learner):
    """A gradient step for each sample, and a step of the targets."""

    def __init__(
        self,
        spec: EnvironmentSpec,
        networks: QNetworks,
        dataset: ReplayDataset[Any],
        config: QMIXConfig,
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
            TD_FIGURES + _MOMENTS,
            self._losses,
            [networks, self._targets],
            context.communicator,
            learning_rate=config.learning_rate,
            epsilon=config.adam_epsilon,
            max_gradient_norm=config.max_gradient_norm,
            compiled_batch_size=config.replay.batch_size if compile else None,
        )
        self._optimizer = self._gradient_step.optimizer
        self._target_networks = TargetParameters(self._targets.segments(), self._optimizer)
        self._rewards = {name: RewardNormalizer(device=context.device) for name in segments}
        self._updates = 0

    def step(self) -> Metrics:
        """One update."""
        sample, config = self._dataset.sample(), self._config
        if config.team_reward and self._updates == 0:
            refuse_opponents(sample, self._context.communicator)
        metrics, td_errors = self._gradient_step(sample, {})
        if config.replay.priorities is not None:
            self._dataset.update_priorities(sample.indices, td_errors)
        if config.standardize_rewards:
            # From the next update on, so that the moments travel with the gradients.
            table = self._optimizer.tail.view(len(self._rewards), -1)
            for normalizer, row in zip(self._rewards.values(), table, strict=True):
                normalizer.update(row[len(TD_FIGURES) :].double())
        self._updates += 1
        if self._updates % config.target_period == 0:
            self._target_networks.update(config.tau)
        return {
            **{name: value for name, value in metrics.items() if not name.endswith(_MOMENTS)},
            "skipped_steps": float(self._optimizer.skipped),
            "epsilon": self._epsilon(self._context.counter.steps_since_began),
        }

    def _losses(self, sample: Transitions | Sequences, noise: Noise) -> Losses:
        """The team's loss, or those of all groups."""
        config = self._config
        batch = read_batch(
            self._spec, sample, self._networks, self._targets, double=config.double, normalize=config.layer_norm
        )
        if self._networks.mixer is not None:
            terms = {"team": self._team_terms(batch)}
        else:
            terms = {name: self._agents_terms(group, batch) for name, group in batch.groups.items()}
        return added([self._loss(name, each, batch) for name, each in terms.items()])

    def _team_terms(self, batch: ValueBatch) -> TDTerms:
        """The team's value of what all agents did, against that of the best that they can do next."""
        values = self._networks.mix([group.done for group in batch.groups.values()], batch.state)
        with torch.no_grad():
            next_values = self._targets.mix([group.best for group in batch.groups.values()], batch.next_state)
        return TDTerms(values, next_values, batch.rewards, batch.discounts, batch.learn)

    def _agents_terms(self, group: GroupValues, batch: ValueBatch) -> TDTerms:
        """Each agent's value of what it did, against that of the best that it can do next."""
        values, next_values = group.done.chosen(), group.best.chosen()
        if self._config.team_reward:
            # What the team receives after an agent's death is still the return of what it did.
            of_team = (batch.rewards, batch.discounts, batch.learn)
            return TDTerms(values, next_values, *(each.unsqueeze(-1).expand_as(values) for each in of_team))
        learn = batch.learn.unsqueeze(-1) & group.done.active
        return TDTerms(values, next_values, group.rewards, group.discounts, learn)

    def _loss(self, name: str, terms: TDTerms, batch: ValueBatch) -> Losses:
        config, normalizer = self._config, self._rewards[name]
        moments = terms.values.new_zeros(len(_MOMENTS))
        if config.standardize_rewards:
            moments = normalizer.batch_moments(terms.rewards, terms.learn).to(moments)
            terms = terms._replace(rewards=normalizer.normalize(terms.rewards))
        losses = td_losses(terms, batch, n_step=config.n_step, huber_delta=config.huber_delta)
        return replace(losses, figures=torch.cat((losses.figures, moments)))

    def get_variables(self) -> State:
        """The groups' networks, by name."""
        return flatten_state({"networks": self._networks.state_dict()})

    def state_dict(self) -> State:
        """Networks, targets, optimizer, moments of rewards, and the number of updates."""
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
        """See Saveable."""
        parts = unflatten_state(state)
        self._networks.load_state_dict(parts["networks"])
        self._targets.load_state_dict(parts["targets"])
        self._optimizer.load_state_dict(parts["optimizer"])
        for name, moments in unflatten_state(parts["rewards"]).items():
            self._rewards[name].load_state_dict(moments)
        self._updates = int(parts["counts"]["updates"])


@dataclass(frozen=True, kw_only=True)
class QMIX(ReplayBuilder[QNetworks]):
    """Builds QMIX, or with another ``mixer`` QPLEX, VDN or IQL."""

    config: QMIXConfig = field(default_factory=QMIXConfig)
    compile: bool = False
    """Whether updates run as kernels of torch's compiler; numbers agree up to rounding."""

    def compiled(self) -> QMIX | None:
        """See Builder; what reads sequences, or running moments of rewards, stays as it is."""
        if self.config.recurrent or self.config.standardize_rewards:
            return None
        return replace(self, compile=True)

    @property
    def with_state(self) -> bool:
        """See Builder."""
        return self.config.mixer in ("qmix", "qplex")

    def check(self, spec: EnvironmentSpec, context: RunContext) -> None:
        """See Builder."""
        config = self.config
        super().check(spec, context)
        require_choices(spec)
        if config.mixer != "none" and not config.team_reward:
            raise InputError(
                f"a mixer decomposes the team's value, so {config.mixer} cannot learn from individual rewards, as in a "
                "competitive game; drop --algorithm.no-team-reward, or use iql"
            )
        positive = ("target_period", "sequence_length", "mixer_embedding", "mixer_hidden", "mixer_heads")
        require_at_least(1, config, *positive)
        require_unit_interval(config, "epsilon_start", "epsilon_end")
        require_above(0, config, "learning_rate", "huber_delta")
        require_at_least(0, config, "epsilon_decay_steps", "epsilon_exponent")
        if config.standardize_rewards and config.n_step > 1 and not config.recurrent:
            raise InputError(
                f"{option('standardize_rewards')} needs single rewards, but replay holds sums of {config.n_step}; "
                f"use {option('n_step')} 1"
            )

    def no_turns(self) -> str | None:
        """See ReplayBuilder: each agent's own turns serve independent learners without a memory."""
        config = self.config
        if config.mixer != "none" or config.team_reward:
            return "a team's value is of joint steps, at which all agents act; use iql, mappo or ippo"
        if config.recurrent or config.n_step > 1:
            wrong = "recurrent" if config.recurrent else "n_step"
            return f"replay of turns holds single ones; leave out {option(wrong)}"
        return None

    def make_networks(self, spec: EnvironmentSpec) -> QNetworks:
        """See Builder."""
        config = self.config
        groups = {
            group.name: QNetwork(
                group,
                hidden_sizes=config.hidden_sizes,
                activation=config.activation,
                layer_norm=config.layer_norm,
                recurrent=config.recurrent,
                dueling=config.dueling,
            )
            for group in spec.groups
        }
        return QNetworks(groups, _make_mixer(spec, config))

    def make_policies(
        self, spec: EnvironmentSpec, networks: QNetworks, *, evaluation: bool, context: RunContext | None = None
    ) -> dict[str, Policy]:
        """Epsilon-greedy policies, whose exploration needs the run's context, or greedy ones."""
        if context is None and not evaluation:
            raise ValueError("exploration follows a run's progress: give its context")
        config = self.config
        return {
            group.name: QPolicy(
                group,
                networks.of(group),
                normalize=config.layer_norm,
                epsilon=config.epsilon(),
                exponent=config.epsilon_exponent,
                context=None if evaluation else context,
            )
            for group in spec.groups
        }

    def frozen_policies(self, spec: EnvironmentSpec, networks: QNetworks, *, greedy: bool) -> dict[str, Policy]:
        """Greedy policies in any case: without a run there is no progress that exploration could follow."""
        return self.make_policies(spec, networks, evaluation=True)

    def items(self) -> Items:
        """See ReplayBuilder: sequences where networks have a memory."""
        config = self.config
        if config.recurrent:
            return SequenceItems(length=config.sequence_length, burn_in=config.burn_in)
        return super().items()

    def make_learner(
        self, spec: EnvironmentSpec, networks: QNetworks, dataset: Dataset[Any], context: RunContext
    ) -> QMIXLearner:
        """See Builder."""
        assert isinstance(dataset, ReplayDataset)
        return QMIXLearner(spec, networks, dataset, self.config, context, compile=self.compile)

    def load_policies(self, networks: QNetworks, state: State) -> None:
        """See Builder."""
        networks.load_state_dict(unflatten_state(state)["networks"])
