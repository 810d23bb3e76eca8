"""One score cache for everyone: a pair that was scored once is not scored again.

Knows: the Scorer protocol, how a pair is named, and two places to keep scores: the memory of this
process, or a Redis that many share. Refuses to know: models, tokens, rankings, templates.

    Cached(scorer, MemoryStore(64_000_000), key).score(query, texts)

A pair is named by a blake2b hash of `key` (all that a score depends on beside query and text: model,
precision, engine, length), of the query and of the text as it is scored. Only scores are kept, with their
span; why a text has none is cheap to find again. What is answered from a store is bit by bit what was computed.
"""

from __future__ import annotations

import math
import os
import struct
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from secondpass.errors import CacheUnreachableError, InputError
from secondpass.extras import require
from secondpass.scoring.traces import spent_by
from secondpass.types import NEVER, Deadline, Scorer, Scores, StageTrace, Status

__all__ = ["Cached", "MemoryStore", "RedisStore", "Store", "open_store"]

_Span = tuple[int, int] | None
_Answer = tuple[float | None, Status, _Span]
_Result = TypeVar("_Result")
_Own = TypeVar("_Own")

_KEY_BYTES = 20
_LEAST_BYTES = 65_536  # some 200 scores; less is a mistake, most likely megabytes meant as bytes
_NOT_HANDED_ON = (Status.DEADLINE, Status.FAILED)
_VALUE, _VALUE_AND_SPAN = struct.Struct("<d"), struct.Struct("<dQQ")


class _PerProcess(Generic[_Own]):
    """One thing for each process: a lock that some thread held when a process was forked is never freed there."""

    def __init__(self, make: Callable[[], _Own]) -> None:
        self._make = make
        self._by_process: dict[int, _Own] = {}

    def __call__(self) -> _Own:
        process = os.getpid()
        return self._by_process.get(process) or self._by_process.setdefault(process, self._make())


@runtime_checkable
class Store(Protocol):
    """Bytes by key, shared by many threads. It may forget anything at any time.

    `within` is how many seconds the caller has; a store that needs longer gives up. A store that cannot be
    reached raises CacheUnreachableError, which the trace reports; scores are then computed.
    """

    def get(self, keys: Sequence[bytes], *, within: float = math.inf) -> Sequence[bytes | None]: ...

    def put(self, entries: Mapping[bytes, bytes], *, within: float = math.inf) -> None: ...


class MemoryStore:
    """The most recently used entries, in at most `max_bytes` bytes of this process's memory.

    Counted is what Python says that keys, values and the table around them take (some 250 bytes a score).
    Raises InputError for less than 65,536 bytes.
    """

    def __init__(self, max_bytes: int) -> None:
        if not isinstance(max_bytes, int) or isinstance(max_bytes, bool) or max_bytes < _LEAST_BYTES:
            raise InputError(f"a score cache of {max_bytes!r} bytes; give a whole number from {_LEAST_BYTES:,} up")
        self.max_bytes = max_bytes
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self._held = 0  # bytes of keys and values
        self._lock = _PerProcess(threading.Lock)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"MemoryStore({self.max_bytes})"

    @property
    def used_bytes(self) -> int:
        """Bytes in use, never more than `max_bytes`."""
        with self._lock():
            return self._size()

    def _size(self) -> int:
        return self._held + sys.getsizeof(self._entries)

    def get(self, keys: Sequence[bytes], *, within: float = math.inf) -> list[bytes | None]:
        """The value of each key, None where there is none."""
        entries = self._entries
        with self._lock():
            found = [entries.get(key) for key in keys]
            for key, value in zip(keys, found, strict=True):
                if value is not None:
                    entries.move_to_end(key)
        return found

    def put(self, entries: Mapping[bytes, bytes], *, within: float = math.inf) -> None:
        """Keep these; what was used longest ago makes room."""
        with self._lock():
            for key, value in entries.items():
                old = self._entries.pop(key, None)
                if old is not None:
                    self._held -= sys.getsizeof(key) + sys.getsizeof(old)
                self._entries[key] = value
                self._held += sys.getsizeof(key) + sys.getsizeof(value)
                while self._size() > self.max_bytes and self._entries:
                    gone, lost = self._entries.popitem(last=False)
                    self._held -= sys.getsizeof(gone) + sys.getsizeof(lost)


