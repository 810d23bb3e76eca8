"""Three first stages, each with and without a model at depth 100, on test queries; and word senses.

    python bench/quality.py [--data FOLDER] [--model NAME] [--only nq-qed,scifact] [--most 600] [--work .bench]

"reranked" is the order that ships: logits and the first stage's scores together, as the model's calibration weighs
them; "alone" the logits' order. Beside them, over the same pools, the bar that a cross-encoder has to clear: the cosine
of the bi-encoder that it was made from, alone and together with the first stage's scores. Its weight is found as the
calibration's is, on the same half of the dev queries.

Test queries are reported here and used for nothing else. The model's scores are kept in --work, one line
a query, so a run that was killed goes on where it stopped; delete the folder to measure anew. A document that
several first stages find is scored once: a score does not depend on the stage that found its document.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from common import ROOT, arguments, target, write
from secondpass.demo.questions import demo_collection
from secondpass.demo.senses import sense_pairs
from secondpass.embedding import SentenceEncoder
from secondpass.evaluation.audit import audit
from secondpass.evaluation.collections import Collection, read_beir
from secondpass.evaluation.metrics import evaluate
from secondpass.evaluation.trec import Run
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.rerankers.fields import renderer
from secondpass.retrievers.hybrid import Hybrid
from secondpass.scoring.probability import read_calibration, standardised
from secondpass.training.recipe import Base
from secondpass.training.train import base_folder
from secondpass.types import Document, Ranking, Retriever, as_ranking
from secondpass.weights import folder_digest

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
ORDERS = ("first", "cosine", "cosine, fused", "alone", "reranked")
LEAST = {"nq-qed": 0.90, "scifact": 0.72, "cosqa": 0.45, "cranfield": 0.50, "checkthat20": 0.90}  # over BM25
# fitted on the recipe's dev pools as a calibration is: `fit_order` of 20 cosines and BM25's z, .856 / .805
COSINE_WEIGHT = 1.06
AT_ONCE = 256  # documents the base encodes between two words of progress
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


def reranked(ranking: Ranking, scores: Mapping[str, float | None], weight: float = 0.0) -> Hits:
    """What a model makes of a ranking: by its scores and `weight` times the first stage's, in standard deviations; ties
    and unscored documents in their order."""
    z = standardised([hit.first_score for hit in ranking.hits]) if weight else None
    first = np.zeros(len(ranking.hits)) if z is None else weight * z
    fused = {name: _or_least(scores[name]) + more for name, more in zip(ranking.ids, first.tolist(), strict=True)}
    order = sorted(ranking.ids, key=lambda name: -fused[name])
    return [(name, -float(place)) for place, name in enumerate(order)]


def _or_least(score: float | None) -> float:
    return -math.inf if score is None else score


def measure(
    collection: Collection,
    scores: ScoreFile,
    base: Cosines | None,
    weights: Weights,
    seen: set[str],
    progress: Progress,
) -> dict[str, Any]:
    """The numbers of one collection, one row a first stage."""
    stages = first_stages(list(collection.documents.values()))
    runs: dict[str, dict[str, dict[str, Hits]]] = {name: {order: {} for order in ORDERS} for name in stages}
    rankings: dict[str, dict[str, Ranking]] = {name: {} for name in stages}
    task = progress.add_task(collection.name, total=len(collection.queries))
    for query_id, text in collection.queries.items():
        found = {name: stage.retrieve(text, DEPTH) for name, stage in stages.items()}
        union = {hit.document.id: hit.document for ranking in found.values() for hit in ranking.hits}
        known = scores.score(query_id, text, union) if union else {}
        for name, ranking in found.items():
            rankings[name][query_id] = ranking
            runs[name]["first"][query_id] = run_of(ranking)
            runs[name]["alone"][query_id] = reranked(ranking, known)
            runs[name]["reranked"][query_id] = reranked(ranking, known, weights.model)
        progress.advance(task)
    if base is not None:
        near = base(collection, {query_id: scores.known.get(query_id, {}) for query_id in collection.queries}, progress)
        for name, found in rankings.items():
            for query_id, ranking in found.items():
                runs[name]["cosine"][query_id] = reranked(ranking, near[query_id])
                runs[name]["cosine, fused"][query_id] = reranked(ranking, near[query_id], weights.cosine)
    qrels = {query_id: dict(grades) for query_id, grades in collection.qrels.items()}
    clean = {
        query_id: grades
        for query_id, grades in qrels.items()
        if not any(grade > 0 and name in seen for name, grade in grades.items())
    }
    rows = []
    for name, orders in runs.items():
        row = {"first_stage": name, **compare(orders, qrels)}
        if len(clean) < len(qrels):
            row["without_training_positives"] = compare(orders, clean)
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


def compare(orders: Mapping[str, Run], qrels: dict[str, dict[str, int]]) -> dict[str, Any]:
    """Metrics of every order, the verdict on reranking, and what reranking and the model alone gain over others."""
    verdict = audit(orders["first"], orders["reranked"], qrels, depth=DEPTH, names=("first stage", "reranked"))
    means = {
        label: {metric: round(statistics.fmean(evaluate(run, qrels, metric).values()), 4) for metric in METRICS}
        for label, run in orders.items()
        if run
    }
    over = {}
    for one, other in (("alone", "first"), ("alone", "cosine"), ("reranked", "cosine, fused")):
        if orders[other]:
            found = audit(orders[other], orders[one], qrels, depth=DEPTH, names=(other, one))
            over[f"{one} over {other}"] = [round(value, 4) for value in (found.difference, *found.interval)]
    return {
        "queries": verdict.queries,
        **means,
        "over": over,
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


@dataclass(frozen=True, slots=True)
class Weights:
    """What a standard deviation of the first stage's scores counts for, beside a logit and beside 20 cosines."""

    model: float
    cosine: float


