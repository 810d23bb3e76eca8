"""Hosted rerankers: each service against our own server, which speaks their formats, and against one that breaks."""

from __future__ import annotations

import math
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("httpx", reason="needs the extra hosted")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))  # benches are scripts, not a package

from broken_service import Action, Asked, Service, answered, cut, drip, hang, reply, scored, slow
from secondpass.cascade import Stage
from secondpass.errors import InputError
from secondpass.rerankers import remote as remote_module
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.rerankers.fallback import Fallback
from secondpass.rerankers.hosted import Hosted
from secondpass.rerankers.services import Price, services
from secondpass.scoring.cache import MemoryStore
from secondpass.scoring.traces import spent_by
from secondpass.testing import OverlapReranker, check_pointwise, check_reranker
from secondpass.types import Caller, Deadline, Document, Hit, Ranking, StageTrace, Status, as_ranking

TEXTS = ["sort a list in place", "a snake on the river bank", "file date", "the python language"]
OWN = ("tei", "vllm", "infinity", "compatible")


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "_backoff", lambda attempts: 0.01)


Make = Callable[..., Hosted]


@pytest.fixture
def make() -> Iterator[Make]:
    """Hosted rerankers that are closed at the end; without a service's name a compatible one."""
    opened: list[Hosted] = []

    def made(service: Service | str, name: str = "compatible", timeout_s: float = 60.0, **options: Any) -> Hosted:
        url = service if isinstance(service, str) else service.url
        opened.append(Hosted(name, url=url, timeout_s=timeout_s, **options))
        return opened[-1]

    yield made
    for one in opened:
        one.close()


def told(result: Ranking) -> Mapping[str, Any]:
    return result.trace[-1].detail


def by_id(result: Ranking) -> dict[str, Hit]:
    return {hit.document.id: hit for hit in result.hits}


# Against a real server


@pytest.fixture(scope="module")
def model(tiny: Path, cache: Path) -> CrossEncoder:
    return CrossEncoder(tiny, profile="exact", threads=2, cache_dir=cache)


@pytest.fixture(scope="module")
def url(model: CrossEncoder) -> Iterator[str]:
    pytest.importorskip("starlette", reason="needs the extra serve")
    from serving.running import running, served

    with running(served(model)) as base:
        yield base


@pytest.mark.parametrize("name", services())
def test_every_service_keeps_the_promises(name: str, url: str, make: Make) -> None:
    base = url + ("/v1" if services()[name].url.endswith("/v1") else "")
    hosted = make(base, name, key="a-key")
    check_reranker(lambda: hosted)
    check_pointwise(lambda: hosted)


@pytest.mark.parametrize("name", services())
def test_its_scores_are_the_library_s_own(name: str, url: str, make: Make, model: CrossEncoder) -> None:
    base = url + ("/v1" if services()[name].url.endswith("/v1") else "")
    many = [f"{text} {n}" for n in range(20) for text in TEXTS]  # more than one request of 32
    ranked = make(base, name).rerank(as_ranking("sort", many))
    expected = [1 / (1 + math.exp(-logit)) for logit in model.score("sort", many).values if logit is not None]
    assert [by_id(ranked)[str(i)].score for i in range(80)] == pytest.approx(expected, abs=1e-5)
    assert {hit.probability for hit in ranked.hits} == {None}
    assert {hit.span for hit in ranked.hits} == {(0, len(text)) for text in many}
    assert told(ranked)["requests"] == (3 if name == "tei" else 1)
    assert (ranked.trace[-1].tokens > 0) == bool(services()[name].tokens)


def test_a_server_of_ours_says_itself_what_it_could_not_score(url: str, make: Make) -> None:
    query = "sort the list " * 2000  # longer than the tiny model, shorter than what the server reads
    for name in ("compatible", "tei"):
        hosted = make(url, name)
        ranked = hosted.rerank(as_ranking(query, TEXTS))
        assert {hit.status for hit in ranked.hits} == {Status.QUERY_TOO_LONG}
        assert ranked.ids == ("0", "1", "2", "3")
        assert "failed" not in told(ranked)


