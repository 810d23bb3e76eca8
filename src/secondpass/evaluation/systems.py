"""A system as an audit sees it: one run, and what is known of its time, its price and its licence.

Knows: seconds, percentiles, money per query. Refuses to know: judgments, models, how anything was timed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from statistics import fmean

import numpy as np

from secondpass.errors import InputError
from secondpass.evaluation.trec import Run

__all__ = ["Latency", "Price", "System", "latency"]


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of seconds per query, in milliseconds, and their mean, over `queries` timed queries."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    queries: int


@dataclass(frozen=True, slots=True)
class Price:
    """What a query costs: `machine_hour` for the time that it keeps a machine busy, `call` once a query.

    None: unknown, and not the same as free. All in one `currency`. A query is taken to have the machine to itself, as
    it has while it is timed, so that machines that serve several at once make it cheaper than is said here.

    Raises InputError for a price that is negative or not finite.
    """

    machine_hour: float | None = None
    call: float | None = None
    currency: str = "USD"

    def __post_init__(self) -> None:
        for name, value in (("machine_hour", self.machine_hour), ("call", self.call)):
            if value is not None and not (isfinite(value) and value >= 0.0):
                raise InputError(f"price.{name} is {value}; give an amount of money, 0 or more")

    def per_1000(self, mean_ms: float | None) -> float | None:
        """The price of 1,000 queries of so many milliseconds each; None where nothing of it is known."""
        time = None
        if self.machine_hour is not None and mean_ms is not None:
            time = self.machine_hour * mean_ms / 3600.0  # 1,000 queries × ms / 1,000, in hours
        calls = None if self.call is None else 1000.0 * self.call
        known = [part for part in (time, calls) if part is not None]
        return sum(known) if known else None


@dataclass(frozen=True, slots=True)
class System:
    """What produced a run. `seconds` are of whole queries, by id, from the query to the ranking (None: not timed)."""

    name: str
    run: Run
    seconds: Mapping[str, float] | None = None
    price: Price = field(default_factory=Price)
    licence: str = ""


def latency(seconds: Mapping[str, float] | None, name: str) -> Latency | None:
    """The latency over all queries that were timed; None for none. Raises InputError for what is no time."""
    if not seconds:
        return None
    for query_id, value in seconds.items():
        if not (isfinite(value) and value >= 0.0):
            raise InputError(f"{name}[{query_id!r}] is {value}; give seconds, 0 or more")
    values = list(seconds.values())
    p50, p95, p99 = (float(value) * 1000.0 for value in np.percentile(values, (50, 95, 99)))
    return Latency(p50, p95, p99, 1000.0 * fmean(values), len(values))
