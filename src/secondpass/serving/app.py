"""The server: HTTP in front, a model behind.

Knows: routes, headers, status codes, who may ask. Refuses to know: wire formats (`wire`), who is let in (`admission`),
how anything is scored. The event loop only reads and writes; a request that was let in is scored by a thread that waits
for its turns (`scoring.turns`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import math
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from secondpass import __version__
from secondpass.errors import InputError
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.serving.admission import Admission, Refused
from secondpass.serving.wire import FORMATS, Answer, Asked, failure, read
from secondpass.types import Caller, Deadline, as_ranking

__all__ = ["Limits", "Server", "application", "key_digest"]

DEADLINE = "x-deadline-ms"
READ_TIMEOUT = "x-stainless-read-timeout"  # what some SDKs send of their own: seconds they will wait
_SHARE = 0.9  # of a client's read timeout that may be used, so that the answer is there before it gives up
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


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may be, and how much is done at once. Times in seconds."""

    body: int = 32_000_000
    documents: int = 1000
    characters: int = 1_000_000  # of one text
    query: int = 100_000
    deadline: float | None = None  # where a request names none
    backlog: float = 30.0
    requests: int = 256


@dataclass(slots=True)
class Server:
    """A model, who is let in, and whether it is well."""

    model: CrossEncoder
    limits: Limits = field(default_factory=Limits)
    keys: frozenset[str] = frozenset()  # the digest of each; none: everybody may ask
    probe_every: float = 10.0  # seconds
    admission: Admission = field(init=False)
    threads: ThreadPoolExecutor = field(init=False)
    unwell: str = field(init=False, default="not started")
    draining: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.admission = Admission(most=self.limits.backlog, requests=self.limits.requests)
        self.threads = ThreadPoolExecutor(self.limits.requests, thread_name_prefix="secondpass-request")

    def probe(self) -> None:
        """Score the golden pairs; what is wrong stands in `unwell`, "" where nothing is."""
        scorer = self.model.scorer
        try:
            scorer.check_golden(scorer.golden)
        except Exception as error:  # whatever it is, it is not well
            self.unwell = f"{type(error).__name__}: {error}"
        else:
            self.unwell = ""

    def size(self, asked: Asked) -> float:
        """About how many seconds of the whole machine a request takes."""
        return self.model.scorer.estimate([document.text for document in asked.documents])

    def allowed(self, request: Request) -> str | None:
        """The name of whose share a request is served from; None where it brings no key that is known."""
        if not self.keys:
            return request.client.host if request.client else ""
        given = request.headers.get("authorization") or request.headers.get("x-api-key") or ""
        digest = key_digest(given.removeprefix("Bearer ").removeprefix("bearer ").strip())
        # every key is compared, in constant time, so that the answer's time tells nothing
        return digest[:16] if sum(hmac.compare_digest(digest, one) for one in self.keys) else None


def key_digest(key: str) -> str:
    """As keys are kept: SHA-256, in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def application(server: Server) -> Starlette:
    """The ASGI application. Needs the extra `serve`."""
    routes = [Route(path, partial(_answered, server, path), methods=["POST"], name=path) for path in PATHS]
    routes += [
        Route("/health", partial(_health, server)),
        Route("/ready", partial(_ready, server)),
        Route("/info", partial(_info, server)),
        Route("/v1/models", partial(_models, server)),
    ]
    told = {404: _missing, 405: _missing, Exception: _broken}
    return Starlette(routes=routes, lifespan=partial(_life, server), exception_handlers=told)


@contextlib.asynccontextmanager
async def _life(server: Server, _: Starlette) -> AsyncIterator[None]:
    stop = asyncio.Event()
    watching = asyncio.create_task(_watch(server, stop, server.probe_every))
    try:
        yield
    finally:
        server.draining = True
        stop.set()
        await watching
        server.threads.shutdown(wait=False, cancel_futures=True)


async def _watch(server: Server, stop: asyncio.Event, every: float) -> None:
    """Probe the model now and again; one that hangs is not waited for, and is unwell until it answers."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.create_task(stop.wait())
    probe: asyncio.Future[None] | None = None
    while not stop.is_set():
        probe = probe if probe is not None and not probe.done() else loop.run_in_executor(None, server.probe)
        either: list[asyncio.Future[Any]] = [probe, stopped]
        await asyncio.wait(either, timeout=every, return_when=asyncio.FIRST_COMPLETED)
        if not probe.done() and not stop.is_set():
            server.unwell = f"the golden pairs were not scored within {every:.0f} seconds"
        await asyncio.wait([stopped], timeout=every)


