"""What a cascade promises: depth, budget, order, trace, and never a lost document."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondpass.cascade import Cascade, Stage, reorder
from secondpass.errors import InputError, SecondpassError
from secondpass.testing import ListRetriever, ManualClock, OverlapReranker, check_pointwise, check_reranker
from secondpass.types import NEVER, Deadline, Ranking, Reranker, Retriever, Scores, StageTrace, Status, as_ranking

TEXTS = ["a fly", "a red fly", "a red bee", "one big red bee", "nothing", "the big red bee flies"]
QUERY = "big red bee"


class Recorder(OverlapReranker):
    """Remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Ranking] = []

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        self.seen.append(ranking)
        return super().rerank(ranking, deadline=deadline)


class Asked:
    """A retriever that remembers how many documents it was asked for."""

    def __init__(self) -> None:
        self.k = 0

    def retrieve(self, query: str, k: int) -> Ranking:
        self.k = k
        return as_ranking(query, TEXTS).top(k)


# reorder

scores_st = st.lists(
    st.tuples(
        st.one_of(st.none(), st.floats(), st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf, -math.inf])),
        st.sampled_from([Status.SCORED, Status.SCORED, Status.DEADLINE, Status.EMPTY]),
    ),
    max_size=12,
)


@given(scores_st)
def test_reorder_is_a_permutation_scored_first_and_stable(answers: list[tuple[float | None, Status]]) -> None:
    ranking = as_ranking("q", [str(n) for n in range(len(answers))])
    values, statuses = tuple(value for value, _ in answers), tuple(status for _, status in answers)
    hits = reorder(ranking, Scores(values, statuses, ((0, 1),) * len(answers), StageTrace("x")))

    assert sorted(hit.document.id for hit in hits) == sorted(ranking.ids)
    good = [n for n, (value, status) in enumerate(answers) if status is Status.SCORED and _finite(value)]
    expected = sorted(good, key=lambda n: (-(values[n] or 0.0), n)) + [n for n in range(len(answers)) if n not in good]
    assert [hit.document.id for hit in hits] == [str(n) for n in expected]
    for hit in hits:
        value, status = answers[int(hit.document.id)]
        if int(hit.document.id) in good:
            assert (hit.score, hit.status, hit.span) == (value, Status.SCORED, (0, 1))
        else:
            assert hit.score is None
            assert hit.span is None
            assert hit.status is (Status.BAD_SCORE if status is Status.SCORED else status)
        assert hit.first_rank == int(hit.document.id) + 1


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def test_reorder_refuses_scores_that_are_not_parallel() -> None:
    ranking = as_ranking("q", ["a", "b"])
    with pytest.raises(InputError, match="2 hits but 1 values"):
        reorder(ranking, Scores((1.0,), (Status.SCORED,), (None,), StageTrace("x")))


def test_probabilities_ride_with_their_scored_hits() -> None:
    ranking = as_ranking("q", ["a", "b", "c"])
    statuses = (Status.SCORED, Status.DEADLINE, Status.SCORED)
    scores = Scores((1.0, None, 2.0), statuses, (None,) * 3, StageTrace("x"))
    hits = reorder(ranking, scores, [0.3, 0.9, 0.6])
    assert [(hit.document.id, hit.probability) for hit in hits] == [("2", 0.6), ("0", 0.3), ("1", None)]
    assert [hit.probability for hit in reorder(ranking, scores)] == [None] * 3
    with pytest.raises(InputError, match="3 hits but 2 probabilities"):
        reorder(ranking, scores, [0.3, 0.6])


def test_reorder_forgets_the_last_stage_and_keeps_the_first() -> None:
    ranking = as_ranking("q", [{"id": "a", "text": "x", "score": 3.0}])
    ranking = replace(ranking, hits=(replace(ranking.hits[0], probability=0.5, span=(0, 1)),))
    (hit,) = reorder(ranking, Scores((None,), (Status.DEADLINE,), (None,), StageTrace("x")))
    assert (hit.score, hit.probability, hit.span, hit.first_score, hit.first_rank) == (None, None, None, 3.0, 1)


