"""P(relevant) of a trained model: fitted on one half of the dev queries, measured on what it was not fitted on; of a
model with too few of them, its parent's.

Knows: which dev queries may be fitted on, and what is told of the result. Refuses to know: the maps and how they are
fitted (`scoring.probability`), and what makes a probability good (`evaluation.calibration`).

A dev pool has an answer or more that are known. What else in it answers the query counts as not relevant, so the
probabilities are a little low; and a query whose answers the first stage missed has no pool, so they hold where an
answer is there to find.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from secondpass.errors import ModelError
from secondpass.evaluation.calibration import BINS, reliability
from secondpass.scoring.probability import (
    FEWEST_QUERIES,
    Calibration,
    JudgedQuery,
    Logistic,
    fit_calibration,
    standardised,
)
from secondpass.training.data import Group

__all__ = ["Parent", "calibrated", "fused", "halves", "in_words"]

Score = Callable[[str, tuple[str, ...]], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Parent:
    """The cross-encoder that a model was made from: its name, its scores, and its calibration if it has one."""

    name: str
    score: Score
    calibration: Calibration | None


def calibrated(
    dev: Sequence[Group], trained_on: set[str], score: Score, seed: int, *, parent: Parent | None = None
) -> tuple[Calibration | None, dict[str, Any]]:
    """A calibration and its report: what it was fitted on, and its reliability where it was not.

    Of the sets in `trained_on` one half of the dev queries, drawn by a seed, is fitted on and the other is "in domain";
    pools of other sets are never fitted on and each such set is "out of domain". The report is {"fitted_on", "weight",
    "measured": [{"where", "map", "queries", …what `reliability` gives}]}.

    Where there are too few pools the report says so ("refused"), and the calibration is the parent's (`_carried`),
    measured on all dev queries, since none was fitted on: {"refused", "inherited": {"from", "scale", "shift"},
    "weight", "measured"}. Without it a model fitted to few judgments would lose what the first stage's scores are
    worth. None beside {"refused"} where there is no parent that has one, or the model does not rank.
    """
    fitted, others = halves(dev, trained_on, seed)
    whole = all(pool.first_scores for pool in fitted)
    report: dict[str, Any]
    try:
        if not whole:
            raise ModelError(
                "there are dev pools without a first stage's scores: lists that came without `first_scores`"
            )
        calibration = fit_calibration(_judged(pool, score) for pool in fitted)
        report = {"fitted_on": {"queries": len(fitted), "sets": sorted({pool.set for pool in fitted})}}
    except ModelError as error:
        thin = not whole or len(fitted) < FEWEST_QUERIES  # else they were enough to tell that it does not rank
        carried = _carried(parent, dev, score) if parent and thin else None
        if carried is None:
            return None, {"refused": str(error)}
        others = [*fitted, *others]
        calibration, inherited = carried
        report = {"refused": str(error), "inherited": inherited}
    held_out = {"in domain": others}
    for name in sorted({pool.set for pool in dev} - trained_on):
        held_out[f"out of domain: {name}"] = [pool for pool in dev if pool.set == name]
    measured = []
    for where, pools in held_out.items():
        queries = [_judged(pool, score) for pool in pools]
        for name in ("alone", "with_first"):
            if rows := _measured(calibration, queries, with_first=name == "with_first"):
                measured.append({"where": where, "map": name, "queries": len(pools), **rows})
    return calibration, {**report, "weight": round(calibration.weight, 4), "measured": measured}


def _carried(parent: Parent, dev: Sequence[Group], score: Score) -> tuple[Calibration, dict[str, Any]] | None:
    """The parent's calibration for the child's logits, and what is told of it; None where it has none, or where the dev
    pools do not say how one's logits become the other's.

    The child's logits are taken for scale · the parent's + shift, with the scale by which their standard deviations
    differ: a line through all candidates of the dev pools, which needs no judgments. A child that is its parent
    inherits all of it.
    """
    pairs = [(score(pool.query, pool.passages), parent.score(pool.query, pool.passages)) for pool in dev]
    rows = np.array([row for own, before in pairs for row in zip(own, before, strict=True)], np.float64).reshape(-1, 2)
    own, before = rows[np.isfinite(rows).all(axis=1)].T
    if parent.calibration is None or len(own) < 2 or not (own.std() > 0 and before.std() > 0):
        return None
    scale = float(own.std() / before.std())
    shift = float(own.mean() - scale * before.mean())

    def moved(one: Logistic) -> Logistic:
        slope = one.logit / scale
        return Logistic(slope, one.intercept - slope * shift, first=one.first)

    calibration = Calibration(moved(parent.calibration.alone), moved(parent.calibration.with_first))
    return calibration, {"from": parent.name, "scale": round(scale, 4), "shift": round(shift, 4)}


def halves(dev: Sequence[Group], trained_on: set[str], seed: int) -> tuple[list[Group], list[Group]]:
    """The dev pools of the sets trained on: those that may be fitted on, and those that what was fitted is measured on.

    By query, so that one that two sets share is on one side only."""
    asked = sorted({pool.query.lower() for pool in dev if pool.set in trained_on})
    random.Random(f"{seed}/calibration").shuffle(asked)
    half = set(asked[: (len(asked) + 1) // 2])
    pools = [pool for pool in dev if pool.set in trained_on]
    return [p for p in pools if p.query.lower() in half], [p for p in pools if p.query.lower() not in half]


def fused(calibration: Calibration, logits: Sequence[float], first_scores: Sequence[float]) -> list[float]:
    """Scores of both stages, as a cross-encoder with this calibration gives them."""
    z = standardised(first_scores)
    return list(logits) if z is None else (np.asarray(logits) + calibration.weight * z).tolist()


def in_words(report: dict[str, Any]) -> str:
    """The report for a model card, in Markdown."""
    if "measured" not in report:
        return f"Not calibrated: {report['refused']}."
    names = {"alone": "logit", "with_first": "logit and first stage"}
    rows = "\n".join(
        f"| {row['where']} | {names[row['map']]} | {row['queries']} | {row['pairs']} | {row['relevant']:.3f} "
        f"| {row['ece']:.3f} | {row['brier']:.4f} | {row['brier_of_base_rate']:.4f} |"
        for row in report["measured"]
    )
    if inherited := report.get("inherited"):
        whence = f"""inherited from {inherited["from"]}, by the line that takes its logits to this model's on the dev
