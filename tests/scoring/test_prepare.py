from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass.scoring.checkpoint import Checkpoint, open_checkpoint
from secondpass.scoring.frame import query_limit
from secondpass.scoring.prepare import Prepared, prepare
from secondpass.scoring.tokens import Tokens
from secondpass.types import Status


@pytest.fixture(scope="module")
def checkpoint(tiny: Path) -> Checkpoint:
    return open_checkpoint(tiny)


def lay_out(checkpoint: Checkpoint, query: str, texts: Sequence[object], length: int) -> Prepared:
    return prepare(checkpoint, query, texts, Tokens(checkpoint.tokenizer, length))


@settings(max_examples=60, deadline=None)
@given(query=st.text(max_size=40), text=st.text(max_size=60))
def test_a_pair_is_laid_out_as_the_tokenizer_itself_would(checkpoint: Checkpoint, query: str, text: str) -> None:
    (row,) = lay_out(checkpoint, query, [text], 128).rows
    if row is None or row.cut_tokens:
        return
    own = checkpoint.tokenizer.encode(query, text)
    assert row.ids.tolist() == own.ids
    assert [0] * row.query_tokens + [1] * (len(row.ids) - row.query_tokens) == own.type_ids


@settings(max_examples=60, deadline=None)
@given(words=st.integers(0, 300), asked=st.integers(1, 130), length=st.integers(32, 128))
def test_only_the_document_is_cut_and_by_how_much_is_told(
    checkpoint: Checkpoint, words: int, asked: int, length: int
) -> None:
    query, text = " ".join(["sort"] * asked), " ".join(["list"] * words)
    prepared = lay_out(checkpoint, query, [text], length)
    (row,), (status,) = prepared.rows, prepared.statuses
    if asked > query_limit(length):
        assert (row, status) == (None, Status.QUERY_TOO_LONG)
    elif not words:
        assert (row, status) == (None, Status.EMPTY)
    else:
        assert row is not None
        assert status is Status.SCORED
        assert row.query_tokens == asked + 2
        assert len(row.ids) == min(length, asked + words + 3)
        assert row.cut_tokens == asked + words + 3 - len(row.ids)
        kept = words - row.cut_tokens
        assert row.span == (0, 5 * kept - 1)  # "list list list": the slice that was read


def test_bad_documents_get_a_status_and_leave_the_others_alone(checkpoint: Checkpoint) -> None:
    texts = ["list", "", "   ", None, 7, b"bytes", "\x00\x01", "\ud800 lone", "\u202ertl", "file"]
    prepared = lay_out(checkpoint, "sort", texts, 128)
    empty, other, scored = Status.EMPTY, Status.NOT_TEXT, Status.SCORED
    assert prepared.statuses == (scored, empty, empty, other, other, other, empty, scored, scored, scored)
    first, alone = prepared.rows[0], lay_out(checkpoint, "sort", ["list"], 128).rows[0]
    assert first is not None
    assert alone is not None
    assert first.ids.tolist() == alone.ids.tolist()


def test_a_text_of_megabytes_is_cut_at_the_same_token(checkpoint: Checkpoint) -> None:
    short, long = "list file " * 100, "list file " * 200_000
    (a,), (b,) = (lay_out(checkpoint, "sort", [text], 64).rows for text in (short, long))
    assert a is not None
    assert b is not None
    assert (a.ids.tolist(), a.span) == (b.ids.tolist(), b.span)
    assert b.cut_tokens > a.cut_tokens


def test_text_hidden_behind_a_long_blank_is_still_found(checkpoint: Checkpoint) -> None:
    row, alone = lay_out(checkpoint, "sort", [" " * 50_000 + "list", "list"], 64).rows
    assert row is not None
    assert alone is not None
    assert row.cut_tokens == 0
    assert row.ids.tolist() == alone.ids.tolist()
