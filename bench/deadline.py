"""Are deadlines held, how much is scored by then, and what is that worth?

    python bench/deadline.py [--data FOLDER] [--requests 300] [--long 20] [--queries 60]

W1: one query and 100 passages of median 75 tokens (mean 85, 95th percentile 170); W2: 100 passages of 300 to 500.
Passages are drawn by a seed from training sets. Half-way through each row a busy process per core starts, which doubles
the machine's load, and stays to its end. A miss is an answer that comes later than its deadline by more than 10 ms or
10 % of it, whichever is larger. Quality against deadline is measured on held-out queries of nq-qed, over BM25's first
100.
"""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.progress import Progress

from common import arguments, target, training_texts, write
from secondpass.evaluation.metrics import evaluate
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.retrievers.bm25 import BM25
from secondpass.training.data import read_pairs
from secondpass.training.recipe import DataSet
from secondpass.types import NEVER, Deadline, Document, Ranking, as_ranking

SEED = 13
DEPTH = 100
SETS = ("nq-qed", "lfrqa", "squad-train")
W1 = (50, 100, 200, 400)
W2 = (100, 200, 400, 800)


class Passages:
    """Real passages by their number of tokens."""

    def __init__(self, data: Path, model: CrossEncoder) -> None:
        texts, self.queries = training_texts(data, SETS)
        drawn = random.Random(SEED).sample(sorted(texts), 12_000)
        encoded = model.scorer.checkpoint.tokenizer.encode_batch(drawn, add_special_tokens=False)
        self._by_length = sorted((len(encoding.ids), text) for encoding, text in zip(encoded, drawn, strict=True))

    def ranking(self, draw: random.Random, lengths: Sequence[float]) -> tuple[Ranking, list[int]]:
        """A query and the passages nearest to these lengths, and the lengths they have."""
        taken: dict[int, None] = {}
        for length in lengths:
            at = min(bisect_left(self._by_length, (int(length), "")), len(self._by_length) - 1)
            # a neighbour, so that requests differ; the next one that this request does not have yet
            at = min(max(at + draw.randrange(-20, 21), 0), len(self._by_length) - 1)
            while at in taken:
                at = (at + 1) % len(self._by_length)
            taken[at] = None
        found = [self._by_length[at] for at in taken]
        documents: list[Any] = [Document(str(i), text) for i, (_, text) in enumerate(found)]
        return as_ranking(draw.choice(self.queries), documents), [length for length, _ in found]


def lengths_w1(draw: random.Random) -> list[float]:
    """Log-normal: median 75, 95th percentile 170, hence mean 85."""
    return [draw.lognormvariate(math.log(75), math.log(170 / 75) / 1.645) for _ in range(DEPTH)]


def lengths_w2(draw: random.Random) -> list[float]:
    """300 to 500, all alike."""
    return [draw.uniform(300, 500) for _ in range(DEPTH)]


@contextmanager
def load() -> Iterator[None]:
    """A busy process per core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def held(
    model: CrossEncoder, name: str, requests: Sequence[Ranking], milliseconds: int, progress: Progress
) -> dict[str, Any]:
    """One row: every request under one deadline, the second half of them with the machine's load doubled."""
    late: list[float] = []
    scored: list[int] = []
    lost = unfinished = 0
    task = progress.add_task(f"{name}, {milliseconds} ms", total=len(requests))
    with ExitStack() as stack:
        for number, ranking in enumerate(requests):
            if number == len(requests) // 2:
                stack.enter_context(load())
            began = time.perf_counter()
            answer = model.rerank(ranking, deadline=Deadline.after_ms(milliseconds))
            late.append(1000 * (time.perf_counter() - began) - milliseconds)
            scored.append(answer.trace[-1].pairs_scored)
            lost += len(set(ranking.ids) - set(answer.ids))
            unfinished += answer.trace[-1].detail["cost"]["unfinished"]
            progress.advance(task)
    half = len(requests) // 2
    misses = [overshoot > max(10.0, 0.1 * milliseconds) for overshoot in late]
    return {
        "workload": name,
        "deadline_ms": milliseconds,
        "requests": len(requests),
        "misses": sum(misses),
        "miss_share": round(sum(misses) / len(misses), 4),
        "misses_after_load": sum(misses[half:]),
        "late_ms_p99": round(sorted(late)[int(0.99 * len(late))], 1),
        "late_ms_max": round(max(late), 1),
        "scored_median": statistics.median(scored[:half]),
        "scored_median_loaded": statistics.median(scored[half:]),
        "unfinished_pairs_share": round(unfinished / max(unfinished + sum(scored), 1), 4),
        "documents_lost": lost,
    }


