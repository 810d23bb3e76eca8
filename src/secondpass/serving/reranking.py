"""The rerank routes: from a body in any of the formats to the answer in the same one.

Knows: which path has which format, what a request may be. Refuses to know: the formats (`wire`), who asks (`asking`),
how anything is scored.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from starlette.responses import Response

from secondpass.errors import InputError, SecondpassError
from secondpass.monitoring.request_log import document_digest
from secondpass.serving.asking import Asker, Failure, admitted, body_of, patience_of, told
from secondpass.serving.metrics import Refusal
from secondpass.serving.models import Served
from secondpass.serving.recording import Answered, keep
from secondpass.serving.server import Limits, Server
from secondpass.serving.wire import FORMATS, Answer, Asked, read
from secondpass.types import Document, as_ranking

__all__ = ["PATHS", "check_exits", "check_query", "opened", "rerank", "timing"]

PATHS = {
    "/v1/rerank": "rerank",
    "/v2/rerank": "cohere",
    "/v1/reranking": "mixedbread",
    "/v1/models/rerank": "zeroentropy",
    "/models/rerank": "zeroentropy",
    "/rerank": "tei",  # with `documents` in place of `texts` as /v1/rerank
    "/score": "score",
    "/v1/score": "score",
}
_T = TypeVar("_T")


async def rerank(server: Server, path: str, asker: Asker) -> Response:
    """One request, from its body to its answer."""
    raw = await body_of(asker.request, server.limits.body)
    form = FORMATS[_format(path, raw)]
    try:
        asked, body = read(form, raw)
        _check(asked, server.limits)
        patience = patience_of(server, asker.request, asked.deadline_ms)
    except InputError as error:
        raise Failure(422 if form.name == "tei" else 400, str(error)) from error
    reading = time.perf_counter() - asker.began
    served, ranking = server.served(asked.model), as_ranking(asked.query, asked.documents, asker.id)
    texts = [document.text for document in asked.documents]
    size = await opened(server, partial(served.estimate, texts), at_once=served.current is not None)
    check_exits(served, asked.go_on)
    ranked = await admitted(
        server, asker, size, patience, lambda until: served.rerank(ranking, deadline=until, go_on=asked.go_on)
    )
    took = time.perf_counter() - asker.began
    trace = ranked.trace[-1]
    keep(server, asker, Answered(path, ranking, ranked, ranked, [(served.name, trace)], reading, took, patience, _name))
    asker.model, asker.digest = served.name, str(trace.detail.get("digest", ""))
    asker.query, asker.texts = asked.query, texts
    asker.documents, asker.scored = len(texts), trace.pairs_scored
    asker.span.stages(ranked.trace)
    answer = Answer(ranked, asker.id, served.name, took)
    return told(form.written(asked, answer, body), headers=timing(asker, reading, trace.seconds, took))


async def opened(server: Server, work: Callable[[], _T], *, at_once: bool) -> _T:
    """`work`, in a thread unless `at_once`: it may read an index, or open a model first, which takes seconds.

    Raises Failure, 503, where it cannot be done now.
    """
    if at_once:
        return work()
    try:
        return await asyncio.get_running_loop().run_in_executor(server.threads, work)
    except SecondpassError as error:
        raise Failure(503, str(error), "Unhealthy", Refusal.UNREADY, **{"Retry-After": "10"}) from error


def timing(asker: Asker, reading: float, reranking: float, took: float) -> dict[str, str]:
    """Headers of an answer: where its time went, in milliseconds, and its id."""
    parts = {"read": reading, "rerank": reranking, "total": took}
    told_parts = ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in parts.items())
    return {"Server-Timing": told_parts, "x-request-id": asker.id}


def _name(document: Document) -> str:
    """The id that a document came with; where it came with none, a digest of its text."""
    given = document.metadata.get("id")
    return document_digest(str(document.text)) if given is None else str(given)


def check_query(query: str, limits: Limits) -> None:
    """Raises InputError for a query that is empty or too long."""
    if not query.strip():
        raise InputError("query is empty")
    if len(query) > limits.query:
        raise InputError(f"query has {len(query):,} characters; {limits.query:,} are the most")


def check_exits(served: Served, go_on: float | None) -> None:
    """Raises Failure, 400, where an open model is to stop early and cannot."""
    if go_on not in (None, 1) and not served.exits:
        raise Failure(400, f"{served.name} cannot stop early as it is set here; leave go_on out")


def _format(path: str, raw: bytes) -> str:
    """Whose format a body is: two paths are used by more than one API."""
    if path == "/rerank" and b'"documents"' in raw and b'"texts"' not in raw:
        return "rerank"
    return PATHS[path]


def _check(asked: Asked, limits: Limits) -> None:
    check_query(asked.query, limits)
    if len(asked.documents) > limits.documents:
        raise InputError(f"{len(asked.documents):,} documents; {limits.documents:,} a request are the most")
    for document in asked.documents:
        if isinstance(document.text, str) and len(document.text) > limits.characters:
            count = f"{len(document.text):,} characters; {limits.characters:,} are the most"
            raise InputError(f"document {document.id} has {count}")
