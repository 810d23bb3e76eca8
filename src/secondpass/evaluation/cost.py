"""What reranking costs against candidates and against tokens, and how deep a time budget reaches.

Knows: sizes and seconds. Refuses to know: models, texts, how anything was timed.

    candidates, all equally long   t(n) = a + b·n
    tokens, as many candidates     t(L) = a + b·L + c·L²      attention is the quadratic part

This is not `scoring/cost_model.py`. There one batch inside a request is predicted while requests run, by a model that
forgets and follows the load, so that a deadline is kept. Here whole requests are measured once, end to end, for a
person who chooses a depth and wants to see what the choice rests on: coefficients, fit and range.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InputError
from secondpass.evaluation.wording import counted

__all__ = ["CostFit", "Depth", "Margin", "fit_candidates", "fit_tokens", "largest_depth", "margin", "median_interval"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CostFit:
    """t(x) = a + b·x + c·x² in seconds, with a, b, c ≥ 0; x is candidates or tokens.

    `r2` is 1 − Σ(t − t(x))² / Σ(t − mean t)², None where all times are equal and there is nothing to explain.
    `largest_error` is the largest |t(x) − t| / t. `exponent` is the slope of ln t over ln x, that is the p of t ∝ xᵖ,
    on all of the data; `exponent_end` the same on the larger half of the sizes. Neither rests on the fit.
    `smallest` and `largest` are the sizes between which all this was seen.
    """

    a: float
    b: float
    c: float
    r2: float | None
    largest_error: float
    exponent: float
    exponent_end: float
    smallest: float
    largest: float

    def seconds(self, size: float) -> float:
        """t(size)."""
        return self.a + self.b * size + self.c * size * size

    @property
    def crossover(self) -> float | None:
        """The size b / c at which the quadratic part is as large as the linear one; None without a quadratic part."""
        return self.b / self.c if self.c > 0.0 else None


@dataclass(frozen=True, slots=True)
class Margin:
    """A request takes at most `factor` times what is fitted, in a `share` of all requests."""

    factor: float
    share: float


@dataclass(frozen=True, slots=True)
class Depth:
    """The most candidates that a budget allows, and the seconds they are expected to take (margin included).

    `at_least`: the budget would allow more, but more was not measured. `by_fit_alone`: fewer than were
    measured, so that it rests on the fitted line below its smallest size. 0 candidates: not even one fits.
    """

    candidates: int
    seconds: float
    at_least: bool
    by_fit_alone: bool


def fit_candidates(candidates: Sequence[float], seconds: Sequence[float]) -> CostFit:
    """t(n) = a + b·n; at least two different counts. See `CostFit`, and `_fit` for how."""
    return _fit(candidates, seconds, (0, 1))


def fit_tokens(tokens: Sequence[float], seconds: Sequence[float]) -> CostFit:
    """t(L) = a + b·L + c·L²; at least three different lengths. See `CostFit`, and `_fit` for how."""
    return _fit(tokens, seconds, (0, 1, 2))


def margin(fit: CostFit, sizes: Sequence[float], seconds: Sequence[float], share: float = 0.95) -> Margin:
    """How far requests exceed the fit: noise, and what is wrong with the fit itself.

    `seconds` are of single requests, not medians. The factor is the ⌈share·(N + 1)⌉-th smallest t / t(x), which a
    further request of the same kind exceeds with probability 1 − share (Wilks 1941, Determination of sample sizes for
    setting tolerance limits). Too few requests for that give their largest and its share, N / (N + 1).
    Never below 1.
    """
    if not 0.0 < share < 1.0:
        raise InputError(f"share is {share}; give one between 0 and 1, such as 0.95")
    x, t = _checked(sizes, seconds, 1)
    ratios = sorted(float(value) / fit.seconds(float(size)) for size, value in zip(x, t, strict=True))
    rank = math.ceil(share * (len(ratios) + 1))
    if rank > len(ratios):
        return Margin(max(ratios[-1], 1.0), len(ratios) / (len(ratios) + 1))
    return Margin(max(ratios[rank - 1], 1.0), share)


def largest_depth(fit: CostFit, budget_s: float, factor: float = 1.0) -> Depth:
    """The largest n with factor · t(n) ≤ budget_s, at most the largest that was measured.

    With the factor of `margin` it is the depth that holds the budget in that share of requests; with 1 in about half.
    """
    if not budget_s >= 0.0:  # so that NaN fails too
        raise InputError(f"the budget is {budget_s} s; give seconds, 0 or more")
    if not 1.0 <= factor < math.inf:
        raise InputError(f"factor is {factor}; give 1 or more, see `margin`")
    most = int(fit.largest)
    depth = bisect_right(range(1, most + 1), budget_s, key=lambda n: factor * fit.seconds(n))
    return Depth(
        candidates=depth,
        seconds=factor * fit.seconds(depth),
        at_least=depth == most and factor * fit.seconds(most + 1) <= budget_s,
        by_fit_alone=depth < fit.smallest,
    )


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The interval of the median between two order statistics, whatever the distribution.

    x₍ₖ₎ … x₍ₙ₊₁₋ₖ₎ for the largest k with 1 − 2·P(Binomial(n, ½) < k) ≥ level (Hahn & Meeker 1991, Statistical
    Intervals, 5.2). Fewer than six values cannot give 95 %: then it is from the smallest to the largest.
    """
    ordered = sorted(values)
    n = len(ordered)
    if not n or not 0.0 < level < 1.0:
        raise InputError(f"{counted(n, 'value')} and level {level}; give values, and a level between 0 and 1")
    k, below = 1, 1  # below: P(Binomial(n, ½) < k), times 2ⁿ
    while 1.0 - 2 * (below + math.comb(n, k)) / 2**n >= level:
        below += math.comb(n, k)
        k += 1
    return ordered[k - 1], ordered[n - k]


