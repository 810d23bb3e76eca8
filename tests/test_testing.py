"""The contract suites pass what keeps the promises, and catch every way to break one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from secondpass.testing import (
    ListRetriever,
    ManualClock,
    OverlapReranker,
    check_pointwise,
    check_reranker,
    check_retriever,
    check_selector,
)
from secondpass.types import (
    NEVER,
    Deadline,
    Document,
    Hit,
    Ranking,
    Reranker,
    Retriever,
    StageTrace,
    Status,
    as_ranking,
)


def test_the_double_keeps_every_promise() -> None:
    check_reranker(OverlapReranker)
    check_pointwise(OverlapReranker)


def test_a_reranker_without_a_query_limit_passes_too() -> None:
    check_reranker(lambda: OverlapReranker(max_query_words=10**6))
    check_pointwise(lambda: OverlapReranker(max_query_words=10**6))


# Each breaks one promise and keeps the rest.


class Dropper(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        result = super().rerank(ranking, deadline=deadline)
        return replace(result, hits=tuple(hit for hit in result.hits if hit.status is not Status.EMPTY))


class LastDropper(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        result = super().rerank(ranking, deadline=deadline)
        return replace(result, hits=result.hits[:5])


class Inventor(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        result = super().rerank(ranking, deadline=deadline)
        return replace(result, hits=(*result.hits, Hit(Document("new", "text"), None, Status.DEADLINE)))


class Doubler(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        result = super().rerank(ranking, deadline=deadline)
        return replace(result, hits=result.hits + result.hits[:1])


class MetadataMutator(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        for hit in ranking.hits:
            hit.document.metadata.get("page", []).append("seen")
        return super().rerank(ranking, deadline=deadline)


class RankingMutator(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        result = super().rerank(ranking, deadline=deadline)
        object.__setattr__(ranking, "hits", result.hits)
        return result


class TextCutter(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        result = super().rerank(ranking, deadline=deadline)
        hits = [
            replace(hit, document=replace(hit.document, text=hit.document.text[:200]))
            if isinstance(hit.document.text, str)
            else hit
            for hit in result.hits
        ]
        return replace(result, hits=tuple(hits))


class MetadataLoser(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        result = super().rerank(ranking, deadline=deadline)
        hits = (
            replace(hit, document=Document(hit.document.id, hit.document.text, hit.document.title))
            for hit in result.hits
        )
        return replace(result, hits=tuple(hits))


class FirstRankRewriter(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        result = super().rerank(ranking, deadline=deadline)
        return replace(result, hits=tuple(replace(hit, first_rank=n) for n, hit in enumerate(result.hits, 1)))


class FirstScoreLoser(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        result = super().rerank(ranking, deadline=deadline)
        return replace(result, hits=tuple(replace(hit, first_score=None) for hit in result.hits))


class QueryIdLoser(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        return replace(super().rerank(ranking, deadline=deadline), query_id="")


class TraceForgetter(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        result = super().rerank(ranking, deadline=deadline)
        return replace(result, trace=result.trace[-1:])


class Silent(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        return replace(super().rerank(ranking, deadline=deadline), trace=ranking.trace)


class SilentAboutSkipping(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        result = super().rerank(ranking, deadline=deadline)
        *earlier, last = result.trace
        return replace(result, trace=(*earlier, replace(last, skipped={}, skipped_because="")))


class DeadlineIgnorer(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        return super().rerank(ranking)


class FailsWhenLate(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        if deadline.passed:
            raise TimeoutError("too late")
        return super().rerank(ranking, deadline=deadline)


class ShufflesWhenLate(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        result = super().rerank(ranking, deadline=deadline)
        return replace(result, hits=result.hits[::-1]) if deadline.passed else result


class NanPasser(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        result = super().rerank(ranking, deadline=deadline)
        hits = [replace(hit, score=float("nan")) if hit.score == 0.0 else hit for hit in result.hits]
        return replace(result, hits=tuple(hits))


class ScoresTheUnscored(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        result = super().rerank(ranking, deadline=deadline)
        return replace(result, hits=tuple(replace(hit, score=hit.score or 0.0) for hit in result.hits))


class FailsOnNonText(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        for hit in ranking.hits:
            hit.document.text.lower()
        return super().rerank(ranking, deadline=deadline)


class FailsOnSurrogates(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        for hit in ranking.hits:
            str(hit.document.text).encode()
        return super().rerank(ranking, deadline=deadline)


class FailsOnEmptyRankings(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        max(hit.first_rank or 0 for hit in ranking.hits)
        return super().rerank(ranking, deadline=deadline)


class GivesUpOnAllWhenOneIsBad(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        if any(not isinstance(hit.document.text, str) for hit in ranking.hits):
            ranking_of_bad = replace(ranking, hits=tuple(_not_text(hit) for hit in ranking.hits))
            return replace(ranking_of_bad, trace=super().rerank(ranking, deadline=deadline).trace)
        return super().rerank(ranking, deadline=deadline)


def _not_text(hit: Hit) -> Hit:
    return replace(hit, score=None, status=Status.EMPTY if hit.document.text == "" else Status.NOT_TEXT)


class ReordersUnderALongQuery(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        result = super().rerank(ranking, deadline=deadline)
        long = any(hit.status is Status.QUERY_TOO_LONG for hit in result.hits)
        return replace(result, hits=result.hits[::-1]) if long else result


UNIVERSAL = [
    (Dropper, "lost"),
    (LastDropper, "lost"),
    (Inventor, "invented"),
    (Doubler, "doubled"),
    (MetadataMutator, "mutated"),
    (RankingMutator, "mutated"),
    (TextCutter, "came back changed"),
    (MetadataLoser, "came back changed"),
    (FirstRankRewriter, "first_rank"),
    (FirstScoreLoser, "first_score"),
    (QueryIdLoser, "query or its id"),
    (TraceForgetter, "earlier entries of the trace"),
    (Silent, "no new entry"),
    (SilentAboutSkipping, "does not say what was skipped"),
    (DeadlineIgnorer, "deadline of zero"),
    (FailsWhenLate, "deadline of zero"),
    (ShufflesWhenLate, "order"),
    (NanPasser, "not a finite float"),
    (ScoresTheUnscored, "yet there is a score"),
    (FailsOnNonText, "bad documents"),
    (FailsOnSurrogates, "bad documents"),
    (FailsOnEmptyRankings, "empty ranking"),
    (GivesUpOnAllWhenOneIsBad, "bad documents"),
    (ReordersUnderALongQuery, "40,000 words"),
]


@pytest.mark.parametrize(("broken", "promise"), UNIVERSAL, ids=[broken.__name__ for broken, _ in UNIVERSAL])
def test_a_broken_reranker_is_caught_for_what_it_breaks(broken: Callable[[], Reranker], promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        check_reranker(broken)


class Rescorer(OverlapReranker):
    """Changes the scores and sorts again: universal promises hold, pointwise ones may not."""

    def rescore(self, ranking: Ranking, hit: Hit, position: int) -> float:
        raise NotImplementedError

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        result = super().rerank(ranking, deadline=deadline)
        scored = [
            replace(hit, score=self.rescore(ranking, hit, position))
            for position, hit in enumerate(result.hits)
            if hit.score is not None
        ]
        scored.sort(key=lambda hit: (-(hit.score or 0.0), hit.first_rank or 0))
        return replace(result, hits=(*scored, *(hit for hit in result.hits if hit.score is None)))


class DependsOnBatchMates(Rescorer):
    def rescore(self, ranking: Ranking, hit: Hit, position: int) -> float:
        longest = max(len(other.document.text) for other in ranking.hits if isinstance(other.document.text, str))
        return (hit.score or 0.0) + 1e-3 * longest  # as padding without a mask would


class DependsOnPlace(Rescorer):
    def rescore(self, ranking: Ranking, hit: Hit, position: int) -> float:
        return (hit.score or 0.0) + 0.01 / (hit.first_rank or 1)


class DependsOnThePast(Rescorer):
    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, float] = {}

    def rescore(self, ranking: Ranking, hit: Hit, position: int) -> float:
        self.seen[hit.document.id] = self.seen.get(hit.document.id, 0.0) + 0.001
        return (hit.score or 0.0) + self.seen[hit.document.id]


class NotSorted(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        result = super().rerank(ranking, deadline=deadline)
        scored = [hit for hit in result.hits if hit.score is not None]
        return replace(result, hits=(*scored[::-1], *result.hits[len(scored) :]))


class TiesTheWrongWayRound(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        result = super().rerank(ranking, deadline=deadline)
        scored = [hit for hit in result.hits if hit.score is not None]
        scored.sort(key=lambda hit: (-(hit.score or 0.0), -(hit.first_rank or 0)))
        return replace(result, hits=(*scored, *result.hits[len(scored) :]))


class QueryTruncator(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        cut = replace(ranking, query=" ".join(ranking.query.split()[:500]))
        return replace(super().rerank(cut, deadline=deadline), query=ranking.query)


class ScoresTheFirstThreeOnly(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        head = super().rerank(ranking.top(3), deadline=deadline)
        tail = tuple(_not_text(hit) for hit in ranking.hits[3:])
        return replace(head, hits=head.hits + tail)


class ShufflesWhatWasCutOff(OverlapReranker):
    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        result = super().rerank(ranking, deadline=deadline)
        scored = [hit for hit in result.hits if hit.score is not None]
        return replace(result, hits=(*scored, *result.hits[len(scored) :][::-1])) if scored else result


POINTWISE = [
    (ShufflesWhatWasCutOff, "order among themselves"),
    (DependsOnBatchMates, "changes the score"),
    (DependsOnPlace, "reversed order|depth"),
    (DependsOnThePast, "changes the score"),
    (NotSorted, "falling score"),
    (TiesTheWrongWayRound, "ties"),
    (QueryTruncator, "truncated"),
    (ScoresTheFirstThreeOnly, "unscored"),
]


@pytest.mark.parametrize(("broken", "promise"), POINTWISE, ids=[broken.__name__ for broken, _ in POINTWISE])
def test_a_broken_pointwise_reranker_is_caught_for_what_it_breaks(broken: Callable[[], Reranker], promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        check_pointwise(broken)


def test_the_tolerance_is_the_one_that_was_stated() -> None:
    class Rounding(Rescorer):
        def rescore(self, ranking: Ranking, hit: Hit, position: int) -> float:
            return (hit.score or 0.0) + 1e-3 * (len(ranking) % 2)

    check_pointwise(Rounding, tolerance=2e-3)
    with pytest.raises(AssertionError, match=r"more than the tolerance of 0\.0005"):
        check_pointwise(Rounding, tolerance=5e-4)


def test_the_promises_hold_under_python_O() -> None:
    program = (
        "from dataclasses import replace\n"
        "from secondpass.testing import OverlapReranker, check_reranker\n"
        "class Dropper(OverlapReranker):\n"
        "    def rerank(self, ranking, **more):\n"
        "        result = super().rerank(ranking, **more)\n"
        "        return replace(result, hits=result.hits[1:])\n"
        "try:\n"
        "    check_reranker(Dropper)\n"
        "except AssertionError as error:\n"
        "    print('caught:', error)\n"
    )
    done = subprocess.run([sys.executable, "-O", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("caught: an ordinary ranking: documents were lost"), done.stderr


# Retrievers


class WholeCollection:
    """A correct retriever: what shares words with the query, most words first."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = list(documents)
        self.words = [set(str(document.text).split()) for document in documents]

    def retrieve(self, query: str, k: int) -> Ranking:
        scores = [float(len(words & set(query.split()))) for words in self.words]
        best = sorted((n for n, score in enumerate(scores) if score), key=lambda n: -scores[n])[:k]
        hits = (
            Hit(self.documents[n], scores[n], Status.RETRIEVED, scores[n], rank) for rank, n in enumerate(best, start=1)
        )
        return Ranking(query, tuple(hits))


