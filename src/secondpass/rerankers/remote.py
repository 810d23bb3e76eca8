"""Calls to a service over HTTP that end when they should: the one seam that rerankers of other machines share.

Knows: URLs, keys, time, retries, rate limits, how many calls run at once, JSON. Refuses to know: what is asked of a
service, what its answers mean, what anything costs.

    remote = Remote("https://api.example.com", key="…", timeout_s=5.0)
    reply = remote.post("/v2/rerank", {"query": …}, deadline=Deadline.after_ms(800))     # or RemoteError

A timeout of httpx holds for each read, so a server that sends a byte now and then outlasts it, and looking up a name
has none at all. So calls run on an event loop in a thread of their own, and whoever asked stops waiting, and cancels
the call, when time is up, whatever it hangs in.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import re
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from secondpass.errors import InputError, RemoteError
from secondpass.extras import require
from secondpass.types import NEVER, Deadline

if TYPE_CHECKING:
    import ssl

    import httpx

__all__ = ["Remote", "Reply"]

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_CONNECT_S = 3.0  # a host that does not take a connection by then takes none
_SAID = 400  # characters of a service's error that are told
_ALONE_S = 60.0  # the longest that a service is left alone by all calls, whatever it asks for
_ERROR_BYTES = 65_536
_LOOK_S = 0.05  # how often it is looked whether the caller has left


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its JSON, the seconds from the call to here, of which `waited_s` went into waiting for a place, a
    rate limit or the next attempt, and how many attempts it took."""

    json: Any
    seconds: float
    attempts: int
    waited_s: float


