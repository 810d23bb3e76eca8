"""The data that flows: what is accepted, what is refused, and what time means."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondpass.errors import InputError
from secondpass.testing import ManualClock
from secondpass.types import NEVER, Deadline, Document, Hit, Ranking, Status, as_document, as_ranking


def test_a_text_becomes_a_document_named_by_its_place() -> None:
    assert as_document("a text", 3) == Document("3", "a text")


def test_a_mapping_loses_nothing() -> None:
    document = as_document({"_id": 7, "text": "x", "title": None, "metadata": {"a": 1}, "url": "u", "score": 2})
    assert document == Document("7", "x", "", {"a": 1, "url": "u", "score": 2})


def test_an_id_of_zero_is_an_id() -> None:
    assert as_document({"id": 0, "text": "x"}, 5).id == "0"


def test_a_document_is_taken_as_it_is() -> None:
    document = Document("a", "x")
    assert as_document(document) is document


@pytest.mark.parametrize("text", [None, 42, b"raw", ["a"]])
def test_a_text_that_is_none_is_left_to_the_reranker(text: object) -> None:
    assert as_document({"id": "a", "text": text}).text == text


def test_what_is_no_document_is_refused_by_place() -> None:
    with pytest.raises(InputError, match=r"document 4 is a mapping without 'text' \(keys: \['body'\]\)"):
        as_document({"body": "x"}, 4)
    with pytest.raises(InputError, match="document 2 is a int"):
        as_document(42, 2)  # type: ignore[arg-type]


@given(st.lists(st.text(), max_size=8))
def test_a_ranking_keeps_the_order_given(texts: list[str]) -> None:
    ranking = as_ranking("q", texts, "1")
    assert [document.text for document in ranking.documents] == texts
    assert [hit.first_rank for hit in ranking.hits] == list(range(1, len(texts) + 1))
    assert all(hit.status is Status.RETRIEVED and hit.score is None for hit in ranking.hits)
    assert ranking.query_id == "1"


def test_first_stage_scores_are_taken_along() -> None:
    (hit,) = as_ranking("q", [{"text": "x", "score": 3}]).hits
    assert (hit.score, hit.first_score) == (3.0, 3.0)


def test_what_is_no_ranking_is_refused() -> None:
    with pytest.raises(InputError, match="documents 0 and 2 share the id 'a'"):
        as_ranking("q", [{"id": "a", "text": "x"}, "y", {"id": "a", "text": "z"}])
    with pytest.raises(InputError, match="query is a int"):
        as_ranking(3, [])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give a list"):
        as_ranking("q", "one text")


@given(st.integers(0, 6), st.one_of(st.none(), st.integers(-2, 9)))
def test_top_is_a_prefix(size: int, k: int | None) -> None:
    ranking = as_ranking("q", [str(n) for n in range(size)])
    assert ranking.top(k).hits == (ranking.hits if k is None else ranking.hits[: max(k, 0)])


def test_everything_is_frozen() -> None:
    document = Document("a", "x")
    for frozen, name in ((document, "text"), (Hit(document), "score"), (Ranking("q"), "hits"), (NEVER, "at")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(frozen, name, None)
    with pytest.raises(TypeError):
        document.metadata["a"] = 1  # type: ignore[index]


def test_a_deadline_passes_at_its_time() -> None:
    clock = ManualClock(now=10.0)
    deadline = Deadline.after_ms(500, clock)
    assert not deadline.passed
    assert deadline.remaining() == pytest.approx(0.5)
    clock.advance(0.5)
    assert deadline.passed
    clock.advance(5)
    assert deadline.remaining() == 0.0


def test_no_deadline_never_passes() -> None:
    assert Deadline.after_ms(None) == NEVER
    assert not NEVER.passed
    assert NEVER.remaining() == float("inf")


@pytest.mark.parametrize("milliseconds", [0, -5, 0.0])
def test_no_time_has_passed_at_once(milliseconds: float) -> None:
    assert Deadline.after_ms(milliseconds, ManualClock()).passed


def test_a_deadline_that_is_nan_is_refused() -> None:
    with pytest.raises(InputError, match="NaN"):
        Deadline.after_ms(float("nan"))


@given(st.one_of(st.none(), st.floats(0, 10)), st.one_of(st.none(), st.floats(0, 10)))
def test_sooner_is_the_minimum(at: float | None, seconds: float | None) -> None:
    clock = ManualClock()
    sooner = Deadline(at, clock).sooner(seconds)
    bounds = [bound for bound in (at, seconds) if bound is not None]
    assert sooner.at == (min(bounds) if bounds else None)
    assert sooner.clock is clock
