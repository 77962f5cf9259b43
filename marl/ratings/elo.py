"""Elo ratings by maximum likelihood, with error bars.

Elo here is the batch estimate, a function of counts only: no update constant, no dependence on the order of
games. The model of one game is Davidson's (1970, JASA 65:317, eq. 2.4) with the order effect of Davidson and
Beaver (1977, Biometrics 33:693): with x = r_first - r_second + seat advantage in natural units,

    P(first wins) : P(draw) : P(second wins)  =  exp(x/2) : nu : exp(-x/2).

So 400/ln 10 · x is the Elo difference, in the sense that 400 points are win-to-loss odds of ten; without draws
this is the common logistic formula, and with draws each player's expected score (a draw counting half) equals the
achieved one at the maximum, as in Elo's own rule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marl.errors import InputError
from marl.ratings.sprt import ELO_SCALE
from marl.types import Floats, Integers


@dataclass(frozen=True, slots=True, kw_only=True)
class EloConfig:
    """Settings of the estimate of Elo ratings."""

    anchor: str | None = None
    """The player whose rating is fixed; None fixes the mean of all."""
    anchor_rating: float = 0.0
    """The rating of the anchor, or the mean."""
    seat_advantage: bool = True
    """Whether the first seat has an advantage of its own, estimated with the ratings."""
    confidence: float = 0.95
    """Coverage of the intervals."""
    prior_deviation: float = 4000.0
    """Standard deviation, in Elo, of the normal prior around 0 on ratings, seat advantage and log nu.

    It makes the estimate unique where players never met, even through others, and is weak enough to leave other
    estimates alone: at 100 games and 200 points from the mean it moves a rating by about 0.02.
    """

    def __post_init__(self) -> None:
        if not 0.0 < self.confidence < 1.0:
            raise InputError(f"confidence lies between 0 and 1, not {self.confidence}")
        if not self.prior_deviation > 0.0:
            raise InputError(f"prior_deviation is positive, not {self.prior_deviation}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EloRatings:
    """Ratings of P players in Elo, with their uncertainty."""

    players: tuple[str, ...]
    ratings: Floats
    """(P,)."""
    intervals: Floats
    """(P, 2): lower and upper limit; an anchored player's has no width."""
    covariance: Floats
    """(P, P) of the anchored ratings, in Elo squared."""
    superiority: Floats
    """(P, P) likelihood of superiority: the probability that the row's player is stronger; 0.5 on the diagonal."""
    seat_advantage: float
    """Elo that the first seat is worth; 0 where it is not estimated."""
    seat_interval: tuple[float, float]
    draw_parameter: float
    """Davidson's nu: equal players draw with probability nu / (2 + nu). Zero if nobody ever drew."""
    games: Integers
    """(P,) games of each player."""

    def expected_score(self, first: str, second: str) -> float:
        """The first seat's expected score in one game, a draw counting half."""
        a, b = self.players.index(first), self.players.index(second)
        x = (self.ratings[a] - self.ratings[b] + self.seat_advantage) / ELO_SCALE
        win, loss = math.exp(x / 2), math.exp(-x / 2)
        return (win + self.draw_parameter / 2) / (win + loss + self.draw_parameter)


@dataclass(frozen=True, slots=True, kw_only=True)
class EloFit:
    """Modes of B independent fits in natural units, and the observed information there."""

    parameters: Floats
    """(B, P + 2): ratings of mean 0, seat advantage, log nu. A parameter that is not estimated is 0 (log nu: -inf)."""
    information: Floats
    """(B, P + 2, P + 2), prior included; a parameter that is not estimated has a unit row.

    The translation of all ratings is pinned by adding 1 to each entry of the ratings' block, which no anchored
    covariance can see.
    """


