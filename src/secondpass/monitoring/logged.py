"""What the request log holds: a request, what it was shown, what was clicked.

Knows: names, units, and the digest that stands for a document without an id. Refuses to know: where it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from types import MappingProxyType
from typing import Any

from secondpass.sampling import encoded

__all__ = ["LONGEST_NAME", "Click", "Clicked", "Logged", "Shown", "document_digest"]

LONGEST_NAME = 200  # characters of a request's id, and of a click's kind
_EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Shown:
    """One document as it was shown.

    position: its place in the answer, from 1. index: its place in the request, from 0. document: the id that the
    client gave, else `document_digest` of its text. score, probability, first_rank (from 1), first_score, status: as
    those of a Hit.
    """

    position: int
    index: int
    document: str
    score: float | None = None
    probability: float | None = None
    first_rank: int | None = None
    first_score: float | None = None
    status: str = "scored"


@dataclass(frozen=True, slots=True)
class Click:
    """What somebody did with a document that was shown: `at` in Unix seconds; position, index, document as shown."""

    at: float
    position: int
    index: int
    document: str
    kind: str = "click"


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """One request and what was answered.

    id: 1 to 200 characters, unique in the log. at: when it came, in Unix seconds. query: None where only its digest is
    kept. query_digest: set by the log. caller: whose request it is. model, digest: name and digest of the model.
    deadline_ms: the time it had (None: no limit). candidates: how many documents the request brought. timings: seconds
    by phase. detail: anything else that JSON can hold. shown: the documents answered, best first, each position once.
    clicks: what came back, in the order it came.
    """

    id: str
    at: float
    query: str | None
    model: str
    digest: str
    caller: str = ""
    deadline_ms: float | None = None
    candidates: int = 0
    timings: Mapping[str, float] = field(default_factory=lambda: _EMPTY)
    detail: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)
    shown: tuple[Shown, ...] = ()
    query_digest: str = ""
    clicks: tuple[Click, ...] = ()


class Clicked(StrEnum):
    """What became of a click."""

    RECORDED = "recorded"
    UNKNOWN_REQUEST = "unknown_request"  # never logged, or already gone
    NOT_SAMPLED = "not_sampled"  # not in the log, and not in the sample either
    NOT_SHOWN = "not_shown"  # the request is there, and did not show this document (or below what is kept)
    TOO_MANY = "too_many"  # as many clicks as are kept of one request are there
    UNAVAILABLE = "unavailable"  # the database does not answer


def document_digest(text: str) -> str:
    """The name of a document that has no id: 16 hex digits of the blake2b of its text. The same everywhere."""
    return blake2b(encoded(text), digest_size=8).hexdigest()
