"""The data that flows: documents, hits, rankings, traces, and the four protocols.

Knows: shapes and names. Refuses to know: models, files, engines, how anything is
computed. Everything here is frozen; a reranker returns a new Ranking and never
changes the one it was given.

    Retriever.retrieve(query, k)         -> Ranking
    Reranker.rerank(ranking, deadline=…) -> Ranking
    Scorer.score(query, texts, …)        -> Scores
    Selector.select(ranking, deadline=…) -> Ranking

Position is the order of a ranking. Scores compare only within one stage.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from secondpass.errors import InputError

__all__ = [
    "Caller",
    "Deadline",
    "Document",
    "DocumentLike",
    "Hit",
    "Ranking",
    "Reranker",
    "Retriever",
    "Scorer",
    "Scores",
    "Selector",
    "StageTrace",
    "Status",
    "as_document",
    "as_ranking",
]

_EMPTY: Mapping[str, Any] = MappingProxyType({})


class Status(StrEnum):
    """What became of a document in the last stage that touched it."""

    RETRIEVED = "retrieved"  # a first stage found it; no reranker saw it yet
    SCORED = "scored"
    BEYOND_DEPTH = "beyond_depth"  # further down than the stage reranks
    DEADLINE = "deadline"  # time was up before its turn
    QUERY_TOO_LONG = "query_too_long"  # the query does not fit the model
    EMPTY = "empty"  # nothing to score in this document
    NOT_TEXT = "not_text"  # the text is not a string
    BAD_SCORE = "bad_score"  # the model gave NaN or infinity
    FAILED = "failed"  # the scorer failed: it gave no answer, or none for this document


@dataclass(frozen=True, slots=True)
class Document:
    """One document. `text` may be empty; such a document keeps its place, unscored."""

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)


DocumentLike = str | Mapping[str, Any] | Document
"""A text, a mapping with `text` (and `id`, `title`, anything else), or a Document."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One document at its place in a ranking.

    `score` is what the last stage gave (None where it gave none); `first_score` and
    `first_rank` (1-based) are the first stage's and never change afterwards.
    `probability` is that of being relevant, None unless the model is calibrated. `span` is the
    (start, end) slice, in characters of the scored text, that the score rests on; None: nothing was scored.
    """

    document: Document
    score: float | None = None
    status: Status = Status.RETRIEVED
    first_score: float | None = None
    first_rank: int | None = None
    probability: float | None = None
    span: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class StageTrace:
    """What one stage did: seconds of wall time, counts of pairs and of tokens.

    `tokens` are real tokens of the pairs that were scored, `padded_tokens` what the
    engine computed on (so padding = padded_tokens − tokens), `truncated` the pairs whose
    document was cut and `cut_tokens` how much was cut. `skipped` counts the documents
    that were not scored, by status. `detail` says what was chosen and why (engine,
    precision, model digest …).
    """

    name: str
    seconds: float = 0.0
    pairs_scored: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    truncated: int = 0
    cut_tokens: int = 0
    skipped: Mapping[str, int] = field(default_factory=lambda: _EMPTY)
    skipped_because: str = ""
    detail: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)


@dataclass(frozen=True, slots=True)
class Ranking:
    """A query and its documents, best first, with the trace of how they got there."""

    query: str
    hits: tuple[Hit, ...] = ()
    trace: tuple[StageTrace, ...] = ()
    query_id: str = ""

    def __len__(self) -> int:
        return len(self.hits)

    @property
    def ids(self) -> tuple[str, ...]:
        """Document ids, best first."""
        return tuple(hit.document.id for hit in self.hits)

    @property
    def documents(self) -> tuple[Document, ...]:
        """Documents, best first."""
        return tuple(hit.document for hit in self.hits)

    def top(self, k: int | None) -> Ranking:
        """The same ranking cut to its first k hits (None: all of them)."""
        return self if k is None or k >= len(self.hits) else replace(self, hits=self.hits[: max(k, 0)])


@dataclass(frozen=True, slots=True)
class Caller:
    """Who waits for an answer: whose share of the machine it comes from, and whether they still do.

    Callers of one `name` share what is theirs; a `weight` of 2 is twice the share.
    """

    name: str = ""
    weight: float = 1.0
    _left: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise InputError(f"the weight of a caller is {self.weight}; give a number above 0")

    def leave(self) -> None:
        """Nobody waits any more: no new work is started for them."""
        self._left.set()

    @property
    def left(self) -> bool:
        """Whether they have left."""
        return self._left.is_set()


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time after which no new work is started.

    `at` is in seconds of `clock`; None means there is no deadline. Tests inject a clock. Once the `caller` has left,
    time is up, too.
    """

    at: float | None = None
    clock: Callable[[], float] = time.perf_counter
    caller: Caller | None = None

    @classmethod
    def after_ms(
        cls,
        milliseconds: float | None,
        clock: Callable[[], float] = time.perf_counter,
        *,
        caller: Caller | None = None,
    ) -> Deadline:
        """`milliseconds` from now; None: never. Negative values count as 0."""
        if milliseconds is None:
            return cls(None, clock, caller)
        if not milliseconds == milliseconds:  # NaN compares unequal to itself
            raise InputError("deadline_ms is NaN; give milliseconds from now, or None for no deadline")
        return cls(clock() + max(float(milliseconds), 0.0) / 1000.0, clock, caller)

    @property
    def left(self) -> bool:
        """Whether the caller has left."""
        return self.caller is not None and self.caller.left

    def remaining(self) -> float:
        """Seconds left; infinity without a deadline, never below 0."""
        if self.left:
            return 0.0
        return float("inf") if self.at is None else max(self.at - self.clock(), 0.0)

    @property
    def passed(self) -> bool:
        """Whether time is up."""
        return self.left or (self.at is not None and self.clock() >= self.at)

    def sooner(self, seconds: float | None) -> Deadline:
        """This deadline or `seconds` from now, whichever comes first (None: this one)."""
        if seconds is None:
            return self
        at = self.clock() + max(seconds, 0.0)
        return self if self.at is not None and self.at <= at else replace(self, at=at)


