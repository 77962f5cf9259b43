"""The interfaces, all of them. Every agent is made of these parts, and this is how they meet:

    environment = make_environment(...)                   # a VectorEnvironment: E copies of one environment
    networks = builder.make_networks(environment.spec)
    replay = builder.make_replay(...)
    learner = builder.make_learner(networks, builder.make_dataset(replay), communicator)
    actor = builder.make_actor(builder.make_policy(networks), builder.make_adder(replay), learner)

    timestep = environment.reset()
    actor.observe_first(timestep)
    while counter.env_steps < budget:
        actions = actor.select_actions(timestep)          # groups in, groups out
        timestep = environment.step(actions)
        actor.observe(actions, timestep)                  # through the adder into replay
        while dataset.ready():                            # decided on global counts: the same on every rank
            metrics = learner.step()                      # one update; gradients meet in one all-reduce
            actor.update()

Every rank runs this same loop over its own copies. No part knows how many ranks there are, except through the
Communicator that it was handed. What a part must remember, it gives to checkpoints as tensors: ``state_dict``
for what is equal on all ranks, ``env_state_dict`` for what belongs to environment copies (leading dimension
E), so that a run can go on with another number of ranks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from torch import Tensor

from marl.specs import EnvironmentSpec, Sharing
from marl.types import Actions, TimeStep

Sample = TypeVar("Sample")
State = dict[str, Tensor]
"""What checkpoints hold: named tensors. Nested parts use dotted names."""
Metrics = Mapping[str, float]


class Saveable:
    """A part with something to remember; the defaults are for parts without."""

    def state_dict(self) -> State:
        """Tensors that are equal on all ranks."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Takes back what ``state_dict`` gave; raises ValueError or KeyError if it does not fit."""

    def env_state_dict(self) -> State:
        """Tensors with one row an environment copy of this rank, (E, ...)."""
        return {}

    def load_env_state_dict(self, state: State) -> None:
        """Takes back the rows of this rank's copies."""


class VectorEnvironment(Saveable, ABC):
    """E copies of one environment, stepped together; episodes reset by themselves (see TimeStep)."""

    spec: EnvironmentSpec
    num_envs: int

    @abstractmethod
    def reset(self) -> TimeStep:
        """Begins a new episode in every copy."""

    @abstractmethod
    def step(self, actions: Actions) -> TimeStep:
        """Takes one step in every copy. In turn-based games that is one turn."""

    def current(self) -> TimeStep:
        """The newest time step once more; after ``load_env_state_dict``, the one that was saved."""
        raise NotImplementedError(f"{type(self).__name__} cannot be resumed in the middle of an episode")

    def close(self) -> None:
        """Frees what the copies hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentRequest:
    """What a process asks of an environment factory."""

    num_envs: int
    """Copies on this rank, E."""
    first_env: int = 0
    """Global index of the first of them; copy e draws its episodes' seeds from ``first_env + e``."""
    seed: int = 0
    purpose: str = "train"
    """Part of every seed, so that evaluation never repeats training episodes."""
    sharing: Sharing = "spaces"
    with_state: bool = True
    """Whether time steps need the global state."""


EnvironmentFactory = Callable[[EnvironmentRequest], VectorEnvironment]


class VariableSource(ABC):
    """Whoever owns parameters that others act with."""

    @abstractmethod
    def get_variables(self) -> State:
        """The newest parameters, by name."""


class Adder(Saveable, ABC):
    """Turns steps into items of replay; it alone interprets active, terminated and truncated for its learner."""

    @abstractmethod
    def add_first(self, timestep: TimeStep) -> None:
        """Begins with the environment's first time step."""

    @abstractmethod
    def add(self, actions: Actions, extras: Mapping[str, State], timestep: TimeStep) -> None:
        """Adds what was done at the previous time step, what the policy noted, and where it led."""


class Actor(Saveable, ABC):
    """Acts for all groups in all copies, and passes experience on."""

    @abstractmethod
    def select_actions(self, timestep: TimeStep) -> Actions:
        """Actions for every group."""

    @abstractmethod
    def observe_first(self, timestep: TimeStep) -> None:
        """Is told of the environment's first time step."""

    @abstractmethod
    def observe(self, actions: Actions, timestep: TimeStep) -> None:
        """Is told where its actions led."""

    @abstractmethod
    def update(self) -> None:
        """Fetches the newest parameters, where they are not shared anyway."""


class Dataset(Saveable, ABC, Generic[Sample]):
    """Where a learner takes its samples."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether the learner should take its next sample now. The same on all ranks."""

    def at_boundary(self) -> bool:
        """Whether a checkpoint taken now loses nothing that was gathered for the next sample."""
        return True

    def clear(self) -> None:
        """Forgets what was gathered, where it outlives an update, for a learner that begins anew."""

    @abstractmethod
    def sample(self) -> Sample:
        """This rank's share of the next global sample; it may be empty."""


class Learner(VariableSource, Saveable):
    """Improves parameters; replicas on all ranks stay equal."""

    @abstractmethod
    def step(self) -> Metrics:
        """One update; returns figures already reduced over ranks."""


class Communicator(ABC):
    """What ranks do together. Tensors are contiguous; all calls are collective and in the same order everywhere."""

    rank: int
    size: int

    @abstractmethod
    def all_reduce(self, tensor: Tensor, operation: Literal["sum", "min", "max"] = "sum") -> None:
        """Reduces a tensor over ranks, in place."""

    @abstractmethod
    def broadcast(self, tensor: Tensor, root: int = 0) -> None:
        """Overwrites every rank's tensor with the root's."""

    @abstractmethod
    def gather_rows(self, tensor: Tensor) -> Tensor:
        """All ranks' rows in rank order on rank 0, an empty tensor elsewhere; only numbers of rows may differ."""

    @abstractmethod
    def abort(self, code: int) -> None:
        """Ends the whole job at once."""


class Logger(ABC):
    """Takes rows of named figures."""

    @abstractmethod
    def write(self, row: Mapping[str, float]) -> None:
        """Takes one row; keys may differ from row to row."""

    def close(self) -> None:
        """Flushes and frees."""
