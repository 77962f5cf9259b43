"""Who is better, with error bars: Elo by maximum likelihood, sequential tests, and ratings of n-player games.

Elo here is the batch estimate, a function of counts only: no update constant, no dependence on the order of
games. The model of one game is Davidson's (1970, JASA 65:317, eq. 2.4) with the order effect of Davidson and
Beaver (1977, Biometrics 33:693): with x = r_first - r_second + seat advantage in natural units,

    P(first wins) : P(draw) : P(second wins)  =  exp(x/2) : nu : exp(-x/2).

So 400/ln 10 · x is the Elo difference, in the sense that 400 points are win-to-loss odds of ten; without draws
this is the common logistic formula, and with draws each player's expected score (a draw counting half) equals the
achieved one at the maximum, as in Elo's own rule.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from marl.errors import InputError
from marl.payoffs import Floats, Games, Integers
from marl.streams import derive

ELO_SCALE: Final = 400.0 / math.log(10.0)
"""Elo points in one natural unit of log-odds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EloConfig:
    """How Elo ratings are estimated."""

    anchor: str | None = None
    """The player whose rating is fixed; None fixes the mean of all."""
    anchor_rating: float = 0.0
    """What the anchor (or the mean) is fixed to."""
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
    anchoring = _anchoring(players, config)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapElo:
    """What resampling pairs of games says about the ratings."""

    players: tuple[str, ...]
    samples: Floats
    """(N, P) anchored ratings of the resampled tournaments, in Elo."""
    intervals: Floats
    """(P, 2): percentiles."""
    superiority: Floats
    """(P, P): share of resampled tournaments in which the row's player is ahead, ties counting half."""


