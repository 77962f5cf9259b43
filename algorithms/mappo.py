"""MAPPO and IPPO: proximal policy optimisation with a centralized critic, or with each agent's own.

Yu et al. (2022), "The surprising effectiveness of PPO in cooperative multi-agent games"; de Witt et al. (2020)
for IPPO. ``centralized_critic`` is the whole difference: the critic reads the global state, or what the actor reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from marl.actors import Decision, Policy
from marl.advantages import AdvantageEstimator, Estimates, Inputs
from marl.builders import ConfiguredBuilder, Placement
from marl.checkpoints import flatten_state, unflatten_state
from marl.compilation import TensorFunction, compiled_gradients, compiled_module
from marl.config_checks import require_above, require_at_least, require_share, require_widths
from marl.core import Adder, Dataset, Learner, Metrics, State
from marl.distributions import Distribution, MaskedCategorical, make_distribution, num_outputs, num_uniforms
from marl.errors import InputError
from marl.magnet import Magnet
from marl.minibatches import assign
from marl.networks import Activation, Head, Torso, prepare_input
from marl.normalizers import ObservationNormalizer, ValueNormalizer
from marl.optimizers import ReplicatedAdam
from marl.ppo_loss import FIGURES, PPOLoss, Rollout, TensorLoss
from marl.specs import ArraySpec, ContinuousActions, DiscreteActions, EnvironmentSpec, GroupSpec, Sharing
from marl.streams import Stream
from marl.trajectories import TrajectoryAdder, TrajectoryDataset
from marl.types import GroupStep, Trajectory


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
    magnet_updates: int | None = None
    """The entropy bonus pulls towards the uniform policy; with this, towards the policy as it was a while ago, anew
    after so many updates at the full step size. Self-play then settles at an equilibrium (see ``marl.magnet``)."""
    magnet_uniform_share: float = 0.0
    """Share of the uniform policy in that policy, so that no action is given up for good."""
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
    convolutions: bool = True
    """Read images with convolutions. Of a small board plain layers learn about as much, and several times faster."""
    bfloat16: bool = False
    """Multiply matrices between hidden layers in bfloat16, faster on processors that have it, where layers are wide."""
    recurrent: bool = False
    """Add a GRU to actors and critics."""
    chunk_length: int = 10
    """Steps over which gradients flow back through a GRU."""


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
        convolve=config.convolutions,
        bfloat16=config.bfloat16,
    )


def _prepared(config: MAPPOConfig, spec: ArraySpec, raw: Tensor) -> Tensor:
    return prepare_input(spec, raw, normalize=config.layer_norm, convolve=config.convolutions)


@dataclass(slots=True)
class GroupNetworks:
    """What one group acts and learns with."""

    actor: ActorNetwork
    critic: CriticNetwork
    observations: ObservationNormalizer | None


Networks = dict[str, GroupNetworks]


class Sampling(nn.Module):
    """What a feed-forward policy does in a step: actions and their log-probabilities."""

    def __init__(self, group: GroupSpec, actor: ActorNetwork, config: MAPPOConfig) -> None:
        super().__init__()
        self.actor = actor
        self._spec = group.observation
        self._config = config

    def forward(self, observations: Tensor, uniforms: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(E, A, *) observations, uniform numbers and masks to actions and log-probabilities."""
        prepared = _prepared(self._config, self._spec, observations)
        distribution = self.actor.distribution(self.actor.torso.features([prepared]), masks)
        actions = distribution.sample(uniforms)
        return actions, distribution.log_prob(actions)


