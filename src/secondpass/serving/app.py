"""The ASGI application: routes, and what every one of them has around it.

Knows: paths, what is told of the server itself, how a request is counted and logged. Refuses to know: formats, who is
let in, how anything is scored. The event loop only reads and writes; a request that was let in is scored by a thread
that waits for its turns (`scoring.turns`).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from secondpass import __version__
from secondpass.cascade import stage_name
from secondpass.serving import logs, workbench
from secondpass.serving.asking import Asker, Failure, allow, failed, told
from secondpass.serving.explaining import explain
from secondpass.serving.judging import judge, judging, pooled, undo
from secondpass.serving.models import Served
from secondpass.serving.openapi import document
from secondpass.serving.reports import report, reports
from secondpass.serving.reranking import PATHS, rerank
from secondpass.serving.searching import click, search
from secondpass.serving.server import Server, Workbench

__all__ = ["application"]

Answer = Callable[[Server, str, Asker], Awaitable[Response]]


def application(server: Server) -> Starlette:
    """The ASGI application. Needs the extra `serve`."""
    posted: dict[str, Answer] = {**dict.fromkeys(PATHS, rerank), "/v1/search": search, "/v1/clicks": click}
    posted |= {"/v1/explain": explain, "/v1/judging": judge, "/v1/judging/undo": undo}
    read: dict[str, Answer] = {
        "/v1/judging": judging,
        "/v1/judging/query": pooled,
        "/v1/reports": reports,
        "/v1/report": report,
    }
    told_of: dict[str, Answer] = {
        "/info": _info,
        "/v1/models": _models,
        "/v1/status": _status,
        "/v1/watch": _watch,
        "/metrics": _metrics,
        "/openapi.json": _openapi,
    }
    routes = [Route(path, partial(_guarded, server, path, answer), methods=["POST"]) for path, answer in posted.items()]
    routes += [Route(path, partial(_guarded, server, path, answer), methods=["GET"]) for path, answer in read.items()]
    routes += [Route(path, partial(_open, server, path, answer)) for path, answer in told_of.items()]
    routes += [Route("/health", partial(_health, server)), Route("/ready", partial(_ready, server))]
    routes += [] if server.workbench is None else workbench.routes()
    missing = partial(_missing, server)
    return Starlette(routes=routes, lifespan=partial(_life, server), exception_handlers={404: missing, 405: missing})


@contextlib.asynccontextmanager
async def _life(server: Server, _: Starlette) -> AsyncIterator[None]:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    watching = loop.create_task(server.watch(stop))
    renewing: set[asyncio.Future[None]] = set()

    def renew() -> None:
        renewing.add(loop.run_in_executor(None, server.renew))

    with contextlib.suppress(NotImplementedError, ValueError, RuntimeError, AttributeError):
        loop.add_signal_handler(signal.SIGHUP, renew)  # only in a main thread, and not on Windows
    try:
        yield
    finally:
        server.draining = True
        stop.set()
        await asyncio.gather(watching, *renewing)
        await loop.run_in_executor(None, server.end)


async def _guarded(server: Server, path: str, answer: Answer, request: Request) -> Response:
    """One request: who asks is looked at first; whatever becomes of it is counted, and a line in the log."""
    asker = Asker(request, time.perf_counter())
    error: Exception | None = None
    reason = ""
    scheme = request.url.scheme
    with server.spans.request(request.method, request.url.path, request.headers, route=path, scheme=scheme) as span:
        asker.span = span
        try:
            allow(server, asker)
            response = await answer(server, path, asker)
        except Failure as refused:
            response, reason = failed(refused, asker.id), refused.reason or ""
            if refused.reason:
                server.metrics.refused(refused.reason)
        except Exception as broken:  # a fault of ours: said so, without its inside
            message = f"the server failed ({type(broken).__name__}); please report it"
            response, error = failed(Failure(500, message, "Backend"), asker.id), broken
        seconds = time.perf_counter() - asker.began
        server.metrics.answered(path, response.status_code, seconds, asker.key.name)
        span.answered(response.status_code, model=asker.model, documents=asker.documents)
        logs.answered(
            request=asker.id,
            path=path,
            status=response.status_code,
            seconds=seconds,
            caller=asker.key.name,
            model=asker.model,
            digest=asker.digest,
            documents=asker.documents,
            scored=asker.scored,
            reason=reason,
            query=asker.query,
            texts=asker.texts,
            error=error,
        )
    return response


async def _open(server: Server, path: str, answer: Answer, request: Request) -> Response:
    """What is told of the server: to everybody, or to those with a key."""
    asker = Asker(request, time.perf_counter())
    try:
        if not server.public:
            allow(server, asker)
        response = await answer(server, path, asker)
    except Failure as refused:
        response = failed(refused, asker.id)
    server.metrics.answered(path, response.status_code, time.perf_counter() - asker.began)
    return response


async def _health(server: Server, request: Request) -> Response:
    """The process answers, and so does the scorer: else it should be started anew."""
    if server.dead:
        return failed(Failure(503, server.dead, "Unhealthy"))
    return told({"status": "ok"})


async def _ready(server: Server, request: Request) -> Response:
    """Requests may be sent here."""
    if server.unwell:
        return failed(Failure(503, server.unwell, "Unhealthy"))
    default = server.served(None)
    return told({"status": "ready", "model": default.name, "digest": default.digest})


async def _info(server: Server, path: str, asker: Asker) -> Response:
    """As text-embeddings-inference tells it, of the model that answers where none is named."""
    served = server.served(None)
    if served.current is None:
        raise Failure(503, "the model is not open yet", "Unhealthy")
    scorer = served.scorer  # what computes elsewhere has none of these here
    return told(
        {
            "model_id": served.name,
            "model_sha": served.digest,
            "model_dtype": "" if scorer is None else scorer.engine.precision,
            "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
            "max_concurrent_requests": server.limits.requests,
            "max_input_length": None if scorer is None else scorer.max_length,
            "max_batch_tokens": None if scorer is None else scorer.batch_tokens,
            "max_client_batch_size": server.limits.documents,
            "auto_truncate": True,
            "version": __version__,
        }
    )


async def _models(server: Server, path: str, asker: Asker) -> Response:
    """The names that requests may give, as OpenAI's API lists them."""
    models = []
    for served in server.models.values():
        here = served.current is not None
        one = {"id": served.name, "object": "model", "owned_by": "secondpass", "open": here}
        models.append(one | _facts(served) if here else one)
    return told({"object": "list", "data": models})


