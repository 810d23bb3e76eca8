"""From texts to rows of token ids: what goes in, what is cut, what cannot be scored.

Knows: the pair layout `[CLS] query [SEP] document [SEP]`, with a second [CLS] before the document for a split
encoder, and its limits. Refuses to know: engines and rankings. The query is never cut; only the document is, and by how
much is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondpass.scoring.checkpoint import Checkpoint
from secondpass.scoring.tokens import Tokens
from secondpass.types import Status

__all__ = ["Prepared", "Row", "prepare", "query_limit"]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One pair, ready for an engine. `query_tokens` counts [CLS] query [SEP]; `ids` is the whole pair."""

    ids: NDArray[np.uint32]
    query_tokens: int
    cut_tokens: int
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rows by position; None where `statuses` says why there is nothing to score.

    Of the texts `kept` needed no tokenizing and `tokenized` did.
    """

    rows: tuple[Row | None, ...]
    statuses: tuple[Status, ...]
    kept: int = 0
    tokenized: int = 0


def query_limit(max_length: int) -> int:
    """The most tokens a query may have: three quarters of the length, so that a document has room."""
    return max_length * 3 // 4 - 3


def prepare(checkpoint: Checkpoint, query: str, texts: Sequence[object], tokens: Tokens) -> Prepared:
    """Rows for one query against many texts, of at most `tokens.max_length` tokens each.

    Statuses: SCORED where a row stands; QUERY_TOO_LONG for all where the query exceeds `query_limit`;
    NOT_TEXT and EMPTY for documents with nothing to score. `cut_tokens` counts what was tokenized and
    did not fit; of a document of more than 20,000 characters it is a lower bound.
    """
    start, separator, _ = checkpoint.special
    (asked,) = tokens.of([query])
    if asked.more or len(asked.ids) > query_limit(tokens.max_length):
        return Prepared((None,) * len(texts), (Status.QUERY_TOO_LONG,) * len(texts))
    head = np.array([start, *asked.ids.tolist(), separator], dtype=np.uint32)
    split = checkpoint.encoder.apart is not None
    opening = np.array([start] if split else [], dtype=np.uint32)
    tail = np.array([separator], dtype=np.uint32)
    room = tokens.max_length - len(head) - len(opening) - 1
    statuses = [
        Status.NOT_TEXT if not isinstance(text, str) else Status.SCORED if text.strip() else Status.EMPTY
        for text in texts
    ]
    usable = [i for i, status in enumerate(statuses) if status is Status.SCORED]
    rows: list[Row | None] = [None] * len(texts)
    documents = tokens.of([str(texts[i]) for i in usable])
    for i, document in zip(usable, documents, strict=True):
        count = len(document.ids)
        if not count:  # only characters that the tokenizer drops
            statuses[i] = Status.EMPTY
            continue
        read = min(count, room)
        cut = count - read or int(document.more)
        end = document.end(read) if cut else len(str(texts[i]))
        rows[i] = Row(np.concatenate((head, opening, document.ids[:read], tail)), len(head), cut, (0, end))
    kept = sum(document.kept for document in documents)
    return Prepared(tuple(rows), tuple(statuses), kept, len(documents) - kept)
