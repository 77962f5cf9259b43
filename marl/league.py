"""A league: players that learn, their past selves, who meets whom, and how it ended.

Everything here is equal on all ranks: matches are functions of the seed, of the copy's global index and of results
that were summed over ranks, and snapshots are taken at update boundaries, when replicas are equal.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from marl.builders import Builder
from marl.checkpoints import flatten_state, unflatten_state
from marl.communicators import assert_replicas_equal
from marl.core import Communicator, Saveable, State
from marl.errors import InputError
from marl.files import write_atomically
from marl.matchmaking import PFSP, Latest, Matchmaking, QualityScores, choose_opponents
from marl.meta_games import alpha_rank, nash_averaging
from marl.payoffs import WIN, Floats, Integers, PayoffTable
from marl.self_play import LEARNER, Policies, learner_sides
from marl.specs import EnvironmentSpec
from marl.streams import Stream

_POLICIES_AT_HAND: Final = 128
_EPISODES_AT_ONCE: Final = 64


class SnapshotStore(Saveable):
    """Parameters by the SHA-256 of their bytes: what was put in can be had again, whole, or not at all.

    Args:
        directory: a file a snapshot, written by rank 0 and never removed; None to keep them in memory and in
            checkpoints.
        writes: whether this process writes the files.
        at_hand: how many are kept in memory where there are files.
    """

    def __init__(self, directory: Path | None = None, *, writes: bool = True, at_hand: int = 64) -> None:
        self.directory = directory
        self._writes = writes
        self._at_hand = at_hand
        self._memory: OrderedDict[str, State] = OrderedDict()

    def put(self, state: State) -> str:
        """Stores named tensors and returns their digest; what is there already is not written again.

        Raises:
            InputError: the disk is full, or the like.
        """
        copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
        data = safetensors.torch.save(copies)
        digest = hashlib.sha256(data).hexdigest()
        if self.directory is not None and self._writes and not self._path(digest).exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(digest), data)
        self._keep(digest, copies)
        return digest

    def get(self, digest: str) -> State:
        """The tensors of a digest.

        Raises:
            InputError: its file is missing or damaged.
        """
        if digest in self._memory:
            self._memory.move_to_end(digest)
            return self._memory[digest]
        if self.directory is None:
            raise InputError(f"there is no snapshot {digest}")
        state = read_snapshot(self._path(digest))
        self._keep(digest, state)
        return state

    def check(self, digests: Sequence[str]) -> None:
        """Raises InputError where one of them is missing or damaged."""
        for digest in dict.fromkeys(digests):
            self.get(digest)

    def state_dict(self) -> State:
        """The snapshots themselves where they have no files, else nothing."""
        return {} if self.directory is not None else flatten_state(self._memory)

    def load_state_dict(self, state: State) -> None:
        """See Saveable."""
        if self.directory is None:
            self._memory = OrderedDict(unflatten_state(state))

    def _path(self, digest: str) -> Path:
        assert self.directory is not None
        return self.directory / f"{digest}.safetensors"

    def _keep(self, digest: str, state: State) -> None:
        self._memory[digest] = state
        self._memory.move_to_end(digest)
        while self.directory is not None and len(self._memory) > self._at_hand:
            self._memory.popitem(last=False)


def read_snapshot(path: Path) -> State:
    """The tensors of a snapshot's file, whose name is the SHA-256 of its content.

    Raises:
        InputError: the file is missing, or it is not what its name says.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the snapshot {path}: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != path.name.partition(".")[0]:
        raise InputError(f"the snapshot {path} is damaged: its content is not what its name says")
    state: State = safetensors.torch.load(data)
    return state


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A past player."""

    name: str
    learner: str
    """Whose past self it is."""
    digest: str
    """SHA-256 of its parameters."""
    env_steps: int
    """Environment steps of that learner until then."""


class Role(Protocol):
    """What a learning player is for: against whom it plays, when it leaves a snapshot, whether it starts anew."""

    def opponents(self, league: League, me: str) -> Floats:
        """How likely each player is the next opponent: (P,) in the order of ``league.players``, summing to 1.

        The own row stands for playing against itself with the newest parameters on both sides.
        """
        ...

    def snapshot_due(self, league: League, me: str, env_steps: int) -> bool:
        """Whether to leave a snapshot now, ``env_steps`` after the last one."""
        ...

    @property
    def restarts(self) -> bool:
        """Whether it begins anew from its first parameters after each snapshot."""
        ...


class _GoesOn:
    """A role that leaves a snapshot every ``save_steps`` steps and never begins anew."""

    __slots__ = ()

    save_steps: int

    def snapshot_due(self, league: League, me: str, env_steps: int) -> bool:
        """See Role."""
        return env_steps >= self.save_steps

    @property
    def restarts(self) -> bool:
        """See Role."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfPlayer(_GoesOn):
    """Plays itself and its own past, as a matchmaking rule says; alone it makes plain self-play."""

    matchmaking: Matchmaking
    """Candidates are the own snapshots, oldest first, and last the player itself."""
    save_steps: int = 20_000
    """Environment steps between snapshots."""
    first_share: float = 0.0
    """Share of matches against the first snapshot, which acts almost at random: it tries everything, so that what
    good players no longer do does not become unknown."""

    def opponents(self, league: League, me: str) -> Floats:
        """See Role."""
        past = league.past(me)
        rule = league.spread(me, self.matchmaking, [*past, me])
        return (1.0 - self.first_share) * rule + self.first_share * league.spread(me, Latest(), past[:1])


