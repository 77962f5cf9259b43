"""Distributions over discrete choices, with action masks: one choice, or several independent ones."""

from __future__ import annotations

from typing import Final, final

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, pad

from marl.networks.distributions import Distribution

LEAST_LOG_PROB: Final = -1e9
"""The least log-probability, that of illegal choices: probability 0, and finite in products with large numbers too, of
which half of the least float, times a weight of entropy above 2, is none. bfloat16 has it; float16's least is higher.
"""


def illegal_score(scores: Tensor) -> float:
    """A score, logit or value, below all others: half of the least number, so that its product with 0 is 0."""
    return 0.5 * torch.finfo(scores.dtype).min


def mask_scores(scores: Tensor, mask: Tensor | None) -> Tensor:
    """(..., K) scores, with ``illegal_score`` where the (..., K) mask forbids the choice; None forbids nothing."""
    return scores if mask is None else scores.masked_fill(~mask, illegal_score(scores))


def fast_log_softmax(logits: Tensor) -> Tensor:
    """Log-softmax over the last dimension, also fast where that is small: the usual case here."""
    if logits.shape[-1] < 16 and logits.device.type == "cpu":
        # Torch's kernel takes rows shorter than a vector register one number at a time, 6 × slower (2.13, K = 5).
        return log_softmax(logits.movedim(-1, 0), dim=0).movedim(0, -1)
    return log_softmax(logits, dim=-1)


@final
class MaskedCategorical(Distribution):
    """One choice out of K, among the legal ones; actions are int64 (...), and a sample takes 1 uniform number.

    Illegal choices have probability 0 exactly, are never sampled, and send no gradient into their logits.

    Args:
        logits: (..., K) float.
        mask: (..., K) bool, True where legal, at least one a row; None if all are.

    Raises:
        ValueError: the mask's shape is not that of the logits.
    """

    __slots__ = ("log_probs",)

    log_probs: Tensor
    """(..., K) normalised log-probabilities; LEAST_LOG_PROB where illegal."""

    def __init__(self, logits: Tensor, mask: Tensor | None = None) -> None:
        if mask is not None and mask.shape != logits.shape:
            raise ValueError(f"mask has shape {tuple(mask.shape)}, logits have {tuple(logits.shape)}")
        self.log_probs = fast_log_softmax(mask_scores(logits, mask))
        if mask is not None:
            self.log_probs = self.log_probs.clamp_min(LEAST_LOG_PROB)

    @property
    def probs(self) -> Tensor:
        """(..., K) probabilities."""
        return self.log_probs.exp()

    def sample(self, uniforms: Tensor) -> Tensor:
        with torch.no_grad():
            probs = self.probs
            cumulative = probs.cumsum(dim=-1)
            # The first choice at which the sum reaches a threshold in (0, total]: there the sum has just risen, so
            # the choice has a probability above 0.
            thresholds = (uniforms * cumulative[..., -1:]).clamp_min(torch.finfo(probs.dtype).tiny)
            actions = (cumulative < thresholds).sum(dim=-1)
            if probs.device.type != "cpu":
                # Parallel sums may fall by a rounding error from one choice to the next.
                impossible = probs.gather(-1, actions.clamp_max(probs.shape[-1] - 1).unsqueeze(-1)) <= 0.0
                actions = torch.where(impossible.squeeze(-1), probs.argmax(dim=-1), actions)
            return actions

    def mode(self) -> Tensor:
        return self.log_probs.argmax(dim=-1)

    def log_prob(self, actions: Tensor) -> Tensor:
        return self.log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.probs * self.log_probs).sum(dim=-1)


def _padded(choices: Tensor, nvec: tuple[int, ...], filling: float) -> Tensor:
    """Pads choices of different sizes, (..., sum of nvec), to one size: (..., K, max)."""
    widest = max(nvec)
    parts = choices.split(nvec, dim=-1)
    return torch.stack(
        [pad(part, (0, widest - size), value=filling) for part, size in zip(parts, nvec, strict=True)], dim=-2
    )


@final
class MultiCategorical(Distribution):
    """K independent choices; actions are int64 (..., K), and a sample takes K uniform numbers.

    Args:
        logits: (..., sum of nvec) float, one choice's logits after the other's.
        nvec: numbers of alternatives, one for each choice.
        mask: (..., sum of nvec) bool, True where legal, at least one for each choice; None if all are.

    Raises:
        ValueError: the last dimensions do not fit.
    """

    __slots__ = ("_choices",)

    def __init__(self, logits: Tensor, nvec: tuple[int, ...], mask: Tensor | None = None) -> None:
        if logits.shape[-1] != sum(nvec):
            raise ValueError(f"logits have last dimension {logits.shape[-1]}, not {sum(nvec)}, the sum of nvec")
        if mask is not None and mask.shape != logits.shape:
            raise ValueError(f"mask has shape {tuple(mask.shape)}, logits have {tuple(logits.shape)}")
        if min(nvec) == max(nvec):
            shape = (*logits.shape[:-1], len(nvec), nvec[0])
            logits, mask = logits.view(shape), None if mask is None else mask.view(shape)
        else:
            # Padded to equal sizes, with choices of no probability, all of them go through one kernel.
            mask = _padded(torch.ones_like(logits, dtype=torch.bool) if mask is None else mask, nvec, False)
            logits = _padded(logits, nvec, 0.0)
        self._choices = MaskedCategorical(logits, mask)

    def sample(self, uniforms: Tensor) -> Tensor:
        return self._choices.sample(uniforms.unsqueeze(-1))

    def mode(self) -> Tensor:
        return self._choices.mode()

    def log_prob(self, actions: Tensor) -> Tensor:
        return self._choices.log_prob(actions).sum(dim=-1)

    def entropy(self) -> Tensor:
        return self._choices.entropy().sum(dim=-1)
