"""The interfaces of an agent's parts, all of them, and the loop in which they meet:

    environment = make_environment(request)  # a VectorEnvironment: E copies of one environment
    spec = environment.spec
    networks = builder.make_networks(spec)
    policies = builder.make_policies(spec, networks, evaluation=False, context=context)
    dataset = builder.make_dataset(spec, policies, context)
    learner = builder.make_learner(spec, networks, dataset, context)
    actor = make_policy_actor(spec, policies, context, builder.make_adder(spec, dataset, context))
    timestep = environment.reset()
    actor.observe_first(timestep)
    while context.counter.env_steps < context.total_steps:
        actions = actor.select_actions(timestep)  # groups in, groups out
        timestep = environment.step(actions)
        actor.observe(actions, timestep)  # through the adder into the dataset
        context.counter.env_steps += context.total_envs
        while dataset.ready():  # the same on every rank: it goes by global counts
            metrics = learner.step()  # one update; gradients meet in one all-reduce
            actor.update()

Every rank runs this loop over its own environments, and no part knows how many ranks there are, except through its
context and Communicator. So checkpoints, which hold all parts' states, resume on any number of ranks.
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
State = dict[str, Tensor]  # named tensors, as checkpoints hold them; nested parts use dotted names
Metrics = Mapping[str, float]


class Saveable:
    """A part whose state is saved in checkpoints; the defaults are for parts without state."""

    def state_dict(self) -> State:
        """Tensors that are equal on all ranks."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Restores what ``state_dict`` returned; raises ValueError or KeyError if it does not fit."""

    def env_state_dict(self) -> State:
        """Tensors with one row for each environment of this rank, (E, ...)."""
        return {}

    def load_env_state_dict(self, state: State) -> None:
        """Restores the rows of this rank's environments."""


class VectorEnvironment(Saveable, ABC):
    """E copies of one environment, stepped together; episodes reset automatically (see TimeStep)."""

    spec: EnvironmentSpec
    num_envs: int

    @abstractmethod
    def reset(self) -> TimeStep:
        """Starts a new episode in every environment."""

    @abstractmethod
    def step(self, actions: Actions) -> TimeStep:
        """Steps every environment once. In turn-based games that is one turn."""

    def current(self) -> TimeStep:
        """Returns the newest time step again; after ``load_env_state_dict``, the one that was saved."""
        raise NotImplementedError(f"{type(self).__name__} cannot be resumed in the middle of an episode")

    def close(self) -> None:
        """Frees resources."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentRequest:
    """A process's request to an environment factory."""

    num_envs: int
    """Environments on this rank, E."""
    first_env: int = 0
    """Global index of the first of them; environment e draws its episodes' seeds from ``first_env + e``."""
    seed: int = 0
    purpose: str = "train"
    """Part of every seed, so that evaluation never repeats training episodes."""
    sharing: Sharing = "spaces"
    with_state: bool = True
    """Whether time steps need the global state."""


EnvironmentFactory = Callable[[EnvironmentRequest], VectorEnvironment]


class VariableSource(ABC):
    """A source of parameters for actors."""

    @abstractmethod
    def get_variables(self) -> State:
        """Returns the newest parameters, by name."""


class Adder(Saveable, ABC):
    """Adds experience to a dataset; it alone interprets active, terminated and truncated for its learner."""

    @abstractmethod
    def add_first(self, timestep: TimeStep) -> None:
        """Adds the environment's first time step."""

    @abstractmethod
    def add(self, actions: Actions, extras: Mapping[str, State], timestep: TimeStep) -> None:
        """Adds actions at the previous time step, the policies' extras, and the resulting time step."""


class Actor(Saveable, ABC):
    """Acts for all groups in all environments, and passes experience on."""

    @abstractmethod
    def select_actions(self, timestep: TimeStep) -> Actions:
        """Selects actions for every group."""

    @abstractmethod
    def observe_first(self, timestep: TimeStep) -> None:
        """Observes the environment's first time step."""

    @abstractmethod
    def observe(self, actions: Actions, timestep: TimeStep) -> None:
        """Observes actions and the resulting time step."""

    @abstractmethod
    def update(self) -> None:
        """Fetches the newest parameters, unless they are shared."""


class Dataset(Saveable, ABC, Generic[Sample]):
    """A source of samples for a learner."""

    @property
    def refills(self) -> bool:
        """True if a checkpoint was loaded that does not hold its experience, so that it starts empty."""
        return False

    @abstractmethod
    def ready(self) -> bool:
        """Returns whether the learner should take its next sample now; the same on all ranks."""

    def at_boundary(self) -> bool:
        """Returns whether a checkpoint taken now loses nothing that was gathered for the next sample."""
        return True

    def clear(self) -> None:
        """Discards experience that outlives an update, for a learner that is reset."""

    @abstractmethod
    def sample(self) -> Sample:
        """Returns this rank's share of the next global sample; it may be empty."""


class Learner(VariableSource, Saveable):
    """Updates parameters; replicas on all ranks stay equal."""

    @abstractmethod
    def step(self) -> Metrics:
        """Performs one update; returns metrics, reduced over ranks."""


class Communicator(ABC):
    """Collectives of all ranks, which call them in the same order. Tensors are contiguous."""

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
        """Returns all ranks' rows in rank order on rank 0, an empty tensor elsewhere; only their numbers may differ."""

    def cast_vote(self, element: Tensor) -> None:
        """Writes this rank's vote to stop, if there is a vote, into an element that is summed with the gradients."""

    def read_vote(self, element: Tensor) -> None:
        """Reads the outcome from the sum of all ranks' votes."""

    @abstractmethod
    def abort(self, code: int) -> None:
        """Ends the job on all ranks at once."""