@dataclass(frozen=True, slots=True, kw_only=True)
class MainPlayer(_GoesOn):
    """AlphaStar's main agent (Vinyals et al. 2019, Methods): itself, everybody's past, and who beats it."""

    matchmaking: Matchmaking = field(default_factory=PFSP)
    """Among everybody's past."""
    save_steps: int = 20_000
    """Environment steps between snapshots."""
    self_share: float = 0.35
    """Share of matches against itself."""
    exploiter_share: float = 0.15
    """Share of matches against past exploiters, by PFSP, those it loses to first."""

    def opponents(self, league: League, me: str) -> Floats:
        """See Role."""
        everybody = league.past()
        exploiters = [name for name in everybody if league.owner(name) != me]
        shares: list[tuple[float, Matchmaking, Sequence[str]]] = [
            (self.self_share, Latest(), [me]),
            (self.exploiter_share if exploiters else 0.0, PFSP(), exploiters or [me]),
        ]
        rest = 1.0 - sum(share for share, _, _ in shares)
        shares.append((rest, self.matchmaking, everybody or [me]))
        mixed: Floats = np.sum([share * league.spread(me, rule, names) for share, rule, names in shares], axis=0)
        return mixed


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploiter:
    """AlphaStar's exploiters: they find what beats the others, leave it behind as a snapshot, and begin anew.

    A main exploiter plays the newest snapshot of the main player, or, while it wins too rarely to learn from that,
    the main player's past by PFSP for opponents of its own strength. A league exploiter plays everybody's past.
    """

    target: str | None = "main"
    """The player that it exploits; None for the whole league."""
    win_rate: float = 0.7
    """A snapshot is left when it scores this against all that it is to exploit."""
    hopeless: float = 0.1
    """Score against the target's newest snapshot below which its past is played."""
    min_steps: int = 20_000
    """Environment steps before a snapshot at the earliest."""
    max_steps: int = 200_000
    """Environment steps after which a snapshot is left in any case."""
    min_games: int = 20
    """Recent games against an opponent before its score counts."""

    def opponents(self, league: League, me: str) -> Floats:
        """See Role."""
        if self.target is None:
            return league.spread(me, PFSP(), league.past())
        past = league.past(self.target)
        games, rates = league.record_against(me, past[-1:])
        if games[0] >= self.min_games and rates[0] < self.hopeless:
            return league.spread(me, PFSP(weighting="variance"), past)
        return league.spread(me, Latest(), past)

    def snapshot_due(self, league: League, me: str, env_steps: int) -> bool:
        """See Role."""
        if env_steps < self.min_steps or env_steps >= self.max_steps:
            return env_steps >= self.max_steps
        others = [name for name in league.past() if league.owner(name) != me]
        games, rates = league.record_against(me, league.past(self.target)[-1:] if self.target else others)
        return bool(((games >= self.min_games) & (rates >= self.win_rate)).all())

    @property
    def restarts(self) -> bool:
        """See Role."""
        return True