class OneTooMany(WholeCollection):
    def retrieve(self, query: str, k: int) -> Ranking:
        return super().retrieve(query, k + 1)


class WorstFirst(WholeCollection):
    def retrieve(self, query: str, k: int) -> Ranking:
        hits = super().retrieve(query, k).hits[::-1]
        return Ranking(query, tuple(replace(hit, first_rank=n) for n, hit in enumerate(hits, 1)))


class CountsFromZero(WholeCollection):
    def retrieve(self, query: str, k: int) -> Ranking:
        hits = super().retrieve(query, k).hits
        return Ranking(query, tuple(replace(hit, first_rank=(hit.first_rank or 0) - 1) for hit in hits))


class LosesMetadata(WholeCollection):
    def __init__(self, documents: Sequence[Document]) -> None:
        super().__init__([Document(document.id, document.text) for document in documents])


class NeedsEnough(WholeCollection):
    def retrieve(self, query: str, k: int) -> Ranking:
        if k > len(self.documents):
            raise ValueError("k is larger than the collection")
        return super().retrieve(query, k)


class NeedsText(WholeCollection):
    def __init__(self, documents: Sequence[Document]) -> None:
        super().__init__(documents)
        for document in documents:
            document.text.lower()


class Moody(WholeCollection):
    asked = 0

    def retrieve(self, query: str, k: int) -> Ranking:
        self.asked += 1
        return super().retrieve(query, k).top(k - self.asked % 2)


