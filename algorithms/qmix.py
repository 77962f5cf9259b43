"""QMIX, QPLEX, VDN and IQL: Q-learning of teams from replay.

Rashid et al. (2018), "QMIX: monotonic value function factorisation"; Wang et al. (2021), "QPLEX: duplex dueling
multi-agent Q-learning"; Sunehag et al. (2018), "Value-decomposition networks"; Tan (1993) for independent learners.
``mixer`` is the whole difference: what makes the team's value of the agents' values, if anything does.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from marl.actors import Policy
from marl.builders import Placement
from marl.checkpoints import flatten_state, unflatten_state
from marl.config_checks import option, require_above, require_at_least, require_share
from marl.core import Dataset, Learner, Metrics, State
from marl.critics import one_hot
from marl.errors import InputError
from marl.gradient_steps import GradientStep, Losses, Noise, share_size
from marl.losses import td_loss
from marl.mixers import DuplexDuelingMixer, Mixer, MonotonicMixer, SumMixer
from marl.networks import Activation, prepare_input
from marl.normalizers import RunningMoments
from marl.off_policy import ReplayBuilder
from marl.optimizers import TargetParameters
from marl.q_values import QNetwork, QPolicy, legal_values, num_actions, unroll
from marl.replay import (
    Items,
    ReplayConfig,
    ReplayDataset,
    SequenceItems,
    Sequences,
    Transitions,
)
from marl.returns import n_step_returns
from marl.schedules import LinearSchedule
from marl.specs import ContinuousActions, DiscreteActions, EnvironmentSpec, GroupSpec, Sharing


@dataclass(frozen=True, slots=True, kw_only=True)
class QMIXConfig:
    """Settings of QMIX, QPLEX, VDN and IQL."""

    mixer: Literal["none", "vdn", "qmix", "qplex"] = "qmix"
    """What makes the team's value: none (IQL), the sum (VDN), a monotonic network (QMIX), or QPLEX's."""
    team_reward: bool = True
    """Learn from the sum of all agents' rewards. Only independent learners may learn from their own."""
    sharing: Sharing = "spaces"
    """Which agents share a network: spaces, none, all, or a map from agent to group."""
    replay: ReplayConfig = field(
        default_factory=lambda: ReplayConfig(capacity=200_000, batch_size=256, samples_per_insert=8.0, min_size=2_000)
    )
    """Replay; its items are transitions, or with ``recurrent`` sequences."""
    learning_rate: float = 5e-4
    """Adam's step size."""
    adam_epsilon: float = 1e-8
    """Adam's epsilon."""
    discount: float = 0.99
    """Weight of the next step's value, gamma."""
    n_step: int = 1
    """Rewards that are summed before the bootstrap."""
    double: bool = True
    """Choose the next action by the learning network, and evaluate it by the target network."""
    dueling: bool = False
    """Split values into that of the observation and advantages of actions (Wang et al. 2016)."""
    target_rate: float = 0.01
    """How far targets go towards the learning networks at each target update; 1 copies them."""
    target_period: int = 1
    """Updates between target updates."""
    huber_delta: float | None = None
    """Where the loss turns from quadratic to linear; None for quadratic."""
    max_gradient_norm: float = 10.0
    """Norm to which the gradient is clipped, after the all-reduce."""
    standardize_rewards: bool = False
    """Learn from rewards less their mean, over their deviation, both running."""
    epsilon_initial: float = 1.0
    """Probability of a random action at first."""
    epsilon_final: float = 0.05
    """Probability of a random action in the end."""
    epsilon_steps: int = 50_000
    """Environment steps, over all copies, in which it goes from the one to the other."""
    epsilon_exponent: float = 0.0
    """Copies explore less and less: the last one with epsilon to the power of one plus this (Horgan et al. 2018)."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    activation: Activation = "relu"
    """After each hidden layer."""
    layer_norm: bool = False
    """Whether inputs and hidden layers are layer-normalised."""
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
        return LinearSchedule(initial=self.epsilon_initial, final=self.epsilon_final, steps=self.epsilon_steps)


_FIGURES = ("samples", "loss", "absolute_error", "value", "target")
_MOMENTS = ("rewards/count", "rewards/sum", "rewards/squares")
"""What travels with the figures where rewards are standardised."""
_PAID_STEPS = 16
"""So many sampled steps with rewards that cancel make a game a competitive one; in small batches, a quarter of it."""
_SMALLEST_VARIANCE = 1e-4


class Networks(nn.Module):
    """The groups' networks, and what mixes their values."""

    def __init__(self, spec: EnvironmentSpec, config: QMIXConfig) -> None:
        super().__init__()
        self._places = {group.name: place for place, group in enumerate(spec.groups)}
        self.groups = nn.ModuleList(
            QNetwork(
                group,
                hidden_sizes=config.hidden_sizes,
                activation=config.activation,
                layer_norm=config.layer_norm,
                recurrent=config.recurrent,
                dueling=config.dueling,
            )
            for group in spec.groups
        )
        self.mixer = _make_mixer(spec, config)

    def of(self, group: GroupSpec) -> QNetwork:
        """A group's network."""
        network = self.groups[self._places[group.name]]
        assert isinstance(network, QNetwork)
        return network

    def segments(self) -> dict[str, list[nn.Parameter]]:
        """Parameters that are clipped together: independent groups' apart, those of a team together."""
        if self.mixer is not None:
            return {"team": list(self.parameters())}
        return {name: list(self.groups[place].parameters()) for name, place in self._places.items()}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """What the learner reads of one group. Rows (...) are (B,) transitions, or (L, B) steps of sequences."""

    values: Tensor
    """(..., A, K) of the learning network, with gradient."""
    preferences: Tensor
    """(..., A, K) at the next observation, of the network that chooses there; minus infinity where illegal."""
    target_values: Tensor
    """(..., A, K) at the next observation, of the target network; minus infinity where illegal."""
    masks: Tensor | None
    """(..., A, K) bool."""
    active: Tensor
    """(..., A) bool."""
    next_active: Tensor
    """(..., A) bool."""
    actions: Tensor
    """(..., A) int64."""
    rewards: Tensor
    """(..., A)."""
    discounts: Tensor
    """(..., A)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """What the learner reads of all groups together; rows as in _Group."""

    state: Tensor | None
    """(..., *shape) prepared."""
    next_state: Tensor | None
    """(..., *shape) prepared."""
    discounts: Tensor
    """(...): what the team's next value counts for."""
    learn: Tensor
    """(...) bool."""
    ended: Tensor | None
    """(...) bool: nothing of the sequence follows; None where rows are transitions."""
    weights: Tensor
    """(B,): importance weights."""


