"""First stages on 100,000 real passages, and the dense scan over a million vectors: time to index, to answer, memory.

    python bench/retrievers.py [--data FOLDER] [--documents 100000] [--million 1000000] [--queries 300] [--work .bench]

Passages of about 100 words are cut from the training sets, drawn by a seed. Every measurement runs in a
process of its own, one after the other; the index is opened from its folder, memory-mapped, and the first
twenty queries warm it up. bm25s (a library that builds its index once and cannot change it) is measured beside BM25
on the same words. The resident set is the process's peak, file pages of the maps that were touched included.
"""

from __future__ import annotations

import gzip
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from common import ROOT, arguments, target, write
from secondpass.embedding import open_encoder
from secondpass.retrievers.bm25 import BM25, Postings
from secondpass.retrievers.dense import Dense, Vectors
from secondpass.retrievers.hybrid import Hybrid
from secondpass.retrievers.index import Index
from secondpass.types import Document

SEED = 11
WORDS = 100  # a passage
WARM = 20  # queries that are not counted


def passages(data: Path, count: int) -> Iterator[Document]:
    """`count` passages of at most WORDS words, from all sets, in an order drawn by SEED."""
    cut: list[str] = []
    for path in sorted((data / "train").glob("*/train.jsonl.gz")):
        seen: set[str] = set()
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                text = row.get("positive")
                if isinstance(text, str) and text not in seen:
                    seen.add(text)
                    words = text.split()
                    cut += [" ".join(words[at : at + WORDS]) for at in range(0, len(words), WORDS)]
    random.Random(SEED).shuffle(cut)
    yield from (Document(f"p{number}", text) for number, text in enumerate(cut[:count]))