# What is sent


SENT = {
    "cohere": {"documents": TEXTS, "model": "rerank-v4.0-fast", "top_n": 4},
    "voyage": {"documents": TEXTS, "model": "rerank-2.5", "truncation": True, "return_documents": False},
    "jina": {
        "documents": TEXTS,
        "model": "jina-reranker-v2-base-multilingual",
        "top_n": 4,
        "return_documents": False,
    },
    "mixedbread": {
        "input": TEXTS,
        "model": "mixedbread-ai/mxbai-rerank-large-v2",
        "top_k": 4,
        "return_input": False,
    },
    "zeroentropy": {"documents": TEXTS, "model": "zerank-2", "top_n": 4},
    "tei": {"texts": TEXTS, "truncate": True, "raw_scores": False, "return_text": False},
    "vllm": {"documents": TEXTS, "top_n": 4, "truncate_prompt_tokens": -1},
    "infinity": {"documents": TEXTS, "return_documents": False},
    "compatible": {"documents": TEXTS, "top_n": 4},
}
PATHS = {"cohere": "/v2/rerank", "mixedbread": "/v1/reranking", "zeroentropy": "/models/rerank", "vllm": "/v1/rerank"}


@pytest.mark.parametrize("name", services())
def test_what_a_service_is_sent(name: str, make: Make) -> None:
    with Service(reply(400)) as service:
        make(service, name, key="a-key").rerank(as_ranking("who", TEXTS))
    (asked,) = service.asked
    assert asked.body == {"query": "who", **SENT[name]}
    assert asked.path == PATHS.get(name, "/v2/rerank" if name == "compatible" else "/rerank")
    assert asked.headers["authorization"] == "Bearer a-key"


def test_another_path_model_and_template(make: Make) -> None:
    with Service() as service:
        hosted = make(service, path="/score/them", model="mine", template="{title}: {text} ({year})")
        hosted.rerank(as_ranking("who", [{"id": "a", "title": "One", "text": "two", "year": 3}]))
    (asked,) = service.asked
    assert (asked.path, asked.body["model"]) == ("/score/them", "mine")
    assert asked.body["documents"] == ["One: two (3)"]


def test_documents_go_in_as_few_requests_as_the_service_takes(make: Make) -> None:
    texts = [letter * 100 for letter in "abcdefghij"]
    with Service() as service:
        ranked = make(service, per_request=3, concurrency=1).rerank(as_ranking("ja", texts))
    assert [asked.body["documents"] for asked in service.asked] == [texts[:3], texts[3:6], texts[6:9], texts[9:]]
    assert [asked.body["top_n"] for asked in service.asked] == [3, 3, 3, 1]
    assert ranked.ids == ("0", "9", *"12345678")
    assert {name: hit.score for name, hit in by_id(ranked).items() if hit.score} == {"0": 0.5, "9": 0.5}
    assert (told(ranked)["requests"], told(ranked)["attempts"]) == (4, 4)


def test_a_request_is_no_longer_than_the_service_takes(make: Make) -> None:
    texts = [f"{n}" * 90_000 for n in range(9)]  # of Voyage's 600,000 six fit
    with Service(answered(lambda rows: {"data": rows})) as service:
        ranked = make(service, "voyage", concurrency=1).rerank(as_ranking("1" * 5000, texts))
    assert [len(asked.body["documents"]) for asked in service.asked] == [6, 3]
    assert {hit.status for hit in ranked.hits} == {Status.SCORED}


def test_a_long_document_is_cut_and_the_trace_says_so(make: Make) -> None:
    with Service() as service:
        ranked = make(service, max_chars=5).rerank(as_ranking("ab", ["aaaaaab", "b"]))
    assert service.asked[0].body["documents"] == ["aaaaa", "b"]
    assert {name: hit.span for name, hit in by_id(ranked).items()} == {"0": (0, 5), "1": (0, 1)}
    assert ranked.trace[-1].truncated == 1