@dataclass(frozen=True, slots=True)
class Cosines:
    """The cosines of a base model, of the same texts as the model reads, times 20; kept in `work`."""

    base: Path
    work: Path

    def __call__(
        self, collection: Collection, wanted: Mapping[str, Mapping[str, object]], progress: Progress
    ) -> dict[str, dict[str, float]]:
        """By query and document, as wanted."""
        kept = self.work / f"cosines-{collection.name}-{folder_digest(self.base)[:12]}.json"
        known: dict[str, dict[str, float]] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
        if any(one not in known.get(query_id, {}) for query_id, found in wanted.items() for one in found):
            known = cosines(collection, wanted, self.base, progress)
            kept.write_text(json.dumps(known), encoding="utf-8")
        return {query_id: {one: 20 * near for one, near in found.items()} for query_id, found in known.items()}


def cosines(
    collection: Collection, wanted: Mapping[str, Mapping[str, object]], base: Path, progress: Progress
) -> dict[str, dict[str, float]]:
    """The cosine of every query with every document named for it, the same text read as the model reads."""
    encoder, render = SentenceEncoder(base), renderer()
    ids = sorted({document_id for found in wanted.values() for document_id in found})
    task = progress.add_task(f"{collection.name}, the base's vectors", total=len(ids))
    parts = []
    for begin in range(0, len(ids), AT_ONCE):
        texts = [str(render(collection.documents[one])) for one in ids[begin : begin + AT_ONCE]]
        parts.append(encoder.encode(texts))
        progress.advance(task, len(texts))
    vectors, place = np.concatenate(parts), {document_id: row for row, document_id in enumerate(ids)}
    queries = encoder.encode([collection.queries[query_id] for query_id in wanted], query=True)
    return {
        query_id: {one: round(float(vectors[place[one]] @ vector), 6) for one in found}
        for (query_id, found), vector in zip(wanted.items(), queries, strict=True)
    }


def base_of(model: CrossEncoder) -> Path | None:
    """The folder of the bi-encoder that a shipped model was made from, None where package or torch are missing."""
    lineage = json.loads((model.scorer.checkpoint.folder / "lineage.json").read_text(encoding="utf-8"))
    base = Base(package=lineage["base"]["package"])
    needed = ("torch", "sentence_transformers", base.package.replace("-", "_"))
    return base_folder(base) if all(importlib.util.find_spec(name) for name in needed) else None


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
    parser.add_argument("--model", default="secondpass-mini")
    parser.add_argument("--name", default="quality", help="of the result file")
    parser.add_argument("--only", default=",".join(COLLECTIONS), help="collections, separated by commas")
    parser.add_argument("--most", type=int, default=600, help="queries a collection, drawn by a seed; 0: all")
    parser.add_argument("--work", type=Path, default=ROOT / ".bench" / "quality")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model = CrossEncoder(options.model, fuse=False)
    calibration = read_calibration(model.scorer.checkpoint)
    weights = Weights(calibration.weight if calibration else 0.0, COSINE_WEIGHT)
    base = base_of(model)
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
            seen = training_positives(options.data, name, collection)
            near = Cosines(base, options.work) if base else None
            row = measure(collection, scores, near, weights, seen, progress)
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
    lexical = {row["collection"]: row["stages"][0] for row in rows}
    for name, least in LEAST.items():
        if name in lexical:
            found = lexical[name]["reranked"]["ndcg@10"]
            targets.append(target(f"{name}: nDCG@10 reranked over BM25", found, f"≥ {least}", found >= least))
    for name, stage in lexical.items():
        for what, (difference, _, high) in stage["over"].items():
            if "cosine" in what:
                targets.append(
                    target(f"{name}, over BM25: {what}", difference, "upper end of the 95 % interval ≥ 0", high >= 0)
                )
    encoder = first_stages([Document("0", "none")])["dense"]
    note = "pairs/s were read in passing, on a machine that may have had other work: no benchmark of speed"
    more = {"encoder": repr(encoder), "senses": probes, "depth": DEPTH, "note": note}
    more |= {"weights": asdict(weights)}
    print(write(options.name, rows, targets, model=model.scorer.detail, **more))


if __name__ == "__main__":
    main()
