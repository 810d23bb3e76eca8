"""What the precisions of a model cost in nDCG@10: int8 and bf16 against fp32, on the same candidates.

    python bench/precision.py [--data FOLDER] [--model secondpass-mini] [--queries 24] [--depth 30] [--only cosqa]

BM25's first --depth of test queries drawn by a seed, scored under each profile: exact (fp32), default (bf16 where the
processor has it) and fast (int8, with the scales that ship). nDCG@10 of the fused order, as the model ships, its change
against fp32 with the 95 % interval, the largest and the mean difference of a logit, how many queries have another top
10, and processor time against fp32's, in turns, query by query. Nothing is chosen here.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

from rich.console import Console
from rich.progress import Progress

from common import arguments, target, write
from quality import COLLECTIONS, drawn, run_of
from secondpass.evaluation.audit import audit
from secondpass.evaluation.collections import Collection, read_beir
from secondpass.evaluation.metrics import evaluate
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.retrievers.bm25 import BM25

PROFILES = ("exact", "default", "fast")
NAMES = ("scifact", "cosqa", "cranfield", "checkthat20", "nq-qed")
MOST = 0.005


def measure(collection: Collection, depth: int, models: dict[str, CrossEncoder], progress: Progress) -> dict[str, Any]:
    """One collection: nDCG@10, differences and times by profile."""
    stage = BM25.build(collection.documents.values())
    runs: dict[str, Any] = {profile: {} for profile in models}
    seconds = dict.fromkeys(models, 0.0)
    away: dict[str, list[float]] = {profile: [] for profile in models}
    for query_id, text in progress.track(collection.queries.items(), description=collection.name):
        pool = stage.retrieve(text, depth)
        scores = {}
        for profile, model in models.items():
            begun = time.process_time()
            ranking = model.rerank(pool)
            seconds[profile] += time.process_time() - begun
            runs[profile][query_id] = run_of(ranking)
            scores[profile] = {hit.document.id: hit.score for hit in ranking.hits if hit.score is not None}
        for profile, own in scores.items():
            away[profile] += [abs(value - scores["exact"][one]) for one, value in own.items()]
    row: dict[str, Any] = {"collection": collection.name, "queries": len(collection.queries)}
    for profile in models:
        means = evaluate(runs[profile], collection.qrels, "ndcg@10")
        one: dict[str, Any] = {"ndcg@10": round(statistics.fmean(means.values()), 4)}
        if profile != "exact":
            found = audit(runs["exact"], runs[profile], collection.qrels, depth=depth, names=("fp32", profile))
            moved = sum(
                [name for name, _ in run[:10]] != [name for name, _ in runs["exact"][query_id][:10]]
                for query_id, run in runs[profile].items()
            )
            one |= {
                "difference": round(found.difference, 4),
                "interval": [round(end, 4) for end in found.interval],
                "logit_most": round(max(away[profile]), 3),
                "logit_mean": round(statistics.fmean(away[profile]), 4),
                "other_top_10": moved,
                "times_cpu": round(seconds[profile] / seconds["exact"], 3),
            }
        row[profile] = one
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    """Measure every collection, print, and write bench/results/precision.json."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="secondpass-mini")
    parser.add_argument("--queries", type=int, default=24, help="of each collection")
    parser.add_argument("--depth", type=int, default=30)
    parser.add_argument("--only", default=",".join(NAMES), help="collections by name, with commas")
    parser.add_argument("--dry", action="store_true", help="write no result")
    options = parser.parse_args()
    models = {profile: CrossEncoder(options.model, profile=profile) for profile in PROFILES}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        rows = []
        for name in options.only.split(","):
            collection = read_beir(options.data / "collections" / name, COLLECTIONS[name])
            rows.append(measure(drawn(collection, options.queries), options.depth, models, progress))
    targets = []
    for row in rows:
        for profile in PROFILES[1:]:
            lost = row[profile]["difference"]
            targets.append(target(f"{row['collection']}: {profile} against fp32", lost, f"≥ −{MOST}", lost >= -MOST))
    if not options.dry:
        detail = {profile: model.scorer.detail for profile, model in models.items()}
        print(write("precision", rows, targets, model=options.model, depth=options.depth, profiles=detail))


if __name__ == "__main__":
    main()
