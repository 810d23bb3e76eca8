"""What 1, 10 and 1,000 replicas hold, from what was measured of one: python bench/scale_model.py [--data FOLDER]

Nothing is timed here. The numbers are those of bench/results (serve, cost, retrievers, cache, memory), the mean size of
the requests that bench/serve.py sends, and the prices of hosted rerankers that ship with the package; the rest is
arithmetic, and each row says which.
"""

from __future__ import annotations

import json
import statistics
from typing import Any

from common import RESULTS, arguments, write
from secondpass.rerankers.services import services
from serve import asks, pool

REPLICAS = (1, 10, 1000)
DOCUMENTS = 100  # a request
BUSY = 0.7  # the share of its time that a replica works: beyond it waiting grows fast
REPEATS = 10  # how often a query comes, where the cache is looked at
MILLIONS = (1, 10, 100)  # documents of an index
DEPTHS = (10, 20, 50, 200)
MONTH = 730  # hours


def result(name: str) -> dict[str, Any]:
    """A result file."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def wait(busy: float) -> float:
    """Mean time in the queue of a replica, in times of a request's own; at random, all of one size (M/D/1)."""
    return busy / (2 * (1 - busy))


def found_again(replicas: int, times: int) -> float:
    """The share of queries that a cache of each replica's own answers, where each comes so often, to any of them."""
    first = replicas * (1 - (1 - 1 / replicas) ** times)  # replicas that see it at least once
    return 1 - first / times


def main() -> None:
    """Compute, print, and write bench/results/scale_model.json."""
    options = arguments(__doc__).parse_args()
    served, cost, retrievers = result("serve"), result("cost"), result("retrievers")
    one = next(row for row in served["rows"] if row["what"] == "throughput")
    overload = next(row for row in served["rows"] if row["what"] == "overload")
    per_second = one["documents_per_s"] / DOCUMENTS
    seconds = 1 / per_second
    bytes_each = statistics.fmean(len(ask.body) for ask in asks(pool(options.data, DOCUMENTS), None)[:40])
    index = next(row for row in retrievers["rows"] if row["what"].startswith("index with"))
    scan = next(row for row in retrievers["rows"] if row["what"].startswith("dense scan"))
    scan_ms = scan["median_ms_2_threads"]  # of a million vectors
    index_mb = index["folder_mb"] * 1e6 / index["documents"]
    rows = [
        {
            "replicas": replicas,
            "requests_per_s": replicas * per_second,
            "documents_per_s": replicas * one["documents_per_s"],
            "kept_up_per_s": replicas * per_second * BUSY,
            "kept_up_per_day": replicas * per_second * BUSY * 86_400,
            "megabytes_per_s": replicas * per_second * bytes_each / 1e6,
            "cache_of_its_own": found_again(replicas, REPEATS),
            "looked_up_per_s": replicas * per_second * DOCUMENTS,
            "log_rows_per_s": replicas * per_second * (1 + DOCUMENTS),
            "memory_gb": replicas * overload["memory_mb"] / 1000,
            "machine_hours_a_month": replicas * MONTH,
        }
        for replicas in REPLICAS
    ]
    indexes = [
        {
            "millions": millions,
            "gigabytes": millions * index_mb / 1000,
            "dense_ms": millions * scan_ms,
            "of_a_request": millions * scan_ms / (1000 * seconds),
            "requests_per_s_of_one": 1 / (seconds + millions * scan_ms / 1000),
        }
        for millions in MILLIONS
    ]
    a, b = cost["fits"]["candidates"]["a_ms"], cost["fits"]["candidates"]["b_ms"]
    depths = [{"depth": depth, "more": (a + b * DOCUMENTS) / (a + b * depth)} for depth in DEPTHS]
    searches: list[dict[str, Any]] = [
        {"service": name, "model": model, "amount": price.amount, "per": price.per, "as_of": price.as_of}
        for name, service in services().items()
        for price in service.prices
        for model in price.models
        if price.unit == "search"
    ]
    for each in searches:
        each["an_hour"] = each["amount"] / each["per"] * per_second * BUSY * 3600
    path = write(
        "scale_model",
        rows,
        [],
        documents=DOCUMENTS,
        busy=BUSY,
        wait=wait(BUSY),
        repeats=REPEATS,
        one={
            "cores": served["machine"]["cores"],
            "requests_per_s": per_second,
            "seconds": seconds,
            "bytes": bytes_each,
            "memory_mb": overload["memory_mb"],
            "hours_per_million": 1e6 / (per_second * BUSY) / 3600,
        },
        index={"mb_per_million": index_mb, "scan_ms_per_million": scan_ms, "even_millions": 1000 * seconds / scan_ms},
        indexes=indexes,
        depths=depths,
        searches=searches,
        measured={name: result(name)["commit"] for name in ("serve", "cost", "retrievers")},
    )
    print(f"{path}: one replica {per_second:.3f} requests a second, {bytes_each / 1e3:.0f} kB each")


if __name__ == "__main__":
    main()