def fit_elo(counts: NDArray[Any], config: EloConfig | None = None) -> EloFit:
    """Maximum a posteriori ratings of B tournaments at once, by damped Newton steps.

    The log-posterior is strictly concave, so the mode is unique; it is found to rounding error. Where the
    likelihood has no finite maximum (an unbeaten player, a seat that always wins), imaginary half games are added
    as ``_virtual_games`` says; otherwise none are.

    Args:
        counts: (B, P, P, 3): games of the row's player in the first seat against the column's that ended in
            loss, draw, win of the first seat. The diagonal is ignored.
        config: prior, and whether there is a seat advantage; anchors do not matter here.
    """
    config = config or EloConfig()
    tallies: Floats = np.array(counts, dtype=np.float64)
    if tallies.ndim != 4 or tallies.shape[1] != tallies.shape[2] or tallies.shape[3] != 3:
        raise ValueError(f"counts must have shape (B, P, P, 3), not {tallies.shape}")
    size = tallies.shape[1]
    tallies[:, np.arange(size), np.arange(size)] = 0.0
    tallies += _virtual_games(tallies, seat_advantage=config.seat_advantage)
    draws = bool(tallies[..., 1].any())
    free = np.array([True] * size + [config.seat_advantage, draws])
    precision = np.where(free, (ELO_SCALE / config.prior_deviation) ** 2, 0.0)
    theta = np.zeros((tallies.shape[0], size + 2))
    if not draws:
        theta[:, -1] = -np.inf
    games = tallies.sum(-1)
    active = np.arange(tallies.shape[0])
    information = np.empty((tallies.shape[0], size + 2, size + 2))
    for _ in range(200):
        chosen, played, at = tallies[active], games[active], theta[active]
        value, gradient, hessian = _posterior(chosen, played, at, precision, free)
        # At the mode the mean rating is 0, so nothing is lost when it is pinned there; rounding would let it drift.
        hessian[:, :size, :size] += 1.0
        information[active] = hessian
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        step[:, :size] -= step[:, :size].mean(-1, keepdims=True)
        gain = (gradient * step).sum(-1)
        # Far from the mode the quadratic model is poor: no coordinate moves by more than 3 natural units at once.
        step *= np.minimum(1.0, 3.0 / np.maximum(np.abs(step).max(-1, keepdims=True), 1e-300))
        scale = np.ones((active.size, 1))
        for _ in range(30):
            trial = np.where(free, at + scale * step, at)
            worse = _log_posterior(chosen, played, trial, precision) < value - 1e-11 * (1.0 + np.abs(value))
            if not worse.any():
                break
            scale[worse] /= 2
        theta[active] = trial
        # Done when the step was tiny, or promised less than rounding error of the log-posterior.
        active = active[(np.abs(scale * step).max(-1) > 1e-10) & (gain > 1e-14 * (1.0 + np.abs(value)))]
        if not active.size:
            break
    else:
        raise FloatingPointError("the ratings' Newton iteration did not converge")
    return EloFit(parameters=theta, information=information)


def elo_ratings(counts: NDArray[Any], players: Sequence[str], config: EloConfig | None = None) -> EloRatings:
    """Elo ratings with intervals from the observed Fisher information.

    The covariance of the anchored ratings is J I⁻¹ Jᵀ with J the derivative of anchoring (delta method), so an
    interval says how well a player is placed relative to the anchor. Games are taken as independent; where pairs
    of games share a seed, ``bootstrap_elo`` makes no such assumption.

    Args:
        counts: (P, P, 3), as ``Games.counts`` and ``PayoffTable.counts`` hold them.
        players: the P names.
        config: anchor, prior, confidence.

    Raises:
        InputError: the anchor is not among the players, or there are none.
    """
    config = config or EloConfig()
    counts = np.asarray(counts)
    if counts.shape != (len(players), len(players), 3):
        raise ValueError(f"counts must have shape ({len(players)}, {len(players)}, 3), not {counts.shape}")
    fit = fit_elo(counts[None], config)
    anchoring = anchoring_matrix(players, config)
    size = len(players)
    covariance = ELO_SCALE**2 * np.linalg.inv(fit.information[0])
    anchored = anchoring @ covariance[:size, :size] @ anchoring.T
    ratings = config.anchor_rating + ELO_SCALE * anchoring @ fit.parameters[0, :size]
    width = NormalDist().inv_cdf(0.5 + config.confidence / 2)
    half = width * np.sqrt(np.maximum(np.diag(anchored), 0.0))
    seat = ELO_SCALE * float(fit.parameters[0, size])
    seat_half = width * math.sqrt(covariance[size, size]) if config.seat_advantage else 0.0
    return EloRatings(
        players=tuple(players),
        ratings=ratings,
        intervals=np.stack((ratings - half, ratings + half), axis=-1),
        covariance=anchored,
        superiority=_superiority(ratings, covariance[:size, :size]),
        seat_advantage=seat,
        seat_interval=(seat - seat_half, seat + seat_half),
        draw_parameter=float(np.exp(fit.parameters[0, size + 1])),
        games=_games_of_each(counts),
    )


