"""The answer is the primary's, unchanged and at once, whatever the candidate does; the callback hears of both."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from secondpass.errors import InputError, SecondpassError
from secondpass.rerankers.shadow import Shadow
from secondpass.sampling import drawn
from secondpass.testing import OverlapReranker, check_pointwise, check_reranker
from secondpass.types import NEVER, Deadline, Ranking, as_ranking

QUERY = "the way of the bee"
RANKING = as_ranking(QUERY, ["a hive", "the way of the bee", "the bee"])


class Backwards:
    """The ranking turned round, once it is let go."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.seen: list[Ranking] = []

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        assert self.free.wait(10)
        self.seen.append(ranking)
        return Ranking(ranking.query, ranking.hits[::-1], ranking.trace, ranking.query_id)


class Broken:
    def __init__(self, fails: Callable[[Ranking], Ranking]) -> None:
        self.fails = fails

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        return self.fails(ranking)


class Note:
    """What the callback was told, and a way to wait for it."""

    def __init__(self) -> None:
        self.told: list[tuple[Ranking, Any]] = []
        self._came = threading.Condition()

    def __call__(self, answer: Ranking, found: Ranking | Exception) -> None:
        with self._came:
            self.told.append((answer, found))
            self._came.notify_all()

    def wait(self, count: int) -> None:
        with self._came:
            assert self._came.wait_for(lambda: len(self.told) >= count, 10)


def raises(ranking: Ranking) -> Ranking:
    raise ValueError("no such weights")


def loses(ranking: Ranking) -> Ranking:
    return ranking.top(1)


@pytest.mark.parametrize("fails", [raises, loses])
def test_it_keeps_the_promises_of_its_primary_whatever_the_candidate_does(fails: Callable[[Ranking], Ranking]) -> None:
    check_reranker(lambda: Shadow(OverlapReranker(), Broken(fails), 1.0))
    check_pointwise(lambda: Shadow(OverlapReranker(), Broken(fails), 1.0))


def test_the_answer_does_not_wait_and_is_the_primary_s() -> None:
    candidate, note = Backwards(), Note()
    shadow = Shadow(OverlapReranker(), candidate, 1.0, note)
    answer = shadow.rerank(RANKING)  # the candidate is not let go yet
    assert answer.hits == OverlapReranker().rerank(RANKING).hits
    assert [entry.name for entry in answer.trace] == ["overlap-reranker"]
    assert shadow.counts == {"compared": 0, "failed": 0, "left_out": 0}
    candidate.free.set()
    note.wait(1)
    ((told, found),) = note.told
    assert told is answer
    assert found.ids == RANKING.ids[::-1]
    assert candidate.seen == [RANKING]  # what the primary got, not what it made of it
    assert shadow.counts == {"compared": 1, "failed": 0, "left_out": 0}
    shadow.close()


@pytest.mark.parametrize(("fails", "kind"), [(raises, ValueError), (loses, SecondpassError)])
def test_a_candidate_that_fails_is_told_and_counted(fails: Callable[[Ranking], Ranking], kind: type[Exception]) -> None:
    note = Note()
    shadow = Shadow(OverlapReranker(), Broken(fails), 1.0, note)
    shadow.rerank(RANKING)
    note.wait(1)
    assert isinstance(note.told[0][1], kind)
    assert shadow.counts == {"compared": 0, "failed": 1, "left_out": 0}
    shadow.close()


def test_only_so_many_wait() -> None:
    candidate, note = Backwards(), Note()
    shadow = Shadow(OverlapReranker(), candidate, 1.0, note)
    for _ in range(20):
        assert len(shadow.rerank(RANKING)) == 3
    assert shadow.counts["left_out"] == 12
    candidate.free.set()
    note.wait(8)
    shadow.rerank(RANKING)  # there is room again
    note.wait(9)
    assert shadow.counts == {"compared": 9, "failed": 0, "left_out": 12}
    shadow.close()


def test_a_callback_that_raises_leaves_room_for_the_next() -> None:
    called = threading.Semaphore(0)

    def told(answer: Ranking, found: Ranking | Exception) -> None:
        called.release()
        raise RuntimeError("a callback's own fault")

    shadow = Shadow(OverlapReranker(), OverlapReranker(), 1.0, told)
    for _ in range(20):
        shadow.rerank(RANKING)
        assert called.acquire(timeout=10)
    shadow.close()
    assert shadow.counts == {"compared": 20, "failed": 0, "left_out": 0}


def test_answers_go_on_when_it_is_closed() -> None:
    shadow = Shadow(OverlapReranker(), OverlapReranker(), 1.0)
    shadow.close()
    assert shadow.rerank(RANKING).hits == OverlapReranker().rerank(RANKING).hits
    assert shadow.counts == {"compared": 0, "failed": 0, "left_out": 1}


@pytest.mark.parametrize("sample", [0.0, 0.3, 1.0])
def test_the_sample_is_drawn_by_the_query_and_always_the_same(sample: float) -> None:
    def compared(by_id: bool) -> list[str]:
        note, expected = Note(), 0
        shadow = Shadow(OverlapReranker(), OverlapReranker(), sample, note)
        for number in range(60):
            name = f"query {number}"
            shadow.rerank(as_ranking("a bee" if by_id else name, ["a bee"], name if by_id else ""))
            expected += drawn(name, sample)
            note.wait(expected)  # so that there is room for the next
        shadow.close()
        assert shadow.counts == {"compared": expected, "failed": 0, "left_out": 0}
        return [answer.query_id or answer.query for answer, _ in note.told]

    first = compared(by_id=True)
    assert first == compared(by_id=True) == compared(by_id=False)
    assert abs(len(first) / 60 - sample) < 0.2


@pytest.mark.parametrize("sample", [-0.1, 1.1, float("nan"), "half", True])
def test_what_is_no_share_is_refused(sample: Any) -> None:
    with pytest.raises(InputError, match=r"sample of a shadow is .*share from 0 to 1"):
        Shadow(OverlapReranker(), OverlapReranker(), sample)


def test_what_is_no_reranker_is_refused() -> None:
    with pytest.raises(InputError, match="cannot answer: it has no rerank"):
        Shadow("cross-encoder", OverlapReranker())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot be a shadow: it has no rerank"):
        Shadow(OverlapReranker(), "cross-encoder")  # type: ignore[arg-type]
