from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondpass.errors import InputError
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.copies import Uncopied
from secondpass.testing import ManualClock, check_pointwise, check_reranker
from secondpass.types import NEVER, Deadline, Scores, StageTrace, Status, as_ranking

QUERY = "how do I sort a list?"


class Counting:
    """A score for each text: how often a letter of the query's words is in it; by time where told to."""

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.clock = clock
        self.asked: list[list[object]] = []

    def score(self, query: str, texts: Sequence[object], *, deadline: Deadline = NEVER) -> Scores:
        self.asked.append(list(texts))
        values: list[float | None] = []
        statuses: list[Status] = []
        for text in texts:
            status = Status.DEADLINE if deadline.passed else Status.SCORED if isinstance(text, str) else Status.NOT_TEXT
            if self.clock is not None:
                self.clock.advance(1.0)
            statuses.append(status)
            values.append(float(sum(str(text).count(letter) for letter in "sort")) if status == "scored" else None)
        spans = tuple(None if value is None else (0, len(str(text))) for value, text in zip(values, texts, strict=True))
        late = statuses.count(Status.DEADLINE)
        trace = StageTrace("counting", skipped={"deadline": late} if late else {}, skipped_because="some")
        return Scores(tuple(values), tuple(statuses), spans, trace)


def value(text: str) -> float:
    (found,) = Counting().score(QUERY, [text]).values
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("How do I sort a list? Call sorted.", "Call sorted."),
        ("Call sorted. how do i sort a LIST", "Call sorted."),
        ("HOW do I\n sort - a list!! Call sorted. How do I sort a list?", "Call sorted."),
        ("Call sorted, which says how do I sort a list and more.", "Call sorted, which says and more."),
    ],
)
def test_a_copy_of_the_query_brings_nothing(text: str, rest: str) -> None:
    inner = Counting()
    scores = Uncopied(inner).score(QUERY, [text, "Call sorted."])
    assert inner.asked == [[text, rest, "Call sorted."]]
    assert scores.values == (value(rest), value("Call sorted."))
    assert scores.spans == ((0, len(text)), (0, 12))
    assert scores.trace.detail["copies"] == {"documents": 1, "lowered": 1}


def test_what_is_better_without_the_copy_gains_nothing_by_having_it_taken_out() -> None:
    class Shorter(Counting):
        def score(self, query: str, texts: Sequence[object], *, deadline: Deadline = NEVER) -> Scores:
            scores = super().score(query, texts)
            values = tuple(-float(len(str(text))) for text in texts)
            return Scores(values, scores.statuses, scores.spans, scores.trace)

    text = f"{QUERY} Call sorted."
    scores = Uncopied(Shorter()).score(QUERY, [text])
    assert scores.values == (-float(len(text)),)
    assert scores.trace.detail["copies"] == {"documents": 1, "lowered": 0}


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (QUERY, "how do I sort lists"),
        (QUERY, "how do I, when in doubt, sort a list"),
        (QUERY, "somehow do I sort a list"),
        (QUERY, QUERY),
        (QUERY, f"{QUERY} … {QUERY}"),
        ("sort a list", "sort a list: call sorted"),
        ("", "sort"),
        (QUERY, ""),
        (QUERY, None),
        (" ".join(["sort"] * 2000), " ".join(["sort"] * 2001)),
    ],
)
def test_what_is_no_copy_passes_through(query: str, text: object) -> None:
    inner = Counting()
    scores = Uncopied(inner).score(query, [text])
    assert inner.asked == [[text]]
    assert "copies" not in scores.trace.detail


@given(
    st.lists(st.sampled_from([QUERY, "sort", "a list", "Call sorted.", "x"]), min_size=1, max_size=6), st.integers(0, 9)
)
def test_a_score_is_the_lower_one_or_missing_whenever_time_is_up(parts: list[str], seconds: int) -> None:
    clock = ManualClock()
    texts = [" ".join(parts), "sort", " ".join(parts[::-1])]
    scores = Uncopied(Counting(clock)).score(QUERY, texts, deadline=Deadline(float(seconds), clock))
    for text, found, status in zip(texts, scores.values, scores.statuses, strict=True):
        rest = " ".join(text.replace(QUERY, " ").split())
        assert (found is None) == (status is Status.DEADLINE)
        assert found is None or found == min(value(text), value(rest) if rest else value(text))
    assert scores.trace.skipped == ({"deadline": scores.values.count(None)} if None in scores.values else {})


def test_a_cross_encoder_keeps_its_promises_with_it(tiny: Path, cache: Path) -> None:
    def make() -> CrossEncoder:
        return CrossEncoder(tiny, profile="exact", cache_dir=cache, discount_copies=True)

    check_reranker(make)
    check_pointwise(make)
    texts = ["how do I sort a list? A river.", "A river."]
    ranking = make().rerank(as_ranking(QUERY, texts))
    both = {hit.document.id: hit.score for hit in ranking.hits}
    plain = CrossEncoder(tiny, profile="exact", cache_dir=cache).score(QUERY, texts).values
    assert plain[0] is not None
    assert plain[1] is not None
    assert both["0"] == pytest.approx(min(plain[0], plain[1]), abs=1e-5)


def test_it_does_not_go_with_exits(tiny: Path, cache: Path) -> None:
    with pytest.raises(InputError, match="discount_copies"):
        CrossEncoder(tiny, cache_dir=cache, go_on=0.5, discount_copies=True)
