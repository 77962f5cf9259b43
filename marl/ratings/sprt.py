"""The sequential probability ratio test of an Elo difference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from marl.errors import InputError
from marl.types import Floats

ELO_SCALE: Final = 400.0 / math.log(10.0)
"""Elo points in one natural unit of log-odds."""


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
    """The state of a sequential test, or its decision."""

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