MetaStrategy = Callable[[Floats], Floats]
"""From an antisymmetric payoff (N, N), what the row's player wins from the column's, to a mixture (N,)."""


def nash_mixture(payoff: Floats) -> Floats:
    """The equilibrium of greatest entropy, as in Nash averaging."""
    return nash_averaging(payoff).mixture


def alpha_rank_mixture(payoff: Floats) -> Floats:
    """The stationary distribution of alpha-rank for one population."""
    return alpha_rank(payoff, alpha=10.0).distribution


def uniform_mixture(payoff: Floats) -> Floats:
    """Everybody alike: with it PSRO is fictitious self-play."""
    return np.full(len(payoff), 1.0 / len(payoff))


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle:
    """PSRO (Lanctot et al. 2017, arXiv:1711.00832) of a symmetric zero-sum game: seats are drawn by lot.

    The player learns a best response to a mixture of its own past, is left as a snapshot, and begins anew. The
    mixture solves the game between snapshots, so the league must measure that (``LeagueConfig.measure_games``).
    """

    meta_strategy: MetaStrategy = nash_mixture
    """Which mixture of the past is to be beaten."""
    save_steps: int = 20_000
    """Environment steps of one best response."""

    def opponents(self, league: League, me: str) -> Floats:
        """See Role."""
        past = league.past(me)
        rows = [league.payoffs.index(name) for name in past]
        probabilities = np.zeros(len(league.players))
        probabilities[rows] = self.meta_strategy(league.payoffs.antisymmetric_payoff()[np.ix_(rows, rows)])
        return probabilities

    def snapshot_due(self, league: League, me: str, env_steps: int) -> bool:
        """See Role."""
        return env_steps >= self.save_steps

    @property
    def restarts(self) -> bool:
        """See Role."""
        return True


