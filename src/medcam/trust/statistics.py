"""Statistics of the trust check: rank correlation, partial correlation, bootstrap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

_MOST_VOXELS = 2**16
"""The number of voxels, evenly spread, from which the rank correlation of maps is computed."""

_ROUNDING = 1e-12
"""The share of a variance below which it is rounding."""

DRAWS = 1000
"""The number of bootstrap samples."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 5 % and 95 % bounds.

    Attributes:
        value: The value; NaN if it cannot be computed.
        low: The 5 % bound.
        high: The 95 % bound.
    """

    value: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        if math.isnan(self.low):
            return two_digits(self.value)
        return f"{two_digits(self.value)} [{two_digits(self.low)}, {two_digits(self.high)}]"


def two_digits(value: float) -> str:
    """Return a number with two digits after the point; zero has no sign.

    Example:
        >>> two_digits(-0.004), two_digits(0.128)
        ('0.00', '0.13')
    """
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text


def plain_number(value: float | None) -> float | None:
    """Return a number for JSON, with four digits; None for NaN and infinity.

    Example:
        >>> plain_number(0.123456), plain_number(math.inf), plain_number(None)
        (0.1235, None, None)
    """
    return None if value is None or not math.isfinite(value) else round(value, 4)


def estimate(value: float, draws: Float[np.ndarray, " draws"]) -> Estimate:
    """Return a value with the 5 % and 95 % quantiles of its bootstrap samples."""
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return Estimate(value)
    low, high = np.quantile(finite, (0.05, 0.95))
    return Estimate(value, float(low), float(high))


def rank_correlation(
    first: Float[np.ndarray, "samples *space"], second: Float[np.ndarray, "samples *space"]
) -> Float[np.ndarray, " samples"]:
    """Return Spearman's rank correlation of two maps for each sample; ties share their rank.

    The correlation with a constant map is 0: a map that vanishes has nothing in common with one
    that does not. Of large maps, 65,536 voxels are compared, evenly spread.

    Example:
        >>> rank_correlation(np.array([[1.0, 2.0, 9.0]]), np.array([[0.1, 0.2, 0.3]])).tolist()
        [1.0]
    """
    from scipy.stats import rankdata

    rows = []
    for values in (first, second):
        flat = values.reshape(len(values), -1)
        ranks = rankdata(flat[:, :: max(1, flat.shape[1] // _MOST_VOXELS)], axis=1)
        rows.append(ranks - ranks.mean(1, keepdims=True))
    a, b = rows
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    correlation: NDArray[Any] = np.where(scale > 0, (a * b).sum(1) / np.where(scale, scale, 1), 0.0)
    return correlation.clip(-1, 1)


def bootstrap_counts(
    count: int, draws: int = DRAWS, *, seed: int = 0
) -> Int[np.ndarray, "draws count"]:
    """Return how often each of ``count`` items is in each bootstrap sample."""
    rng = np.random.default_rng(seed)
    counts: Int[np.ndarray, "draws count"] = rng.multinomial(
        count, np.full(count, 1 / count), draws
    )
    return counts


def partial_correlation(
    sums: Float[np.ndarray, "maps sets"],
    drops: Float[np.ndarray, " sets"],
    sizes: Float[np.ndarray, " sets"],
    counts: Float[np.ndarray, "draws sets"] | None = None,
) -> Float[np.ndarray, "draws maps"]:
    """Return the correlation of the maps' sums with the drops, the sizes partialled out.

    ``(r_sd - r_sn r_dn) / sqrt((1 - r_sn²) (1 - r_dn²))``: the correlation of what is left of both
    after the linear regression on the size. Without that every map correlates, as larger sets have
    larger sums and larger drops. It is 0 for a map whose sum depends on the size alone.

    Args:
        sums: The sum of each map in each set.
        drops: By how much the score falls without each set.
        sizes: The size of each set.
        counts: How often each set counts in each draw; None: once, in one draw.
    """
    weights = np.ones((1, len(drops))) if counts is None else counts.astype(float)
    weights = weights / weights.sum(1, keepdims=True)

    def mean(values: NDArray[Any]) -> NDArray[Any]:
        averaged: NDArray[Any] = weights @ values.T
        return averaged

    centred = [values - values.mean(-1, keepdims=True) for values in (sums, drops, sizes)]
    s, d, n = (
        values / (np.abs(values).max(-1, keepdims=True, initial=0) + np.finfo(float).tiny)
        for values in centred
    )
    means = mean(s), mean(d)[:, None], mean(n)[:, None]
    ss = mean(s * s) - means[0] ** 2
    dd, nn = ((mean(v * v) - mean(v) ** 2)[:, None] for v in (d, n))
    sd = mean(s * d) - means[0] * means[1]
    sn = mean(s * n) - means[0] * means[2]
    dn = mean(d * n)[:, None] - means[1] * means[2]
    nn_safe = np.where(nn > 0, nn, 1)
    rest_s = ss - sn**2 / nn_safe
    rest_d = dd - dn**2 / nn_safe
    is_known = (rest_s > _ROUNDING * (ss + 1e-300)) & (rest_d > _ROUNDING * (dd + 1e-300))
    scale = np.sqrt(np.where(is_known, rest_s * rest_d, 1))
    result: NDArray[Any] = np.where(is_known, (sd - sn * dn / nn_safe) / scale, 0.0)
    return result.clip(-1, 1)
