"""Advantages, value targets and weights of a rollout's rows: what on-policy learners learn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from marl.algorithms.on_policy.networks import OnPolicyNetworks
from marl.builders import RunContext
from marl.core import Saveable, State
from marl.learning.returns import GAEOutput, gae
from marl.networks.moments import RunningMoments
from marl.specs import EnvironmentSpec
from marl.types import GroupTrajectory, Trajectory

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    """Settings of returns and advantages."""

    discount: float = 0.99
    """Weight of the next step's value, gamma."""
    gae_lambda: float = 0.95
    """Weight of longer returns in the advantage estimate."""
    team_reward: bool = False
    """Learn from the sum of all agents' rewards instead of each agent's own."""
    allow_opponents: bool = False
    """Learn from that sum even where agents are opponents: where one wins what another loses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkInputs:
    """A trajectory as networks read it, prepared by ``marl.networks.torso.prepare_input``."""

    observations: Mapping[str, Tensor]
    """(T+1, E, A, *) a group."""
    final_observations: Mapping[str, Tensor]
    """(K, A, *) a group, of the K episodes that ended."""
    state: Tensor | None
    """(T+1, E, *)."""
    final_state: Tensor | None
    """(K, *)."""


@dataclass(slots=True)
class Estimates:
    """Advantages, targets and weights of one group's rollout; all (T, E, A, ...)."""

    advantages: Tensor
    """Of mean 0 and deviation 1 over the rows that count, on all ranks."""
    targets: Tensor
    """Of the values, in normalised units."""
    old_values: Tensor
    """Values before the update, in normalised units."""
    weights: Tensor
    """1 where the actor learns, else 0."""
    value_weights: Tensor
    """1 where the critic learns, else 0."""
    critic_states: Tensor | None
    """A recurrent critic's state before each row, (T+1, E, A, H)."""


class ReturnTerms(NamedTuple):
    """One group's terms of a return (see ``returns.gae``); all (T, E, A) but ``active``, in units of rewards."""

    rewards: Tensor
    values: Tensor
    next_values: Tensor
    active: Tensor | None
    """(T+1, E, A) bool; None where everybody always counts."""
    terminated: Tensor
    ended: Tensor


class AdvantageEstimator(Saveable):
    """Generalized advantages and normalised value targets of all groups (see ``returns.gae``).

    Args:
        spec: of the environment.
        networks: of each group, whose critics estimate values.
        config: of discounts, and of whose rewards count.
        context: the run, over whose ranks moments are taken.
    """

    def __init__(
        self, spec: EnvironmentSpec, networks: OnPolicyNetworks, config: AdvantageConfig, context: RunContext
    ) -> None:
        self._spec = spec
        self._networks = networks
        self._config = config
        self._communicator = context.communicator
        self._critic_states = {
            group.name: networks[group.name].critic.torso.initial_state(context.num_envs, group.size)
            for group in spec.groups
            if networks[group.name].critic.torso.gru is not None
        }

    @torch.no_grad()
    def estimate(self, trajectory: Trajectory, inputs: NetworkInputs) -> dict[str, Estimates]:
        """Returns the estimates of all groups. Collective: one small all-reduce for their moments."""
        estimates = {name: self._estimate(name, trajectory, inputs) for name in self._networks}
        self._normalize(estimates)
        return estimates

    def env_state_dict(self) -> State:
        """The critics' recurrent states."""
        return dict(self._critic_states)

    def load_env_state_dict(self, state: State) -> None:
        for name in self._critic_states:
            self._critic_states[name] = state[name].to(self._critic_states[name])

    def _estimate(self, name: str, trajectory: Trajectory, inputs: NetworkInputs) -> Estimates:
        data, normalizer = trajectory.groups[name], self._networks[name].value_normalizer
        old, following, states = self._evaluate(name, trajectory, inputs)
        rewards, terminated, ended = self._signals(data, trajectory)
        # A team's return goes on after an agent's death: its critic learns it, its actor rests.
        posthumous = self._config.team_reward and not self._spec.turn_based
        result = self._returns(
            ReturnTerms(
                rewards=rewards,
                values=old[:-1] if normalizer is None else normalizer.denormalize(old[:-1]),
                next_values=following if normalizer is None else normalizer.denormalize(following),
                active=None if posthumous else data.active,
                terminated=terminated,
                ended=ended,
            )
        )
        value_weights = result.valid.to(old.dtype)
        return Estimates(
            advantages=result.advantages,
            targets=result.returns,
            old_values=old[:-1],
            weights=data.active[:-1].to(old.dtype) if posthumous else value_weights,
            value_weights=value_weights,
            critic_states=states,
        )

    def _returns(self, terms: ReturnTerms) -> GAEOutput:
        return gae(**terms._asdict(), discount=self._config.discount, lambda_=self._config.gae_lambda)

    def _evaluate(
        self, name: str, trajectory: Trajectory, inputs: NetworkInputs
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values of all rows (T+1, E, A), the values after each step (T, E, A), and a GRU's states before each row."""
        critic, finals = self._networks[name].critic, trajectory.finals
        observations, state = inputs.observations[name], inputs.state
        rows = max(1, _ROWS_AT_ONCE // (observations.shape[1] * observations.shape[2]))
        features = torch.cat(
            [
                critic.features(part, None if state is None else state[start : start + rows].unsqueeze(2))
                for start, part in zip(range(0, len(observations), rows), observations.split(rows), strict=True)
            ]
        )
        final_state = None if inputs.final_state is None else inputs.final_state.unsqueeze(1)
        final_features = critic.features(inputs.final_observations[name], final_state)
        before: Tensor | None = None
        if name in self._critic_states:
            first = trajectory.first.unsqueeze(-1).expand(features.shape[:-1])
            outputs = critic.torso.unroll(features, self._critic_states[name], first)
            before = torch.cat((self._critic_states[name].unsqueeze(0), outputs[:-1]))
            self._critic_states[name] = outputs[-2].clone()
            memory = outputs[finals.times, finals.envs]
            final_features = critic.torso.step(
                final_features, memory, torch.zeros(memory.shape[:-1], dtype=torch.bool, device=memory.device)
            )
            features = outputs
        values = critic.values(features)
        following = values[1:].clone()
        following[finals.times, finals.envs] = critic.values(final_features)
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

    def _normalize(self, estimates: Mapping[str, Estimates]) -> None:
        """Advantages to mean 0 and deviation 1, targets by running moments: over all ranks, in one all-reduce."""
        advantages = {name: RunningMoments(device=group.advantages.device) for name, group in estimates.items()}
        rows: list[Tensor] = []
        for name, group in estimates.items():
            normalizer = self._networks[name].value_normalizer
            rows.append(advantages[name].batch_moments(group.advantages, group.weights > 0))
            known = group.value_weights > 0
            rows.append(
                torch.zeros_like(rows[-1]) if normalizer is None else normalizer.batch_moments(group.targets, known)
            )
        moments = torch.stack(rows)
        self._communicator.all_reduce(moments)
        for index, (name, group) in enumerate(estimates.items()):
            advantages[name].update(moments[2 * index])
            mean, deviation = advantages[name].mean, advantages[name].variance.sqrt()
            group.advantages = ((group.advantages - mean) / (deviation + 1e-5)).to(group.advantages.dtype)
            normalizer = self._networks[name].value_normalizer
            if normalizer is not None:
                before = normalizer.denormalize(group.old_values)
                normalizer.update(moments[2 * index + 1])
                if normalizer.output_layers:
                    group.old_values = normalizer.normalize(before)
                group.targets = normalizer.normalize(group.targets)
