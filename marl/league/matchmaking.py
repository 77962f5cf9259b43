"""Matchmaking: rules that turn a payoff table into probabilities of opponents.

Probabilities are functions of results on which all ranks agree, and draws are functions of random words that depend on
the seed and the match's global number, so matches are the same however they are spread over ranks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from marl.core import Saveable, State
from marl.errors import InputError
from marl.ratings.payoffs import WIN, PayoffTable
from marl.types import Floats, Integers


class Matchmaking(Saveable, ABC):
    """A rule by which opponents of a learner are chosen."""

    adapts: ClassVar[bool] = False
    """Whether its probabilities depend on state that ``update`` changes."""

    @abstractmethod
    def probabilities(self, payoffs: PayoffTable, learner: str, candidates: Sequence[str]) -> Floats:
        """Returns the probability of each candidate to be the next opponent.

        Args:
            payoffs: the games so far; learner and candidates are among its players.
            learner: the player that needs an opponent.
            candidates: N ≥ 1 names, oldest first; the last is the latest model (often the learner itself).

        Returns:
            (N,) float64 that sum to 1.
        """

    def update(self, recent: PayoffTable, learner: str, candidates: Sequence[str]) -> None:
        """Updates the rule from recent games, if it adapts.

        Args:
            recent: the games since the last update, summed over ranks.
            learner: the player whose wins count.
            candidates: as they were when those games' opponents were drawn.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Latest(Matchmaking):
    """Always the latest model: plain self-play, which cycles in games like rock-paper-scissors."""

    def probabilities(self, payoffs: PayoffTable, learner: str, candidates: Sequence[str]) -> Floats:
        weights = np.zeros(_count(candidates))
        weights[-1] = 1.0
        return weights


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformPast(Matchmaking):
    """All models since the beginning, with equal probability: fictitious self-play (Heinrich et al. 2015)."""

    def probabilities(self, payoffs: PayoffTable, learner: str, candidates: Sequence[str]) -> Floats:
        return np.full(_count(candidates), 1.0 / len(candidates))


@dataclass(frozen=True, slots=True, kw_only=True)
class Window(Matchmaking):
    """The latest model now and then, else one of the last snapshots; the names are those of ML-Agents."""

    window: int = 10
    """Number of snapshots before the latest model among which opponents are drawn."""
    play_against_latest_model_ratio: float = 0.5
    """Probability of the latest model."""

    def __post_init__(self) -> None:
        if self.window < 1:
            raise InputError(f"window is at least 1, not {self.window}")
        if not 0.0 <= self.play_against_latest_model_ratio <= 1.0:
            raise InputError("play_against_latest_model_ratio lies between 0 and 1")

    def probabilities(self, payoffs: PayoffTable, learner: str, candidates: Sequence[str]) -> Floats:
        """Returns (P,) probabilities. Without snapshots the latest model is the only candidate."""
        past = min(_count(candidates) - 1, self.window)
        weights = np.zeros(len(candidates))
        weights[-1] = self.play_against_latest_model_ratio if past else 1.0
        if past:
            weights[-1 - past : -1] = (1.0 - self.play_against_latest_model_ratio) / past
        return weights


@dataclass(frozen=True, slots=True, kw_only=True)
class PFSP(Matchmaking):
    """Prioritised fictitious self-play (Vinyals et al. 2019, Nature 575:350, Methods)."""

    weighting: Literal["hard", "variance"] = "hard"
    """``hard``: (1 - x)^power, those that the learner loses to; ``variance``: x (1 - x), those of its own strength."""
    power: float = 2.0
    """Exponent of ``hard``: the larger, the more matches against the hardest."""
    prior_games: float = 1.0
    """Imaginary games, half won, added to each pairing, so that one early win does not exclude an opponent."""

    def __post_init__(self) -> None:
        if self.weighting not in ("hard", "variance"):
            raise InputError(f"PFSP weighs by hard or variance, not {self.weighting!r}")
        if self.power < 0.0 or self.prior_games < 0.0:
            raise InputError("power and prior_games are at least 0")

    def probabilities(self, payoffs: PayoffTable, learner: str, candidates: Sequence[str]) -> Floats:
        """Returns (P,) probabilities. Uniform if all weights are zero."""
        rows = [payoffs.index(name) for name in candidates]
        _count(candidates)
        wins = payoffs.win_rates(prior_games=self.prior_games)[payoffs.index(learner), rows]
        return pfsp_probabilities(wins, weighting=self.weighting, power=self.power)


