"""One reranker may fail in any way: the answer comes from the next, in time, and the trace says what happened."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from failing_rerankers import Changes, Hangs, Leaves, Raises, Slow, Watched, doubles, forgets, invents, loses, nothing
from secondpass.errors import InputError
from secondpass.rerankers.fallback import Fallback
from secondpass.rerankers.fused import Fused
from secondpass.rerankers.shadow import Shadow
from secondpass.testing import ManualClock, OverlapReranker, check_pointwise, check_reranker
from secondpass.types import Caller, Deadline, Ranking, Reranker, StageTrace, Status, as_ranking

QUERY = "the way of the bee"
RANKING = as_ranking(QUERY, ["a hive", "", "the way of the bee", "the bee"])
GOOD = OverlapReranker().rerank(RANKING)

FAILING: dict[str, tuple[Callable[[], Reranker], str]] = {
    "raises": (Raises, "ValueError: no such weights"),
    "loses": (lambda: Changes(loses), "got 4 documents and gave back 3"),
    "invents": (lambda: Changes(invents), "gave back 5, or other ones"),
    "doubles": (lambda: Changes(doubles), "gave back 5, or other ones"),
    "gives nothing": (lambda: Changes(nothing), "AttributeError"),
    "says so": (lambda: Leaves(Status.FAILED, "status 503"), "status 503"),
    "says so of what it does not know": (lambda: Leaves(Status.RETRIEVED, "status 503"), "status 503"),
    "leaves failed": (lambda: Leaves(Status.FAILED), "so be it"),
    "is late": (lambda: Leaves(Status.DEADLINE), "so be it"),
    "gives NaN": (lambda: Leaves(Status.BAD_SCORE), "so be it"),
}


def entries(ranking: Ranking) -> list[dict[str, Any]]:
    return [dict(entry.detail) for entry in ranking.trace]


@pytest.mark.parametrize("name", FAILING)
def test_it_keeps_the_promises_of_the_one_behind_what_fails(name: str) -> None:
    make, _ = FAILING[name]
    check_reranker(lambda: Fallback(make(), OverlapReranker()))
    check_pointwise(lambda: Fallback(make(), OverlapReranker()))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fallback(OverlapReranker()),
        lambda: Fallback(Raises(), Raises()),
        lambda: Fallback(Fallback(Raises()), Fused(Shadow(OverlapReranker(), Raises(), 1.0), OverlapReranker())),
        lambda: Fallback(Fused(OverlapReranker(), Raises()), OverlapReranker(), budget_ms=60_000),
        lambda: Shadow(Fallback(Raises(), Fused(OverlapReranker())), Fallback(Raises())),
    ],
)
def test_wrappers_around_wrappers_keep_the_promises(make: Callable[[], Reranker]) -> None:
    check_reranker(make)


@pytest.mark.parametrize("name", FAILING)
def test_the_next_one_is_asked_and_the_trace_says_why(name: str) -> None:
    make, why = FAILING[name]
    found = Fallback(make(), OverlapReranker()).rerank(RANKING)
    assert found.hits == GOOD.hits
    first, second = entries(found)
    assert why in first["failed"]
    assert first["fallback"] == {"attempt": 1, "of": 2}
    assert second["fallback"] == {"attempt": 2, "of": 2, "because": first["failed"]}
    assert "failed" not in second


@pytest.mark.parametrize(
    "first",
    [Leaves(Status.QUERY_TOO_LONG), Leaves(Status.BEYOND_DEPTH), Leaves(Status.EMPTY), Leaves(Status.RETRIEVED)],
)
def test_what_was_not_to_be_scored_is_no_failure(first: Leaves) -> None:
    other = Watched()
    found = Fallback(first, other).rerank(RANKING)
    assert {hit.status for hit in found.hits} == {first.status}
    assert other.given == []


def test_a_ranking_of_which_something_is_scored_is_an_answer() -> None:
    class One(OverlapReranker):
        def rerank(self, ranking: Ranking, **_: Any) -> Ranking:
            clock = ManualClock(tick=1.0)
            return super().rerank(ranking, deadline=Deadline(1.5, clock))

    found = Fallback(One(), Raises()).rerank(RANKING)
    statuses = [hit.status for hit in found.hits]
    assert Status.SCORED in statuses
    assert Status.DEADLINE in statuses
    assert len(found.trace) == 1


def test_where_all_fail_the_order_stays_and_one_around_it_asks_on() -> None:
    alone = Fallback(Raises(), Changes(loses))
    found = alone.rerank(RANKING)
    assert found.ids == RANKING.ids
    assert [hit.status for hit in found.hits] == [Status.FAILED, Status.EMPTY, Status.FAILED, Status.FAILED]
    assert "gave back 3" in found.trace[-1].detail["failed"]
    assert found.trace[-1].skipped == {"failed": 3, "empty": 1}
    around = Fallback(alone, OverlapReranker()).rerank(RANKING)
    assert around.hits == GOOD.hits
    assert [entry.name for entry in around.trace] == ["raises", "changes", "overlap-reranker"]
    assert entries(around)[1]["fallback"] == {
        "attempt": 1,
        "of": 2,
        "inside": {"attempt": 2, "of": 2, "because": "ValueError: no such weights"},
    }


def test_what_was_in_the_trace_stays_there_once_whatever_a_reranker_does_with_it() -> None:
    before = replace(RANKING, trace=(StageTrace("bm25"),))
    found = Fallback(Leaves(Status.FAILED), Changes(forgets)).rerank(before)
    assert [entry.name for entry in found.trace] == ["bm25", "leaves", "changes"]
    assert [entry.name for entry in Fused(OverlapReranker(), Changes(forgets)).rerank(before).trace] == [
        "bm25",
        "overlap-reranker",
        "fused",
    ]


def test_the_last_failure_decides_the_statuses() -> None:
    found = Fallback(Raises(), Leaves(Status.DEADLINE)).rerank(RANKING)
    assert {hit.status for hit in found.hits} == {Status.DEADLINE}


# Time


def on(clock: ManualClock, seconds: float) -> Deadline:
    return Deadline(clock.now + seconds, clock)


@pytest.mark.parametrize(
    ("options", "behind", "expected"),
    [
        ({}, 1, 0.5),  # an equal share
        ({}, 3, 0.25),
        ({"reserve_ms": 80}, 1, 0.92),
        ({"reserve_ms": 80}, 2, 0.84),  # for each of them
        ({"reserve_ms": 800}, 1, 0.5),  # an equal share at least
        ({"reserve_ms": 0}, 1, 1.0),
        ({"budget_ms": 100}, 1, 0.1),
        ({"budget_ms": 700}, 1, 0.5),
        ({}, 0, 1.0),  # the last one
        ({"reserve_ms": 80}, 0, 1.0),
        ({"budget_ms": 100}, 0, 0.1),
    ],
)
def test_what_is_kept_for_the_others(options: dict[str, Any], behind: int, expected: float) -> None:
    first = Watched()
    Fallback(first, *[Raises()] * behind, **options).rerank(RANKING, deadline=on(ManualClock(), 1.0))
    assert first.given[0].at == pytest.approx(expected)


@settings(deadline=None)
@given(st.floats(0.001, 1000), st.floats(0, 10_000), st.integers(1, 4))
def test_a_fallback_can_always_be_reached(seconds: float, reserve_ms: float, behind: int) -> None:
    clock = ManualClock()
    slow = [Slow(clock.advance) for _ in range(behind)]
    last = Watched()
    found = Fallback(*slow, last, reserve_ms=reserve_ms).rerank(RANKING, deadline=on(clock, seconds))
    assert all(one.at is not None and one.at <= seconds for reranker in slow for one in reranker.given)
    assert seconds - clock.now == pytest.approx(min(reserve_ms / 1000, seconds / (behind + 1)), abs=1e-9 * seconds)
    if clock.now < seconds:
        assert last.given[0].at == seconds  # the last one gets all that is left
        assert found.hits == GOOD.hits
    else:
        assert not reserve_ms / 1000 > 1e-9 * seconds


def test_without_deadline_and_budget_none_is_given() -> None:
    first, threads = Watched(), threading.active_count()
    Fallback(first, Raises()).rerank(RANKING)
    assert first.given[0].at is None
    assert threading.active_count() == threads


def test_one_that_ignores_its_deadline_is_left_alone() -> None:
    hangs = Hangs()
    found = Fallback(hangs, OverlapReranker()).rerank(RANKING, deadline=on(ManualClock(), 1.0))
    assert not hangs.free.is_set()  # it is still at it
    assert found.hits == GOOD.hits
    assert "not back 100 ms after its deadline" in found.trace[0].detail["failed"]
    assert found.trace[0].skipped == {"deadline": 3, "empty": 1}
    hangs.free.set()


def test_one_that_hangs_is_bounded_without_a_deadline_too() -> None:
    hangs = Hangs()
    found = Fallback(Fallback(hangs, budget_ms=1), OverlapReranker()).rerank(RANKING)
    assert found.hits == GOOD.hits
    hangs.free.set()


def test_one_that_hangs_again_and_again_is_not_asked_until_it_is_back() -> None:
    hangs = Hangs()
    fallback = Fallback(Fallback(hangs, budget_ms=50), OverlapReranker())

    def waiting() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "secondpass-fallback"}

    def ask_until(count: int) -> None:
        for _ in range(100):  # on a busy machine 50 ms may be over before an attempt begins
            assert fallback.rerank(RANKING).hits == GOOD.hits
            if hangs.asked == count:
                return
        pytest.fail(f"asked {hangs.asked} times, not {count}")

    before = waiting()
    ask_until(4)
    for _ in range(3):
        found = fallback.rerank(RANKING)
        assert found.hits == GOOD.hits
        assert "4 earlier attempts are not back" in found.trace[0].detail["failed"]
    assert hangs.asked == 4
    assert len(waiting() - before) == 4  # those of other tests may end at any time
    hangs.free.set()
    while waiting() - before:
        time.sleep(0.01)
    ask_until(5)


def test_time_that_is_up_starts_nobody_and_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Watched()
    monkeypatch.setattr(threading.Thread, "start", lambda self: pytest.fail("a thread was started"))
    found = Fallback(first, first).rerank(RANKING, deadline=on(ManualClock(), 0.0))
    assert first.given == []
    assert [entry.skipped_because for entry in found.trace] == ["time was up before this stage began"] * 2
    assert {hit.status for hit in found.hits} == {Status.DEADLINE}


def test_nobody_is_asked_for_a_caller_who_has_left() -> None:
    caller, first = Caller(), Watched()
    caller.leave()
    found = Fallback(first, first).rerank(RANKING, deadline=Deadline(caller=caller))
    assert first.given == []
    assert {hit.status for hit in found.hits} == {Status.DEADLINE}


@pytest.mark.parametrize("options", [{"reserve_ms": -1}, {"budget_ms": float("nan")}, {"budget_ms": "soon"}])
def test_times_that_cannot_be_meant_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"{next(iter(options))} is .*milliseconds from 0 up"):
        Fallback(OverlapReranker(), **options)


def test_what_is_no_reranker_is_refused() -> None:
    with pytest.raises(InputError, match="no rerank"):
        Fallback(OverlapReranker(), "hosted")  # type: ignore[arg-type]


def test_it_says_what_it_is_made_of() -> None:
    assert repr(Fallback(OverlapReranker(), OverlapReranker())) == "Fallback(OverlapReranker(), OverlapReranker())"
