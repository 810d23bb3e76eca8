"""A first stage may fail in any way: candidates come from the next one, in time, and the trace says what happened."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from secondpass.cascade import Cascade, Stage
from secondpass.errors import InputError, RetrieverError
from secondpass.retrievers.bm25 import BM25
from secondpass.retrievers.fallback import Fallback
from secondpass.testing import ListRetriever, OverlapReranker, check_retriever
from secondpass.types import NEVER, Deadline, Document, Ranking, Retriever

GOOD = ListRetriever({"q": ["one", "two"]})


class Raises:
    def retrieve(self, query: str, k: int) -> Ranking:
        raise RetrieverError("the database is not reached", kind="connection")


class Foreign:
    def retrieve(self, query: str, k: int) -> Ranking:
        raise ZeroDivisionError("by zero")


class GivesNothing:
    def retrieve(self, query: str, k: int) -> Ranking:
        return None  # type: ignore[return-value]


class Hangs:
    """Waits until it is let go."""

    def __init__(self) -> None:
        self.asked, self.let_go = 0, threading.Event()

    def retrieve(self, query: str, k: int) -> Ranking:
        self.asked += 1
        self.let_go.wait()
        return Ranking(query)


class Told:
    def __init__(self) -> None:
        self.deadlines: list[Deadline] = []

    def retrieve(self, query: str, k: int, *, deadline: Deadline = NEVER) -> Ranking:
        self.deadlines.append(deadline)
        return GOOD.retrieve(query, k)


@pytest.mark.parametrize(
    ("failing", "why"), [(Raises, "not reached"), (Foreign, "ZeroDivisionError: by zero"), (GivesNothing, "NoneType")]
)
def test_the_next_one_answers_and_the_trace_says_why(failing: Callable[[], Retriever], why: str) -> None:
    found = Fallback(failing(), GOOD).retrieve("q", 1)
    assert found.ids == ("0",)
    first, last = found.trace
    assert why in first.detail["failed"]
    assert first.detail["fallback"] == {"attempt": 1, "of": 2}
    assert last.detail["fallback"] == {"attempt": 2, "of": 2, "because": first.detail["failed"]}
    with pytest.raises(RetrieverError, match=rf"no first stage answers: .*{why}.*; raises: the database"):
        Fallback(failing(), Raises()).retrieve("q", 1)


def test_to_find_nothing_is_no_failure() -> None:
    found = Fallback(GOOD, Raises()).retrieve("unknown", 5)
    assert (found.ids, len(found.trace)) == ((), 1)


def test_nested() -> None:
    found = Fallback(Raises(), Fallback(Foreign(), GOOD)).retrieve("q", 2)
    assert [entry.name for entry in found.trace] == ["raises", "foreign", "list-retriever"]
    assert found.trace[-1].detail["fallback"]["inside"]["attempt"] == 2


def test_the_promises_of_every_retriever() -> None:
    def made(documents: Sequence[Document]) -> Retriever:
        return Fallback(Raises(), BM25.build(documents), budget_ms=60_000)

    check_retriever(made)


def test_what_hangs_is_left_alone_and_not_asked_for_ever() -> None:
    hangs = Hangs()
    both = Fallback(Fallback(hangs, budget_ms=5), GOOD)
    for _ in range(6):
        found = both.retrieve("q", 1)
        assert found.ids == ("0",)
    hangs.let_go.set()
    assert hangs.asked <= 4  # on a busy machine some may not have begun
    assert "4 earlier attempts" in found.trace[0].detail["failed"]
    with pytest.raises(RetrieverError, match=r"not back after 0 ms|earlier attempts"):
        Fallback(Hangs(), budget_ms=0).retrieve("q", 1)


def test_a_deadline_leaves_time_for_those_behind() -> None:
    hangs, told = Hangs(), Told()
    cascade = Cascade(Fallback(hangs, told), Stage(OverlapReranker()))
    found = cascade.search("q", 2, deadline_ms=200)
    assert len(found) == 2
    said = re.search(r"not back after (\d+) ms", found.trace[0].detail["failed"])
    assert said is not None
    assert int(said[1]) <= 100  # its half
    (given,) = told.deadlines
    assert given.at is not None
    late = Cascade(Fallback(hangs, GOOD)).search("q", 2, deadline_ms=0)  # no time at all: the last one is asked at once
    assert len(late) == 2
    hangs.let_go.set()
    assert Cascade(told).search("q", 2).ids == ("0", "1")  # any retriever is told that takes a deadline
    assert told.deadlines[-1].at is None


def test_bad_input() -> None:
    bad: list[tuple[Any, dict[str, Any]]] = [("x", {}), (GOOD, {"budget_ms": -1}), (GOOD, {"budget_ms": float("nan")})]
    for other, options in bad:
        with pytest.raises(InputError):
            Fallback(GOOD, other, **options)
    asked: list[tuple[Any, Any]] = [("q", 0), (3, 1)]
    for query, k in asked:
        with pytest.raises(InputError):
            Fallback(GOOD).retrieve(query, k)