class RedisStore:
    """Entries in one Redis server (not a cluster), shared by every process that uses the same prefix.

    One MGET and one pipeline of SETs per call. A call takes `timeout_s` seconds at most, whatever the
    server, the network or a name server does: it runs in a thread that is not waited for any longer. After a failure
    the server is left alone for `pause_s` seconds, and CacheUnreachableError comes at once. Nothing is connected
    before the first call, and a server that is down now is found again later.

    Args:
        url: redis://, rediss:// or unix://, as redis-py takes it.
        ttl_s: seconds until a score is forgotten; None: the server's own policy decides.

    Raises MissingExtraError without the extra `redis`, InputError for a URL or a number that cannot be meant.
    """

    def __init__(
        self,
        url: str,
        *,
        ttl_s: float | None = None,
        prefix: str = "secondpass:",
        timeout_s: float = 0.03,
        pause_s: float = 1.0,
    ) -> None:
        for name, number in (("ttl_s", ttl_s), ("timeout_s", timeout_s), ("pause_s", pause_s)):
            if number is not None and not 0.001 <= number < 1e9:
                raise InputError(f"{name} is {number}; give seconds from 0.001 up")
        redis = require("redis", extra="redis", purpose="a score cache in Redis")
        backoff, retry = require("redis.backoff", extra="redis"), require("redis.retry", extra="redis")
        try:
            self._redis = redis.Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=retry.Retry(backoff.NoBackoff(), 1),  # once: a connection may have gone stale
            )
        except ValueError as error:  # not with the URL, which may hold a password
            raise InputError(f"the URL of the score cache cannot be used: {error}") from error
        self._milliseconds = None if ttl_s is None else round(ttl_s * 1000)
        self._prefix = prefix.encode()
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._failed: tuple[float, str] = (-math.inf, "")  # until when the server is left alone, and why
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0
        self._lock = _PerProcess(threading.Lock)

    def get(self, keys: Sequence[bytes], *, within: float = math.inf) -> Sequence[bytes | None]:
        """The value of each key, None where there is none. Raises CacheUnreachableError."""
        if not keys:
            return []
        call = self._begin(lambda: self._redis.mget([self._prefix + key for key in keys]))
        if not self._ended(call, within):
            raise CacheUnreachableError(f"no answer from Redis within the {within * 1000:.1f} ms that were left")
        found: Sequence[bytes | None] = call.result()
        return found

    def put(self, entries: Mapping[bytes, bytes], *, within: float = math.inf) -> None:
        """Keep these; where `within` is too short, it is done after the return. Raises CacheUnreachableError."""

        def send() -> None:
            with self._redis.pipeline(transaction=False) as pipeline:
                for key, value in entries.items():
                    pipeline.set(self._prefix + key, value, px=self._milliseconds)
                pipeline.execute()

        if entries:
            call = self._begin(send)
            if self._ended(call, within):
                call.result()

    def close(self) -> None:
        """Close connections and end threads."""
        with self._lock():
            if self._pool is not None:
                self._pool.shutdown(wait=True)
                self._pool = None
        self._redis.close()
        self._redis.connection_pool.disconnect()

    def _begin(self, ask: Callable[[], _Result]) -> Future[_Result]:
        self._refuse_while_paused()
        with self._lock():
            if self._pool is None or self._process != os.getpid():  # threads do not survive a fork
                self._pool = ThreadPoolExecutor(4, thread_name_prefix="secondpass-redis")
                self._process = os.getpid()
            return self._pool.submit(self._guarded, ask)

    def _guarded(self, ask: Callable[[], _Result]) -> _Result:
        self._refuse_while_paused()  # it may have failed for others while this waited for a thread
        try:
            return ask()
        except Exception as error:  # whatever goes wrong in there, a request must be answered
            raise self._pause(f"{type(error).__name__}: {error}") from error

    def _ended(self, call: Future[Any], within: float) -> bool:
        """Whether it ended in time; False where `within` was the shorter limit."""
        wait([call], timeout=min(self._timeout_s, within))
        if call.done():
            return True
        if within < self._timeout_s:
            return False
        call.cancel()
        raise self._pause(f"no answer from Redis within {self._timeout_s * 1000:g} ms")

    def _pause(self, why: str) -> CacheUnreachableError:
        self._failed = (time.monotonic() + self._pause_s, why)
        return CacheUnreachableError(why)

    def _refuse_while_paused(self) -> None:
        until, why = self._failed
        if time.monotonic() < until:
            raise CacheUnreachableError(f"{why}; not asked again within {self._pause_s:g} s")


def open_store(cache: int | str | Store) -> Store:
    """Bytes of memory, the URL of a Redis, or a store as it is. Raises InputError for anything else."""
    if isinstance(cache, int):
        return MemoryStore(cache)
    if isinstance(cache, str):
        return RedisStore(cache)
    if isinstance(cache, Store):
        return cache
    raise InputError(
        f"cache is a {type(cache).__name__}; give bytes of memory (64_000_000), 'redis://host:6379/0', or a store "
        "with get and put"
    )


