"""What there is to rerank, as a stream: requests in JSON lines or Parquet, or a TREC run with its collection.

Knows: the keys of a request, and how a run's ids become texts. Refuses to know: files, answers,
and how anything is reranked. Every error names file and line; nothing grows with the stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from secondpass.errors import CollectionError, InputError
from secondpass.evaluation.lines import json_objects
from secondpass.evaluation.trec import read_run_by_query
from secondpass.extras import require
from secondpass.types import Document, Hit, Ranking, Status, as_ranking

__all__ = ["parquet_rows", "read_parquet", "read_rankings", "read_requests"]

_ROWS = 64  # of Parquet that are unpacked at a time


def read_requests(lines: Iterable[bytes], name: object, first: int = 1) -> Iterator[Ranking]:
    """One first-stage ranking a line of {"query": …, "documents": [text or {…}], "query_id"?: …}.

    A request without query_id gets its line number; `first` is that of the first line.
    """
    for where, record in json_objects(lines, name, first):
        yield _request(record, where)


def read_parquet(path: Path, start: int = 0, end: int | None = None) -> Iterator[Ranking]:
    """The same of the rows from `start` up to `end` of a Parquet file, with columns of these names; null is not there.

    A request without query_id gets the number of its row, from 1. Needs the extra `parquet`. Raises InputError where
    the file cannot be read, and as `read_requests` does, with the row.
    """
    with _parquet(path) as file:
        row = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row + rows <= start or (end is not None and row >= end):
                row += rows  # what is not asked for is not unpacked
                continue
            for batch in file.iter_batches(_ROWS, row_groups=[group]):
                for record in batch.to_pylist():
                    row += 1
                    if row > start and (end is None or row <= end):
                        yield _request(_without_nulls(record), f"{path}:{row}")


def parquet_rows(path: Path) -> int:
    """How many rows a Parquet file has. Raises as `read_parquet`."""
    with _parquet(path) as file:
        return int(file.metadata.num_rows)


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    pyarrow = require("pyarrow", extra="parquet", purpose="Parquet")
    parquet = require("pyarrow.parquet", extra="parquet", purpose="Parquet")
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({error}); check the file") from error


def _without_nulls(record: Mapping[str, Any]) -> dict[str, Any]:
    """A row, its columns and those of its documents only where they have a value."""
    row = {name: value for name, value in record.items() if value is not None}
    documents = row.get("documents")
    if isinstance(documents, list):
        row["documents"] = [_without_nulls(one) if isinstance(one, dict) else one for one in documents]
    return row


def _request(record: Mapping[str, Any], where: str) -> Ranking:
    """A request as a ranking. `where` ends in the number of its line."""
    unknown = sorted(record.keys() - {"query", "query_id", "documents"})
    query, documents = record.get("query"), record.get("documents")
    if unknown or not isinstance(query, str) or not isinstance(documents, list):
        what = f"unknown key {unknown[0]!r}" if unknown else "no 'query' (text) or no 'documents' (a list)"
        raise InputError(f'{where}: {what}; a request is {{"query": …, "documents": […], "query_id": …}}')
    query_id = record.get("query_id", where.rpartition(":")[2])
    if not isinstance(query_id, str | int) or isinstance(query_id, bool):
        raise InputError(f"{where}: query_id is a {type(query_id).__name__}; give text or a whole number")
    try:
        return as_ranking(query, documents, str(query_id))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def read_rankings(
    lines: Iterable[bytes],
    name: object,
    queries: Mapping[str, str],
    documents: Mapping[str, Document],
    first: int = 1,
) -> Iterator[Ranking]:
    """One ranking per query of the run, in the order of its first line, hits as trec_eval orders them.

    `first` is the number of the first line. Of the run one line is read ahead.

    Raises CollectionError, with the line, as `read_run_by_query` does and for an id that the collection lacks.
    """
    for rows in read_run_by_query(lines, name, first):
        query_id = rows[0].query_id
        if query_id not in queries:
            line = min(row.line for row in rows)
            raise CollectionError(f"{name}:{line}: the collection has no query {query_id!r}; is it the right one?")
        hits: list[Hit] = []
        for rank, row in enumerate(rows, 1):
            if row.doc_id not in documents:
                raise CollectionError(
                    f"{name}:{row.line}: the collection has no document {row.doc_id!r}; is it the right one?"
                )
            hits.append(Hit(documents[row.doc_id], row.score, Status.RETRIEVED, row.score, rank))
        yield Ranking(queries[query_id], tuple(hits), (), query_id)
