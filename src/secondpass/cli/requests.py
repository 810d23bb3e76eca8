"""What there is to rerank, as a stream: requests in JSON lines, or a TREC run with its collection.

Knows: the keys of a request, and how a run's ids become texts. Refuses to know: files, answers,
and how anything is reranked. Every error names file and line; nothing grows with the stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from secondpass.errors import CollectionError, InputError
from secondpass.evaluation.lines import json_objects
from secondpass.evaluation.trec import read_run_by_query
from secondpass.types import Document, Hit, Ranking, Status, as_ranking

__all__ = ["read_rankings", "read_requests"]


def read_requests(lines: Iterable[bytes], name: object) -> Iterator[Ranking]:
    """One first-stage ranking a line of {"query": …, "documents": [text or {…}], "query_id"?: …}.

    A request without query_id gets its line number.
    """
    for where, record in json_objects(lines, name):
        unknown = sorted(record.keys() - {"query", "query_id", "documents"})
        query, documents = record.get("query"), record.get("documents")
        if unknown or not isinstance(query, str) or not isinstance(documents, list):
            what = f"unknown key {unknown[0]!r}" if unknown else "no 'query' (text) or no 'documents' (a list)"
            raise InputError(f'{where}: {what}; a request is {{"query": …, "documents": […], "query_id": …}}')
        query_id = record.get("query_id", where.rpartition(":")[2])
        if not isinstance(query_id, str | int) or isinstance(query_id, bool):
            raise InputError(f"{where}: query_id is a {type(query_id).__name__}; give text or a whole number")
        try:
            yield as_ranking(query, documents, str(query_id))
        except InputError as error:
            raise InputError(f"{where}: {error}") from error


def read_rankings(
    lines: Iterable[bytes], name: object, queries: Mapping[str, str], documents: Mapping[str, Document]
) -> Iterator[Ranking]:
    """One ranking per query of the run, in the order of its first line, hits as trec_eval orders them.

    Raises CollectionError, with the line, as `read_run_by_query` does and for an id that the collection lacks.
    """
    for rows in read_run_by_query(lines, name):
        query_id = rows[0].query_id
        if query_id not in queries:
            first = min(row.line for row in rows)
            raise CollectionError(f"{name}:{first}: the collection has no query {query_id!r}; is it the right one?")
        hits: list[Hit] = []
        for rank, row in enumerate(rows, 1):
            if row.doc_id not in documents:
                raise CollectionError(
                    f"{name}:{row.line}: the collection has no document {row.doc_id!r}; is it the right one?"
                )
            hits.append(Hit(documents[row.doc_id], row.score, Status.RETRIEVED, row.score, rank))
        yield Ranking(queries[query_id], tuple(hits), (), query_id)
