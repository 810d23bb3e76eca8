"""A pool: which documents of which queries people should judge, drawn so that the mean over them means something.

Knows: the draw, and pool.jsonl (how it was drawn, then one line a query with the texts of its candidates, so that
judging needs nothing else). Refuses to know: grades, screens, who ranked what.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from secondpass.errors import CollectionError, InputError
from secondpass.evaluation.headroom import top
from secondpass.evaluation.lines import json_objects, opened, replacing
from secondpass.evaluation.trec import Run
from secondpass.evaluation.wording import counted
from secondpass.types import Document

__all__ = ["Pair", "Pool", "Pooled", "draw_pool", "draw_queries", "read_pool", "write_pool"]

_SCHEMA = 1
_SAMPLING = "uniform without replacement: the queries whose BLAKE2b of seed and id is smallest, in that order"

Pair = tuple[str, str]
"""Query id and document id."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """A query and its candidates, in an order that tells nothing of who ranked them."""

    query_id: str
    query: str
    documents: tuple[Document, ...]


@dataclass(frozen=True, slots=True)
class Pool:
    """What is to be judged, and how it was drawn: the first `depth` of each of `runs`, `queries` out of `drawn_from`.

    Queries stand in the order of the draw, so that the first so many of them are a uniform sample as well.
    """

    queries: tuple[Pooled, ...]
    drawn_from: int
    runs: tuple[str, ...]
    depth: int
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Every query with each of its documents, in the order of judging."""
        return tuple((query.query_id, document.id) for query in self.queries for document in query.documents)


def draw_pool(
    queries: Mapping[str, str],
    runs: Mapping[str, Run],
    documents: Mapping[str, Document],
    *,
    sample: int = 50,
    depth: int = 10,
    seed: int = 0,
) -> Pool:
    """A uniform random sample of `queries`, each with the first `depth` documents of every run.

    The same seed draws the same queries first whatever `sample` is: a larger pool holds the smaller one, so that
    its judgments stay good. What cannot be judged is counted in the pool's notes.

    Raises InputError where there is nothing to draw from, or `sample` or `depth` is below 1.
    """
    if sample < 1 or depth < 1:
        raise InputError(f"sample is {sample} and depth is {depth}; give at least 1 query and 1 document")
    if not queries or not runs:
        raise InputError("a pool needs queries and at least one run of them")
    drawn = draw_queries(queries, sample, seed)
    pooled = []
    missing = empty = 0
    for query_id in drawn:
        found = {doc_id for run in runs.values() for doc_id in top(run, query_id, depth)}
        known = sorted(found & documents.keys(), key=lambda doc_id: _lot(seed, query_id, doc_id))
        missing += len(found) - len(known)
        empty += not known
        pooled.append(Pooled(query_id, queries[query_id], tuple(_readable(documents[doc_id]) for doc_id in known)))
    notes = []
    if len(queries) < sample:
        notes.append(f"there are only {counted(len(queries), 'query', 'queries')}: all are in the pool")
    if empty:
        notes.append(
            f"{counted(empty, 'drawn query', 'drawn queries')} without candidates: nothing to judge; missing in "
            "exported judgments, although every system would score 0 there"
        )
    if missing:
        notes.append(
            f"{counted(missing, 'candidate')} that the collection lacks left out: not judged, a metric will count each "
            "as not relevant"
        )
    return Pool(tuple(pooled), len(queries), tuple(runs), depth, seed, tuple(notes))


def draw_queries(queries: Iterable[str], sample: int, seed: int = 0) -> list[str]:
    """The ids of a uniform random sample of queries, in the order of the draw; those that `draw_pool` draws."""
    return sorted(queries, key=lambda query_id: _lot(seed, query_id))[:sample]


def write_pool(pool: Pool, folder: str | Path) -> None:
    """Write `pool` as a folder to judge in; judgments that are there stay.

    Raises InputError where documents were judged there and `pool` does not hold all of the pool that is there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    judgments = folder / "judgments.jsonl"
    if judgments.exists() and judgments.stat().st_size and not set(read_pool(folder).pairs) <= set(pool.pairs):
        raise InputError(
            f"{folder}: holds judgments of another pool; give another folder, or the queries, runs and seed of that "
            "pool, with a sample and a depth that are at least as large"
        )
    header = {
        "pool": _SCHEMA,
        "sampling": _SAMPLING,
        "seed": pool.seed,
        "queries": len(pool.queries),
        "drawn_from": pool.drawn_from,
        "runs": pool.runs,
        "depth": pool.depth,
        "notes": pool.notes,
    }
    with replacing(folder / "pool.jsonl") as stream:
        stream.write(msgspec.json.encode(header) + b"\n")
        for query in pool.queries:
            candidates = [{"id": one.id, "title": one.title, "text": one.text} for one in query.documents]
            record = {"query_id": query.query_id, "query": query.query, "documents": candidates}
            stream.write(msgspec.json.encode(record) + b"\n")


def read_pool(folder: str | Path) -> Pool:
    """The pool of a folder. Raises CollectionError where there is none, or, with file and line, for what is not one."""
    path = Path(folder) / "pool.jsonl"
    if not path.is_file():
        raise CollectionError(f"{folder}: no pool to judge (pool.jsonl); draw one with `secondpass audit --sample 50`")
    header: _Header | None = None
    queries: list[Pooled] = []
    with opened(path) as stream:
        for where, record in json_objects(stream, path):
            try:
                if header is None:
                    header = msgspec.convert(record, _Header)
                else:
                    queries.append(msgspec.convert(record, Pooled))
            except msgspec.ValidationError as error:
                raise CollectionError(f"{where}: not the line of a pool ({error}); draw the pool again") from error
    if header is None or header.pool != _SCHEMA or header.queries != len(queries):
        raise CollectionError(
            f"{path}: not all of a pool of version {_SCHEMA} (it begins with {header}, then {len(queries)} queries); "
            "draw the pool again"
        )
    return Pool(tuple(queries), header.drawn_from, header.runs, header.depth, header.seed, header.notes)


@dataclass(frozen=True, slots=True)
class _Header:
    """The first line of pool.jsonl, as far as it is read."""

    pool: int
    seed: int
    queries: int
    drawn_from: int
    runs: tuple[str, ...]
    depth: int
    notes: tuple[str, ...]


def _lot(seed: int, *ids: str) -> bytes:
    """What decides a draw: nothing but the seed and the ids, and alike on every machine and in every version."""
    return blake2b(msgspec.json.encode([seed, *ids]), digest_size=16).digest()


def _readable(document: Document) -> Document:
    text: Any = document.text
    return Document(document.id, text if isinstance(text, str) else "", document.title)