queries ({report["refused"]}), and measured on all of them"""
        weight = ""
    else:
        whence = f"""fitted on {report["fitted_on"]["queries"]} dev queries of the training sets and measured on
others: the other half (in domain), and sets that were not trained on"""
        weight = ", and one half of the queries of the training sets is what the weight was fitted on"
    return f"""P(relevant), {whence}. ECE over {BINS} equal-mass bins; "base rate" is the Brier score of always saying
the share that is relevant. A standard deviation of the first stage's scores counts as {report["weight"]:.2f} logits;
"both stages" above is that{weight}.

| where | P from | queries | pairs | relevant | ECE | Brier | base rate |
|---|---|---|---|---|---|---|---|
{rows}"""


def _judged(pool: Group, score: Score) -> JudgedQuery:
    labels = [float(gain > 0) for gain in pool.gains]
    return score(pool.query, pool.passages), pool.first_scores or [None] * len(labels), labels


def _measured(calibration: Calibration, queries: Sequence[JudgedQuery], *, with_first: bool) -> dict[str, Any] | None:
    """The reliability over all candidates that have a logit, each probability as a cross-encoder would give it."""
    probabilities: list[float] = []
    labels: list[float] = []
    for logits, first, relevant in queries:
        z = standardised(first) if with_first else None
        values = np.asarray(logits, np.float64)
        known = np.isfinite(values)
        p = calibration.alone(values) if z is None else calibration.with_first(values, z)
        probabilities += p[known].tolist()
        labels += np.asarray(relevant)[known].tolist()
    if not labels:
        return None
    row = asdict(reliability(probabilities, labels))
    row["table"] = [_rounded(one) for one in row["table"]]
    return _rounded(row)


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in row.items()}
