"""Learner of average policies from reservoirs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from marl.algorithms.imitation.config import ImitationConfig
from marl.algorithms.imitation.losses import cloning_loss
from marl.algorithms.imitation.networks import AverageNetwork
from marl.algorithms.imitation.reservoir import Decisions, Reservoir
from marl.core import Communicator, Learner, Metrics, State
from marl.learning.replicated_adam import ReplicatedAdam
from marl.states import flatten_state, unflatten_state


class AveragePolicyLearner(Learner):
    """Maximises the likelihood of the decisions in reservoirs, by one gradient step of all groups' networks.

    Args:
        networks: all groups', an ``AverageNetwork`` each, in the order of ``reservoirs``; improved in place.
        reservoirs: the groups' decisions.
        config: settings; a group with less than one batch of decisions does not learn yet.
        communicator: the ranks.
    """

    def __init__(
        self,
        networks: nn.ModuleList,
        reservoirs: Mapping[str, Reservoir],
        config: ImitationConfig,
        communicator: Communicator,
    ) -> None:
        self._networks = networks
        self._reservoirs = dict(reservoirs)
        self._config = config
        self._optimizer = ReplicatedAdam(
            {name: list(network.parameters()) for name, network in zip(reservoirs, networks, strict=True)},
            communicator,
            learning_rate=config.learning_rate,
            epsilon=1e-8,
            max_gradient_norm=config.max_gradient_norm,
            max_skipped_steps=config.max_skipped_steps,
            bookkeeping=2 * len(self._reservoirs),
        )
        self._updates = 0

    def step(self) -> Metrics:
        metrics: dict[str, float] = {}
        optimizer, config = self._optimizer, self._config
        optimizer.zero()
        sums = optimizer.tail.view(len(self._reservoirs), 2)
        for (name, reservoir), network, group_sums in zip(self._reservoirs.items(), self._networks, sums, strict=True):
            assert isinstance(network, AverageNetwork)
            stored = reservoir.agree()
            metrics[f"{name}/reservoir"] = float(stored)
            if stored >= config.batch_size:
                _add_gradients(network, reservoir.sample(config.batch_size, self._updates), group_sums)
        optimizer.reduce()
        counts = dict(zip(self._reservoirs, sums.tolist(), strict=True))
        metrics["average_gradient_norm"] = optimizer.step({name: count for name, (count, _) in counts.items()})
        metrics["average_skipped_steps"] = float(optimizer.skipped)
        for name, (count, loss) in counts.items():
            metrics[f"{name}/average_loss"] = loss / max(count, 1.0)
        self._updates += 1
        return metrics

    def get_variables(self) -> State:
        return flatten_state({"averages": self._networks.state_dict()})

    def state_dict(self) -> State:
        return flatten_state(
            {
                "averages": self._networks.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "counts": {"updates": torch.tensor(self._updates)},
            }
        )

    def load_state_dict(self, state: State) -> None:
        parts = unflatten_state(state)
        self._networks.load_state_dict(parts["averages"])
        self._optimizer.load_state_dict(parts["optimizer"])
        self._updates = int(parts["counts"]["updates"])


def _add_gradients(network: AverageNetwork, batch: Decisions, sums: Tensor) -> None:
    # A rank whose share is empty brings zeros.
    if not len(batch.counted):
        return
    loss = cloning_loss(network, batch)
    loss.backward()
    sums[0], sums[1] = batch.counted.sum(), loss.detach()
