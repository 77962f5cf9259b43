"""Statistics of learning curves over seeds, and their smoothing."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from marl.random_streams import derive

Array: TypeAlias = NDArray[np.float64]
Statistic = Literal["mean", "iqm"]
_RESAMPLES: Final = 2000


def interquartile_mean(values: Array) -> Array:
    """Mean of the middle half over the last axis, values at the quartiles counted in part.

    With n values a quarter n is cut at each end; where that is no whole number, the value at the edge keeps the
    share that is left (so that 3 or 5 seeds are not treated as if nothing were cut).

    Args:
        values: (..., n).

    Returns:
        (...).
    """
    ordered = np.sort(values, axis=-1)
    n = ordered.shape[-1]
    edges = np.arange(n)
    weights = np.clip(np.minimum(edges + 1, 0.75 * n) - np.maximum(edges, 0.25 * n), 0.0, None)
    result: Array = ordered @ (weights / weights.sum())
    return result


def bootstrap_band(values: Array, statistic: Statistic, *, coverage: float = 0.95) -> tuple[Array, Array, Array]:
    """A statistic over seeds with its percentile bootstrap interval, seeds being drawn as whole curves.

    Args:
        values: (seeds, points).
        statistic: mean or interquartile mean.
        coverage: of the interval.

    Returns:
        The statistic, the lower and the upper bound, (points,) each.
    """
    seeds = values.shape[0]
    draws = np.random.default_rng(derive(0, "bootstrap of learning curves")).integers(seeds, size=(_RESAMPLES, seeds))
    samples = np.stack([_reduce(values[draw].T, statistic) for draw in draws])
    lower, upper = np.quantile(samples, [(1 - coverage) / 2, (1 + coverage) / 2], axis=0)
    return _reduce(values.T, statistic), lower, upper


def smooth(steps: Array, values: Array, share: float) -> Array:
    """Local linear regression: a moving average that follows slopes, and is not biased where a curve ends.

    Args:
        steps: (N,), rising.
        values: (N,).
        share: width of the window as a share of the whole range.

    Returns:
        (N,): at each step, the straight line through the window's points by least squares.
    """
    span = float(steps[-1] - steps[0])
    if share <= 0.0 or span == 0.0:
        return values
    # Centred and scaled, so that differences of the running sums keep their digits.
    x, level = (steps - steps[0]) / span, float(values.mean())
    first = np.searchsorted(x, x - 0.5 * share, side="left")
    last = np.searchsorted(x, x + 0.5 * share, side="right")

    def window_sum(terms: Array) -> Array:
        sums = np.concatenate(([0.0], np.cumsum(terms)))
        result: Array = sums[last] - sums[first]
        return result

    y = values - level
    count = (last - first).astype(np.float64)
    mean_x, mean_y = window_sum(x) / count, window_sum(y) / count
    variance = window_sum(x * x) / count - mean_x**2
    covariance = window_sum(x * y) / count - mean_x * mean_y
    # A window whose points (nearly) coincide has a mean but no slope.
    slope = np.divide(covariance, variance, out=np.zeros_like(y), where=variance > 1e-12)
    fitted: Array = level + mean_y + slope * (x - mean_x)
    return fitted


def _reduce(values: Array, statistic: Statistic) -> Array:
    if statistic == "iqm":
        return interquartile_mean(values)
    result: Array = values.mean(axis=-1)
    return result
