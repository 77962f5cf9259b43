"""Policies that take the action of highest value, or explore epsilon-greedily."""

from __future__ import annotations

import torch
from torch import Tensor

from marl.algorithms.q_learning.config import QLearningConfig
from marl.algorithms.q_learning.networks import QNetwork
from marl.builders import RunContext
from marl.networks.categorical import mask_scores
from marl.policy import Decision, Policy
from marl.specs import GroupSpec
from marl.types import GroupStep


def epsilon_greedy(values: Tensor, masks: Tensor | None, epsilon: Tensor, uniforms: Tensor) -> Tensor:
    """Selects the best legal action, or with probability epsilon any legal one.

    Args:
        values: (..., K) float, of the actions.
        masks: (..., K) bool, True where legal; None if all are.
        epsilon: probabilities that broadcast with (...).
        uniforms: (..., 2) float in (0, 1): one decides whether to explore, the other for which action.

    Returns:
        (...) int64 actions.
    """
    explore, choice = uniforms.unbind(-1)
    if masks is None:
        random_actions = (choice * values.shape[-1]).long()
    else:
        ranks = masks.cumsum(-1)
        # The k-th legal action, k uniform in 1 … number of legal ones.
        random_actions = (ranks > (choice * ranks[..., -1]).long().unsqueeze(-1)).int().argmax(-1)
    return torch.where(explore < epsilon, random_actions, mask_scores(values, masks).argmax(-1))


class QPolicy(Policy):
    """Takes the action of highest value, or explores epsilon-greedily.

    Args:
        group: the agents that act.
        network: values their actions.
        config: the probability of a random action, and how inputs are prepared.
        context: the run whose progress and environments exploration follows; None for the greedy policy.
    """

    def __init__(
        self, group: GroupSpec, network: QNetwork, config: QLearningConfig, *, context: RunContext | None
    ) -> None:
        self._group = group
        self._network = network
        self._prepare = config.prepare
        self._epsilon = config.epsilon()
        self.num_uniforms = 0
        self.extras = {}
        if context is not None:
            self.num_uniforms = 2
            self._counter = context.counter
            envs = torch.arange(context.first_env, context.first_env + context.num_envs, device=context.device)
            self._exponents = 1.0 + config.epsilon_exponent * envs.unsqueeze(1) / max(context.total_envs - 1, 1)

    def initial_state(self, num_envs: int) -> Tensor | None:
        torso = self._network.torso
        return None if torso.gru is None else torso.initial_state(num_envs, self._group.size)

    def act(self, step: GroupStep, first: Tensor, state: Tensor | None, uniforms: Tensor | None) -> Decision:
        torso = self._network.torso
        observations = self._prepare(self._group.observation, step.observations)
        features = torso.features([observations])
        if state is not None:
            state = features = torso.step(features, state, first.unsqueeze(-1).expand(state.shape[:-1]))
        values = self._network.values(features)
        if uniforms is None:
            return Decision(actions=mask_scores(values, step.action_masks).argmax(-1), extras={}, state=state)
        epsilon = self._epsilon(self._counter.steps_since_began) ** self._exponents
        return Decision(actions=epsilon_greedy(values, step.action_masks, epsilon, uniforms), extras={}, state=state)
