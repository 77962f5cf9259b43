"""Neural fictitious self-play (Heinrich & Silver 2016, arXiv:1603.01121), around any best response from replay.

Each agent learns two policies: a best response to the others' play, from replay, by whatever builder is given; and its
average policy, by imitating its best responses, from a reservoir of all their decisions. At the beginning of each
episode it plays, with the anticipatory probability, its best response, else its average policy. In two-player zero-sum
games the average policies converge to an equilibrium: it is they that act once learning is over, and whose
exploitability is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from marl.algorithms.imitation.adder import ReservoirAdder
from marl.algorithms.imitation.config import ImitationConfig
from marl.algorithms.imitation.learner import AveragePolicyLearner
from marl.algorithms.imitation.networks import AverageNetwork
from marl.algorithms.imitation.policy import AveragePolicy
from marl.algorithms.imitation.reservoir import Reservoir
from marl.builders import Builder, RunContext
from marl.core import Dataset, Learner, Metrics, State
from marl.errors import InputError
from marl.policy import Decision, Policy
from marl.replay import ReplayDataset
from marl.specs import ArraySpec, DiscreteActions, EnvironmentSpec, GroupSpec, Sharing
from marl.states import flatten_state, unflatten_state
from marl.types import GroupStep

BEST_RESPONSE: Final = "best_response"
"""Name among policies' extras of the (E, A) bool flag of best responses' decisions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NFSPConfig(ImitationConfig):
    """Settings of the average policy; those of the best response are its builder's."""

    anticipatory: float = 0.1
    """Probability that an agent plays its best response for an episode, eta."""
    reservoir: int = 2_000_000
    """Steps of best responses that are kept, over all environments and ranks, for each group."""

    def __post_init__(self) -> None:
        if not 0.0 < self.anticipatory <= 1.0:
            raise InputError(f"the anticipatory probability lies above 0 and up to 1, unlike {self.anticipatory}")
        if self.reservoir < 1:
            raise InputError("a reservoir holds at least 1 step")
        ImitationConfig.__post_init__(self)


class NFSPNetworks(nn.Module):
    """The best response's networks, of any kind, and the groups' average networks."""

    def __init__(self, spec: EnvironmentSpec, best_response: Any, config: NFSPConfig) -> None:
        super().__init__()
        self.best_response = best_response
        self._indices = {group.name: index for index, group in enumerate(spec.groups)}
        self.averages = nn.ModuleList(AverageNetwork(group, config) for group in spec.groups)

    def average(self, name: str) -> AverageNetwork:
        """Returns a group's average network."""
        network = self.averages[self._indices[name]]
        assert isinstance(network, AverageNetwork)
        return network


class NFSPPolicy(Policy):
    """Plays each episode by the best response or by the average policy, which each agent draws at its beginning.

    The state (E, A, 1) is 1 where an agent plays its best response.
    """

    def __init__(self, best_response: Policy, average: AveragePolicy, group: GroupSpec, anticipatory: float) -> None:
        self.best_response = best_response
        self._average = average
        self._size = group.size
        self._anticipatory = anticipatory
        self.num_uniforms = best_response.num_uniforms + 2
        self.extras = {BEST_RESPONSE: ArraySpec(shape=(), dtype=torch.bool)}

    def initial_state(self, num_envs: int) -> Tensor | None:
        return torch.zeros(num_envs, self._size, 1)

    def act(self, step: GroupStep, first: Tensor, state: Tensor | None, uniforms: Tensor | None) -> Decision:
        assert state is not None
        assert uniforms is not None
        drawn = (uniforms[..., :1] < self._anticipatory).to(state.dtype)
        state = torch.where(first.view(-1, 1, 1), drawn, state)
        own = uniforms[..., 2:] if self.best_response.num_uniforms else None
        best_response = self.best_response.act(step, first, None, own).actions
        average = self._average.act(step, first, None, uniforms[..., 1:2]).actions
        plays_best_response = state.squeeze(-1) > 0.5
        actions = torch.where(plays_best_response, best_response, average)
        return Decision(actions=actions, extras={BEST_RESPONSE: plays_best_response}, state=state)


class NFSPDataset(Dataset[Any]):
    """The best response's replay, whose rate limiter both learners follow, and the groups' reservoirs."""

    def __init__(self, replay: ReplayDataset[Any], reservoirs: Mapping[str, Reservoir]) -> None:
        self.replay = replay
        self.reservoirs = dict(reservoirs)

    def ready(self) -> bool:
        return self.replay.ready()

    @property
    def refills(self) -> bool:
        """True if a checkpoint without records was loaded, so that learning waits until there are new ones."""
        return self.replay.refills

    def at_boundary(self) -> bool:
        return self.replay.at_boundary()

    def sample(self) -> Any:
        """Samples replay; the learner draws from the reservoirs itself."""
        return self.replay.sample()

    def clear(self) -> None:
        self.replay.clear()
        for reservoir in self.reservoirs.values():
            reservoir.clear()

    def state_dict(self) -> State:
        return self.replay.state_dict()

    def load_state_dict(self, state: State) -> None:
        self.replay.load_state_dict(state)

    def env_state_dict(self) -> State:
        """Replay, if it is to be saved, and reservoirs, which cannot be gathered anew."""
        reservoirs = flatten_state({name: reservoir.env_state_dict() for name, reservoir in self.reservoirs.items()})
        return flatten_state({"best": self.replay.env_state_dict(), "reservoirs": reservoirs})

    def load_env_state_dict(self, state: State) -> None:
        parts = unflatten_state(state)
        self.replay.load_env_state_dict(parts.get("best", {}))
        reservoirs = unflatten_state(parts["reservoirs"])
        for name, reservoir in self.reservoirs.items():
            reservoir.load_env_state_dict(reservoirs[name])


