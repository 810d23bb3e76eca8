"""The expensive half of claims.py: rankings, scores and times, each kept in a folder and never measured twice.

Knows: collections, first stages, models, clocks. Refuses to know: what any of it says about a claim.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from quality import COLLECTIONS, DEPTH, ScoreFile, cosines, drawn, first_stages, training_positives
from secondpass.cli.bench_texts import FreshTexts
from secondpass.demo.questions import demo_collection
from secondpass.evaluation.collections import Collection, read_beir
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.types import Document, as_ranking

CANDIDATES = (10, 20, 50, 100, 200, 300, 500)
TOKENS = (32, 48, 64, 96, 128, 192, 256, 384, 512)  # as far as the model reads
PAIRS, PAIR_TOKENS = 100, 96
VECTORS, DIMENSIONS = (100, 100_000), (256, 384)  # the shipped static model's width, and the cross-encoder's own
QUERY_TOKENS, SPECIAL_TOKENS = 8, 3

TRAINED = {"nq-qed": "nq-qed", "scifact": "scifact-train"}  # collection: the training set of its domain (lineage.json)

Ids = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Pools:
    """One collection: judgments, and per first stage and query the ids it found, best first.

    `scores` are the shipped model's logits by query and document, of all that any first stage found (None: it could
    not score it); `base` the cosines of the model it was fine-tuned from, None where that was not measured.
    `seen` are the queries with a relevant document whose text was a positive of the model's training. `milliseconds`
    are medians per query of each first stage, and the mean per pair of the model ("pair").
    """

    name: str
    queries_there: int
    documents: int
    qrels: dict[str, dict[str, int]]
    runs: dict[str, Ids]
    scores: dict[str, dict[str, float | None]]
    base: dict[str, dict[str, float]] | None
    seen: list[str]
    milliseconds: dict[str, float]


def pools_file(name: str, most: int, work: Path, model: CrossEncoder) -> Path:
    """Where a collection as measured is kept."""
    return work / f"pools-{name}-{_by(model)}-{most}.json"


def times_file(work: Path, model: CrossEncoder, rounds: int) -> Path:
    """Where times are kept."""
    return work / f"times-{_by(model)}-{rounds}.json"


def _by(model: CrossEncoder) -> str:
    detail = model.scorer.detail
    return f"{detail['digest'][:12]}-{detail['precision']}"


def pools_of(
    name: str, data: Path, most: int, work: Path, model: CrossEncoder, base: Path | None, progress: Progress
) -> Pools:
    """The collection as measured, from the folder where it was measured before with as many queries and these models.

    The base's cosines are added to what was measured without them.
    """
    kept = pools_file(name, most, work, model)
    kept_base = work / f"{kept.stem}-base.json"
    split = COLLECTIONS[name]
    collection: Collection | None = None
    if not kept.exists():
        collection = read_beir(data / "collections" / name, split) if split else demo_collection()
        write_json(kept, asdict(_measured(name, collection, data, most, work, model, progress)))
    row = json.loads(kept.read_text(encoding="utf-8"))
    if base is not None and not kept_base.exists():
        collection = collection or (read_beir(data / "collections" / name, split) if split else demo_collection())
        write_json(kept_base, cosines(collection, row["scores"], base, progress))
    if kept_base.exists():
        row["base"] = json.loads(kept_base.read_text(encoding="utf-8"))
    return Pools(**row)


def _measured(
    name: str, whole: Collection, data: Path, most: int, work: Path, model: CrossEncoder, progress: Progress
) -> Pools:
    collection = drawn(whole, most)
    positives = training_positives(data, TRAINED[name], collection) if name in TRAINED else set()
    stages = first_stages(list(collection.documents.values()))
    scores = ScoreFile(work / f"scores-{name}-{_by(model)}.jsonl", model)
    runs: dict[str, Ids] = {stage: {} for stage in stages}
    seconds: dict[str, list[float]] = {stage: [] for stage in stages}
    logits: dict[str, dict[str, float | None]] = {}
    task = progress.add_task(name, total=len(collection.queries))
    for query_id, text in collection.queries.items():
        union: dict[str, Document] = {}
        for stage, retriever in stages.items():
            began = time.perf_counter()
            found = retriever.retrieve(text, DEPTH)
            seconds[stage].append(time.perf_counter() - began)
            runs[stage][query_id] = list(found.ids)
            union |= {document.id: document for document in found.documents}
        known = scores.score(query_id, text, union) if union else {}
        logits[query_id] = {document_id: known[document_id] for document_id in union}
        progress.advance(task)
    return Pools(
        name=name,
        queries_there=len(whole.queries),
        documents=len(collection.documents),
        qrels={query_id: dict(collection.qrels[query_id]) for query_id in collection.queries},
        runs=runs,
        scores=logits,
        base=None,
        seen=[
            query_id
            for query_id, grades in collection.qrels.items()
            if any(grade > 0 and document_id in positives for document_id, grade in grades.items())
        ],
        milliseconds={stage: 1000 * statistics.median(times) for stage, times in seconds.items()}
        | {"pair": 1000 * scores.seconds / max(scores.pairs, 1)},
    )


def times_of(work: Path, model: CrossEncoder, rounds: int) -> dict[str, Any]:
    """What `secondpass bench` measures, and pairs beside dot products; kept like the rest.

    `bench` is that command's JSON; `pairs` seconds per pair by round, of texts new to the tokenizer ("raw") and of the
    same documents under a new query, their tokens kept ("kept"); `products` seconds per dot product by round.
    """
    kept = times_file(work, model, rounds)
    if not kept.exists():
        longest = model.scorer.max_length
        tokens = sorted({min(length, longest) for length in TOKENS})
        command = [sys.executable, "-m", "secondpass", "bench", "--json", "--rounds", str(rounds)]
        command += ["--candidates", ",".join(map(str, CANDIDATES)), "--tokens", ",".join(map(str, tokens))]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        encoder = model.scorer.checkpoint.encoder
        write_json(
            kept,
            {
                "bench": json.loads(done.stdout),
                "width": encoder.hidden,
                "max_length": longest,
                **_pairs_and_products(model, rounds),
            },
        )
    return dict(json.loads(kept.read_text(encoding="utf-8")))


def _pairs_and_products(model: CrossEncoder, rounds: int) -> dict[str, Any]:
    """Every kind once a round in an order of its own, after a round that is not counted."""
    fresh, draw = FreshTexts(model.scorer.checkpoint.tokenizer), random.Random(0)
    rng = np.random.default_rng(0)
    products = {
        (count, width): (rng.standard_normal((count, width), dtype=np.float32), rng.standard_normal(width, np.float32))
        for count in VECTORS
        for width in DIMENSIONS
    }
    pairs: dict[str, list[float]] = {"raw": [], "kept": []}
    seconds: dict[tuple[int, int], list[float]] = {key: [] for key in products}
    for number in range(rounds + 1):
        kinds: list[Callable[[], None]] = [lambda: _time_pairs(model, fresh, pairs)]
        kinds += [lambda key=key: seconds[key].append(_time_product(*products[key])) for key in products]  # type: ignore[misc]
        draw.shuffle(kinds)
        for kind in kinds:
            kind()
        if not number:
            for times in [*pairs.values(), *seconds.values()]:
                times.clear()
    return {
        "pair_tokens": PAIR_TOKENS,
        "pairs": pairs,
        "products": [
            {"documents": count, "dimensions": width, "seconds": times} for (count, width), times in seconds.items()
        ],
    }


def _time_pairs(model: CrossEncoder, fresh: FreshTexts, pairs: dict[str, list[float]]) -> None:
    texts = fresh.of_length(PAIRS, PAIR_TOKENS - QUERY_TOKENS - SPECIAL_TOKENS)
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    for kind, query in zip(("raw", "kept"), fresh.of_length(2, QUERY_TOKENS), strict=True):
        ranking = as_ranking(query, documents)
        began = time.perf_counter()
        model.rerank(ranking)
        pairs[kind].append((time.perf_counter() - began) / PAIRS)


def _time_product(matrix: NDArray[np.float32], vector: NDArray[np.float32]) -> float:
    """Seconds per row: as many products as take some milliseconds, so that the clock does not matter."""
    times = max(2_000_000 // matrix.size, 1) * 4
    began = time.perf_counter()
    for _ in range(times):
        matrix @ vector
    return (time.perf_counter() - began) / times / len(matrix)


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    aside.replace(path)


def names_known(given: str) -> Sequence[str]:
    """Collections by name; exits with those there are where one is unknown."""
    names = given.split(",")
    if unknown := [name for name in names if name not in COLLECTIONS]:
        sys.exit(f"unknown collections {', '.join(unknown)}; there are {', '.join(COLLECTIONS)}")
    return names