# Stages


@given(depth=st.integers(1, 8), shuffled=st.permutations(TEXTS))
def test_a_stage_sees_its_depth_and_the_rest_stays_behind(depth: int, shuffled: list[str]) -> None:
    ranking = as_ranking(QUERY, shuffled)
    recorder = Recorder()
    result = Stage(recorder, depth).run(ranking)
    assert recorder.seen[0].hits == ranking.hits[:depth]
    assert result.hits[:depth] == OverlapReranker().rerank(ranking.top(depth)).hits
    assert result.ids[depth:] == ranking.ids[depth:]
    for hit in result.hits[depth:]:
        assert (hit.status, hit.score) == (Status.BEYOND_DEPTH, None)
        assert hit.first_rank is not None


def test_the_sooner_of_deadline_and_budget_counts() -> None:
    for budget_ms, deadline_ms, scored in ((2500, None, 3), (2500, 1500, 2), (1500, 2500, 2), (None, 2500, 3)):
        clock = ManualClock()
        stage = Stage(OverlapReranker(clock=clock, seconds_per_pair=1.0), depth=100, budget_ms=budget_ms)
        deadline = Deadline(None, clock) if deadline_ms is None else Deadline.after_ms(deadline_ms, clock)
        result = stage.run(as_ranking(QUERY, TEXTS), deadline)
        assert sum(hit.status is Status.SCORED for hit in result.hits) == scored


def test_a_budget_starts_when_its_stage_starts() -> None:
    clock = ManualClock()
    slow = OverlapReranker(clock=clock, seconds_per_pair=1.0)
    cascade = Cascade(None, Stage(slow, depth=4, budget_ms=10_000), Stage(slow, depth=4, budget_ms=2_500))
    result = cascade.rerank(as_ranking(QUERY, TEXTS), deadline=Deadline.after_ms(60_000, clock))
    assert [entry.pairs_scored for entry in result.trace] == [4, 3]


def test_a_stage_that_starts_too_late_is_skipped_and_says_so() -> None:
    clock = ManualClock()
    first, second = OverlapReranker(clock=clock, seconds_per_pair=1.0), Recorder()
    cascade = Cascade(None, Stage(first, depth=6), Stage(second, depth=3))
    result = cascade.rerank(as_ranking(QUERY, TEXTS), deadline=Deadline.after_ms(6000, clock))
    assert second.seen == []
    assert result.ids == OverlapReranker().rerank(as_ranking(QUERY, TEXTS)).ids
    assert [hit.status for hit in result.hits] == [Status.DEADLINE] * 3 + [Status.BEYOND_DEPTH] * 3
    assert result.trace[1].name == "recorder"
    assert result.trace[1].skipped == {"deadline": 3}
    assert "time was up" in result.trace[1].skipped_because


def test_a_stage_does_not_let_a_reranker_lose_or_invent_documents() -> None:
    class Loses(OverlapReranker):
        def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
            return super().rerank(ranking, deadline=deadline).top(2)

    with pytest.raises(SecondpassError, match="got 6 documents and gave back 2"):
        Stage(Loses()).run(as_ranking(QUERY, TEXTS))


@pytest.mark.parametrize("depth", [0, -1, 1.5, True, None, "100"])
def test_a_depth_is_a_whole_number_from_one_up(depth: object) -> None:
    with pytest.raises(InputError, match="depth is"):
        Stage(OverlapReranker(), depth=depth)  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", [-1, math.nan])
def test_a_budget_is_not_negative(budget: float) -> None:
    with pytest.raises(InputError, match="budget_ms is"):
        Stage(OverlapReranker(), budget_ms=budget)


# Cascades


def test_a_search_retrieves_reranks_and_cuts() -> None:
    cascade = Cascade(ListRetriever({QUERY: TEXTS}), Stage(OverlapReranker(), depth=4))
    result = cascade.search(QUERY, top_k=3, query_id="7")
    assert result.ids == ("3", "2", "1")
    assert [hit.first_rank for hit in result.hits] == [4, 3, 2]
    assert (result.query, result.query_id) == (QUERY, "7")
    assert [entry.name for entry in result.trace] == ["list-retriever", "overlap-reranker"]
    assert result.trace[0].seconds > 0