class Remote:
    """A service at a URL. Threads may share it; nothing is connected, and no thread started, before the first call.

    Args:
        url: where paths are appended, as "https://api.example.com/v1".
        key: sent with each call and shown nowhere, neither in errors nor in a repr.
        key_header: the header that carries it; in `Authorization` it follows the word Bearer.
        headers: more of them, for each call.
        timeout_s: seconds of a whole call, waits and retries included; the deadline of a call may be sooner.
        retries: attempts after the first, on errors that pass: no connection, one that was cut, 408, 409, 425, 429,
            500, 502, 503, 504, 529. `Retry-After` and `retry-after-ms` are honoured, for all calls. None is begun
            that could not begin in the time left.
        concurrency: calls at once.
        per_minute: calls, and `tokens_per_minute` what callers say of them, in any 60 seconds; None: no limit.
        max_bytes: of an answer.

    Redirects are not followed. Proxies and certificates that the environment names for all programs (HTTPS_PROXY,
    NO_PROXY, SSL_CERT_FILE) hold here, too.

    Raises InputError for what cannot be meant, MissingExtraError without httpx (extra `hosted`).
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        key_header: str = "Authorization",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
        retries: int = 2,
        concurrency: int = 4,
        per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_bytes: int = 16_000_000,
    ) -> None:
        http = require("httpx", extra="hosted", purpose="a hosted reranker")
        self.url = _checked_url(url)
        self.timeout_s = _above(0, "timeout_s", timeout_s, "seconds of a whole call")
        self._key = _checked_key(key)
        self._max_bytes = _whole("max_bytes", max_bytes, least=1)
        for name, limit in (("per_minute", per_minute), ("tokens_per_minute", tokens_per_minute)):
            if limit is not None:
                _above(0, name, limit, "how many in a minute, or None for no limit")
        limits = (per_minute, tokens_per_minute)
        sent = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        sent |= {"User-Agent": "secondpass"} | dict(headers or {})
        if self._key:
            sent[key_header] = f"Bearer {self._key}" if key_header.lower() == "authorization" else self._key
        retries, concurrency = _whole("retries", retries), _whole("concurrency", concurrency, least=1)
        trusted = http.create_ssl_context()  # here, since it takes tens of milliseconds that no call should pay
        self._make: Callable[[], _Line] = lambda: _Line(sent, trusted, retries, concurrency, limits, max_bytes)
        self._lines: dict[int, _Line] = {}  # by process: neither a thread nor a connection survives a fork
        weakref.finalize(self, _hang_up, self._lines)

    def __repr__(self) -> str:
        return f"Remote({self.url!r})"

    def post(self, path: str, body: object, *, deadline: Deadline = NEVER, tokens: float = 0) -> Reply:
        """The answer to a JSON body. `tokens` counts against `tokens_per_minute`.

        Raises RemoteError where there is none in time or none that is JSON, InputError for a body that is no JSON.
        """
        (answer,) = self.post_all(path, [body], deadline=deadline, tokens=[tokens])
        if isinstance(answer, RemoteError):
            raise answer
        return answer

    def post_all(
        self, path: str, bodies: Sequence[object], *, deadline: Deadline = NEVER, tokens: Sequence[float] | None = None
    ) -> list[Reply | RemoteError]:
        """The answer to each body, or what became of it; asked at once, as far as `concurrency` allows.

        Raises InputError for a body that is no JSON, and for a path that would lead to another host.
        """
        if not path.startswith("/"):
            raise InputError(f"the path {path!r} does not begin with a slash; give it as '/v1/rerank'")
        raw = [_encoded(body) for body in bodies]
        remaining = deadline.remaining()
        late = remaining <= self.timeout_s
        began = time.monotonic()
        until = began + min(remaining, self.timeout_s)
        url = self.url + path
        calls = [
            _Call(url, body, count, began, until) for body, count in zip(raw, tokens or [0] * len(raw), strict=True)
        ]
        if remaining <= 0:
            return [self._error(call, "the deadline had passed before the call", "deadline") for call in calls]
        line = self._lines.get(os.getpid()) or self._lines.setdefault(os.getpid(), self._make())
        asked = [line.begin(call) for call in calls]
        try:
            left = set(asked)
            while left and (seconds := until - time.monotonic()) > 0 and not deadline.left:
                left = wait(left, timeout=min(seconds, _LOOK_S) if deadline.caller else seconds).not_done
        finally:
            for future in asked:
                future.cancel()
        over = "deadline" if late or deadline.left else "timeout"
        return [self._answer(call, future, over) for call, future in zip(calls, asked, strict=True)]

    def close(self) -> None:
        """Close connections and end the thread; calls under way fail. A later call opens them anew."""
        line = self._lines.pop(os.getpid(), None)
        if line is not None:
            line.end(join=True)

    def _answer(self, call: _Call, future: Future[bytes], over: str) -> Reply | RemoteError:
        try:
            raw = future.result()
        except CancelledError:
            within = "before the deadline" if over == "deadline" else f"within {self.timeout_s:g} s"
            last = f"; before that: {call.problem}" if call.problem else ""
            return self._error(call, f"no answer {within}{last}", over)
        except _Failure as failure:
            return self._error(call, failure.why, failure.kind, failure.status)
        except Exception as error:  # whatever it is, who asked gets an answer
            return self._error(call, _told(error), "connection")
        try:
            answer = json.loads(raw.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            return self._error(call, f"the answer is not JSON ({error}): {_clean(raw)}", "answer")
        return Reply(answer, call.seconds, call.attempts, call.waited_s)

    def _error(self, call: _Call, why: str, kind: str, status: int | None = None) -> RemoteError:
        why = why.replace(self._key, "***") if self._key else why  # before it is cut, for a part of it is too much
        why = why if len(why) <= _SAID else why[:_SAID] + "…"
        often = f" ({call.attempts} attempts)" if call.attempts > 1 else ""
        return RemoteError(
            f"{urlsplit(self.url).netloc}: {why}{often}",
            kind=kind,
            status=status,
            attempts=call.attempts,
            seconds=call.seconds,
            waited_s=call.waited_s,
        )


@dataclass(slots=True)
class _Call:
    """One call under way: what is sent, by when, and how far it came."""

    url: str
    body: bytes
    tokens: float
    began: float
    until: float
    entered: float = math.inf  # when it came to the loop, and when it left
    ended: float = math.inf
    busy_s: float = 0.0
    attempts: int = 0
    problem: str = ""

    @property
    def seconds(self) -> float:
        return min(self.ended, time.monotonic()) - self.began

    @property
    def waited_s(self) -> float:
        return max(min(self.ended, time.monotonic()) - self.entered - self.busy_s, 0.0)


class _Failure(Exception):
    """Why there is no answer; `after` is the seconds the service asks to wait, `again` whether it may pass."""

    def __init__(
        self, why: str, kind: str, *, status: int | None = None, again: bool = False, after: float | None = None
    ) -> None:
        super().__init__(why)
        self.why, self.kind, self.status, self.again, self.after = why, kind, status, again, after


@dataclass(slots=True)
class _Window:
    """At most `limit` in any 60 seconds; what is booked lies in the order of time."""

    limit: float
    booked: deque[tuple[float, float]] = field(default_factory=deque)
    total: float = 0.0

    def free_at(self, amount: float, now: float) -> float:
        """When so much may be spent, after all that is booked; infinity where it is more than the limit."""
        if amount > self.limit:
            return math.inf
        while self.booked and self.booked[0][0] <= now - 60.0:
            self.total -= self.booked.popleft()[1]
        at, over = max(now, self.booked[-1][0] if self.booked else now), self.total + amount - self.limit
        for then, spent in self.booked:
            if over <= 0:
                break
            at, over = max(at, then + 60.0), over - spent
        return at

    def book(self, amount: float, at: float) -> None:
        self.booked.append((at, amount))
        self.total += amount


class _Line:
    """The event loop of one process, its thread, and what calls share there: connections, places, rate limits."""

    def __init__(
        self,
        headers: Mapping[str, str],
        trusted: ssl.SSLContext,
        retries: int,
        concurrency: int,
        limits: tuple[float | None, float | None],
        max_bytes: int,
    ) -> None:
        self._headers, self._trusted = headers, trusted
        self._retries, self._concurrency, self._max_bytes = retries, concurrency, max_bytes
        self._windows = [None if limit is None else _Window(limit) for limit in limits]
        self._closed_until = 0.0  # the service has asked not to be called before
        self._slots = asyncio.Semaphore(concurrency)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client: httpx.AsyncClient | None = None
        self._over = False

    def begin(self, call: _Call) -> Future[bytes]:
        with self._lock:
            try:
                if self._over:
                    raise _Failure("its connections were closed just now", "connection")
                if self._client is None:
                    self._client = self._opened()
            except Exception as error:  # a proxy of the environment that is none, say
                failed: Future[bytes] = Future()
                failed.set_exception(error)
                return failed
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_serve, args=(self._loop, self._client), name="secondpass-remote", daemon=True
                )
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(self._ask(call), self._loop)

    def end(self, *, join: bool = False) -> None:
        with self._lock:
            if self._loop is not None and not self._over:
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._over = True
        if join and self._thread is not None:
            self._thread.join(10)

    def _opened(self) -> httpx.AsyncClient:
        http = require("httpx", extra="hosted")
        count = self._concurrency
        client: httpx.AsyncClient = http.AsyncClient(
            headers=self._headers,
            verify=self._trusted,
            timeout=http.Timeout(None, connect=_CONNECT_S),  # the whole call is bounded by who asks
            limits=http.Limits(max_connections=count, max_keepalive_connections=count, keepalive_expiry=30.0),
            follow_redirects=False,
        )
        self._lost: type[Exception] = http.TransportError
        return client

    async def _ask(self, call: _Call) -> bytes:
        call.entered = time.monotonic()
        try:
            return await self._answered(call)
        finally:
            call.ended = time.monotonic()

    async def _answered(self, call: _Call) -> bytes:
        while True:
            async with self._slots:
                await self._may(call)
                call.attempts += 1
                began = time.monotonic()
                try:
                    return await self._once(call)
                except _Failure as error:
                    failure = error
                finally:
                    call.busy_s += time.monotonic() - began
            call.problem = failure.why
            now = time.monotonic()
            if failure.again and failure.after is not None:
                self._closed_until = max(self._closed_until, now + min(failure.after, _ALONE_S))
            if not failure.again or call.attempts > self._retries:
                raise failure
            pause = max(failure.after or 0.0, _backoff(call.attempts))
            if now + pause >= call.until:
                asks = f"; it asks to wait {failure.after:g} s" if failure.after else ""
                failure.why += f"{asks}; no time is left to try again"
                raise failure
            await asyncio.sleep(pause)

    async def _may(self, call: _Call) -> None:
        """Wait until one more call may go out; first come, first served."""
        while (now := time.monotonic()) < self._closed_until:
            await self._until(call, now, self._closed_until)
        wanted = [
            (window, amount)
            for window, amount in zip(self._windows, (1.0, call.tokens), strict=True)
            if window is not None
        ]
        at = max([now, *(window.free_at(amount, now) for window, amount in wanted)])
        for window, amount in wanted if at < call.until else ():
            window.book(amount, at)
        await self._until(call, now, at)

    async def _until(self, call: _Call, now: float, at: float) -> None:
        """Wait. Raises _Failure at once where it would be too long."""
        if at <= now:
            return
        if at >= call.until:
            when = "never" if math.isinf(at) else f"in {at - now:.1f} s"
            before = f"; before that: {call.problem}" if call.problem else ""
            raise _Failure(f"the next call is allowed {when}, which is too late{before}", "limit")
        await asyncio.sleep(at - now)

    async def _once(self, call: _Call) -> bytes:
        assert self._client is not None
        try:
            async with self._client.stream("POST", call.url, content=call.body) as response:
                good = response.is_success
                raw = await self._read(response, self._max_bytes if good else _ERROR_BYTES)
        except self._lost as error:
            raise _Failure(_told(error), "connection", again=True) from error
        status, headers = response.status_code, response.headers
        if good and len(raw) <= self._max_bytes:
            return raw
        if good:
            raise _Failure(f"the answer is longer than {self._max_bytes:,} bytes", "answer", status=status)
        if 300 <= status < 400:
            to = headers.get("location", "nowhere").partition("?")[0]
            raise _Failure(
                f"status {status} sends on to {to[:100]}, where the key does not go", "answer", status=status
            )
        again = {"true": True, "false": False}.get(headers.get("x-should-retry", ""), status in _AGAIN)
        why = f"status {status}: {_clean(raw)}"
        raise _Failure(why, "status", status=status, again=again, after=_asked_to_wait(headers))

    async def _read(self, response: httpx.Response, most: int) -> bytes:
        """The body, or a little more than `most` bytes of it; nothing of an error that is compressed."""
        if response.headers.get("content-encoding", "identity") != "identity":
            if response.is_success:
                raise _Failure(
                    "the answer is compressed, which was not asked for", "answer", status=response.status_code
                )
            return b""
        raw = bytearray()
        async for part in response.aiter_raw():
            raw += part
            if len(raw) > most:
                break
        return bytes(raw)


def _serve(loop: asyncio.AbstractEventLoop, client: httpx.AsyncClient) -> None:
    """Run the loop until it is stopped; then leave nothing open."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(client.aclose())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _hang_up(lines: dict[int, _Line]) -> None:
    line = lines.get(os.getpid())
    if line is not None:
        line.end()