async def _answered(server: Server, path: str, request: Request) -> Response:
    """One request, from its body to its answer."""
    began = time.perf_counter()
    name = server.allowed(request)
    if name is None:
        return _failed(401, "no API key that is known; send it as Authorization: Bearer KEY", "Unauthorized")
    if server.draining:
        return _failed(503, "the server is stopping; ask another one", "Unhealthy", **{"Retry-After": "1"})
    try:
        raw = await _body(request, server.limits.body)
    except ClientDisconnect:
        return _failed(499, "the client left", "Backend")
    if raw is None:
        told = f"the body has more than {server.limits.body:,} bytes"
        return _failed(413, told, "Validation", Connection="close")  # what else it sends is not read
    form = FORMATS[_format(path, raw)]
    try:
        asked, body = read(form, raw)
        _check(asked, server.limits)
        patience = _patience(asked, request, server.limits)
    except InputError as error:
        return _failed(422 if form.name == "tei" else 400, str(error), "Validation")
    entry = server.admission.enter(server.size(asked), patience)
    if isinstance(entry, Refused):
        headers = {"Retry-After": str(math.ceil(entry.after)), "retry-after-ms": str(math.ceil(1000 * entry.after))}
        told = f"{entry.ahead:.1f} seconds of work are ahead; come back in {entry.after:.1f} seconds"
        return _failed(429, told, "Overloaded", **headers)
    caller = Caller(name)
    deadline = Deadline(None if patience == math.inf else began + patience, time.perf_counter, caller)
    try:
        ranking = as_ranking(asked.query, asked.documents)
        work = asyncio.get_running_loop().run_in_executor(
            server.threads, partial(server.model.rerank, ranking, deadline=deadline)
        )
        gone = asyncio.create_task(_left(request))
        first: list[asyncio.Future[Any]] = [work, gone]
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                caller.leave()
            ranked = await work
        finally:
            gone.cancel()
    finally:
        server.admission.leave(entry)
    seconds = time.perf_counter() - began
    answer = Answer(ranked, uuid.uuid4().hex, server.model.name, seconds)
    timing = f"rerank;dur={1000 * ranked.trace[-1].seconds:.1f}, total;dur={1000 * seconds:.1f}"
    headers = {"Server-Timing": timing, "x-request-id": answer.id}
    return _told(form.written(asked, answer, body), headers=headers)


async def _left(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request, most: int) -> bytes | None:
    """The body; None where it has more bytes than that, of which no more is read."""
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > most:
        return None
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            return None
        parts.append(part)
    return b"".join(parts)


def _format(path: str, raw: bytes) -> str:
    """Whose format a body is: two paths are used by more than one API."""
    if path == "/rerank" and b'"documents"' in raw and b'"texts"' not in raw:
        return "rerank"
    return PATHS[path]


def _check(asked: Asked, limits: Limits) -> None:
    if not asked.query.strip():
        raise InputError("query is empty")
    if len(asked.query) > limits.query:
        raise InputError(f"query has {len(asked.query):,} characters; {limits.query:,} are the most")
    if len(asked.documents) > limits.documents:
        raise InputError(f"{len(asked.documents):,} documents; {limits.documents:,} a request are the most")
    for document in asked.documents:
        if isinstance(document.text, str) and len(document.text) > limits.characters:
            count = f"{len(document.text):,} characters; {limits.characters:,} are the most"
            raise InputError(f"document {document.id} has {count}")


def _patience(asked: Asked, request: Request, limits: Limits) -> float:
    """Seconds that the answer may take, by the body, a header, the client's own timeout, or the server's default."""

    def number(name: str) -> float | None:
        value = request.headers.get(name)
        try:
            found = None if value is None else float(value)
        except ValueError:
            found = math.nan
        if found is not None and not (found >= 0 and math.isfinite(found)):
            raise InputError(f"header {name}: {value!r} is no number from 0 up")
        return found

    named = asked.deadline_ms if asked.deadline_ms is not None else number(DEADLINE)
    wanted = [1e-3 * named] if named is not None else [limits.deadline] if limits.deadline is not None else []
    timeout = number(READ_TIMEOUT)
    if timeout:
        wanted.append(_SHARE * timeout)
    return min(wanted, default=math.inf)


def _failed(status: int, message: str, kind: str, **headers: str) -> Response:
    return _told(failure(message, kind), status, headers)


def _told(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json", headers=headers)


async def _health(server: Server, request: Request) -> Response:
    """The process answers."""
    return _told({"status": "ok"})


async def _ready(server: Server, request: Request) -> Response:
    if server.draining or server.unwell:
        return _failed(503, "the server is stopping" if server.draining else server.unwell, "Unhealthy")
    return _told({"status": "ready", "model": server.model.name, "digest": server.model.scorer.checkpoint.digest})


async def _info(server: Server, request: Request) -> Response:
    """As text-embeddings-inference tells it."""
    scorer = server.model.scorer
    return _told(
        {
            "model_id": server.model.name,
            "model_sha": scorer.checkpoint.digest,
            "model_dtype": scorer.engine.precision,
            "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
            "max_concurrent_requests": server.limits.requests,
            "max_input_length": scorer.max_length,
            "max_batch_tokens": scorer.batch_tokens,
            "max_client_batch_size": server.limits.documents,
            "auto_truncate": True,
            "version": __version__,
        }
    )


async def _models(server: Server, request: Request) -> Response:
    return _told({"object": "list", "data": [{"id": server.model.name, "object": "model", "owned_by": "secondpass"}]})


async def _missing(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return _failed(
        status, f"{request.method} {request.url.path}: no such route; docs/serve.md lists them", "Validation"
    )


async def _broken(request: Request, error: Exception) -> Response:
    """A fault of ours: said so, without its inside."""
    return _failed(500, f"the server failed ({type(error).__name__}); please report it", "Backend")
