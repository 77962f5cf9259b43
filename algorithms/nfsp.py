"""Neural fictitious self-play (Heinrich & Silver 2016, arXiv:1603.01121), around any best response from replay.

Each agent learns two things: a best response to how the others play, from replay, by whatever builder is given; and its
own average, by imitating what its best response did, from a reservoir of all of it. At the beginning of each episode it
decides, with the anticipatory probability, to play its best response, else its average. In zero-sum games of two the
averages go to an equilibrium: it is they that act once learning is over, and whose exploitability is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from marl.algorithms.imitation.cloning import AverageNetwork, AveragePolicy
from marl.algorithms.imitation.reservoir import Decisions, NFSPAdder, Reservoir
from marl.builders import Builder, RunContext
from marl.checkpoints.state import flatten_state, unflatten_state
from marl.core import Dataset, Learner, Metrics, State
from marl.errors import InputError
from marl.learning.optimizers import ReplicatedAdam
from marl.networks.torso import Activation
from marl.policy import Decision, Policy
from marl.replay import ReplayDataset
from marl.specs import ArraySpec, DiscreteActions, EnvironmentSpec, GroupSpec, Sharing
from marl.types import GroupStep


@dataclass(frozen=True, slots=True, kw_only=True)
class NFSPConfig:
    """Settings of the average policy; those of the best response are its builder's."""

    anticipatory: float = 0.1
    """Probability that an agent plays its best response for an episode, eta."""
    reservoir: int = 2_000_000
    """Steps of best responses that are kept, over all copies and ranks, for each group."""
    batch_size: int = 256
    """Steps of an update of the average policy, over all ranks."""
    learning_rate: float = 1e-3
    """Adam's step size for the average policy."""
    max_gradient_norm: float = 10.0
    """Norm to which its gradient is clipped."""
    hidden_sizes: tuple[int, ...] = (128,)
    """Widths of its hidden layers."""
    activation: Activation = "relu"
    """After each hidden layer."""

    def __post_init__(self) -> None:
        if not 0.0 < self.anticipatory <= 1.0:
            raise InputError(f"the anticipatory probability lies above 0 and up to 1, unlike {self.anticipatory}")
        if min(self.reservoir, self.batch_size, *self.hidden_sizes) < 1 or not self.hidden_sizes:
            raise InputError("reservoir, batch size and the widths of hidden layers are at least 1")
        if not (self.learning_rate > 0.0 and self.max_gradient_norm > 0.0):
            raise InputError("learning rate and largest gradient norm are above 0")


class NFSPNetworks(nn.Module):
    """The best response's networks, whatever they are, and the groups' average policies."""

    def __init__(self, spec: EnvironmentSpec, best: Any, config: NFSPConfig) -> None:
        super().__init__()
        self.best = best
        self._places = {group.name: place for place, group in enumerate(spec.groups)}
        self.averages = nn.ModuleList(
            AverageNetwork(group, hidden_sizes=config.hidden_sizes, activation=config.activation)
            for group in spec.groups
        )

    def average(self, name: str) -> AverageNetwork:
        """A group's average policy."""
        network = self.averages[self._places[name]]
        assert isinstance(network, AverageNetwork)
        return network


class NFSPPolicy(Policy):
    """Plays an episode by the best response or by the average policy, as each agent draws at its beginning.

    Its state (E, A, 1) is 1 where an agent plays its best response.
    """

    def __init__(self, best: Policy, average: AveragePolicy, group: GroupSpec, anticipatory: float) -> None:
        self.best = best
        self._average = average
        self._size = group.size
        self._anticipatory = anticipatory
        self.num_uniforms = best.num_uniforms + 2
        self.extras = {"best_response": ArraySpec(shape=(), dtype=torch.bool)}

    def initial_state(self, num_envs: int) -> Tensor | None:
        """See Policy."""
        return torch.zeros(num_envs, self._size, 1)

    def act(self, step: GroupStep, first: Tensor, state: Tensor | None, uniforms: Tensor | None) -> Decision:
        """See Policy."""
        assert state is not None
        assert uniforms is not None
        begins = (uniforms[..., :1] < self._anticipatory).to(state.dtype)
        state = torch.where(first.view(-1, 1, 1), begins, state)
        best = self.best.act(step, first, None, uniforms[..., 2:] if self.best.num_uniforms else None).actions
        average = self._average.act(step, first, None, uniforms[..., 1:2]).actions
        plays_best = state.squeeze(-1) > 0.5
        return Decision(
            actions=torch.where(plays_best, best, average), extras={"best_response": plays_best}, state=state
        )


