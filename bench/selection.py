"""What a threshold with a guarantee costs and saves on real collections, and how long each selector takes.

    python bench/selection.py [--data FOLDER] [--model NAME] [--queries 150] [--splits 1000] [--only scifact] [--dry]

BM25's first 100 of each judged query, reranked once (kept in --work, a line a query, so a run that was killed goes on
where it stopped). Then, many times, half of the queries with a relevant candidate,
drawn by chance, give the threshold (`selection.risk`) and the other half is what it is tried on: the mean share of a
query's relevant candidates that goes, how many candidates and tokens stay, and what a fixed top k of the same mean size
would have lost. Nothing is chosen by it. Then each collection's threshold is tried on the others, where the guarantee
does not hold. Times are processor time of the selectors alone, on BM25's rankings.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from common import ROOT, arguments, target, write
from quality import COLLECTIONS, DEPTH, drawn
from secondpass.evaluation.collections import read_beir
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.rerankers.fields import renderer
from secondpass.retrievers.bm25 import BM25
from secondpass.selection.mmr import MMR
from secondpass.selection.near_duplicates import NearDuplicates
from secondpass.selection.risk import controlled
from secondpass.selection.threshold import Threshold
from secondpass.selection.token_budget import Counter, TokenBudget, counter
from secondpass.types import Ranking, Selector

ALPHAS = (0.05, 0.1, 0.2)
ACROSS = 0.1  # the alpha that is carried from one collection to another
TIMED = 50  # rankings of each collection
TIMES = 5
SETS = ("scifact", "nq-qed", "cosqa", "cranfield")
render = renderer()


@dataclass(frozen=True, slots=True)
class Judged:
    """A query's candidates, best first, in parallel: P(relevant) (NaN: none), whether judged relevant, tokens."""

    probability: NDArray[np.float64]
    relevant: NDArray[np.bool_]
    tokens: NDArray[np.int64]

    def lost(self, threshold: float) -> float:
        """The share of relevant candidates below it."""
        return float((self.probability[self.relevant] < threshold).mean())

    def beyond(self, k: int) -> float:
        """The share of relevant candidates behind the first k."""
        return float(self.relevant[k:].sum() / self.relevant.sum())

    def kept(self, threshold: float) -> NDArray[np.bool_]:
        """Which candidates stay."""
        return ~(self.probability < threshold)


def reranked(model: CrossEncoder, ranking: Ranking, grades: Mapping[str, int], count: Counter) -> dict[str, Any]:
    """What is kept of a query's candidates, best first."""
    hits = model.rerank(ranking).hits
    return {
        "probability": [hit.probability for hit in hits],
        "relevant": [grades.get(hit.document.id, 0) > 0 for hit in hits],
        "tokens": [count(str(render(hit.document))) for hit in hits],
    }


def candidates(
    data: Path, name: str, model: CrossEncoder, queries: int, file: Path, tick: Callable[[], None]
) -> tuple[list[Judged], list[Ranking]]:
    """The queries that have a relevant candidate, reranked, and the first of BM25's rankings."""
    collection = drawn(read_beir(data / "collections" / name, split=COLLECTIONS[name]), queries)
    stage, count = BM25.build(list(collection.documents.values())), counter("secondpass-mini")
    found = {query_id: stage.retrieve(query, DEPTH) for query_id, query in collection.queries.items()}
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    whole = [line for line in lines if line.endswith("\n")]  # a line half written when the run was killed does not
    file.write_text("".join(whole), encoding="utf-8")
    known = dict(map(json.loads, whole))
    with file.open("a", encoding="utf-8") as out:
        for query_id, ranking in found.items():
            if query_id not in known:
                known[query_id] = reranked(model, ranking, collection.qrels[query_id], count)
                out.write(json.dumps([query_id, known[query_id]]) + "\n")
                out.flush()
            tick()
    judged = [
        Judged(np.array(row["probability"], np.float64), np.array(row["relevant"]), np.array(row["tokens"]))
        for row in (known[query_id] for query_id in found)
        if any(row["relevant"])
    ]
    return judged, list(found.values())[:TIMED]


def threshold_of(queries: Sequence[Judged], alpha: float) -> float:
    """What `secondpass calibrate` would find on these."""
    relevant = [one.probability[one.relevant].tolist() for one in queries]
    return controlled([[None if math.isnan(p) else p for p in row] for row in relevant], alpha)


