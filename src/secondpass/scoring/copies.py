"""Uncopied: a text that holds the query itself does not gain by it.

Knows: where a query stands word for word in a text, and any Scorer to ask. Refuses to know: rankings, engines, other
ways to fool a model (bench/robustness.py has them). A wrapper that is itself a Scorer; a text without a copy passes
through it unchanged.

A model that reads query and text together takes a copy of the query for the best of answers. So such a text is scored
once more with every copy taken out, and the lower of both scores is its own: what it says beside the question has to
answer it.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from secondpass.types import NEVER, Deadline, Scorer, Scores, Status

__all__ = ["Uncopied"]

_WORDS = range(4, 1001)  # of a query: fewer stand in honest texts often, as a name does; more fit no model


class Uncopied:
    """Scores of `scorer`, of texts that copy the query the lower one of with the copies and without.

    A copy is all words of the query in their order, in any case, with anything between them that is no word; queries
    of fewer than four words are no matter. A text that is nothing but copies keeps its score. Costs one more pair for
    each text with a copy; where time was up before both were scored, the text has no score.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def score(self, query: str, texts: Sequence[object], *, deadline: Deadline = NEVER) -> Scores:
        """As the wrapped scorer answers, but for texts with a copy of the query.

        In the trace `pairs_scored` and tokens count both readings; `detail["copies"]` holds how many documents had a
        copy and how many of them a lower score without it. The span is that of the whole text.
        """
        began = time.perf_counter()
        found = _pattern(query)
        bare = {} if found is None or deadline.passed else _without(found, texts)
        if not bare:
            return self.scorer.score(query, texts, deadline=deadline)  # type: ignore[arg-type]
        pieces: list[object] = []  # a text's second reading next to its first: a deadline takes both or neither
        at: list[int] = []
        for i, text in enumerate(texts):
            at.append(len(pieces))
            pieces += [text, bare[i]] if i in bare else [text]
        inner = self.scorer.score(query, pieces, deadline=deadline)  # type: ignore[arg-type]
        values, statuses = [inner.values[k] for k in at], [inner.statuses[k] for k in at]
        lowered = truncated = 0
        for i in bare:
            whole, rest = values[i], inner.values[at[i] + 1]
            cut = inner.spans[at[i] + 1]
            truncated += cut is not None and cut != (0, len(bare[i]))
            if whole is not None and rest is None:
                values[i], statuses[i] = None, inner.statuses[at[i] + 1]
            elif whole is not None and rest is not None and rest < whole:
                values[i] = rest
                lowered += 1
        spans = [None if value is None else inner.spans[k] for value, k in zip(values, at, strict=True)]
        skipped = dict(Counter(str(status) for status in statuses if status is not Status.SCORED))
        trace = replace(
            inner.trace,
            seconds=time.perf_counter() - began,
            truncated=inner.trace.truncated - truncated,
            skipped=skipped,
            skipped_because=inner.trace.skipped_because if skipped else "",
            detail={**inner.trace.detail, "copies": {"documents": len(bare), "lowered": lowered}},
        )
        return Scores(tuple(values), tuple(statuses), tuple(spans), trace)


def _pattern(query: str) -> re.Pattern[str] | None:
    """What finds the query's words in their order; None where they are too few to tell, or too many."""
    words = re.findall(r"\w+", query)
    if len(words) not in _WORDS:
        return None
    return re.compile(r"\b" + r"\W+".join(map(re.escape, words)) + r"\b[^\w\s]*", re.IGNORECASE)


def _without(copy: re.Pattern[str], texts: Sequence[object]) -> dict[int, str]:
    """By position, each text that holds a copy, without its copies; not where nothing else is left."""
    bare = {}
    for i, text in enumerate(texts):
        if isinstance(text, str) and copy.search(text):
            rest = " ".join(copy.sub(" ", text).split())
            if re.search(r"\w", rest):
                bare[i] = rest
    return bare