def curve(model: CrossEncoder, data: Path, count: int, progress: Progress) -> list[dict[str, Any]]:
    """nDCG@10 by deadline on held-out queries; every query has one passage that is known to answer it."""
    pairs = read_pairs(DataSet(name="nq-qed", licence="not copied", dev=250), data / "train", SEED)
    identifiers = {text: f"p{number}" for number, text in enumerate(pairs.passages)}
    retriever = BM25.build(Document(name, text) for text, name in identifiers.items())
    asked = {f"q{number}": pair for number, pair in enumerate(pairs.dev[:count])}
    qrels = {query_id: {identifiers[pair.passage]: 1} for query_id, pair in asked.items()}
    pools = {query_id: retriever.retrieve(pair.query, DEPTH) for query_id, pair in asked.items()}
    rows = []
    for milliseconds in (0, *W1, None):
        task = progress.add_task(f"quality, {milliseconds} ms", total=len(pools))
        run: dict[str, list[tuple[str, float]]] = {}
        scored = []
        for query_id, pool in pools.items():
            deadline = NEVER if milliseconds is None else Deadline.after_ms(milliseconds)
            answer = model.rerank(pool, deadline=deadline)
            run[query_id] = [(name, -float(place)) for place, name in enumerate(answer.ids)]
            scored.append(answer.trace[-1].pairs_scored)
            progress.advance(task)
        quality = statistics.fmean(evaluate(run, qrels, "ndcg@10").values())
        rows.append(
            {"deadline_ms": milliseconds, "scored_mean": statistics.fmean(scored), "ndcg@10": round(quality, 4)}
        )
    return rows


def main() -> None:
    """Measure, print, and write bench/results/deadline.json."""
    parser = arguments(__doc__)
    parser.add_argument("--requests", type=int, default=300, help="W1, for each deadline")
    parser.add_argument("--long", type=int, default=20, help="requests of W2, for each deadline")
    parser.add_argument("--queries", type=int, default=60, help="of the quality curve")
    parser.add_argument("--dry", action="store_true", help="print only, write nothing")
    options = parser.parse_args()
    model = CrossEncoder()
    passages, draw = Passages(options.data, model), random.Random(SEED)
    rows: list[dict[str, Any]] = []
    drawn: dict[str, list[float]] = {}
    with Progress(transient=True) as progress:
        for name, lengths_of, deadlines, count in (
            ("W1", lengths_w1, W1, options.requests),
            ("W2", lengths_w2, W2, options.long),
        ):
            made = [passages.ranking(draw, lengths_of(draw)) for _ in range(count)]
            tokens = sorted(length for _, lengths in made for length in lengths)
            drawn[name] = [statistics.median(tokens), statistics.fmean(tokens), tokens[int(0.95 * len(tokens))]]
            requests = [ranking for ranking, _ in made]
            for ranking in requests[:3]:
                model.rerank(ranking)  # the engine sets up the shapes
            for milliseconds in deadlines:
                rows.append(held(model, name, requests, milliseconds, progress))
                print(json.dumps(rows[-1]))
        quality = curve(model, options.data, options.queries, progress)
    print("\n".join(map(json.dumps, quality)))
    first = [row for row in rows if row["workload"] == "W1"]
    misses = sum(row["misses"] for row in first) / sum(row["requests"] for row in first)
    worst = max(row["miss_share"] for row in first)
    lost = sum(row["documents_lost"] for row in rows)
    targets = [
        target("W1: share of deadlines missed", round(misses, 4), "at most 1 %", misses <= 0.01),
        target("W1: the same at the worst deadline", worst, "at most 1 %", worst <= 0.01),
        target("documents lost", lost, "0", lost == 0),
    ]
    if options.dry:
        print(json.dumps(targets))
        return
    tokens_of = {name: dict(zip(("median", "mean", "p95"), values, strict=True)) for name, values in drawn.items()}
    print(write("deadline", rows, targets, quality=quality, tokens=tokens_of, model=model.scorer.detail, depth=DEPTH))


if __name__ == "__main__":
    main()
