"""Conditions that fail a build, such as "ndcg@10 < -0.01": written by people, held against a verdict.

Knows: the names of numbers of a verdict, and how to compare. Refuses to know: exit codes, files, how
numbers came about.

The left side is a name, the right side a number. The audit's own metric stands for its change, NC − N0, and `NAMES`
has the others. A number that the audit does not know (nothing was timed, no price was given) is an error: a gate that
cannot be checked must not pass.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite

from secondpass.errors import InputError
from secondpass.evaluation.metrics import parse_metric
from secondpass.evaluation.verdict import Cost, Verdict
from secondpass.evaluation.wording import clean

__all__ = ["NAMES", "OPERATORS", "Condition", "Quantity", "holds", "parse_condition", "sentence"]

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number of a verdict: what it is, its unit, how it is read (None: unknown), and what makes it known."""

    meaning: str
    read: Callable[[Verdict], float | None]
    unit: str = ""
    known_by: str = ""


def _added(percentile: str) -> Callable[[Verdict], float | None]:
    return lambda verdict: getattr(verdict.added_latency, percentile, None)


def _cost(of: Callable[[Cost], float | None]) -> Callable[[Verdict], float | None]:
    return lambda verdict: of(verdict.cost) if verdict.cost else None


_TIMED = "time the queries"
_PRICED = "time the queries and give a price"
_JUDGED = "judge more than one query"

NAMES: Mapping[str, Quantity] = {
    "difference": Quantity("the change of the metric", lambda verdict: verdict.difference),
    "low": Quantity("the lower end of its 95% interval", lambda verdict: verdict.interval[0], known_by=_JUDGED),
    "high": Quantity("the upper end of its 95% interval", lambda verdict: verdict.interval[1], known_by=_JUDGED),
    "p_value": Quantity("its p", lambda verdict: verdict.p_value),
    "first": Quantity("the metric of the first stage", lambda verdict: verdict.first),
    "reranked": Quantity("the metric after reranking", lambda verdict: verdict.reranked),
    "best": Quantity("the metric of the best order of the pool", lambda verdict: verdict.best),
    "recall": Quantity("the recall of the pool", lambda verdict: verdict.recall),
    "helped": Quantity("the share of queries helped", lambda verdict: verdict.helped / verdict.queries),
    "hurt": Quantity("the share of queries hurt", lambda verdict: verdict.hurt / verdict.queries),
    "judged": Quantity("the judged share of the top 10 after reranking", lambda verdict: verdict.judged_at_10[1]),
    "p50_ms": Quantity("the added p50", _added("p50_ms"), " ms", _TIMED),
    "p95_ms": Quantity("the added p95", _added("p95_ms"), " ms", _TIMED),
    "p99_ms": Quantity("the added p99", _added("p99_ms"), " ms", _TIMED),
    "cost": Quantity("the added cost of 1,000 queries", _cost(lambda cost: cost.added_per_1000), known_by=_PRICED),
}
"""Names that a condition may start with, beside the audit's own metric."""

_CONDITION = re.compile(r"\s*([^\s<>=]+)\s*(<=|>=|==|<|>)\s*(\S+)\s*")


@dataclass(frozen=True, slots=True)
class Condition:
    """`name operator number`; `name` is one of `NAMES`, or a metric as `parse_metric` writes it."""

    name: str
    operator: str
    number: float

    def __str__(self) -> str:
        return f"{self.name} {self.operator} {self.number:g}"


def parse_condition(text: str) -> Condition:
    """The condition that a text such as "p99_ms > 80" states; case does not matter.

    Raises InputError for anything else, with the known names where the name is the trouble.
    """
    found = _CONDITION.fullmatch(text)
    if not found:
        raise InputError(
            f"condition {text!r} is not NAME OPERATOR NUMBER, with one of {' '.join(OPERATORS)} between, "
            "such as 'ndcg@10 < -0.01'"
        )
    name, symbol, written = found[1].lower(), found[2], found[3].replace("−", "-")
    try:
        number = float(written)
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        raise InputError(f"condition {text!r}: {found[3]!r} is no number; write it as '{name} {symbol} 0.01'")
    if name not in NAMES:
        try:
            name = str(parse_metric(name))
        except InputError:
            raise InputError(
                f"condition {text!r}: unknown name {found[1]!r}; known: the audit's metric, such as 'ndcg@10', "
                f"and {', '.join(NAMES)}"
            ) from None
    return Condition(name, symbol, number)


def holds(condition: Condition, verdict: Verdict) -> bool:
    """Whether the condition is true of the verdict, which is to say: whether the gate fails.

    Raises InputError for a metric other than the audit's, and for a number that the audit does not know.
    """
    return OPERATORS[condition.operator](_value(condition, verdict), condition.number)


def sentence(condition: Condition, verdict: Verdict) -> str:
    """What was found, such as "ndcg@10 < -0.01: the change of ndcg@10 is −0.034: failed". Raises as `holds` does."""
    quantity, value = _quantity(condition, verdict), _value(condition, verdict)
    word = "failed" if holds(condition, verdict) else "passed"
    written = f"{value:,.4g}".replace("-", "−")
    return f"{condition}: {clean(quantity.meaning)} is {written}{quantity.unit}: {word}"


def _quantity(condition: Condition, verdict: Verdict) -> Quantity:
    if condition.name in NAMES:
        return NAMES[condition.name]
    if condition.name != verdict.metric:
        raise InputError(
            f"condition {str(condition)!r}: the audit is of {verdict.metric}, so {condition.name} is not known; "
            f"write '{verdict.metric} {condition.operator} {condition.number:g}', or audit with that metric"
        )
    return Quantity(f"the change of {verdict.metric}", NAMES["difference"].read)


def _value(condition: Condition, verdict: Verdict) -> float:
    quantity = _quantity(condition, verdict)
    value = quantity.read(verdict)
    if value is None or not isfinite(value):
        raise InputError(
            f"condition {str(condition)!r}: {quantity.meaning} is unknown, so it cannot be checked; {quantity.known_by}"
        )
    return float(value)
