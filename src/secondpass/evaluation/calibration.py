"""Whether probabilities mean what they say: Brier score, reliability table, expected calibration error.

Knows: probabilities and labels. Refuses to know: what gave the probabilities, and how to mend them
(`scoring.probability`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InputError

__all__ = ["BINS", "Bin", "Reliability", "reliability"]

BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Some pairs of like probability: their number, the mean probability, and the share that is relevant."""

    count: int
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """What probabilities are worth on `pairs` labelled pairs, of which the share `relevant` is.

    `brier` is the mean of (p − label)² (Brier 1950), `brier_of_base_rate` what everybody gets who always says
    `relevant`; `ece` the mean over pairs of |observed − predicted| of their bin, of at most `bins` equal-mass bins
    (Naeini et al., AAAI 2015; equal mass after Nixon et al., CVPR workshops 2019). `table` is a reliability plot's
    data, by rising probability.
    """

    pairs: int
    relevant: float
    brier: float
    brier_of_base_rate: float
    ece: float
    bins: int
    table: tuple[Bin, ...]


def reliability(probabilities: Sequence[float], labels: Sequence[float], *, bins: int = BINS) -> Reliability:
    """The reliability of `probabilities`, each in 0..1, against `labels` (above 0: relevant), in parallel.

    Bins hold as nearly as possible the same number of pairs; equal probabilities are never parted, so that the result
    does not depend on the order of the pairs, and with many of them there are fewer bins.

    Raises InputError for no pairs, columns that are not parallel, a probability outside 0..1, or less than 1 bin.
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels, np.float64) > 0
    if p.shape != y.shape or p.ndim != 1 or not len(p):
        raise InputError(f"{len(p)} probabilities and {len(y)} labels; give one of each per pair, of one pair at least")
    if not ((p >= 0) & (p <= 1)).all():
        raise InputError("a probability is not between 0 and 1; give calibrated probabilities, not scores")
    if bins < 1:
        raise InputError(f"bins is {bins}; give at least 1")
    order = np.argsort(p, kind="stable")
    p, y = p[order], y[order].astype(np.float64)
    ends = [int(end) for end in _ends(p, bins)]
    table = tuple(
        Bin(end - start, float(p[start:end].mean()), float(y[start:end].mean()))
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    )
    share = float(y.mean())
    return Reliability(
        pairs=len(p),
        relevant=share,
        brier=float(((p - y) ** 2).mean()),
        brier_of_base_rate=share * (1 - share),
        ece=sum(one.count * abs(one.observed - one.predicted) for one in table) / len(p),
        bins=bins,
        table=table,
    )


def _ends(p: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """Where the bins of sorted probabilities end: at equal shares, moved behind the last of equal ones."""
    planned = np.rint(np.arange(1, bins + 1) * len(p) / bins).astype(np.int64)
    last = p[np.maximum(planned, 1) - 1]
    return np.unique(np.searchsorted(p, last, side="right")).astype(np.int64)