NEVER = Deadline()


@dataclass(frozen=True, slots=True)
class Scores:
    """What a Scorer answers: per text, in the order given, a score or the reason for none.

    `values[i]` is a float exactly where `statuses[i]` is SCORED, else None. `spans[i]` is
    the (start, end) slice of the i-th text, in characters, that the model saw.
    """

    values: tuple[float | None, ...]
    statuses: tuple[Status, ...]
    spans: tuple[tuple[int, int] | None, ...]
    trace: StageTrace


@runtime_checkable
class Retriever(Protocol):
    """A first stage. At most k hits, best first, `first_rank` 1..n, status RETRIEVED."""

    def retrieve(self, query: str, k: int) -> Ranking: ...


@runtime_checkable
class Reranker(Protocol):
    """Reorders a ranking: always a permutation of what it was given (see testing.py)."""

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking: ...


@runtime_checkable
class Scorer(Protocol):
    """Text pairs in, one number per pair out; knows nothing of rankings."""

    def score(self, query: str, texts: Sequence[str], *, deadline: Deadline = NEVER) -> Scores: ...


@runtime_checkable
class Selector(Protocol):
    """Says what of a ranking goes into a prompt: removes hits, may move the others, changes none (see testing.py)."""

    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking: ...


def as_document(item: DocumentLike, position: int = 0) -> Document:
    """A Document from a text, a mapping or a Document.

    A text or a mapping without an id gets `str(position)`. A mapping may hold `id` (or `_id`),
    `text`, `title` and `metadata`; every other key goes into the metadata, so nothing is lost. A `text` that is
    not a string is kept as it is: rerankers answer it with the status `not_text`.

    Raises InputError for anything else.
    """
    if isinstance(item, Document):
        return item
    if isinstance(item, str):
        return Document(id=str(position), text=item)
    if isinstance(item, Mapping):
        if "text" not in item:
            raise InputError(
                f"document {position} is a mapping without 'text' (keys: {sorted(map(str, item))}); "
                "put what should be scored under 'text'"
            )
        raw_id = item.get("id", item.get("_id"))
        known = {"id", "_id", "text", "title", "metadata"}
        extra = {str(key): value for key, value in item.items() if key not in known}
        return Document(
            id=str(position) if raw_id is None else str(raw_id),
            text=item["text"],
            title=item.get("title") or "",
            metadata=MappingProxyType({**(item.get("metadata") or {}), **extra}),
        )
    raise InputError(
        f"document {position} is a {type(item).__name__}; give a str, a mapping with 'text', or a Document"
    )


def as_ranking(query: str, documents: Sequence[DocumentLike], query_id: str = "") -> Ranking:
    """A first-stage Ranking in the order given.

    Raises InputError where the query is not a string or an id occurs twice.
    """
    if not isinstance(query, str):
        raise InputError(f"the query is a {type(query).__name__}; give a str")
    if isinstance(documents, str | bytes | Mapping):
        raise InputError("documents is a single text or mapping; give a list of documents")
    hits: list[Hit] = []
    seen: dict[str, int] = {}
    for position, item in enumerate(documents):
        document = as_document(item, position)
        if document.id in seen:
            raise InputError(
                f"documents {seen[document.id]} and {position} share the id {document.id!r}; ids must be unique"
            )
        seen[document.id] = position
        score = item.get("score") if isinstance(item, Mapping) else None
        first_score = float(score) if isinstance(score, int | float) else None
        hits.append(Hit(document, first_score, Status.RETRIEVED, first_score, position + 1))
    return Ranking(query, tuple(hits), (), query_id)
