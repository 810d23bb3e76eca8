"""From texts to rows of token ids: what goes in, what is cut, what cannot be scored.

Knows: the frame that a checkpoint lays its pairs out in, and its limits. Refuses to know: engines and rankings. The
query is never cut, nor what stands behind the document; only the document is, and by how much is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondpass.scoring.checkpoint import Checkpoint
from secondpass.scoring.frame import Frame
from secondpass.scoring.tokens import Tokens
from secondpass.types import Status

__all__ = ["Prepared", "Row", "asked", "prepare"]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One pair, ready for an engine. `query_tokens` counts the query's side; `ids` is the whole pair."""

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


def asked(frame: Frame, query: str, tokens: Tokens) -> NDArray[np.uint32] | None:
    """The query's tokens, with the frame's text around it; None where they exceed `Frame.query_limit`."""
    (read,) = tokens.of([query.join(frame.asked)])
    return None if read.more or len(read.ids) > frame.query_limit(tokens.max_length) else read.ids


def prepare(
    checkpoint: Checkpoint, query: str, texts: Sequence[object], tokens: Tokens, most: int | None = None
) -> Prepared:
    """Rows for one query against many texts, of at most `tokens.max_length` tokens each, of which no more than `most`
    are the document's with what the frame puts around it.

    Statuses: SCORED where a row stands; QUERY_TOO_LONG for all where the query exceeds `Frame.query_limit`;
    NOT_TEXT and EMPTY for documents with nothing to score. `cut_tokens` counts what was tokenized and
    did not fit; of a document of more than 20,000 characters it is a lower bound.
    """
    frame = checkpoint.frame
    ids = asked(frame, query, tokens)
    if ids is None:
        return Prepared((None,) * len(texts), (Status.QUERY_TOO_LONG,) * len(texts))
    head = _ids(*frame.before, *ids.tolist(), *frame.between)
    opening, tail = _ids(*frame.opening), _ids(*frame.after)
    room = min(tokens.max_length - len(head), most or tokens.max_length) - len(opening) - len(tail)
    statuses = [
        Status.NOT_TEXT if not isinstance(text, str) else Status.SCORED if text.strip() else Status.EMPTY
        for text in texts
    ]
    usable = [i for i, status in enumerate(statuses) if status is Status.SCORED]
    rows: list[Row | None] = [None] * len(texts)
    documents = tokens.of([frame.lead + str(texts[i]) for i in usable])
    for i, document in zip(usable, documents, strict=True):
        count = len(document.ids)
        if not count:  # only characters that the tokenizer drops
            statuses[i] = Status.EMPTY
            continue
        read = min(count, room)
        cut = count - read or int(document.more)
        end = max(document.end(read) - len(frame.lead), 0) if cut else len(str(texts[i]))
        rows[i] = Row(np.concatenate((head, opening, document.ids[:read], tail)), len(head), cut, (0, end))
    kept = sum(document.kept for document in documents)
    return Prepared(tuple(rows), tuple(statuses), kept, len(documents) - kept)


def _ids(*ids: int) -> NDArray[np.uint32]:
    return np.array(ids, dtype=np.uint32)