@dataclass(slots=True)
class _Flight:
    """The pairs that one request is looking up or computing; guarded by the lock of its Cached."""

    answers: dict[bytes, _Answer] = field(default_factory=dict)
    over: bool = False


@dataclass(frozen=True, slots=True)
class _Air:
    """The flights under way in one process; those of its parent did not survive the fork."""

    flights: dict[bytes, _Flight] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=lambda: threading.Condition(threading.Lock()))


class Cached:
    """A scorer that asks `scorer` only for what `store` does not have.

    `key` stands for all that a score depends on beside the query and the text; two scorers that may give
    different scores must have different keys.

    Callers in several threads that ask for the same pair at once compute it once: the others wait, no longer
    than their own deadline allows, and compute it themselves where the first one fails or is stopped by its
    deadline. Across processes that share a Redis a pair may be computed twice.

    Deadlines: once time is up nothing is looked up. Before that, what the store has counts as scored,
    wherever it stands; the rest is scored in the order given.

    The trace: `pairs_scored` counts the pairs that have a score; tokens, padding and truncation are of what was
    computed now. `detail["cache"]` has `hits` (from the store), `waited` (taken from another request that was at
    it), `misses`, `hit_rate` (hits among these three, 0.0 where nothing was looked up), and `unreachable`, the
    reason, where the store could not be reached.
    """

    def __init__(self, scorer: Scorer, store: Store, key: bytes) -> None:
        self.scorer = scorer
        self.store = store
        self._seed = blake2b(key, digest_size=32).digest()
        self._air = _PerProcess(_Air)

    def score(self, query: str, texts: Sequence[object], *, deadline: Deadline = NEVER) -> Scores:
        """As the scorer answers, from the store where it can."""
        began = time.perf_counter()
        keys = [None] * len(texts) if deadline.passed else self._keys(query, texts)
        first: dict[bytes, int] = {}  # where a text stands first; the same text again has the same score
        for i, key in enumerate(keys):
            if key is not None:
                first.setdefault(key, i)
        unnamed = [i for i, key in enumerate(keys) if key is None]
        answers: dict[int | bytes, _Answer] = {}
        stored: set[bytes] = set()
        waited: set[bytes] = set()
        traces: list[StageTrace] = []
        problems: list[str] = []
        left = list(first)
        while not traces or (left and not deadline.passed):
            flight, mine, theirs = self._board(left)
            try:
                found = self._look_up(mine, deadline, problems)
                self._land(flight, found)
                # the first ones first, for a deadline stops the scorer on its way
                asked = sorted([*unnamed, *(first[key] for key in mine if key not in found)])
                scores = self.scorer.score(query, [texts[i] for i in asked], deadline=deadline)  # type: ignore[misc]
                rows = zip(scores.values, scores.statuses, scores.spans, strict=True)
                computed = {keys[i] or i: row for i, row in zip(asked, rows, strict=True)}
                self._land(flight, {key: row for key, row in computed.items() if isinstance(key, bytes)})
                self._keep(computed, deadline, problems)
            finally:
                self._leave(flight, mine)
            answers |= computed
            answers.update(found.items())
            stored |= found.keys()
            traces.append(scores.trace)
            landed = self._wait(theirs, deadline)
            answers.update(landed.items())
            waited |= landed.keys()
            left, unnamed = [key for key in theirs if key not in landed], []
        unanswered = set(left)
        late = sum(key in unanswered for key in keys)
        stopped: _Answer = (None, Status.DEADLINE, None)
        out = [answers.get(key or i, stopped) for i, key in enumerate(keys)]
        hits, joined = sum(key in stored for key in keys), sum(key in waited for key in keys)
        looked_up = len(keys) - keys.count(None)
        cache: dict[str, Any] = {
            "hits": hits,
            "misses": looked_up - hits - joined,
            "waited": joined,
            "hit_rate": hits / looked_up if looked_up else 0.0,
        }
        if problems:
            cache["unreachable"] = problems[0]
        return Scores(
            tuple(value for value, _, _ in out),
            tuple(status for _, status, _ in out),
            tuple(span for _, _, span in out),
            _trace(began, out, traces, cache, late),
        )

    def _keys(self, query: str, texts: Sequence[object]) -> list[bytes | None]:
        """The name of each pair; None for what is no text, or blank."""
        asked = blake2b(_encoded(query), key=self._seed, digest_size=32).digest()
        return [
            blake2b(_encoded(text), key=asked, digest_size=_KEY_BYTES).digest()
            if isinstance(text, str) and text and not text.isspace()
            else None
            for text in texts
        ]

    def _look_up(self, keys: list[bytes], deadline: Deadline, problems: list[str]) -> dict[bytes, _Answer]:
        if not keys:
            return {}
        try:
            values = self.store.get(keys, within=deadline.remaining())
        except CacheUnreachableError as error:
            problems.append(str(error))
            return {}
        rows = ((key, _unpacked(value)) for key, value in zip(keys, values, strict=True) if value is not None)
        return {key: row for key, row in rows if row is not None}

    def _keep(self, computed: Mapping[int | bytes, _Answer], deadline: Deadline, problems: list[str]) -> None:
        new = {
            key: _packed(value, span)
            for key, (value, status, span) in computed.items()
            if isinstance(key, bytes) and status is Status.SCORED and value is not None and math.isfinite(value)
        }
        if new:
            try:
                self.store.put(new, within=deadline.remaining())
            except CacheUnreachableError as error:
                problems.append(str(error))

    # Who computes what. A pair is boarded before it is looked up and left after it is stored, so whoever
    # comes finds either the flight or the score. Everyone computes before waiting, so nobody waits in a circle.

    def _board(self, keys: Iterable[bytes]) -> tuple[_Flight, list[bytes], dict[bytes, _Flight]]:
        """A new flight, the keys that are its own, and those that others have under way."""
        flight, mine, theirs = _Flight(), [], {}
        air = self._air()
        with air.changed:
            for key in keys:
                other = air.flights.get(key)
                if other is None:
                    air.flights[key] = flight
                    mine.append(key)
                else:
                    theirs[key] = other
        return flight, mine, theirs

    def _land(self, flight: _Flight, answers: Mapping[bytes, _Answer]) -> None:
        """Hand answers to those who wait; not that time was up or the scorer failed: they have tries of their own."""
        air = self._air()
        with air.changed:
            flight.answers |= {key: row for key, row in answers.items() if row[1] not in _NOT_HANDED_ON}
            air.changed.notify_all()

    def _leave(self, flight: _Flight, mine: Iterable[bytes]) -> None:
        air = self._air()
        with air.changed:
            for key in mine:
                del air.flights[key]
            flight.over = True
            air.changed.notify_all()

    def _wait(self, theirs: Mapping[bytes, _Flight], deadline: Deadline) -> dict[bytes, _Answer]:
        """The answers of others, as far as they come before the deadline."""
        air = self._air()
        with air.changed:
            for key, flight in theirs.items():
                while key not in flight.answers and not flight.over and (seconds := deadline.remaining()) > 0:
                    air.changed.wait(min(seconds, threading.TIMEOUT_MAX))
            return {key: flight.answers[key] for key, flight in theirs.items() if key in flight.answers}


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # different strings stay different, lone surrogates too


