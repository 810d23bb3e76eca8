"""A reranker without a model: documents that quote the longest piece of the query come first.

Anything with `rerank(ranking, *, deadline)` is a reranker; no base class is needed. What secondpass promises its users
of every reranker, this one has to keep, too: no document is lost, what cannot be scored gets a status, time is looked
at, and the trace says what happened. tests/test_longest_run.py holds it to that.
"""

from __future__ import annotations

import re
import time
from collections import Counter

from secondpass.cascade import reorder
from secondpass.errors import InputError
from secondpass.types import NEVER, Deadline, Document, Ranking, Scores, StageTrace, Status

__all__ = ["LongestRun"]


class LongestRun:
    """Scores a document by the most words of the query that stand in it one after the other, as a share of the query.

    A query of more than `max_query_words` words is not cut: its documents keep their order, as `query_too_long`.
    """

    def __init__(self, *, max_query_words: int = 64) -> None:
        if max_query_words < 1:
            raise InputError(f"max_query_words is {max_query_words}; give a whole number from 1 up")
        self.max_query_words = max_query_words

    def __repr__(self) -> str:
        return "LongestRun()"

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        """The ranking by falling score; what has none keeps its order behind."""
        begun = time.perf_counter()
        query = _words(ranking.query)
        values: list[float | None] = []
        statuses: list[Status] = []
        for hit in ranking.hits:
            status = self._obstacle(query, hit.document, deadline)
            statuses.append(status)
            values.append(_longest_run(query, hit.document) if status is Status.SCORED else None)
        trace = StageTrace(
            "longest-run",
            time.perf_counter() - begun,
            pairs_scored=statuses.count(Status.SCORED),
            skipped=Counter(str(status) for status in statuses if status is not Status.SCORED),
            skipped_because="time was up" if Status.DEADLINE in statuses else "",
        )
        scores = Scores(tuple(values), tuple(statuses), (None,) * len(values), trace)
        return Ranking(ranking.query, reorder(ranking, scores), (*ranking.trace, trace), ranking.query_id)

    def _obstacle(self, query: list[str], document: Document, deadline: Deadline) -> Status:
        """Why a document cannot be scored; SCORED where nothing is in the way."""
        if len(query) > self.max_query_words:
            return Status.QUERY_TOO_LONG
        if not isinstance(document.text, str):
            return Status.NOT_TEXT
        if not document.text.strip():
            return Status.EMPTY
        return Status.DEADLINE if deadline.passed else Status.SCORED


def _longest_run(query: list[str], document: Document) -> float:
    places: dict[str, list[int]] = {}
    for place, word in enumerate(query):
        places.setdefault(word, []).append(place)
    longest = 0
    ending: dict[int, int] = {}  # of the runs that the last word ends: their last place in the query, and their length
    for word in _words(f"{document.title} {document.text}"):
        ending = {place: ending.get(place - 1, 0) + 1 for place in places.get(word, ())}
        longest = max(longest, *ending.values(), 0)
    return longest / max(len(query), 1)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