def test_later_stages_see_what_earlier_ones_made() -> None:
    second = Recorder()
    cascade = Cascade(None, Stage(OverlapReranker(), depth=6), Stage(second, depth=2))
    result = cascade.rerank(as_ranking(QUERY, TEXTS))
    assert second.seen[0].ids == ("3", "5")
    assert result.ids == ("3", "5", "2", "1", "0", "4")
    assert [hit.status for hit in result.hits] == [Status.SCORED] * 2 + [Status.BEYOND_DEPTH] * 4
    assert len(result.trace) == 2


@pytest.mark.parametrize(
    ("depths", "retrieve", "top_k", "asked"),
    [((100, 20), None, 10, 100), ((5,), None, 10, 10), ((5,), 50, 10, 50), ((), None, 10, 10), ((5,), 3, 10, 10)],
)
def test_how_many_candidates_are_asked_for(
    depths: tuple[int, ...], retrieve: int | None, top_k: int, asked: int
) -> None:
    retriever = Asked()
    Cascade(retriever, *(Stage(OverlapReranker(), depth) for depth in depths), retrieve=retrieve).search(QUERY, top_k)
    assert retriever.k == asked


def test_no_time_gives_the_first_stage_order() -> None:
    cascade = Cascade(ListRetriever({QUERY: TEXTS}), Stage(OverlapReranker()))
    result = cascade.search(QUERY, deadline_ms=0)
    assert result.ids == as_ranking(QUERY, TEXTS).ids
    assert all(hit.status is Status.DEADLINE for hit in result.hits)


def test_nothing_found_is_an_empty_ranking() -> None:
    assert len(Cascade(ListRetriever({}), Stage(OverlapReranker())).search("x")) == 0


def test_a_cascade_is_a_reranker_and_keeps_its_promises() -> None:
    one, two = Stage(OverlapReranker(), depth=1000), Stage(OverlapReranker(), depth=3)
    assert isinstance(Cascade(None, one), Reranker)
    assert not isinstance(Cascade(None, one), Retriever)
    check_reranker(lambda: Cascade(None, one, one))
    check_reranker(lambda: Cascade(ListRetriever({}), one, two))
    check_pointwise(lambda: Cascade(None, one))


def test_the_repr_reads_as_the_pipeline() -> None:
    retriever = ListRetriever({QUERY: TEXTS})
    cascade = Cascade(retriever, Stage(OverlapReranker(), 100), Stage(OverlapReranker(), 20, budget_ms=80))
    assert repr(cascade) == "ListRetriever(1 queries) >> OverlapReranker() @ 100 >> OverlapReranker() @ 20 within 80 ms"
    assert repr(Cascade(retriever, retrieve=50)) == "ListRetriever(1 queries) @ 50"
    assert repr(Cascade(None, Stage(OverlapReranker()))) == "OverlapReranker() @ 100"


def test_what_cannot_be_a_cascade_says_why() -> None:
    with pytest.raises(InputError, match="not a Stage; write Stage"):
        Cascade(None, OverlapReranker())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has no retrieve"):
        Cascade(OverlapReranker())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has no rerank"):
        Stage(ListRetriever({}))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="retrieve is 0"):
        Cascade(ListRetriever({}), retrieve=0)


def test_what_cannot_be_searched_says_why() -> None:
    with pytest.raises(InputError, match="no retriever"):
        Cascade(None, Stage(OverlapReranker())).search("x")
    cascade = Cascade(ListRetriever({}))
    with pytest.raises(InputError, match="query is a NoneType"):
        cascade.search(None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="top_k is 0"):
        cascade.search("x", top_k=0)
    with pytest.raises(InputError, match="NaN"):
        cascade.search("x", deadline_ms=math.nan)
