"""What off-policy actor-critic algorithms of several agents have in common.

Critics learn from joint replay by temporal differences, actors from their critics, target networks follow. An
algorithm says what its critics bootstrap from and how its actors are improved.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from marl.algorithms.actor_critic.batches import GroupBatch, JointActions, JointBatch, prepare_batch
from marl.algorithms.actor_critic.networks import ActorCriticConfig, ActorNetwork, Networks, load_policy
from marl.algorithms.actor_critic.noise import _Noise
from marl.algorithms.off_policy.gradient_steps import GradientStep, Losses, LossFunction, Noise, added
from marl.algorithms.off_policy.targets import TargetParameters
from marl.builders import RunContext
from marl.checkpoints.state import flatten_state, unflatten_state
from marl.core import Learner, Metrics, State
from marl.replay import TransitionDataset, Transitions
from marl.specs import EnvironmentSpec, GroupSpec
from marl.streams import Stream

Purpose = Literal["next", "current"]
_PURPOSES: Final[tuple[Purpose, ...]] = ("next", "current")


class ActorCriticLearner(Learner, ABC):
    """Samples joint transitions; first the critics learn, then the actors, then the targets follow.

    Random numbers of an update belong to places in the global batch, so they do not depend on ranks.

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
    actor_period = 1
    """Updates of critics to one of actors and targets."""
    actor_figures: tuple[str, ...] = ("samples", "actor_loss")

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

        def make_step(
            segments: Mapping[str, Mapping[str, Sequence[nn.Parameter]]],
            figures: Sequence[str],
            losses: LossFunction[Transitions],
            learning_rate: float,
        ) -> GradientStep[Transitions]:
            return GradientStep(
                segments,
                figures,
                losses,
                self._all_networks(),
                context.communicator,
                learning_rate=learning_rate,
                epsilon=config.adam_epsilon,
                max_gradient_norm=config.max_gradient_norm,
                compiled_batch_size=config.replay.batch_size if compile else None,
            )

        figures = ("samples", "critic_loss", "value")
        self._critic_step = make_step(critics, figures, self._critic_losses, config.critic_learning_rate)
        self._actor_step = make_step(actors, self.actor_figures, self._actor_losses, config.actor_learning_rate)
        self._target_networks = [_target_networks(self._target_critics, self._critic_step)]
        if self.target_actors:
            self._target_networks.append(_target_networks(self._target_actors, self._actor_step))
        self._noise = {
            purpose: _Noise(
                Stream(
                    context.seed,
                    f"{purpose} noise",
                    num_envs=config.replay.batch_size,
                    device=context.device,
                ),
                {group.name: (group.size, self.noise_size(group, purpose)) for group in spec.groups},
            )
            for purpose in _PURPOSES
        }
        self._updates = 0
        self._metrics: dict[str, float] = {}

    # --- what algorithms say --------------------------------------------------------------------------------

    @abstractmethod
    def noise_size(self, group: GroupSpec, purpose: Purpose) -> int:
        """Uniform random numbers that one agent of a group needs for its next action, or its current one."""

    @abstractmethod
    def exploration_scale(self) -> float:
        """By how much acting's noise is multiplied now."""

    @abstractmethod
    def next_values(self, batch: JointBatch, noise: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """(B, A) values at the next step by group, from target networks. Called without gradients."""

    @abstractmethod
    def predictions(self, name: str, batch: JointBatch, others: Tensor) -> Tensor:
        """(C, B, A) the critics' values of the actions taken."""

    @abstractmethod
    def current_actions(self, name: str, data: GroupBatch, noise: Tensor) -> tuple[Tensor, Any]:
        """(B, A, features) what a group would do now, and whatever ``actor_loss`` needs besides."""

    @abstractmethod
    def actor_loss(
        self, name: str, batch: JointBatch, actions: Tensor, others: Tensor, context: Any
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """The sum of one group's losses, and sums of its figures without ``samples``."""

    # --- what they use --------------------------------------------------------------------------------------

    def target_values(self, name: str, batch: JointBatch, own: Tensor | None, others: Tensor) -> Tensor:
        """(B, A[, K]) the least of the target critics' values at the next step."""
        values = self._target_critics[name](batch.groups[name].next_observations, own, batch.next_state, others)
        least: Tensor = values.amin(0)
        return least

    # --- Learner ----------------------------------------------------------------------------------------------

    def step(self) -> Metrics:
        """One update: of the critics, and mostly of the actors."""
        sample = self._dataset.sample()
        config = self._config
        metrics, td_errors = self._critic_step(sample, self._noise["next"](self._updates, sample.positions))
        self._dataset.update_priorities(sample.indices, td_errors)
        metrics["critic_gradient_norm"] = metrics.pop("gradient_norm")
        self._updates += 1
        if self._updates % self.actor_period == 0:
            # Kept, since a row of metrics need not fall on an update of the actors.
            self._metrics, _ = self._actor_step(sample, self._noise["current"](self._updates, sample.positions))
            self._metrics["actor_gradient_norm"] = self._metrics.pop("gradient_norm")
            for targets in self._target_networks:
                targets.update(config.tau)
        scale = self.exploration_scale()
        for group in self._networks.values():
            group.exploration.set(scale)
        skipped = self._critic_step.optimizer.skipped + self._actor_step.optimizer.skipped
        return {**metrics, **self._metrics, "skipped_steps": skipped}

    def _critic_losses(self, sample: Transitions, noise: Noise) -> Losses:
        batch = self._prepare(sample)
        with torch.no_grad():
            following = self.next_values(batch, noise)
            joint = self._joint.join({name: data.actions for name, data in batch.groups.items()})
        losses: list[Tensor] = []
        figures: list[Tensor] = []
        td_errors = torch.zeros_like(sample.weights)
        weight = torch.zeros_like(sample.weights)
        for name, data in batch.groups.items():
            targets = data.rewards + data.discounts * following[name]
            values = self.predictions(name, batch, self._joint.others(name, joint))
            errors = values - targets
            losses.append((errors.square() * data.critic_weights).sum())
            counted = (data.critic_weights > 0).to(errors.dtype)
            value = (values.detach().mean(0) * counted).sum()
            figures.append(torch.stack([counted.sum(), losses[-1].detach() / len(values), value]))
            td_errors = td_errors + (errors.detach().abs().mean(0) * counted).sum(1)
            weight = weight + counted.sum(1)
        return Losses(
            total=torch.stack(losses).sum(), figures=torch.stack(figures), td_errors=td_errors / weight.clamp_min(1.0)
        )

    def _actor_losses(self, sample: Transitions, noise: Noise) -> Losses:
        batch = self._prepare(sample)
        actions: dict[str, Tensor] = {}
        contexts: dict[str, Any] = {}
        for name, data in batch.groups.items():
            actions[name], contexts[name] = self.current_actions(name, data, noise[name])
        with torch.no_grad():
            around = {name: data.actions for name, data in batch.groups.items()}
            if self._config.resample_other_actions:
                active = {name: (data.actor_weights > 0).unsqueeze(-1) for name, data in batch.groups.items()}
                around = {name: actions[name].detach() * active[name] for name in actions}
            joint = self._joint.join(around)
        losses: list[Losses] = []
        for name, data in batch.groups.items():
            loss, sums = self.actor_loss(name, batch, actions[name], self._joint.others(name, joint), contexts[name])
            samples = (data.actor_weights > 0).to(loss.dtype).sum()
            figures = torch.stack([samples, loss.detach(), *sums])
            losses.append(Losses(total=loss, figures=figures, td_errors=sample.weights[:0]))
        return added(losses)

    def _prepare(self, sample: Transitions) -> JointBatch:
        config = self._config
        return prepare_batch(self._spec, sample, team_reward=config.team_reward, normalize=config.layer_norm)

    def _all_networks(self) -> list[nn.Module]:
        networks: list[nn.Module] = [*self._target_critics.values(), *self._target_actors.values()]
        for group in self._networks.values():
            networks += [group.actor, group.critics]
            if group.temperature is not None:
                networks.append(group.temperature)
        return networks

    def get_variables(self) -> State:
        """All parameters by name."""
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
        """Parameters, targets, optimizers, the number of updates, from which random numbers follow, and figures."""
        own: dict[str, Any] = {
            "_target_critics": {name: critics.state_dict() for name, critics in self._target_critics.items()},
            "_target_actors": {name: actor.state_dict() for name, actor in self._target_actors.items()},
            "_optimizers": {
                "critics": self._critic_step.optimizer.state_dict(),
                "actors": self._actor_step.optimizer.state_dict(),
            },
            "_progress": {"updates": torch.tensor(self._updates)},
            "_figures": {name: torch.tensor(value, dtype=torch.float64) for name, value in self._metrics.items()},
        }
        return {**self.get_variables(), **flatten_state(own)}

    def load_state_dict(self, state: State) -> None:
        """See Saveable."""
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


def _target_networks(networks: Mapping[str, nn.Module], step: GradientStep[Any]) -> TargetParameters:
    segments = {name: list(network.parameters()) for name, network in networks.items()}
    return TargetParameters(segments, step.optimizer)
