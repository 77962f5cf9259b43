"""E copies of a PettingZoo AECEnv, in which one agent acts at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from marl.envs.infos import numbers_in
from marl.envs.pettingzoo.batch import EnvironmentBatch
from marl.envs.pettingzoo.rows import ApiError, Seat, brief, check_row, missing, read_observation
from marl.envs.pettingzoo.spaces import Array


class AECEnvironmentBatch(EnvironmentBatch):
    """E AECEnvs; see PettingZooVectorEnvironment.

    One step of a copy is one turn of the agent that is to move. The ``step(None)`` of dead agents are taken within.
    After each turn everybody's ``env.rewards`` are written, so a reward that reaches an agent between its turns is
    in the row of the step at which it came (``env.last()`` would show it later, or, to the loser of a game that
    ends, never to a loop that only looks at agents that still act).
    """

    def _prepare(self) -> None:
        num_envs = self._storage.num_envs
        self._mover: list[Seat] = [self._storage.seats[0]] * num_envs
        self._alive: list[set[str]] = [set() for _ in range(num_envs)]

    def reset(self, window: slice) -> None:
        self._open(window)
        for copy in range(window.start, window.stop):
            self._begin(copy)
        self._close()

    def step(self, window: slice, actions: Sequence[Sequence[Any]]) -> None:
        self._open(window)
        index = self._storage.index
        for copy, choices in enumerate(actions, window.start):
            try:
                self._turn(copy, choices[index[self._mover[copy].agent]])
            except ApiError:
                raise
            except Exception as error:
                self._drop(copy, error)
        self._close()

    def _open(self, window: slice) -> None:
        self._storage.begin_step()
        for group in self._storage.groups:
            group.rewards[window] = 0

    def _close(self) -> None:
        self._storage.fill_masks()
        self._storage.check_finite()

    def _drop(self, copy: int, error: Exception) -> None:
        """Ends an episode whose environment failed, and begins the next."""
        self._failures.note(copy, error)
        storage = self._storage
        if copy not in storage.ended:
            storage.drop_episode(copy, [storage.seats[storage.index[agent]] for agent in sorted(self._alive[copy])])
        self._begin(copy)

    def _turn(self, copy: int, action: Any) -> None:
        environment, alive = self._environments[copy], self._alive[copy]
        environment.step(action)
        agents, terminated, truncated = environment.agents, environment.terminations, environment.truncations
        self._receive(copy, environment.rewards)
        usual = (
            len(agents) == len(alive)
            and len(terminated) >= len(alive)
            and len(truncated) >= len(alive)
            and True not in terminated.values()
            and True not in truncated.values()
        )
        if not usual and not self._settle(copy):
            self._begin(copy)
            return
        self._pass_turn(copy)
        self._write_state(copy)

    def _receive(self, copy: int, rewards: Any) -> None:
        storage, alive = self._storage, self._alive[copy]
        try:
            for agent, reward in rewards.items():
                if reward and agent in alive:
                    seat = storage.seats[storage.index[agent]]
                    storage.groups[seat.group].rewards[copy, seat.row] = reward
            if len(rewards) >= len(alive):
                return
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ApiError(
                "rewards are a dictionary of numbers by agent", copy=copy, detail=f"got {brief(rewards)}"
            ) from error
        missing("rewards", min(alive.difference(rewards)), copy)

    def _settle(self, copy: int) -> bool:
        """Takes in births and deaths, and steps the dead; returns whether anybody is left."""
        environment, storage = self._environments[copy], self._storage
        alive, gone = self._alive[copy], self._gone[copy]
        terminated, truncated = dict(environment.terminations), dict(environment.truncations)
        present = set(environment.agents)
        self._storage.check_known(present, copy)
        if revived := (present - alive) & gone - {a for a in present if terminated.get(a) or truncated.get(a)}:
            raise ApiError("a dead agent stays dead", agent=min(revived), copy=copy, detail="it is in env.agents again")
        died = []
        for agent in sorted(alive):
            for what, values in (("terminations", terminated), ("truncations", truncated)):
                if agent not in values:
                    missing(what, agent, copy)
            if terminated[agent] or truncated[agent]:
                seat = storage.seats[storage.index[agent]]
                storage.flag(copy, seat, terminated=bool(terminated[agent]), truncated=bool(truncated[agent]))
                died.append(seat)
        alive |= {agent for agent in present if agent not in gone}
        for seat in died:
            alive.discard(seat.agent)
            gone.add(seat.agent)
            self._refresh(copy, seat)
            storage.groups[seat.group].active[copy, seat.row] = False
        if not alive:
            # The reset that follows makes the dead's own steps needless.
            if numbers := numbers_in(environment.infos):
                storage.infos[copy] = numbers
            self._finish(copy)
            return False
        steps = 0
        while environment.agents:
            agent = environment.agent_selection
            if not (environment.terminations.get(agent) or environment.truncations.get(agent)):
                break
            environment.step(None)
            steps += 1
            if steps > 2 * len(storage.seats):
                raise ApiError(
                    "step(None) removes a dead agent", agent=agent, copy=copy, detail="it is still in env.agents"
                )
        return True

    def _refresh(self, copy: int, seat: Seat) -> None:
        """Writes what an agent that died can see last; some environments show the dead nothing."""
        try:
            raw = self._environments[copy].observe(seat.agent)
            observation = seat.reader.read(raw)
        except Exception:  # whatever an environment raises when it is asked for too much
            return
        group = self._storage.groups[seat.group]
        row = group.observations[copy, seat.row]
        if observation.shape == row.shape and np.can_cast(observation.dtype, row.dtype, "same_kind"):
            row[...] = observation
        if group.masks is not None:
            # The dead have no legal actions, and a mask is never all False.
            group.masks[copy, seat.row] = True

    def _finish(self, copy: int) -> None:
        """Keeps the last observations of an episode, before the copy is reset."""
        storage = self._storage
        self._failures.forget(copy)
        last = storage.keep_final(copy)
        if self._state is None or storage.final_state is None:
            return
        if self._state.own:
            storage.final_state[last] = self._state.read(self._environments[copy], copy)
        else:
            self._state.assemble_final(last)

    def _begin(self, copy: int) -> None:
        storage = self._storage
        self._reset_environment(copy)
        self._alive[copy] = self._agents_after_reset(copy)
        for group in storage.groups:
            group.observations[copy] = 0
            group.active[copy] = False
            if group.masks is not None:
                group.masks[copy] = True
        storage.begin_episode(copy)
        self._pass_turn(copy)
        self._write_state(copy)

    def _pass_turn(self, copy: int) -> None:
        """Makes the selected agent the one that acts, and writes what it sees."""
        environment, storage = self._environments[copy], self._storage
        before = self._mover[copy]
        storage.groups[before.group].active[copy, before.row] = False
        agent = environment.agent_selection
        if agent not in self._alive[copy]:
            raise ApiError("agent_selection is an agent that is alive", agent=str(agent), copy=copy, detail="it is not")
        seat = storage.seats[storage.index[agent]]
        self._mover[copy] = seat
        group = storage.groups[seat.group]
        group.active[copy, seat.row] = True
        raw = environment.observe(agent)
        group.observations[copy, seat.row] = self._checked(copy, seat, raw)
        if group.masks is not None:
            mask = seat.read_mask(raw, environment.infos.get(agent) if seat.mask_in_info else None)
            group.masks[copy, seat.row] = check_row(
                mask,
                group.masks.shape[2:],
                group.masks.dtype,
                agent=agent,
                copy=copy,
                what="action mask",
                casting="unsafe",
            )

    def _checked(self, copy: int, seat: Seat, raw: Any) -> Array:
        dtype = self._storage.groups[seat.group].observations.dtype
        shape = seat.reader.spec.shape
        return check_row(
            read_observation(seat, raw, copy), shape, dtype, agent=seat.agent, copy=copy, what="observation"
        )

    def _write_state(self, copy: int) -> None:
        """The environment's own state, or what everybody sees now (the dead: what they saw last)."""
        source, storage = self._state, self._storage
        if source is None or storage.state is None:
            return
        if source.own:
            storage.state[copy] = source.read(self._environments[copy], copy)
            return
        source.assemble(copy)
        mover = self._mover[copy].agent
        for agent in self._alive[copy]:
            if agent != mover:
                seat = storage.seats[storage.index[agent]]
                source.write_piece(copy, seat, self._checked(copy, seat, self._environments[copy].observe(agent)))