def test_what_is_no_text_is_not_sent(make: Make) -> None:
    documents: list[Any] = ["", "ok", " \t", {"text": None}, {"text": 7}, "a \ud800 b"]
    with Service() as service:
        ranked = make(service).rerank(as_ranking("ok", documents))
        empty = make(service).rerank(as_ranking("ok", ["", " "]))
    assert [asked.body["documents"] for asked in service.asked] == [["ok"]]
    statuses = [str(by_id(ranked)[str(i)].status) for i in range(6)]
    assert statuses == ["empty", "scored", "empty", "not_text", "not_text", "not_text"]
    assert "failed" not in told(empty)


def test_a_query_that_might_be_cut_is_not_sent(make: Make) -> None:
    with Service() as service:
        hosted = make(service, "cohere")
        ranked = hosted.rerank(as_ranking("ü" * 1025, TEXTS))
        assert {hit.status for hit in ranked.hits} == {Status.QUERY_TOO_LONG}
        assert ranked.ids == ("0", "1", "2", "3")
        assert "2048 bytes" in ranked.trace[-1].skipped_because
        assert service.asked == []
        hosted.rerank(as_ranking("ü" * 1024, TEXTS))
        make(service, "cohere", query_bytes=10_000).rerank(as_ranking("ü" * 1025, TEXTS))
    assert [len(asked.body["query"]) for asked in service.asked] == [1024, 1025]


def test_a_query_that_cannot_be_sent_is_a_failure(make: Make) -> None:
    with Service() as service:
        ranked = make(service).rerank(as_ranking("a \ud800 b", TEXTS))
    assert service.asked == []
    assert {hit.status for hit in ranked.hits} == {Status.FAILED}
    assert "lone surrogate" in told(ranked)["failed"]


# What fails