def _facts(served: Served) -> dict[str, Any]:
    """What is known of a model once it is open."""
    scorer = served.scorer
    if scorer is None:
        return {"digest": "", "exits": False, "explains": False}
    return {
        "digest": served.digest,
        "licence": scorer.checkpoint.licence,
        "max_length": scorer.max_length,
        "engine": scorer.detail["engine"],
        "precision": scorer.engine.precision,
        "exits": served.exits,
        "explains": True,
    }


async def _status(server: Server, path: str, asker: Asker) -> Response:
    """What this server is set up to do, and how it is."""
    cascade, bench = server.search, server.workbench
    search = None
    if cascade is not None:
        stages = [
            {
                "name": getattr(one.reranker, "name", stage_name(one.reranker)),
                "depth": one.depth,
                "budget_ms": one.budget_ms,
            }
            for one in cascade.stages
        ]
        search = {"first_stage": stage_name(cascade.retriever), "candidates": cascade.candidates, "stages": stages}
    limits = server.limits
    body = {
        "object": "status",
        "version": __version__,
        "unwell": server.unwell,
        "keys": bool(server.keys),
        "deadline_ms": None if limits.deadline is None else 1000 * limits.deadline,
        "limits": {"documents": limits.documents, "characters": limits.characters, "query": limits.query},
        "search": search,
        "log": server.log is not None,
        "watch": server.watching is not None,
        "judging": bench is not None and bench.pool is not None,
        "reports": bench is not None and bench.reports is not None,
    }
    return told(body)


async def _watch(server: Server, path: str, asker: Asker) -> Response:
    """How the traffic compares with the profile, and the last alarms."""
    if server.watching is None:
        raise Failure(404, "this server watches nothing; set watch.profile and start it again")
    return told(server.watching.state())


async def _metrics(server: Server, path: str, asker: Asker) -> Response:
    page, kind = server.metrics.page(asker.request.headers.get("accept"))
    return Response(page, media_type=kind)


async def _openapi(server: Server, path: str, asker: Asker) -> Response:
    has = {"search": server.search is not None, "clicks": server.log is not None, "watch": server.watching is not None}
    bench = server.workbench or Workbench()
    has |= {"judging": bench.pool is not None, "reports": bench.reports is not None}
    return told(document(keys=bool(server.keys), **has))


async def _missing(server: Server, request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    server.metrics.answered("other", status, 0.0)  # it took no time worth a bucket
    allowed = getattr(error, "headers", None) or {}
    message = f"{request.method} {request.url.path}: no such route; docs/serve.md lists them"
    return failed(Failure(status, message, **allowed))
