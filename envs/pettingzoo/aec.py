"""E copies of a PettingZoo AECEnv, in which one agent acts at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pettingzoo.utils.wrappers import AssertOutOfBoundsWrapper, OrderEnforcingWrapper, TerminateIllegalWrapper

from marl.envs.borders.accounts import Accounts
from marl.envs.borders.infos import numbers_in
from marl.envs.pettingzoo.batch import EnvironmentBatch
from marl.envs.pettingzoo.rows import (
    LARGEST_REWARD,
    ApiError,
    Seat,
    brief,
    check_reward,
    check_row,
    missing,
    read_observation,
)
from marl.envs.pettingzoo.spaces import ACTION_MASK, Array

_WATCHERS = (AssertOutOfBoundsWrapper, OrderEnforcingWrapper, TerminateIllegalWrapper)
_LAST_STEPS_EVERY = 64
"""The steps of the dead after an episode's end are needless; so often they are taken, to see that they pay nothing."""


class AECEnvironmentBatch(EnvironmentBatch):
    """E AECEnvs; see PettingZooVectorEnvironment.

    One step of a copy is one turn of the agent that is to move. The ``step(None)`` of dead agents are taken within.
    After each turn everybody's ``env.rewards`` are written, so a reward that reaches an agent between its turns is
    in the row of the step at which it came (``env.last()`` would show it later, or, to the loser of a game that
    ends, never to a loop that only looks at agents that still act). What an agent was paid since its turn before is
    compared with what ``env.last()`` shows it, so that rewards kept elsewhere are not lost.
    """

    def _prepare(self) -> None:
        num_envs = self._storage.num_envs
        self._mover: list[Seat] = [self._storage.seats[0]] * num_envs
        self._alive: list[set[str]] = [set() for _ in range(num_envs)]
        # What only watches is left out where attributes are read: each layer costs as much as the reading.
        self._books = [strip_wrappers(environment) for environment in self._environments]
        self._accounts = [Accounts() for _ in range(num_envs)]
        self._ended_episodes = [0] * num_envs

    def reset(self, window: slice) -> None:
        self._open(window)
        for copy in range(window.start, window.stop):
            try:
                self._begin(copy)
            except ApiError as error:
                raise error.at(copy=copy) from None
        self._close()

    def step(self, window: slice, actions: Sequence[Sequence[Any]]) -> None:
        self._open(window)
        index = self._storage.index
        for copy, choices in enumerate(actions, window.start):
            try:
                self._turn(copy, choices[index[self._mover[copy].agent]])
            except ApiError as error:
                raise error.at(copy=copy) from None
            except Exception as error:
                self._drop(copy, error)
        self._close()

    def release(self) -> None:
        super().release()
        self._books.clear()

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
        books, alive = self._books[copy], self._alive[copy]
        self._environments[copy].step(action)
        agents, terminated, truncated = books.agents, books.terminations, books.truncations
        self._receive(copy, books.rewards)
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
        alive = self._alive[copy]
        try:
            for agent, reward in rewards.items():
                if (reward or reward is None) and agent in alive:
                    self._pay(copy, agent, reward)
            if len(rewards) >= len(alive):
                return
        except ApiError:
            raise
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ApiError(
                "rewards are a dictionary of numbers by agent", copy=copy, detail=f"got {brief(rewards)}"
            ) from error
        missing("rewards", min(alive.difference(rewards)), copy)

    def _pay(self, copy: int, agent: str, reward: Any) -> None:
        if type(reward) is not float or not -LARGEST_REWARD <= reward <= LARGEST_REWARD:
            reward = check_reward(reward, agent, copy)
        self._accounts[copy].pay(agent, reward)
        seat = self._storage.seats[self._storage.index[agent]]
        self._storage.groups[seat.group].rewards[copy, seat.row] += reward

    def _cumulative(self, copy: int) -> dict[str, Any]:
        try:
            sums: dict[str, Any] = self._books[copy]._cumulative_rewards
        except AttributeError:
            return {}
        return sums

    def _settle(self, copy: int) -> bool:
        """Takes in births and deaths, and steps the dead; returns whether anybody is left."""
        books, storage = self._books[copy], self._storage
        alive, gone = self._alive[copy], self._gone[copy]
        terminated, truncated = dict(books.terminations), dict(books.truncations)
        present = set(books.agents)
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
            self._accounts[copy].compare(seat.agent, self._cumulative(copy), copy)
            alive.discard(seat.agent)
            gone.add(seat.agent)
            self._refresh(copy, seat)
            storage.groups[seat.group].active[copy, seat.row] = False
        if not alive:
            if numbers := numbers_in(self._books[copy].infos):
                storage.infos[copy] = numbers
            self._finish(copy)
            self._ended_episodes[copy] += 1
            if self._ended_episodes[copy] % _LAST_STEPS_EVERY == 1:
                self._take_last_steps(copy)
            return False
        for agent in self._steps_of_the_dead(copy):
            if agent in self._books[copy].agents:
                raise ApiError(
                    "step(None) removes a dead agent", agent=agent, copy=copy, detail="it is still in env.agents"
                )
        return True

    def _steps_of_the_dead(self, copy: int) -> Iterator[str]:
        """Takes the steps of dead agents, who are yielded one by one, and pays the living what comes meanwhile."""
        environment, books, accounts = self._environments[copy], self._books[copy], self._accounts[copy]
        while books.agents:
            agent = books.agent_selection
            if not (books.terminations.get(agent) or books.truncations.get(agent)):
                return
            before, stale = dict(self._cumulative(copy)), dict(books.rewards)
            if agent in self._gone[copy]:
                accounts.compare_at_end(agent, before, copy)
            environment.step(None)
            late = accounts.late(before, self._cumulative(copy), stale, self._alive[copy])
            for other, reward in late.items():
                self._pay(copy, other, reward)
            yield agent

    def _take_last_steps(self, copy: int) -> None:
        """Takes the steps of the dead after an episode's end; raises ApiError where they pay anybody."""
        try:
            for agent in self._steps_of_the_dead(copy):
                if agent in self._books[copy].agents:
                    return
        except ApiError:
            raise
        except Exception:  # whatever it raises: without this check nobody would have asked
            return

    def _refresh(self, copy: int, seat: Seat) -> None:
        """Writes what an agent that died can see last; some environments show the dead nothing."""
        try:
            raw = self._environments[copy].observe(seat.agent)
            observation = seat.reader.read(raw)
            info = self._environments[copy].infos.get(seat.agent) if seat.mask_in_info else None
            mask = seat.read_last_mask(raw, info) if seat.masked else None
        except Exception:  # whatever an environment raises when it is asked for too much
            return
        group = self._storage.groups[seat.group]
        row = group.observations[copy, seat.row]
        if observation.shape == row.shape and np.can_cast(observation.dtype, row.dtype, "same_kind"):
            row[...] = observation
        if group.masks is not None:
            # Of the dead, nothing is asked any more.
            cut = group.truncated[copy, seat.row]
            group.masks[copy, seat.row] = group.last_mask(copy, seat.row, mask) if cut else True

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
        self._accounts[copy].begin_episode()
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
        books, storage = self._books[copy], self._storage
        before = self._mover[copy]
        storage.groups[before.group].active[copy, before.row] = False
        agent = books.agent_selection
        if agent not in self._alive[copy]:
            what = "it is dead" if agent in self._gone[copy] else "it is not in env.agents"
            raise ApiError("agent_selection is an agent that is alive", agent=str(agent), copy=copy, detail=what)
        self._accounts[copy].compare(agent, self._cumulative(copy), copy)
        seat = storage.seats[storage.index[agent]]
        self._mover[copy] = seat
        group = storage.groups[seat.group]
        group.active[copy, seat.row] = True
        raw = self._environments[copy].observe(agent)
        info = books.infos.get(agent) if books.infos else None
        group.observations[copy, seat.row] = self._checked(copy, seat, raw)
        if not seat.masked:
            if info and ACTION_MASK in info:
                seat.check_unmasked(info)
        elif group.masks is not None:
            mask = seat.read_mask(raw, info)
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


def strip_wrappers(environment: Any) -> Any:
    """The environment without PettingZoo's outer wrappers that only watch for misuse.

    They double the time of a turn, and who steps through an arena checks moves beforehand.
    """
    while type(environment) in _WATCHERS:
        environment = environment.env
    return environment