class NFSPDataset(Dataset[Any]):
    """The best response's replay, and the groups' reservoirs; the first says when to learn."""

    def __init__(self, best: ReplayDataset[Any], reservoirs: Mapping[str, Reservoir]) -> None:
        self.best = best
        self.reservoirs = dict(reservoirs)

    def ready(self) -> bool:
        """See Dataset."""
        return self.best.ready()

    @property
    def refills(self) -> bool:
        """See ReplayDataset."""
        return self.best.refills

    def at_boundary(self) -> bool:
        """See Dataset."""
        return self.best.at_boundary()

    def sample(self) -> Any:
        """The best response's sample; the learner draws from the reservoirs itself."""
        return self.best.sample()

    def clear(self) -> None:
        """See Dataset."""
        self.best.clear()
        for reservoir in self.reservoirs.values():
            reservoir.clear()

    def state_dict(self) -> State:
        """See Saveable."""
        return self.best.state_dict()

    def load_state_dict(self, state: State) -> None:
        """See Saveable."""
        self.best.load_state_dict(state)

    def env_state_dict(self) -> State:
        """Replay, if it is to be saved, and reservoirs, which cannot be gathered anew."""
        reservoirs = flatten_state({name: reservoir.env_state_dict() for name, reservoir in self.reservoirs.items()})
        return flatten_state({"best": self.best.env_state_dict(), "reservoirs": reservoirs})

    def load_env_state_dict(self, state: State) -> None:
        """See Saveable."""
        parts = unflatten_state(state)
        self.best.load_env_state_dict(parts.get("best", {}))
        reservoirs = unflatten_state(parts["reservoirs"])
        for name, reservoir in self.reservoirs.items():
            reservoir.load_env_state_dict(reservoirs[name])


class NFSPLearner(Learner):
    """An update of the best response, and one of the average policies: the likelihood of what best responses did."""

    def __init__(
        self, best: Learner, networks: NFSPNetworks, dataset: NFSPDataset, config: NFSPConfig, context: RunContext
    ) -> None:
        self._best = best
        self._networks = networks
        self._dataset = dataset
        self._config = config
        self._names = tuple(dataset.reservoirs)
        self._optimizer = ReplicatedAdam(
            {name: list(networks.average(name).parameters()) for name in self._names},
            context.communicator,
            learning_rate=config.learning_rate,
            epsilon=1e-8,
            max_gradient_norm=config.max_gradient_norm,
            bookkeeping=2 * len(self._names),
        )
        self._updates = 0

    def step(self) -> Metrics:
        """One update of each."""
        metrics = dict(self._best.step())
        optimizer, config = self._optimizer, self._config
        optimizer.zero()
        sums = optimizer.tail.view(len(self._names), 2)
        for name, figures in zip(self._names, sums, strict=True):
            reservoir = self._dataset.reservoirs[name]
            stored = reservoir.agree()
            metrics[f"{name}/reservoir"] = float(stored)
            if stored >= config.batch_size:
                self._add_gradients(name, reservoir.sample(config.batch_size, self._updates), figures)
        optimizer.reduce()
        counts = dict(zip(self._names, sums.tolist(), strict=True))
        metrics["average_gradient_norm"] = optimizer.step({name: count for name, (count, _) in counts.items()})
        for name, (count, loss) in counts.items():
            metrics[f"{name}/average_loss"] = loss / max(count, 1.0)
        self._updates += 1
        return metrics

    def _add_gradients(self, name: str, batch: Decisions, figures: Tensor) -> None:
        # A rank whose share is empty brings zeros.
        if not len(batch.chosen):
            return
        distribution = self._networks.average(name).distribution(batch.observations, batch.action_masks)
        losses = -distribution.log_prob(batch.actions)
        # Those whose decision does not count may have done anything, even what is not legal to them.
        loss = torch.where(batch.chosen, losses, torch.zeros_like(losses)).sum()
        loss.backward()
        figures[0], figures[1] = batch.chosen.sum(), loss.detach()

    def get_variables(self) -> State:
        """The best response's variables and the average policies."""
        return flatten_state({"best": self._best.get_variables(), "averages": self._networks.averages.state_dict()})

    def state_dict(self) -> State:
        """The best response's state, average policies, their optimizer, and the number of updates."""
        return flatten_state(
            {
                "best": self._best.state_dict(),
                "averages": self._networks.averages.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "counts": {"updates": torch.tensor(self._updates)},
            }
        )

    def load_state_dict(self, state: State) -> None:
        """See Saveable."""
        parts = unflatten_state(state)
        self._best.load_state_dict(parts["best"])
        self._networks.averages.load_state_dict(parts["averages"])
        self._optimizer.load_state_dict(parts["optimizer"])
        self._updates = int(parts["counts"]["updates"])