class BreaksOnSyntax(WholeCollection):
    def retrieve(self, query: str, k: int) -> Ranking:
        query.format()
        return super().retrieve(query, k)


class ReadsNumbers(WholeCollection):
    def __init__(self, documents: Sequence[Document]) -> None:
        super().__init__([one for one in documents if one.id != "01"])


class Mutates(WholeCollection):
    def __init__(self, documents: Sequence[Document]) -> None:
        super().__init__(documents)
        if "page" in documents[0].metadata:
            documents[0].metadata["page"].append(2)


class FindsNothing(WholeCollection):
    def retrieve(self, query: str, k: int) -> Ranking:
        return Ranking(query)


RETRIEVERS = [
    (OneTooMany, "more than k"),
    (WorstFirst, "rise"),
    (CountsFromZero, "first_rank"),
    (LosesMetadata, "as it was indexed"),
    (NeedsEnough, "failed with ValueError"),
    (NeedsText, "bad documents"),
    (Moody, "two answers"),
    (BreaksOnSyntax, "failed with"),
    (ReadsNumbers, "not all ids"),
    (Mutates, "mutated"),
    (FindsNothing, "not all ids"),
]


def test_a_correct_retriever_passes() -> None:
    check_retriever(WholeCollection)


@pytest.mark.parametrize(("broken", "promise"), RETRIEVERS, ids=[broken.__name__ for broken, _ in RETRIEVERS])
def test_a_broken_retriever_is_caught_for_what_it_breaks(
    broken: Callable[[Sequence[Document]], Retriever], promise: str
) -> None:
    with pytest.raises(AssertionError, match=promise):
        check_retriever(broken)


