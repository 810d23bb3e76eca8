"""What a rerank of 100 passages costs when all its scores are kept, and when none is.

    python bench/cache.py [--data FOLDER] [--queries 50] [--rounds 20] [--redis redis://127.0.0.1:6379/0]

Passages of 75 words are cut from the training sets, drawn by a seed; each query has its own 100. The model is
the default one. Each round reranks every query once without a cache and then, interleaved, from the memory and
from the Redis (where one is named), which were filled before. Times are of `CrossEncoder.rerank`, raw text in and
ranking out; a request that was not answered from the cache alone is an error.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any

from rich.progress import track

from common import arguments, target, write
from retrievers import passages, questions
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.cache import RedisStore
from secondpass.types import Ranking, as_ranking

CANDIDATES, WORDS = 100, 75
GOAL_MS = 3.0


def rankings(options: Any) -> list[Ranking]:
    """Each query with its own passages of exactly WORDS words."""
    enough = 2 * options.queries * CANDIDATES  # the last piece of a text is shorter than the rest
    cut = [replace(one, text=" ".join(one.text.split()[:WORDS])) for one in passages(options.data, enough)]
    full = [one for one in cut if len(one.text.split()) == WORDS]
    asked = questions(options.data, options.queries)[: options.queries]
    return [as_ranking(query, full[at * CANDIDATES : (at + 1) * CANDIDATES]) for at, query in enumerate(asked)]


def milliseconds(encoder: CrossEncoder, ranking: Ranking, *, cached: bool) -> float:
    """One rerank. Fails where a cached one was not answered from the cache."""
    began = time.perf_counter()
    result = encoder.rerank(ranking)
    took = 1000 * (time.perf_counter() - began)
    trace = result.trace[-1]
    if trace.pairs_scored != CANDIDATES or (cached and trace.detail["cache"]["hit_rate"] != 1.0):
        raise SystemExit(f"{ranking.query!r}: {trace}")
    return took


def main() -> None:
    """Measure, print, and write bench/results/cache.json."""
    parser = arguments(__doc__)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--redis", metavar="URL", help="also from this Redis")
    options = parser.parse_args()
    asked = rankings(options)
    if any(len(ranking) != CANDIDATES for ranking in asked):
        raise SystemExit("the training sets have too few passages; ask fewer --queries")
    encoders = {"no cache": CrossEncoder(), "all in memory": CrossEncoder(cache=64_000_000)}
    if options.redis:
        store = RedisStore(options.redis, ttl_s=3600, timeout_s=1.0)
        encoders["all in a Redis on this machine"] = CrossEncoder(cache=store)
    for name, encoder in encoders.items():
        for ranking in track(asked, f"warming: {name}", transient=True):
            milliseconds(encoder, ranking, cached=False)
    took: dict[str, list[float]] = {name: [] for name in encoders}
    for _ in track(range(options.rounds), "measuring", transient=True):
        for ranking in asked:
            for name, encoder in encoders.items():
                took[name].append(milliseconds(encoder, ranking, cached=name != "no cache"))
    rows = [
        {
            "what": name,
            "median_ms": round(statistics.median(times), 3),
            "p99_ms": round(statistics.quantiles(times, n=100)[98], 3),
            "requests": len(times),
        }
        for name, times in took.items()
    ]
    for row in rows:
        print(row)
    best: Any = next(row["median_ms"] for row in rows if row["what"] == "all in memory")
    targets = [target(f"cached rerank of {CANDIDATES}, ms", best, f"< {GOAL_MS:g} ms", best < GOAL_MS)]
    detail = encoders["no cache"].scorer.detail
    print(write("cache", rows, targets, model=detail, candidates=CANDIDATES, words=WORDS))


if __name__ == "__main__":
    main()
