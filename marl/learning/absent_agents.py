"""Contributions of agents that do not act: those that died, were cut off, have not joined yet, or wait.

They keep their places beside the others and contribute nothing: values, advantages and entropies of 0 to sums and
mixtures, and zeros in place of an encoded action. A team's reward goes on after an agent's death, and so does the value
of its place: a critic that reads actions is asked for that of the zeros, and a critic of all actions at once for their
mean, which leaves the absent no advantage.
"""

from __future__ import annotations

import torch
from torch import Tensor


def without_absent(x: Tensor, active: Tensor) -> Tensor:
    """Replaces whatever belongs to agents that do not act by zeros.

    Args:
        x: (..., A) or (..., A, features), values, entropies or encoded actions; of absent agents anything, NaN even.
        active: (..., A) bool, agents that act.

    Returns:
        As ``x``.
    """
    return x.masked_fill(~(active if active.dim() == x.dim() else active.unsqueeze(-1)), 0)


def without_advantages(values: Tensor, active: Tensor) -> Tensor:
    """Replaces all action values of agents that do not act by their mean.

    Args:
        values: (..., A, K) finite, of all actions.
        active: (A,) bool, or with leading dimensions that broadcast.

    Returns:
        As ``values``.
    """
    return torch.where(active.unsqueeze(-1), values, values.mean(-1, keepdim=True))


def expected_values(values: Tensor, weights: Tensor) -> Tensor:
    """Values of actions by their weights; of agents that do not act, whose weights are all 0, the mean of all values.

    Args:
        values: (..., A, K) finite, of all actions.
        weights: (..., A, K) float from ``without_absent``, encoded actions.

    Returns:
        (..., A).
    """
    return torch.where((weights != 0).any(-1), (values * weights).sum(-1), values.mean(-1))