# Doubles


def test_the_double_stops_where_its_clock_says() -> None:
    clock = ManualClock()
    reranker = OverlapReranker(clock=clock, seconds_per_pair=1.0)
    ranking = as_ranking("bee", [f"bee number {n}" for n in range(5)])
    result = reranker.rerank(ranking, deadline=Deadline.after_ms(2500, clock))
    assert [hit.status for hit in result.hits] == [Status.SCORED] * 3 + [Status.DEADLINE] * 2
    assert result.trace[-1].pairs_scored == 3
    assert result.trace[-1].skipped == {"deadline": 2}


def test_the_double_scores_by_shared_words() -> None:
    result = OverlapReranker().rerank(as_ranking("red bee", ["blue fly", "a RED bee", "a bee"]))
    assert [(hit.document.id, hit.score) for hit in result.hits] == [("1", 1.0), ("2", 0.5), ("0", 0.0)]


def test_a_list_retriever_answers_from_its_lists() -> None:
    retriever = ListRetriever({"q": [{"id": "a", "text": "one", "score": 2.5}, "two"]})
    found = retriever.retrieve("q", 5)
    assert found.ids == ("a", "1")
    assert found.hits[0].first_score == 2.5
    assert retriever.retrieve("q", 1).ids == ("a",)
    assert retriever.retrieve("unknown", 5) == Ranking("unknown")


