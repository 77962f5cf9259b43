"""Players: who decides for one side on many boards at once, by policies, at random or by a user's own objects."""

from __future__ import annotations

import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marl.actors import Policy
from marl.payoffs import Integers
from marl.specs import ActionSpec, ContinuousActions, DiscreteActions, EnvironmentSpec, GroupSpec
from marl.types import GroupStep, TimeStep

Array = NDArray[Any]
Bools = NDArray[np.bool_]
FaultKind = Literal["crash", "timeout", "illegal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a player forfeits a game."""

    board: int
    kind: FaultKind
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one player is asked at one step."""

    boards: Integers
    """(R,) ascending: where it is asked."""
    step: TimeStep
    """Of all E boards."""
    must_act: Bools
    """(R, N) which of the N agents (group after group) it has to decide for."""
    first: bool
    """Whether the boards' episodes begin at this step."""
    uniforms: Tensor | None
    """(R, N, k) in (0, 1), k at least the player's ``num_uniforms``; None where nobody needs any."""
    actions: Sequence[Array]
    """One array a group, (E, A, ...): where the decisions go."""
    move_seconds: float


class Player(ABC):
    """Somebody who decides for one side on many boards at once."""

    num_uniforms: int = 0
    """Uniform random numbers that one agent's decision needs."""
    remembers: bool = False
    """Must be asked at every step of its games, also where none of its agents is to act."""

    def begin(self, spec: EnvironmentSpec, boards: int, owned: Bools, seeds: Sequence[int]) -> None:
        """Begins games on all boards.

        Args:
            spec: of the boards' environment.
            boards: number of games, E.
            owned: (E, N) which agents it plays.
            seeds: (E,) a number of its own for each game.
        """

    @abstractmethod
    def act(self, turn: Turn) -> list[Fault]:
        """Decides, writes the actions into ``turn.actions``, and tells on which boards it failed to."""


class TimeUp(BaseException):
    """A decision took too long. Not an Exception, so that a player's own handlers let it pass."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeUp within, once the time is up; 0 is no limit.

    It interrupts Python, not a call into compiled code that does not come back; and works in the main thread only,
    elsewhere there is no limit.
    """
    if seconds <= 0.0 or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, _time_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _time_up(number: int, frame: FrameType | None) -> None:
    raise TimeUp


def _fault(board: int, error: BaseException, seconds: float) -> Fault:
    if isinstance(error, TimeUp):
        return Fault(board=board, kind="timeout", detail=f"no decision within {seconds:g} s")
    text = " ".join(str(error).split())[:200]
    return Fault(board=board, kind="crash", detail=f"{type(error).__name__}: {text}" if text else type(error).__name__)


_PLAYERS_OWN: Final = (Exception, SystemExit, TimeUp)
"""What a player may raise and only lose by; not KeyboardInterrupt, which is ours."""


@dataclass(slots=True)
class _Part:
    """One group of a policy, and where its agents are in the time steps of the boards."""

    policy: Policy
    group: GroupSpec
    places: list[tuple[str, int, int]]
    """For each agent: group, row in it, column among all agents."""
    whole: str | None
    """The boards' group whose agents are just these; None where agents are grouped in another way."""
    state: Tensor | None = None


@final
class PolicyPlayer(Player):
    """Plays by policies of groups, trained or other; one forward pass a group and step.

    Feed-forward policies are asked where they must act. Recurrent ones are asked at every step, as in training, and
    are shown what an agent saw last while others move.

    Args:
        spec: what the policies were made for; its agents and their spaces are the boards'.
        policies: one a group of ``spec``.
    """

    def __init__(self, spec: EnvironmentSpec, policies: Mapping[str, Policy]) -> None:
        self._spec = spec
        self._policies = dict(policies)
        self.num_uniforms = max((policy.num_uniforms for policy in self._policies.values()), default=0)
        self.remembers = any(policy.initial_state(1) is not None for policy in self._policies.values())
        self._parts: list[_Part] = []
        self._owned: Bools = np.zeros((0, 0), dtype=bool)

    def begin(self, spec: EnvironmentSpec, boards: int, owned: Bools, seeds: Sequence[int]) -> None:
        """See Player."""
        self._owned = owned
        places: dict[str, tuple[str, int, int]] = {}
        for group in spec.groups:
            for row, agent in enumerate(group.agents):
                places[agent] = (group.name, row, len(places))
        whole = {group.agents: group.name for group in spec.groups}
        self._parts = []
        for group in self._spec.groups:
            columns = [places[agent][2] for agent in group.agents]
            if owned[:, columns].any():
                policy = self._policies[group.name]
                self._parts.append(
                    _Part(
                        policy=policy,
                        group=group,
                        places=[places[agent] for agent in group.agents],
                        whole=whole.get(group.agents),
                        state=policy.initial_state(boards),
                    )
                )
        self._index = {group.name: index for index, group in enumerate(spec.groups)}

    def act(self, turn: Turn) -> list[Fault]:
        """See Player. Where a whole forward pass fails, each board is tried alone, to find the guilty ones."""
        try:
            with time_limit(turn.move_seconds):
                self._act(turn, np.arange(len(turn.boards)))
            return []
        except TimeUp as error:
            return [_fault(int(board), error, turn.move_seconds) for board in turn.boards]
        except _PLAYERS_OWN:
            pass
        faults = []
        for row in range(len(turn.boards)):
            try:
                with time_limit(turn.move_seconds):
                    self._act(turn, np.array([row]))
            except _PLAYERS_OWN as error:
                faults.append(_fault(int(turn.boards[row]), error, turn.move_seconds))
        return faults

    @torch.inference_mode()
    def _act(self, turn: Turn, rows: Integers) -> None:
        decided = []
        for part in self._parts:
            columns = [column for _, _, column in part.places]
            must = turn.must_act[rows][:, columns]
            chosen = rows if part.state is not None else rows[must.any(1)]
            if part.state is None:
                must = must[must.any(1)]
            if not len(chosen):
                continue
            boards = torch.from_numpy(turn.boards[chosen])
            uniforms = None
            if part.policy.num_uniforms:
                assert turn.uniforms is not None
                uniforms = turn.uniforms[torch.from_numpy(chosen)][:, columns, : part.policy.num_uniforms]
            first = torch.full((len(chosen),), turn.first)
            state = None if part.state is None else part.state[boards]
            decision = part.policy.act(self._read(part, turn.step, boards, must), first, state, uniforms)
            decided.append((part, boards, must, decision))
        # Nothing is written before everything went well, so that a failed pass can be repeated board by board.
        for part, boards, must, decision in decided:
            if part.state is not None and decision.state is not None:
                part.state[boards] = decision.state
            actions, on = decision.actions.cpu().numpy(), boards.numpy()
            for index, (group, row, _) in enumerate(part.places):
                acts = must[:, index]
                turn.actions[self._index[group]][on[acts], row] = actions[acts, index]

    def _read(self, part: _Part, step: TimeStep, boards: Tensor, must: Bools) -> GroupStep:
        """The group's time step on some boards; agents that other players play are unseen."""
        active = torch.from_numpy(must)
        zeros = torch.zeros(active.shape)
        none = torch.zeros(active.shape, dtype=torch.bool)
        if part.whole is not None:
            source = step.groups[part.whole]
            observations = source.observations[boards]
            masks = None if source.action_masks is None else source.action_masks[boards]
        else:
            sources = [(step.groups[group], row) for group, row, _ in part.places]
            observations = torch.stack([group.observations[boards, row] for group, row in sources], dim=1)
            masks = None
            if part.group.masked:
                parts = [group.action_masks[boards, row] for group, row in sources if group.action_masks is not None]
                masks = torch.stack(parts, dim=1)
        columns = [column for _, _, column in part.places]
        owned = torch.from_numpy(self._owned[boards.numpy()][:, columns])
        if not bool(owned.all()):
            observations = torch.where(
                owned.view(*owned.shape, *[1] * (observations.dim() - 2)), observations, torch.zeros_like(observations)
            )
            if masks is not None:
                masks = masks | ~owned.unsqueeze(-1)
        return GroupStep(
            observations=observations,
            action_masks=masks,
            active=active,
            rewards=zeros,
            terminated=none,
            truncated=none,
        )


@final
class RandomPlayer(Player):
    """Uniformly random legal actions."""

    def begin(self, spec: EnvironmentSpec, boards: int, owned: Bools, seeds: Sequence[int]) -> None:
        """See Player."""
        self._spec = spec

    def __init__(self, spec: EnvironmentSpec) -> None:
        self._spec = spec
        self.num_uniforms = max(num_choices(group.action) for group in spec.groups)

    def act(self, turn: Turn) -> list[Fault]:
        """See Player."""
        assert turn.uniforms is not None
        write_random(self._spec, turn, turn.uniforms)
        return []


def blank_step(group: GroupSpec, boards: int) -> GroupStep:
    """A step at which nobody of the group sees anything or has to act, everything is legal, and nothing is received."""
    shape = (boards, group.size)
    masks = None
    if group.masked and not isinstance(group.action, ContinuousActions):
        masks = torch.ones((*shape, group.action.mask_size), dtype=torch.bool)
    return GroupStep(
        observations=torch.zeros((*shape, *group.observation.shape), dtype=group.observation.dtype),
        action_masks=masks,
        active=torch.zeros(shape, dtype=torch.bool),
        rewards=torch.zeros(shape),
        terminated=torch.zeros(shape, dtype=torch.bool),
        truncated=torch.zeros(shape, dtype=torch.bool),
    )


def write_random(spec: EnvironmentSpec, turn: Turn, uniforms: Tensor) -> None:
    """Writes uniformly random legal actions for the agents that must act.

    Args:
        spec: of the boards.
        turn: where.
        uniforms: (R, N, k) in (0, 1); k at least the number of choices of any agent.
    """
    numbers = uniforms.numpy()
    column = 0
    for index, group in enumerate(spec.groups):
        step = turn.step.groups[group.name]
        for row in range(group.size):
            acts = turn.must_act[:, column]
            boards = turn.boards[acts]
            if len(boards):
                masks = None if step.action_masks is None else step.action_masks.numpy()[boards, row]
                turn.actions[index][boards, row] = _random_actions(group.action, masks, numbers[acts, column])
            column += 1


def num_choices(action: ActionSpec) -> int:
    """How many numbers one action is made of, which is how many uniforms a random one needs."""
    if isinstance(action, DiscreteActions):
        return 1
    return action.size if isinstance(action, ContinuousActions) else len(action.nvec)


def _random_actions(action: ActionSpec, masks: Bools | None, uniforms: Array) -> Array:
    """Uniformly random legal actions of B agents, (B, ...), from uniforms (B, k)."""
    if isinstance(action, ContinuousActions):
        scaled: Array = 2.0 * uniforms[:, : action.size] - 1.0
        return scaled
    nvec = (action.num_actions,) if isinstance(action, DiscreteActions) else action.nvec
    legal = np.ones((len(uniforms), sum(nvec)), dtype=bool) if masks is None else masks
    drawn, start = [], 0
    for number, count in enumerate(nvec):
        counts = np.cumsum(legal[:, start : start + count], axis=1)
        wanted = np.floor(uniforms[:, number].astype(np.float64) * counts[:, -1])
        # The index of the legal choice number ``wanted``, counted from 0.
        drawn.append((counts <= wanted[:, None]).sum(1))
        start += count
    return drawn[0] if isinstance(action, DiscreteActions) else np.stack(drawn, axis=1)


@final
class ObjectPlayer(Player):
    """Plays by objects of a user's own class, one a board, asked agent by agent.

    An object has ``act(agent, observation, action_mask)``: it is given the array that networks read, and the legal
    actions as an array of bool or None, and returns an action as ``marl.specs`` describes them (a choice, counted
    from 0; choices; or numbers from -1 to 1). If it has ``reset(agents, seed)``, that is called before each game.

    Args:
        make: makes one object.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._objects: list[Any] = []
        self._begun: dict[int, Fault] = {}

    def begin(self, spec: EnvironmentSpec, boards: int, owned: Bools, seeds: Sequence[int]) -> None:
        """See Player. A failure here is a forfeit at the first decision."""
        self._begun.clear()
        self._seats = [
            (index, group, row, agent)
            for index, group in enumerate(spec.groups)
            for row, agent in enumerate(group.agents)
        ]
        for board in range(boards):
            try:
                if board == len(self._objects):
                    self._objects.append(self._make())
                if hasattr(self._objects[board], "reset"):
                    agents = [seat[3] for seat, mine in zip(self._seats, owned[board], strict=True) if mine]
                    self._objects[board].reset(agents, seeds[board])
            except _PLAYERS_OWN as error:
                if board == len(self._objects):
                    self._objects.append(None)
                self._begun[board] = _fault(board, error, 0.0)

    def act(self, turn: Turn) -> list[Fault]:
        """See Player."""
        faults: list[Fault] = []
        for board, must in zip(turn.boards.tolist(), turn.must_act, strict=True):
            if board in self._begun:
                faults.append(self._begun[board])
                continue
            for column in np.flatnonzero(must).tolist():
                if fault := self._decide(turn, board, *self._seats[column]):
                    faults.append(fault)
                    break
        return faults

    def _decide(self, turn: Turn, board: int, index: int, group: GroupSpec, row: int, agent: str) -> Fault | None:
        step = turn.step.groups[group.name]
        observation = step.observations[board, row].numpy().copy()
        mask = None if step.action_masks is None else step.action_masks[board, row].numpy().copy()
        try:
            with time_limit(turn.move_seconds):
                answer = self._objects[board].act(agent, observation, mask)
                action = np.asarray(answer)
        except _PLAYERS_OWN as error:
            return _fault(board, error, turn.move_seconds)
        out = turn.actions[index][board, row]
        kinds = "fiu" if isinstance(group.action, ContinuousActions) else "iu"
        if action.shape != out.shape or action.dtype.kind not in kinds:
            detail = f"{agent} answered {' '.join(repr(answer).split())[:80]}, which is no action"
            return Fault(board=board, kind="illegal", detail=detail)
        turn.actions[index][board, row] = action
        return None
