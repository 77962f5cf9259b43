"""Policies of actors, which may act at random until learning begins."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from marl.actions import random_actions
from marl.algorithms.actor_critic.config import ActorCriticConfig
from marl.algorithms.actor_critic.networks import ActorCriticNetworks
from marl.networks.action_heads import num_uniforms
from marl.networks.torso import prepare_input
from marl.policy import Decision, Policy
from marl.specs import GroupSpec
from marl.types import GroupStep


class ActorCriticPolicy(Policy):
    """Reads observations by the group's actor, and may act uniformly at random until learning begins.

    Args:
        group: the agents that act.
        networks: the group's.
        config: settings.
        greedy: whether it never explores.
    """

    def __init__(
        self, group: GroupSpec, networks: ActorCriticNetworks, config: ActorCriticConfig, *, greedy: bool
    ) -> None:
        self._group = group
        self._networks = networks
        self._config = config
        self.num_uniforms = 0 if greedy else num_uniforms(group.action)

    def act(self, step: GroupStep, first: Tensor, state: Tensor | None, uniforms: Tensor | None) -> Decision:
        group, exploration = self._group, self._networks.exploration
        if uniforms is not None and self._config.random_warmup and not bool(exploration.learning):
            return Decision(actions=random_actions(group.action, uniforms, step.action_masks), extras={}, state=state)
        observations = prepare_input(group.observation, step.observations, normalize=self._config.normalizes_inputs)
        actions, state = self.select(self._networks.actor(observations), step.action_masks, first, state, uniforms)
        return Decision(actions=actions, extras={}, state=state)

    @abstractmethod
    def select(
        self, outputs: Tensor, masks: Tensor | None, first: Tensor, state: Tensor | None, uniforms: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Selects actions by the actor's (E, A, outputs); returns them and the state after this step.

        Other arguments are those of ``act``.
        """
