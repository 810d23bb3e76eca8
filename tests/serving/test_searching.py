"""Searches over HTTP, the log of what was shown, clicks, and the shadow that reranks beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from secondpass.cascade import Cascade, Stage
from secondpass.monitoring.request_log import RequestLog
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.rerankers.fallback import Fallback
from secondpass.retrievers.bm25 import BM25
from secondpass.selection.near_duplicates import NearDuplicates
from secondpass.selection.token_budget import TokenBudget
from secondpass.serving.models import Served
from secondpass.serving.server import Server
from secondpass.serving.shadow import Shadow
from secondpass.types import NEVER, Deadline, Document, Ranking, as_ranking
from serving.running import running, served
from serving.test_server import ASK, QUERY, TEXTS, eventually

DOCUMENTS = [Document(f"d{i}", text, f"title {i}") for i, text in enumerate(TEXTS)]


@pytest.fixture
def log(tmp_path: Path) -> RequestLog:
    pytest.importorskip("sqlalchemy", reason="needs the extra log")
    return RequestLog(f"sqlite:///{tmp_path / 'requests.db'}")


@pytest.fixture
def cascade(model: CrossEncoder) -> Cascade:
    return Cascade(BM25.build(DOCUMENTS), Stage(Served("tiny", lambda: model), depth=2))


@pytest.fixture
def url(model: CrossEncoder, cascade: Cascade, log: RequestLog) -> Iterator[str]:
    with running(served(model, search=cascade, log=log)) as base:
        yield base


def test_a_search_is_what_the_cascade_finds(url: str, cascade: Cascade) -> None:
    expected = cascade.search(QUERY, 3)
    found = httpx.post(f"{url}/v1/search", json={"query": QUERY, "top_k": 3}).json()
    assert [one["id"] for one in found["results"]] == list(expected.ids)
    assert [one["status"] for one in found["results"]] == [str(hit.status) for hit in expected.hits]
    assert found["results"][0]["text"] == expected.hits[0].document.text
    relevance = [one["relevance_score"] for one in found["results"]]
    assert relevance == sorted(relevance, reverse=True)
    assert [step["scored"] for step in found["trace"]][1:] == [2]  # the depth of the stage
    without = httpx.post(f"{url}/v1/search", json={"query": QUERY, "return_documents": False}).json()
    assert "text" not in without["results"][0]


def test_the_deadline_is_the_first_stage_s_too(model: CrossEncoder, cascade: Cascade) -> None:
    """A first stage that takes a deadline gets what is left of the request's, and none where there is none."""
    left: list[float] = []

    class Watched:
        def retrieve(self, query: str, k: int, *, deadline: Deadline = NEVER) -> Ranking:
            left.append(deadline.remaining())
            assert cascade.retriever is not None
            return cascade.retriever.retrieve(query, k)

    with running(served(model, search=Cascade(Watched(), *cascade.stages))) as base:
        for body in ({"query": QUERY, "deadline_ms": 30_000}, {"query": QUERY}):
            assert httpx.post(f"{base}/v1/search", json=body).status_code == 200
    bounded, free = left
    assert 0.0 < bounded < 30.0
    assert free == float("inf")


@pytest.mark.parametrize("body", ["{", '{"query": ""}', '{"query": "a", "top_k": 0}', '{"query": 1}', "[]"])
def test_a_search_that_cannot_be_meant(url: str, body: str) -> None:
    found = httpx.post(f"{url}/v1/search", content=body)
    assert found.status_code == 400
    assert found.json()["message"]


