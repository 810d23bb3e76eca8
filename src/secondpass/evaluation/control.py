"""Controls: what other first stages, measured on the same queries, would do in the reranker's place.

Knows: runs, their times and prices, when a control is better. Refuses to know: the verdict, and how anything was timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from secondpass.evaluation.headroom import Orders, orders
from secondpass.evaluation.metrics import SAME, Metric
from secondpass.evaluation.significance import bootstrap_interval, holm, randomisation_p
from secondpass.evaluation.systems import Price, System, latency
from secondpass.evaluation.trec import Qrels
from secondpass.evaluation.verdict import Control
from secondpass.evaluation.wording import money

__all__ = ["Drawn", "Spent", "differences_of", "measured_controls", "values_of"]

_LEVEL = 0.05

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Drawn:
    """How often is drawn, and the seed of it."""

    times: int
    seed: int

    def interval(self, differences: Floats) -> tuple[float, float]:
        """The 95% interval of their mean."""
        return bootstrap_interval(differences, resamples=self.times, seed=self.seed)

    def p(self, differences: Floats) -> float:
        """Two-sided p of their mean being 0."""
        return randomisation_p(differences, permutations=self.times, seed=self.seed)


@dataclass(frozen=True, slots=True)
class Spent:
    """What a query costs with reranking, retrieval included: mean milliseconds, and money for 1,000 of them."""

    mean_ms: float | None
    per_1000: float | None
    currency: str


def values_of(found: Orders, qrels: Qrels, metric: Metric) -> Floats:
    """The metric of every judged query, in their order."""
    return np.array([metric(found[query_id], grades) for query_id, grades in qrels.items()])


def differences_of(after: Floats, before: Floats) -> Floats:
    """Query by query; what is only rounding is 0."""
    differences = after - before
    differences[np.abs(differences) <= SAME] = 0.0
    return differences


def measured_controls(
    systems: Sequence[System],
    qrels: Qrels,
    metric: Metric,
    depth: int,
    first: Floats,
    reranked: Floats,
    delta: float,
    spent: Spent,
    price: Price,
    drawn: Drawn,
) -> tuple[Control, ...]:
    """The other first stages, cut to `depth`, each against both orders.

    `first` and `reranked` are the metric of either, by query in the order of `qrels`; `price` is that of the machine.
    """
    tried = []
    for system in systems:
        found = orders(system.run, qrels, depth)
        values = values_of(found, qrels, metric)
        gain, lead = differences_of(values, first), differences_of(values, reranked)
        timed = latency(system.seconds, f"{system.name}: seconds")
        mean_ms = timed.mean_ms if timed else None
        # a first stage without a price of its own runs on the machine that the others run on
        own = Price(price.machine_hour, None, price.currency) if system.price == Price() else system.price
        per_1000 = own.per_1000(mean_ms)
        affordable, why = _affordable(mean_ms, per_1000, own.currency, spent)
        tried.append(
            Control(
                name=system.name,
                value=float(values.mean()),
                gain=float(gain.mean()),
                gain_interval=drawn.interval(gain),
                lead=float(lead.mean()),
                lead_interval=drawn.interval(lead),
                p_value=drawn.p(lead) if affordable else None,
                recall=fmean(Metric("recall", depth)(found[query_id], grades) for query_id, grades in qrels.items()),
                mean_ms=mean_ms,
                per_1000=per_1000,
                affordable=affordable,
                cost=why,
                better=False,
            )
        )
    corrected = iter(holm([control.p_value for control in tried if control.p_value is not None]))
    finished = []
    for control in tried:
        p_value = None if control.p_value is None else next(corrected)
        better = p_value is not None and p_value < _LEVEL and control.lead > 0.0 and control.gain_interval[0] >= delta
        finished.append(replace(control, p_value=p_value, better=better))
    return tuple(finished)


def _affordable(mean_ms: float | None, per_1000: float | None, currency: str, spent: Spent) -> tuple[bool | None, str]:
    """Whether a query costs no more than with reranking, by money where both prices are known, else by time."""
    if per_1000 is not None and spent.per_1000 is not None and currency == spent.currency:
        dearer = per_1000 > spent.per_1000
        return (
            not dearer,
            f"{money(per_1000, currency)} for 1,000 queries, {money(spent.per_1000, currency)} with reranking",
        )
    if mean_ms is not None and spent.mean_ms is not None:
        return mean_ms <= spent.mean_ms, f"{mean_ms:,.1f} ms a query, {spent.mean_ms:,.1f} ms with reranking"
    return None, "not compared: give the times of both, or their prices in one currency"
