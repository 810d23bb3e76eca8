"""The heart: a retriever, then stages that reorder ever better and ever less, then what goes into a prompt.

Knows: how a ranking passes through stages: depth, budget, order, trace. Refuses to
know: how anything is scored or found; it sees only the protocols of types.py.

    Cascade(BM25.open("index"), Stage(CrossEncoder(), depth=100, budget_ms=80))

A stage sees the first `depth` hits. What it scores comes first, best score first; what it
does not score follows in the order it came in; what lies beyond the depth stays behind.
"""

from __future__ import annotations

import inspect
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from secondpass.errors import InputError, SecondpassError
from secondpass.types import NEVER, Deadline, Hit, Ranking, Reranker, Retriever, Scores, Selector, StageTrace, Status

__all__ = ["Cascade", "Stage", "reorder", "retrieve_by", "stage_name", "unscored"]


def reorder(ranking: Ranking, scores: Scores, probabilities: Sequence[float | None] | None = None) -> tuple[Hit, ...]:
    """The hits of `ranking` by `scores`, which run parallel to them: a permutation, always.

    Scored hits come first, by falling score, ties in the order given; all others follow in
    the order given, with their status and no score. NaN and infinity become BAD_SCORE here,
    so no reranker has to think of them. `first_score` and `first_rank` stay. `probabilities`, parallel
    too, go to the scored hits; without them none has one, an earlier stage's included.

    Raises InputError where scores or probabilities do not run parallel to the hits.
    """
    counts = (len(scores.values), len(scores.statuses), len(scores.spans))
    if set(counts) != {len(ranking.hits)}:
        raise InputError(
            f"{len(ranking.hits)} hits but {counts[0]} values, {counts[1]} statuses and {counts[2]} spans; "
            "a scorer answers once per text, in the order given"
        )
    known = [None] * len(ranking.hits) if probabilities is None else probabilities
    if len(known) != len(ranking.hits):
        raise InputError(f"{len(ranking.hits)} hits but {len(known)} probabilities; give one per hit, or None")
    scored: list[tuple[float, Hit]] = []
    rest: list[Hit] = []
    for hit, value, status, span, probability in zip(
        ranking.hits, scores.values, scores.statuses, scores.spans, known, strict=True
    ):
        if status is not Status.SCORED:
            rest.append(unscored(hit, status))
        elif value is None or not math.isfinite(value):
            rest.append(unscored(hit, Status.BAD_SCORE))
        else:
            number = float(value)
            scored.append((number, replace(hit, score=number, status=status, probability=probability, span=span)))
    scored.sort(key=lambda pair: -pair[0])  # stable: ties keep their order
    return (*(hit for _, hit in scored), *rest)


def unscored(hit: Hit, status: Status) -> Hit:
    """The hit without what a reranker said of it, but why it is not scored."""
    return replace(hit, score=None, status=status, probability=None, span=None)


@dataclass(frozen=True, slots=True, repr=False)
class Stage:
    """A reranker, how many hits it sees, and the milliseconds it may take (None: the request's).

    Raises InputError for a depth below 1 or a budget that is negative or NaN.
    """

    reranker: Reranker
    depth: int = 100
    budget_ms: float | None = None

    def __post_init__(self) -> None:
        if not callable(getattr(self.reranker, "rerank", None)):
            raise InputError(f"{self.reranker!r} cannot be a stage: it has no rerank(ranking, *, deadline)")
        _check_count("depth", self.depth, "a stage reranks at least one hit")
        if self.budget_ms is not None and not self.budget_ms >= 0:  # also catches NaN
            raise InputError(f"budget_ms is {self.budget_ms}; give milliseconds from 0 up, or None for no own budget")

    def __repr__(self) -> str:
        budget = "" if self.budget_ms is None else f" within {self.budget_ms:g} ms"
        return f"{self.reranker!r} @ {self.depth}{budget}"

    def run(self, ranking: Ranking, deadline: Deadline = NEVER) -> Ranking:
        """Rerank the first `depth` hits before `deadline` or the own budget is up, whichever is sooner.

        When time is up already the reranker is not called: its hits get the status DEADLINE,
        the order stays, and the trace says so.

        Raises SecondpassError where the reranker loses, doubles or invents a document.
        """
        head = ranking.top(self.depth)
        deadline = deadline.sooner(None if self.budget_ms is None else self.budget_ms / 1000.0)
        result = _skipped(head, self.reranker) if deadline.passed else self.reranker.rerank(head, deadline=deadline)
        if sorted(result.ids) != sorted(head.ids):
            raise SecondpassError(
                f"{self.reranker!r} got {len(head)} documents and gave back {len(result)}, or other ones; "
                "a reranker returns exactly what it was given (secondpass.testing.check_reranker shows where it fails)"
            )
        tail = tuple(unscored(hit, Status.BEYOND_DEPTH) for hit in ranking.hits[self.depth :])
        return replace(result, hits=result.hits + tail) if tail else result


def _skipped(ranking: Ranking, reranker: Reranker) -> Ranking:
    """What a stage leaves that never started: every hit in its place, and a trace that says why."""
    trace = StageTrace(
        stage_name(reranker),
        skipped={Status.DEADLINE.value: len(ranking)},
        skipped_because="time was up before this stage began",
    )
    hits = tuple(unscored(hit, Status.DEADLINE) for hit in ranking.hits)
    return replace(ranking, hits=hits, trace=(*ranking.trace, trace))