def _fit(sizes: Sequence[float], seconds: Sequence[float], powers: Sequence[int]) -> CostFit:
    """Least squares of the relative errors with no coefficient below zero.

    Relative, because that is how times vary, and because a small budget needs the small sizes to fit. Non-negative,
    because more work never takes less time; solved by trying every support, which for up to three columns is exact
    (the problem of Lawson & Hanson 1974, Solving Least Squares Problems, chapter 23).
    """
    x, t = _checked(sizes, seconds, len(powers))
    scale = x.max()  # brings the columns to one order of magnitude
    columns = np.stack([(x / scale) ** power for power in powers], axis=1) / t[:, None]  # [measurements, powers]
    best, least = np.zeros(3), math.inf
    for count in range(len(powers), 0, -1):
        for support in combinations(range(len(powers)), count):
            found = np.linalg.lstsq(columns[:, support], np.ones(len(t)), rcond=None)[0]
            error = float(np.sum((columns[:, support] @ found - 1.0) ** 2))
            if found.min() >= 0.0 and error < least:
                best, least = np.zeros(3), error
                for column, value in zip(support, found, strict=True):
                    best[powers[column]] = value / scale ** powers[column]
    a, b, c = map(float, best)
    off = a + b * x + c * x * x - t
    spread = float(np.sum((t - t.mean()) ** 2))
    distinct = np.unique(x)
    end = x >= distinct[min(len(distinct) // 2, len(distinct) - 2)]
    return CostFit(
        a=a,
        b=b,
        c=c,
        r2=None if np.ptp(t) == 0.0 else 1.0 - float(np.sum(off**2)) / spread,
        largest_error=float(np.max(np.abs(off) / t)),
        exponent=_slope(np.log(x), np.log(t)),
        exponent_end=_slope(np.log(x[end]), np.log(t[end])),
        smallest=float(x.min()),
        largest=float(x.max()),
    )


def _slope(x: Floats, y: Floats) -> float:
    centred = x - x.mean()
    return float(centred @ (y - y.mean()) / (centred @ centred))


def _checked(sizes: Sequence[float], seconds: Sequence[float], different: int) -> tuple[Floats, Floats]:
    x, t = np.asarray(sizes, dtype=np.float64), np.asarray(seconds, dtype=np.float64)
    if x.ndim != 1 or x.shape != t.shape:
        raise InputError(f"{x.size} sizes and {t.size} times; give two lists of one length")
    for name, values in (("size", x), ("time", t)):
        bad = values[~(np.isfinite(values) & (values > 0.0))]
        if len(bad):
            raise InputError(f"a {name} is {bad[0]:g}; every one must be a number above 0")
    if (there := len(np.unique(x))) < different:
        raise InputError(f"{counted(there, 'size')} measured; this fit needs {different} different ones at least")
    return x, t