class League(Saveable):
    """The players, all results, and who meets whom.

    Args:
        learners: roles of the players that learn, by name.
        store: where snapshots go.
        memory: recent games between two players that matchmaking reads; beyond it, counts are halved.

    Attributes:
        learners: roles by name.
        payoffs: all games of players that learned, from the first on.
        recent: the same, but old games fade as ``memory`` says: what matchmaking reads.
        snapshots: in the order in which they were taken.
    """

    def __init__(self, learners: Mapping[str, Role], store: SnapshotStore, *, memory: int = 1000) -> None:
        if memory < 1:
            raise InputError(f"a league remembers at least 1 game, not {memory}")
        self.learners = dict(learners)
        self.store = store
        self.payoffs = PayoffTable(learners)
        self.recent = PayoffTable(learners)
        self.snapshots: list[Snapshot] = []
        self._memory = memory
        self._spread: dict[str, Floats] = {}
        self._candidates: dict[str, list[str]] = {}

    @property
    def players(self) -> tuple[str, ...]:
        """Those that learn, then snapshots as they were taken; players' numbers are indices into this."""
        return self.payoffs.players

    def past(self, learner: str | None = None) -> list[str]:
        """Names of snapshots, oldest first: of one learner, or of all."""
        return [snapshot.name for snapshot in self.snapshots if learner in (None, snapshot.learner)]

    def owner(self, name: str) -> str:
        """Whose past self a snapshot is."""
        return self.snapshot(name).learner

    def snapshot(self, name: str) -> Snapshot:
        """A snapshot by name; InputError where there is none."""
        index = self.payoffs.index(name) - len(self.learners)
        if index < 0:
            raise InputError(f"{name} learns; it is no snapshot")
        return self.snapshots[index]

    def take_snapshot(self, learner: str, parameters: State, env_steps: int, communicator: Communicator) -> Snapshot:
        """Freezes a learner's parameters as a new player. Collective: replicas are compared.

        Raises:
            ReplicaError: ranks have different parameters.
        """
        digest = self.store.put(parameters)
        words = torch.frombuffer(bytearray(bytes.fromhex(digest)), dtype=torch.uint8)
        assert_replicas_equal(communicator, words, f"parameters of {learner}")
        number = len(self.past(learner))
        snapshot = Snapshot(name=f"{learner}-{number:04d}", learner=learner, digest=digest, env_steps=env_steps)
        for table in (self.payoffs, self.recent):
            table.add_players([snapshot.name])
        self.snapshots.append(snapshot)
        return snapshot

    def refresh(self) -> None:
        """Computes anew who meets whom, from what all ranks agree on."""
        self._spread = {name: role.opponents(self, name) for name, role in self.learners.items()}

    def probabilities(self, learner: str) -> Floats:
        """(P,) how likely each player is the learner's next opponent, as of the last ``refresh``."""
        return self._spread[learner]

    def spread(self, me: str, matchmaking: Matchmaking, candidates: Sequence[str]) -> Floats:
        """A matchmaking rule's probabilities, spread over all players: (P,)."""
        probabilities = np.zeros(len(self.players))
        rows = [self.payoffs.index(name) for name in candidates]
        probabilities[rows] = matchmaking.probabilities(self.recent, me, candidates)
        return probabilities

    def record_against(self, me: str, others: Sequence[str]) -> tuple[Floats, Floats]:
        """Recent games against each of the others, and the score a game (half where there was none)."""
        row, rows = self.recent.index(me), [self.recent.index(name) for name in others]
        return self.recent.games()[row, rows].astype(np.float64), self.recent.win_rates()[row, rows]

    def add_results(self, me: str, results: Results, communicator: Communicator) -> Results:
        """Sums a learner's new games over ranks, counts them and returns the sum. Collective."""
        total = results.take(communicator)
        row = self.payoffs.index(me)
        for table in (self.payoffs, self.recent):
            size = len(total.counts[0])
            for seat, place in ((0, (row, slice(0, size))), (1, (slice(0, size), row))):
                table.counts[place] += total.counts[seat]
                table.returns[place] += total.returns[seat]
        self._fade(row)
        for rule in _rules(self.learners[me]):
            if isinstance(rule, QualityScores):
                candidates = [*self.past(me), me]
                rule.update(_table(self.players, row, total), me, candidates)
        return total

    def add_games(self, first: Integers, second: Integers, returns: Floats) -> None:
        """Counts G games between players by number, from (G, 2) returns; the same on all ranks."""
        outcomes = 1 + np.sign(returns[:, 0] - returns[:, 1]).astype(np.int64)
        for table in (self.payoffs, self.recent):
            table.add(first, second, outcomes, returns)

    def forget(self, me: str) -> None:
        """A learner that begins anew has no recent games."""
        row = self.recent.index(me)
        for tensor in (self.recent.counts, self.recent.returns):
            tensor[row] = 0
            tensor[:, row] = 0

    def _fade(self, row: int) -> None:
        games = torch.from_numpy(self.recent.games()[row])
        old = games > self._memory
        for tensor in (self.recent.counts, self.recent.returns):
            for part in (tensor[row], tensor[:, row]):
                part[old] = part[old] // 2 if tensor is self.recent.counts else part[old] / 2

    def state_dict(self) -> State:
        """Players, games, and snapshots by digest (their tensors too where they have no files)."""
        state: dict[str, Any] = {
            "payoffs": self.payoffs.state_dict(),
            "recent": self.recent.state_dict(),
            "snapshots": {
                "digests": torch.tensor([list(bytes.fromhex(s.digest)) for s in self.snapshots], dtype=torch.uint8),
                "learners": torch.tensor([list(self.learners).index(s.learner) for s in self.snapshots]),
                "env_steps": torch.tensor([s.env_steps for s in self.snapshots]),
            },
            "store": self.store.state_dict(),
        }
        for name, role in self.learners.items():
            for number, rule in enumerate(_rules(role)):
                if isinstance(rule, Saveable):
                    state[f"rule/{name}/{number}"] = rule.state_dict()
        return flatten_state(state)

    def load_state_dict(self, state: State) -> None:
        """See Saveable; raises InputError where a snapshot is missing or damaged."""
        parts = unflatten_state(state)
        self.payoffs.load_state_dict(parts["payoffs"])
        self.recent.load_state_dict(parts["recent"])
        names = list(self.learners)
        if list(self.players[: len(names)]) != names:
            raise ValueError(f"its players are {', '.join(self.players)}, not {', '.join(names)}")
        self.store.load_state_dict(parts.get("store", {}))
        saved = parts["snapshots"]
        self.snapshots = [
            Snapshot(name=name, learner=names[learner], digest=bytes(digest).hex(), env_steps=env_steps)
            for name, learner, digest, env_steps in zip(
                self.players[len(names) :],
                saved["learners"].tolist(),
                saved["digests"].tolist(),
                saved["env_steps"].tolist(),
                strict=True,
            )
        ]
        self.store.check([snapshot.digest for snapshot in self.snapshots])
        for name, role in self.learners.items():
            for number, rule in enumerate(_rules(role)):
                if isinstance(rule, Saveable):
                    rule.load_state_dict(parts[f"rule/{name}/{number}"])
        self.refresh()


