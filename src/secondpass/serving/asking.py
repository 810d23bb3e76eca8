"""One request as it comes in, and how what becomes of it goes out: who asks, the body, how long it may take; errors.

Knows: headers, bodies, status codes, JSON. Refuses to know: what the routes are, what is asked for.
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from secondpass.errors import InputError
from secondpass.serving.admission import Refused
from secondpass.serving.keys import Key
from secondpass.serving.metrics import Refusal
from secondpass.serving.server import Server
from secondpass.serving.telemetry import RequestSpan
from secondpass.serving.wire import failure
from secondpass.types import Caller, Deadline

__all__ = ["Asker", "Failure", "admitted", "allow", "body_of", "deadline_of", "failed", "patience_of", "told"]

DEADLINE = "x-deadline-ms"
READ_TIMEOUT = "x-stainless-read-timeout"  # what some SDKs send of their own: seconds they will wait
ANYONE = Key("")
_WRITING = 0.02  # seconds before the deadline that the answer is begun to be written; of a short one a tenth
BODY_SECONDS = 30.0  # that a body may take to come
_SHARE = 0.9  # of a client's read timeout that may be used, so that the answer is there before it gives up
_T = TypeVar("_T")


class Failure(Exception):
    """A request that is not answered: the status, what is said, of which kind it is, and why it counts as refused."""

    def __init__(
        self, status: int, message: str, kind: str = "Validation", reason: Refusal | None = None, **headers: str
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.reason, self.headers = status, kind, reason, headers


@dataclass(slots=True)
class Asker:
    """Who asked, when (seconds of `time.perf_counter`), and what the line in the log will say of it."""

    request: Request
    began: float
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    key: Key = ANYONE
    span: RequestSpan = field(default_factory=RequestSpan)
    query: str | None = None
    texts: Sequence[object] = ()
    model: str = ""
    digest: str = ""
    documents: int | None = None
    scored: int | None = None


def allow(server: Server, asker: Asker) -> None:
    """Find whose key it is. Raises Failure: 401 without one that is known, 429 beyond its rate, 503 while stopping."""
    if not server.keys:
        asker.key = Key("", name=asker.request.client.host if asker.request.client else "")
    else:
        headers = asker.request.headers
        given = headers.get("authorization") or headers.get("x-api-key") or ""
        known = server.keys.known(given.removeprefix("Bearer ").removeprefix("bearer ").strip())
        if known is None:
            message = "no API key that is known; send it as Authorization: Bearer KEY"
            raise Failure(401, message, "Unauthorized", Refusal.KEY, **{"WWW-Authenticate": "Bearer"})
        asker.key = known
    if server.draining:
        message = "the server is stopping; ask another one"
        raise Failure(503, message, "Unhealthy", Refusal.STOPPING, **{"Retry-After": "1"})
    seconds = server.keys.wait(asker.key)
    if seconds:
        raise _later(f"this key may ask {asker.key.per_minute:g} times a minute", seconds, Refusal.RATE)


def _later(why: str, seconds: float, reason: Refusal) -> Failure:
    headers = {"Retry-After": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(1000 * seconds))}
    return Failure(429, f"{why}; come back in {seconds:.1f} seconds", "Overloaded", reason, **headers)


async def body_of(request: Request, most: int) -> bytes:
    """The body. Raises Failure where it has more than `most` bytes, of which no more is read, takes too long, or the
    client left."""
    stated = request.headers.get("content-length", "")
    parts, size = [], int(stated) if stated.isdigit() and len(stated) < 20 else 0
    if size <= most:
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    size += len(part)
                    if size > most:
                        break
                    parts.append(part)
        except ClientDisconnect:
            raise Failure(499, "the client left", "Backend") from None
        except TimeoutError:
            message = f"the body took longer than {BODY_SECONDS:.0f} seconds"
            raise Failure(408, message, reason=Refusal.SLOW, Connection="close") from None
    if size > most:  # what else it sends is not read
        raise Failure(413, f"the body has more than {most:,} bytes", reason=Refusal.SIZE, Connection="close")
    return b"".join(parts)


def patience_of(server: Server, request: Request, deadline_ms: float | None) -> float:
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

    default = server.limits.deadline
    named = deadline_ms if deadline_ms is not None else number(DEADLINE)
    wanted = [1e-3 * named] if named is not None else [default] if default is not None else []
    timeout = number(READ_TIMEOUT)
    if timeout:
        wanted.append(_SHARE * timeout)
    return min(wanted, default=math.inf)


def deadline_of(asker: Asker, patience: float, caller: Caller | None = None) -> Deadline:
    """When work has to end for an answer after `patience` seconds, counted from when the request came."""
    until = None if patience == math.inf else asker.began + patience - min(_WRITING, 0.1 * patience)
    return Deadline(until, time.perf_counter, caller)


async def admitted(server: Server, asker: Asker, size: float, patience: float, work: Callable[[Deadline], _T]) -> _T:
    """`work`, in a thread, if there is room for its `size` in seconds; nothing more is begun once the client has left.

    Raises Failure, 429, where there is none.
    """
    entry = server.admission.enter(size, patience)
    if isinstance(entry, Refused):
        raise _later(f"{entry.ahead:.1f} seconds of work are ahead", entry.after, Refusal.BACKLOG)
    caller = Caller(asker.key.caller, asker.key.weight)
    try:
        loop = asyncio.get_running_loop()
        work_done = loop.run_in_executor(server.threads, partial(work, deadline_of(asker, patience, caller)))
        gone = asyncio.create_task(_left(asker.request))
        first: list[asyncio.Future[Any]] = [work_done, gone]
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if work_done.done():
                return work_done.result()
            caller.leave()
            await work_done  # which ends with the batch that is being computed
            raise Failure(499, "the client left", "Backend")
        finally:
            gone.cancel()
            caller.leave()  # also where this is cancelled, as it is in a replica whose client left
    finally:
        server.admission.leave(entry)


async def _left(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def failed(error: Failure, request_id: str = "") -> Response:
    """The answer that says why there is none."""
    headers = error.headers | ({"x-request-id": request_id} if request_id else {})
    return told(failure(str(error), error.kind), error.status, headers)


def told(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value as JSON."""
    return Response(msgspec.json.encode(value), status, media_type="application/json", headers=headers)
