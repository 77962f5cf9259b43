"""Learner of off-policy actor-critics.

Critics learn from joint replay by temporal differences, actors from their critics, and target networks follow. An
algorithm adds how its actors act, how its critics bootstrap, and how its actors are improved.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from marl.algorithms.actor_critic.batches import GroupBatch, JointActions, JointBatch, prepare_batch
from marl.algorithms.actor_critic.config import ActorCriticConfig
from marl.algorithms.actor_critic.losses import CRITIC_METRICS, critic_losses
from marl.algorithms.actor_critic.networks import ActorNetwork, Networks, load_policy
from marl.algorithms.actor_critic.noise import UpdateNoise
from marl.algorithms.off_policy.gradient_steps import GradientStep, Losses, LossFunction, Noise, sum_losses
from marl.algorithms.off_policy.target_networks import TargetNetworks
from marl.builders import RunContext
from marl.core import Learner, Metrics, State
from marl.learning.absent_agents import without_absent
from marl.random_streams import Stream
from marl.replay import TransitionDataset
from marl.specs import EnvironmentSpec, GroupSpec
from marl.states import flatten_state, unflatten_state

PolicyT = TypeVar("PolicyT")
"""Results of a policy that an algorithm's losses need besides actions: raw outputs, or a distribution."""
Purpose = Literal["next", "current"]
_PURPOSES: Final[tuple[Purpose, ...]] = ("next", "current")