def halves(queries: Sequence[Judged], alpha: float, splits: int) -> dict[str, Any]:
    """Calibrated on one half, tried on the other, and that `splits` times."""
    rng = np.random.default_rng(0)
    n = len(queries) // 2
    rows = []
    for _ in range(splits):
        order = rng.permutation(len(queries))
        known, others = [queries[i] for i in order[:n]], [queries[i] for i in order[n:]]
        threshold = threshold_of(known, alpha)
        k = math.ceil(statistics.fmean(one.kept(threshold).sum() for one in known))
        stay = [one.kept(threshold) for one in others]
        rows.append(
            (
                threshold,
                statistics.fmean(one.lost(threshold) for one in others),
                statistics.fmean(int(kept.sum()) for kept in stay),
                sum(int(one.tokens[kept].sum()) for one, kept in zip(others, stay, strict=True))
                / sum(int(one.tokens.sum()) for one in others),
                k,
                statistics.fmean(one.beyond(k) for one in others),
            )
        )
    columns = np.array(rows)
    names = ("threshold", "risk", "documents", "tokens", "k", "risk_of_top_k")
    found = dict(zip(names, columns.mean(axis=0).tolist(), strict=True))
    return {
        "alpha": alpha,
        "calibrated_on": n,
        "tried_on": len(queries) - n,
        **{name: round(value, 4) for name, value in found.items()},
        "risk_error": round(float(columns[:, 1].std() / math.sqrt(splits)), 5),
        "risk_90": [round(float(one), 4) for one in np.quantile(columns[:, 1], [0.05, 0.95])],
    }


def seconds(selector: Selector, rankings: Sequence[Ranking]) -> float:
    """Of the processor: the median over rankings, each the fastest of a few."""

    def fastest(ranking: Ranking) -> float:
        took = []
        for _ in range(TIMES):
            began = time.process_time()
            selector.select(ranking)
            took.append(time.process_time() - began)
        return min(took)

    return statistics.median(map(fastest, rankings))


def times(rankings: Mapping[str, Sequence[Ranking]]) -> list[dict[str, Any]]:
    """Milliseconds of the processor of each selector on the rankings of each collection."""
    selectors: dict[str, Selector] = {
        "threshold": Threshold(0.1),
        "near-duplicates": NearDuplicates(),
        "mmr, 10 of them": MMR(most=10),
        "token-budget of 3,000": TokenBudget(3000),
    }
    return [
        {"selector": name, "collection": collection, "ms": round(1000 * seconds(selector, some), 2)}
        for name, selector in selectors.items()
        for collection, some in rankings.items()
    ]


def main() -> None:
    """Measure, print, and write bench/results/selection.json."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="secondpass-mini")
    parser.add_argument("--queries", type=int, default=150, help="of each collection, drawn by a seed")
    parser.add_argument("--splits", type=int, default=1000)
    parser.add_argument("--only", default=",".join(SETS), help="collections by name, with commas")
    parser.add_argument("--work", type=Path, default=ROOT / ".bench" / "selection", help="where probabilities are kept")
    parser.add_argument("--dry", action="store_true", help="write no result")
    options = parser.parse_args()
    model = CrossEncoder(options.model)
    detail = model.scorer.detail
    options.work.mkdir(parents=True, exist_ok=True)
    judged: dict[str, list[Judged]] = {}
    rankings: dict[str, list[Ranking]] = {}
    rows: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True)) as progress:
        for name in options.only.split(","):
            task = progress.add_task(name, total=options.queries)
            file = options.work / f"{name}-{detail['digest'][:12]}-{detail['precision']}.jsonl"
            tick = partial(progress.advance, task)
            judged[name], rankings[name] = candidates(options.data, name, model, options.queries, file, tick)
            rows += [{"collection": name, **halves(judged[name], alpha, options.splits)} for alpha in ALPHAS]
    across = [
        {
            "from": one,
            "to": other,
            "alpha": ACROSS,
            "risk": round(statistics.fmean(query.lost(threshold) for query in judged[other]), 4),
        }
        for one, threshold in {name: threshold_of(queries, ACROSS) for name, queries in judged.items()}.items()
        for other in judged
        if other != one
    ]
    taken = times(rankings)
    table = Table("collection", "alpha", "risk", "of top k", "documents", "tokens", title="on the other half")
    for row in rows:
        numbers = (
            f"{row['risk']:.4f}",
            f"{row['risk_of_top_k']:.4f}",
            f"{row['documents']:.1f}",
            f"{row['tokens']:.1%}",
        )
        table.add_row(row["collection"], str(row["alpha"]), *numbers)
    Console().print(table)
    for row in [*across, *taken]:
        print(row)
    targets = [
        target(
            f"{row['collection']}, alpha {row['alpha']}: the share of a query's relevant candidates that goes",
            row["risk"],
            f"≤ {row['alpha']}",
            row["risk"] <= row["alpha"] + 3 * row["risk_error"],
        )
        for row in rows
    ]
    if options.dry:
        return
    more = {"model": {key: detail[key] for key in ("model", "digest", "engine", "precision")}, "splits": options.splits}
    print(write("selection", rows, targets, across=across, times=taken, **more))


if __name__ == "__main__":
    main()
