"""The actor that acts with one policy a group, and its random numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from marl.core import Actor, Adder, Saveable, State
from marl.policy import Policy
from marl.random_streams import Stream
from marl.types import Actions, TimeStep

_NOISE_ROWS = 32


class ActingNoise(Saveable):
    """The uniform random numbers of all groups' decisions, step by step; made for several steps at once.

    Args:
        counts: numbers that one agent's decision needs, by group.
        group_sizes: agents of each group.
        num_envs: E, copies of this rank.
        seed: the experiment's seed.
        purpose: of the numbers.
        first_env: global index of this rank's first copy.
        device: of the numbers.
    """

    def __init__(
        self,
        counts: Mapping[str, int],
        group_sizes: Mapping[str, int],
        *,
        num_envs: int,
        seed: int,
        purpose: str,
        first_env: int,
        device: torch.device | str,
    ) -> None:
        self._shapes = {name: (num_envs, group_sizes[name], count) for name, count in counts.items()}
        self._widths = [size * count for _, size, count in self._shapes.values()]
        self._stream = Stream(seed, purpose, first_env=first_env, num_envs=num_envs, device=device)
        self._noise: Tensor | None = None
        self._steps = 0

    def next(self) -> dict[str, Tensor]:
        """(E, A, count) in (0, 1) for the next step, a group; groups that need none are left out."""
        if sum(self._widths) == 0:
            return {}
        row = self._steps % _NOISE_ROWS
        if row == 0 or self._noise is None:
            self._noise = self._stream.uniforms(self._steps - row, sum(self._widths), rows=_NOISE_ROWS)
        self._steps += 1
        parts = self._noise[row].split(self._widths, dim=-1)
        shaped = zip(self._shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in shaped if shape[-1]}

    def state_dict(self) -> State:
        """The number of steps taken, from which all random numbers follow."""
        return {"steps": torch.tensor(self._steps)}

    def load_state_dict(self, state: State) -> None:
        self._steps = int(state["steps"])
        self._noise = None


class PolicyActor(Actor):
    """Acts with one policy a group; the same class trains, evaluates and plays.

    Random numbers depend on the seed, the global copy index and the number of the step, not on the rank or on
    earlier draws; they are made for several steps at once.

    Args:
        policies: by group name.
        group_sizes: agents of each group.
        num_envs: E, copies of this rank.
        seed: the experiment's seed.
        purpose: of the random numbers ("act", "evaluate", ...).
        first_env: global index of this rank's first copy.
        adder: receives the experience; None for evaluation.
        device: of the policies.
    """

    def __init__(
        self,
        policies: Mapping[str, Policy],
        group_sizes: Mapping[str, int],
        *,
        num_envs: int,
        seed: int,
        purpose: str = "act",
        first_env: int = 0,
        adder: Adder | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._policies = dict(policies)
        self._adder = adder
        self._noise = ActingNoise(
            {name: policy.num_uniforms for name, policy in self._policies.items()},
            group_sizes,
            num_envs=num_envs,
            seed=seed,
            purpose=purpose,
            first_env=first_env,
            device=device,
        )
        self._states = {name: policy.initial_state(num_envs) for name, policy in self._policies.items()}
        self._extras: dict[str, State] = {}

    @torch.inference_mode()
    def select_actions(self, timestep: TimeStep) -> Actions:
        noise = self._noise.next()
        actions: dict[str, Tensor] = {}
        for name, policy in self._policies.items():
            decision = policy.act(timestep.groups[name], timestep.first, self._states[name], noise.get(name))
            actions[name] = decision.actions
            self._extras[name] = decision.extras
            self._states[name] = decision.state
        return actions

    def observe_first(self, timestep: TimeStep) -> None:
        if self._adder is not None:
            self._adder.add_first(timestep)

    def observe(self, actions: Actions, timestep: TimeStep) -> None:
        if self._adder is not None:
            self._adder.add(actions, self._extras, timestep)

    def update(self) -> None:
        """Policies share the learner's parameters: nothing to fetch."""

    def state_dict(self) -> State:
        """The number of steps taken, from which all random numbers follow."""
        return self._noise.state_dict()

    def load_state_dict(self, state: State) -> None:
        self._noise.load_state_dict(state)

    def env_state_dict(self) -> State:
        """Recurrent states, (E, A, H) a group."""
        return {name: state for name, state in self._states.items() if state is not None}

    def load_env_state_dict(self, state: State) -> None:
        for name, present in self._states.items():
            if present is not None:
                self._states[name] = state[name].to(present)
