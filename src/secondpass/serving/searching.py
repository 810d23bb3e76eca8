"""The routes of our own: a search through the whole cascade, and what people clicked.

Knows: their bodies and answers. Refuses to know: who asks (`asking`), how anything is found or scored.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, TypeVar

import msgspec
from starlette.responses import Response

from secondpass.cascade import Cascade
from secondpass.errors import InputError
from secondpass.monitoring.request_log import Clicked as Outcome
from secondpass.serving.asking import Asker, Failure, admitted, body_of, deadline_of, patience_of, told
from secondpass.serving.models import Served
from secondpass.serving.recording import Answered, keep
from secondpass.serving.reranking import check_exits, check_query, opened, timing
from secondpass.serving.server import Server
from secondpass.serving.wire import GoOn, are_relevances, relevances, step
from secondpass.types import NEVER, Deadline, Hit, Ranking, Reranker, StageTrace

__all__ = ["Clicked", "Search", "click", "decoded", "search"]

MOST = 1000  # results a search may ask for
SMALL = 65_536  # bytes of a click
_STATUS = {Outcome.UNKNOWN_REQUEST: 404, Outcome.NOT_SHOWN: 404, Outcome.TOO_MANY: 429}
_T = TypeVar("_T")


class Search(msgspec.Struct):
    """`POST /v1/search`: the best `top_k` documents of the index, texts included unless they are not wanted.

    `depth`, `model` and `go_on` are for the last stage, in place of what the settings say: how many candidates it
    reranks, which of the served models it is, and which share of them passes the upper layers of one that can stop
    early.
    """

    query: str
    top_k: Annotated[int, msgspec.Meta(ge=1, le=MOST)] = 10
    depth: Annotated[int, msgspec.Meta(ge=1, le=MOST)] | None = None
    model: str | None = None
    go_on: GoOn | None = None
    deadline_ms: Annotated[float, msgspec.Meta(ge=0.0)] | None = None
    return_documents: bool = True


class Clicked(msgspec.Struct):
    """`POST /v1/clicks`: what somebody chose of an answer, by its index in the request or by the document's id."""

    request_id: str
    index: Annotated[int, msgspec.Meta(ge=0)] | None = None
    document_id: str | None = None
    kind: str = "click"


@dataclass(frozen=True, slots=True)
class _Stopping:
    """A served model that stops early, for one request."""

    served: Served
    go_on: float

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        return self.served.rerank(ranking, deadline=deadline, go_on=self.go_on)


def _served(reranker: Reranker) -> Served | None:
    """The model that a stage asks; None where it is none of this server's."""
    if isinstance(reranker, _Stopping):
        return reranker.served
    return reranker if isinstance(reranker, Served) else None


def _as_wanted(server: Server, cascade: Cascade, wanted: Search) -> Cascade:
    """The cascade, its last stage as this request wants it. Raises InputError for what it has not."""
    if (wanted.depth, wanted.model, wanted.go_on) == (None, None, None):
        return cascade
    if not cascade.stages:
        raise InputError("the settings have no stage that reranks; leave depth, model and go_on out")
    *before, last = cascade.stages
    reranker = last.reranker
    if wanted.model is not None:
        if wanted.model not in server.models:
            raise InputError(f"model: no {wanted.model!r} here; served are {', '.join(server.models)}")
        reranker = server.models[wanted.model]
    if wanted.go_on is not None:
        served = _served(reranker)
        if served is None:
            raise InputError("the last stage is none of the models served, so it cannot stop early; leave go_on out")
        reranker = _Stopping(served, wanted.go_on)
    stage = replace(last, reranker=reranker, depth=wanted.depth or last.depth)
    found = cascade.candidates
    most = None if found is None else max(found, wanted.depth or 0)
    return Cascade(cascade.retriever, *before, stage, retrieve=most, select=cascade.selectors)


