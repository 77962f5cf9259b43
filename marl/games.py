"""Games between players: many boards at once, every player's decisions batched, and forfeits told apart.

A game is one episode of an environment whose agents are divided into sides; each side is taken by one player for the
whole episode. Games are played in blocks of consecutive numbers on as many boards. What happens in a block is a
function of the seed and of its games alone: environments and random numbers are seeded by the games' and pairs' own
numbers, and which decisions share a forward pass depends on nothing else. So it does not matter which process plays
a block, or whether it was begun before and lost.
"""

from __future__ import annotations

import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marl.actors import Policy
from marl.errors import InputError
from marl.payoffs import Integers
from marl.specs import ActionSpec, ContinuousActions, DiscreteActions, EnvironmentSpec, GroupSpec
from marl.streams import Stream, derive_int
from marl.types import GroupStep, TimeStep

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Ending = Literal["finished", "step_limit", "forfeit"]
FaultKind = Literal["crash", "timeout", "illegal"]

_NOISE_ROWS: Final = 16
_RETURN_DIGITS: Final = 9
"""Returns that agree to so many decimals are equal: sums of floats come in any order."""


class Arena(ABC):
    """E boards: copies of one environment that are begun with given seeds and stepped in any selection."""

    @property
    @abstractmethod
    def spec(self) -> EnvironmentSpec:
        """What the agents of a board observe and do."""

    @property
    @abstractmethod
    def boards(self) -> int:
        """Number of boards, E."""

    @abstractmethod
    def begin(self, seeds: Sequence[int]) -> TimeStep:
        """Begins a new episode on the first ``len(seeds)`` boards.

        Returns:
            A time step of all E boards, whose tensors are kept up to date by ``step``.
        """

    @abstractmethod
    def step(self, boards: Integers, actions: Sequence[Array]) -> list[int]:
        """Takes one step (a turn, where the environment is turn-based) on some of the boards.

        Args:
            boards: (R,) ascending.
            actions: one array a group, (E, A, ...), as ``marl.types.Actions``; rows of other boards are ignored.

        Returns:
            The boards whose episode ended; rewards are those of the step, observations may be anything there.
        """

    def close(self) -> None:
        """Frees what the boards hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The agents that one player plays."""

    name: str
    agents: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    """A game to be played."""

    index: int
    """Its global number; decisions' random numbers follow from it."""
    pair: int
    """Games of one pair share the environment's seed and the opening, with seats exchanged."""
    players: tuple[str, ...]
    """Who takes each side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a player forfeits a game."""

    board: int
    kind: FaultKind
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Forfeit:
    """A player that forfeited a game, and why."""

    player: str
    kind: FaultKind
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayedGame:
    """How a game ended."""

    index: int
    pair: int
    players: tuple[str, ...]
    """Who took each side."""
    returns: tuple[float, ...]
    """Undiscounted, summed over the agents of each side, up to the end or to the forfeit."""
    places: tuple[int, ...]
    """Of each side: how many did strictly better. A forfeit is worse than any return, a step limit makes all equal."""
    length: int
    """Steps that were taken, turns where the environment is turn-based."""
    ending: Ending
    forfeits: tuple[Forfeit, ...] = ()
    trace: int = 0
    """A hash of all actions: equal for games that went the same way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GameRules:
    """How games are played, whoever plays."""

    seed: int = 0
    """From which all games follow."""
    max_steps: int = 2000
    """A game that has not ended by then is a draw."""
    move_seconds: float = 30.0
    """A player that takes longer for a decision forfeits; 0 for no limit. A shared forward pass has one limit."""
    opening: int = 0
    """So many first steps are random legal ones, equal in the games of a pair: deterministic players then play
    different games."""

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise InputError(f"max_steps is at least 1, not {self.max_steps}")
        if not self.move_seconds >= 0.0:
            raise InputError(f"move_seconds is at least 0, not {self.move_seconds}")
        if self.opening < 0:
            raise InputError(f"opening is at least 0, not {self.opening}")


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
        self.num_uniforms = max(_choices(group.action) for group in spec.groups)

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


def _choices(action: ActionSpec) -> int:
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


def two_or_more_sides(agents: Sequence[str], teams: Mapping[str, Sequence[str]] | None = None) -> tuple[Side, ...]:
    """Divides agents into sides.

    Args:
        agents: all agents.
        teams: agents by side. By default those whose names differ in their numbers only (``red_0``, ``red_1``) are a
            side; where that puts all together, every agent is a side of its own.

    Raises:
        InputError: an agent is in no side, in two, or unknown; or there is one side only.
    """
    if teams is None:
        found: dict[str, list[str]] = {}
        for agent in sorted(agents):
            found.setdefault(agent.rstrip("0123456789").rstrip("_- ") or agent, []).append(agent)
        teams = found if len(found) > 1 else {agent: [agent] for agent in sorted(agents)}
    taken = [agent for members in teams.values() for agent in members]
    if unknown := sorted(set(taken) - set(agents)):
        raise InputError(f"a team names {unknown[0]}, but the agents are {', '.join(sorted(agents))}")
    if missing := sorted(set(agents) - set(taken)):
        raise InputError(f"no team has {', '.join(missing)}; every agent belongs to one")
    if len(set(taken)) != len(taken):
        raise InputError(f"{next(a for a in taken if taken.count(a) > 1)} is in two teams")
    if len(teams) < 2 or not all(teams.values()):
        raise InputError("a game needs two sides or more, each with agents")
    return tuple(Side(name=name, agents=tuple(members)) for name, members in teams.items())


def sides_are_alike(spec: EnvironmentSpec, sides: Sequence[Side]) -> bool:
    """Whether all sides have the same number of agents with the same spaces, so that returns can be compared."""
    groups = {agent: group for group in spec.groups for agent in group.agents}

    def kind(side: Side) -> list[str]:
        return sorted(
            repr((groups[agent].observation, groups[agent].action, groups[agent].masked)) for agent in side.agents
        )

    return all(kind(side) == kind(sides[0]) for side in sides[1:])


def play_games(
    arena: Arena,
    sides: Sequence[Side],
    players: Mapping[str, Player],
    games: Sequence[Game],
    rules: GameRules,
    *,
    purpose: str = "game",
) -> list[PlayedGame]:
    """Plays a block of games side by side, one a board, each to its end.

    Args:
        arena: with at least as many boards as there are games.
        sides: who belongs together; the order is that of ``Game.players``.
        players: by name, all that the games name. A player that takes part in several games plays them at once.
        games: with consecutive indices.
        rules: seed, limits, opening.
        purpose: part of every seed.

    Returns:
        One result a game, in their order.

    Raises:
        ValueError: games without consecutive indices, or more of them than boards.
    """
    return _Block(arena, sides, players, games, rules, purpose).play()


@dataclass(slots=True)
class _Seated:
    name: str
    player: Player
    owned: Bools
    """(E, N)."""
    boards: Integers
    """Where it plays."""


@dataclass(slots=True)
class _Ended:
    length: int
    ending: Ending
    forfeits: dict[int, Forfeit] = field(default_factory=dict)
    """By side."""


class _Block:
    """One block of games while it is played."""

    def __init__(
        self,
        arena: Arena,
        sides: Sequence[Side],
        players: Mapping[str, Player],
        games: Sequence[Game],
        rules: GameRules,
        purpose: str,
    ) -> None:
        count = len(games)
        if not count or count > arena.boards:
            raise ValueError(f"{count} games do not fit on {arena.boards} boards")
        first = games[0].index
        if [game.index for game in games] != list(range(first, first + count)):
            raise ValueError("the games of a block have consecutive indices")
        self._arena, self._sides, self._games, self._rules, self._purpose = arena, sides, games, rules, purpose
        spec = arena.spec
        columns = {agent: column for column, agent in enumerate(a for group in spec.groups for a in group.agents)}
        self._side_columns = [[columns[agent] for agent in side.agents] for side in sides]
        self._side_of = np.zeros(len(columns), dtype=np.int64)
        for side, chosen in enumerate(self._side_columns):
            self._side_of[chosen] = side
        self._seated = []
        names = sorted({name for game in games for name in game.players})
        taken = np.array([[names.index(name) for name in game.players] for game in games])
        for number, name in enumerate(names):
            owned = (taken == number)[:, self._side_of]
            self._seated.append(
                _Seated(name=name, player=players[name], owned=owned, boards=np.flatnonzero(owned.any(1)))
            )
        boards = arena.boards
        self._actions = [np.zeros((boards, g.size, *g.action.array.shape), _dtype(g.action)) for g in spec.groups]
        self._returns = np.zeros((count, len(columns)))
        self._trace = np.zeros(count, dtype=np.uint64)
        self._ended: dict[int, _Ended] = {}
        needed = [seated.player.num_uniforms for seated in self._seated]
        self._uniforms = max(needed)
        self._stream = Stream(rules.seed, f"{purpose}/decisions", first_copy=first, num_copies=count)
        self._noise: Tensor | None = None
        self._choices = max(_choices(group.action) for group in spec.groups)
        pairs = torch.tensor([game.pair for game in games])
        self._openings = torch.zeros(0)
        if rules.opening:
            low, high = int(pairs.min()), int(pairs.max())
            stream = Stream(rules.seed, f"{purpose}/opening", first_copy=low, num_copies=high - low + 1)
            drawn = stream.uniforms(0, len(columns) * self._choices, rows=rules.opening)
            self._openings = drawn.view(rules.opening, -1, len(columns), self._choices)[:, pairs - low]

    def play(self) -> list[PlayedGame]:
        rules, arena, count = self._rules, self._arena, len(self._games)
        spec = arena.spec
        for seated in self._seated:
            seeds = [derive_int(rules.seed, f"{self._purpose}/player/{seated.name}", g.index) for g in self._games]
            seated.player.begin(spec, count, seated.owned, seeds)
        step = arena.begin([derive_int(rules.seed, f"{self._purpose}/environment", g.pair) for g in self._games])
        actives = [step.groups[group.name].active.numpy() for group in spec.groups]
        rewards = [step.groups[group.name].rewards.numpy() for group in spec.groups]
        playing = np.arange(count)
        for time in range(rules.max_steps):
            active = np.concatenate([rows[:count] for rows in actives], axis=1)
            if time < rules.opening:
                self._open(step, active, playing, time)
            self._decide(step, active, playing, time)
            if self._ended:
                playing = playing[[board not in self._ended for board in playing.tolist()]]
                if not len(playing):
                    break
            self._note(active, playing)
            ended = arena.step(playing, self._actions)
            self._returns[playing] += np.concatenate([rows[playing] for rows in rewards], axis=1)
            for board in ended:
                self._ended[board] = _Ended(length=time + 1, ending="finished")
            if ended:
                playing = np.setdiff1d(playing, ended, assume_unique=True)
                if not len(playing):
                    break
        for board in playing.tolist():
            self._ended.setdefault(board, _Ended(length=rules.max_steps, ending="step_limit"))
        return [self._result(board) for board in range(count)]

    def _open(self, step: TimeStep, active: Bools, playing: Integers, time: int) -> None:
        uniforms = self._openings[time, torch.from_numpy(playing)]
        turn = self._turn(step, playing, active[playing], time, uniforms)
        write_random(self._arena.spec, turn, uniforms)

    def _decide(self, step: TimeStep, active: Bools, playing: Integers, time: int) -> None:
        """Asks every player once for all its boards."""
        opening = time < self._rules.opening
        uniforms = self._next_uniforms(time, active.shape[1])
        still = np.zeros(len(self._games), dtype=bool)
        still[playing] = True
        for seated in self._seated:
            player = seated.player
            if opening and not player.remembers:
                continue
            boards = seated.boards[still[seated.boards]]
            must = active[boards] & seated.owned[boards]
            if not player.remembers:
                asked = must.any(1)
                boards, must = boards[asked], must[asked]
            if not len(boards):
                continue
            mine = None if uniforms is None else uniforms[torch.from_numpy(boards)]
            turn = self._turn(step, boards, np.zeros_like(must) if opening else must, time, mine)
            faults = player.act(turn)
            failed = {fault.board for fault in faults}
            faults += self._illegal(turn, failed)
            for fault in faults:
                self._forfeit(seated, fault, time)

    def _turn(self, step: TimeStep, boards: Integers, must: Bools, time: int, uniforms: Tensor | None) -> Turn:
        return Turn(
            boards=boards,
            step=step,
            must_act=must,
            first=time == 0,
            uniforms=uniforms,
            actions=self._actions,
            move_seconds=self._rules.move_seconds,
        )

    def _next_uniforms(self, time: int, agents: int) -> Tensor | None:
        if not self._uniforms:
            return None
        row = time % _NOISE_ROWS
        if row == 0:
            self._noise = self._stream.uniforms(time, agents * self._uniforms, rows=_NOISE_ROWS)
        assert self._noise is not None
        return self._noise[row].view(len(self._games), agents, self._uniforms)

    def _illegal(self, turn: Turn, failed: set[int]) -> list[Fault]:
        """Faults for actions that the rules do not allow, looked at before an environment sees them."""
        faults: dict[int, Fault] = {}
        column = 0
        for index, group in enumerate(self._arena.spec.groups):
            stop = column + group.size
            at, rows = np.nonzero(turn.must_act[:, column:stop])
            column = stop
            if not len(at):
                continue
            boards = turn.boards[at]
            masks = turn.step.groups[group.name].action_masks
            chosen = self._actions[index][boards, rows]
            legal = _legal(group.action, chosen, None if masks is None else masks.numpy()[boards, rows])
            for place in np.flatnonzero(~legal).tolist():
                board = int(boards[place])
                if board not in failed and board not in faults:
                    detail = f"{group.agents[rows[place]]} played {_show(chosen[place])}, which is not legal"
                    faults[board] = Fault(board=board, kind="illegal", detail=detail)
        return list(faults.values())

    def _forfeit(self, seated: _Seated, fault: Fault, time: int) -> None:
        ended = self._ended.setdefault(fault.board, _Ended(length=time, ending="forfeit"))
        forfeit = Forfeit(player=seated.name, kind=fault.kind, detail=fault.detail)
        for side, name in enumerate(self._games[fault.board].players):
            if name == seated.name:
                ended.forfeits[side] = forfeit

    def _note(self, active: Bools, playing: Integers) -> None:
        """Takes the actions into the games' traces."""
        column = 0
        for index, actions in enumerate(self._actions):
            agents = actions.shape[1]
            rows = actions[playing].reshape(len(playing), agents, -1)
            bits = rows.view(np.int64 if rows.dtype == np.int64 else np.int32).astype(np.uint64)
            acts = active[playing, column : column + agents]
            bits = np.where(acts[..., None], bits + np.uint64(1), np.uint64(0)).reshape(len(playing), -1)
            weights = np.arange(1, 2 * bits.shape[1], 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            mixed = (bits * weights).sum(1, dtype=np.uint64) + np.uint64(index)
            self._trace[playing] = (self._trace[playing] ^ mixed) * np.uint64(0xD6E8FEB86659FD93)
            self._trace[playing] ^= self._trace[playing] >> np.uint64(32)
            column += agents

    def _result(self, board: int) -> PlayedGame:
        game, ended = self._games[board], self._ended[board]
        returns = tuple(float(self._returns[board, columns].sum()) for columns in self._side_columns)
        if ended.ending == "finished":
            values = [round(value, _RETURN_DIGITS) for value in returns]
        else:
            # Whoever did not forfeit did equally well; at the step limit that is everybody.
            values = [-1.0 if side in ended.forfeits else 0.0 for side in range(len(returns))]
        return PlayedGame(
            index=game.index,
            pair=game.pair,
            players=game.players,
            returns=returns,
            places=tuple(sum(other > value for other in values) for value in values),
            length=ended.length,
            ending=ended.ending,
            forfeits=tuple(ended.forfeits.values()),
            trace=int(self._trace[board]),
        )


def _legal(action: ActionSpec, chosen: Array, masks: Bools | None) -> Bools:
    """Which of B actions (B, ...) are legal: (B,)."""
    if isinstance(action, ContinuousActions):
        return np.asarray(np.isfinite(chosen).all(1))
    nvec = np.array([action.num_actions] if isinstance(action, DiscreteActions) else action.nvec)
    choices = chosen.reshape(len(chosen), -1)
    within = (choices >= 0) & (choices < nvec)
    if masks is not None:
        starts = np.concatenate(([0], np.cumsum(nvec)[:-1]))
        places = np.clip(choices, 0, nvec - 1) + starts
        within &= np.take_along_axis(masks, places, axis=1)
    return np.asarray(within.all(1))


def _dtype(action: ActionSpec) -> Any:
    return np.float32 if isinstance(action, ContinuousActions) else np.int64


def _show(action: Array) -> str:
    return " ".join(str(action.tolist()).split())[:80]
