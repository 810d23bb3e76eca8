"""A running server, asked by HTTP: formats, statuses, limits, keys, deadlines, load, clients that leave, stopping."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.requests import Request
from starlette.types import Message

from secondpass.errors import GoldenError
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.batching import Batch
from secondpass.scoring.engines import Logits
from secondpass.serving.asking import Asker, admitted
from secondpass.serving.keys import Key, Keys, key_digest
from secondpass.serving.server import Limits
from secondpass.types import Deadline, as_ranking
from serving.running import running, served

TEXTS = ["the river bank", "sort a list in python", "date of the file", "snake river list"]
QUERY = "sort the list"
ASK = {"query": QUERY, "documents": TEXTS}


def eventually(happened: Any, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


@contextmanager
def slowed(model: CrossEncoder, seconds: float) -> Iterator[list[int]]:
    """Each batch takes that much longer; the rows of each are noted."""
    scorer, rows, engine = model.scorer, list[int](), model.scorer.engine

    def infer(batch: Batch) -> Logits:
        rows.append(len(batch.ids))
        time.sleep(seconds)
        return engine.infer(batch)

    scorer.engine = replace(engine, infer=infer)
    try:
        yield rows
    finally:
        scorer.engine = engine


def test_the_answer_is_what_the_library_says(url: str, model: CrossEncoder) -> None:
    expected = model.rerank(as_ranking(QUERY, TEXTS))
    scores = [hit.score or 0.0 for hit in expected.hits]
    for path in ("/v1/rerank", "/v2/rerank", "/rerank", "/v1/models/rerank", "/models/rerank"):
        found = httpx.post(url + path, json={**ASK, "model": "any"})
        assert found.status_code == 200
        assert [str(one["index"]) for one in found.json()["results"]] == [hit.document.id for hit in expected.hits]
        relevance = [one["relevance_score"] for one in found.json()["results"]]
        np.testing.assert_allclose(relevance, 1 / (1 + np.exp(-np.array(scores))), rtol=1e-4)
        assert "total;dur=" in found.headers["server-timing"]
    tei = httpx.post(f"{url}/rerank", json={"query": QUERY, "texts": TEXTS, "raw_scores": True}).json()
    np.testing.assert_allclose([one["score"] for one in tei], scores, atol=1e-4)
    score = httpx.post(f"{url}/score", json={"text_1": QUERY, "text_2": TEXTS}).json()["data"]
    assert max(score, key=lambda one: one["score"])["index"] == int(expected.hits[0].document.id)
    bread = httpx.post(f"{url}/v1/reranking", json={"query": QUERY, "input": TEXTS, "top_k": 2}).json()
    assert [one["index"] for one in bread["data"]] == [int(hit.document.id) for hit in expected.hits[:2]]


def test_a_bad_document_costs_nobody_else(url: str) -> None:
    found = httpx.post(f"{url}/v1/rerank", json={"query": "list", "documents": ["a list", None, "", {"text": "b"}, 7]})
    results = found.json()["results"]
    assert {one["index"]: one.get("status") for one in results} == {
        0: None,
        1: "not_text",
        2: "empty",
        3: None,
        4: "not_text",
    }


def test_what_is_no_text_does_not_come_back_as_one(url: str) -> None:
    found = httpx.post(f"{url}/rerank", json={"query": "list", "texts": [["a"], "a list"], "return_text": True}).json()
    assert {one["index"]: one.get("text") for one in found} == {0: None, 1: "a list"}


@pytest.mark.parametrize(
    ("path", "content", "status", "reason"),
    [
        ("/v1/rerank", b"{", 400, "JSON"),
        ("/v1/rerank", b'{"query": "a", "documents": ' + b"[" * 50_000, 400, "JSON"),
        ("/v1/rerank", b"\xff\xfe{}", 400, "JSON"),
        ("/v1/rerank", b'{"query": "a", "documents": [NaN]}', 400, "JSON"),
        ("/v1/rerank", b'{"query": " ", "documents": ["b"]}', 400, "query is empty"),
        ("/v1/rerank", json.dumps({"query": "a", "documents": ["b"] * 201}).encode(), 400, "201 documents"),
        ("/v1/rerank", json.dumps({"query": "a", "documents": ["b" * 20_001]}).encode(), 400, "document 0 has 20,001"),
        ("/v1/rerank", b" " * 200_001, 413, "200,000 bytes"),
        ("/rerank", b'{"query": "a", "texts": []}', 422, "texts is empty"),
        ("/rerank", b'{"query": 1, "texts": ["b"]}', 422, "query"),
        ("/nothing", b"{}", 404, "no such route"),
    ],
)
def test_what_cannot_be_answered_is_said_in_words(
    url: str, path: str, content: bytes, status: int, reason: str
) -> None:
    found = httpx.post(url + path, content=content)
    assert found.status_code == status
    assert reason in found.json()["message"]
    assert found.json()["message"] == found.json()["detail"] == found.json()["error"]
    assert httpx.get(f"{url}/v1/rerank").status_code == 405
    assert httpx.post(f"{url}/v1/rerank", json=ASK).status_code == 200  # and the server is as before


def test_a_body_without_end_is_not_read(url: str) -> None:
    def without_end() -> Iterator[bytes]:
        while True:
            yield b" " * 65_536

    # where the server has answered and closed while we were still writing, there is no answer to read
    with contextlib.suppress(httpx.WriteError, httpx.ReadError):
        assert httpx.post(f"{url}/v1/rerank", content=without_end(), timeout=10).status_code == 413
    assert httpx.post(f"{url}/v1/rerank", json=ASK).status_code == 200


def test_keys(model: CrossEncoder) -> None:
    sent: list[tuple[dict[str, str], int]] = [
        ({}, 401),
        ({"Authorization": "Bearer three"}, 401),
        ({"Authorization": "Bearer one"}, 200),
        ({"Authorization": "two"}, 200),  # as one client sends it
        ({"X-Api-Key": "two"}, 200),
    ]
    with running(served(model, keys=Keys(Key(key_digest(one)) for one in ("one", "two")))) as url:
        for headers, status in sent:
            assert httpx.post(f"{url}/v1/rerank", json=ASK, headers=headers).status_code == status
        assert httpx.get(f"{url}/health").status_code == 200


def test_ready_says_when_the_model_is_not_well(model: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> float:
        raise GoldenError("the golden pairs deviate")

    with running(served(model, probe_every=0.05)) as url:

        def status() -> int:
            return httpx.get(f"{url}/ready").status_code

        eventually(lambda: status() == 200)
        with monkeypatch.context() as patched:
            patched.setattr(type(model.scorer), "check_golden", wrong)
            eventually(lambda: status() == 503)
            assert "deviate" in httpx.get(f"{url}/ready").json()["message"]
            assert httpx.get(f"{url}/health").status_code == 200
        eventually(lambda: status() == 200)  # it came back


@pytest.mark.parametrize("how", ["body", "header", "server", "client"])
def test_a_deadline_gives_the_best_ranking_there_is_by_then(model: CrossEncoder, how: str) -> None:
    many = {"query": QUERY, "documents": [f"{text} {k}" for k in range(40) for text in TEXTS]}
    headers = {"header": {"x-deadline-ms": "300"}, "client": {"x-stainless-read-timeout": "0.33"}}.get(how, {})
    named = {"deadline_ms": 300} if how == "body" else {}
    limits = Limits(deadline=0.3 if how == "server" else None)
    with slowed(model, 0.1), running(served(model, limits=limits)) as url:
        began = time.monotonic()
        found = httpx.post(f"{url}/v1/rerank", json={**many, **named}, headers=headers, timeout=30)
        seconds = time.monotonic() - began
    assert found.status_code == 200
    assert seconds < 3
    results = found.json()["results"]
    assert sorted(one["index"] for one in results) == list(range(160))
    assert "deadline" in {one.get("status") for one in results}
    relevance = [one["relevance_score"] for one in results]
    assert relevance == sorted(relevance, reverse=True)


def test_a_header_that_is_no_number_is_refused(url: str) -> None:
    for value in ("soon", "-1", "nan", "inf"):
        found = httpx.post(f"{url}/v1/rerank", json=ASK, headers={"x-deadline-ms": value})
        assert found.status_code == 400
        assert "x-deadline-ms" in found.json()["message"]


def test_what_is_too_much_is_told_when_to_come_back_and_the_rest_is_answered(model: CrossEncoder) -> None:
    many = {"query": QUERY, "documents": TEXTS * 20}
    with slowed(model, 0.05), running(served(model, limits=Limits(requests=4))) as url, ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda _: httpx.post(f"{url}/v1/rerank", json=many, timeout=60), range(12)))
    statuses = [one.status_code for one in found]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 4
    orders = {tuple(one["index"] for one in each.json()["results"]) for each in found if each.status_code == 200}
    assert len(orders) == 1
    for one in found:
        if one.status_code == 429:
            assert int(one.headers["retry-after"]) >= 1
            assert int(one.headers["retry-after-ms"]) >= 50


def test_nothing_more_is_computed_for_a_client_that_left(model: CrossEncoder) -> None:
    many = {"query": QUERY, "documents": [f"{text} {k}" for k in range(45) for text in TEXTS]}
    body, server = json.dumps(many).encode(), served(model)
    with slowed(model, 0.2) as rows, running(server) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            head = f"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            eventually(lambda: rows and server.admission.ahead)
        eventually(lambda: not server.admission.ahead)
        assert sum(rows) < 180


def test_nothing_more_is_computed_for_a_request_that_is_cancelled(model: CrossEncoder) -> None:
    """As Ray Serve does with the request of a client that left."""
    server, seen = served(model), list[Deadline]()
    begun, hold = threading.Event(), threading.Event()

    async def silence() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    def work(deadline: Deadline) -> None:
        seen.append(deadline)
        begun.set()
        hold.wait(5)

    async def ask() -> None:
        asker = Asker(Request({"type": "http", "headers": []}, silence), time.perf_counter())
        asked = asyncio.create_task(admitted(server, asker, 0.1, math.inf, work))
        await asyncio.to_thread(begun.wait, 5)
        assert not seen[0].passed
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert seen[0].passed
        hold.set()

    asyncio.run(ask())
    assert server.admission.count == 0


def test_what_is_open_is_answered_when_the_server_stops(model: CrossEncoder) -> None:
    many = {"query": QUERY, "documents": TEXTS * 10}
    answers: list[httpx.Response] = []
    server = served(model)
    with slowed(model, 0.2):
        with running(server) as url:
            asked = threading.Thread(
                target=lambda: answers.append(httpx.post(f"{url}/v1/rerank", json=many, timeout=30))
            )
            asked.start()
            eventually(lambda: bool(server.admission.count))
        asked.join(10)
    assert answers[0].status_code == 200
    assert all("status" not in one for one in answers[0].json()["results"])


def test_what_it_is_and_what_it_has(url: str, model: CrossEncoder) -> None:
    info = httpx.get(f"{url}/info").json()
    assert info["model_sha"] == model.scorer.checkpoint.digest
    assert info["max_input_length"] == model.scorer.max_length
    assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == model.name


def test_a_scorer_that_hangs_is_not_ready_and_then_not_alive(model: CrossEncoder) -> None:
    with slowed(model, 0.1), running(served(model, probe_every=0.03)) as url:
        eventually(lambda: httpx.get(f"{url}/health").status_code == 503)
        assert "no answer" in httpx.get(f"{url}/health").json()["message"]
        ready = httpx.get(f"{url}/ready")
        assert ready.status_code == 503
        assert "were not scored within" in ready.json()["message"]
        eventually(lambda: httpx.get(f"{url}/health").status_code == 200)  # it has come back


def test_a_hang_holds_nobody_who_has_left(model: CrossEncoder) -> None:
    body, server = json.dumps(ASK).encode(), served(model)
    with running(server) as url:
        eventually(lambda: not server.unwell)
        with slowed(model, 4.0):
            host, port = url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as client:
                head = f"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
                client.sendall(head.encode() + body)
                eventually(lambda: bool(server.admission.count))
            began = time.monotonic()
            eventually(lambda: not server.admission.count)
            assert time.monotonic() - began < 3  # before the batch came back
