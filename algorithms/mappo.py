"""MAPPO and IPPO: proximal policy optimisation with a centralized critic, or with each agent's own.

Yu et al. (2022), "The surprising effectiveness of PPO in cooperative multi-agent games"; de Witt et al. (2020)
for IPPO. ``centralized_critic`` is the whole difference: the critic reads the global state, or what the actor reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from marl.adders.trajectories import TrajectoryAdder, TrajectoryDataset
from marl.algorithms.on_policy.advantages import AdvantageEstimator, Estimates, Inputs
from marl.algorithms.on_policy.losses import FIGURES, PPOLoss, Rollout
from marl.algorithms.on_policy.magnet import Magnet
from marl.algorithms.on_policy.networks import ActorNetwork, CriticNetwork, GroupNetworks
from marl.algorithms.on_policy.passes import RolloutPasses
from marl.algorithms.on_policy.policy import PPOPolicy
from marl.builders import ConfiguredBuilder, RunContext
from marl.checkpoints.state import flatten_state, unflatten_state
from marl.core import Adder, Dataset, Learner, Metrics, State
from marl.errors import InputError
from marl.learning.config_checks import require_above, require_at_least, require_unit_interval, require_widths
from marl.learning.optimizers import ReplicatedAdam
from marl.networks.normalizers import ObservationNormalizer, ValueNormalizer
from marl.networks.torso import Activation, Torso, prepare_input
from marl.policy import Policy
from marl.specs import ArraySpec, DiscreteActions, EnvironmentSpec, Sharing
from marl.types import Trajectory


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
    clip_epsilon: float = 0.2
    """How far the probability ratio, and a clipped value, may move."""
    clip_value: bool = True
    """Whether the value loss is clipped too."""
    huber_delta: float | None = 10.0
    """Where the value loss turns from quadratic to linear, in normalised units; None for quadratic."""
    value_coefficient: float = 1.0
    """Weight of the value loss."""
    entropy_coef: float = 0.01
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

    def make_torso(self, inputs: Sequence[ArraySpec], num_agents: int) -> Torso:
        """The hidden layers of an actor or a critic."""
        return Torso(
            inputs,
            num_agents=num_agents,
            hidden_sizes=self.hidden_sizes,
            activation=self.activation,
            layer_norm=self.layer_norm,
            recurrent=self.recurrent,
            convolve=self.convolutions,
            bfloat16=self.bfloat16,
        )

    def prepare(self, spec: ArraySpec, raw: Tensor) -> Tensor:
        """What these layers read of (..., *shape) raw inputs."""
        return prepare_input(spec, raw, normalize=self.layer_norm, convolve=self.convolutions)


Networks = dict[str, GroupNetworks]


class MAPPOLearner(Learner):
    """Learns from each rollout in several passes, then throws it away."""

    def __init__(
        self,
        spec: EnvironmentSpec,
        networks: Networks,
        dataset: Dataset[Trajectory],
        config: MAPPOConfig,
        context: RunContext,
        *,
        compile: bool = False,
    ) -> None:
        self._spec = spec
        self._networks = networks
        self._dataset = dataset
        self._config = config
        self._context = context
        segments: dict[str, Sequence[nn.Parameter]] = {}
        for name, group in networks.items():
            segments[f"{name}.actor"] = list(group.actor.parameters())
            segments[f"{name}.critic"] = list(group.critic.parameters())
        self._optimizer = ReplicatedAdam(
            segments,
            context.communicator,
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
                self._values[name] = ValueNormalizer(output_layers=layers, device=context.device)
        self._estimator = AdvantageEstimator(
            spec,
            {name: group.critic for name, group in networks.items()},
            self._values,
            communicator=context.communicator,
            num_envs=context.num_envs,
            discount=config.discount,
            lambda_=config.gae_lambda,
            team_reward=config.team_reward,
        )
        losses = {
            name: PPOLoss(
                group.actor,
                group.critic,
                clip_epsilon=config.clip_epsilon,
                clip_value=config.clip_value,
                huber_delta=config.huber_delta,
                value_coefficient=config.value_coefficient,
                entropy_coef=config.entropy_coef,
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
        self._passes = RolloutPasses(
            losses,
            context,
            minibatches=config.minibatches,
            chunk_length=config.chunk_length if config.recurrent else None,
            compile=compile and not spec.turn_based,
        )

    def step(self) -> Metrics:
        """One update: advantages, then ``epochs`` passes of ``minibatches`` gradient steps."""
        trajectory = self._dataset.sample()
        config = self._config
        if config.anneal_learning_rate:
            # Zero at the first update, so that the last one still moves.
            before = self._context.counter.env_steps - config.rollout_length * self._context.total_envs
            progress = min(1.0, max(0.0, before / self._context.total_steps))
            self._optimizer.set_learning_rate(config.learning_rate * (1.0 - progress))
        inputs = self._read(trajectory)
        estimates = self._estimator.estimate(trajectory, inputs)
        if self._magnet is not None:
            self._magnet.advance(self._optimizer.learning_rate / config.learning_rate if config.learning_rate else 1.0)
        rollouts = {name: self._rollout(name, trajectory, inputs, estimates[name]) for name in self._networks}
        sums = torch.zeros_like(self._optimizer.tail, dtype=torch.float64)
        norms: list[float] = []
        for units in self._passes.cut(trajectory.length, config.epochs):
            self._optimizer.zero()
            figures = self._optimizer.tail.view(len(self._networks), len(FIGURES))
            for name, row in zip(self._networks, figures, strict=True):
                self._passes.add_gradients(name, rollouts[name], units, row)
            self._optimizer.reduce()
            # A group without samples has moved nowhere.
            divergence = figures[:, 4] / figures[:, 0].clamp(min=1.0)
            if config.target_kl is not None and float(divergence.max()) > config.target_kl:
                break
            sums += self._optimizer.tail
            counts: dict[str, float] = {}
            for name, row in zip(self._networks, figures.tolist(), strict=True):
                counts |= {f"{name}.actor": row[0], f"{name}.critic": row[-1]}
            norms.append(self._optimizer.step(counts))
        self._update_observation_moments(trajectory)
        return self._metrics(sums, norms)

    def _read(self, trajectory: Trajectory) -> Inputs:
        """The rollout as networks take it: once for all passes."""
        state, final_state = trajectory.state, trajectory.finals.state
        if self._spec.state is not None and state is not None and final_state is not None:
            state = self._config.prepare(self._spec.state, state)
            final_state = self._config.prepare(self._spec.state, final_state)
        seen = {name: group.read(trajectory.groups[name].observations) for name, group in self._networks.items()}
        finals = trajectory.finals.groups
        last = {name: group.read(finals[name].observations) for name, group in self._networks.items()}
        return Inputs(observations=seen, final_observations=last, state=state, final_state=final_state)

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

    def _update_observation_moments(self, trajectory: Trajectory) -> None:
        """After the update, so that a rollout is learned from as it was seen."""
        for name, group in self._networks.items():
            if group.normalizer is not None:
                data = trajectory.groups[name]
                moments = group.normalizer.batch_moments(data.observations[:-1], data.active[:-1])
                self._context.communicator.all_reduce(moments)
                group.normalizer.update(moments)

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
        values = self._values[name]
        return {**self._networks[name].state_dict(), **({} if values is None else {"values": values.state_dict()})}

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
        """See Saveable."""
        parts = unflatten_state(state)
        for name, values in self._values.items():
            self._networks[name].load_state_dict(parts[name])
            if values is not None:
                values.load_state_dict(unflatten_state(parts[name])["values"])
        self._optimizer.load_state_dict(parts["optimizer"])
        self._passes.load_state_dict(parts["minibatches"])
        if self._magnet is not None:
            self._magnet.load_state_dict(parts["magnet"])

    def env_state_dict(self) -> State:
        """The critics' recurrent states."""
        return self._estimator.env_state_dict()

    def load_env_state_dict(self, state: State) -> None:
        """See Saveable."""
        self._estimator.load_env_state_dict(state)