class Results:
    """A learner's games since they were last taken: counts and returns by opponent and seat.

    Attributes:
        counts: (2, P, 3) int64: seat 0 counts LOSS, DRAW and WIN of the learner sitting before the opponent; seat 1
            those of the opponent sitting before the learner, as a PayoffTable's columns do.
        returns: (2, P, 2) float64: sums of returns of the first and the second of the two.
        sides: (S, 2) float64: games and points (a draw is half) of the learner on each side of the game.
    """

    def __init__(self, num_players: int, num_sides: int) -> None:
        self.counts = torch.zeros(2, num_players, 3, dtype=torch.int64)
        self.returns = torch.zeros(2, num_players, 2, dtype=torch.float64)
        self.sides = torch.zeros(num_sides, 2, dtype=torch.float64)

    def add(self, players: Tensor, returns: Tensor) -> None:
        """Counts K games, each as one between the learner and every other player in it.

        Args:
            players: (K, S); games in which LEARNER sits on no side, or on all, count for nothing.
            returns: (K, S) of the sides.
        """
        own = players == LEARNER
        counted = own.any(1) & ~own.all(1)
        num_players = self.counts.shape[1]
        for mine in range(players.shape[1]):
            for other in range(players.shape[1]):
                rows = counted & own[:, mine] & (players[:, other] >= 0)
                if mine == other or not bool(rows.any()):
                    continue
                pair = torch.stack((returns[rows, mine], returns[rows, other]), dim=1)
                points = 1 + (pair[:, 0] - pair[:, 1]).sign().long()
                self.sides[mine, 0] += len(pair)
                self.sides[mine, 1] += float(points.sum()) / 2
                seat = int(mine > other)
                if seat:
                    pair, points = pair.flip(1), WIN - points
                who = players[rows, other]
                cells = who * 3 + points
                self.counts[seat] += torch.bincount(cells, minlength=num_players * 3).view(-1, 3)
                self.returns[seat].index_add_(0, who, pair.to(torch.float64))

    def take(self, communicator: Communicator) -> Results:
        """The sum over ranks; then there is nothing. Collective."""
        total = Results(self.counts.shape[1], len(self.sides))
        parts = [self.counts.to(torch.float64), self.returns, self.sides]
        buffer = torch.cat([part.flatten() for part in parts])
        communicator.all_reduce(buffer)
        counts, returns, sides = buffer.split([part.numel() for part in parts])
        total.counts = counts.round().to(torch.int64).view_as(self.counts)
        total.returns = returns.view_as(self.returns).clone()
        total.sides = sides.view_as(self.sides).clone()
        for tensor in (self.counts, self.returns, self.sides):
            tensor.zero_()
        return total

    def make_room(self, num_players: int) -> None:
        """Players have joined; to be called when there are no games in it."""
        if num_players == self.counts.shape[1]:
            return
        self.counts = torch.zeros(2, num_players, 3, dtype=torch.int64)
        self.returns = torch.zeros(2, num_players, 2, dtype=torch.float64)


class FrozenPolicies:
    """Policies of snapshots, made when they are first needed; those not used for longest are given up."""

    def __init__(self, builder: Builder[Any], spec: EnvironmentSpec, league: League) -> None:
        self._builder = builder
        self._spec = spec
        self._league = league
        self._made: OrderedDict[str, Policies] = OrderedDict()

    def __call__(self, player: int) -> Policies:
        """The policies of a player by number; it must be a snapshot."""
        digest = self._league.snapshot(self._league.players[player]).digest
        if digest not in self._made:
            self._made[digest] = make_frozen_policies(self._builder, self._spec, self._league.store.get(digest))
            while len(self._made) > _POLICIES_AT_HAND:
                self._made.popitem(last=False)
        self._made.move_to_end(digest)
        return self._made[digest]