def _backoff(attempts: int) -> float:
    """Seconds before the next attempt, from ¼ up, doubled each time; drawn, lest callers come back together."""
    return float(min(0.25 * 2 ** (attempts - 1), 8.0) * (1.0 + random.random()))


def _asked_to_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that the service asks to wait: `retry-after-ms`, or `Retry-After` as seconds or as a date."""
    try:
        if "retry-after-ms" in headers:
            seconds = float(headers["retry-after-ms"]) / 1000.0
        elif "retry-after" in headers:
            told = headers["retry-after"].strip()
            seconds = (
                float(told)
                if re.fullmatch(r"\d+(\.\d+)?", told)
                else parsedate_to_datetime(told).timestamp() - time.time()
            )
        else:
            return None
    except (ValueError, OverflowError):
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _clean(raw: bytes) -> str:
    """What a service said, in one line: its message where the body has one."""
    text = raw.decode("utf-8", "replace")
    try:
        said: Any = json.loads(text)
        for name in ("error", "detail", "message"):
            if isinstance(said, dict) and said.get(name):
                said = said[name]
        text = said if isinstance(said, str) else json.dumps(said)
    except (ValueError, RecursionError):
        pass
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line or "without a word"


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _encoded(body: object) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:  # UnicodeEncodeError is a ValueError
        raise InputError(f"what is to be sent is no JSON ({type(error).__name__})") from error


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
        good = good and (parts.port is None or parts.port > 0)
    except (ValueError, AttributeError, TypeError):
        good = False
    if isinstance(url, str) and "@" in url:  # not repeated: what stands before it may be a password
        raise InputError("the URL of a service holds a user or a password; give the key by key=, and the URL without")
    if not good:
        raise InputError(f"{url!r} is not the URL of a service; give one as 'https://api.example.com/v1'")
    return url.rstrip("/")


def _checked_key(key: str | None) -> str:
    if key is None:
        return ""
    if not isinstance(key, str) or not key or not key.isascii() or not key.isprintable() or key != key.strip():
        raise InputError("the key is not one: it is empty, or has blanks around it or letters that no header carries")
    return key


def _above(least: float, name: str, value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= least:
        raise InputError(f"{name} is {value!r}; give {what}, a number above {least:g}")
    return float(value)


def _whole(name: str, value: object, *, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} is {value!r}; give a whole number from {least} up")
    return value
