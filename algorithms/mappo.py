"""MAPPO and IPPO: proximal policy optimisation with a centralized critic, or with each agent's own.

Yu et al. (2022), "The surprising effectiveness of PPO in cooperative multi-agent games"; de Witt et al. (2020)
for IPPO. ``centralized_critic`` is the whole difference: the critic reads the global state, or what the actor reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from marl.actors import Decision, Policy
from marl.builders import Builder, Placement
from marl.checkpoints import flatten_state, unflatten_state
from marl.core import Adder, Dataset, Learner, Metrics, State
from marl.distributions import Distribution, make_distribution, num_outputs, num_uniforms
from marl.errors import InputError
from marl.losses import clipped_value_loss, ppo_policy_loss
from marl.minibatches import assign
from marl.networks import Activation, Head, Torso, prepare_input
from marl.normalizers import ObservationNormalizer, RunningMoments, ValueNormalizer
from marl.optimizers import ReplicatedAdam
from marl.returns import gae
from marl.specs import ArraySpec, ContinuousActions, EnvironmentSpec, GroupSpec, Sharing
from marl.streams import Stream
from marl.trajectories import TrajectoryAdder, TrajectoryDataset
from marl.types import GroupStep, GroupTrajectory, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class MAPPOConfig:
    """Settings of MAPPO and IPPO; the defaults are the MAPPO paper's where it speaks."""

    centralized_critic: bool = True
    """Whether the critic reads the global state (MAPPO) or the agent's observation (IPPO)."""
    agent_features: bool = True
    """Whether a centralized critic also reads the agent's own observation and id."""
    sharing: Sharing = "spaces"
    """Which agents share a policy: spaces, none, all, or a map from agent to group."""
    rollout_length: int = 25
    """Steps of each copy between updates."""
    epochs: int = 10
    """Passes over each rollout."""
    minibatches: int = 1
    """Parts of each pass, with one gradient step each."""
    learning_rate: float = 7e-4
    """Adam's step size, for actors and critics."""
    anneal_learning_rate: bool = False
    """Lower the step size linearly to zero over the experiment."""
    adam_epsilon: float = 1e-5
    """Adam's epsilon."""
    discount: float = 0.99
    """Weight of the next step's value, gamma."""
    gae_lambda: float = 0.95
    """Weight of longer returns in the advantage estimate."""
    clip: float = 0.2
    """How far the probability ratio, and a clipped value, may move."""
    clip_value: bool = True
    """Whether the value loss is clipped too."""
    huber_delta: float | None = 10.0
    """Where the value loss turns from quadratic to linear, in normalised units; None for quadratic."""
    value_coefficient: float = 1.0
    """Weight of the value loss."""
    entropy: float = 0.01
    """Weight of the entropy bonus."""
    max_gradient_norm: float = 10.0
    """Norm to which each network's gradient is clipped, after the all-reduce."""
    target_kl: float | None = None
    """Stop the update's remaining passes once the policy moved this far (in nats, over all ranks)."""
    value_normalization: Literal["moments", "popart", "none"] = "moments"
    """How returns are normalised: running moments (ValueNorm), PopArt, or not at all."""
    normalize_observations: bool = False
    """Whether observations are normalised by running moments."""
    team_reward: bool = False
    """Learn from the sum of all agents' rewards instead of each agent's own."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    activation: Activation = "tanh"
    """After each hidden layer."""
    layer_norm: bool = True
    """Whether inputs and hidden layers are layer-normalised, as in the paper."""
    recurrent: bool = False
    """Add a GRU to actors and critics."""
    chunk_length: int = 10
    """Steps over which gradients flow back through a GRU."""


_FIGURES = ("samples", "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "value_samples")
_MICROBATCH = 4096


class ActorNetwork(nn.Module):
    """Observations to the parameters of an action distribution."""

    def __init__(self, group: GroupSpec, config: MAPPOConfig) -> None:
        super().__init__()
        self._action = group.action
        self.torso = _torso(config, [group.observation], group.size)
        self.head = Head(self.torso.size, num_outputs(group.action), 0.01)
        self.log_std: nn.Parameter | None = None
        if isinstance(group.action, ContinuousActions):
            self.log_std = nn.Parameter(torch.full((group.action.size,), -0.5))

    def distribution(self, features: Tensor, masks: Tensor | None) -> Distribution:
        """The action distribution for (..., size) features."""
        return make_distribution(self._action, self.head(features), masks, log_std=self.log_std)


class CriticNetwork(nn.Module):
    """State and observations, or observations alone, to values in normalised units."""

    def __init__(self, group: GroupSpec, state: ArraySpec | None, config: MAPPOConfig) -> None:
        super().__init__()
        self._own = not config.centralized_critic or config.agent_features
        inputs = [state] if state is not None and config.centralized_critic else []
        self.reads_state = bool(inputs)
        if self._own:
            inputs.append(group.observation)
        self.torso = _torso(config, inputs, group.size if self._own else 1)
        self.head = Head(self.torso.size, 1, 1.0)

    def features(self, observations: Tensor, state: Tensor | None, agents: Tensor | None = None) -> Tensor:
        """Features of (..., A, *) observations and (..., 1, *) state, or of flat ones; see Torso."""
        inputs = [state] if self.reads_state and state is not None else []
        if self._own:
            inputs.append(observations)
        features = self.torso.features(inputs, agents)
        shape = observations.shape[: features.dim() - 1]
        return features if self._own else features.expand(*shape, -1)

    def values(self, features: Tensor) -> Tensor:
        """(..., size) features to (...) values."""
        values: Tensor = self.head(features).squeeze(-1)
        return values


def _torso(config: MAPPOConfig, inputs: Sequence[ArraySpec], num_agents: int) -> Torso:
    return Torso(
        inputs,
        num_agents=num_agents,
        hidden_sizes=config.hidden_sizes,
        activation=config.activation,
        layer_norm=config.layer_norm,
        recurrent=config.recurrent,
    )


@dataclass(slots=True)
class GroupNetworks:
    """What one group acts and learns with."""

    actor: ActorNetwork
    critic: CriticNetwork
    observations: ObservationNormalizer | None


Networks = dict[str, GroupNetworks]


class MAPPOPolicy(Policy):
    """Samples from the actor network's distribution, or takes its mode."""

    def __init__(self, group: GroupSpec, networks: GroupNetworks, config: MAPPOConfig, *, greedy: bool) -> None:
        self._networks = networks
        self._config = config
        self._group = group
        self._greedy = greedy
        self.num_uniforms = 0 if greedy else num_uniforms(group.action)
        self.extras = {}
        if not greedy:
            self.extras = {"log_probs": ArraySpec(shape=())}
            if networks.actor.torso.gru is not None:
                self.extras["states"] = ArraySpec(shape=(networks.actor.torso.size,))

    def initial_state(self, num_envs: int) -> Tensor | None:
        """See Policy."""
        torso = self._networks.actor.torso
        return None if torso.gru is None else torso.initial_state(num_envs, self._group.size)

    def act(self, step: GroupStep, first: Tensor, state: Tensor | None, uniforms: Tensor | None) -> Decision:
        """See Policy."""
        actor = self._networks.actor
        features = actor.torso.features([_read(self._group, self._networks, step.observations, self._config)])
        before = state
        if state is not None:
            state = features = actor.torso.step(features, state, first.unsqueeze(-1).expand(state.shape[:-1]))
        distribution = actor.distribution(features, step.action_masks)
        if uniforms is None:
            return Decision(actions=distribution.mode(), extras={}, state=state)
        actions = distribution.sample(uniforms)
        extras = {"log_probs": distribution.log_prob(actions)}
        if before is not None:
            extras["states"] = before
        return Decision(actions=actions, extras=extras, state=state)


