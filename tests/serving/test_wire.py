"""Every format is read into one kind of request and answered as its clients read it; a bad document costs no other."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondpass.errors import InputError
from secondpass.serving.wire import FORMATS, Answer, documents_of, failure, read, relevances
from secondpass.types import Document, Hit, Ranking, StageTrace, Status

TEXTS = ["A faucet drips.", "Goethe wrote Faust.", "Faust is a city."]


def body_of(name: str, **more: Any) -> bytes:
    field = {"mixedbread": "input", "tei": "texts", "score": "text_2"}.get(name, "documents")
    query = "text_1" if name == "score" else "query"
    return json.dumps({query: "who wrote Faust", field: TEXTS, "model": "any", "of the future": 1, **more}).encode()


def trace(**more: Any) -> StageTrace:
    return StageTrace(name="model", seconds=0.5, pairs_scored=3, tokens=40, detail={"digest": "d"}, **more)


def answer(*hits: Hit, **more: Any) -> Answer:
    return Answer(Ranking("who wrote Faust", hits, (trace(**more),)), "an id", "a model", 0.75)


def hit(index: int, score: float | None, probability: float | None = None, status: Status = Status.SCORED) -> Hit:
    return Hit(Document(str(index), TEXTS[index]), score=score, status=status, probability=probability)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_says_the_same(name: str) -> None:
    asked, _ = read(FORMATS[name], body_of(name, deadline_ms=80))
    assert asked.query == "who wrote Faust"
    assert [document.text for document in asked.documents] == TEXTS
    assert [document.id for document in asked.documents] == ["0", "1", "2"]
    assert asked.deadline_ms == 80


@pytest.mark.parametrize(
    ("name", "more", "top"),
    [
        ("cohere", {"top_n": 2}, 2),
        ("rerank", {"top_n": 2}, 2),
        ("rerank", {"top_k": 1, "truncation": True}, 1),
        ("rerank", {"top_k": None}, None),
        ("mixedbread", {"top_k": 2, "return_input": True}, 2),
        ("zeroentropy", {"top_n": 3, "latency": "fast"}, 3),
    ],
)
def test_how_many_are_wanted(name: str, more: dict[str, Any], top: int | None) -> None:
    form = FORMATS[name]
    asked, body = read(form, body_of(name, **more))
    assert asked.top == top
    written = form.written(asked, answer(hit(1, 3.0), hit(2, 1.0), hit(0, -5.0)), body)
    assert [one["index"] for one in written["results"]] == [1, 2, 0][:top]
    assert [one["index"] for one in written["data"]] == [1, 2, 0][:top]
    assert json.loads(json.dumps(written, allow_nan=False)) == written


def test_one_body_has_what_each_client_looks_for() -> None:
    asked, body = read(FORMATS["cohere"], body_of("cohere", return_documents=True))
    written = FORMATS["cohere"].written(asked, answer(hit(1, 2.0, 0.9), hit(2, 0.0, 0.4), hit(0, -2.0, 0.1)), body)
    assert written["results"][0] == {"index": 1, "relevance_score": 0.9, "document": {"text": TEXTS[1]}}
    assert written["data"][0]["document"] == written["data"][0]["input"] == TEXTS[1]
    assert written["data"][0]["score"] == 0.9
    assert (written["object"], written["id"], written["model"]) == ("list", "an id", "a model")
    assert written["usage"] == {"prompt_tokens": 40, "total_tokens": 40}
    other = "there is no model of the name asked for here; a model answered"
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}, "warnings": [other]}
    assert written["meta"] == meta
    assert written["report"]["digest"] == "d"


def test_what_was_cut_or_left_out_is_told() -> None:
    asked, body = read(FORMATS["rerank"], body_of("rerank"))
    some = answer(hit(1, 2.0), hit(0, None, status=Status.DEADLINE), truncated=2, skipped_because="1: time was up")
    written = FORMATS["rerank"].written(asked, some, body)
    assert written["results"][1] | {"relevance_score": 0} == {
        "index": 0, "relevance_score": 0, "scored": False, "status": "deadline"
    }  # fmt: skip
    assert any("time was up" in warning for warning in written["meta"]["warnings"])
    assert any("2 documents were longer" in warning for warning in written["meta"]["warnings"])
    assert written["report"]["not_scored"] == {"0": "deadline"}


def test_tei_answers_a_list_and_raw_scores_where_they_are_asked_for() -> None:
    form = FORMATS["tei"]
    for raw, expected in ((False, [1 / (1 + math.exp(-2.0)), 1 / (1 + math.exp(1.5))]), (True, [2.0, -1.5])):
        asked, body = read(form, body_of("tei", raw_scores=raw, return_text=True))
        written = form.written(asked, answer(hit(1, 2.0), hit(0, -1.5)), body)
        assert [one["score"] for one in written] == pytest.approx(expected)
        assert [one["text"] for one in written] == [TEXTS[1], TEXTS[0]]


def test_vllm_answers_in_the_order_of_the_texts() -> None:
    asked, body = read(FORMATS["score"], body_of("score"))
    written = FORMATS["score"].written(asked, answer(hit(2, 2.0), hit(0, 0.0), hit(1, -2.0)), body)
    assert [one["index"] for one in written["data"]] == [0, 1, 2]
    assert [one["score"] for one in written["data"]] == pytest.approx(
        [0.5, 1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2))]
    )


def test_objects_are_read_by_their_fields() -> None:
    items = [
        {"title": "Faust", "text": "by Goethe"},
        {"name": "a", "more": 7, "text": "b"},
        {"none": 1},
        5,
        None,
        ["x"],
    ]
    plain = documents_of(items)
    assert (plain[0].title, plain[0].text) == ("Faust", "by Goethe")
    assert [document.text for document in plain[1:]] == ["b", "", 5, None, ["x"]]
    assert [document.text for document in documents_of(items, ["name", "more"])][1:3] == ["a\n7", ""]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "JSON"),
        (b'{"query": "a", "documents": ' + b"[" * 100_000, "JSON"),
        (b'{"query": "a", "documents": [NaN]}', "JSON"),
        (b'{"query": 7, "documents": []}', "query"),
        (b'{"documents": ["a"]}', "query"),
        (b'{"query": "a", "documents": "b"}', "documents"),
        (b'{"query": "a", "documents": ["b"], "top_n": 0}', "top_n"),
        (b'{"query": "a", "documents": ["b"], "deadline_ms": -1}', "deadline_ms"),
        (b"null", "object"),
    ],
)
def test_what_cannot_be_meant_is_said(raw: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read(FORMATS["rerank"], raw)


def test_an_error_is_found_wherever_a_client_looks() -> None:
    assert failure("no", "Validation") == {"message": "no", "detail": "no", "error": "no", "error_type": "Validation"}


@given(
    scored=st.lists(st.floats(-800, 800), max_size=20).map(lambda scores: sorted(scores, reverse=True)),
    left=st.integers(0, 10),
    raw=st.booleans(),
    given_already=st.booleans(),
)
def test_relevance_never_rises_and_the_unscored_are_below(
    scored: list[float], left: int, raw: bool, given_already: bool
) -> None:
    hits = [Hit(Document(str(i), "x"), score=score, status=Status.SCORED) for i, score in enumerate(scored)]
    hits += [Hit(Document(f"u{i}", "x"), score=None, status=Status.DEADLINE) for i in range(left)]
    values = relevances(hits, raw=raw, given=given_already)
    assert values == sorted(values, reverse=True)
    assert raw or all(0 <= value <= 1 for value in values)
    unscored = values[len(scored) :]
    if raw or not scored or values[len(scored) - 1] > 1e-200:
        assert len(set(unscored)) == left
        assert not scored or all(value < values[len(scored) - 1] for value in unscored)
