"""From a model's logit, with the first stage's score or without it, to P(relevant): two logistic maps.

Knows: the maps, how they are fitted, and the file that a model folder keeps them in. Refuses to know: rankings,
engines, and where the judged pairs come from.

    alone                 P = σ(a · logit + c)                  Platt 1999
    with the first stage  P = σ(a' · logit + b' · z + c')

z is the first stage's score in standard deviations from the mean over the candidates of the same request: BM25 and a
cosine have no common scale, and neither have two queries of one BM25. Both maps rise with the logit, so they change no
order by themselves; b'/a' is what a standard deviation of the first stage is worth in logits: the weight that fusion
needs. It is found by comparing candidates of one query only (conditional logistic regression: Breslow et al. 1978), as
a ranking does. Found over all queries at once it would count for how well a query can be answered at all, too: on dev
queries 2.8 in place of 0.8, and a fused ranking below the model's own.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secondpass.errors import InputError, ModelError
from secondpass.scoring.checkpoint import Checkpoint

__all__ = [
    "CALIBRATION",
    "FEWEST_QUERIES",
    "Calibration",
    "JudgedQuery",
    "Logistic",
    "fit_calibration",
    "fit_order",
    "read_calibration",
    "standardised",
    "write_calibration",
]

CALIBRATION = "calibration.json"
FEWEST_SCORES = 3  # of two, z is −1 and 1 whatever the scores: it says no more than their order
FEWEST_QUERIES = 20  # of fewer, the maps would say more of these queries than of the model
_PENALTY = 0.01  # of a squared slope per standard deviation; a query's likelihood counts 1. Keeps separable data finite
_STEPS = 200  # of Newton's method, which needs about ten

Float = NDArray[np.float64]
JudgedQuery = tuple[Sequence[float | None], Sequence[float | None], Sequence[float | None]]
"""Of one query's candidates, in parallel: logits, first-stage scores, labels (above 0: relevant; None: not judged)."""


@dataclass(frozen=True, slots=True)
class Logistic:
    """P = σ(logit · `logit` + z · `first` + `intercept`).

    Raises ModelError where it would not rise with the logit, would fall with the first stage, or is not finite.
    """

    logit: float
    intercept: float
    first: float = 0.0

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.logit, self.intercept, self.first))):
            raise ModelError(f"the calibration {self} is not finite; fit it again")
        if self.logit <= 0:
            raise ModelError(f"the calibration {self} does not rise with the logit: the model does not rank")
        if self.first < 0:
            raise ModelError(f"the calibration {self} falls as the first stage's score rises; fit it again")

    def __call__(self, logits: ArrayLike, z: ArrayLike = 0.0) -> Float:
        """Probabilities of logits and z of the same shape."""
        return _sigmoid(self.logit * np.asarray(logits, np.float64) + self.first * np.asarray(z) + self.intercept)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Both maps of one model. `alone` holds where the first stage left no scores to go by, `with_first` elsewhere."""

    alone: Logistic
    with_first: Logistic

    def __post_init__(self) -> None:
        if self.alone.first:
            raise ModelError("the map `alone` weighs the first stage's score, which it is made to do without")

    @property
    def weight(self) -> float:
        """What a standard deviation of the first stage's scores is worth, in logits."""
        return self.with_first.first / self.with_first.logit

    @property
    def digest(self) -> str:
        """Tells two calibrations apart: a threshold on probabilities holds for one alone."""
        return hashlib.blake2b(repr((self.alone, self.with_first)).encode(), digest_size=8).hexdigest()


def standardised(scores: Sequence[float | None]) -> Float | None:
    """Scores in standard deviations (of the population) from their mean; 0 where there is none, or none that is finite.

    None where fewer than 3 are there or they do not differ by more than rounding: then z does not exist. 0, the mean
    of the others, is neutral: of a document that the first stage did not score nothing is known that speaks for or
    against it, and the lowest z would count its absence as a judgment.
    """
    values = _numbers(scores)
    known = np.isfinite(values)
    if known.sum() < FEWEST_SCORES:
        return None
    scale = np.abs(values[known]).max()  # so that squares of huge scores stay finite
    if not scale:
        return None
    values = values / scale
    spread = values[known].std()
    if spread < 1e-9:
        return None
    z = np.zeros(len(values))
    z[known] = (values[known] - values[known].mean()) / spread
    return z


