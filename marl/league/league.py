"""A league: learning players, their snapshots, the probabilities of opponents, and the results of games.

Everything here is equal on all ranks: matches are functions of the seed, of the environment's global index and of
results that were summed over ranks, and snapshots are taken at update boundaries, when replicas are equal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from marl.checkpoints.snapshots import Snapshot, SnapshotStore
from marl.core import Communicator, Saveable, State
from marl.distributed.replica_checks import assert_replicas_equal
from marl.errors import InputError
from marl.league.matchmaking import Matchmaking
from marl.league.results import LeagueResults
from marl.ratings.payoffs import PayoffTable
from marl.states import flatten_state, unflatten_state
from marl.types import Floats, Integers


class Role(ABC):
    """The role of a learning player: it chooses opponents and the times of snapshots."""

    __slots__ = ()

    @abstractmethod
    def opponents(self, league: League, me: str) -> Floats:
        """Returns the probability of each player to be the next opponent: (P,) in the order of ``league.players``.

        The own row stands for self-play, with the newest parameters on all sides.
        """

    @abstractmethod
    def snapshot_due(self, league: League, me: str, env_steps: int) -> bool:
        """Returns whether to take a snapshot now, ``env_steps`` after the last one."""

    @property
    def restart_steps(self) -> int | None:
        """Environment steps after which, at the latest, the player is reset to its first parameters; None for never.

        Such a player is reset after each of its snapshots.
        """
        return None

    @property
    def reads_measured_games(self) -> bool:
        """True if opponents follow from games between snapshots, so that the league must measure some."""
        return False

    @property
    def rules(self) -> tuple[Matchmaking, ...]:
        """Matchmaking rules that the role uses and that may have state."""
        return ()


class League(Saveable):
    """The players, all results, and the probabilities of opponents.

    Args:
        learners: roles of the learning players, by name.
        store: holds the snapshots.
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
        """Learning players, then snapshots as they were taken; players' numbers are indices into this."""
        return self.payoffs.players

    def past(self, learner: str | None = None) -> list[str]:
        """Returns names of snapshots, oldest first: of one learner, or of all."""
        return [snapshot.name for snapshot in self.snapshots if learner in (None, snapshot.learner)]

    def owner(self, name: str) -> str:
        """Returns the learner of which a snapshot was taken."""
        return self.snapshot(name).learner

    def snapshot(self, name: str) -> Snapshot:
        """Returns a snapshot by name; raises InputError if there is none."""
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
        assert_replicas_equal(communicator, words, what=f"parameters of {learner}")
        number = len(self.past(learner))
        snapshot = Snapshot(name=f"{learner}-{number:04d}", learner=learner, digest=digest, env_steps=env_steps)
        for table in (self.payoffs, self.recent):
            table.add_players([snapshot.name])
        self.snapshots.append(snapshot)
        return snapshot

    def refresh(self) -> None:
        """Updates the probabilities of opponents, from results on which all ranks agree."""
        self._spread = {name: role.opponents(self, name) for name, role in self.learners.items()}

    def probabilities(self, learner: str) -> Floats:
        """Returns each player's probability to be the learner's next opponent, (P,), as of the last ``refresh``."""
        return self._spread[learner]

    def spread(self, me: str, matchmaking: Matchmaking, candidates: Sequence[str]) -> Floats:
        """Returns a matchmaking rule's probabilities, spread over all players: (P,)."""
        probabilities = np.zeros(len(self.players))
        rows = [self.payoffs.index(name) for name in candidates]
        probabilities[rows] = matchmaking.probabilities(self.recent, me, candidates)
        return probabilities

    def record_against(self, me: str, others: Sequence[str]) -> tuple[Floats, Floats]:
        """Returns recent games against each of the others, and the score per game (half if there was none)."""
        row, rows = self.recent.index(me), [self.recent.index(name) for name in others]
        return self.recent.games()[row, rows].astype(np.float64), self.recent.win_rates()[row, rows]

    def add_results(self, me: str, results: LeagueResults, communicator: Communicator) -> LeagueResults:
        """Sums a learner's new games over ranks, counts them and returns the sum. Collective."""
        total = results.drain(communicator)
        row = self.payoffs.index(me)
        for table in (self.payoffs, self.recent):
            size = len(total.counts[0])
            for seat, place in ((0, (row, slice(0, size))), (1, (slice(0, size), row))):
                table.counts[place] += total.counts[seat]
                table.returns[place] += total.returns[seat]
        self._fade(row)
        for rule in self.learners[me].rules:
            if rule.adapts:
                rule.update(_table(self.players, row, total), me, [*self.past(me), me])
        return total

    def add_games(self, first: Integers, second: Integers, returns: Floats) -> None:
        """Counts G games between players by number, from (G, 2) returns; the same on all ranks."""
        outcomes = 1 + np.sign(returns[:, 0] - returns[:, 1]).astype(np.int64)
        for table in (self.payoffs, self.recent):
            table.add(first, second, outcomes, returns)

    def forget(self, me: str) -> None:
        """Forgets a learner's recent games, when it is reset."""
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
            for number, rule in enumerate(role.rules):
                state[f"rule/{name}/{number}"] = rule.state_dict()
        return flatten_state(state)

    def load_state_dict(self, state: State) -> None:
        """Restores all of them; raises InputError if a snapshot is missing or damaged."""
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
            for number, rule in enumerate(role.rules):
                rule.load_state_dict(parts.get(f"rule/{name}/{number}", {}))
        self.refresh()


def _table(players: Sequence[str], row: int, total: LeagueResults) -> PayoffTable:
    """A learner's games alone, as a table."""
    table = PayoffTable(players)
    size = total.counts.shape[1]
    table.counts[row, :size] += total.counts[0]
    table.counts[:size, row] += total.counts[1]
    return table