@dataclass(slots=True)
class _Batch:
    """One group's rollout, ready to be learned from; all (T, E, A, ...)."""

    data: GroupTrajectory
    observations: Tensor
    state: Tensor | None
    advantages: Tensor
    targets: Tensor
    old_values: Tensor
    weights: Tensor
    """1 where the actor learns, else 0."""
    value_weights: Tensor
    """1 where the critic learns, else 0."""
    critic_states: Tensor | None


class MAPPOLearner(Learner):
    """Learns from each rollout in several passes, then throws it away."""

    def __init__(
        self,
        spec: EnvironmentSpec,
        networks: Networks,
        dataset: Dataset[Trajectory],
        config: MAPPOConfig,
        placement: Placement,
    ) -> None:
        self._spec = spec
        self._networks = networks
        self._dataset = dataset
        self._config = config
        self._placement = placement
        self._communicator = placement.communicator
        self._shuffle = Stream(
            placement.seed, "minibatches", first_copy=placement.first_copy, num_copies=placement.num_envs
        )
        segments: dict[str, Sequence[nn.Parameter]] = {}
        for name, group in networks.items():
            segments[f"{name}.actor"] = list(group.actor.parameters())
            segments[f"{name}.critic"] = list(group.critic.parameters())
        self._optimizer = ReplicatedAdam(
            segments,
            placement.communicator,
            learning_rate=config.learning_rate,
            epsilon=config.adam_epsilon,
            max_gradient_norm=config.max_gradient_norm,
            bookkeeping=len(networks) * len(_FIGURES),
        )
        self._values: dict[str, ValueNormalizer | None] = {}
        for name, group in networks.items():
            layers = [group.critic.head.linear] if config.value_normalization == "popart" else []
            self._values[name] = None if config.value_normalization == "none" else ValueNormalizer(output_layers=layers)
        self._critic_states = {
            group.name: networks[group.name].critic.torso.initial_state(placement.num_envs, group.size)
            for group in spec.groups
            if networks[group.name].critic.torso.gru is not None
        }
        self._passes = 0

    def step(self) -> Metrics:
        """One update: advantages, then ``epochs`` passes of ``minibatches`` gradient steps."""
        trajectory = self._dataset.sample()
        config = self._config
        if config.anneal_learning_rate:
            # Zero at the first update, so that the last one still moves.
            before = self._placement.counter.env_steps - config.rollout_length * self._placement.total_envs
            progress = min(1.0, max(0.0, before / self._placement.total_steps))
            self._optimizer.set_learning_rate(config.learning_rate * (1.0 - progress))
        batches = self._prepare(trajectory)
        sums = torch.zeros_like(self._optimizer.tail, dtype=torch.float64)
        norms: list[float] = []
        for _ in range(config.epochs):
            for units in self._cut(trajectory):
                self._optimizer.zero()
                for index, name in enumerate(self._networks):
                    figures = self._optimizer.tail[index * len(_FIGURES) : (index + 1) * len(_FIGURES)]
                    self._add_gradients(name, batches[name], trajectory, units, figures)
                self._optimizer.reduce()
                figures = self._optimizer.tail.view(len(self._networks), len(_FIGURES))
                # A group without samples has moved nowhere.
                divergence = figures[:, 4] / figures[:, 0].clamp(min=1.0)
                if config.target_kl is not None and float(divergence.max()) > config.target_kl:
                    break
                sums += self._optimizer.tail
                counts: dict[str, float] = {}
                for name, row in zip(self._networks, figures.tolist(), strict=True):
                    counts |= {f"{name}.actor": row[0], f"{name}.critic": row[-1]}
                norms.append(self._optimizer.step(counts))
            else:
                continue
            break
        self._update_observation_moments(batches)
        return self._metrics(sums, norms)

    @torch.no_grad()
    def _prepare(self, trajectory: Trajectory) -> dict[str, _Batch]:
        """Advantages and value targets of all groups; two small all-reduces for their moments."""
        batches: dict[str, _Batch] = {}
        state, final_state = trajectory.state, trajectory.finals.state
        if self._spec.state is not None and state is not None and final_state is not None:
            state = prepare_input(self._spec.state, state, normalize=self._config.layer_norm)
            final_state = prepare_input(self._spec.state, final_state, normalize=self._config.layer_norm)
        for group in self._spec.groups:
            name = group.name
            data, values = trajectory.groups[name], self._values[name]
            observations = _read(group, self._networks[name], data.observations, self._config)
            final = _read(group, self._networks[name], trajectory.finals.groups[name].observations, self._config)
            old, following, states = self._evaluate(name, trajectory, (observations, state), (final, final_state))
            rewards, terminated, ended = self._signals(data, trajectory)
            # A team's return goes on after an agent's death: its critic learns it, its actor rests.
            posthumous = self._config.team_reward and not self._spec.turn_based
            estimates = gae(
                rewards=rewards,
                values=old[:-1] if values is None else values.denormalize(old[:-1]),
                next_values=following if values is None else values.denormalize(following),
                active=None if posthumous else data.active,
                terminated=terminated,
                ended=ended,
                discount=self._config.discount,
                lambda_=self._config.gae_lambda,
            )
            value_weights = estimates.valid.to(old.dtype)
            batches[name] = _Batch(
                data=data,
                observations=observations,
                state=state,
                advantages=estimates.advantages,
                targets=estimates.returns,
                old_values=old[:-1],
                weights=data.active[:-1].to(old.dtype) if posthumous else value_weights,
                value_weights=value_weights,
                critic_states=states,
            )
        self._normalize(batches)
        return batches

    def _evaluate(
        self,
        name: str,
        trajectory: Trajectory,
        inputs: tuple[Tensor, Tensor | None],
        last: tuple[Tensor, Tensor | None],
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values of all rows (T+1, E, A), the values after each step (T, E, A), and a GRU's states before each row."""
        critic, finals = self._networks[name].critic, trajectory.finals
        observations, state = inputs
        rows = max(1, _MICROBATCH // (observations.shape[1] * observations.shape[2]))
        features = torch.cat(
            [
                critic.features(part, None if state is None else state[start : start + rows].unsqueeze(2))
                for start, part in zip(range(0, len(observations), rows), observations.split(rows), strict=True)
            ]
        )
        final_features = critic.features(last[0], None if last[1] is None else last[1].unsqueeze(1))
        before: Tensor | None = None
        if name in self._critic_states:
            first = trajectory.first.unsqueeze(-1).expand(features.shape[:-1])
            outputs = critic.torso.unroll(features, self._critic_states[name], first)
            before = torch.cat((self._critic_states[name].unsqueeze(0), outputs[:-1]))
            self._critic_states[name] = outputs[-2].clone()
            memory = outputs[finals.times, finals.copies]
            final_features = critic.torso.step(
                final_features, memory, torch.zeros(memory.shape[:-1], dtype=torch.bool, device=memory.device)
            )
            features = outputs
        values = critic.values(features)
        following = values[1:].clone()
        following[finals.times, finals.copies] = critic.values(final_features)
        return values, following, before

    def _signals(self, data: GroupTrajectory, trajectory: Trajectory) -> tuple[Tensor, Tensor, Tensor]:
        """Rewards, terminations and ends as the return sees them: each agent's own, or the team's."""
        over = trajectory.first[1:].unsqueeze(-1)
        if not self._config.team_reward:
            return data.rewards, data.terminated, data.terminated | data.truncated | over
        groups = list(trajectory.groups.values())
        rewards = torch.stack([group.rewards.sum(-1, keepdim=True) for group in groups]).sum(0)
        cut = torch.stack([group.truncated.any(-1, keepdim=True) for group in groups]).any(0)
        # A team lives until its last agent's episode ends, whoever died on the way.
        shape = data.rewards.shape
        return rewards.expand(shape), (over & ~cut).expand(shape), over.expand(shape)

    def _normalize(self, batches: Mapping[str, _Batch]) -> None:
        """Advantages to mean 0 and deviation 1, targets by running moments: over all ranks, in one all-reduce."""
        advantages = {name: RunningMoments() for name in batches}
        rows: list[Tensor] = []
        for name, batch in batches.items():
            values = self._values[name]
            rows.append(advantages[name].batch_moments(batch.advantages, batch.weights > 0))
            known = batch.value_weights > 0
            rows.append(torch.zeros_like(rows[-1]) if values is None else values.batch_moments(batch.targets, known))
        moments = torch.stack(rows)
        self._communicator.all_reduce(moments)
        for index, (name, batch) in enumerate(batches.items()):
            advantages[name].update(moments[2 * index])
            mean, deviation = advantages[name].mean, advantages[name].variance.sqrt()
            batch.advantages = ((batch.advantages - mean) / (deviation + 1e-5)).to(batch.advantages.dtype)
            values = self._values[name]
            if values is not None:
                before = values.denormalize(batch.old_values)
                values.update(moments[2 * index + 1])
                if values.output_layers:
                    batch.old_values = values.normalize(before)
                batch.targets = values.normalize(batch.targets)

    def _cut(self, trajectory: Trajectory) -> list[Tensor | None]:
        """The next pass's minibatches: flat indices of (unit, copy), or None for everything at once."""
        config, placement = self._config, self._placement
        length = config.chunk_length if config.recurrent else 1
        self._passes += 1
        if config.minibatches == 1:
            return [torch.arange(-(-trajectory.length // length) * trajectory.num_envs) if config.recurrent else None]
        numbers = assign(
            self._shuffle,
            self._passes,
            units=-(-trajectory.length // length),
            first_copy=placement.first_copy,
            num_envs=placement.num_envs,
            minibatches=config.minibatches,
        ).flatten()
        return [(numbers == number).nonzero().squeeze(-1) for number in range(config.minibatches)]

    def _add_gradients(
        self, name: str, batch: _Batch, trajectory: Trajectory, units: Tensor | None, figures: Tensor
    ) -> None:
        """Adds the gradient of the loss, summed over a minibatch's samples, and the sums of its figures."""
        everything = trajectory.length * trajectory.num_envs
        length = self._config.chunk_length if self._config.recurrent else 1
        size = max(1, _MICROBATCH // (length * batch.weights.shape[2]))
        for start in range(0, everything if units is None else units.numel(), size):
            # Small enough for the processor's cache. Slices are views, indices are gathered.
            part = slice(start, min(start + size, everything)) if units is None else units[start : start + size]
            self._loss(name, batch, trajectory, part, figures).backward()

    def _loss(self, name: str, batch: _Batch, trajectory: Trajectory, units: Tensor | slice, figures: Tensor) -> Tensor:
        config, data, networks = self._config, batch.data, self._networks[name]
        actor, critic = networks.actor, networks.critic
        rows = units
        weights, value_weights = batch.weights.flatten(0, 1), batch.value_weights.flatten(0, 1)
        if config.recurrent:
            assert isinstance(units, Tensor)
            # Unit u is chunk u // E of copy u % E; the last chunk may reach over the end.
            times = torch.arange(config.chunk_length).unsqueeze(1) + units // trajectory.num_envs * config.chunk_length
            rows = times.clamp(max=trajectory.length - 1) * trajectory.num_envs + units % trajectory.num_envs
            inside = (times < trajectory.length).unsqueeze(-1)
            weights, value_weights = weights[rows] * inside, value_weights[rows] * inside
        else:
            weights, value_weights = weights[rows], value_weights[rows]
        agents = chosen = None
        if not config.recurrent and self._spec.turn_based:
            # Most agents wait for their turn: only the others' rows are worth computing.
            chosen, agents = weights.nonzero(as_tuple=True)
            weights = value_weights = weights[chosen, agents]

        def take(x: Tensor) -> Tensor:
            x = x.flatten(0, 1)[rows]
            return x if chosen is None else x[chosen, agents]

        state = batch.state
        if state is not None:
            state = state.flatten(0, 1)[rows]
            state = state.unsqueeze(weights.dim() - 1) if chosen is None else state[chosen]
        observations = take(batch.observations)
        features = actor.torso.features([observations], agents)
        critic_features = critic.features(observations, state, agents)
        if batch.critic_states is not None:
            first = trajectory.first.flatten()[rows].unsqueeze(-1).expand(weights.shape)
            features = actor.torso.unroll(features, take(data.extras["states"])[0], first)
            critic_features = critic.torso.unroll(critic_features, take(batch.critic_states)[0], first)
        distribution = actor.distribution(features, None if data.action_masks is None else take(data.action_masks))
        policy = ppo_policy_loss(
            distribution.log_prob(take(data.actions)),
            take(data.extras["log_probs"]),
            take(batch.advantages),
            config.clip,
        )
        value_loss = clipped_value_loss(
            critic.values(critic_features),
            take(batch.old_values),
            take(batch.targets),
            config.clip if config.clip_value else None,
            config.huber_delta,
        )
        policy_loss, entropy, approx_kl, clipped = (
            (term * weights).sum() for term in (policy.loss, distribution.entropy(), policy.approx_kl, policy.clipped)
        )
        value_loss = (value_loss * value_weights).sum()
        sums = (weights.sum(), policy_loss, value_loss, entropy, approx_kl, clipped, value_weights.sum())
        figures += torch.stack(sums).detach()
        return policy_loss + config.value_coefficient * value_loss - config.entropy * entropy

    def _update_observation_moments(self, batches: Mapping[str, _Batch]) -> None:
        """After the update, so that a rollout is learned from as it was seen."""
        for name, batch in batches.items():
            normalizer = self._networks[name].observations
            if normalizer is not None:
                seen = batch.data.observations[:-1]
                moments = normalizer.batch_moments(seen, batch.data.active[:-1])
                self._communicator.all_reduce(moments)
                normalizer.update(moments)

    def _metrics(self, sums: Tensor, norms: Sequence[float]) -> Metrics:
        metrics: dict[str, float] = {}
        for name, row in zip(self._networks, sums.view(len(self._networks), -1).tolist(), strict=True):
            samples, *values, value_samples = row
            for figure, value in zip(_FIGURES[1:-1], values, strict=True):
                metrics[f"{name}/{figure}"] = value / max(value_samples if figure == "value_loss" else samples, 1.0)
        return {
            **metrics,
            "gradient_norm": max(norms, default=0.0),
            "learning_rate": self._optimizer.learning_rate,
            "gradient_steps": len(norms),
            "skipped_steps": self._optimizer.skipped,
        }

    def get_variables(self) -> State:
        """All parameters and normalisers by name."""
        return flatten_state({name: self._group_state(name) for name in self._networks})

    def _group_state(self, name: str) -> dict[str, State]:
        group, values = self._networks[name], self._values[name]
        parts: dict[str, State] = {"actor": group.actor.state_dict(), "critic": group.critic.state_dict()}
        if values is not None:
            parts["values"] = values.state_dict()
        if group.observations is not None:
            parts["observations"] = group.observations.state_dict()
        return parts

    def state_dict(self) -> State:
        """Parameters, normalisers, optimizer, and the number of passes, from which minibatches follow."""
        own: dict[str, State] = {
            "optimizer": self._optimizer.state_dict(),
            "minibatches": {"passes": torch.tensor(self._passes)},
        }
        return {**self.get_variables(), **flatten_state(own)}

    def load_state_dict(self, state: State) -> None:
        """See Saveable."""
        parts = unflatten_state(state)
        for name, values in self._values.items():
            _load_group(self._networks[name], parts[name])
            if values is not None:
                values.load_state_dict(unflatten_state(parts[name])["values"])
        self._optimizer.load_state_dict(parts["optimizer"])
        self._passes = int(parts["minibatches"]["passes"])

    def copies_state_dict(self) -> State:
        """The critics' recurrent states."""
        return dict(self._critic_states)

    def load_copies_state_dict(self, state: State) -> None:
        """See Saveable."""
        for name in self._critic_states:
            self._critic_states[name] = state[name]


def _read(group: GroupSpec, networks: GroupNetworks, observations: Tensor, config: MAPPOConfig) -> Tensor:
    """Observations as the group's networks take them."""
    if networks.observations is not None:
        observations = networks.observations.normalize(observations)
    return prepare_input(group.observation, observations, normalize=config.layer_norm)


@dataclass(frozen=True, slots=True, kw_only=True)
class MAPPO(Builder[Networks]):
    """Builds MAPPO, or with ``centralized_critic=False`` IPPO."""

    config: MAPPOConfig = MAPPOConfig()

    @property
    def sharing(self) -> Sharing:
        """See Builder."""
        return self.config.sharing

    @property
    def with_state(self) -> bool:
        """See Builder."""
        return self.config.centralized_critic

    def check(self, spec: EnvironmentSpec, placement: Placement) -> None:
        """See Builder."""
        config = self.config
        for field in ("rollout_length", "epochs", "minibatches", "chunk_length"):
            if (value := getattr(config, field)) < 1:
                raise InputError(f"--algorithm.{field.replace('_', '-')} must be at least 1, not {value}")
        for field in ("discount", "gae_lambda"):
            if not 0.0 <= (value := getattr(config, field)) <= 1.0:
                raise InputError(f"--algorithm.{field.replace('_', '-')} lies between 0 and 1, unlike {value}")
        units = -(-config.rollout_length // config.chunk_length) if config.recurrent else config.rollout_length
        if config.minibatches > units * placement.total_envs:
            raise InputError(
                f"{config.minibatches} minibatches cannot be cut from {units} x {placement.total_envs} "
                f"{'chunks' if config.recurrent else 'steps'}; lower --algorithm.minibatches"
            )
        for group in spec.groups:
            if config.normalize_observations and not group.observation.dtype.is_floating_point:
                raise InputError(
                    f"{group.name} observes images of bytes: --algorithm.normalize-observations is not for them"
                )

    def make_networks(self, spec: EnvironmentSpec) -> Networks:
        """See Builder."""
        return {
            group.name: GroupNetworks(
                ActorNetwork(group, self.config),
                CriticNetwork(group, spec.state, self.config),
                ObservationNormalizer(group.observation.shape) if self.config.normalize_observations else None,
            )
            for group in spec.groups
        }

    def make_policies(self, spec: EnvironmentSpec, networks: Networks, *, evaluation: bool) -> dict[str, Policy]:
        """See Builder."""
        return {
            group.name: MAPPOPolicy(group, networks[group.name], self.config, greedy=evaluation)
            for group in spec.groups
        }

    def make_dataset(
        self, spec: EnvironmentSpec, policies: Mapping[str, Policy], placement: Placement
    ) -> TrajectoryDataset:
        """See Builder."""
        return TrajectoryDataset(
            spec,
            length=self.config.rollout_length,
            num_envs=placement.num_envs,
            extras={name: policy.extras for name, policy in policies.items()},
        )

    def make_adder(self, spec: EnvironmentSpec, dataset: Dataset[Any], placement: Placement) -> Adder:
        """See Builder."""
        assert isinstance(dataset, TrajectoryDataset)
        return TrajectoryAdder(dataset)

    def make_learner(
        self, spec: EnvironmentSpec, networks: Networks, dataset: Dataset[Any], placement: Placement
    ) -> MAPPOLearner:
        """See Builder."""
        return MAPPOLearner(spec, networks, dataset, self.config, placement)

    def load_policies(self, networks: Networks, state: State) -> None:
        """See Builder."""
        parts = unflatten_state(state)
        for name, group in networks.items():
            _load_group(group, parts[name])


def _load_group(networks: GroupNetworks, state: State) -> None:
    parts = unflatten_state(state)
    networks.actor.load_state_dict(parts["actor"])
    networks.critic.load_state_dict(parts["critic"])
    if networks.observations is not None:
        networks.observations.load_state_dict(parts["observations"])