FAULTS: dict[str, tuple[Action, str]] = {
    "429": (reply(429, retry_after="60"), "status 429"),
    "503": (reply(503), "status 503"),
    "401": (reply(401, {"message": "no such key"}), "no such key"),
    "hangs": (hang, "no answer within 0.5 s"),
    "slow": (slow(2.0), "no answer within 0.5 s"),
    "drips": (drip(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", 0.05, 30), "no answer within 0.5 s"),
    "cut": (cut(100), "RemoteProtocolError"),
    "closed": (cut(0), "RemoteProtocolError"),
    "a page": (reply(200, b"<html>"), "not JSON"),
    "half of it": (reply(200, b'{"results": [{"index": 0,'), "not JSON"),
    "huge": (reply(200, b'["' + b"a" * 17_000_000 + b'"]'), "longer than 16,000,000 bytes"),
    "redirect": (reply(302, b"", location="https://elsewhere.example/"), "elsewhere.example"),
    "a number": (reply(200, 3), "no list of results"),
    "no results": (reply(200, {"results": None}), "no list of results"),
    "empty": (reply(200, {"results": []}), "scores none of 4 documents (4 missing)"),
    "all NaN": (
        answered(lambda rows: {"results": [row | {"relevance_score": math.nan} for row in rows]}),
        "scores none of 4 documents (4 without a number)",
    ),
    "other numbers": (
        answered(lambda rows: {"results": [row | {"index": row["index"] + 4} for row in rows]}),
        "(4 of no document, 4 missing)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_costs_scores_and_no_document(fault: str, make: Make) -> None:
    action, why = FAULTS[fault]
    with Service(action) as service:
        hosted = make(service, key="a-very-secret-key", timeout_s=0.5 if "0.5 s" in why else 40.0)
        ranked = hosted.rerank(as_ranking("who", [*TEXTS, ""]))
    assert ranked.ids == ("0", "1", "2", "3", "4")
    assert [str(hit.status) for hit in ranked.hits] == [*["bad_score" if fault == "all NaN" else "failed"] * 4, "empty"]
    trace = ranked.trace[-1]
    assert why in trace.detail["failed"]
    assert trace.detail["failed_requests"] == 1
    assert "a-very-secret-key" not in repr(trace)
    if fault != "all NaN":
        assert why in trace.skipped_because
    assert trace.pairs_scored == 0


def test_a_deadline_that_ends_a_request_is_a_failure_too(make: Make) -> None:
    with Service(hang) as service:
        hosted = make(service)
        ranked = hosted.rerank(as_ranking("who", TEXTS), deadline=Deadline.after_ms(200))
        zero = hosted.rerank(as_ranking("who", TEXTS), deadline=Deadline.after_ms(0))
    assert {hit.status for hit in (*ranked.hits, *zero.hits)} == {Status.DEADLINE}
    assert "no answer before the deadline" in told(ranked)["failed"]
    assert "failed" not in told(zero)
    assert "time was up" in zero.trace[-1].skipped_because
    assert len(service.asked) <= 1


def test_what_was_scored_in_time_is_kept(make: Make) -> None:
    caller = Caller()

    def leave(connection: socket.socket, asked: Asked) -> bool:
        caller.leave()  # time is up while the third is asked
        return hang(connection, asked)

    with Service(scored, scored, leave) as service:
        hosted = make(service, per_request=1, concurrency=1)
        ranked = hosted.rerank(as_ranking("abcd", ["x", "abcd", "ab", "a"]), deadline=Deadline(caller=caller))
    assert ranked.ids == ("1", "0", "2", "3")
    statuses = [str(hit.status) for hit in ranked.hits]
    assert statuses == ["scored", "scored", "deadline", "deadline"]


def test_a_failing_request_costs_only_its_own_documents(make: Make) -> None:
    with Service(scored, reply(400, {"detail": "a bad one"}), scored) as service:
        ranked = make(service, per_request=2, concurrency=1).rerank(as_ranking("abcd", list("xyabcd")))
    assert [str(by_id(ranked)[str(i)].status) for i in range(6)] == [*["scored"] * 2, *["failed"] * 2, *["scored"] * 2]
    assert (told(ranked)["requests"], told(ranked)["failed_requests"]) == (3, 1)
    assert "a bad one" in told(ranked)["failed"]


ODD: dict[str, tuple[Callable[[list[dict[str, Any]]], Any], str, Mapping[str, int]]] = {
    "missing": (lambda rows: rows[1:], "failed", {"missing": 1}),
    "NaN": (lambda rows: [rows[0] | {"relevance_score": math.nan}, *rows[1:]], "bad_score", {"without a number": 1}),
    "infinite": (
        lambda rows: [rows[0] | {"relevance_score": -math.inf}, *rows[1:]],
        "bad_score",
        {"without a number": 1},
    ),
    "huge": (lambda rows: [rows[0] | {"relevance_score": 10**400}, *rows[1:]], "bad_score", {"without a number": 1}),
    "text": (lambda rows: [rows[0] | {"relevance_score": "0.9"}, *rows[1:]], "bad_score", {"without a number": 1}),
    "true": (lambda rows: [rows[0] | {"relevance_score": True}, *rows[1:]], "bad_score", {"without a number": 1}),
    "none": (lambda rows: [{"index": 0}, *rows[1:]], "bad_score", {"without a number": 1}),
    "twice": (
        lambda rows: [*rows, rows[0] | {"relevance_score": 0.123}],
        "bad_score",
        {"scored twice": 1},
    ),
    "no index": (lambda rows: [{"relevance_score": 1.0}, *rows[1:]], "failed", {"of no document": 1, "missing": 1}),
    "index true": (lambda rows: [rows[0] | {"index": False}, *rows[1:]], "failed", {"of no document": 1, "missing": 1}),
    "beyond": (lambda rows: [rows[0] | {"index": 99}, *rows[1:]], "failed", {"of no document": 1, "missing": 1}),
    "negative": (lambda rows: [rows[0] | {"index": -4}, *rows[1:]], "failed", {"of no document": 1, "missing": 1}),
    "no mapping": (lambda rows: ["a", *rows[1:]], "failed", {"of no document": 1, "missing": 1}),
    "too many": (lambda rows: [*rows, {"index": 4, "relevance_score": 2.0}], "scored", {"of no document": 1}),
    "the same twice": (lambda rows: [*rows, rows[0]], "scored", {}),
}


@pytest.mark.parametrize("what", ODD)
def test_an_odd_result_costs_its_own_document_only(what: str, make: Make) -> None:
    change, status, odd = ODD[what]
    with Service(answered(lambda rows: {"results": change(rows)})) as service:
        ranked = make(service).rerank(as_ranking("sort", TEXTS))
    found = by_id(ranked)
    assert [str(found[str(i)].status) for i in range(4)] == [status, "scored", "scored", "scored"]
    assert told(ranked).get("odd", {}) == odd
    assert "failed" not in told(ranked)
    scores = [hit.score for hit in ranked.hits if hit.score is not None]
    assert scores == sorted(scores, reverse=True)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=5), inside, max_size=4),
    max_leaves=8,
)
rows = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "index": st.integers(-2, 6) | json_values,
            "relevance_score": st.floats() | json_values,
            "scored": st.booleans(),
            "status": st.sampled_from(["empty", "scored", "retrieved", "failed", "nonsense"]) | json_values,
        },
    )
    | json_values,
    max_size=8,
)
answers = st.fixed_dictionaries({"results": rows | json_values, "usage": json_values}) | rows | json_values


