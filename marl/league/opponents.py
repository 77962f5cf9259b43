"""A learner's opponents in a league: drawn by the league's probabilities, acting with policies of snapshots."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from marl.builders import Builder
from marl.core import State
from marl.league.league import League
from marl.league.matchmaking import choose_opponents
from marl.league.results import LeagueResults
from marl.random_streams import Stream
from marl.self_play.opponents import LEARNER, Opponents, Policies, learner_sides
from marl.specs import EnvironmentSpec

_CACHED_POLICIES: Final = 128
_EPISODES_AT_ONCE: Final = 64


class FrozenPolicies:
    """A cache of snapshots' policies; the least recently used ones are dropped."""

    def __init__(self, builder: Builder[Any], spec: EnvironmentSpec, league: League) -> None:
        self._builder = builder
        self._spec = spec
        self._league = league
        self._made: OrderedDict[str, Policies] = OrderedDict()

    def __call__(self, player: int) -> Policies:
        """Returns the policies of a player by number; it must be a snapshot."""
        digest = self._league.snapshot(self._league.players[player]).digest
        if digest not in self._made:
            self._made[digest] = make_frozen_policies(self._builder, self._spec, self._league.store.get(digest))
            while len(self._made) > _CACHED_POLICIES:
                self._made.popitem(last=False)
        self._made.move_to_end(digest)
        return self._made[digest]


def make_frozen_policies(
    builder: Builder[Any], spec: EnvironmentSpec, parameters: State, *, greedy: bool = False
) -> Policies:
    """Makes policies with networks of their own, with the parameters of a snapshot."""
    with torch.random.fork_rng(devices=[]):
        networks = builder.make_networks(spec)
    builder.load_policies(networks, parameters)
    return builder.frozen_policies(spec, networks, greedy=greedy)


class LeagueOpponents(Opponents):
    """One learner's opponents, drawn by the league's probabilities; see self_play.Opponents.

    The draw of an episode depends on the seed, the learner, the environment's global index and the episode's number;
    with ``swap_period`` on the number of the period instead, so that opponents stay for that long.

    Args:
        league: gives the probabilities.
        me: the learner.
        policies: returns policies of snapshots.
        num_sides: S.
        num_envs: E, environments on this rank.
        first_env: global index of the first of them.
        seed: the experiment's.
        swap_period: returns the number of the current period; None for new opponents every episode.
    """

    def __init__(
        self,
        league: League,
        me: str,
        policies: FrozenPolicies,
        *,
        num_sides: int,
        num_envs: int,
        first_env: int,
        seed: int,
        swap_period: Callable[[], int] | None = None,
    ) -> None:
        self._league = league
        self._me = me
        self._row = league.payoffs.index(me)
        self._num_sides = num_sides
        self._first_env = first_env
        self._stream = Stream(seed, f"matchmaking/{me}", first_env=first_env, num_envs=num_envs)
        self._words: OrderedDict[int, Tensor] = OrderedDict()
        self._swap_period = swap_period
        self._policies = policies
        self.results = LeagueResults(len(league.players), num_sides)

    def draw(self, envs: Tensor, episodes: Tensor) -> Tensor:
        times = episodes if self._swap_period is None else torch.full_like(episodes, self._swap_period())
        drawn = torch.from_numpy(
            choose_opponents(self._league.probabilities(self._me), self._numbers(envs, times).numpy())
        )
        own = learner_sides(envs + self._first_env, episodes, self._num_sides)
        players = torch.full((len(envs), self._num_sides), LEARNER)
        # The k-th opponent sits k seats behind the learner, so that who it is does not depend on the seat.
        seats = (own.unsqueeze(1) + torch.arange(1, self._num_sides)) % self._num_sides
        return players.scatter_(1, seats, torch.where(drawn == self._row, LEARNER, drawn))

    def policies(self, player: int) -> Policies:
        return self._policies(player)

    def record(self, players: Tensor, returns: Tensor) -> None:
        self.results.add(players, returns)

    def _numbers(self, envs: Tensor, times: Tensor) -> Tensor:
        """(K, S - 1, 2) random words; they are made for many episodes of all environments at once."""
        others = self._num_sides - 1
        words = torch.empty(len(envs), others, 2, dtype=torch.int64)
        blocks = times // _EPISODES_AT_ONCE
        for block in blocks.unique().tolist():
            if block not in self._words:
                made = self._stream.words(block * _EPISODES_AT_ONCE, 2 * others, rows=_EPISODES_AT_ONCE)
                self._words[block] = made.view(_EPISODES_AT_ONCE, -1, others, 2)
                while len(self._words) > 8:
                    self._words.popitem(last=False)
            self._words.move_to_end(block)
            rows = blocks == block
            words[rows] = self._words[block][times[rows] % _EPISODES_AT_ONCE, envs[rows]]
        return words