def fit_calibration(queries: Iterable[JudgedQuery]) -> Calibration:
    """Both maps by penalised maximum likelihood, each query of the same weight: first what the first stage's score
    weighs beside the logit, as `fit_order` finds it and not below 0, then the logistic map of their sum.

    A candidate without a finite logit or without a label does not enter; one without a first-stage score
    enters the map alone only, as do all of a query that has no z. The likelihood of a query is the mean over its
    candidates, so that long lists do not outweigh short ones.

    Raises InputError for columns that are not parallel, and ModelError where fewer than 20 queries have a relevant
    candidate or one that is not, or where the logits do not rise with relevance.
    """
    alone: list[Float] = []
    both: list[Float] = []
    for number, (logits, first, labels) in enumerate(queries):
        if not len(logits) == len(first) == len(labels):
            raise InputError(
                f"query {number}: {len(logits)} logits, {len(first)} first-stage scores and {len(labels)} labels; "
                "give one of each for every candidate"
            )
        z = standardised(first)
        columns = [_numbers(logits), np.zeros(len(logits)) if z is None else z, _numbers(labels)]
        table = np.column_stack(columns)
        usable = np.isfinite(table).all(axis=1)
        alone.append(table[usable])
        if z is not None:
            both.append(table[usable & np.isfinite(_numbers(first))])
    slope, intercept = _fit(alone, "judged candidates")
    what = "judged candidates with first-stage scores"
    _both_kinds([table[:, 2] > 0 for table in both], what)
    order = fit_order([(table[:, :2], table[:, 2]) for table in both])
    if order[0] <= 0:
        raise ModelError("relevance does not rise with the logit among a query's candidates: the model does not rank")
    weight = max(float(order[1] / order[0]), 0.0)
    together, constant = _fit([np.column_stack([t[:, 0] + weight * t[:, 1], t[:, 2]]) for t in both], what)
    return Calibration(
        Logistic(float(slope), float(intercept)),
        Logistic(float(together), float(constant), first=float(together) * weight),
    )


def fit_order(lists: Sequence[tuple[Float, Float]]) -> Float:
    """What each column of scores weighs in a sum that is to rank: one slope a column.

    `lists` are, of each query, scores [candidates, columns] and labels [candidates]. Maximised is the likelihood of
    each relevant candidate being the one among itself and those that are not relevant, by the softmax of the sums;
    the mean over a query's relevant ones, each query of the same weight, less half the penalty times the
    squared slopes of standardised columns. A list without either kind says nothing.
    """
    spread = np.sqrt(np.mean([scores.var(axis=0) for scores, _ in lists], axis=0))
    spread[spread == 0] = 1.0
    sets: list[tuple[Float, float]] = []  # scores less the relevant one's, and what the set counts
    for scores, labels in lists:
        relevant = labels > 0
        others = scores[~relevant] / spread
        if relevant.any() and len(others):
            sets += [(others - one / spread, 1.0 / relevant.sum()) for one in scores[relevant]]

    def loss(beta: Float) -> float:
        total = sum(share * float(np.logaddexp.reduce([0.0, *(others @ beta)])) for others, share in sets)
        return float(total + _PENALTY * beta @ beta / 2)

    def bend(beta: Float) -> tuple[Float, Float]:
        slope, curvature = _PENALTY * beta, _PENALTY * np.eye(len(beta))
        for others, share in sets:
            sums = others @ beta
            p = np.exp(sums - np.logaddexp.reduce([0.0, *sums]))
            mean = p @ others
            slope = slope + share * mean
            curvature = curvature + share * ((others * p[:, None]).T @ others - np.outer(mean, mean))
        return slope, curvature

    return np.asarray(_lowest(loss, bend, len(spread), len(lists)) / spread, np.float64)