def make_frozen_policies(
    builder: Builder[Any], spec: EnvironmentSpec, parameters: State, *, greedy: bool = False
) -> Policies:
    """Policies of their own networks, with the parameters of a snapshot."""
    with torch.random.fork_rng(devices=[]):
        networks = builder.make_networks(spec)
    builder.load_policies(networks, parameters)
    return builder.make_policies(spec, networks, evaluation=greedy)


class LeagueOpponents:
    """One learner's opponents, as the league wants it; see self_play.Opponents.

    The draw of an episode depends on the seed, the learner, the copy's global index and the episode's number; with
    ``swap_period`` on the number of the period instead, so that a copy keeps its opponents for that long.

    Args:
        league: who meets whom.
        me: the learner.
        policies: gives policies of snapshots.
        num_sides: S.
        num_envs: E, copies of this rank.
        first_copy: global index of the first of them.
        seed: the experiment's.
        swap_period: gives the number of the current period; None for new opponents every episode.
    """

    def __init__(
        self,
        league: League,
        me: str,
        policies: FrozenPolicies,
        *,
        num_sides: int,
        num_envs: int,
        first_copy: int,
        seed: int,
        swap_period: Callable[[], int] | None = None,
    ) -> None:
        self._league = league
        self._me = me
        self._row = league.payoffs.index(me)
        self._num_sides = num_sides
        self._first_copy = first_copy
        self._stream = Stream(seed, f"matchmaking/{me}", first_copy=first_copy, num_copies=num_envs)
        self._words: OrderedDict[int, Tensor] = OrderedDict()
        self._swap_period = swap_period
        self.policies = policies
        self.results = Results(len(league.players), num_sides)

    def draw(self, copies: Tensor, episodes: Tensor) -> Tensor:
        """See Opponents."""
        times = episodes if self._swap_period is None else torch.full_like(episodes, self._swap_period())
        drawn = torch.from_numpy(
            choose_opponents(self._league.probabilities(self._me), self._numbers(copies, times).numpy())
        )
        own = learner_sides(copies + self._first_copy, episodes, self._num_sides)
        players = torch.full((len(copies), self._num_sides), LEARNER)
        # The k-th opponent sits k seats behind the learner, so that who it is does not depend on the seat.
        seats = (own.unsqueeze(1) + torch.arange(1, self._num_sides)) % self._num_sides
        return players.scatter_(1, seats, torch.where(drawn == self._row, LEARNER, drawn))

    def record(self, players: Tensor, returns: Tensor) -> None:
        """See Opponents."""
        self.results.add(players, returns)

    def _numbers(self, copies: Tensor, times: Tensor) -> Tensor:
        """(K, S - 1, 2) random words; they are made for many episodes of all copies at once."""
        others = self._num_sides - 1
        words = torch.empty(len(copies), others, 2, dtype=torch.int64)
        blocks = times // _EPISODES_AT_ONCE
        for block in blocks.unique().tolist():
            if block not in self._words:
                made = self._stream.words(block * _EPISODES_AT_ONCE, 2 * others, rows=_EPISODES_AT_ONCE)
                self._words[block] = made.view(_EPISODES_AT_ONCE, -1, others, 2)
                while len(self._words) > 8:
                    self._words.popitem(last=False)
            self._words.move_to_end(block)
            rows = blocks == block
            words[rows] = self._words[block][times[rows] % _EPISODES_AT_ONCE, copies[rows]]
        return words


def _rules(role: Role) -> list[Any]:
    """The matchmaking rules of a role that may remember something."""
    rule = getattr(role, "matchmaking", None)
    return [] if rule is None else [rule]


def _table(players: Sequence[str], row: int, total: Results) -> PayoffTable:
    """A learner's games alone, as a table."""
    table = PayoffTable(players)
    size = total.counts.shape[1]
    table.counts[row, :size] += total.counts[0]
    table.counts[:size, row] += total.counts[1]
    return table