def _packed(value: float, span: _Span) -> bytes:
    return _VALUE.pack(value) if span is None else _VALUE_AND_SPAN.pack(value, *span)


def _unpacked(data: bytes) -> _Answer | None:
    """None for what this module did not write: it is computed again and written over."""
    if len(data) == _VALUE_AND_SPAN.size:
        value, start, end = _VALUE_AND_SPAN.unpack(data)
        span: _Span = (start, end)
    elif len(data) == _VALUE.size:
        (value,), span = _VALUE.unpack(data), None
    else:
        return None
    return (value, Status.SCORED, span) if math.isfinite(value) else None


def _trace(
    began: float, out: Sequence[_Answer], traces: Sequence[StageTrace], cache: Mapping[str, Any], late: int
) -> StageTrace:
    """What the scorer did, and what the answer holds."""
    skipped = Counter(str(status) for _, status, _ in out if status is not Status.SCORED)
    told = sum(sum(trace.skipped.values()) for trace in traces)
    because = [trace.skipped_because for trace in traces if trace.skipped_because]
    if late:
        because.append(f"{late}: time was up while another request computed them")
    if (same := sum(skipped.values()) - told - late) > 0:
        because.append(f"{same}: as the same texts, in this or in a concurrent request")
    return StageTrace(
        name=traces[-1].name,
        seconds=time.perf_counter() - began,
        pairs_scored=sum(status is Status.SCORED for _, status, _ in out),
        tokens=sum(trace.tokens for trace in traces),
        padded_tokens=sum(trace.padded_tokens for trace in traces),
        truncated=sum(trace.truncated for trace in traces),
        cut_tokens=sum(trace.cut_tokens for trace in traces),
        skipped=dict(skipped),
        skipped_because="; ".join(because),
        detail={**traces[-1].detail, **spent_by(traces), "cache": dict(cache)},
    )