@dataclass(frozen=True, kw_only=True)
class NFSP(Builder[NFSPNetworks]):
    """Builds NFSP around a builder of best responses, which learns discrete actions from replay."""

    best_response: Builder[Any]
    config: NFSPConfig = field(default_factory=NFSPConfig)

    @property
    def sharing(self) -> Sharing:
        """See Builder."""
        return self.best_response.sharing

    @property
    def with_state(self) -> bool:
        """See Builder."""
        return self.best_response.with_state

    @property
    def team_reward(self) -> bool:
        """See OfflineBuilder."""
        return self.best_response.team_reward

    @property
    def on_policy(self) -> bool:
        """See Builder."""
        return False

    def check(self, spec: EnvironmentSpec, context: RunContext) -> None:
        """See Builder."""
        if self.best_response.on_policy:
            raise InputError("nfsp takes a best response that learns from replay, such as iql")
        for group in spec.groups:
            if not isinstance(group.action, DiscreteActions):
                raise InputError(f"nfsp averages single discrete choices, unlike those of {group.name}")
        self.best_response.check(spec, context)

    def make_networks(self, spec: EnvironmentSpec) -> NFSPNetworks:
        """See Builder."""
        return NFSPNetworks(spec, self.best_response.make_networks(spec), self.config)

    def make_policies(
        self, spec: EnvironmentSpec, networks: NFSPNetworks, *, evaluation: bool, context: RunContext | None = None
    ) -> dict[str, Policy]:
        """See Builder: for evaluation, the average policies' likeliest actions."""
        if evaluation:
            return self.frozen_policies(spec, networks, greedy=True)
        best = self.best_response.make_policies(spec, networks.best, evaluation=False, context=context)
        if any(policy.initial_state(1) is not None for policy in best.values()):
            raise InputError("nfsp takes a best response without a memory")
        averages = {group.name: AveragePolicy(networks.average(group.name), greedy=False) for group in spec.groups}
        return {
            group.name: NFSPPolicy(best[group.name], averages[group.name], group, self.config.anticipatory)
            for group in spec.groups
        }

    def frozen_policies(self, spec: EnvironmentSpec, networks: NFSPNetworks, *, greedy: bool) -> dict[str, Policy]:
        """See Builder: the average policies."""
        return {group.name: AveragePolicy(networks.average(group.name), greedy=greedy) for group in spec.groups}

    def make_dataset(self, spec: EnvironmentSpec, policies: Mapping[str, Policy], context: RunContext) -> NFSPDataset:
        """See Builder."""
        best = {name: policy.best for name, policy in policies.items() if isinstance(policy, NFSPPolicy)}
        dataset = self.best_response.make_dataset(spec, best, context)
        assert isinstance(dataset, ReplayDataset)
        reservoirs = {
            group.name: Reservoir(
                group,
                capacity=self.config.reservoir,
                num_envs=context.num_envs,
                first_env=context.first_env,
                global_num_envs=context.total_envs,
                seed=context.seed,
                communicator=context.communicator,
            )
            for group in spec.groups
        }
        return NFSPDataset(dataset, reservoirs)

    def make_adder(self, spec: EnvironmentSpec, dataset: Dataset[Any], context: RunContext) -> NFSPAdder:
        """See Builder."""
        assert isinstance(dataset, NFSPDataset)
        return NFSPAdder(self.best_response.make_adder(spec, dataset.best, context), dataset.reservoirs)

    def make_learner(
        self, spec: EnvironmentSpec, networks: NFSPNetworks, dataset: Dataset[Any], context: RunContext
    ) -> NFSPLearner:
        """See Builder."""
        assert isinstance(dataset, NFSPDataset)
        best = self.best_response.make_learner(spec, networks.best, dataset.best, context)
        return NFSPLearner(best, networks, dataset, self.config, context)

    def load_policies(self, networks: NFSPNetworks, state: State) -> None:
        """See Builder."""
        parts = unflatten_state(state)
        self.best_response.load_policies(networks.best, parts["best"])
        networks.averages.load_state_dict(parts["averages"])