# Selectors


class First:
    """Keeps the first `most`, and keeps every promise."""

    most = 3

    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        removed = {hit.document.id: "further down" for hit in ranking.hits[self.most :]}
        return self.told(ranking, ranking.hits[: self.most], removed)

    def told(self, ranking: Ranking, hits: Sequence[Hit], removed: object, **more: object) -> Ranking:
        detail = {"removed": removed, "kept": len(hits), **more}
        trace = (*ranking.trace, StageTrace("first", detail=detail))
        return replace(ranking, hits=tuple(hits), trace=trace)


class SilentSelector(First):
    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        return self.told(ranking, ranking.hits[:3], {})


class TracelessSelector(First):
    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        return ranking


class ForgetfulSelector(First):
    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        result = super().select(ranking, deadline=deadline)
        return replace(result, trace=result.trace[-1:])


class UnreasonedSelector(First):
    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        return self.told(ranking, ranking.hits[:3], {hit.document.id: " " for hit in ranking.hits[3:]})


class ListingSelector(First):
    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        return self.told(ranking, ranking.hits[:3], [hit.document.id for hit in ranking.hits[3:]])


class BoastfulSelector(First):
    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        return self.told(ranking, ranking.hits, {hit.document.id: "gone, or is it" for hit in ranking.hits[3:]})


class MiscountingSelector(First):
    def told(self, ranking: Ranking, hits: Sequence[Hit], removed: object, **more: object) -> Ranking:
        return super().told(ranking, hits, removed, kept=len(ranking))


class InventingSelector(First):
    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        return self.told(ranking, (*ranking.hits, Hit(Document("new", "text"))), {})


class DoublingSelector(First):
    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        return self.told(ranking, ranking.hits * 2, {})


class ScoringSelector(First):
    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        return self.told(ranking, [replace(hit, score=1.0) for hit in ranking.hits], {})


class PairScoringSelector(First):
    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        result = super().select(ranking)
        return replace(result, trace=(*ranking.trace, replace(result.trace[-1], pairs_scored=3)))


class RenamingSelector(First):
    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        return replace(super().select(ranking), query="another")


class MutatingSelector(First):
    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        for hit in ranking.hits:
            hit.document.metadata["seen"] = True  # type: ignore[index]
        return super().select(ranking)


class MoodySelector(First):
    most = 4

    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        self.most = 7 - self.most
        return super().select(ranking)


class HastySelector(First):
    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        self.most = 1 if deadline.passed else 3
        return super().select(ranking)


class QuietlyLateSelector(First):
    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        self.most = 9 if deadline.passed else 3
        return super().select(ranking)


class FailingSelector(First):
    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        assert ranking.hits[0].document.id
        return super().select(ranking)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (SilentSelector, "an ordinary ranking, found: removed without a word: 'd3', 'd4'"),
        (TracelessSelector, "the trace has no new entry"),
        (ForgetfulSelector, "earlier entries of the trace were lost"),
        (UnreasonedSelector, "removed without a reason: 'd3'"),
        (ListingSelector, "is no mapping from ids to reasons"),
        (BoastfulSelector, "said to be removed, and not gone: 'd3'"),
        (MiscountingSelector, "detail\\['kept'\\] is 9, but 3 stay"),
        (InventingSelector, "documents were invented: 'new'"),
        (DoublingSelector, "documents were doubled"),
        (ScoringSelector, "hits came back changed: 'd0'"),
        (PairScoringSelector, "selecting is not scoring"),
        (RenamingSelector, "the query or its id has changed"),
        (MutatingSelector, "has been mutated"),
        (MoodySelector, "asked twice, it gave two answers"),
        (HastySelector, "a deadline removes what stays without one: 'd1', 'd2'"),
        (QuietlyLateSelector, "a deadline makes less go, and the trace does not say so"),
        (FailingSelector, "an empty ranking, found: the selector failed with IndexError"),
    ],
)
def test_a_broken_promise_of_a_selector_is_named(broken: type[First], says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check_selector(broken)


def test_a_selector_that_keeps_every_promise_passes() -> None:
    check_selector(First)
