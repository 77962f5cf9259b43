"""E copies of a PettingZoo ParallelEnv, stepped one after the other and written together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from marl.envs.borders.infos import numbers_in
from marl.envs.pettingzoo.batch import EnvironmentBatch
from marl.envs.pettingzoo.rows import (
    ApiError,
    brief,
    contents,
    gatherer,
    getter,
    missing,
    read_observation,
    read_rewards,
    write_rows,
)
from marl.envs.pettingzoo.spaces import ACTION_MASK

WATCHED_STEPS = 32
"""In so many steps it is made sure that what a copy returned does not change while the next ones are stepped."""
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
        self._unmasked = [(seat.agent, seat) for seat in seats if not seat.masked]
        self._any_masked = len(self._unmasked) < len(seats)
        self._watched_steps = WATCHED_STEPS
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
        if self._watched_steps > 0:
            self._watch(window, actions)
        else:
            for copy, choices in enumerate(actions, window.start):
                step(copy, choices)
        self._flush(window)

    def _watch(self, window: slice, actions: Sequence[Sequence[Any]]) -> None:
        """Takes a step and raises ApiError where the copies write into each other's arrays."""
        self._watched_steps -= 1
        kept: list[list[bytes]] = [[] for _ in self._groups]
        for copy, choices in enumerate(actions, window.start):
            self._step(copy, choices)
            for rows, before in zip(self._observations, kept, strict=True):
                before += contents(rows[len(before) :])
        for group, rows, before in zip(self._groups, self._observations, kept, strict=True):
            for index, (now, was) in enumerate(zip(contents(rows), before, strict=True)):
                if now != was:
                    copy, seat = divmod(index, len(group))
                    raise ApiError(
                        "copies of an environment share no arrays",
                        agent=group[seat].agent,
                        copy=window.start + copy,
                        detail="its observation changed while another copy was stepped; make arrays in __init__, not "
                        "in the class or the module",
                    )

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
                self._alive_count[copy] == count
                and True not in terminated.values()
                and True not in truncated.values()
                and len(environment.agents) == count
                and len(terminated) >= count
                and len(truncated) >= count
            ):
                received = self._everybody(rewards)
                if infos:
                    for agent, seat in self._unmasked:
                        if (info := infos.get(agent)) and ACTION_MASK in info:
                            seat.check_unmasked(info)
                for index, gather in enumerate(self._gather):
                    gather(observed, infos, self._observations[index], self._masks[index])
                self._rewards += received
                return
            over = not self._take(copy, observed, rewards, terminated, truncated, infos)
        except ApiError as error:
            raise error.at(copy=copy) from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._explain(copy, result)
            raise ApiError(
                f"step returns {', '.join(RESULTS)}",
                copy=copy,
                detail=f"they cannot be read ({type(error).__name__}: {brief(error)})",
            ) from error
        if over:
            self._begin(copy)

    def _take(self, copy: int, observed: Any, rewards: Any, terminated: Any, truncated: Any, infos: Any) -> bool:
        """Takes in a step in which somebody was not alive, was born, or died; returns whether anybody is left."""
        storage, alive, gone = self._storage, self._alive[copy], self._gone[copy]
        everybody = self._alive_count[copy] == len(self._agents)
        present = set(self._environments[copy].agents)
        self._storage.check_known(present, copy)
        rows: list[list[Any]] = [[] for _ in self._groups]
        masks: list[list[Any]] = [[] for _ in self._groups]
        for index, seat in enumerate(storage.seats):
            agent, was_alive = seat.agent, alive[index]
            now_alive, ends, cut = agent in present, False, False
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
                rows[seat.group].append(read_observation(seat, raw, copy))
                info = infos.get(agent) if infos else None
                if seat.masked and cut and not ends:
                    masks[seat.group].append(group.last_mask(copy, seat.row, seat.read_last_mask(raw, info)))
                elif seat.masked:
                    masks[seat.group].append(seat.read_mask(raw, info))
                else:
                    seat.check_unmasked(info)
            else:
                rows[seat.group].append(group.observations[copy, seat.row])
                if group.masks is not None:
                    masks[seat.group].append(group.masks[copy, seat.row])
        self._alive_count[copy] = sum(alive)
        if self._alive_count[copy]:
            if listed := present & gone:
                raise ApiError(
                    "an agent that is terminated or truncated leaves env.agents",
                    agent=min(listed),
                    copy=copy,
                    detail="it is still listed, while others play on",
                )
            for index in range(len(rows)):
                self._observations[index] += rows[index]
                self._masks[index] += masks[index]
            self._mark_active(copy)
            return True
        if numbers := numbers_in(infos):
            storage.infos[copy] = numbers
        self._finish(copy, rows, masks, everybody)
        return False

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
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[0], Mapping):
            raise ApiError("reset returns observations and infos", copy=copy, detail=f"it returned {brief(result)}")
        observed, infos = result[0], result[1] or {}
        if not isinstance(infos, Mapping):
            raise ApiError("infos are a dictionary by agent", copy=copy, detail=f"reset returned {brief(infos)}")
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
                try:
                    if seat.masked:
                        self._masks[seat.group].append(seat.read_mask(raw, infos.get(seat.agent)))
                    else:
                        seat.check_unmasked(infos.get(seat.agent))
                except ApiError as error:
                    raise error.at(copy=copy) from None
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
        rewards = read_rewards(self._rewards, self._agents, window.start)
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
            count = f"{len(result)} results: " if isinstance(result, tuple) else ""
            raise ApiError(
                f"step returns {', '.join(RESULTS)}", copy=copy, detail=f"it returned {count}{brief(result)}"
            )
        for what, values in zip(RESULTS, result, strict=True):
            if not isinstance(values, Mapping) and (what != "infos" or values or self._any_masked):
                raise ApiError(f"{what} are a dictionary by agent", copy=copy, detail=f"got {brief(values)}")
        for seat, alive in zip(self._storage.seats, self._alive[copy], strict=True):
            if not alive:
                continue
            for what, values in zip(RESULTS[:-1], result, strict=False):
                if seat.agent not in values:
                    missing(what, seat.agent, copy)
            read_observation(seat, result[0][seat.agent], copy)