class NFSPLearner(Learner):
    """Updates the best response, and then the average policies."""

    def __init__(self, best_response: Learner, average: AveragePolicyLearner) -> None:
        self._best_response = best_response
        self._average = average

    def step(self) -> Metrics:
        return {**self._best_response.step(), **self._average.step()}

    def get_variables(self) -> State:
        return {**flatten_state({"best": self._best_response.get_variables()}), **self._average.get_variables()}

    def state_dict(self) -> State:
        return {**flatten_state({"best": self._best_response.state_dict()}), **self._average.state_dict()}

    def load_state_dict(self, state: State) -> None:
        parts = unflatten_state(state)
        self._best_response.load_state_dict(parts.pop("best"))
        self._average.load_state_dict(flatten_state(parts))


@dataclass(frozen=True, kw_only=True)
class NFSP(Builder[NFSPNetworks]):
    """Builds NFSP around a builder of best responses, which learns discrete actions from replay."""

    best_response: Builder[Any]
    config: NFSPConfig = field(default_factory=NFSPConfig)

    @property
    def sharing(self) -> Sharing:
        return self.best_response.sharing

    @property
    def with_state(self) -> bool:
        return self.best_response.with_state

    @property
    def team_reward(self) -> bool:
        return self.best_response.team_reward

    @property
    def allow_opponents(self) -> bool:
        return self.best_response.allow_opponents

    @property
    def on_policy(self) -> bool:
        return False

    def check(self, spec: EnvironmentSpec, context: RunContext) -> None:
        if self.best_response.on_policy:
            raise InputError("nfsp takes a best response that learns from replay, such as iql")
        for group in spec.groups:
            if not isinstance(group.action, DiscreteActions):
                raise InputError(f"nfsp averages single discrete choices, unlike those of {group.name}")
        self.best_response.check(spec, context)

    def make_networks(self, spec: EnvironmentSpec) -> NFSPNetworks:
        return NFSPNetworks(spec, self.best_response.make_networks(spec), self.config)

    def make_policies(
        self, spec: EnvironmentSpec, networks: NFSPNetworks, *, evaluation: bool, context: RunContext | None = None
    ) -> dict[str, Policy]:
        """Makes policies that mix best responses and averages; for evaluation, the averages' likeliest actions."""
        if evaluation:
            return self.frozen_policies(spec, networks, greedy=True)
        best_responses = self.best_response.make_policies(
            spec, networks.best_response, evaluation=False, context=context
        )
        if any(policy.initial_state(1) is not None for policy in best_responses.values()):
            raise InputError("nfsp takes a best response without a memory")
        averages = {group.name: AveragePolicy(networks.average(group.name), greedy=False) for group in spec.groups}
        return {
            group.name: NFSPPolicy(best_responses[group.name], averages[group.name], group, self.config.anticipatory)
            for group in spec.groups
        }

    def frozen_policies(self, spec: EnvironmentSpec, networks: NFSPNetworks, *, greedy: bool) -> dict[str, Policy]:
        """Makes the average policies."""
        return {group.name: AveragePolicy(networks.average(group.name), greedy=greedy) for group in spec.groups}

    def make_dataset(self, spec: EnvironmentSpec, policies: Mapping[str, Policy], context: RunContext) -> NFSPDataset:
        best_responses = {
            name: policy.best_response for name, policy in policies.items() if isinstance(policy, NFSPPolicy)
        }
        replay = self.best_response.make_dataset(spec, best_responses, context)
        assert isinstance(replay, ReplayDataset)
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
        return NFSPDataset(replay, reservoirs)

    def make_adder(self, spec: EnvironmentSpec, dataset: Dataset[Any], context: RunContext) -> ReservoirAdder:
        assert isinstance(dataset, NFSPDataset)
        adder = self.best_response.make_adder(spec, dataset.replay, context)
        return ReservoirAdder(adder, dataset.reservoirs, flag=BEST_RESPONSE)

    def make_learner(
        self, spec: EnvironmentSpec, networks: NFSPNetworks, dataset: Dataset[Any], context: RunContext
    ) -> NFSPLearner:
        assert isinstance(dataset, NFSPDataset)
        best_response = self.best_response.make_learner(spec, networks.best_response, dataset.replay, context)
        average = AveragePolicyLearner(
            networks.averages,
            dataset.reservoirs,
            self.config,
            context.communicator,
        )
        return NFSPLearner(best_response, average)

    def load_policies(self, networks: NFSPNetworks, state: State) -> None:
        parts = unflatten_state(state)
        self.best_response.load_policies(networks.best_response, parts["best"])
        networks.averages.load_state_dict(parts["averages"])