@dataclass(frozen=True, kw_only=True)
class MAPPO(ConfiguredBuilder[Networks]):
    """Builds MAPPO, or with ``centralized_critic=False`` IPPO."""

    config: MAPPOConfig = MAPPOConfig()
    compile: bool = False
    """Whether acting and updates run as kernels of torch's compiler; numbers agree up to rounding."""

    @property
    def on_policy(self) -> bool:
        """See Builder."""
        return True

    def compiled(self) -> MAPPO | None:
        """See Builder; recurrent networks stay as they are."""
        return None if self.config.recurrent else replace(self, compile=True)

    def check(self, spec: EnvironmentSpec, context: RunContext) -> None:
        """See Builder."""
        config = self.config
        require_at_least(1, config, "rollout_length", "epochs", "minibatches", "chunk_length", "magnet_updates")
        require_at_least(0, config, "learning_rate", "entropy_coef", "value_coefficient")
        require_above(0, config, "adam_epsilon", "clip_epsilon", "max_gradient_norm", "huber_delta")
        require_unit_interval(config, "discount", "gae_lambda", "magnet_uniform_share")
        require_widths(config, "hidden_sizes")
        units = -(-config.rollout_length // config.chunk_length) if config.recurrent else config.rollout_length
        if config.minibatches > units * context.total_envs:
            raise InputError(
                f"{config.minibatches} minibatches cannot be cut from {units} x {context.total_envs} "
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
        config = self.config
        return {
            group.name: GroupNetworks(
                spec=group.observation,
                actor=ActorNetwork(group, config.make_torso),
                critic=CriticNetwork(
                    group,
                    spec.state if config.centralized_critic else None,
                    config.make_torso,
                    reads_observations=not config.centralized_critic or config.agent_features,
                ),
                normalizer=ObservationNormalizer(group.observation.shape) if config.normalize_observations else None,
                prepare=config.prepare,
            )
            for group in spec.groups
        }

    def make_policies(
        self, spec: EnvironmentSpec, networks: Networks, *, evaluation: bool, context: RunContext | None = None
    ) -> dict[str, Policy]:
        """See Builder."""
        return {
            group.name: PPOPolicy(group, networks[group.name], greedy=evaluation, compile=self.compile)
            for group in spec.groups
        }

    def make_dataset(
        self, spec: EnvironmentSpec, policies: Mapping[str, Policy], context: RunContext
    ) -> TrajectoryDataset:
        """See Builder."""
        return TrajectoryDataset(
            spec,
            length=self.config.rollout_length,
            num_envs=context.num_envs,
            extras={name: policy.extras for name, policy in policies.items()},
            device=context.device,
        )

    def make_adder(self, spec: EnvironmentSpec, dataset: Dataset[Any], context: RunContext) -> Adder:
        """See Builder."""
        assert isinstance(dataset, TrajectoryDataset)
        return TrajectoryAdder(dataset)

    def make_learner(
        self, spec: EnvironmentSpec, networks: Networks, dataset: Dataset[Any], context: RunContext
    ) -> MAPPOLearner:
        """See Builder."""
        return MAPPOLearner(spec, networks, dataset, self.config, context, compile=self.compile)

    def load_policies(self, networks: Networks, state: State) -> None:
        """See Builder."""
        parts = unflatten_state(state)
        for name, group in networks.items():
            group.load_state_dict(parts[name])
