"""From trajectories to rollouts: what networks read of them, and the rows that losses are computed from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from marl.algorithms.on_policy.advantages import Estimates, NetworkInputs
from marl.algorithms.on_policy.config import OnPolicyConfig
from marl.algorithms.on_policy.networks import OnPolicyNetworks
from marl.core import Communicator
from marl.networks.normalizers import ObservationNormalizer
from marl.types import Trajectory


class Rollout(NamedTuple):
    """One group's rollout; the rows of all environments lie behind each other, time after time: (T · E, A, ...)."""

    observations: Tensor
    """As networks take them; see ``marl.networks.inputs``."""
    actions: Tensor
    log_probs: Tensor
    """Of the actions, when they were taken."""
    advantages: Tensor
    old_values: Tensor
    targets: Tensor
    weights: Tensor
    """1 where the actor learns, else 0."""
    value_weights: Tensor
    """1 where the critic learns, else 0."""
    magnet: Tensor | None
    """(T · E, A, K) log-probabilities of another policy, for single choices: it takes the uniform policy's place, so
    that the bonus is minus the divergence from it."""
    masks: Tensor | None
    state: Tensor | None
    """(T · E, *), prepared."""
    first: Tensor | None
    """(T · E,) bool; for recurrent networks, as are the two that follow."""
    actor_states: Tensor | None
    critic_states: Tensor | None


class RolloutRows(NamedTuple):
    """Rows of a rollout for one loss, and who counts in them."""

    rollout: Rollout
    indices: Tensor | slice
    """(B,) int64 or a slice; for recurrent networks (L, B), sequences."""
    chosen: tuple[Tensor, Tensor] | None
    """Rows and agents, of those that count alone; None for everybody."""
    weights: Tensor
    value_weights: Tensor

    @property
    def agents(self) -> Tensor | None:
        """Each row's agent, where only some are chosen."""
        return None if self.chosen is None else self.chosen[1]

    @property
    def state(self) -> Tensor | None:
        """The global state, to be read beside each agent's observation."""
        if self.rollout.state is None:
            return None
        state = self.rollout.state[self.indices]
        return state.unsqueeze(self.weights.dim() - 1) if self.chosen is None else state[self.chosen[0]]

    def take(self, x: Tensor) -> Tensor:
        """These rows of one of the rollout's fields with agents."""
        x = x[self.indices]
        return x if self.chosen is None else x[self.chosen]


def select_rows(rollout: Rollout, indices: Tensor | slice, inside: Tensor | None, *, sparse: bool) -> RolloutRows:
    """Selects rows of a rollout.

    Args:
        rollout: of one group.
        indices: which: (B,) int64 or a slice; for recurrent networks (L, B), sequences.
        inside: of the shape of the indices, False for rows that only fill up; None where all count.
        sparse: leave out the agents that do not count.
    """
    weights, value_weights = rollout.weights[indices], rollout.value_weights[indices]
    if inside is not None:
        weights, value_weights = weights * inside.unsqueeze(-1), value_weights * inside.unsqueeze(-1)
    if not sparse:
        return RolloutRows(rollout, indices, None, weights, value_weights)
    chosen, agents = weights.nonzero(as_tuple=True)
    weights = weights[chosen, agents]
    return RolloutRows(rollout, indices, (chosen, agents), weights, weights)


class RolloutReader:
    """Reads trajectories as networks and losses take them.

    Args:
        networks: of each group.
        config: of the networks.
    """

    def __init__(self, networks: OnPolicyNetworks, config: OnPolicyConfig) -> None:
        self._networks = networks
        self._state = next(iter(networks.values())).state
        self._config = config

    def read(self, trajectory: Trajectory) -> NetworkInputs:
        """Prepares all that networks read, once for all passes."""
        state, final_state = trajectory.state, trajectory.finals.state
        if self._state is not None and state is not None and final_state is not None:
            state, final_state = self._state.read(state), self._state.read(final_state)
        data, finals = trajectory.groups, trajectory.finals.groups
        readers = {name: group.observations for name, group in self._networks.items()}
        observations = {name: reader.read(data[name].observations) for name, reader in readers.items()}
        final_observations = {name: reader.read(finals[name].observations) for name, reader in readers.items()}
        return NetworkInputs(
            observations=observations, final_observations=final_observations, state=state, final_state=final_state
        )

    def rollout(self, name: str, trajectory: Trajectory, inputs: NetworkInputs, estimates: Estimates) -> Rollout:
        """Lays the steps of one group behind each other."""
        data, recurrent = trajectory.groups[name], self._config.recurrent

        def rows(x: Tensor) -> Tensor:
            return x[: trajectory.length].flatten(0, 1)

        return Rollout(
            observations=rows(inputs.observations[name]),
            actions=rows(data.actions),
            log_probs=rows(data.extras["log_probs"]),
            advantages=rows(estimates.advantages),
            old_values=rows(estimates.old_values),
            targets=rows(estimates.targets),
            weights=rows(estimates.weights),
            value_weights=rows(estimates.value_weights),
            magnet=None,
            masks=None if data.action_masks is None else rows(data.action_masks),
            state=None if inputs.state is None else rows(inputs.state),
            first=rows(trajectory.first) if recurrent else None,
            actor_states=rows(data.extras["states"]) if recurrent else None,
            critic_states=None if estimates.critic_states is None else rows(estimates.critic_states),
        )

    def update_moments(self, trajectory: Trajectory, communicator: Communicator) -> None:
        """Takes in a trajectory's inputs: after its update, which learns from them as they were seen. Collective."""
        updates: list[tuple[ObservationNormalizer, Tensor]] = []
        for name, group in self._networks.items():
            reader, data = group.observations, trajectory.groups[name]
            if reader.normalizer is not None:
                updates.append((reader.normalizer, reader.batch_moments(data.observations[:-1], data.active[:-1])))
        if self._state is not None and self._state.normalizer is not None and trajectory.state is not None:
            # A state counts where somebody acts in it, as it does for critics.
            acted = torch.cat([data.active[:-1] for data in trajectory.groups.values()], dim=-1).any(-1)
            updates.append((self._state.normalizer, self._state.batch_moments(trajectory.state[:-1], acted)))
        if not updates:
            return
        sums = torch.cat([moments for _, moments in updates])
        communicator.all_reduce(sums)
        for (normalizer, _), moments in zip(updates, sums.split([len(part) for _, part in updates]), strict=True):
            normalizer.update(moments)
