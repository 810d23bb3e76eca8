"""What can be said about a mean of paired per-query differences.

Knows: differences, one number per query. Refuses to know: metrics, systems, verdicts.
Random numbers are seeded: the same differences and seed give the same answer.
Every function takes any number of differences; what n = 0 and n = 1 give is stated.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, inf, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secondpass.errors import InputError

__all__ = ["bootstrap_interval", "minimum_detectable_effect", "queries_needed", "randomisation_p"]

Floats = NDArray[np.float64]

EXACT_UP_TO = 16  # 2^16 sign patterns are fewer than it takes to estimate the same p well
_CELLS = 2_000_000  # random numbers held at once: 16 MB of float64
_DETECTABLE = 2.80  # z(.975) + z(.80): two-sided 5 % test, 80 % power


def randomisation_p(differences: ArrayLike, *, permutations: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of the paired randomisation (sign-flip) test that the mean difference is 0.

    Exact, over all sign patterns, where at most 16 differences are not 0 (a zero has no sign to
    flip); else (b + 1) / (m + 1), with b of m random patterns at least as extreme (Phipson &
    Smyth 2010). 1.0 where there is nothing to flip.
    """
    values = _as_differences(differences)
    values = values[values != 0.0]
    observed = abs(values.sum())
    threshold = observed - 1e-12 * np.abs(values).sum()  # sums of the same numbers differ by rounding
    if len(values) <= EXACT_UP_TO:
        bits = np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1
        return float(np.mean(np.abs((2 * bits - 1) @ values) >= threshold))
    if permutations < 1:
        raise InputError(f"permutations is {permutations}; give at least 1, better 10,000")
    rng = np.random.default_rng(seed)
    extreme = 0
    for rows in _chunks(permutations, len(values)):
        signs = 2.0 * rng.integers(0, 2, size=(rows, len(values)), dtype=np.int8) - 1.0
        extreme += int(np.count_nonzero(np.abs(signs @ values) >= threshold))
    return (extreme + 1) / (permutations + 1)


def bootstrap_interval(
    differences: ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """The BCa bootstrap interval of the mean difference (Efron 1987): (low, high).

    Fewer than two differences tell nothing about how they vary: (-inf, inf). Where all are the
    same, both ends are that value.
    """
    values = _as_differences(differences)
    if not 0.0 < level < 1.0:
        raise InputError(f"level is {level}; give a share between 0 and 1, such as 0.95")
    if resamples < 1:
        raise InputError(f"resamples is {resamples}; give at least 1, better 10,000")
    n = len(values)
    if n < 2:
        return -inf, inf
    if np.all(values == values[0]):
        return float(values[0]), float(values[0])
    rng = np.random.default_rng(seed)
    means = np.concatenate([values[rng.integers(0, n, size=(rows, n))].mean(axis=1) for rows in _chunks(resamples, n)])
    return _bca(values, means, level)


def minimum_detectable_effect(differences: ArrayLike) -> float | None:
    """2.80 · sd / √n: the true mean that a two-sided 5 % test finds 8 times out of 10. None for n < 2."""
    values = _as_differences(differences)
    return _DETECTABLE * float(values.std(ddof=1)) / sqrt(len(values)) if len(values) > 1 else None


def queries_needed(differences: ArrayLike, effect: float) -> int | None:
    """How many more queries until the minimum detectable effect is down to `effect` (> 0), if they vary alike.

    0 where it already is; None for n < 2, where nothing is known of how they vary.
    """
    if not effect > 0.0:
        raise InputError(f"effect is {effect}; give a difference above 0")
    values = _as_differences(differences)
    if len(values) < 2:
        return None
    return max(ceil((_DETECTABLE * float(values.std(ddof=1)) / effect) ** 2) - len(values), 0)


def _bca(values: Floats, means: Floats, level: float) -> tuple[float, float]:
    """The BCa interval of the mean of `values` from bootstrap `means`; needs two different values."""
    normal = NormalDist()
    observed = values.mean()
    below = float(np.mean(means < observed) + np.mean(means <= observed)) / 2.0
    # all resampled means on one side happens with tiny n only; the bias is then as large as they can show
    bias = normal.inv_cdf(min(max(below, 0.5 / len(means)), 1.0 - 0.5 / len(means)))
    # jackknife: leaving i out moves the mean by (mean − x_i) / (n − 1), so the factor cancels
    away = values - observed
    away /= np.abs(away).max()  # the scale cancels, too: this keeps powers of tiny differences from vanishing
    acceleration = float((away**3).sum() / (6.0 * (away**2).sum() ** 1.5))
    shares = [
        100.0 * normal.cdf(bias + (bias + z) / (1.0 - acceleration * (bias + z)))
        for z in (normal.inv_cdf((1.0 - level) / 2.0), normal.inv_cdf((1.0 + level) / 2.0))
    ]
    low, high = np.percentile(means, shares)
    return float(low), float(high)


def _as_differences(differences: ArrayLike) -> Floats:
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise InputError("differences must be one finite number per query, in one dimension")
    return values


def _chunks(total: int, width: int) -> Iterator[int]:
    """Row counts that sum to `total`, so that rows × width stays within bounded memory."""
    step = max(_CELLS // max(width, 1), 1)
    for start in range(0, total, step):
        yield min(step, total - start)