def write_calibration(checkpoint: Checkpoint, calibration: Calibration) -> None:
    """Keep a calibration in the model's folder, with the digest of the model that it belongs to."""
    alone, both = calibration.alone, calibration.with_first
    value = {
        "model": checkpoint.digest,
        "template": checkpoint.frame.digest,
        "alone": {"logit": alone.logit, "intercept": alone.intercept},
        "with_first": {"logit": both.logit, "first": both.first, "intercept": both.intercept},
    }
    (checkpoint.folder / CALIBRATION).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def read_calibration(checkpoint: Checkpoint) -> Calibration | None:
    """The calibration that the model folder brings, None where it has none.

    Raises ModelError for a damaged file, for one that was made for another model, and as `Logistic` does.
    """
    path = checkpoint.folder / CALIBRATION
    if not path.is_file():
        return None
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
        made_for = value["model"], value["template"]
        alone, both = ({name: float(number) for name, number in value[key].items()} for key in ("alone", "with_first"))
        maps = alone["logit"], alone["intercept"], both["logit"], both["intercept"], both["first"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: damaged ({error}); copy it again, or fit it again and write it") from error
    if made_for != (checkpoint.digest, checkpoint.frame.digest):
        what = "model" if made_for[0] != checkpoint.digest else "template"
        raise ModelError(f"{path}: this calibration was made for another {what} than the folder's; fit it again")
    try:
        return Calibration(Logistic(*maps[:2]), Logistic(*maps[2:]))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _numbers(values: Sequence[float | None]) -> Float:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _sigmoid(x: Float) -> Float:
    return np.asarray(
        np.exp(-np.logaddexp(0.0, -x)), np.float64
    )  # exact for small probabilities too, and never overflows


def _both_kinds(relevant: Sequence[NDArray[np.bool_]], what: str) -> None:
    for kind, answer in (("relevant", True), ("not relevant", False)):
        count = sum(bool((one == answer).any()) for one in relevant)
        if count < FEWEST_QUERIES:
            raise ModelError(
                f"{count} queries have {what} that are {kind}; a calibration needs them in at least {FEWEST_QUERIES}"
            )


def _fit(queries: Sequence[Float], what: str) -> tuple[float, float]:
    """Slope and intercept of P = σ(slope · score + intercept), from one table [score, …, label] a query.

    Minimised is Σ over queries of the mean log loss, plus half the penalty times the squared slope of the
    standardised score: scaling the scores changes the slope and no probability.
    """
    _both_kinds([table[:, -1] > 0 for table in queries], what)
    rows = np.concatenate(queries)
    weights = np.concatenate([np.full(len(table), 1.0 / len(table)) for table in queries if len(table)])
    x, y = rows[:, 0], (rows[:, -1] > 0).astype(np.float64)
    mean = np.average(x, weights=weights)
    spread = np.sqrt(np.average((x - mean) ** 2, weights=weights)) or 1.0  # of a constant the slope is 0
    design = np.column_stack([(x - mean) / spread, np.ones(len(x))])
    penalty = np.diag([_PENALTY, 0.0])

    def loss(beta: Float) -> float:
        eta = design @ beta
        return float(weights @ (np.logaddexp(0.0, eta) - y * eta) + beta @ penalty @ beta / 2)

    def bend(beta: Float) -> tuple[Float, Float]:
        p = _sigmoid(design @ beta)
        slope = design.T @ (weights * (p - y)) + penalty @ beta
        return slope, (design * (weights * p * (1 - p))[:, None]).T @ design + penalty

    slope, intercept = _lowest(loss, bend, 2, float(weights.sum()))
    return float(slope / spread), float(intercept - mean * slope / spread)


def _lowest(
    loss: Callable[[Float], float], bend: Callable[[Float], tuple[Float, Float]], count: int, size: float
) -> Float:
    """Where a convex loss of so many numbers, of about this `size`, is lowest, by Newton's method; `bend` gives its
    gradient and its second derivatives."""
    beta = np.zeros(count)
    for _ in range(_STEPS):
        slope, curvature = bend(beta)
        step = np.linalg.solve(curvature, slope)
        decrement = float(slope @ step)  # twice what the step should gain
        if decrement < 1e-20 * size:
            return beta
        length, now = 1.0, loss(beta)
        # the last steps gain less than a sum's rounding, and must not be halved for it
        while loss(beta - length * step) > now + 1e-12 * now - 0.25 * length * decrement:
            length /= 2
        beta = beta - length * step
    raise ModelError(f"the calibration did not settle in {_STEPS} steps; are there absurd logits among them?")
