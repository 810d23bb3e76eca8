"""How long a batch will take, learned while batches run, and a bound that is seldom exceeded.

Knows: rows, widths and seconds. Refuses to know: engines, deadlines and rankings.

    t = level · (a + b · rows · width + c · rows · width²)      width: padded tokens of a row

a, b, c are fitted by recursive least squares on seconds per token, none of them below zero; `level` is how loaded the
machine is just now, and follows within a few batches. The margin above t is a quantile of what was seen of t's relative
error, at a share that adapts to the misses: α ← α + γ(α* − miss) (Gibbs & Candès 2021, Adaptive conformal
inference under distribution shift), which holds the share of misses at α* without knowing how the errors are spread.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence

from secondpass.scoring.batching import padded_width, plan

__all__ = ["CostModel"]

_SCALE = 512.0  # brings the three features to the order of 1
_FORGETTING = 0.99  # of a, b and c: about a hundred batches are remembered
_PULL = 1e-3  # towards the last a, b and c: keeps the equations solvable when all batches are alike
_PACE = 0.3  # how fast the level follows a batch
_STEP = 0.05  # γ; far above the paper's, because a slow-down must be answered within a few batches
_SEEN = 100  # relative errors that the margin is a quantile of
_LEVELS = (1 / 16, 16.0)
_SUPPORTS = ((0, 1, 2), (0, 1), (0, 2), (1, 2), (0,), (1,), (2,))

Vector = list[float]


class CostModel:
    """Seconds of batches. Every method may be called from several threads.

    `target` (α*) is the share of batches that may take longer than `bound` says.
    """

    def __init__(self, target: float = 0.1) -> None:
        self.target = target
        self._lock = threading.Lock()
        self._weights = [0.0, 1e-3, 0.0]  # before the first batch: a millisecond per token, slower than CPUs are
        self._level = 1.0
        self._squares = [[0.0] * 3 for _ in range(3)]
        self._products = [0.0] * 3
        self._batches = 0
        self._alpha = target
        self._errors: deque[float] = deque()
        self._sorted: Vector = []

    def batch(self, rows: int, width: int) -> float:
        """Expected seconds of one batch of `rows` rows padded to `width` tokens."""
        with self._lock:
            return self._expected(rows, width)

    def bound(self, rows: int, width: int) -> float:
        """Seconds that the batch exceeds with a share of `target` only."""
        with self._lock:
            return self._expected(rows, width) * (1.0 + self._margin())

    def predict(self, lengths: Sequence[int], budget: int, workers: int = 1) -> float:
        """Expected seconds of a whole request: rows of these lengths in batches of at most `budget` padded tokens.

        `workers` batches run at a time. What comes before and after (tokenizing, sorting) is not counted.
        """
        batches = [self.batch(len(batch), padded_width(lengths[batch[0]])) for batch in plan(lengths, budget, workers)]
        return max(sum(batches) / workers, *batches) if batches else 0.0

    def update(self, rows: int, width: int, seconds: float) -> None:
        """Learn from one batch that has run. One that took 0 s or less, or no finite time, is left out."""
        if not 0.0 < seconds < math.inf:
            return
        tokens = max(float(rows) * float(width), 1.0)
        features = _features(tokens, width)
        pace = min(max(seconds, 1e-9), 1e6) / tokens
        with self._lock:
            if not self._batches:
                self._weights[1] = pace
            self._batches += 1
            fitted = _dot(self._weights, features)
            # a hiccup may count as four times what was expected; a lasting change still gets through, batch by batch
            ratio = min(max(pace / (fitted * self._level), 0.25), 4.0)
            self._learn_margin(ratio - 1.0)
            target = ratio * self._level * fitted
            level = self._level * (1.0 + _PACE * (min(max(ratio, 0.5), 2.0) - 1.0))
            self._learn_weights(features, target)
            # the slow part has moved; the level is now relative to where it is
            self._set_level(level * fitted / _dot(self._weights, features))

    def relax(self) -> None:
        """Nothing was started because nothing seemed to fit: expect a little less next time.

        Without this a bound that is too high would never be corrected, since no batch would run any more.
        """
        with self._lock:
            self._alpha = min(self._alpha + _STEP * self.target, self.target)
            self._set_level(self._level * 0.97)

    @property
    def coefficients(self) -> dict[str, float]:
        """a (seconds), b (per token), c (per token²), with the level in them; the margin, a share of the prediction."""
        with self._lock:
            a, b, c = (self._level * weight for weight in self._weights)
            return {"a": a * _SCALE, "b": b, "c": c / _SCALE, "margin": self._margin()}

    def _expected(self, rows: int, width: int) -> float:
        tokens = max(float(rows) * float(width), 1.0)
        return tokens * self._level * _dot(self._weights, _features(tokens, width))

    def _margin(self) -> float:
        if not self._sorted:
            return 1.0
        count = len(self._sorted)
        rank = math.ceil((1.0 - self._alpha) * (count + 1)) - 1
        if rank < count:
            return max(self._sorted[max(rank, 0)], 0.0)
        # beyond what was seen: every further miss widens by as much again (the paper: infinitely)
        return max(self._sorted[-1], 0.0) * (1.0 + max(-self._alpha, 0.0) / _STEP)

    def _learn_margin(self, error: float) -> None:
        miss = error > self._margin()
        self._alpha = min(max(self._alpha + _STEP * (self.target - miss), -4 * _STEP), 0.5)
        if len(self._errors) == _SEEN:
            del self._sorted[bisect_left(self._sorted, self._errors.popleft())]
        self._errors.append(error)
        insort(self._sorted, error)

    def _learn_weights(self, features: Vector, target: float) -> None:
        for i, row in enumerate(self._squares):
            self._products[i] = _FORGETTING * self._products[i] + features[i] * target
            for k in range(3):
                row[k] = _FORGETTING * row[k] + features[i] * features[k]
        squares = [list(row) for row in self._squares]
        products = list(self._products)
        for i in range(3):
            pull = _PULL * squares[i][i] + 1e-12
            squares[i][i] += pull
            products[i] += pull * self._weights[i]
        self._weights = _non_negative(squares, products)

    def _set_level(self, level: float) -> None:
        self._level = min(max(level, _LEVELS[0]), _LEVELS[1])


def _features(tokens: float, width: int) -> Vector:
    """What multiplies a, b and c in the seconds per token: relative errors then weigh alike in all batches."""
    return [_SCALE / tokens, 1.0, width / _SCALE]


def _dot(weights: Vector, features: Vector) -> float:
    total = weights[0] * features[0] + weights[1] * features[1] + weights[2] * features[2]
    return max(total, 1e-30)


def _non_negative(squares: list[Vector], products: Vector) -> Vector:
    """The x ≥ 0 that minimises xᵀAx − 2bᵀx for a positive definite A of 3 × 3: the best of the seven supports."""
    best, most = [0.0, 0.0, 0.0], 0.0
    for support in _SUPPORTS:
        found = _solve([[squares[i][k] for k in support] + [products[i]] for i in support])
        if min(found) < 0.0:
            continue
        gain = sum(products[i] * value for i, value in zip(support, found, strict=True))
        if gain > most:
            best, most = [0.0, 0.0, 0.0], gain
            for i, value in zip(support, found, strict=True):
                best[i] = value
        if len(support) == 3:
            break  # the unconstrained optimum
    return best


def _solve(rows: list[Vector]) -> Vector:
    """Gaussian elimination without pivoting, which a positive definite matrix does not need."""
    size = len(rows)
    for i in range(size):
        for k in range(i + 1, size):
            factor = rows[k][i] / rows[i][i]
            for j in range(i, size + 1):
                rows[k][j] -= factor * rows[i][j]
    out = [0.0] * size
    for i in reversed(range(size)):
        rest = sum(rows[i][k] * out[k] for k in range(i + 1, size))
        out[i] = (rows[i][size] - rest) / rows[i][i]
    return out