def test_what_a_prompt_does_not_need_is_removed_with_a_reason(model: CrossEncoder, log: RequestLog) -> None:
    twice = [*DOCUMENTS, Document("copy", TEXTS[0])]
    other = Served("other", lambda: model, preload=False)
    stages = [Stage(Served("tiny", lambda: model))]
    cascade = Cascade(BM25.build(twice), *stages, select=[NearDuplicates(), TokenBudget(15)])
    server = served(model, search=cascade, log=log, shadow=Shadow(other, 1.0))
    with running(server) as base:
        found = httpx.post(f"{base}/v1/search", json={"query": "river list file"}).json()
        eventually(lambda: "secondpass_shadow_overlap_count" in httpx.get(f"{base}/metrics").text)
        metrics = httpx.get(f"{base}/metrics").text
    expected = cascade.search("river list file")
    whole = cascade.rerank(cascade.first_stage("river list file"))
    assert (len(expected), len(whole)) == (2, 5)
    assert [one["id"] for one in found["results"]] == list(expected.ids)
    assert [step["removed"] for step in found["trace"]] == [step.detail.get("removed", {}) for step in expected.trace]
    assert {"d0", "copy"} & found["trace"][2]["removed"].keys()
    logged = {one.id.endswith("-shadow"): one for one in log.requests()}
    assert [one.document for one in logged[False].shown] == list(expected.ids)
    assert logged[False].digest == model.scorer.checkpoint.digest  # the model's, not the selector's
    assert [one.document for one in logged[True].shown] == list(whole.ids)
    assert 'secondpass_shadow_overlap_sum{model="tiny",shadow="other"} 1.0' in metrics  # whole rankings are compared


def test_nothing_found_is_an_answer(url: str) -> None:
    found = httpx.post(f"{url}/v1/search", json={"query": "zebra"}).json()
    assert found["results"] == []


def test_without_index_or_log_it_says_what_is_missing(model: CrossEncoder) -> None:
    with running(served(model)) as base:
        assert "retriever.index" in httpx.post(f"{base}/v1/search", json={"query": "a"}).json()["message"]
        clicked = httpx.post(f"{base}/v1/clicks", json={"request_id": "a", "index": 0})
        assert clicked.status_code == 404
        assert "request_log.url" in clicked.json()["message"]


def test_what_was_shown_and_clicked_is_in_the_log(url: str, model: CrossEncoder, log: RequestLog) -> None:
    documents = [{"id": "first", "text": TEXTS[0]}, *TEXTS[1:]]
    answer = httpx.post(f"{url}/v1/rerank", json={"query": QUERY, "documents": documents}).json()
    searched = httpx.post(f"{url}/v1/search", json={"query": QUERY, "top_k": 2}).json()

    def clicked(**body: Any) -> tuple[int, str]:
        found = httpx.post(f"{url}/v1/clicks", json=body)
        return found.status_code, found.json().get("outcome", found.json().get("message"))

    assert clicked(request_id=answer["id"], document_id="first") == (200, "recorded")
    assert clicked(request_id=answer["id"], index=2, kind="bought") == (200, "recorded")
    assert clicked(request_id=searched["id"], document_id=searched["results"][1]["id"]) == (200, "recorded")
    assert clicked(request_id=answer["id"], document_id="other")[0] == 404
    assert clicked(request_id="nobody", index=0)[0] == 404
    assert clicked(request_id=answer["id"])[0] == 400
    first, second = log.requests()
    ranked = model.rerank(as_ranking(QUERY, TEXTS))
    assert (first.id, first.query, first.digest) == (answer["id"], QUERY, model.scorer.checkpoint.digest)
    assert [one.index for one in first.shown] == [int(hit.document.id) for hit in ranked.hits]
    assert [one.score for one in first.shown] == pytest.approx([hit.score for hit in ranked.hits], abs=1e-4)
    assert first.shown[[one.index for one in first.shown].index(0)].document == "first"
    assert [click.kind for click in first.clicks] == ["click", "bought"]
    assert [one.document for one in second.shown] == [one["id"] for one in searched["results"]]
    assert second.clicks[0].position == 2
    assert {"total", "rerank", "measured"} <= first.timings.keys()


def test_each_reranker_that_was_asked_is_counted_by_its_own_name(model: CrossEncoder) -> None:
    class Broken:
        def rerank(self, ranking: Any, **_: Any) -> Any:
            raise ValueError("no answer")

    last = Served("last", lambda: model)
    stages = Stage(Fallback(Broken(), model), depth=2), Stage(last, depth=1)
    with running(served(model, search=Cascade(BM25.build(DOCUMENTS), *stages))) as base:
        found = httpx.post(f"{base}/v1/search", json={"query": QUERY, "top_k": 3}).json()
        counted = httpx.get(f"{base}/metrics").text
    assert [step["scored"] for step in found["trace"]][1:] == [0, 2, 1]
    scored = 'secondpass_documents_total{{model="{}",status="{}"}} {}.0'
    assert scored.format("broken", "failed", 2) in counted
    assert scored.format(model.name, "scored", 2) in counted
    assert scored.format("last", "scored", 1) in counted