def _virtual_games(counts: Floats, *, seat_advantage: bool) -> Floats:
    """Imaginary games that make an infinite estimate finite: (B, P, P, 3), zero where the maximum exists.

    The ratings have a finite maximum if and only if no set of players won all its games against the others (Ford
    1957, Amer. Math. Monthly 64(8):28, with a draw as half a win for both): the graph of who took points from whom
    is strongly connected. Between two strongly connected components that met, one game, half won and half lost,
    is spread over their pairings in proportion to the games played; for one player this is the half win of
    Jeffreys' prior. Likewise a seat that never won gets half a win, spread over all games.
    """
    size = counts.shape[1]
    games = counts.sum(-1)
    took_points = (counts[..., 2] + counts[..., 1]) + (counts[..., 0] + counts[..., 1]).transpose(0, 2, 1)
    reach = (took_points > 0) | np.eye(size, dtype=bool)
    for _ in range(max(1, math.ceil(math.log2(max(size, 2))))):
        reach = (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
    together = (reach & reach.transpose(0, 2, 1)).astype(np.float64)
    both_seats = games + games.transpose(0, 2, 1)
    between = together @ both_seats @ together
    share = np.where((together == 0) & (games > 0), games / np.maximum(between, 1.0), 0.0)
    virtual = np.zeros_like(counts)
    virtual[..., 0] = virtual[..., 2] = share / 2
    if seat_advantage:
        spread = games / np.maximum(games.sum((1, 2), keepdims=True), 1.0)
        for outcome in (0, 2):
            never = counts[..., outcome].sum((1, 2)) == 0
            virtual[..., outcome] += 0.5 * never[:, None, None] * spread
    return virtual


def _probabilities(theta: Floats) -> tuple[Floats, Floats]:
    """Log-weights of loss, draw, win, (B, P, P, 3), and the log of their sum."""
    size = theta.shape[1] - 2
    ratings = theta[:, :size]
    x = ratings[:, :, None] - ratings[:, None, :] + theta[:, size, None, None]
    log_nu = np.broadcast_to(theta[:, size + 1, None, None], x.shape)
    weights = np.stack((-x / 2, log_nu, x / 2), axis=-1)
    top = np.maximum(np.abs(x) / 2, log_nu)
    return weights, top + np.log(np.exp(weights - top[..., None]).sum(-1))


def _log_posterior(counts: Floats, games: Floats, theta: Floats, precision: Floats) -> Floats:
    weights, total = _probabilities(theta)
    # Where draws never happen, their log-weight is -inf and their count 0.
    likelihood = (counts * np.where(np.isfinite(weights), weights, 0.0)).sum((1, 2, 3)) - (games * total).sum((1, 2))
    finite = np.where(np.isfinite(theta), theta, 0.0)
    value: Floats = likelihood - 0.5 * (precision * finite**2).sum(-1)
    return value


def _posterior(
    counts: Floats, games: Floats, theta: Floats, precision: Floats, free: NDArray[np.bool_]
) -> tuple[Floats, Floats, Floats]:
    """Log-posterior (B,), its gradient (B, P+2) and its negative Hessian (B, P+2, P+2)."""
    size = theta.shape[1] - 2
    weights, total = _probabilities(theta)
    p = np.exp(weights - total[..., None])
    lead = (p[..., 2] - p[..., 0]) / 2
    dx = (counts[..., 2] - counts[..., 0]) / 2 - games * lead
    dc = counts[..., 1] - games * p[..., 1]
    finite = np.where(np.isfinite(theta), theta, 0.0)
    gradient = np.empty_like(theta)
    gradient[:, :size] = dx.sum(2) - dx.sum(1)
    gradient[:, size] = dx.sum((1, 2))
    gradient[:, size + 1] = dc.sum((1, 2))
    gradient = np.where(free, gradient - precision * finite, 0.0)
    xx = games * ((p[..., 0] + p[..., 2]) / 4 - lead**2)
    xc = -games * lead * p[..., 1]
    cc = games * p[..., 1] * (1.0 - p[..., 1])
    hessian = np.zeros((*theta.shape, size + 2))
    hessian[:, :size, :size] = -(xx + xx.transpose(0, 2, 1))
    diagonal = np.arange(size)
    hessian[:, diagonal, diagonal] += xx.sum(2) + xx.sum(1)
    for row, of_pair in ((size, xx), (size + 1, xc)):
        column = of_pair.sum(2) - of_pair.sum(1)
        hessian[:, :size, row] = column
        hessian[:, row, :size] = column
    hessian[:, size, size] = xx.sum((1, 2))
    hessian[:, size, size + 1] = hessian[:, size + 1, size] = xc.sum((1, 2))
    hessian[:, size + 1, size + 1] = cc.sum((1, 2))
    hessian *= free[:, None] & free[None, :]
    every = np.arange(size + 2)
    hessian[:, every, every] += np.where(free, precision, 1.0)
    return _log_posterior(counts, games, theta, precision), gradient, hessian


def anchoring_matrix(players: Sequence[str], config: EloConfig) -> Floats:
    """The matrix J that takes ratings to anchored ratings: (P, P)."""
    size = len(players)
    if not size:
        raise InputError("there is nobody to rate: no player has played")
    if config.anchor is None:
        return np.eye(size) - 1.0 / size
    if config.anchor not in players:
        raise InputError(f"the anchor {config.anchor} is not a player; there are {', '.join(players)}")
    anchoring = np.eye(size)
    anchoring[:, list(players).index(config.anchor)] -= 1.0
    return anchoring


def _superiority(ratings: Floats, covariance: Floats) -> Floats:
    variance = np.diag(covariance)
    deviation = np.sqrt(np.maximum(variance[:, None] + variance[None, :] - 2 * covariance, 1e-300))
    z = (ratings[:, None] - ratings[None, :]) / deviation
    table: Floats = np.array([[0.5 * math.erfc(-value / math.sqrt(2.0)) for value in row] for row in z])
    np.fill_diagonal(table, 0.5)
    return table


def _games_of_each(counts: NDArray[Any]) -> Integers:
    ordered = np.array(counts.sum(-1), dtype=np.int64)
    np.fill_diagonal(ordered, 0)
    games: Integers = ordered.sum(0) + ordered.sum(1)
    return games