@pytest.fixture(scope="module")
def babbling() -> Iterator[tuple[Hosted, list[object]]]:
    """A reranker whose service answers with what lies in the box."""
    box: list[object] = [None]
    with Service(lambda connection, asked: reply(200, box[0] or {})(connection, asked)) as service:
        hosted = Hosted("compatible", url=service.url, retries=0)
        yield hosted, box
        hosted.close()


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=answers)
def test_whatever_it_answers_no_document_is_lost(babbling: tuple[Hosted, list[object]], answer: object) -> None:
    hosted, box = babbling
    box[0] = answer
    given = as_ranking("who", TEXTS)
    ranked = Stage(hosted).run(given)  # which refuses what is no permutation
    assert sorted(ranked.ids) == sorted(given.ids)
    for hit in ranked.hits:
        assert (hit.score is not None) == (hit.status is Status.SCORED)
        assert hit.score is None or math.isfinite(hit.score)
    unscored = [hit.document.id for hit in ranked.hits if hit.score is None]
    assert unscored == sorted(unscored)
    assert sum(ranked.trace[-1].skipped.values()) == len(unscored)


def test_the_next_one_is_asked_in_time(make: Make) -> None:
    """Its own timeout is shorter than the deadline, so that there is time for another."""
    with Service(hang) as service:
        both = Fallback(make(service, timeout_s=0.3), OverlapReranker())
        ranked = both.rerank(as_ranking("sort a list", TEXTS), deadline=Deadline.after_ms(20_000))
    assert ranked.hits[0].document.id == "0"
    assert {hit.status for hit in ranked.hits} == {Status.SCORED}
    assert "no answer within 0.3 s" in str(ranked.trace[-1].detail["fallback"])


# Scores kept, fused, paid for


def test_what_was_scored_is_not_asked_again(make: Make) -> None:
    with Service() as service:
        hosted = make(service, cache=1_000_000)
        first = hosted.rerank(as_ranking("who", TEXTS))
        again = hosted.rerank(as_ranking("who", [*TEXTS, "new"]))
    assert [asked.body["documents"] for asked in service.asked] == [TEXTS, ["new"]]
    assert {name: hit.score for name, hit in by_id(first).items()}.items() <= {
        name: hit.score for name, hit in by_id(again).items()
    }.items()
    assert told(again)["cache"]["hits"] == 4
    assert told(again)["billed"]["units"] == 10  # of what was asked now