def bootstrap_elo(
    games: Games, config: EloConfig | None = None, *, resamples: int = 1000, seed: int = 0
) -> BootstrapElo:
    """Elo intervals by the bootstrap over game pairs (Efron and Tibshirani 1993, ch. 8 and 13: percentiles).

    The unit is all games of one ``pair`` number, because games from the same seed are not independent. Units are
    drawn with replacement within each pairing, whose number of games the schedule fixed. The result depends on
    seed and games, not on their order.
    """
    config = config or EloConfig()
    anchoring = _anchoring(games.players, config)
    size = len(games.players)
    code = (games.first * size + games.second) * 3 + games.outcome
    units: dict[int, list[int]] = {}
    for pair, game in zip(games.pair.tolist(), code.tolist(), strict=True):
        units.setdefault(pair, []).append(game)
    strata: dict[tuple[int, ...], dict[tuple[int, ...], int]] = {}
    for unit in units.values():
        kind = tuple(sorted(unit))
        pairings = tuple(sorted({min(divmod(c // 3, size)) * size + max(divmod(c // 3, size)) for c in kind}))
        kinds = strata.setdefault(pairings, {})
        kinds[kind] = kinds.get(kind, 0) + 1
    generator = np.random.default_rng(derive(seed, "ratings/bootstrap"))
    chunk = max(1, min(resamples, 8_000_000 // (3 * size * size)))
    samples = np.empty((resamples, size))
    for start in range(0, resamples, chunk):
        number = min(chunk, resamples - start)
        counts = np.zeros((number, size * size * 3))
        for pairings in sorted(strata):
            kinds = strata[pairings]
            ordered = sorted(kinds)
            frequency = np.array([kinds[kind] for kind in ordered], dtype=np.float64)
            drawn = generator.multinomial(int(frequency.sum()), frequency / frequency.sum(), size=number)
            for column, kind in enumerate(ordered):
                for game in kind:
                    counts[:, game] += drawn[:, column]
        fit = fit_elo(counts.reshape(number, size, size, 3), config)
        samples[start : start + number] = config.anchor_rating + ELO_SCALE * fit.parameters[:, :size] @ anchoring.T
    tail = (1.0 - config.confidence) / 2
    ahead = np.sign(samples[:, :, None] - samples[:, None, :])
    return BootstrapElo(
        players=games.players,
        samples=samples,
        intervals=np.quantile(samples, (tail, 1.0 - tail), axis=0).T,
        superiority=0.5 + ahead.mean(0) / 2,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SPRTConfig:
    """A sequential test of the hypothesis elo1 against elo0 (Wald 1945)."""

    elo0: float
    """Logistic Elo difference under the null hypothesis."""
    elo1: float
    """Logistic Elo difference under the alternative; above elo0."""
    alpha: float = 0.05
    """Accepted rate of deciding for elo1 where elo0 holds."""
    beta: float = 0.05
    """Accepted rate of deciding for elo0 where elo1 holds."""

    def __post_init__(self) -> None:
        if not self.elo0 < self.elo1:
            raise InputError(f"--sprt takes ELO0 < ELO1, not {self.elo0:g} {self.elo1:g}")
        if not (0.0 < self.alpha < 0.5 and 0.0 < self.beta < 0.5):
            raise InputError(f"alpha and beta lie between 0 and 0.5, not {self.alpha:g} and {self.beta:g}")

    @property
    def bounds(self) -> tuple[float, float]:
        """Lower and upper limit of the log-likelihood ratio: log(beta/(1-alpha)) and log((1-beta)/alpha)."""
        return math.log(self.beta / (1.0 - self.alpha)), math.log((1.0 - self.beta) / self.alpha)


@dataclass(frozen=True, slots=True, kw_only=True)
class SPRTResult:
    """Where a sequential test stands, or how it ended."""

    decision: Literal["elo0", "elo1"] | None
    """The accepted hypothesis; None while the test goes on."""
    llr: float
    """Log-likelihood ratio of elo1 to elo0 after ``used`` observations."""
    bounds: tuple[float, float]
    used: int
    """Observations (pairs, or single games) up to the decision; later ones have no say."""


def expected_score(elo: float) -> float:
    """Expected score of the logistic Elo formula, 1 / (1 + 10^(-elo/400))."""
    return 1.0 / (1.0 + math.exp(-elo / ELO_SCALE))


def sprt_llr(counts: Any, elo0: float, elo1: float) -> Floats:
    """Generalised log-likelihood ratio of two logistic Elo differences.

    The observations are multinomial over K equally spaced scores, with unknown probabilities apart from their
    mean: both hypotheses take the maximum-likelihood probabilities of the mean that they claim (Van den Bergh,
    "A practical introduction to the GSPRT", and its support_MLE_multinomial, Prop. 1.1; used by fishtest). With
    pairs of games (same seed, seats swapped) as observations this needs no assumption that the two games of a
    pair are independent, nor about draws or the seats' advantage.

    Args:
        counts: (..., K) observations by score, lowest first: K = 3 for single games (loss, draw, win), K = 5
            for pairs (0, 0.5, 1, 1.5, 2 points). Counts of zero are taken as 0.001, as fishtest does.
        elo0: null hypothesis.
        elo1: alternative.

    Returns:
        (...) float64.
    """
    counts = np.asarray(counts, dtype=np.float64)
    counts = np.where(counts > 0, counts, 1e-3)
    total = counts.sum(-1, keepdims=True)
    p = counts / total
    values = np.linspace(0.0, 1.0, counts.shape[-1])
    log_weights = []
    for elo in (elo0, elo1):
        b = values - expected_score(elo)
        multiplier = _lagrange_multiplier(p, b)
        log_weights.append(np.log1p(multiplier[..., None] * b))
    # The constrained maximum is p / (1 + multiplier · b).
    ratio: Floats = (counts * (log_weights[0] - log_weights[1])).sum(-1)
    return ratio


def sprt(scores: Any, config: SPRTConfig, *, categories: int = 5) -> SPRTResult:
    """Runs the test over observations in their scheduled order, and stops at the first limit reached.

    Games may finish in another order, on any rank: give the observations by number, up to the first that is
    missing, and the decision is the same everywhere.

    Args:
        scores: (N,) integers in [0, categories): twice the points of a pair (``Games.pair_scores``) for 5
            categories, loss, draw or win of a single game for 3.
        config: hypotheses and error rates.
        categories: kinds of observations, 5 or 3.
    """
    observed = np.asarray(scores, dtype=np.int64)
    if observed.ndim != 1 or (observed.size and not 0 <= observed.min() <= observed.max() < categories):
        raise ValueError(f"scores are a list of integers in [0, {categories})")
    lower, upper = config.bounds
    if not observed.size:
        return SPRTResult(decision=None, llr=0.0, bounds=(lower, upper), used=0)
    counts = np.cumsum(observed[:, None] == np.arange(categories), axis=0)
    llr = sprt_llr(counts, config.elo0, config.elo1)
    ended = np.flatnonzero((llr <= lower) | (llr >= upper))
    last = int(ended[0]) if ended.size else observed.size - 1
    decision: Literal["elo0", "elo1"] | None = None
    if ended.size:
        decision = "elo1" if llr[last] >= upper else "elo0"
    return SPRTResult(decision=decision, llr=float(llr[last]), bounds=(lower, upper), used=last + 1)


def _lagrange_multiplier(p: Floats, b: Floats) -> Floats:
    """The root of sum p·b / (1 + root·b) between its poles: Newton steps, bisection where they leave the bracket."""
    low = np.full(p.shape[:-1], -1.0 / b.max())
    high = np.full(p.shape[:-1], -1.0 / b.min())
    root = np.zeros(p.shape[:-1])
    for _ in range(100):
        ratio = b / (1.0 + root[..., None] * b)
        value = (p * ratio).sum(-1)
        slope = (p * ratio**2).sum(-1)
        low = np.where(value > 0, root, low)
        high = np.where(value > 0, high, root)
        new = root + value / slope
        new = np.where((new > low) & (new < high), new, (low + high) / 2)
        done = np.abs(new - root) <= 1e-13 * (1.0 + np.abs(root))
        root = new
        if done.all():
            break
    return root


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedGame:
    """One game of two or more sides, each a player or a team of several."""

    index: int
    """The game's global number: games are rated in this order, however they arrived."""
    teams: tuple[tuple[str, ...], ...]
    """The players of each side."""
    ranks: tuple[float, ...]
    """Place of each side, lower is better; equal places are a draw."""

    def __post_init__(self) -> None:
        names = [name for team in self.teams for name in team]
        if len(self.teams) < 2 or len(self.ranks) != len(self.teams) or not all(self.teams):
            raise InputError(f"game {self.index} needs two or more sides, each with players and a rank")
        if len(set(names)) != len(names):
            raise InputError(f"a player takes two places in game {self.index}; a rated game needs distinct players")


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillRatings:
    """Normal beliefs about P players' skills."""

    players: tuple[str, ...]
    mu: Floats
    """(P,) mean."""
    sigma: Floats
    """(P,) standard deviation."""
    ordinal: Floats
    """(P,) mu - 3 sigma, the conservative figure that leaderboards sort by."""


def plackett_luce(games: Sequence[RankedGame], players: Sequence[str] | None = None) -> SkillRatings:
    """Plackett-Luce ratings of n-player and team games (Weng and Lin 2011, JMLR 12:267, Algorithm 4).

    Needs the package openskill. Unlike ``elo_ratings`` this is an online rule, so games are taken in the order
    of their numbers.

    Args:
        games: any order.
        players: all players; by default those that occur, sorted.

    Raises:
        InputError: openskill is not installed, two games have the same number, or one names an unknown player.
    """
    try:
        from openskill.models import PlackettLuce
    except ImportError:
        raise InputError("ratings of n-player games need openskill: pip install 'marl[games]'") from None
    ordered = sorted(games, key=lambda game: game.index)
    if repeated := [b.index for a, b in itertools.pairwise(ordered) if a.index == b.index]:
        raise InputError(f"two games have the number {repeated[0]}")
    names = sorted({name for game in ordered for team in game.teams for name in team})
    if players is not None:
        if unknown := sorted(set(names) - set(players)):
            raise InputError(f"a game names {unknown[0]}, but the players are {', '.join(players)}")
        names = list(players)
    model = PlackettLuce()
    beliefs = {name: model.rating(name=name) for name in names}
    for game in ordered:
        rated = model.rate([[beliefs[name] for name in team] for team in game.teams], ranks=list(game.ranks))
        for team, after in zip(game.teams, rated, strict=True):
            beliefs.update(zip(team, after, strict=True))
    mu = np.array([beliefs[name].mu for name in names], dtype=np.float64)
    sigma = np.array([beliefs[name].sigma for name in names], dtype=np.float64)
    return SkillRatings(players=tuple(names), mu=mu, sigma=sigma, ordinal=mu - 3.0 * sigma)


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


def _anchoring(players: Sequence[str], config: EloConfig) -> Floats:
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