class ActorCriticLearner(Learner, ABC, Generic[PolicyT]):
    """Samples joint transitions and improves the critics, then the actors; then the targets follow.

    Random numbers of an update belong to positions in the global batch, so they do not depend on ranks.

    Args:
        spec: the environment's.
        networks: to be improved, in place.
        dataset: of joint transitions.
        config: settings.
        context: where this process stands.
        compile: whether losses and gradients run as kernels of torch's compiler; numbers agree up to rounding.
    """

    target_actors = False
    """Whether the targets' actions come from target actors."""
    actor_metrics: tuple[str, ...] = ("samples", "actor_loss")

    def __init__(
        self,
        spec: EnvironmentSpec,
        networks: Networks,
        dataset: TransitionDataset,
        config: ActorCriticConfig,
        context: RunContext,
        *,
        compile: bool = False,
    ) -> None:
        self._spec = spec
        self._networks = networks
        self._dataset = dataset
        self._config = config
        self._context = context
        self._compile = compile
        self._joint = JointActions(spec, context.device)
        self._target_critics = {name: copy.deepcopy(group.critics) for name, group in networks.items()}
        self._target_actors: dict[str, ActorNetwork] = {}
        if self.target_actors:
            self._target_actors = {name: copy.deepcopy(group.actor) for name, group in networks.items()}
        critics = {name: {"critics": list(group.critics.parameters())} for name, group in networks.items()}
        actors = {name: {"actor": list(group.actor.parameters())} for name, group in networks.items()}
        for name, group in networks.items():
            if group.temperature is not None:
                actors[name]["temperature"] = [group.temperature.log]
        self._critic_step = self._make_step(critics, CRITIC_METRICS, self._critic_losses, config.critic_learning_rate)
        self._actor_step = self._make_step(actors, self.actor_metrics, self._actor_losses, config.actor_learning_rate)
        self._target_networks = [_target_networks(self._target_critics, self._critic_step)]
        if self.target_actors:
            self._target_networks.append(_target_networks(self._target_actors, self._actor_step))
        self._noise = {
            purpose: UpdateNoise(
                Stream(context.seed, f"{purpose} noise", num_envs=config.replay.batch_size, device=context.device),
                {group.name: (group.size, self.noise_size(group, purpose)) for group in spec.groups},
            )
            for purpose in _PURPOSES
        }
        self._updates = 0
        self._metrics: dict[str, float] = {}

    def _make_step(
        self,
        segments: Mapping[str, Mapping[str, Sequence[nn.Parameter]]],
        metrics: Sequence[str],
        losses: LossFunction[JointBatch],
        learning_rate: float,
    ) -> GradientStep[Any]:
        config = self._config

        def sample_losses(sample: Any, noise: Noise) -> Losses:
            return losses(prepare_batch(self._spec, sample, config), noise)

        return GradientStep(
            segments,
            metrics,
            sample_losses if self._compile else losses,  # in plain updates one prepared batch serves both steps
            self._all_networks(),
            self._context.communicator,
            learning_rate=learning_rate,
            epsilon=config.adam_epsilon,
            max_gradient_norm=config.max_gradient_norm,
            max_skipped_steps=config.max_skipped_steps,
            compiled_batch_size=config.replay.batch_size if self._compile else None,
        )

    # --- hooks of algorithms --------------------------------------------------------------------------------

    @property
    def actor_period(self) -> int:
        """Updates of critics to one of actors and targets."""
        return 1

    @abstractmethod
    def noise_size(self, group: GroupSpec, purpose: Purpose) -> int:
        """Number of uniform random numbers that one agent of a group needs for its next action, or its current one."""

    @abstractmethod
    def exploration_scale(self) -> float:
        """Factor of the noise of acting, now."""

    @abstractmethod
    def act(
        self, name: str, actor: ActorNetwork, observations: Tensor, masks: Tensor | None, noise: Tensor
    ) -> tuple[Tensor, PolicyT]:
        """Selects actions by a group's actor or target actor.

        Returns:
            (B, A, features) differentiable actions, and whatever losses need of the policy.
        """

    def next_actions(self, name: str, data: GroupBatch, noise: Tensor) -> tuple[Tensor, PolicyT]:
        """Selects a group's actions at the next step, by its target actor where there is one. Without gradients."""
        actor = self._target_actors[name] if self.target_actors else self._networks[name].actor
        return self.act(name, actor, data.next_observations, data.next_masks, noise)

    def next_values(self, name: str, data: GroupBatch, values: Tensor, policy: PolicyT) -> Tensor:
        """(B, A) a group's values at the next step, the least of its target critics' (C, B, A[, K]) values."""
        return values.amin(0)

    @abstractmethod
    def actor_loss(
        self, name: str, batch: JointBatch, actions: Tensor, others: Tensor, policy: PolicyT
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Computes the sum of one group's losses, and sums of its metrics without ``samples``."""

    # --- Learner ----------------------------------------------------------------------------------------------

    def step(self) -> Metrics:
        """Updates the critics, and every ``actor_period`` updates the actors and the targets."""
        sample = self._dataset.sample()
        config = self._config
        batch = sample if self._compile else prepare_batch(self._spec, sample, config)
        metrics, td_errors = self._critic_step(batch, self._noise["next"](self._updates, sample.positions))
        if config.replay.priorities is not None:
            self._dataset.update_priorities(sample.indices, td_errors)
        metrics["critic_gradient_norm"] = metrics.pop("gradient_norm")
        self._updates += 1
        if self._updates % self.actor_period == 0:
            # Kept, since a row of metrics need not fall on an update of the actors.
            self._metrics, _ = self._actor_step(batch, self._noise["current"](self._updates, sample.positions))
            self._metrics["actor_gradient_norm"] = self._metrics.pop("gradient_norm")
            for targets in self._target_networks:
                targets.update(config.tau)
        scale = self.exploration_scale()
        for group in self._networks.values():
            group.exploration.set(scale)
        skipped = self._critic_step.optimizer.skipped + self._actor_step.optimizer.skipped
        return {**metrics, **self._metrics, "skipped_steps": skipped}

    def _critic_losses(self, batch: JointBatch, noise: Noise) -> Losses:
        with torch.no_grad():
            next_values = self._bootstrap(batch, noise)
            joint = self._joint.join({name: data.actions for name, data in batch.groups.items()})
        values: dict[str, Tensor] = {}
        for name, data in batch.groups.items():
            others = self._joint.others(name, joint)
            critics = self._networks[name].critics
            values[name] = critics.taken_values(data.observations, data.actions, batch.state, others)
        return critic_losses(batch, values, next_values)

    def _bootstrap(self, batch: JointBatch, noise: Noise) -> dict[str, Tensor]:
        """(B, A) values at the next step by group, of all agents' actions there."""
        actions: dict[str, Tensor] = {}
        policies: dict[str, PolicyT] = {}
        for name, data in batch.groups.items():
            actions[name], policies[name] = self.next_actions(name, data, noise[name])
        joint = self._joint.join(
            {name: without_absent(actions[name], data.next_active) for name, data in batch.groups.items()}
        )
        next_values: dict[str, Tensor] = {}
        for name, data in batch.groups.items():
            others = self._joint.others(name, joint)
            own = without_absent(actions[name], data.next_present)
            values = self._target_critics[name](data.next_observations, own, batch.next_state, others)
            next_values[name] = self.next_values(name, data, values, policies[name])
        return next_values

    def _actor_losses(self, batch: JointBatch, noise: Noise) -> Losses:
        actions: dict[str, Tensor] = {}
        policies: dict[str, PolicyT] = {}
        for name, data in batch.groups.items():
            actor = self._networks[name].actor
            actions[name], policies[name] = self.act(name, actor, data.observations, data.masks, noise[name])
        with torch.no_grad():
            others_actions = {name: data.actions for name, data in batch.groups.items()}
            if self._config.resample_other_actions:
                others_actions = {
                    name: without_absent(actions[name].detach(), data.actor_weights > 0)
                    for name, data in batch.groups.items()
                }
            joint = self._joint.join(others_actions)
        losses: list[Losses] = []
        for name, data in batch.groups.items():
            loss, sums = self.actor_loss(name, batch, actions[name], self._joint.others(name, joint), policies[name])
            samples = (data.actor_weights > 0).to(loss.dtype).sum()
            metrics = torch.stack([samples, loss.detach(), *sums])
            losses.append(Losses(total=loss, metrics=metrics, td_errors=batch.weights[:0]))
        return sum_losses(losses)

    def _all_networks(self) -> list[nn.Module]:
        networks: list[nn.Module] = [*self._target_critics.values(), *self._target_actors.values()]
        for group in self._networks.values():
            networks += [group.actor, group.critics]
            if group.temperature is not None:
                networks.append(group.temperature)
        return networks

    def get_variables(self) -> State:
        parts: dict[str, dict[str, State]] = {}
        for name, group in self._networks.items():
            parts[name] = {
                "actor": group.actor.state_dict(),
                "critics": group.critics.state_dict(),
                "exploration": group.exploration.state_dict(),
            }
            if group.temperature is not None:
                parts[name]["temperature"] = group.temperature.state_dict()
        return flatten_state(parts)

    def state_dict(self) -> State:
        own: dict[str, Any] = {
            "_target_critics": _states(self._target_critics.items()),
            "_target_actors": _states(self._target_actors.items()),
            "_optimizers": {
                "critics": self._critic_step.optimizer.state_dict(),
                "actors": self._actor_step.optimizer.state_dict(),
            },
            "_progress": {"updates": torch.tensor(self._updates)},  # random numbers follow from it
            "_figures": {name: torch.tensor(value, dtype=torch.float64) for name, value in self._metrics.items()},
        }
        return {**self.get_variables(), **flatten_state(own)}

    def load_state_dict(self, state: State) -> None:
        parts = unflatten_state(state)
        for name, group in self._networks.items():
            saved = unflatten_state(parts[name])
            load_policy(group, parts[name])
            group.critics.load_state_dict(saved["critics"])
            if group.temperature is not None:
                group.temperature.load_state_dict(saved["temperature"])
        critics, actors = (unflatten_state(parts.get(f"_target_{kind}", {})) for kind in ("critics", "actors"))
        for name, target in self._target_critics.items():
            target.load_state_dict(critics[name])
        for name, actor in self._target_actors.items():
            actor.load_state_dict(actors[name])
        optimizers = unflatten_state(parts["_optimizers"])
        self._critic_step.optimizer.load_state_dict(optimizers["critics"])
        self._actor_step.optimizer.load_state_dict(optimizers["actors"])
        self._updates = int(parts["_progress"]["updates"])
        # Files keep no order, and ranks must agree on one.
        self._metrics = {name: float(value) for name, value in sorted(parts.get("_figures", {}).items())}


def _states(networks: Iterable[tuple[str, nn.Module]]) -> dict[str, State]:
    return {name: network.state_dict() for name, network in networks}


def _target_networks(networks: Mapping[str, nn.Module], step: GradientStep[Any]) -> TargetNetworks:
    segments = {name: list(network.parameters()) for name, network in networks.items()}
    return TargetNetworks(segments, step.optimizer)
