"""Three first stages, each with and without the shipped model at depth 100, on test queries; and word senses.

    python bench/quality.py [--data FOLDER] [--only nq-qed,scifact] [--most 600] [--work .bench]

Test queries are reported here and used for nothing else. The model's scores are kept in --work, one line
a query, so a run that was killed goes on where it stopped; delete the folder to measure anew. A document that
several first stages find is scored once: a score does not depend on the stage that found its document.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import Progress

from common import ROOT, arguments, target, write
from secondpass.demo.questions import demo_collection
from secondpass.demo.senses import sense_pairs
from secondpass.evaluation.audit import audit
from secondpass.evaluation.collections import Collection, read_beir
from secondpass.evaluation.metrics import evaluate
from secondpass.evaluation.trec import Run
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.retrievers.hybrid import Hybrid
from secondpass.types import Document, Ranking, Retriever, as_ranking

Hits = list[tuple[str, float]]  # (document id, score), best first

DEPTH = 100
COLLECTIONS = {
    "python-stdlib": "",  # the demo's: this Python's own documentation
    "scifact": "test",
    "cosqa": "test",
    "cranfield": "test-binary",
    "checkthat20": "test",
    "nq-qed": "test",
}
METRICS = ("ndcg@10", "mrr@10", "recall@10", "recall@100")
Scored = dict[str, float | None]


def first_stages(documents: Sequence[Document]) -> dict[str, Retriever]:
    """BM25, dense and hybrid with their defaults, over one index."""
    hybrid = Hybrid.build(documents)
    lexical, dense = hybrid.retrievers
    return {"bm25": lexical, "dense": dense, "hybrid": hybrid}


def drawn(collection: Collection, most: int) -> Collection:
    """At most so many of its queries (0: all), drawn by a fixed seed, in their order."""
    if not 0 < most < len(collection.queries):
        return collection
    kept = set(random.Random(0).sample(sorted(collection.queries), most))
    return replace(
        collection,
        queries={query_id: text for query_id, text in collection.queries.items() if query_id in kept},
        qrels={query_id: grades for query_id, grades in collection.qrels.items() if query_id in kept},
    )


class ScoreFile:
    """The model's scores by query and document, kept in a file, and what getting them took."""

    def __init__(self, path: Path, model: CrossEncoder) -> None:
        self._path, self._model = path, model
        self.known: dict[str, Scored] = {}
        self.pairs = self.tokens = self.truncated = 0
        self.seconds = 0.0
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.endswith("}"):  # a line half written when the run was killed does not
                    self._add(json.loads(line))

    def _add(self, row: dict[str, Any]) -> None:
        self.known.setdefault(row["query_id"], {}).update(row["scores"])
        self.pairs += row["pairs"]
        self.tokens += row["tokens"]
        self.truncated += row["truncated"]
        self.seconds += row["seconds"]

    def score(self, query_id: str, query: str, documents: Mapping[str, Document]) -> Scored:
        """The score of each document, None where it has none."""
        known = self.known.get(query_id, {})
        new = [document for name, document in documents.items() if name not in known]
        if new:
            began = time.perf_counter()
            answer = self._model.rerank(as_ranking(query, new))
            seconds = time.perf_counter() - began
            trace = answer.trace[-1]
            row = {
                "query_id": query_id,
                "scores": {hit.document.id: hit.score for hit in answer.hits},
                "seconds": round(seconds, 4),
                "pairs": trace.pairs_scored,
                "tokens": trace.tokens,
                "truncated": trace.truncated,
            }
            with self._path.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
            self._add(row)
        return self.known[query_id]


def run_of(ranking: Ranking) -> list[tuple[str, float]]:
    """Ids with falling numbers: position is the order."""
    return [(name, -float(place)) for place, name in enumerate(ranking.ids)]


def reranked(ranking: Ranking, scores: Scored) -> list[tuple[str, float]]:
    """What the model makes of a ranking: by its scores, ties and unscored documents in their order."""
    order = sorted(ranking.ids, key=lambda name: -_or_least(scores[name]))
    return [(name, -float(place)) for place, name in enumerate(order)]


def _or_least(score: float | None) -> float:
    return -math.inf if score is None else score


def measure(collection: Collection, scores: ScoreFile, seen: set[str], progress: Progress) -> dict[str, Any]:
    """The numbers of one collection, one row a first stage."""
    stages = first_stages(list(collection.documents.values()))
    runs: dict[str, tuple[dict[str, Hits], dict[str, Hits]]] = {name: ({}, {}) for name in stages}
    task = progress.add_task(collection.name, total=len(collection.queries))
    for query_id, text in collection.queries.items():
        found = {name: stage.retrieve(text, DEPTH) for name, stage in stages.items()}
        union = {hit.document.id: hit.document for ranking in found.values() for hit in ranking.hits}
        known = scores.score(query_id, text, union) if union else {}
        for name, ranking in found.items():
            runs[name][0][query_id] = run_of(ranking)
            runs[name][1][query_id] = reranked(ranking, known)
        progress.advance(task)
    qrels = {query_id: dict(grades) for query_id, grades in collection.qrels.items()}
    clean = {
        query_id: grades
        for query_id, grades in qrels.items()
        if not any(grade > 0 and name in seen for name, grade in grades.items())
    }
    rows = []
    for name, (before, after) in runs.items():
        row = {"first_stage": name, **compare(before, after, qrels, name)}
        if len(clean) < len(qrels):
            row["without_training_positives"] = compare(before, after, clean, name)
        rows.append(row)
    return {
        "collection": collection.name,
        "documents": len(collection.documents),
        "stages": rows,
        "pairs": scores.pairs,
        "pairs_per_second": round(scores.pairs / max(scores.seconds, 1e-9), 1),
        "mean_tokens": round(scores.tokens / max(scores.pairs, 1), 1),
        "truncated": scores.truncated,
    }