class MAPPOPolicy(Policy):
    """Samples from the actor network's distribution, or takes its mode."""

    def __init__(
        self,
        group: GroupSpec,
        networks: GroupNetworks,
        config: MAPPOConfig,
        *,
        greedy: bool,
        compile: bool = False,
    ) -> None:
        self._networks = networks
        self._config = config
        self._group = group
        self.num_uniforms = 0 if greedy else num_uniforms(group.action)
        self.extras = {}
        if not greedy:
            self.extras = {"log_probs": ArraySpec(shape=())}
            if networks.actor.torso.gru is not None:
                self.extras["states"] = ArraySpec(shape=(networks.actor.torso.size,))
        self._sample: TensorFunction | None = None
        if compile and not greedy:
            self._sample = compiled_module(Sampling(group, networks.actor, config), threads=1)

    def initial_state(self, num_envs: int) -> Tensor | None:
        """See Policy."""
        torso = self._networks.actor.torso
        return None if torso.gru is None else torso.initial_state(num_envs, self._group.size)

    def act(self, step: GroupStep, first: Tensor, state: Tensor | None, uniforms: Tensor | None) -> Decision:
        """See Policy."""
        if self._sample is not None and uniforms is not None:
            seen = _normalized(self._networks, step.observations)
            masks = () if step.action_masks is None else (step.action_masks,)
            actions, log_probs = self._sample(seen, uniforms, *masks)
            return Decision(actions=actions, extras={"log_probs": log_probs}, state=None)
        before = state
        distribution, state = self._distribution(step, first, state)
        if uniforms is None:
            return Decision(actions=distribution.mode(), extras={}, state=state)
        actions = distribution.sample(uniforms)
        extras = {"log_probs": distribution.log_prob(actions)}
        if before is not None:
            extras["states"] = before
        return Decision(actions=actions, extras=extras, state=state)

    def probabilities(
        self, step: GroupStep, first: Tensor, state: Tensor | None, num_actions: int
    ) -> tuple[Tensor, Tensor | None]:
        """See Policy."""
        if not self.num_uniforms:
            return super().probabilities(step, first, state, num_actions)
        distribution, state = self._distribution(step, first, state)
        assert isinstance(distribution, MaskedCategorical)
        return distribution.probs, state

    def _distribution(self, step: GroupStep, first: Tensor, state: Tensor | None) -> tuple[Distribution, Tensor | None]:
        actor = self._networks.actor
        features = actor.torso.features([_read(self._group, self._networks, step.observations, self._config)])
        if state is not None:
            state = features = actor.torso.step(features, state, first.unsqueeze(-1).expand(state.shape[:-1]))
        return actor.distribution(features, step.action_masks), state