class Cascade:
    """A retriever and the stages after it; running it is one short loop.

    `retrieve` is how many candidates to ask the retriever for (None: the largest depth).
    Without a retriever (None) it only reranks, and with one it does that too: a Cascade is
    itself a Reranker and keeps every Reranker's promises. `select` are Selectors, for those who put
    what is found into a prompt: `search` applies them after the stages, `rerank` never does.

        cascade.search("who wrote it", top_k=10, deadline_ms=80) -> Ranking
        cascade.rerank(ranking, deadline=Deadline.after_ms(80))  -> Ranking
        cascade.select(ranking)                                  -> Ranking
    """

    def __init__(
        self,
        retriever: Retriever | None,
        *stages: Stage,
        retrieve: int | None = None,
        select: Selector | Sequence[Selector] = (),
    ) -> None:
        if retriever is not None and not callable(getattr(retriever, "retrieve", None)):
            raise InputError(f"{retriever!r} cannot be the first stage: it has no retrieve(query, k)")
        for stage in stages:
            if not isinstance(stage, Stage):
                raise InputError(f"{stage!r} is not a Stage; write Stage({stage!r}, depth=100)")
        if retrieve is not None:
            _check_count("retrieve", retrieve, "the retriever finds at least one candidate")
        selectors = tuple(select) if isinstance(select, Sequence) else (select,)
        for selector in selectors:
            if not callable(getattr(selector, "select", None)):
                raise InputError(f"{selector!r} cannot select: it has no select(ranking, *, deadline)")
        self.retriever = retriever
        self.stages = stages
        self.selectors = selectors
        self.candidates = retrieve  # not named `retrieve`: that would make this look like a Retriever

    def search(self, query: str, top_k: int = 10, deadline_ms: float | None = None, query_id: str = "") -> Ranking:
        """The best `top_k` documents, `deadline_ms` milliseconds from now at the latest (None: no limit).

        Retrieval runs to its end even when that takes longer (a retriever whose `retrieve` takes a `deadline`, as the
        fallback of retrievers does, is told of it); a stage that would begin too
        late is skipped, and one at work stops before the next batch. What is to be selected is selected from all
        that was ranked, and cut to `top_k` at last. The trace holds one entry per step, the retrieval first.

        Raises InputError without a retriever, for a query that is no string, or for a top_k below 1.
        """
        deadline = Deadline.after_ms(deadline_ms)
        found = replace(self.first_stage(query, top_k, deadline=deadline), query_id=query_id)
        return self.select(self.rerank(found, deadline=deadline), deadline=deadline).top(top_k)

    def first_stage(self, query: str, top_k: int = 10, *, deadline: Deadline = NEVER) -> Ranking:
        """What the retriever finds: as many candidates as the stages look at, `top_k` at least. See `search`."""
        if self.retriever is None:
            raise InputError("this cascade has no retriever; give it one, or call rerank(ranking)")
        if not isinstance(query, str):
            raise InputError(f"the query is a {type(query).__name__}; give a str")
        _check_count("top_k", top_k, "a search returns at least one document")
        depths = [stage.depth for stage in self.stages]
        count = max([top_k, *(depths if self.candidates is None else [self.candidates])])
        begun = time.perf_counter()
        found = retrieve_by(self.retriever, query, count, deadline)
        seconds = time.perf_counter() - begun
        return replace(found, trace=found.trace or (StageTrace(stage_name(self.retriever), seconds),))

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        """Pass `ranking` through every stage; always a permutation of what was given."""
        for stage in self.stages:
            ranking = stage.run(ranking, deadline)
        return ranking

    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        """Pass `ranking` through every selector; the trace says what each removed, and why.

        Raises SecondpassError where a selector invents, doubles or changes a hit.
        """
        for selector in self.selectors:
            chosen = selector.select(ranking, deadline=deadline)
            given = {hit.document.id: hit for hit in ranking.hits}
            if any(given.pop(hit.document.id, None) != hit for hit in chosen.hits):
                raise SecondpassError(
                    f"{selector!r} gave back a hit that it was not given, or one twice; a selector removes and moves "
                    "hits, no more (secondpass.testing.check_selector shows where it fails)"
                )
            ranking = chosen
        return ranking

    def __repr__(self) -> str:
        first = [] if self.retriever is None else [repr(self.retriever)]
        if first and self.candidates is not None:
            first = [f"{first[0]} @ {self.candidates}"]
        return " >> ".join([*first, *map(repr, (*self.stages, *self.selectors))]) or "Cascade(None)"


def retrieve_by(retriever: Retriever, query: str, k: int, deadline: Deadline) -> Ranking:
    """What a retriever finds; one whose `retrieve` takes a `deadline` is told of it."""
    if "deadline" not in inspect.signature(retriever.retrieve).parameters:
        return retriever.retrieve(query, k)
    ask: Callable[..., Ranking] = retriever.retrieve
    return ask(query, k, deadline=deadline)


def stage_name(part: object) -> str:
    """`CrossEncoder` -> `cross-encoder`, as the registry and the traces spell it."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(part).__name__).lower()


def _check_count(name: str, value: object, why: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} is {value!r}; give a whole number from 1 up: {why}")
