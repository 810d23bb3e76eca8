"""What arrives on the wire and should not: bodies, protocol tricks, peers that are slow or vanish. For bench/faults.py.

Every row is one running server's; beside what is said of the fault, the next normal request must have right scores.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from faults_running import QUERY, TEXTS, Place, Row, Serving, seconds, waited

_CONCEALED = 19  # TCP_REPAIR: a socket in this state is closed without a word to the peer
_ESTABLISHED = "01"
_COOKIE = b"\r\nSet-Cookie"
MEGA = 1_000_000
SLOW = 5.0  # seconds: a normal request that takes longer was kept waiting by the fault
ASK = json.dumps({"query": QUERY, "documents": TEXTS}).encode()


@dataclass(frozen=True, slots=True)
class Body:
    """A body that cannot be meant, or only just; `scored`: the four texts in it still have their right scores."""

    fault: str
    how: str
    raw: bytes
    statuses: tuple[int, ...]
    scored: bool = False


def _with(*more: str) -> bytes:
    """The four texts and these further documents, as JSON writes them."""
    return json.dumps({"query": QUERY, "documents": [*TEXTS, *more]}).encode()


def bodies() -> list[Body]:
    """All of them."""
    last = ASK[:-2]  # another document may follow, and then what closes both
    deep = last + b"," + b'{"a":' * 900 + b"1" + b"}" * 900 + b"]}"
    alone = {"documents": TEXTS}

    def query(text: str) -> bytes:
        return json.dumps({"query": text, **alone}).encode()

    def option(text: bytes) -> bytes:
        return ASK[:-1] + b"," + text + b"}"

    return [
        Body("malformed JSON", "a body that stops in the middle", ASK[:-10], (400,)),
        Body("malformed JSON", "no body at all", b"", (400,)),
        Body("malformed JSON", "null in place of an object", b"null", (400,)),
        Body("wrong types", "documents is an object", b'{"query":"a","documents":{"0":{}}}', (400,)),
        Body("deep nesting", "100,000 open brackets", b'{"query":"a","documents":' + b"[" * 100_000, (400,)),
        Body("deep nesting", "a document of 900 objects within each other", deep, (200,), scored=True),
        Body("invalid UTF-8", "bytes ff fe within a document", ASK.replace(b"river", b"\xff\xfe"), (400,)),
        Body("NaN, Infinity", "as documents", b'{"query":"a","documents":[NaN,Infinity,-Infinity]}', (400,)),
        Body("NaN, Infinity", "as deadline_ms", option(b'"deadline_ms":NaN'), (400,)),
        Body("huge numbers", "deadline_ms 1e999, which no float holds", option(b'"deadline_ms":1e999'), (400,)),
        Body("huge numbers", "deadline_ms 1e308", option(b'"deadline_ms":1e308'), (200,), scored=True),
        Body("huge numbers", "top_n of 400 digits", option(b'"top_n":' + b"9" * 400), (200, 400)),
        Body("huge numbers", "a document of 100,000 digits", last + b"," + b"9" * 100_000 + b"]}", (200, 400)),
        Body("duplicate keys", "query twice: the last one counts", b'{"query":"x",' + ASK[1:], (200,), scored=True),
        Body("long query", "1 MB", query("a " * (MEGA // 2)), (400,)),
        Body("long document", "1 MB of words beside the four texts", _with("word " * (MEGA // 5)), (200,), scored=True),
        Body("long document", "1 MB without a space", _with("a" * MEGA), (200,), scored=True),
        Body("lone surrogates", r"\ud800 in a document", _with("x\ud800y"), (200, 400)),
        Body("lone surrogates", r"\ud800 in the query", query("x\ud800y"), (200, 400)),
        Body("control characters", "all, in a document", _with("".join(map(chr, range(32)))), (200,), scored=True),
        Body("control characters", "a query of NULs", query("\0" * 50), (200, 400)),
    ]


def of_bodies(place: Place, server: Serving) -> Iterator[Row]:
    """One row a body."""
    for body in bodies():
        at = server.mark()
        try:
            answer = server.send(body.raw)
            saw, status, found = f"{answer.status} in {seconds(answer.seconds)}", answer.status, answer.body
            if status != 200:
                saw += f": {found['message'][:90]}"
        except (OSError, http.client.HTTPException) as error:
            saw, status, found = type(error).__name__, 0, {}
        ok = status in body.statuses and (not body.scored or server.is_right(found))
        yield _row(server, body.fault, body.how, saw, at, ok)


@dataclass(frozen=True, slots=True)
class Bytes:
    """What is sent on a bare connection; `statuses` are those of the answers, in their order, one of the choices."""

    fault: str
    how: str
    raw: bytes
    statuses: tuple[tuple[int, ...], ...]
    without: bytes = b"\0"  # what must not stand in the answer
    then: bytes = b""  # sent once something came back
    closes: bool = False  # our side for writing, once it was sent


def _head(*lines: str, length: int | None = len(ASK)) -> bytes:
    first = [f"Content-Length: {length}"] if length is not None else []
    return "\r\n".join(["POST /v1/rerank HTTP/1.1", "Host: x", *first, *lines, "", ""]).encode()


def protocol() -> list[Bytes]:
    """All of them."""
    whole, close, coding = _head() + ASK, "Connection: close", "Transfer-Encoding: "
    last = _head(close) + ASK
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(ASK), ASK)
    smuggled = _head(coding + "chunked", length=6) + b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    named = ASK[:-1] + rb',"model":"x\r\nSet-Cookie: a=b"}'
    path = b"POST /v1/%0d%0aSet-Cookie:%20a=b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    old = b"POST /v1/rerank HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(ASK), ASK)
    tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64)

    def coded(name: str, body: bytes = chunks) -> bytes:
        return _head(coding + name, length=None) + body

    refused, done, after = ((400,), ()), ((200,),), ((100, 200),)
    return [
        Bytes("pipelined requests", "three at once", whole + whole + last, ((200, 200, 200),)),
        Bytes("HTTP/1.0", "without Host", old, ((200,),)),
        Bytes("no HTTP/1", "the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ((400,),)),
        Bytes("no HTTP/1", "a TLS greeting", tls, ((400,),)),
        Bytes("wrong Content-Type", "text/plain", _head("Content-Type: text/plain", close) + ASK, ((200,),)),
        Bytes("Transfer-Encoding", "Content-Length and chunked, another request behind", smuggled, refused),
        Bytes("Transfer-Encoding", "two Content-Lengths", _head("Content-Length: 5") + ASK, refused),
        Bytes("Transfer-Encoding", "a negative Content-Length", _head(length=-1) + ASK, refused),
        Bytes("Transfer-Encoding", "xchunked", coded("xchunked"), refused),
        Bytes("Transfer-Encoding", "chunked, identity", coded("chunked, identity"), refused),
        Bytes("Transfer-Encoding", "a chunk's size is no number", coded("chunked", b"zz\r\n" + ASK), refused),
        Bytes("header injection", "a line break in a name", _head(close, length=len(named)) + named, done, _COOKIE),
        Bytes("header injection", "%0d%0a in the path", path, ((404,),), _COOKIE),
        Bytes("header injection", "a bare line feed", _head("X-A: b\nX-C: d", close) + ASK, (*refused, (200,))),
        Bytes("Expect: 100-continue", "the body follows", _head("Expect: 100-continue", close), after, then=ASK),
        Bytes("half-closed connection", "the client closes its side for writing", whole, ((), (200,)), closes=True),
    ]


def of_protocol(place: Place, server: Serving) -> Iterator[Row]:
    """One row each."""
    for one in protocol():
        at, raw = server.mark(), b""
        with server.connect(10.0) as client:
            client.sendall(one.raw)
            if one.closes:
                client.shutdown(socket.SHUT_WR)
            if one.then:
                raw = client.recv(65_536)
                client.sendall(one.then)
            raw += _all_of(client)
        parts = raw.split(b"HTTP/1.1 ")[1:]
        statuses = tuple(int(part[:3]) for part in parts)
        ok = statuses in one.statuses and one.without not in raw
        saw = ", ".join(map(str, statuses)) or "closed without an answer"
        yield _row(server, one.fault, one.how, saw, at, ok)


def large_bodies(place: Place, server: Serving) -> Iterator[Row]:
    """100 MB, with its length and without; the server's memory must stay flat."""
    for how, head, chunked in (
        ("100 MB, with Content-Length", _head(length=100 * MEGA), False),
        ("100 MB, chunked, without a length", _head("Transfer-Encoding: chunked", length=None), True),
        ("30 MB (32 MB are allowed) of one document", b"", False),
    ):
        at, before = server.mark(), server.memory_mb()
        server.forget_peak()
        if head:
            saw, right = _poured(server, head, 100, chunked=chunked)
            most = 40.0
        else:
            answer = server.send({"query": QUERY, "documents": ["a" * 30 * MEGA]})
            saw, right, most = f"{answer.status}: {answer.body['message']}", answer.status == 400, 200.0
        grown = server.peak_mb() - before
        saw += f"; the server's memory rose by {grown:.0f} MB at most"
        yield _row(server, "large body", how, saw, at, right and grown < most)