class MAPPOLearner(Learner):
    """Learns from each rollout in several passes, then throws it away."""

    def __init__(
        self,
        spec: EnvironmentSpec,
        networks: Networks,
        dataset: Dataset[Trajectory],
        config: MAPPOConfig,
        placement: Placement,
        *,
        compile: bool = False,
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
            bookkeeping=len(networks) * len(FIGURES),
        )
        self._values: dict[str, ValueNormalizer | None] = {}
        for name, group in networks.items():
            layers = [group.critic.head.linear] if config.value_normalization == "popart" else []
            self._values[name] = None
            if config.value_normalization != "none":
                self._values[name] = ValueNormalizer(output_layers=layers, device=placement.device)
        self._estimator = AdvantageEstimator(
            spec,
            {name: group.critic for name, group in networks.items()},
            self._values,
            communicator=placement.communicator,
            num_envs=placement.num_envs,
            discount=config.discount,
            lambda_=config.gae_lambda,
            team_reward=config.team_reward,
        )
        self._losses = {
            name: PPOLoss(
                group.actor,
                group.critic,
                clip=config.clip,
                clip_value=config.clip_value,
                huber_delta=config.huber_delta,
                value_coefficient=config.value_coefficient,
                entropy=config.entropy,
                sparse=spec.turn_based and not config.recurrent,
            )
            for name, group in networks.items()
        }
        self._magnet: Magnet | None = None
        if config.magnet_updates is not None:
            self._magnet = Magnet(
                {name: group.actor for name, group in networks.items()},
                config.magnet_updates,
                uniform_share=config.magnet_uniform_share,
            )
        self._compile = compile and not spec.turn_based
        self._compiled: dict[str, Callable[..., Sequence[Tensor]]] = {}
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
        inputs = self._read(trajectory)
        estimates = self._estimator.estimate(trajectory, inputs)
        if self._magnet is not None:
            self._magnet.advance(self._optimizer.learning_rate / config.learning_rate if config.learning_rate else 1.0)
        rollouts = {name: self._rollout(name, trajectory, inputs, estimates[name]) for name in self._networks}
        sums = torch.zeros_like(self._optimizer.tail, dtype=torch.float64)
        norms: list[float] = []
        for _ in range(config.epochs):
            for units in self._cut(trajectory):
                self._optimizer.zero()
                for index, name in enumerate(self._networks):
                    figures = self._optimizer.tail[index * len(FIGURES) : (index + 1) * len(FIGURES)]
                    self._add_gradients(name, rollouts[name], trajectory, units, figures)
                self._optimizer.reduce()
                figures = self._optimizer.tail.view(len(self._networks), len(FIGURES))
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
        self._update_observation_moments(trajectory)
        return self._metrics(sums, norms)

    def _read(self, trajectory: Trajectory) -> Inputs:
        """The rollout as networks take it: once for all passes."""
        state, final_state = trajectory.state, trajectory.finals.state
        if self._spec.state is not None and state is not None and final_state is not None:
            state = _prepared(self._config, self._spec.state, state)
            final_state = _prepared(self._config, self._spec.state, final_state)
        seen: dict[str, Tensor] = {}
        last: dict[str, Tensor] = {}
        for group in self._spec.groups:
            networks, finals = self._networks[group.name], trajectory.finals.groups[group.name]
            seen[group.name] = _read(group, networks, trajectory.groups[group.name].observations, self._config)
            last[group.name] = _read(group, networks, finals.observations, self._config)
        return Inputs(observations=seen, final_observations=last, state=state, final_state=final_state)

    def _cut(self, trajectory: Trajectory) -> list[Tensor | None]:
        """The next pass's minibatches: flat indices of (unit, copy), or None for everything at once."""
        config, placement = self._config, self._placement
        length = config.chunk_length if config.recurrent else 1
        self._passes += 1
        if config.minibatches == 1:
            everything = -(-trajectory.length // length) * trajectory.num_envs
            return [torch.arange(everything, device=placement.device) if config.recurrent else None]
        numbers = assign(
            self._shuffle,
            self._passes,
            units=-(-trajectory.length // length),
            first_copy=placement.first_copy,
            num_envs=placement.num_envs,
            minibatches=config.minibatches,
        ).flatten()
        # Cut on the host, where finding positions waits for nothing.
        cuts = [(numbers == number).nonzero().squeeze(-1) for number in range(config.minibatches)]
        return [cut.to(placement.device) for cut in cuts]

    def _rollout(self, name: str, trajectory: Trajectory, inputs: Inputs, estimates: Estimates) -> Rollout:
        data, recurrent = trajectory.groups[name], self._config.recurrent

        def rows(x: Tensor) -> Tensor:
            return x[: trajectory.length].flatten(0, 1)

        observations, weights = rows(inputs.observations[name]), rows(estimates.weights)
        masks = None if data.action_masks is None else rows(data.action_masks)
        return Rollout(
            observations=observations,
            actions=rows(data.actions),
            log_probs=rows(data.extras["log_probs"]),
            advantages=rows(estimates.advantages),
            old_values=rows(estimates.old_values),
            targets=rows(estimates.targets),
            weights=weights,
            value_weights=rows(estimates.value_weights),
            magnet=None if self._magnet is None else self._magnet.log_probs(name, observations, masks, weights > 0),
            masks=masks,
            state=None if inputs.state is None else rows(inputs.state),
            first=rows(trajectory.first) if recurrent else None,
            actor_states=rows(data.extras["states"]) if recurrent else None,
            critic_states=None if estimates.critic_states is None else rows(estimates.critic_states),
        )

    def _add_gradients(
        self, name: str, rollout: Rollout, trajectory: Trajectory, units: Tensor | None, figures: Tensor
    ) -> None:
        """Adds the gradient of the loss, summed over a minibatch's samples, and the sums of its figures."""
        everything, config = trajectory.length * trajectory.num_envs, self._config
        agents = rollout.weights.shape[1]
        if self._compile:
            add = self._compiled.get(name)
            if add is None:
                add = self._compiled[name] = compiled_gradients(TensorLoss(self._losses[name], rollout))
            fields = [field for field in rollout if field is not None]
            units = torch.arange(everything, device=figures.device) if units is None else units
            # One shape for all parts of all minibatches, the last part filled up.
            largest = -(-everything // config.minibatches)
            size = -(-largest // max(1, -(-largest * agents // _MICROBATCH)))
            for part in units.split(size):
                inside = torch.arange(size, device=part.device) < part.numel()
                figures += add(pad(part, (0, size - part.numel())), inside, *fields)[0]
            return
        length = config.chunk_length if config.recurrent else 1
        size = max(1, _MICROBATCH // (length * agents))
        for start in range(0, everything if units is None else units.numel(), size):
            # Small enough for the processor's cache. Slices are views, indices are gathered.
            rows: Tensor | slice
            rows, inside = slice(start, min(start + size, everything)), None
            if units is not None:
                rows = units[start : start + size]
                if config.recurrent:
                    rows, inside = self._sequences(rows, trajectory)
            loss, sums = self._losses[name](rollout, rows, inside)
            loss.backward()
            figures += sums

    def _sequences(self, chunks: Tensor, trajectory: Trajectory) -> tuple[Tensor, Tensor]:
        """Rows (L, B) of chunks (B,), and which of them exist: the last chunk may reach over the end."""
        length = self._config.chunk_length
        # Unit u is chunk u // E of copy u % E.
        times = torch.arange(length, device=chunks.device).unsqueeze(1) + chunks // trajectory.num_envs * length
        rows = times.clamp(max=trajectory.length - 1) * trajectory.num_envs + chunks % trajectory.num_envs
        return rows, times < trajectory.length

    def _update_observation_moments(self, trajectory: Trajectory) -> None:
        """After the update, so that a rollout is learned from as it was seen."""
        for name, group in self._networks.items():
            if group.observations is not None:
                data = trajectory.groups[name]
                moments = group.observations.batch_moments(data.observations[:-1], data.active[:-1])
                self._communicator.all_reduce(moments)
                group.observations.update(moments)

    def _metrics(self, sums: Tensor, norms: Sequence[float]) -> Metrics:
        metrics: dict[str, float] = {}
        for name, row in zip(self._networks, sums.view(len(self._networks), -1).tolist(), strict=True):
            samples, *values, value_samples = row
            for figure, value in zip(FIGURES[1:-1], values, strict=True):
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
        if self._magnet is not None:
            own["magnet"] = self._magnet.state_dict()
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
        if self._magnet is not None:
            self._magnet.load_state_dict(parts["magnet"])

    def copies_state_dict(self) -> State:
        """The critics' recurrent states."""
        return self._estimator.copies_state_dict()

    def load_copies_state_dict(self, state: State) -> None:
        """See Saveable."""
        self._estimator.load_copies_state_dict(state)


def _normalized(networks: GroupNetworks, observations: Tensor) -> Tensor:
    return observations if networks.observations is None else networks.observations.normalize(observations)


def _read(group: GroupSpec, networks: GroupNetworks, observations: Tensor, config: MAPPOConfig) -> Tensor:
    """Observations as the group's networks take them."""
    return _prepared(config, group.observation, _normalized(networks, observations))


@dataclass(frozen=True, slots=True, kw_only=True)
class MAPPO(ConfiguredBuilder[Networks]):
    """Builds MAPPO, or with ``centralized_critic=False`` IPPO."""

    config: MAPPOConfig = MAPPOConfig()
    compile: bool = False
    """Whether acting and updates run as kernels of torch's compiler; numbers agree up to rounding."""

    def compiled(self) -> MAPPO | None:
        """See Builder; recurrent networks stay as they are."""
        return None if self.config.recurrent else replace(self, compile=True)

    def check(self, spec: EnvironmentSpec, placement: Placement) -> None:
        """See Builder."""
        config = self.config
        require_at_least(1, config, "rollout_length", "epochs", "minibatches", "chunk_length", "magnet_updates")
        require_at_least(0, config, "learning_rate", "entropy", "value_coefficient")
        require_above(0, config, "adam_epsilon", "clip", "max_gradient_norm", "huber_delta")
        require_share(config, "discount", "gae_lambda", "magnet_uniform_share")
        require_widths(config, "hidden_sizes")
        units = -(-config.rollout_length // config.chunk_length) if config.recurrent else config.rollout_length
        if config.minibatches > units * placement.total_envs:
            raise InputError(
                f"{config.minibatches} minibatches cannot be cut from {units} x {placement.total_envs} "
                f"{'chunks' if config.recurrent else 'steps'}; lower --algorithm.minibatches"
            )
        for group in spec.groups:
            if config.magnet_updates is not None and (
                config.recurrent or not isinstance(group.action, DiscreteActions)
            ):
                raise InputError(
                    "--algorithm.magnet-updates is for networks without memory that choose one action out of several"
                )
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
            group.name: MAPPOPolicy(group, networks[group.name], self.config, greedy=evaluation, compile=self.compile)
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
            device=placement.device,
        )

    def make_adder(self, spec: EnvironmentSpec, dataset: Dataset[Any], placement: Placement) -> Adder:
        """See Builder."""
        assert isinstance(dataset, TrajectoryDataset)
        return TrajectoryAdder(dataset)

    def make_learner(
        self, spec: EnvironmentSpec, networks: Networks, dataset: Dataset[Any], placement: Placement
    ) -> MAPPOLearner:
        """See Builder."""
        return MAPPOLearner(spec, networks, dataset, self.config, placement, compile=self.compile)

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
