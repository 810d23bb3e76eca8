"""From texts to token ids: what goes in, what is cut, what cannot be scored.

Knows: the pair layout `[CLS] query [SEP] document [SEP]` and its limits. Refuses to know:
engines and rankings. The query is never cut; only the document is, and by how much is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Encoding, Tokenizer

from secondpass.scoring.checkpoint import Checkpoint
from secondpass.types import Status

__all__ = ["Prepared", "Row", "encode_texts", "prepare", "query_limit"]

# A longer text is first cut at this many characters (per token of room, where that is more); only where
# that leaves too few tokens is all of it tokenized. It keeps a document of megabytes as cheap as one of pages.
_CHARACTERS = 20_000
_CHARACTERS_PER_TOKEN = 48


@dataclass(frozen=True, slots=True)
class Row:
    """One pair, ready for an engine. `query_tokens` counts [CLS] query [SEP]; `ids` is the whole pair."""

    ids: tuple[int, ...]
    query_tokens: int
    cut_tokens: int
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rows by position; None where `statuses` says why there is nothing to score."""

    rows: tuple[Row | None, ...]
    statuses: tuple[Status, ...]


def query_limit(max_length: int) -> int:
    """The most tokens a query may have: three quarters of the length, so that a document has room."""
    return max_length * 3 // 4 - 3


def _clean(text: str) -> str:
    # lone surrogates cannot be encoded; one replacement character each keeps the offsets right
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str], room: int) -> list[tuple[Encoding, bool]]:
    """Tokens of each text without specials, and whether the text was longer than what was read."""
    limit = max(room * _CHARACTERS_PER_TOKEN, _CHARACTERS)
    cleaned = [_clean(text) for text in texts]
    encodings = tokenizer.encode_batch([text[:limit] for text in cleaned], add_special_tokens=False)
    out = []
    for text, encoding in zip(cleaned, encodings, strict=True):
        cut = len(text) > limit
        if cut and len(encoding.ids) <= room:
            encoding, cut = tokenizer.encode(text, add_special_tokens=False), False
        out.append((encoding, cut))
    return out


def prepare(checkpoint: Checkpoint, query: str, texts: Sequence[object], max_length: int) -> Prepared:
    """Rows for one query against many texts.

    Statuses: SCORED where a row stands; QUERY_TOO_LONG for all where the query exceeds `query_limit`;
    NOT_TEXT and EMPTY for documents with nothing to score. `cut_tokens` counts what was tokenized and
    did not fit; of a document of more than 20,000 characters it is a lower bound.
    """
    start, separator, _ = checkpoint.special
    asked = checkpoint.tokenizer.encode(_clean(query), add_special_tokens=False).ids
    if len(asked) > query_limit(max_length):
        return Prepared((None,) * len(texts), (Status.QUERY_TOO_LONG,) * len(texts))
    head = (start, *asked, separator)
    room = max_length - len(head) - 1
    statuses = [
        Status.NOT_TEXT if not isinstance(text, str) else Status.SCORED if text.strip() else Status.EMPTY
        for text in texts
    ]
    usable = [i for i, status in enumerate(statuses) if status is Status.SCORED]
    rows: list[Row | None] = [None] * len(texts)
    for i, (encoding, more) in zip(
        usable, encode_texts(checkpoint.tokenizer, [str(texts[i]) for i in usable], room), strict=True
    ):
        ids = encoding.ids
        if not ids:  # only characters that the tokenizer drops
            statuses[i] = Status.EMPTY
            continue
        kept = min(len(ids), room)
        cut = len(ids) - kept or int(more)
        end = encoding.offsets[kept - 1][1] if cut else len(str(texts[i]))
        rows[i] = Row((*head, *ids[:kept], separator), len(head), cut, (0, end))
    return Prepared(tuple(rows), tuple(statuses))
