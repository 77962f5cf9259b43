"""Roles of players in a league: self-play, AlphaStar's main players and exploiters, and PSRO's oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from marl.league.league import League, Role
from marl.league.matchmaking import PFSP, Latest, Matchmaking
from marl.ratings.alpha_rank import alpha_rank
from marl.ratings.nash import nash_averaging
from marl.types import Floats


class PeriodicSnapshots(Role):
    """A role that takes a snapshot every ``save_steps`` environment steps."""

    __slots__ = ()

    save_steps: int

    def snapshot_due(self, league: League, me: str, env_steps: int) -> bool:
        return env_steps >= self.save_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfPlayer(PeriodicSnapshots):
    """Plays itself and its own snapshots, as a matchmaking rule says; alone it makes plain self-play."""

    matchmaking: Matchmaking
    """Candidates are the own snapshots, oldest first, and last the player itself."""
    save_steps: int = 20_000
    """Environment steps between snapshots."""
    first_snapshot_fraction: float = 0.0
    """Share of matches against the first snapshot, which acts almost at random: it tries everything, so that states
    which good players avoid are still visited."""

    def opponents(self, league: League, me: str) -> Floats:
        past = league.past(me)
        rule = league.spread(me, self.matchmaking, [*past, me])
        return (1.0 - self.first_snapshot_fraction) * rule + self.first_snapshot_fraction * league.spread(
            me, Latest(), past[:1]
        )

    @property
    def rules(self) -> tuple[Matchmaking, ...]:
        return (self.matchmaking,)


@dataclass(frozen=True, slots=True, kw_only=True)
class MainPlayer(PeriodicSnapshots):
    """AlphaStar's main agent (Vinyals et al. 2019, Methods): plays itself, all snapshots, and those that beat it."""

    matchmaking: Matchmaking = field(default_factory=PFSP)
    """Among all snapshots."""
    save_steps: int = 20_000
    """Environment steps between snapshots."""
    self_share: float = 0.35
    """Share of matches against itself."""
    exploiter_share: float = 0.15
    """Share of matches against exploiters' snapshots, by PFSP, those it loses to first."""

    def opponents(self, league: League, me: str) -> Floats:
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

    @property
    def rules(self) -> tuple[Matchmaking, ...]:
        return (self.matchmaking,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploiter(Role):
    """AlphaStar's exploiters: they learn to beat the others, are kept as a snapshot, and are reset.

    A main exploiter plays the newest snapshot of the main player, or, while it wins too rarely to learn from that, the
    main player's earlier ones by PFSP for opponents of its own strength. A league exploiter plays all snapshots.
    """

    target: str | None = "main"
    """The player that it exploits; None for the whole league."""
    win_rate: float = 0.7
    """Score against all players that it is to exploit at which a snapshot is taken."""
    fallback_win_rate: float = 0.1
    """Score against the target's newest snapshot below which earlier ones are played."""
    min_steps: int = 20_000
    """Environment steps before a snapshot at the earliest."""
    max_steps: int = 200_000
    """Environment steps after which a snapshot is taken in any case."""
    min_games: int = 20
    """Recent games against an opponent before its score counts."""

    def opponents(self, league: League, me: str) -> Floats:
        if self.target is None:
            return league.spread(me, PFSP(), league.past())
        past = league.past(self.target)
        games, rates = league.record_against(me, past[-1:])
        if games[0] >= self.min_games and rates[0] < self.fallback_win_rate:
            return league.spread(me, PFSP(weighting="variance"), past)
        return league.spread(me, Latest(), past)

    def snapshot_due(self, league: League, me: str, env_steps: int) -> bool:
        if env_steps < self.min_steps or env_steps >= self.max_steps:
            return env_steps >= self.max_steps
        others = [name for name in league.past() if league.owner(name) != me]
        games, rates = league.record_against(me, league.past(self.target)[-1:] if self.target else others)
        return bool(((games >= self.min_games) & (rates >= self.win_rate)).all())

    @property
    def restart_steps(self) -> int:
        return self.max_steps


MetaStrategy = Callable[[Floats], Floats]
"""From an antisymmetric payoff (N, N), what the row's player wins from the column's, to a mixture (N,)."""


def nash_mixture(payoff: Floats) -> Floats:
    """The equilibrium of greatest entropy, as in Nash averaging."""
    return nash_averaging(payoff).mixture


def alpha_rank_mixture(payoff: Floats) -> Floats:
    """The stationary distribution of alpha-rank for one population."""
    return alpha_rank(payoff, alpha=10.0).distribution


def uniform_mixture(payoff: Floats) -> Floats:
    """The uniform mixture: with it PSRO is fictitious self-play."""
    return np.full(len(payoff), 1.0 / len(payoff))


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle(PeriodicSnapshots):
    """PSRO (Lanctot et al. 2017, arXiv:1711.00832) of a symmetric zero-sum game, played from all seats in turn.

    The player learns a best response to a mixture of its own snapshots, is kept as a snapshot, and is reset. The
    mixture solves the game between snapshots, so the league must measure that (``LeagueConfig.measure_games``).
    """

    meta_strategy: MetaStrategy = nash_mixture
    """The mixture of snapshots that is to be beaten."""
    save_steps: int = 20_000
    """Environment steps of one best response."""

    def opponents(self, league: League, me: str) -> Floats:
        past = league.past(me)
        rows = [league.payoffs.index(name) for name in past]
        probabilities = np.zeros(len(league.players))
        probabilities[rows] = self.meta_strategy(league.payoffs.antisymmetric_payoff()[np.ix_(rows, rows)])
        return probabilities

    @property
    def reads_measured_games(self) -> bool:
        return True

    @property
    def restart_steps(self) -> int:
        return self.save_steps