def questions(data: Path, count: int) -> list[str]:
    """Real queries of search engines and forums."""
    asked: list[str] = []
    for name in ("nq-qed", "boolq", "lfrqa", "stackexchange-small"):
        with gzip.open(data / "train" / name / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
            asked += [json.loads(line)["query"] for line in lines]
    return random.Random(SEED).sample(asked, count + WARM)


def timed(answer: Callable[[str], Any], queries: list[str]) -> dict[str, float]:
    """Milliseconds a query."""
    took = []
    for query in queries:
        began = time.perf_counter()
        answer(query)
        took.append(1000 * (time.perf_counter() - began))
    took = sorted(took[WARM:])
    return {
        "median_ms": round(statistics.median(took), 2),
        "p95_ms": round(took[int(0.95 * len(took))], 2),
        "p99_ms": round(took[int(0.99 * len(took))], 2),
    }


def peak_mb() -> float:
    """The peak resident set of this process, in MB (Linux counts it in kB)."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, 1)


# Measurements: each is one process, and prints one JSON object on its last line


def build(options: Any) -> dict[str, Any]:
    """Both parts of one index, written as it grows."""
    documents = list(passages(options.data, options.documents))
    words = statistics.fmean(len(document.text.split()) for document in documents)
    before = peak_mb()
    began = time.perf_counter()
    with Progress() as progress:
        task = progress.add_task("indexing", total=len(documents))
        index = Index.build(
            documents,
            [Postings(), Vectors(open_encoder())],
            folder=options.work / "index",
            on_progress=lambda done: progress.update(task, completed=done),
        )
    seconds = time.perf_counter() - began
    size = sum(file.stat().st_size for file in (options.work / "index").rglob("*") if file.is_file())
    return {
        "what": "index with words and vectors",
        "documents": len(index),
        "mean_words": round(words, 1),
        "seconds": round(seconds, 1),
        "folder_mb": round(size / 1e6, 1),
        "peak_mb": peak_mb(),
        "peak_mb_before": before,
    }


def answers(options: Any, name: str) -> dict[str, Any]:
    """One retriever, opened from the folder."""
    opened = {"bm25": BM25, "dense": Dense, "hybrid": Hybrid}[name]
    began = time.perf_counter()
    retriever: Any = opened.open(options.work / "index", verify=False)  # type: ignore[attr-defined]
    retriever.retrieve("a first question", 100)
    seconds = time.perf_counter() - began
    times = timed(lambda query: retriever.retrieve(query, 100), questions(options.data, options.queries))
    return {"what": f"{name}, k = 100", **times, "open_and_first_answer_s": round(seconds, 2), "peak_mb": peak_mb()}


def edits(options: Any) -> dict[str, Any]:
    """One document more, durable on disk; 100 times."""
    index = Index.open(options.work / "index", verify=False)
    took = []
    for number in range(100):
        began = time.perf_counter()
        index.add([Document(f"new{number}", f"a document that came later, number {number}")])
        took.append(1000 * (time.perf_counter() - began))
    began = time.perf_counter()
    index.delete([f"new{number}" for number in range(100)])
    return {
        "what": "add one document, synced to disk",
        "median_ms": round(statistics.median(took), 1),
        "p99_ms": round(sorted(took)[98], 1),
        "delete_100_ms": round(1000 * (time.perf_counter() - began), 1),
        "peak_mb": peak_mb(),
    }


def peer(options: Any) -> dict[str, Any]:
    """bm25s over the same words, in memory."""
    import bm25s
    import Stemmer

    texts = [document.text for document in passages(options.data, options.documents)]
    stemmer = Stemmer.Stemmer("english")
    began = time.perf_counter()
    engine = bm25s.BM25(method="lucene", k1=0.9, b=0.4, backend="numpy")
    engine.index(bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False), show_progress=False)
    seconds = time.perf_counter() - began

    def answer(query: str) -> Any:
        tokens = bm25s.tokenize([query], stopwords="en", stemmer=stemmer, show_progress=False)
        return engine.retrieve(tokens, k=100, show_progress=False)

    times = timed(answer, questions(options.data, options.queries))
    return {
        "what": "bm25s (numpy), k = 100, ids only",
        **times,
        "index_seconds": round(seconds, 1),
        "peak_mb": peak_mb(),
    }


def million(options: Any) -> dict[str, Any]:
    """The exact scan over int8 vectors of 256 dimensions, memory-mapped; documents with one word each."""

    class Random:
        """Vectors of the right size; what they mean does not matter to the time."""

        name, digest, dimensions = "random", "0", 256

        def __init__(self) -> None:
            self._draw = np.random.default_rng(SEED)

        def encode(self, texts: Any, *, query: bool = False) -> Any:
            rows = self._draw.standard_normal((len(texts), self.dimensions), dtype=np.float32)
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    folder, encoder = options.work / "million", Random()
    Dense.build((Document(str(i), "x") for i in range(options.million)), encoder, folder=folder)
    row: dict[str, Any] = {"what": f"dense scan, {options.million:,} × 256 int8, k = 100"}
    for threads in (1, 2):
        dense = Dense.open(folder, encoder=encoder, verify=False, threads=threads)
        times = timed(lambda query, dense=dense: dense.retrieve(query, 100), ["x"] * (WARM + 60))  # type: ignore[misc]
        row |= {f"{name}_{threads}_threads": value for name, value in times.items()}
    return {**row, "peak_mb": peak_mb()}


STEPS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "build": build,
    "bm25": lambda options: answers(options, "bm25"),
    "dense": lambda options: answers(options, "dense"),
    "hybrid": lambda options: answers(options, "hybrid"),
    "edits": edits,
    "bm25s": peer,
    "million": million,
}


def main() -> None:
    """Run every step in a process of its own, and write bench/results/retrievers.json."""
    parser = arguments(__doc__)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--million", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--work", type=Path, default=ROOT / ".bench" / "retrievers")
    parser.add_argument("--step", choices=STEPS, help="only this one, in this process")
    options = parser.parse_args()
    if options.step:
        print(json.dumps(STEPS[options.step](options)))
        return
    rows: dict[str, dict[str, Any]] = {}
    for step in STEPS:
        command = [sys.executable, __file__, *sys.argv[1:], "--step", step]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows[step] = json.loads(found.stdout.splitlines()[-1])
        print(json.dumps(rows[step]))
    targets = [
        target(
            "100,000 documents are indexed", rows["build"]["seconds"], "under 120 s", rows["build"]["seconds"] < 120
        ),
        *(
            target(f"{name} answers", rows[name]["median_ms"], "median under 20 ms", rows[name]["median_ms"] < 20)
            for name in ("bm25", "dense")
        ),
        target(
            "dense scan over a million vectors",
            rows["million"]["median_ms_2_threads"],
            "median under 60 ms",
            rows["million"]["median_ms_2_threads"] < 60,
        ),
    ]
    print(write("retrievers", list(rows.values()), targets))


if __name__ == "__main__":
    main()