def long_documents(place: Place, server: Serving) -> Iterator[Row]:
    """As much text as is allowed, with a deadline."""
    for how, text in (("of words", "word " * (MEGA // 5)), ("without a space", "a" * MEGA)):
        at = server.mark()
        answer = server.send({"query": QUERY, "documents": [text] * 30, "deadline_ms": 1000})
        left = sum("status" in one for one in answer.body["results"]) if answer.status == 200 else 0
        saw = f"{answer.status} in {seconds(answer.seconds)}, {left} of 30 not scored by then"
        ok = answer.status == 200 and answer.seconds < SLOW
        yield _row(server, "long documents", f"30 of 1 MB {how}, deadline of 1 s", saw, at, ok)


def endless_headers(place: Place, server: Serving) -> Iterator[Row]:
    """A header without end."""
    for how, head in (
        ("one header of 30 MB", b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: "),
        ("300,000 headers", b"GET /health HTTP/1.1\r\nHost: x\r\n"),
    ):
        at, before = server.mark(), server.memory_mb()
        server.forget_peak()
        part = b"a" * 100_000 if "one" in how else b"".join(b"X-%d: %s\r\n" % (k, b"a" * 80) for k in range(1000))
        sent, slowest = 0, 0.0
        with server.connect() as client:
            try:
                client.sendall(head)
                for k in range(300):
                    client.sendall(part)
                    sent += len(part)
                    if k % 50 == 49:
                        slowest = max(slowest, server.get("/health", timeout=60).seconds)
                saw = f"{sent / MEGA:.0f} MB were taken"
            except OSError as error:
                saw = f"refused after {sent / MEGA:.1f} MB ({type(error).__name__})"
            grown = server.peak_mb() - before
        saw += f"; memory rose by {grown:.0f} MB; others waited {seconds(slowest)} at most"
        yield _row(server, "endless header", how, saw, at, grown < 20 and slowest < SLOW)


def slow_readers(place: Place, server: Serving) -> Iterator[Row]:
    """Large answers, read a byte a second; twice, since what the allocator keeps of the first time is used again."""
    count, at, before = 20, server.mark(), server.memory_mb()
    # time is up at once, so that the answer is there without its scores: what is slow is the reading
    documents = {"query": QUERY, "documents": ["word " * 2000] * 300, "return_documents": True, "deadline_ms": 0}
    body = json.dumps(documents).encode()
    head, grown, slowest, still = _head(length=len(body)), list[float](), 0.0, 0
    for _ in range(2):
        with ExitStack() as stack:
            clients = [stack.enter_context(server.connect(receive=4096)) for _ in range(count)]
            for client in clients:
                client.sendall(head + body)
            slow = _watched(server, clients, place.hold, lambda client: client.recv(1))
            slowest, still = max(slowest, slow), still_open(server)
            grown.append(server.memory_mb() - before)
            flight = server.metric("secondpass_requests_in_flight")
        waited(lambda: still_open(server) == 0, time.monotonic(), 10)
    saw = (
        f"{still} of {count} still open after {place.hold:.0f} s, no requests in flight; others were answered within "
        f"{seconds(slowest)}; memory rose by {grown[0] / count:.1f} MB each, the second time by "
        f"{(grown[1] - grown[0]) / count:.1f} MB more"
    )
    how = f"{count} clients ask for answers of {3 * len(body) / MEGA:.0f} MB and read a byte a second, twice"
    yield _row(server, "slow readers", how, saw, at, flight == 0 and slowest < SLOW and grown[1] < 1.3 * grown[0] + 20)


def slow_writers(place: Place, server: Serving) -> Iterator[Row]:
    """Headers and bodies, a byte a second; and connections that never say a word."""
    count = 200
    for how, head in (
        ("connections that say nothing", b""),
        ("clients, headers a byte a second", b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nX-Slow: "),
        ("clients, a body a byte a second", _head(length=1000) + b"{"),
    ):
        at, before = server.mark(), server.memory_mb()
        with ExitStack() as stack:
            clients = [stack.enter_context(server.connect()) for _ in range(count)]
            for client in clients:
                client.sendall(head)
            slowest = _watched(server, clients, place.hold, partial(_said, b" " if head else b""))
            still, grown = still_open(server), server.memory_mb() - before
        saw = (
            f"{still} of {count} still open after {place.hold:.0f} s, {1000 * grown / count:.0f} kB of memory each; "
            f"others were answered within {seconds(slowest)}"
        )
        yield _row(server, "slow writers", f"{count} {how}", saw, at, slowest < SLOW)


def half_open(place: Place, server: Serving) -> Iterator[Row]:
    """Peers that vanish without a word, in the middle of a request and while it is computed."""
    count, documents = (
        50,
        json.dumps({"query": QUERY, "documents": [f"{text} {k}" for k in range(25) for text in TEXTS]}),
    )
    body = documents.encode()
    for how, raw in (
        ("in the middle of the body", _head(length=1000) + b'{"query"'),
        ("once the request was sent", _head(length=len(body)) + body),
    ):
        at = server.mark()
        for _ in range(count):
            client = server.connect()
            client.sendall(raw)
            time.sleep(0.01)
            _vanish(client)
        gone = waited(lambda: still_open(server) == 0, time.monotonic(), place.hold)
        flight = waited(lambda: server.metric("secondpass_requests_in_flight") == 0, time.monotonic(), 60)
        left = still_open(server)
        told = (
            f"{left} of {count} are still taken for open after {place.hold:.0f} s"
            if gone is None
            else f"noticed after {seconds(gone)}"
        )
        saw = f"nobody was there to see; {told}; requests in flight: none after {seconds(flight)}"
        yield _row(
            server,
            "half-open connections",
            f"{count} peers vanish without FIN or RST, {how}",
            saw,
            at,
            flight is not None,
        )


def leaves_mid_body(place: Place, server: Serving) -> Iterator[Row]:
    """A client that closes in the middle of its body."""
    at = server.mark()
    for _ in range(100):
        with server.connect() as client:
            client.sendall(_head(length=10_000) + b'{"query": "')
    closed = waited(lambda: still_open(server) == 0, time.monotonic(), 20)
    saw = f"they had left; all connections were closed after {seconds(closed)}"
    yield _row(
        server, "client leaves mid-body", "100 clients close in the middle of their bodies", saw, at, closed is not None
    )


def _row(server: Serving, fault: str, how: str, saw: str, at: int, ok: bool) -> Row:
    back = server.recovered(time.monotonic())
    return Row(fault, how, saw, server.said(at), back, ok and back is not None)


def _all_of(client: socket.socket) -> bytes:
    """What comes until the end, or until nothing comes any more."""
    parts = []
    with contextlib.suppress(OSError):
        while part := client.recv(65_536):
            parts.append(part)
    return b"".join(parts)


def _poured(server: Serving, head: bytes, megabytes: int, *, chunked: bool) -> tuple[str, bool]:
    """Send so much, whatever comes; what was seen, and whether it was 413 or a closed connection."""
    part = b" " * MEGA
    if chunked:
        part = b"%x\r\n%s\r\n" % (MEGA, part)
    with server.connect() as client:
        sent = 0
        try:
            client.sendall(head)
            for _ in range(megabytes):
                client.sendall(part)
                sent += 1
            cut = ""
        except OSError as error:
            cut = f"{type(error).__name__} after {sent} MB"
        raw = _all_of(client)
    status = raw[9:12].decode() if raw.startswith(b"HTTP/1.1 ") else ""
    return ", ".join(filter(None, [status, cut])), status == "413" or (bool(cut) and not status)


def _watched(
    server: Serving, clients: Sequence[socket.socket], hold: float, each: Callable[[socket.socket], object]
) -> float:
    """Let every client do its bit each second, for `hold` seconds; the seconds of the slowest normal answer."""
    began, slowest = time.monotonic(), 0.0
    while time.monotonic() - began < hold:
        for client in clients:
            with contextlib.suppress(OSError):
                each(client)
        slowest = max(slowest, server.recovered(time.monotonic(), 30) or 99.0)
        time.sleep(1)
    return slowest


def _said(what: bytes, client: socket.socket) -> None:
    client.send(what)


def still_open(server: Serving) -> int:
    """Connections that the server's side takes for open: the kernel's table knows."""
    port = f":{server.port:04X}"
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in list(table)[1:]]
    return sum(row[1].endswith(port) and row[3] == _ESTABLISHED for row in rows)


def _vanish(client: socket.socket) -> None:
    """Close without FIN or RST, as a machine does that loses power. Needs root; else the peer is only silent."""
    try:
        client.setsockopt(socket.IPPROTO_TCP, _CONCEALED, 1)
    except PermissionError:
        raise SystemExit("half-open connections need root (TCP_REPAIR); leave this fault out by --only") from None
    client.close()


FAULTS = {
    "bodies": of_bodies,
    "protocol": of_protocol,
    "large": large_bodies,
    "long": long_documents,
    "headers": endless_headers,
    "readers": slow_readers,
    "writers": slow_writers,
    "halfopen": half_open,
    "leaves": leaves_mid_body,
}
