"""E copies of a PettingZoo ParallelEnv, stepped one after the other and written together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marl.envs.infos import numbers_in
from marl.envs.pettingzoo.batch import EnvironmentBatch
from marl.envs.pettingzoo.rows import ApiError, Seat, brief, missing, read_observation, write_rows

RESULTS = ("observations", "rewards", "terminations", "truncations", "infos")


class ParallelEnvironmentBatch(EnvironmentBatch):
    """E ParallelEnvs; see PettingZooVectorEnvironment.

    In the usual step of a copy everybody is alive and stays so: that takes a few C-level calls beside ``env.step``.
    Deaths, births and endings take a slower path.
    """

    def _prepare(self) -> None:
        storage = self._storage
        seats, num_envs = storage.seats, storage.num_envs
        self._agents = [seat.agent for seat in seats]
        self._everybody = getter(self._agents)
        self._groups = [[seat for seat in seats if seat.group == index] for index in range(len(storage.groups))]
        self._gather = [gatherer(group) for group in self._groups]
        self._alive = [[False] * len(seats) for _ in range(num_envs)]
        self._alive_count = [0] * num_envs
        self._observations: list[list[Any]] = [[] for _ in self._groups]
        self._masks: list[list[Any]] = [[] for _ in self._groups]
        self._rewards: list[Any] = []
        self._full_masks = [
            np.ones(0 if group.masks is None else group.masks.shape[-1], dtype=bool) for group in storage.groups
        ]
        self._names = [[(agent, e) for e in range(num_envs) for agent in group.spec.agents] for group in storage.groups]

    def reset(self, window: slice) -> None:
        self._open()
        for copy in range(window.start, window.stop):
            self._begin(copy)
            self._rewards += [0.0] * len(self._agents)
        self._flush(window)

    def step(self, window: slice, actions: Sequence[Sequence[Any]]) -> None:
        self._open()
        step = self._step
        for copy, choices in enumerate(actions, window.start):
            step(copy, choices)
        self._flush(window)

    def _open(self) -> None:
        self._storage.begin_step()
        # Whatever a step that raised has left.
        self._rewards.clear()
        for rows, masks in zip(self._observations, self._masks, strict=True):
            rows.clear()
            masks.clear()

    def _step(self, copy: int, actions: Sequence[Any]) -> None:
        environment = self._environments[copy]
        count = len(self._agents)
        try:
            if self._alive_count[copy] == count:
                result = environment.step(dict(zip(self._agents, actions)))  # noqa: B905 (equal lengths)
            else:
                alive = self._alive[copy]
                result = environment.step(
                    {agent: action for agent, action, acts in zip(self._agents, actions, alive, strict=True) if acts}
                )
        except Exception as error:
            self._failures.note(copy, error)
            alive = self._alive[copy]
            self._storage.drop_episode(copy, [s for s, lives in zip(self._storage.seats, alive, strict=True) if lives])
            self._rewards += [0.0] * count
            self._begin(copy)
            return
        try:
            observed, rewards, terminated, truncated, infos = result
            if (
                self._alive_count[copy] != count
                or True in terminated.values()
                or True in truncated.values()
                or len(environment.agents) != count
                or len(terminated) < count
                or len(truncated) < count
            ):
                self._take(copy, observed, rewards, terminated, truncated, infos)
                return
            received = self._everybody(rewards)
            for index, gather in enumerate(self._gather):
                gather(observed, infos, self._observations[index], self._masks[index])
            self._rewards += received
        except ApiError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError):
            self._explain(copy, result)
            raise

    def _take(self, copy: int, observed: Any, rewards: Any, terminated: Any, truncated: Any, infos: Any) -> None:
        """Takes in a step in which somebody was not alive, was born, or died."""
        storage, alive, gone = self._storage, self._alive[copy], self._gone[copy]
        everybody = self._alive_count[copy] == len(self._agents)
        present = set(self._environments[copy].agents)
        self._storage.check_known(present, copy)
        rows: list[list[Any]] = [[] for _ in self._groups]
        masks: list[list[Any]] = [[] for _ in self._groups]
        for index, seat in enumerate(storage.seats):
            agent, was_alive = seat.agent, alive[index]
            now_alive = agent in present
            if was_alive:
                for what, values in (("rewards", rewards), ("terminations", terminated), ("truncations", truncated)):
                    if agent not in values:
                        missing(what, agent, copy)
                ends, cut = bool(terminated[agent]), bool(truncated[agent])
                if ends or cut:
                    storage.flag(copy, seat, terminated=ends, truncated=cut)
                    now_alive = False
                    gone.add(agent)
                elif not now_alive:
                    raise ApiError(
                        "an agent leaves only when it is terminated or truncated",
                        agent=agent,
                        copy=copy,
                        detail="it is not in env.agents any more",
                    )
            elif now_alive and agent in gone:
                raise ApiError("a dead agent stays dead", agent=agent, copy=copy, detail="it is in env.agents again")
            if now_alive and agent not in observed:
                missing("observations", agent, copy)
            alive[index] = now_alive
            self._rewards.append(rewards[agent] if was_alive else rewards.get(agent, 0.0) if now_alive else 0.0)
            group = storage.groups[seat.group]
            raw = observed.get(agent) if was_alive or now_alive else None
            if raw is not None:
                rows[seat.group].append(seat.reader.read(raw))
                if seat.masked:
                    masks[seat.group].append(seat.read_mask(raw, infos.get(agent)))
            else:
                rows[seat.group].append(group.observations[copy, seat.row])
                if seat.masked:
                    masks[seat.group].append(self._full_masks[seat.group])
        self._alive_count[copy] = sum(alive)
        if self._alive_count[copy]:
            for index in range(len(rows)):
                self._observations[index] += rows[index]
                self._masks[index] += masks[index]
            self._mark_active(copy)
            return
        if numbers := numbers_in(infos):
            storage.infos[copy] = numbers
        self._finish(copy, rows, masks, everybody)
        self._begin(copy)

    def _finish(self, copy: int, rows: list[list[Any]], masks: list[list[Any]], everybody: bool) -> None:
        """Keeps the last observations of an episode, before the copy is reset."""
        storage = self._storage
        self._failures.forget(copy)
        last = len(storage.ended)
        storage.ended.append(copy)
        for index, group in enumerate(storage.groups):
            names = [(agent, copy) for agent in group.spec.agents]
            write_rows(rows[index], group.final_observations[last], names=names, what="observation")
            if group.final_masks is not None:
                out = group.final_masks[last]
                write_rows(masks[index], out, names=names, what="action mask", casting="unsafe")
        if self._state is None or storage.state is None or storage.final_state is None:
            return
        if self._state.assembled and (everybody or not self._state.own):
            self._state.assemble_final(last)
        else:
            storage.final_state[last] = self._state.read(self._environments[copy], copy)

    def _begin(self, copy: int) -> None:
        storage = self._storage
        result = self._reset_environment(copy)
        if not (isinstance(result, tuple) and len(result) == 2 and all(isinstance(part, Mapping) for part in result)):
            raise ApiError("reset returns observations and infos", copy=copy, detail=f"it returned {brief(result)}")
        observed, infos = result
        present = self._agents_after_reset(copy)
        for index, seat in enumerate(storage.seats):
            alive = seat.agent in present
            self._alive[copy][index] = alive
            if alive and seat.agent not in observed:
                missing("observations", seat.agent, copy)
            group = storage.groups[seat.group]
            if alive:
                raw = observed[seat.agent]
                self._observations[seat.group].append(read_observation(seat, raw, copy))
                if seat.masked:
                    self._masks[seat.group].append(seat.read_mask(raw, infos.get(seat.agent)))
            else:
                self._observations[seat.group].append(np.zeros_like(group.observations[copy, seat.row]))
                if seat.masked:
                    self._masks[seat.group].append(self._full_masks[seat.group])
        self._alive_count[copy] = len(present)
        self._mark_active(copy)
        storage.begin_episode(copy)

    def _mark_active(self, copy: int) -> None:
        for seat, alive in zip(self._storage.seats, self._alive[copy], strict=True):
            self._storage.groups[seat.group].active[copy, seat.row] = alive

    def _flush(self, window: slice) -> None:
        """Writes the collected rows of the copies in the window."""
        storage = self._storage
        count = window.stop - window.start
        rewards = self._received(window)
        offset = 0
        for index, group in enumerate(storage.groups):
            size = group.spec.size
            names = self._names[index]
            if count != storage.num_envs:
                names = names[window.start * size : window.stop * size]
            out = group.observations[window]
            write_rows(
                self._observations[index], out.reshape(count * size, *out.shape[2:]), names=names, what="observation"
            )
            if group.masks is not None:
                out = group.masks[window].reshape(count * size, -1)
                write_rows(self._masks[index], out, names=names, what="action mask", casting="unsafe")
            group.rewards[window] = rewards[:, offset : offset + size]
            offset += size
        if self._state is not None:
            self._write_states(window)
        storage.fill_masks()
        storage.check_finite()

    def _received(self, window: slice) -> NDArray[np.float32]:
        try:
            rewards = np.array(self._rewards, dtype=np.float32)
        except (TypeError, ValueError):
            rewards = np.empty((0, 0), dtype=np.float32)
        if rewards.ndim != 1:
            for index, reward in enumerate(self._rewards):
                if not isinstance(reward, (int, float, np.number)):
                    copy, agent = divmod(index, len(self._agents))
                    raise ApiError(
                        "a reward is a number",
                        agent=self._agents[agent],
                        copy=window.start + copy,
                        detail=f"it is {brief(reward)}",
                    )
        return rewards.reshape(-1, len(self._agents))

    def _write_states(self, window: slice) -> None:
        source, storage = self._state, self._storage
        assert source is not None
        assert storage.state is not None
        if source.assembled:
            if window.stop - window.start == storage.num_envs:
                source.assemble_all()
            else:
                source.assemble(window.start)
        if source.own:
            count = len(self._agents)
            for copy in range(window.start, window.stop):
                # Without everybody alive nothing is known of the order that the environment keeps.
                if not source.assembled or self._alive_count[copy] != count:
                    storage.state[copy] = source.read(self._environments[copy], copy)

    def _explain(self, copy: int, result: Any) -> None:
        """Raises ApiError if the result of a step is not what PettingZoo says."""
        if not isinstance(result, tuple) or len(result) != len(RESULTS):
            raise ApiError(f"step returns {', '.join(RESULTS)}", copy=copy, detail=f"it returned {brief(result)}")
        for what, values in zip(RESULTS, result, strict=True):
            if not isinstance(values, Mapping):
                raise ApiError(f"{what} are a dictionary by agent", copy=copy, detail=f"got {brief(values)}")
        for seat, alive in zip(self._storage.seats, self._alive[copy], strict=True):
            if not alive:
                continue
            for what, values in zip(RESULTS[:-1], result, strict=False):
                if seat.agent not in values:
                    missing(what, seat.agent, copy)
            read_observation(seat, result[0][seat.agent], copy)


Gather = Callable[[Any, Any, list[Any], list[Any]], None]


def gatherer(seats: Sequence[Seat]) -> Gather:
    """Appends a group's observations and masks to lists of rows, as fast as its spaces allow."""
    get = getter([seat.agent for seat in seats])
    if all(seat.reader.plain and not seat.masked for seat in seats):

        def gather(observed: Any, infos: Any, rows: list[Any], masks: list[Any]) -> None:
            rows += get(observed)

    else:

        def gather(observed: Any, infos: Any, rows: list[Any], masks: list[Any]) -> None:
            for seat, raw in zip(seats, get(observed), strict=True):
                rows.append(seat.reader.read(raw))
                if seat.masked:
                    masks.append(seat.read_mask(raw, infos.get(seat.agent)))

    return gather


def getter(keys: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """A function from a dictionary to the tuple of the values of ``keys``."""
    if len(keys) == 1:
        (key,) = keys
        return lambda values: (values[key],)
    return itemgetter(*keys)