async def search(server: Server, path: str, asker: Asker) -> Response:
    """Retrieve, rerank what was found, and select from it as the settings say."""
    cascade = server.search
    if cascade is None:
        raise Failure(404, "this server has no index to search; set retriever.index and start it again")
    raw = await body_of(asker.request, server.limits.body)
    wanted = decoded(Search, raw)
    try:
        check_query(wanted.query, server.limits)
        patience = patience_of(server, asker.request, wanted.deadline_ms)
        cascade = _as_wanted(server, cascade, wanted)
    except InputError as error:
        raise Failure(400, str(error)) from error
    reading = time.perf_counter() - asker.began
    until = deadline_of(asker, patience)
    retrieve = partial(cascade.first_stage, wanted.query, wanted.top_k, deadline=until)
    found = replace(await opened(server, retrieve, at_once=False), query_id=asker.id)
    models = [(served, stage.depth) for stage in cascade.stages if (served := _served(stage.reranker)) is not None]

    def size() -> float:
        texts = [hit.document.text for hit in found.hits]
        return sum(served.estimate(texts[:depth]) for served, depth in models)

    seconds = await opened(server, size, at_once=all(served.current is not None for served, _ in models))
    for served, _ in models[-1:]:
        check_exits(served, wanted.go_on)

    def rerank(until: Deadline) -> tuple[list[tuple[str, StageTrace]], Ranking, Ranking]:
        whole, told = found, list[tuple[str, StageTrace]]()
        for stage in cascade.stages:
            before = len(whole.trace)
            whole = stage.run(whole, until)
            added = whole.trace[before:]  # of a wrapper several, one for each that it asked
            name = getattr(_served(stage.reranker) or stage.reranker, "name", "") if len(added) == 1 else ""
            told += [(name or trace.name, trace) for trace in added]
        return told, whole, cascade.select(whole, deadline=until)

    stages, ranked, selected = await admitted(server, asker, seconds, patience, rerank)
    took = time.perf_counter() - asker.began
    traces = [trace for _, trace in stages]
    shown = selected.top(wanted.top_k)
    keep(server, asker, Answered(path, found, ranked, shown, stages, reading, took, patience, lambda one: one.id))
    asker.query, asker.documents = wanted.query, len(found.hits)
    asker.scored = sum(trace.pairs_scored for trace in traces)
    asker.span.stages(selected.trace)
    results = [
        _result(hit, relevance, texts=wanted.return_documents)
        for hit, relevance in zip(
            shown.hits, relevances(shown.hits, given=are_relevances(ranked.trace[-1])), strict=True
        )
    ]
    names = {id(trace): name for name, trace in stages}
    steps = [step(trace, names.get(id(trace), trace.name)) for trace in selected.trace]
    body = {"id": asker.id, "object": "list", "results": results, "trace": steps}
    return told(body, headers=timing(asker, reading, sum(trace.seconds for trace in traces), took))


def _result(hit: Hit, relevance: float, *, texts: bool) -> dict[str, Any]:
    document = hit.document
    one: dict[str, Any] = {"id": document.id, "relevance_score": relevance, "status": str(hit.status)}
    one |= {"score": hit.score, "first_rank": hit.first_rank, "first_score": hit.first_score}
    return one | ({"title": document.title, "text": document.text} if texts else {})


async def click(server: Server, path: str, asker: Asker) -> Response:
    """Keep a click beside the request that it belongs to."""
    log = server.log
    if log is None:
        raise Failure(404, "this server keeps no log of requests; set request_log.url and start it again")
    one = decoded(Clicked, await body_of(asker.request, SMALL))
    if one.index is None and one.document_id is None:
        raise Failure(400, "name the document by its index in the request or by its document_id")
    keep = partial(log.click, one.request_id, document=one.document_id, index=one.index, kind=one.kind)
    outcome = await asyncio.get_running_loop().run_in_executor(server.threads, keep)
    if outcome is Outcome.UNAVAILABLE:
        raise Failure(503, "the log of requests does not answer; send the click again", "Unhealthy")
    return told({"outcome": str(outcome)}, _STATUS.get(outcome, 200))


def decoded(kind: type[_T], raw: bytes) -> _T:
    """A body as what it should be. Raises Failure, 400, where it is not."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Failure(400, f"the body cannot be meant: {error}") from error