def test_a_shadow_sees_what_was_asked_and_changes_nothing(model: CrossEncoder, log: RequestLog) -> None:
    class Backwards:
        """The ranking turned round."""

        def __getattr__(self, name: str) -> Any:
            return getattr(model, name)

        def rerank(self, ranking: Any, **_: Any) -> Any:
            from dataclasses import replace

            found = model.rerank(ranking)
            return replace(found, hits=found.hits[::-1])

    other = Served("other", Backwards, preload=False)
    one = Served("tiny", lambda: model)
    with running(Server([one, other], shadow=Shadow(other, 1.0), log=log)) as base:
        answer = httpx.post(f"{base}/v1/rerank", json=ASK).json()
        eventually(lambda: "secondpass_shadow_overlap_count" in httpx.get(f"{base}/metrics").text)
        page = httpx.get(f"{base}/metrics").text
    expected = model.rerank(as_ranking(QUERY, TEXTS))
    assert [str(result["index"]) for result in answer["results"]] == list(expected.ids)
    assert 'secondpass_shadow_overlap_sum{model="tiny",shadow="other"} 1.0' in page  # four documents, all in the top 10
    shown = {request.id: [one.index for one in request.shown] for request in log.requests()}
    assert shown[f"{answer['id']}-shadow"] == shown[answer["id"]][::-1]


def test_what_the_shadow_made_is_logged_with_its_request_or_not_at_all(model: CrossEncoder, tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy", reason="needs the extra log")
    half = RequestLog(f"sqlite:///{tmp_path / 'half.db'}", sample=0.5)
    other = Served("other", lambda: model, preload=False)
    with running(Server([Served("tiny", lambda: model), other], shadow=Shadow(other, 1.0), log=half)) as base:
        for number in range(1, 21):
            assert httpx.post(f"{base}/v1/rerank", json=ASK).status_code == 200
            counted = f'secondpass_shadow_overlap_count{{model="tiny",shadow="other"}} {number}.0'
            eventually(lambda counted=counted: counted in httpx.get(f"{base}/metrics").text)
    ids = {request.id for request in half.requests()}
    asked = {one for one in ids if not one.endswith("-shadow")}
    assert 0 < len(asked) < 20
    assert ids == asked | {f"{one}-shadow" for one in asked}


def test_a_shadow_that_fails_is_counted_and_nobody_else_is_hurt(model: CrossEncoder) -> None:
    def broken() -> CrossEncoder:
        raise ValueError("no such weights")

    other = Served("other", broken, preload=False)
    with running(Server([Served("tiny", lambda: model), other], shadow=Shadow(other, 1.0))) as base:
        assert httpx.post(f"{base}/v1/rerank", json=ASK).status_code == 200
        failed = 'secondpass_shadow_failures_total{model="tiny",shadow="other"} 1.0'
        eventually(lambda: failed in httpx.get(f"{base}/metrics").text)
        assert httpx.post(f"{base}/v1/rerank", json=ASK).status_code == 200


@pytest.mark.parametrize("sample", [0.0, 0.3, 1.0])
def test_the_sample_of_the_shadow_is_drawn_by_the_id(model: CrossEncoder, sample: float) -> None:
    done: list[object] = []
    shadow = Shadow(Served("tiny", lambda: model), sample)
    ranking = as_ranking(QUERY, TEXTS)

    def drawn() -> list[bool]:
        done.clear()
        found: list[bool] = []
        for number in range(40):
            found.append(shadow.offer(f"request {number}", ranking, done.append))
            eventually(lambda: len(done) == sum(found))  # so that there is room for the next
        return found

    first, second = drawn(), drawn()
    assert first == second
    assert abs(sum(first) / 40 - sample) < 0.25
    shadow.close()