class QMIXLearner(Learner):
    """A gradient step for each sample, and a step of the targets."""

    def __init__(
        self,
        spec: EnvironmentSpec,
        networks: Networks,
        dataset: ReplayDataset[Any],
        config: QMIXConfig,
        placement: Placement,
        *,
        compile: bool = False,
    ) -> None:
        self._spec = spec
        self._networks = networks
        self._dataset = dataset
        self._config = config
        self._placement = placement
        self._targets = copy.deepcopy(networks)
        self._epsilon = config.epsilon()
        segments = networks.segments()
        size = share_size(config.replay.batch_size, placement.communicator.size) if compile else None
        self._gradient_step: GradientStep[Transitions | Sequences] = GradientStep(
            {name: {"networks": parameters} for name, parameters in segments.items()},
            _FIGURES + _MOMENTS,
            self._losses,
            [networks, self._targets],
            placement.communicator,
            learning_rate=config.learning_rate,
            epsilon=config.adam_epsilon,
            max_gradient_norm=config.max_gradient_norm,
            compiled_size=size,
        )
        self._optimizer = self._gradient_step.optimizer
        self._followers = TargetParameters(self._targets.segments(), self._optimizer)
        self._rewards = {name: RunningMoments(device=placement.device) for name in segments}
        self._updates = 0

    def step(self) -> Metrics:
        """One update."""
        sample, config = self._dataset.sample(), self._config
        if config.team_reward and self._updates == 0:
            self._refuse_opponents(sample)
        metrics, surprise = self._gradient_step(sample, {})
        if config.replay.priorities is not None:
            self._dataset.update_priorities(sample.indices, surprise)
        if config.standardize_rewards:
            # From the next update on, so that the moments travel with the gradients.
            table = self._optimizer.tail.view(len(self._rewards), -1)
            for moments, row in zip(self._rewards.values(), table, strict=True):
                moments.update(row[len(_FIGURES) :].double())
        self._updates += 1
        if self._updates % config.target_period == 0:
            self._followers.update(config.target_rate)
        counter = self._placement.counter
        return {
            **{name: value for name, value in metrics.items() if not name.endswith(_MOMENTS)},
            "skipped_steps": float(self._optimizer.skipped),
            "epsilon": self._epsilon(counter.env_steps - counter.began),
        }

    def _refuse_opponents(self, sample: Transitions | Sequences) -> None:
        """InputError where the agents' rewards cancel in all of the first sample: then there is no team. Collective."""
        rewards = torch.cat([group.rewards for group in sample.groups.values()], -1)
        sums = torch.stack((rewards.sum(-1).abs().sum(), rewards.abs().sum(), (rewards != 0).any(-1).sum()))
        sums = sums.double().cpu()
        self._placement.communicator.all_reduce(sums)
        team, own, paid = sums.tolist()
        if paid >= min(_PAID_STEPS, sample.global_batch_size // 4) and team <= 1e-6 * own:
            raise InputError(
                "the agents' rewards add up to 0 at every step, as in a competitive game, so a team has nothing to "
                "learn; use iql, ippo or mappo"
            )

    def _losses(self, sample: Transitions | Sequences, noise: Noise) -> Losses:
        """The sum of all losses, and of figures, a row for each of them; the items' priorities."""
        rows = self._read_rows(sample)
        if isinstance(sample, Sequences):
            groups = {group.name: self._read_sequences(group, sample) for group in self._spec.groups}
        else:
            groups = {group.name: self._read_transitions(group, sample) for group in self._spec.groups}
        rewards = torch.cat([group.rewards for group in groups.values()], -1).sum(-1)
        if self._networks.mixer is not None:
            values, following = self._mix(self._networks.mixer, groups, rows)
            return _added([self._loss("team", values, following, rewards, rows.discounts, rows.learn, rows)])
        losses: list[Losses] = []
        for name, group in groups.items():
            values = _of(group.values, group.actions)
            following = _of(group.target_values, group.preferences.argmax(-1))
            own, discounts, learn = group.rewards, group.discounts, rows.learn.unsqueeze(-1)
            if self._config.team_reward:
                # What the team receives after an agent's death is still the return of what it did.
                own, discounts = (x.unsqueeze(-1).expand_as(values) for x in (rewards, rows.discounts))
                learn = learn.expand_as(values)
            else:
                learn = learn & group.active
            losses.append(self._loss(name, values, following, own, discounts, learn, rows))
        return _added(losses)

    def _loss(
        self,
        name: str,
        values: Tensor,
        following: Tensor,
        rewards: Tensor,
        discounts: Tensor,
        learn: Tensor,
        rows: _Rows,
    ) -> Losses:
        """One loss of (...) or (..., A) values against rewards and what follows, likewise."""
        config, moments = self._config, self._rewards[name]
        sums_of_rewards = values.new_zeros(len(_MOMENTS))
        if config.standardize_rewards:
            sums_of_rewards = moments.batch_moments(rewards, learn).to(values)
            deviation = (moments.variance + _SMALLEST_VARIANCE).sqrt()
            rewards = (rewards - moments.mean.to(rewards)) / deviation.to(rewards)
        if rows.ended is None:
            targets = rewards + discounts * following
        else:
            ended = rows.ended if rewards.dim() == 2 else rows.ended.unsqueeze(-1).expand_as(rewards)
            targets = n_step_returns(
                rewards=rewards, discounts=discounts, next_values=following, n=config.n_step, ended=ended
            )
        weights = learn.to(values.dtype)
        per_item = rows.weights if values.dim() == rows.discounts.dim() else rows.weights.unsqueeze(-1)
        loss = (td_loss(values, targets, config.huber_delta) * weights * per_item).sum()
        with torch.no_grad():
            errors = (values - targets).abs() * weights
            sums = (weights.sum(), loss, errors.sum(), (values * weights).sum(), (targets * weights).sum())
            figures = torch.cat((torch.stack(sums), sums_of_rewards))
            if values.dim() > rows.discounts.dim():
                errors = errors.amax(-1)
            if rows.ended is not None:
                # Sequences count for their largest error more than for the others (Kapturowski et al. 2019, sec. 2.3).
                steps = rows.learn.sum(0).clamp(min=1)
                errors = 0.9 * errors.amax(0) + 0.1 * errors.sum(0) / steps
        return Losses(total=loss, figures=figures, surprise=errors)

    def _mix(self, mixer: Mixer, groups: Mapping[str, _Group], rows: _Rows) -> tuple[Tensor, Tensor]:
        """(...) values of the team: of what was done, and of the best that can be done next."""
        follower = self._targets.mixer
        assert follower is not None
        everyone = list(groups.values())
        now = [(g.values, g.masks, g.actions, g.active) for g in everyone]
        following = [(g.target_values, None, g.preferences.argmax(-1), g.next_active) for g in everyone]
        values: Tensor = mixer(**_joint(mixer, now), state=rows.state)
        with torch.no_grad():
            return values, follower(**_joint(follower, following), state=rows.next_state)

    def _read_rows(self, sample: Transitions | Sequences) -> _Rows:
        state = sample.state
        if state is not None:
            assert self._spec.state is not None
            state = prepare_input(self._spec.state, state, normalize=self._config.layer_norm)
        if isinstance(sample, Sequences):
            over = torch.cat((~sample.valid[1:], torch.ones_like(sample.valid[:1])))
            return _Rows(
                state=None if state is None else state[:-1],
                next_state=None if state is None else state[1:],
                discounts=sample.discounts,
                learn=sample.learn,
                ended=over,
                weights=sample.weights,
            )
        following = sample.next_state
        if following is not None:
            assert self._spec.state is not None
            following = prepare_input(self._spec.state, following, normalize=self._config.layer_norm)
        return _Rows(
            state=state,
            next_state=following,
            discounts=sample.discounts,
            learn=sample.weights > 0,  # items without a weight only fill up
            ended=None,
            weights=sample.weights,
        )

    def _read_transitions(self, group: GroupSpec, sample: Transitions) -> _Group:
        data, online, target = sample.groups[group.name], self._networks.of(group), self._targets.of(group)
        seen, following = (
            prepare_input(group.observation, raw, normalize=self._config.layer_norm)
            for raw in (data.observations, data.next_observations)
        )
        with torch.no_grad():
            target_values = legal_values(target.values(target.torso.features([following])), data.next_action_masks)
            preferences = target_values
            if self._config.double:
                preferences = legal_values(online.values(online.torso.features([following])), data.next_action_masks)
        return _Group(
            values=online.values(online.torso.features([seen])),
            preferences=preferences,
            target_values=target_values,
            masks=data.action_masks,
            active=data.active,
            next_active=data.next_active,
            actions=data.actions,
            rewards=data.rewards,
            discounts=data.discounts,
        )

    def _read_sequences(self, group: GroupSpec, sample: Sequences) -> _Group:
        data, masks = sample.groups[group.name], sample.groups[group.name].action_masks
        seen = prepare_input(group.observation, data.observations, normalize=self._config.layer_norm)
        values = unroll(self._networks.of(group), seen)
        next_masks = None if masks is None else masks[1:]
        with torch.no_grad():
            target_values = legal_values(unroll(self._targets.of(group), seen)[1:], next_masks)
        return _Group(
            values=values[:-1],
            preferences=legal_values(values[1:].detach(), next_masks) if self._config.double else target_values,
            target_values=target_values,
            masks=None if masks is None else masks[:-1],
            active=data.active[:-1],
            next_active=data.active[1:],
            actions=data.actions,
            rewards=data.rewards,
            discounts=data.discounts,
        )

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
                "rewards": {name: moments.state_dict() for name, moments in self._rewards.items()},
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


def _of(values: Tensor, actions: Tensor) -> Tensor:
    """The (...) values of (...) actions among (..., K)."""
    return values.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def _added(losses: Sequence[Losses]) -> Losses:
    """All losses together; an item's priority is its largest."""
    return Losses(
        total=torch.stack([loss.total for loss in losses]).sum(),
        figures=torch.stack([loss.figures for loss in losses]),
        surprise=torch.stack([loss.surprise for loss in losses]).amax(0),
    )


def _joint(mixer: Mixer, groups: Sequence[tuple[Tensor, Tensor | None, Tensor, Tensor]]) -> dict[str, Tensor]:
    """What a mixer reads of all groups' values (..., A, K), masks, actions (..., A) and active flags (..., A)."""
    joint = {
        # Not those with masks: in the padding of sequences, which is left out in the end, actions may be illegal.
        "chosen": torch.cat([_of(values, actions) for values, _, actions, _ in groups], -1),
        "active": torch.cat([active for *_, active in groups], -1),
    }
    if mixer.reads_joint:
        choices = [one_hot(actions, values.shape[-1]).flatten(-2) for values, _, actions, _ in groups]
        joint["best"] = torch.cat([legal_values(values, masks).amax(-1) for values, masks, _, _ in groups], -1)
        joint["actions"] = torch.cat(choices, -1).to(joint["best"].dtype)
    return joint


@dataclass(frozen=True, slots=True, kw_only=True)
class QMIX(ReplayBuilder[Networks]):
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

    def check(self, spec: EnvironmentSpec, placement: Placement) -> None:
        """See Builder."""
        config = self.config
        super(QMIX, self).check(spec, placement)
        for group in spec.groups:
            if not isinstance(group.action, DiscreteActions):
                kind = "continuous" if isinstance(group.action, ContinuousActions) else "multi-discrete"
                raise InputError(
                    f"{group.name} has {kind} actions, but Q-learners need one discrete choice; "
                    "use mappo, or maddpg for continuous actions"
                )
        if config.mixer != "none" and not config.team_reward:
            raise InputError(
                f"a mixer decomposes the team's value, so {config.mixer} cannot learn from individual rewards, as in a "
                "competitive game; drop --algorithm.no-team-reward, or use iql"
            )
        positive = ("target_period", "sequence_length", "mixer_embedding", "mixer_hidden", "mixer_heads")
        require_at_least(1, config, *positive)
        require_share(config, "epsilon_initial", "epsilon_final")
        require_above(0, config, "learning_rate", "huber_delta")
        require_at_least(0, config, "epsilon_steps", "epsilon_exponent")
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

    def make_networks(self, spec: EnvironmentSpec) -> Networks:
        """See Builder."""
        return Networks(spec, self.config)

    def make_policies(self, spec: EnvironmentSpec, networks: Networks, *, evaluation: bool) -> dict[str, Policy]:
        """See Builder."""
        config = self.config
        return {
            group.name: QPolicy(
                group,
                networks.of(group),
                normalize=config.layer_norm,
                epsilon=config.epsilon(),
                exponent=config.epsilon_exponent,
                greedy=evaluation,
            )
            for group in spec.groups
        }

    def items(self) -> Items:
        """See ReplayBuilder: sequences where networks have a memory."""
        config = self.config
        if config.recurrent:
            return SequenceItems(length=config.sequence_length, burn_in=config.burn_in)
        return super(QMIX, self).items()

    def make_dataset(
        self, spec: EnvironmentSpec, policies: Mapping[str, Policy], placement: Placement
    ) -> ReplayDataset[Any]:
        """See Builder. From here on the policies explore as far as the experiment has come."""
        for policy in policies.values():
            assert isinstance(policy, QPolicy)
            policy.explore(placement)
        return super(QMIX, self).make_dataset(spec, policies, placement)

    def make_learner(
        self, spec: EnvironmentSpec, networks: Networks, dataset: Dataset[Any], placement: Placement
    ) -> QMIXLearner:
        """See Builder."""
        assert isinstance(dataset, ReplayDataset)
        return QMIXLearner(spec, networks, dataset, self.config, placement, compile=self.compile)

    def load_policies(self, networks: Networks, state: State) -> None:
        """See Builder."""
        networks.load_state_dict(unflatten_state(state)["networks"])
