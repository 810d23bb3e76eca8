"""Faults that are quick to cause: engines that raise or hang, protocol tricks, peers that vanish. Whatever it was, the
next request is answered right. The slow ones are in bench/faults.py."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from secondpass.monitoring.request_log import RequestLog
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.batching import Batch
from secondpass.scoring.engines import Logits
from secondpass.types import as_ranking
from serving.running import running, served

TEXTS = ["the river bank", "sort a list in python", "date of the file", "snake river list"]
QUERY = "sort the list"
ASK = json.dumps({"query": QUERY, "documents": TEXTS}).encode()


@contextmanager
def broken(model: CrossEncoder) -> Iterator[list[str]]:
    """The engine does what the last word of the list says: works, raises, or waits until another word is there."""
    scorer, words, engine = model.scorer, ["work"], model.scorer.engine

    def infer(batch: Batch) -> Logits:
        if words[-1] == "raise":
            raise RuntimeError("the engine broke")
        while words[-1] == "hang":
            time.sleep(0.005)
        return engine.infer(batch)

    scorer.engine = replace(engine, infer=infer)
    try:
        yield words
    finally:
        words.append("work")
        scorer.engine = engine


@pytest.fixture
def right(model: CrossEncoder) -> RightScores:
    return RightScores(model)


class RightScores:
    """What the library says of ASK."""

    def __init__(self, model: CrossEncoder) -> None:
        hits = model.rerank(as_ranking(QUERY, TEXTS)).hits
        self._expected = {int(hit.document.id): 1 / (1 + np.exp(-(hit.score or 0.0))) for hit in hits}

    def check(self, url: str, answer: httpx.Response | None = None) -> None:
        answer = answer or httpx.post(f"{url}/v1/rerank", content=ASK, timeout=20)
        assert answer.status_code == 200, answer.text
        found = {one["index"]: one["relevance_score"] for one in answer.json()["results"]}
        assert found == pytest.approx(self._expected, rel=1e-3)


def eventually(happened: object, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def exchanged(url: str, raw: bytes) -> list[bytes]:
    """Send it as it is; the answers until the server closes, each from its status on."""
    place = urlsplit(url)
    parts = []
    with socket.create_connection((str(place.hostname), int(place.port or 0)), timeout=10) as client:
        client.sendall(raw)
        with contextlib.suppress(OSError):
            while part := client.recv(65_536):
                parts.append(part)
    return b"".join(parts).split(b"HTTP/1.1 ")[1:]


def head(*lines: str, length: int | None = len(ASK)) -> bytes:
    sized = [] if length is None else [f"Content-Length: {length}"]
    return "\r\n".join(["POST /v1/rerank HTTP/1.1", "Host: x", *sized, *lines, "", ""]).encode()


def test_an_engine_that_raises_fails_its_requests_and_no_others(model: CrossEncoder, right: RightScores) -> None:
    with broken(model) as words, running(served(model)) as url:
        right.check(url)
        words.append("raise")
        failed = httpx.post(f"{url}/v1/rerank", content=ASK)
        assert failed.status_code == 500
        assert "the engine broke" not in failed.text  # what is inside stays inside
        words.append("work")
        right.check(url)


def test_a_scorer_that_hangs_is_said_and_deadlines_hold(model: CrossEncoder, right: RightScores) -> None:
    server = served(model, probe_every=0.05)
    with broken(model) as words, running(server) as url:
        right.check(url)
        words.append("hang")
        began = time.monotonic()
        limited = httpx.post(f"{url}/v1/rerank", content=ASK[:-1] + b', "deadline_ms": 100}', timeout=20)
        assert limited.status_code == 200
        assert time.monotonic() - began < 3
        assert {one["status"] for one in limited.json()["results"]} == {"deadline"}
        eventually(lambda: httpx.get(f"{url}/ready").status_code == 503)
        eventually(lambda: httpx.get(f"{url}/health").status_code == 503)
        with pytest.raises(httpx.ReadTimeout):  # without a deadline it has all the time there is
            httpx.post(f"{url}/v1/rerank", content=ASK, timeout=0.3)
        words.append("work")
        eventually(lambda: httpx.get(f"{url}/health").status_code == 200)
        eventually(lambda: httpx.get(f"{url}/ready").status_code == 200)
        eventually(lambda: server.admission.count == 0)  # who had left is forgotten
        right.check(url)


TRICKS = {
    "pipelined": ((head() + ASK) * 2 + head("Connection: close") + ASK, [b"200"] * 3),
    "two lengths": (head("Content-Length: 5") + ASK, [b"400"]),
    "negative length": (head(length=-1) + ASK, [b"400"]),
    "smuggled": (
        head("Transfer-Encoding: chunked", length=6) + b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        [b"400"],
    ),
    "a chunk of no size": (head("Transfer-Encoding: chunked", length=None) + b"zz\r\n" + ASK, [b"400"]),
    "xchunked": (head("Transfer-Encoding: xchunked", length=None) + ASK, [b"400"]),
    "a bare line feed": (head("X-A: b\nX-B: c") + ASK, [b"400"]),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), [b"400"]),
    "HTTP/1.0": (b"POST /v1/rerank HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(ASK), ASK), [b"200"]),
}


def test_protocol_tricks_are_refused_and_cost_nobody_else(url: str, right: RightScores) -> None:
    for name, (raw, statuses) in TRICKS.items():
        assert [answer[:3] for answer in exchanged(url, raw)] == statuses, name
        right.check(url)


ODD = {
    "no UTF-8": (ASK.replace(b"river", b"\xff\xfe"), 400),
    "a lone surrogate": (ASK.replace(b"river", rb"\ud800"), 400),
    "NaN": (ASK[:-1] + b', "deadline_ms": NaN}', 400),
    "infinite": (ASK[:-1] + b', "deadline_ms": 1e999}', 400),
    "null": (b"null", 400),
    "nothing": (b"", 400),
    "a key twice, of which the last counts": (b'{"query": "x", ' + ASK[1:], 200),
    "a long time": (ASK[:-1] + b', "deadline_ms": 1e308}', 200),
    "a large count": (ASK[:-1] + b', "top_n": ' + b"9" * 400 + b"}", 200),
}


def test_odd_bodies(url: str, right: RightScores) -> None:
    for name, (body, status) in ODD.items():
        answer = httpx.post(f"{url}/v1/rerank", content=body, timeout=20)
        assert answer.status_code == status, f"{name}: {answer.text}"
        right.check(url, answer if status == 200 else None)


def test_nothing_of_a_body_becomes_a_header(url: str) -> None:
    named = ASK[:-1] + rb', "model": "x\r\nSet-Cookie: a=b"}'
    (answer,) = exchanged(url, head("Connection: close", length=len(named)) + named)
    assert answer.startswith(b"200")
    assert b"set-cookie" not in answer.partition(b"\r\n\r\n")[0].lower()


def test_clients_that_leave_in_the_middle_leave_nothing_behind(model: CrossEncoder, right: RightScores) -> None:
    server = served(model)
    with running(server) as url:
        place = urlsplit(url)
        for _ in range(30):
            with socket.create_connection((str(place.hostname), int(place.port or 0))) as client:
                client.sendall(head(length=10_000) + b'{"query')
        right.check(url)
        assert server.admission.count == 0


def test_slow_writers_keep_nobody_else_waiting(model: CrossEncoder, right: RightScores) -> None:
    with running(served(model)) as url, contextlib.ExitStack() as stack:
        place = urlsplit(url)
        for begun in (b"", b"POST /v1/rerank HTTP/1.1\r\nX-", head(length=1000) + b"{"):
            for _ in range(20):
                client = socket.create_connection((str(place.hostname), int(place.port or 0)))
                stack.enter_context(client).sendall(begun)
        right.check(url)


def test_answers_do_not_wait_for_a_log_that_is_locked(model: CrossEncoder, right: RightScores, tmp_path: Path) -> None:
    file = tmp_path / "log.db"
    log = RequestLog(f"sqlite:///{file}")
    log.open()
    with running(served(model, log=log)) as url:
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            for _ in range(5):
                right.check(url)
            assert log.counts.written == 0
            other.execute("ROLLBACK")
        eventually(lambda: log.counts.written == 5)
        for part in tmp_path.glob("log.db*"):  # and one that was deleted is made anew
            part.unlink()
        right.check(url)
        eventually(lambda: log.counts.written == 6)
    assert len(list(log.requests())) == 1
    assert not [one for one in threading.enumerate() if one.name == "secondpass-log"]
