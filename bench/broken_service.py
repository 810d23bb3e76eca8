"""A rerank service on loopback that does what it is told, request by request: bench/hosted_faults.py and tests use it.

    with Service(reply(503), scored) as service:      # the first request is refused, all others are answered
        Hosted("compatible", url=service.url).rerank(…)

An action gets the connection and what was asked, and says whether the connection stays open.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

__all__ = [
    "Action",
    "Asked",
    "Service",
    "answered",
    "cut",
    "drip",
    "hang",
    "pour",
    "reply",
    "results",
    "scored",
    "slow",
]


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]
    body: Any
    at: float = field(default_factory=time.monotonic)


Action = Callable[[socket.socket, Asked], bool]


def results(asked: Asked) -> list[dict[str, Any]]:
    """A score for each document, pointwise: the share of the query's letters that it has."""
    letters = set(asked.body["query"])
    return [
        {"index": i, "relevance_score": len(letters & set(text)) / max(len(letters), 1)}
        for i, text in enumerate(asked.body["documents"])
    ]


def reply(status: int, body: object = None, **headers: str) -> Action:
    """A status, a body (bytes as they are, else JSON), and headers (`retry_after="1"`)."""
    raw = body if isinstance(body, bytes) else json.dumps({"message": "not now"} if body is None else body).encode()

    def act(connection: socket.socket, asked: Asked) -> bool:
        connection.sendall(_head(status, len(raw), headers) + raw)
        return True

    return act


def answered(change: Callable[[list[dict[str, Any]]], object]) -> Action:
    """What the service would answer, changed. NaN and Infinity go out as Python writes them."""

    def act(connection: socket.socket, asked: Asked) -> bool:
        raw = json.dumps(change(results(asked))).encode()
        connection.sendall(_head(200, len(raw), {}) + raw)
        return True

    return act


scored = answered(lambda rows: {"results": rows, "usage": {"total_tokens": 10 * len(rows)}})
"""The right answer."""


def slow(seconds: float, then: Action = scored) -> Action:
    """Another action, later."""

    def act(connection: socket.socket, asked: Asked) -> bool:
        time.sleep(seconds)
        return then(connection, asked)

    return act


def drip(head: bytes, every: float, seconds: float) -> Action:
    """A byte now and then, behind `head`, which never becomes an answer."""

    def act(connection: socket.socket, asked: Asked) -> bool:
        connection.sendall(head)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            connection.sendall(b" ")
            time.sleep(every)
        return False

    return act


def cut(asked_bytes: int) -> Action:
    """So many bytes of the right answer, then the connection is closed."""

    def act(connection: socket.socket, asked: Asked) -> bool:
        raw = json.dumps({"results": results(asked)}).encode()
        connection.sendall((_head(200, len(raw), {}) + raw)[:asked_bytes])
        return False

    return act


def pour(connection: socket.socket, asked: Asked) -> bool:
    """An answer without end, as fast as it is taken."""
    connection.sendall(_head(200, 10**12, {}))
    while True:
        connection.sendall(b" " * 1_000_000)


def hang(connection: socket.socket, asked: Asked) -> bool:
    """Nothing, until the client has gone."""
    with contextlib.suppress(OSError):
        connection.recv(1)
    return False


def _head(status: int, length: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {length}", "Content-Type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Service:
    """Takes requests on a free port: the first one gets the first action, and so on; the last action is for all others.

    asked: what was asked so far. most: the largest number of requests that were there at once.
    """

    def __init__(self, *actions: Action) -> None:
        self._actions = actions or (scored,)
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self.asked: list[Asked] = []
        self.most = self._now = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Service:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            still = [self._listener, *self._open]
        for one in still:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(connection,))
                with self._lock:
                    self._open.add(connection)
                    self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            rest = b""
            while (read := _read(connection, rest)) is not None:
                asked, rest = read
                with self._lock:
                    action = self._actions[min(len(self.asked), len(self._actions) - 1)]
                    self.asked.append(asked)
                    self._now += 1
                    self.most = max(self.most, self._now)
                try:
                    if not action(connection, asked):
                        break
                finally:
                    with self._lock:
                        self._now -= 1
        with self._lock:
            self._open.discard(connection)


def _read(connection: socket.socket, rest: bytes) -> tuple[Asked, bytes] | None:
    """The next request, and what came after it; None where there is none."""
    while b"\r\n\r\n" not in rest:
        if not (part := connection.recv(65_536)):
            return None
        rest += part
    head, _, rest = rest.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    while len(rest) < length:
        if not (part := connection.recv(65_536)):
            return None
        rest += part
    return Asked(first.split(" ")[1], headers, json.loads(rest[:length])), rest[length:]
