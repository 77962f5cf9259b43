"""E copies of any PettingZoo environment as one VectorEnvironment, stepped in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from marl.core import EnvironmentRequest, State, VectorEnvironment
from marl.envs.borders.process_state import ProcessState
from marl.envs.pettingzoo.aec import AECEnvironmentBatch
from marl.envs.pettingzoo.batch import EnvironmentBatch
from marl.envs.pettingzoo.failures import Failures
from marl.envs.pettingzoo.history import History
from marl.envs.pettingzoo.parallel import ParallelEnvironmentBatch
from marl.envs.pettingzoo.probe import probe_environment
from marl.envs.pettingzoo.rows import ApiError, Seat
from marl.envs.pettingzoo.spaces import Array
from marl.envs.pettingzoo.storage import Storage
from marl.errors import InputError
from marl.random_streams import derive_int
from marl.resources.closing import close_all
from marl.specs import EnvironmentSpec, group_agents
from marl.types import Actions, TimeStep

_OUTCOMES = ("rewards", "terminated", "truncated")
MakeEnvironment = Callable[[], Any]


class PettingZooVectorEnvironment(VectorEnvironment):
    """E copies of one PettingZoo environment, Parallel or AEC, unmodified.

    - Episode k of the copy with global index c is reset with a seed derived from (seed, purpose, c, k), so episodes
      depend neither on ranks nor on each other.
    - An episode ends when nobody is left alive. Agents that die before are inactive from then on; their rows keep
      what they saw last, which is what a truncated agent is bootstrapped from.
    - In AEC environments a step is one turn (see AECEnvironmentBatch). Rows of agents that are not to move keep
      what they saw at their own last turn, zeros before the first.
    - An agent that is both terminated and truncated counts as terminated.
    - The state is ``env.state()`` where that exists and works, else all agents' observations in sorted order. Many
      environments (all of MPE) compute their observations once more for ``state()``; so a separate probe instance
      plays some random steps at construction, and where ``state()`` was every time bit for bit the concatenation of
      the observations in the order of ``possible_agents``, it is put together from the observations that are there
      anyway while everybody is alive.

    Args:
        make: makes one environment; called E + 1 times.
        request: how many copies, their seeds, policy sharing, and whether states are wanted.
        max_failures: episodes in a row that a copy may lose because the environment raised; such an episode is cut
            off and marked (``FinalStep.dropped``), and the copy begins its next. With 0, exceptions pass through.

    Raises:
        InputError: ``make`` does not return a PettingZoo environment.
        SpecError: spaces that cannot be described.
        ApiError: the environment breaks a rule of PettingZoo (also raised by ``reset`` and ``step``).
    """

    not_reproduced: int
    """Copies whose episode could not be replayed by ``load_env_state_dict`` and was begun anew."""

    def __init__(self, make: MakeEnvironment, request: EnvironmentRequest, *, max_failures: int = 0) -> None:
        if request.num_envs < 1:
            raise InputError(f"an environment needs at least one copy, not {request.num_envs}")
        self._request = request
        self._process_state = ProcessState()
        with self._process_state:
            probe = make()
            description = probe_environment(probe, with_state=request.with_state)
        self.spec = EnvironmentSpec(
            groups=group_agents(description.agents, request.sharing),
            state=None if description.state is None else description.state.spec,
            turn_based=description.turn_based,
        )
        self.num_envs = request.num_envs
        self.not_reproduced = 0
        places = {
            agent: (index, row)
            for index, group in enumerate(self.spec.groups)
            for row, agent in enumerate(group.agents)
        }
        self._seats = [
            Seat(
                agent=agent,
                group=group,
                row=row,
                reader=description.readers[agent],
                writer=description.writers[agent],
                mask_in_info=agent in description.masks_in_info,
            )
            for agent, (group, row) in sorted(places.items(), key=lambda item: item[1])
        ]
        self._storage = Storage(self.spec, self._seats, self.num_envs)
        if description.state is not None:
            description.state.bind(self._storage)
        with self._process_state:
            environments = [make() for _ in range(self.num_envs)]
        # The probe is closed with the others: closing one pygame environment may stop pygame for all.
        self._environments = [*environments, probe]
        kind = AECEnvironmentBatch if description.turn_based else ParallelEnvironmentBatch
        failures = Failures(self.num_envs, max_failures, request.first_env)
        self._envs: EnvironmentBatch = kind(environments, self._storage, description.state, self._next_seed, failures)
        self._episodes = np.full(self.num_envs, -1, dtype=np.int64)
        self._all_envs = slice(0, self.num_envs)
        self._encode = [
            _encoder([seat for seat in self._seats if seat.group == index]) for index in range(len(self.spec.groups))
        ]
        self._history = History(self.spec, self.num_envs)
        self._look: Callable[[int], object] | None = None

    def reset(self) -> TimeStep:
        try:
            with self._process_state:
                self._envs.reset(self._all_envs)
        except ApiError as error:
            raise error.at(when="its first reset").counted_from(self._request.first_env) from None
        self._history.restart(self._storage.first)
        return self._storage.timestep()

    def step(self, actions: Actions) -> TimeStep:
        """Takes one step in every copy; a turn where the environment is turn-based.

        Args:
            actions: one tensor a group; see ``marl.types.Actions``.

        Raises:
            ValueError: actions of another shape, or for other groups.
            ApiError: the environment breaks a rule of PettingZoo.
        """
        if self._episodes[0] < 0:
            raise ValueError("reset must be called before step")
        arrays = self._arrays(actions)
        self._history.append(arrays)
        choices = self._choices(arrays)
        try:
            with self._process_state:
                self._envs.step(self._all_envs, choices)
        except ApiError as error:
            raise error.at(when=self._when(error)).counted_from(self._request.first_env) from None
        if self._storage.ended:
            self._history.restart(self._storage.first)
        return self._storage.timestep()

    def current(self) -> TimeStep:
        """The newest time step once more; after ``load_env_state_dict`` the saved one, but without ``final``."""
        if self._episodes[0] < 0:
            raise ValueError("there is no time step before reset")
        return self._storage.timestep()

    @property
    def changed_settings(self) -> tuple[str, ...]:
        """Settings of the whole process that the environment changed; they are put back after each of its calls."""
        return self._process_state.changed

    @property
    def seats(self) -> tuple[Seat, ...]:
        """All agents' seats, in the order of groups and then of names."""
        return tuple(self._seats)

    def render(self, copy: int) -> Any:
        """Renders one copy; made with ``render_mode="rgb_array"``, it returns a picture."""
        with self._process_state:
            return self._environments[copy].render()

    def look_at_endings(self, look: Callable[[int], object]) -> None:
        """Has ``look(copy)`` called before a copy begins its next episode, while its last position still stands."""
        self._look = look

    def close(self) -> None:
        close_all(self._environments, "an environment", quiet=self._request.first_env > 0)
        # Each may keep a file open as long as it lives, mpe2's a font: they go with whoever closes them.
        self._environments.clear()
        self._envs.release()

    def env_state_dict(self) -> State:
        """The copies by what made them: episode numbers, the actions since each reset, and a hash to check against.

        Returns:
            ``episode`` (E,), ``length`` (E,) steps since the reset, ``hash`` (E,) of the current rows, all int64;
            for each group ``actions.GROUP`` (E, L, A, ...) with L the longest episode so far (zeros beyond a copy's
            length, so more may be appended), and its ``rewards``, ``terminated`` and ``truncated``, (E, A).
        """
        state: State = {
            "episode": torch.from_numpy(self._episodes.copy()),
            "length": torch.from_numpy(self._history.lengths()),
            "hash": torch.tensor([self._hash(copy) for copy in range(self.num_envs)], dtype=torch.int64),
        }
        for name, rows in self._history.save().items():
            state[f"actions.{name}"] = rows
        for group in self._storage.groups:
            for field in _OUTCOMES:
                state[f"{field}.{group.spec.name}"] = getattr(group.step, field).clone()
        return state

    def load_env_state_dict(self, state: State) -> None:
        """Resets every copy with its seed and replays its actions.

        A copy whose observations differ from the saved hash afterwards (its environment is not deterministic) begins
        its next episode instead, and is counted in ``not_reproduced``.

        Raises:
            ValueError: the rows are not those of E copies, or an entry is missing.
        """
        names = ["episode", "length", "hash"]
        names += [f"{field}.{group.name}" for group in self.spec.groups for field in _OUTCOMES]
        for name in names:
            if name not in state:
                raise ValueError(f"the saved environment has no {name}")
            if state[name].shape[0] != self.num_envs:
                raise ValueError(f"the saved {name} has {state[name].shape[0]} rows, not {self.num_envs}")
        lengths = state["length"].tolist()
        reproduced = []
        saved = [state[f"actions.{group.name}"].numpy() for group in self.spec.groups]
        for copy in range(self.num_envs):
            self._episodes[copy] = int(state["episode"][copy]) - 1
            window = slice(copy, copy + 1)
            # All rows of the copy's episode at once: (L, A, ...) a group.
            choices = self._choices([rows[copy, : lengths[copy]] for rows in saved])
            try:
                with self._process_state:
                    self._envs.reset(window)
                    for row in choices:
                        self._envs.step(window, [row])
                        if self._storage.ended:
                            break
                same = not self._storage.ended and self._hash(copy) == int(state["hash"][copy])
            except ApiError:
                same = False
            if not same:
                self.not_reproduced += 1
                self._episodes[copy] = int(state["episode"][copy])
                with self._process_state:
                    self._envs.reset(window)
                lengths[copy] = 0
            reproduced.append(same)
        self._storage.begin_step()
        for copy, same in enumerate(reproduced):
            rows = [[state[f"{field}.{group.name}"][copy].numpy() for field in _OUTCOMES] for group in self.spec.groups]
            self._storage.restore(copy, first=lengths[copy] == 0, rows=rows if same else None)
        self._history.load(saved, lengths)

    def _next_seed(self, copy: int) -> int:
        if self._look is not None and self._episodes[copy] >= 0:
            self._look(copy)
        self._episodes[copy] += 1
        request = self._request
        return derive_int(
            request.seed, f"{request.purpose}/environment", request.first_env + copy, int(self._episodes[copy])
        )

    def _when(self, error: ApiError) -> str | None:
        if error.copy is None:
            return None
        if self._storage.first[error.copy]:
            return "the end of an episode or the beginning of the next"
        return f"{'turn' if self.spec.turn_based else 'step'} {self._history.lengths()[error.copy]}"

    def _arrays(self, actions: Actions) -> list[Array]:
        """The groups' actions as arrays (E, A, ...), after a look at their shapes."""
        if len(actions) != len(self.spec.groups):
            raise ValueError(
                f"actions are for {sorted(actions)}, but the groups are {[g.name for g in self.spec.groups]}"
            )
        arrays = []
        for group in self.spec.groups:
            tensor = actions[group.name]
            expected = (self.num_envs, group.size, *group.action.array.shape)
            if tensor.shape != expected or tensor.dtype != group.action.array.dtype:
                raise ValueError(
                    f"actions of {group.name} are {tuple(tensor.shape)} {tensor.dtype}, "
                    f"and should be {expected} {group.action.array.dtype}"
                )
            arrays.append(tensor.detach().cpu().numpy())
        return arrays

    def _choices(self, arrays: Sequence[Array]) -> list[list[Any]]:
        """Rows of actions, (N, A, ...) a group, as N lists of what the environment takes, in the order of seats."""
        sizes = [group.size for group in self.spec.groups]
        rows = [encode(array) for encode, array in zip(self._encode, arrays, strict=True)]
        parts = [
            [flat[start : start + size] for start in range(0, len(flat), size)]
            for flat, size in zip(rows, sizes, strict=True)
        ]
        if len(parts) == 1:
            return parts[0]
        return [[choice for part in row for choice in part] for row in zip(*parts, strict=True)]

    def _hash(self, copy: int) -> int:
        digest = hashlib.blake2b(digest_size=8)
        for group in self._storage.groups:
            digest.update(group.observations[copy].tobytes())
            digest.update(group.active[copy].tobytes())
            if group.masks is not None:
                digest.update(group.masks[copy].tobytes())
        return int.from_bytes(digest.digest(), "big", signed=True)


def _encoder(seats: Sequence[Seat]) -> Callable[[Array], list[Any]]:
    """From a group's rows (N, A, ...) to N · A actions, copy after copy."""
    writers = [seat.writer for seat in seats]
    if all(writer.space == writers[0].space for writer in writers):
        return lambda rows: writers[0].write(rows.reshape(-1, *rows.shape[2:]))

    def encode(rows: Array) -> list[Any]:
        columns = [writer.write(rows[:, index]) for index, writer in enumerate(writers)]
        return [choice for row in zip(*columns, strict=True) for choice in row]

    return encode
