"""BM25 with and without the shipped model at depth 100, on test queries: where it helps, and where it hurts.

    python bench/quality.py [--data FOLDER] [--only nq-qed,scifact] [--work .bench]

Test queries are reported here and used for nothing else. Reranked runs are kept in --work, one line
a query, so a run that was killed goes on where it stopped; delete the folder to measure anew.
"""

from __future__ import annotations

import gzip
import json
import statistics
import time
from pathlib import Path
from typing import Any

from rich.progress import Progress

from common import ROOT, arguments, target, write
from secondpass.evaluation.audit import audit
from secondpass.evaluation.collections import Collection, read_beir
from secondpass.evaluation.metrics import evaluate
from secondpass.evaluation.trec import Run
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.retrievers.bm25 import BM25

DEPTH = 100
COLLECTIONS = {"nq-qed": "test", "scifact": "test", "cosqa": "test", "cranfield": "test-binary", "checkthat20": "test"}
METRICS = ("ndcg@10", "mrr@10", "recall@100")


def reranked_run(
    collection: Collection, index: BM25, model: CrossEncoder, path: Path, progress: Progress
) -> list[dict[str, Any]]:
    """One row a query: both orders, seconds of both stages, pairs and truncations."""
    done = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.endswith("}"):  # a line half written when the run was killed does not
                row = json.loads(line)
                done[row["query_id"]] = row
    task = progress.add_task(collection.name, total=len(collection.queries), completed=len(done))
    rows = []
    with path.open("a", encoding="utf-8") as out:
        for query_id, text in collection.queries.items():
            row = done.get(query_id)
            if row is None:
                began = time.perf_counter()
                first = index.retrieve(text, DEPTH)
                middle = time.perf_counter()
                second = model.rerank(first)
                trace = second.trace[-1]
                row = {
                    "query_id": query_id,
                    "bm25": [(hit.document.id, round(hit.score or 0.0, 5)) for hit in first.hits],
                    "reranked": list(second.ids),
                    "seconds": [middle - began, time.perf_counter() - middle],
                    "pairs": trace.pairs_scored,
                    "tokens": trace.tokens,
                    "truncated": trace.truncated,
                    "skipped": dict(trace.skipped),
                }
                out.write(json.dumps(row) + "\n")
                out.flush()
                progress.advance(task)
            rows.append(row)
    return rows


def measure(collection: Collection, rows: list[dict[str, Any]], seen_in_training: set[str]) -> dict[str, Any]:
    """The numbers of one collection, and of its queries whose relevant texts are no training positives."""
    baseline: Run = {row["query_id"]: [(doc, float(score)) for doc, score in row["bm25"]] for row in rows}
    second: Run = {row["query_id"]: [(doc, -float(i)) for i, doc in enumerate(row["reranked"])] for row in rows}
    seconds = {row["query_id"]: row["seconds"][1] for row in rows}

    def compare(qrels: dict[str, dict[str, int]]) -> dict[str, Any]:
        verdict = audit(
            baseline, second, qrels, depth=DEPTH, seconds_reranked=seconds, names=("BM25", "secondpass-mini")
        )
        means = {
            name: {metric: round(statistics.fmean(evaluate(run, qrels, metric).values()), 4) for metric in METRICS}
            for name, run in (("bm25", baseline), ("reranked", second))
        }
        added = verdict.added_latency
        return {
            "queries": verdict.queries,
            **means,
            "difference": round(verdict.difference, 4),
            "interval": [round(end, 4) for end in verdict.interval],
            "p": round(verdict.p_value, 5),
            "decision": verdict.decision.value,
            "best_possible": round(verdict.best, 4),
            "capture": None if verdict.capture is None else round(verdict.capture, 3),
            "unfixable": None if verdict.unfixable is None else round(verdict.unfixable, 3),
            "helped": verdict.helped,
            "hurt": verdict.hurt,
            "unchanged": verdict.unchanged,
            "p50_ms": round(added.p50_ms) if added else None,
            "p95_ms": round(added.p95_ms) if added else None,
        }

    qrels = {query_id: dict(grades) for query_id, grades in collection.qrels.items()}
    pairs = sum(row["pairs"] for row in rows)
    result = {
        "collection": collection.name,
        **compare(qrels),
        "pairs": pairs,
        "pairs_per_second": round(pairs / max(sum(seconds.values()), 1e-9), 1),
        "mean_tokens": round(sum(row["tokens"] for row in rows) / max(pairs, 1), 1),
        "truncated": sum(row["truncated"] for row in rows),
    }
    clean = {
        query_id: grades
        for query_id, grades in qrels.items()
        if not any(grade > 0 and doc in seen_in_training for doc, grade in grades.items())
    }
    if len(clean) < len(qrels):
        result["without_training_positives"] = compare(clean)
    return result


def training_positives(data: Path, name: str, collection: Collection) -> set[str]:
    """Ids of the collection whose text is a positive of the training set of the same name."""
    path = data / "train" / name / "train.jsonl.gz"
    if not path.exists():
        return set()
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        texts = {" ".join(json.loads(line)["positive"].split()) for line in lines}
    return {document.id for document in collection.documents.values() if " ".join(document.text.split()) in texts}


def main() -> None:
    """Measure every collection that --only names, and write bench/results/quality.json."""
    parser = arguments(__doc__)
    parser.add_argument("--only", default=",".join(COLLECTIONS), help="collections, separated by commas")
    parser.add_argument("--work", type=Path, default=ROOT / ".bench" / "quality")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model = CrossEncoder()
    digest = model.scorer.checkpoint.digest
    rows = []
    with Progress() as progress:
        for name in options.only.split(","):
            collection = read_beir(options.data / "collections" / name, COLLECTIONS[name])
            index = BM25.build(collection.documents.values())
            path = options.work / f"{name}-{digest[:12]}-{model.scorer.engine.precision}.jsonl"
            runs = reranked_run(collection, index, model, path, progress)
            row = measure(collection, runs, training_positives(options.data, name, collection))
            rows.append({**row, "collection": name})
            print(
                f"{name:12} nDCG@10 {row['bm25']['ndcg@10']:.3f} -> {row['reranked']['ndcg@10']:.3f}  "
                f"[{row['interval'][0]:+.3f}, {row['interval'][1]:+.3f}]  {row['decision']}"
            )
    targets = [
        target(
            f"{row['collection']}: reranking does not lower nDCG@10",
            row["difference"],
            "upper end of the 95 % interval ≥ 0",
            row["interval"][1] >= 0,
        )
        for row in rows
    ]
    note = "seconds and pairs/s were read in passing, on a machine that may have had other work: no benchmark of speed"
    print(write("quality", rows, targets, model=model.scorer.detail, depth=DEPTH, note=note))


if __name__ == "__main__":
    main()