def pfsp_probabilities(win_rates: Floats, *, weighting: Literal["hard", "variance"], power: float = 2.0) -> Floats:
    """Returns PFSP's sampling probabilities.

    Args:
        win_rates: (N,) the learner's score against each opponent, in [0, 1].
        weighting: see ``PFSP``.
        power: see ``PFSP``.

    Returns:
        (N,) float64; uniform where all weights are zero.
    """
    weights: Floats = (1.0 - win_rates) ** power if weighting == "hard" else win_rates * (1.0 - win_rates)
    total = float(weights.sum())
    if total <= 0.0:
        return np.full(len(win_rates), 1.0 / len(win_rates))
    return weights / total


class QualityScores(Matchmaking):
    """OpenAI Five's opponent sampling (Berner et al. 2019, arXiv:1912.06680, "Opponent sampling").

    The latest model with probability ``latest_ratio``, else a past one by the softmax of quality scores. A score
    falls whenever the learner beats that opponent, by ``learning_rate / (N p)``; a new snapshot starts at the
    highest score there is.
    """

    adapts = True

    def __init__(self, *, learning_rate: float = 0.01, latest_ratio: float = 0.8) -> None:
        if learning_rate < 0.0 or not 0.0 <= latest_ratio <= 1.0:
            raise InputError("learning_rate is at least 0, and latest_ratio lies between 0 and 1")
        self._learning_rate = learning_rate
        self._latest_ratio = latest_ratio
        self._scores: dict[str, float] = {}

    def score(self, player: str) -> float:
        """Returns an opponent's score; the highest of all for one that is new, 0 for the first."""
        return self._scores.get(player, max(self._scores.values(), default=0.0))

    def probabilities(self, payoffs: PayoffTable, learner: str, candidates: Sequence[str]) -> Floats:
        """Returns (P,) probabilities. Without past models the latest is the only candidate."""
        weights = np.zeros(_count(candidates))
        weights[-1] = self._latest_ratio if len(candidates) > 1 else 1.0
        if len(candidates) > 1:
            weights[:-1] = (1.0 - self._latest_ratio) * self._softmax(candidates[:-1])
        return weights

    def update(self, recent: PayoffTable, learner: str, candidates: Sequence[str]) -> None:
        """Lowers the scores of past models (all candidates but the last) that the learner beat in recent games."""
        past = candidates[:-1]
        if not past:
            return
        new = {name: self.score(name) for name in past}
        share = self._softmax(past)
        me = recent.index(learner)
        for name, probability in zip(past, share.tolist(), strict=True):
            other = recent.index(name)
            won = int(recent.counts[me, other, WIN]) + int(recent.counts[other, me, 2 - WIN])
            new[name] -= self._learning_rate * won / (len(past) * probability)
        self._scores.update(new)

    def _softmax(self, names: Sequence[str]) -> Floats:
        return quality_probabilities(np.array([self.score(name) for name in names]))

    def state_dict(self) -> State:
        """Names as UTF-8 bytes, and scores."""
        names = np.frombuffer("\n".join(self._scores).encode(), dtype=np.uint8).copy()
        return {
            "players": torch.from_numpy(names),
            "scores": torch.tensor(list(self._scores.values()), dtype=torch.float64),
        }

    def load_state_dict(self, state: State) -> None:
        """Restores the scores; raises ValueError if names and scores do not fit."""
        text = bytes(state["players"].tolist()).decode()
        names = text.split("\n") if text else []
        self._scores = dict(zip(names, state["scores"].tolist(), strict=True))


def quality_probabilities(scores: Floats) -> Floats:
    """Returns the softmax of quality scores: (N,) to (N,)."""
    weights = np.exp(scores - scores.max())
    shares: Floats = weights / weights.sum()
    return shares


def choose_opponents(probabilities: Floats, words: Integers) -> Integers:
    """Draws opponents by random words.

    Args:
        probabilities: (N,), summing to 1.
        words: (..., 2) uniform in [0, 2³²), see ``Stream.words``.

    Returns:
        (...) int64 indices of opponents; those of probability zero never occur.
    """
    weights = np.asarray(probabilities, dtype=np.float64)
    if weights.ndim != 1 or not weights.size or (weights < 0).any() or abs(float(weights.sum()) - 1.0) > 1e-6:
        raise ValueError("probabilities are a list of numbers of at least 0 that sum to 1")
    # 53 bits: as many as a float64 holds.
    uniforms = ((words[..., 0] >> 5) * 2.0**26 + (words[..., 1] >> 6)) * 2.0**-53
    limits = np.cumsum(weights)
    drawn = np.searchsorted(limits, uniforms * limits[-1], side="right")
    # Rounding may carry a draw past the last limit.
    chosen: Integers = np.minimum(drawn, int(np.flatnonzero(weights)[-1])).astype(np.int64)
    return chosen


def _count(candidates: Sequence[str]) -> int:
    if not candidates:
        raise ValueError("matchmaking needs at least one candidate")
    return len(candidates)