def compare(before: Run, after: Run, qrels: dict[str, dict[str, int]], name: str) -> dict[str, Any]:
    """Metrics of both orders, and the verdict on the difference."""
    verdict = audit(before, after, qrels, depth=DEPTH, names=(name, "secondpass-mini"))
    means = {
        label: {metric: round(statistics.fmean(evaluate(run, qrels, metric).values()), 4) for metric in METRICS}
        for label, run in (("first", before), ("reranked", after))
    }
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
    }


def training_positives(data: Path, name: str, collection: Collection) -> set[str]:
    """Ids of the collection whose text is a positive of the training set of the same name."""
    path = data / "train" / name / "train.jsonl.gz"
    if not path.exists():
        return set()
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        texts = {" ".join(json.loads(line)["positive"].split()) for line in lines}
    return {document.id for document in collection.documents.values() if " ".join(document.text.split()) in texts}


def senses(model: CrossEncoder) -> dict[str, Any]:
    """Share of the sense pairs in which the right document is above the wrong one; neither found or a tie: half."""
    pairs = sense_pairs()
    documents = list({pair.right.id: pair.right for pair in pairs}.values())
    stages = first_stages(documents)
    stages.pop("hybrid")  # a vote of the two
    right = dict.fromkeys([*stages, "cross-encoder"], 0.0)
    for pair in pairs:
        scores = {
            name: {hit.document.id: hit.score for hit in stage.retrieve(pair.query, len(documents)).hits}
            for name, stage in stages.items()
        }
        answer = model.rerank(as_ranking(pair.query, [pair.wrong, pair.right]))
        scores["cross-encoder"] = {hit.document.id: hit.score for hit in answer.hits}
        for name, found in scores.items():
            good, bad = (_or_least(found.get(one.id)) for one in (pair.right, pair.wrong))
            right[name] += 0.5 if good == bad else float(good > bad)
    return {"pairs": len(pairs), "accuracy": {name: round(count / len(pairs), 4) for name, count in right.items()}}


def main() -> None:
    """Measure every collection that --only names, and write bench/results/quality.json."""
    parser = arguments(__doc__)
    parser.add_argument("--only", default=",".join(COLLECTIONS), help="collections, separated by commas")
    parser.add_argument("--most", type=int, default=600, help="queries a collection, drawn by a seed; 0: all")
    parser.add_argument("--work", type=Path, default=ROOT / ".bench" / "quality")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model = CrossEncoder()
    digest, precision = model.scorer.checkpoint.digest, model.scorer.engine.precision
    probes = senses(model)
    print(f"senses: {probes['accuracy']}")
    rows = []
    with Progress() as progress:
        for name in options.only.split(","):
            split = COLLECTIONS[name]
            collection = read_beir(options.data / "collections" / name, split) if split else demo_collection()
            total = len(collection.queries)
            collection = drawn(collection, options.most)
            scores = ScoreFile(options.work / f"scores-{name}-{digest[:12]}-{precision}.jsonl", model)
            row = measure(collection, scores, training_positives(options.data, name, collection), progress)
            rows.append({**row, "collection": name, "queries_there": total})
            for stage in row["stages"]:
                print(
                    f"{name:12} {stage['first_stage']:7} recall@100 {stage['first']['recall@100']:.3f}  "
                    f"nDCG@10 {stage['first']['ndcg@10']:.3f} -> {stage['reranked']['ndcg@10']:.3f}  "
                    f"[{stage['interval'][0]:+.3f}, {stage['interval'][1]:+.3f}]  {stage['decision']}"
                )
    targets = [
        target(
            f"{row['collection']}, {stage['first_stage']}: reranking does not lower nDCG@10",
            stage["difference"],
            "upper end of the 95 % interval ≥ 0",
            stage["interval"][1] >= 0,
        )
        for row in rows
        for stage in row["stages"]
    ]
    encoder = first_stages([Document("0", "none")])["dense"]
    note = "pairs/s were read in passing, on a machine that may have had other work: no benchmark of speed"
    more = {"encoder": repr(encoder), "senses": probes, "depth": DEPTH, "note": note}
    print(write("quality", rows, targets, model=model.scorer.detail, **more))


if __name__ == "__main__":
    main()