def test_failures_are_not_kept(make: Make) -> None:
    with Service(reply(400), scored) as service:
        hosted = make(service, cache=1_000_000)
        failed = hosted.rerank(as_ranking("who", TEXTS))
        right = hosted.rerank(as_ranking("who", TEXTS))
    assert told(failed)["failed"]
    assert {hit.status for hit in right.hits} == {Status.SCORED}


def test_who_waits_for_a_failing_request_asks_again(make: Make) -> None:
    with Service(slow(0.3, reply(400)), scored) as service:
        hosted, found = make(service, cache=1_000_000), list[Ranking]()
        threads = [
            threading.Thread(target=lambda: found.append(hosted.rerank(as_ranking("who", TEXTS)))) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    outcomes = {"failed" in told(ranked): {hit.status for hit in ranked.hits} for ranked in found}
    assert outcomes == {True: {Status.FAILED}, False: {Status.SCORED}}


def test_what_several_calls_cost_is_told_together() -> None:
    bills = [
        {"units": 3, "unit": "search", "amount": 0.5, "told": True},
        {"units": 4, "unit": "search", "amount": 0.25},
    ]
    traces = [StageTrace("a", detail={"billed": bill}) for bill in bills]
    assert spent_by([*traces, StageTrace("b")]) == {}
    assert spent_by([StageTrace("b"), *traces]) == {"billed": {"units": 7, "unit": "search", "amount": 0.75}}
    del bills[0]["amount"]  # not known of all, so not of the sum
    assert spent_by(traces)["billed"] == {"units": 7, "unit": "search"}


def test_another_model_has_other_scores(make: Make) -> None:
    store = MemoryStore(1_000_000)
    with Service() as service:
        for model in ("one", "two", "one"):
            make(service, model=model, cache=store).rerank(as_ranking("who", TEXTS))
    assert [asked.body["model"] for asked in service.asked] == ["one", "two"]


def test_scores_of_a_listwise_model_are_not_kept(make: Make) -> None:
    with pytest.raises(InputError, match="depend on the documents beside"):
        Hosted("jina", "jina-reranker-v3", key="k", cache=1_000_000)


def test_fused_with_the_first_stage(make: Make) -> None:
    documents = [Document(str(i), text) for i, text in enumerate(["xx", "ab", "a"])]
    hits = tuple(Hit(one, 9.0 - i, Status.RETRIEVED, 9.0 - i, i + 1) for i, one in enumerate(documents))
    ranking = Ranking("ab", hits, (StageTrace("first"),))
    with Service() as service:
        alone = make(service).rerank(ranking)
        fused = make(service, fuse=10.0).rerank(ranking)
    assert alone.ids == ("1", "2", "0")
    assert fused.ids == ("0", "1", "2")
    deviation = math.sqrt(2 / 3)
    assert by_id(fused)["0"].score == pytest.approx(0 + 10 / deviation)
    assert told(fused)["fused"] == {"weight": 10.0, "first_scores": 3}


def test_what_it_costs(make: Make) -> None:
    def billed(units: object) -> Action:
        return answered(lambda rows: {"results": rows, "meta": {"billed_units": {"search_units": units}}})

    texts = [f"text {n}" for n in range(250)]
    with Service(billed(5), billed(None), billed("many")) as service:
        hosted = make(service, "cohere")
        said = told(hosted.rerank(as_ranking("who", texts)))["billed"]
        estimated = [told(hosted.rerank(as_ranking("who", texts)))["billed"] for _ in range(2)]
        own = make(service, "cohere", price={"amount": 7.0, "per": 10, "unit": "search", "currency": "EUR"})
        priced = told(own.rerank(as_ranking("who", texts)))["billed"]
        free = told(make(service, "cohere", model="something-new").rerank(as_ranking("who", texts)))["billed"]
    price = services()["cohere"].price_of("rerank-v4.0-fast")
    assert price is not None
    assert said == {
        "units": 5,
        "unit": "search",
        "told": True,
        "amount": pytest.approx(5 * price.amount / 1000),
        "currency": "USD",
        "as_of": price.as_of,
    }
    for one in estimated:  # a search is up to a hundred documents
        assert (one["units"], one["told"]) == (3, False)
    assert (priced["amount"], priced["currency"]) == (pytest.approx(2.1), "EUR")
    assert "amount" not in free


def test_what_nobody_has_counted_costs_nobody_knows_what(make: Make) -> None:
    with Service(answered(lambda rows: {"data": rows})) as service:
        billed = told(make(service, "voyage").rerank(as_ranking("who", TEXTS)))["billed"]
    assert billed == {"units": 0, "unit": "token", "told": False}


def test_what_was_waited_is_told(make: Make) -> None:
    with Service(reply(429, retry_after_ms="300"), scored) as service:
        ranked = make(service).rerank(as_ranking("who", TEXTS))
    assert told(ranked)["waited_s"] >= 0.3
    assert told(ranked)["attempts"] == 2


def test_tokens_are_those_of_all_requests(make: Make) -> None:
    with Service(answered(lambda rows: {"data": rows, "usage": {"total_tokens": 1000}})) as service:
        ranked = make(service, "voyage", per_request=2).rerank(as_ranking("who", TEXTS))
    assert ranked.trace[-1].tokens == 2000
    assert told(ranked)["billed"]["amount"] == pytest.approx(2000 * 0.05 / 1e6)


def test_every_price_says_when_and_where_it_was_read() -> None:
    prices = [(name, price) for name, service in services().items() for price in service.prices]
    assert {name for name, _ in prices} == {"cohere", "voyage", "mixedbread", "zeroentropy"}
    for name, price in prices:
        assert all((price.as_of, price.source, price.models)), name
        assert price.unit == services()[name].unit


# What cannot be meant


def test_a_service_that_nobody_knows() -> None:
    with pytest.raises(InputError, match="did you mean 'cohere'"):
        Hosted("coheer")


@pytest.mark.parametrize("name", OWN)
def test_what_one_runs_oneself_has_an_address(name: str) -> None:
    with pytest.raises(InputError, match="say where with url="):
        Hosted(name)


@pytest.mark.parametrize("name", sorted(set(services()) - set(OWN)))
def test_a_key_is_missing(name: str) -> None:
    with pytest.raises(InputError, match=services()[name].key):
        Hosted(name)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"fuse": True}, "give a number for fuse"),
        ({"fuse": -1.0}, "fuse is -1.0"),
        ({"per_request": 0}, "per_request is 0"),
        ({"max_chars": True}, "max_chars is True"),
        ({"query_bytes": 1.5}, "query_bytes is 1.5"),
        ({"price": {"amount": -1, "per": 1, "unit": "token"}}, "price is not one"),
        ({"price": {"amount": 1, "per": 1, "unit": "word"}}, "price is not one"),
        ({"price": {"amount": 1, "per": 1, "unit": "search"}}, "price is for a search, but compatible counts in units"),
        ({"path": ".elsewhere.example/rerank"}, "begins with a slash"),
        ({"template": "nothing"}, "name at least one field"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"cache": 5}, "score cache of 5 bytes"),
    ],
)
def test_options_that_cannot_be_meant(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Hosted("compatible", url="http://localhost:1", **wrong)


def test_a_price_may_be_one() -> None:
    price = Price(1.0, 1, "search")
    assert Hosted("cohere", key="k", price=price).scorer.price is price


def test_its_name_shows_no_key() -> None:
    assert repr(Hosted("cohere", key="secret")) == "Hosted('cohere', 'rerank-v4.0-fast')"
    assert (
        repr(Hosted("tei", url="http://localhost:8080", key="secret")) == "Hosted('tei', url='http://localhost:8080')"
    )
    assert b"secret" not in Hosted("cohere", key="secret").scorer.identity
