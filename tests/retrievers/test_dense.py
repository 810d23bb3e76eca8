"""Dense retrieval: the same as comparing floats one by one, whatever the threads, blocks, segments and edits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bag_of_words import BagOfWords
from secondpass.errors import IndexFolderError, InputError, ModelError
from secondpass.retrievers import dense as module
from secondpass.retrievers.bm25 import Postings
from secondpass.retrievers.dense import Dense, Vectors
from secondpass.retrievers.index import Index
from secondpass.testing import check_retriever
from secondpass.types import Document, Ranking

ENCODER = BagOfWords()


class Rows:
    """An encoder of the texts "0", "1", … with the rows it is given."""

    name = "rows"
    digest = "0" * 64

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self.rows = rows
        self.dimensions = rows.shape[1]

    def encode(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        return self.rows[[int(text) for text in texts]]


def unit(count: int, dimensions: int, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, dimensions), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def numbered(count: int) -> list[Document]:
    return [Document(str(number), str(number)) for number in range(count)]


def answer(ranking: Ranking) -> list[tuple[Document, float | None]]:
    return [(hit.document, hit.score) for hit in ranking.hits]


# The promises of every retriever


def built(documents: Sequence[Document], folder: Path) -> Dense:
    return Dense.build(documents, ENCODER)


def opened(documents: Sequence[Document], folder: Path) -> Dense:
    texts = [document for document in documents if isinstance(document.text, str)]  # JSON holds no bytes
    Dense.build(texts, ENCODER).save(folder)
    return Dense.open(folder, encoder=ENCODER)


def edited(documents: Sequence[Document], folder: Path) -> Dense:
    passing = [Document(f"passing {number}", "bees and hives all over") for number in range(5)]
    dense = Dense.build([*passing, *documents[::2]], ENCODER)
    dense.index.add(documents[1::2])
    dense.index.update(replace=documents[:1], delete=[document.id for document in passing])
    return dense


@pytest.mark.parametrize("make", [built, opened, edited])
def test_the_promises_of_a_retriever(make: Callable[[Sequence[Document], Path], Dense], tmp_path: Path) -> None:
    numbers = count()
    check_retriever(lambda documents: make(documents, tmp_path / str(next(numbers))))


# Numbers


@pytest.mark.parametrize("dimensions", [32, 256, 1024])
def test_scores_are_cosines_and_the_order_is_that_of_floats(dimensions: int) -> None:
    rows = unit(4000, dimensions)
    retriever = Dense.build(numbered(4000), Rows(rows))
    kept, worst = [], 0.0
    for query in range(0, 4000, 100):  # each a document too, so the best is 1
        cosines = rows.astype(np.float64) @ rows[query].astype(np.float64)
        found = retriever.retrieve(str(query), 4000)
        assert len(found) == 4000
        scores = np.array([hit.score for hit in found.hits])
        exact = cosines[[int(name) for name in found.ids]]
        worst = max(worst, float(np.abs(scores - exact).max()))
        kept.append(len(set(found.ids[:10]) & {str(number) for number in np.argsort(-cosines)[:10]}) / 10)
    assert worst < 0.01
    assert np.mean(kept) > 0.98


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 30), dimensions=st.integers(1, 200), seed=st.integers(0, 10**6), sparse=st.booleans())
def test_the_error_stays_within_its_bound(size: int, dimensions: int, seed: int, sparse: bool) -> None:
    """Half a step per component, of the document and (far smaller) of the query."""
    rows = unit(size + 1, dimensions, seed)
    if sparse:
        rows[np.random.default_rng(seed).random(rows.shape) < 0.8] = 0
    retriever = Dense.build(numbered(size), Rows(rows))
    query = rows[size].astype(np.float64)
    for hit in retriever.retrieve(str(size), size).hits:
        row = rows[int(hit.document.id)].astype(np.float64)
        bound = np.abs(row).max() / 254 * np.abs(query).sum() + np.abs(query).sum() / 262_000 * np.abs(row).sum()
        assert hit.score is not None
        assert abs(hit.score - float(row @ query)) <= 1.01 * bound + 1e-6


@settings(max_examples=60, deadline=None)
@given(dimensions=st.integers(1, 3000), seed=st.integers(0, 10**6), spread=st.floats(0, 8))
def test_the_sums_are_exact(dimensions: int, seed: int, spread: float) -> None:
    """float32 computes what whole numbers of any size would, so the order of adding cannot matter."""
    rng = np.random.default_rng(seed)
    vector = (rng.standard_normal(dimensions) * rng.random(dimensions) ** spread).astype(np.float32)
    numbers, step = module._as_whole_numbers(vector)
    assert np.abs(numbers.astype(np.float64)).sum() * 127 <= 2**24
    assert np.abs(numbers * step - vector).max() <= step / 2 * 1.001
    extreme = np.where(numbers < 0, -127, 127).astype(np.int8)
    for row in (extreme, rng.integers(-127, 128, dimensions).astype(np.int8)):
        assert float(row.astype(np.float32) @ numbers) == int(row.astype(np.int64) @ numbers.astype(np.int64))


def test_vectors_in_int8() -> None:
    rows = np.array([[1.27, -0.635, 0.01, 0.025], [0, 0, 0, 0]], np.float32)
    vectors, scales = module._as_int8(rows)
    assert vectors.dtype == np.int8
    assert vectors.tolist() == [[127, -64, 1, 2], [0, 0, 0, 0]]  # −63.5 and 2.5 go to their even neighbours
    assert scales.tolist() == [pytest.approx(0.01), 0]


def test_scores_never_leave_the_range_of_a_cosine() -> None:
    rows = np.vstack([unit(200, 3), -unit(200, 3)])
    retriever = Dense.build(numbered(400), Rows(rows))
    for query in range(0, 400, 7):
        assert all(-1 <= (hit.score or 0) <= 1 for hit in retriever.retrieve(str(query), 400).hits)


# Threads, blocks, segments, edits


def test_threads_blocks_and_segments_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = unit(1200, 48)
    documents = numbered(1200)
    plain = Dense.build(documents, Rows(rows), threads=1)
    monkeypatch.setattr(module, "_PER_THREAD", 100)
    others = []
    for threads in (1, 2, 3):
        for segment_size in (7, 500, 5000):
            index = Index.build(documents, [Vectors(Rows(rows))], segment_size=segment_size)
            others.append(Dense(index, threads=threads))
    for block in (module._BLOCK, 48, 48 * 13 + 5, 1):
        monkeypatch.setattr(module, "_BLOCK", block)
        for query in ("3", "700"):
            expected = answer(plain.retrieve(query, 1200))
            assert all(answer(other.retrieve(query, 1200)) == expected for other in others)


texts_st = st.lists(st.sampled_from(["bee", "ant", "hive", "sun", "!"]), max_size=4).map(" ".join)
edits_st = st.lists(
    st.tuples(st.sampled_from(["replace", "delete", "compact"]), st.sampled_from("abcdefghij"), texts_st), max_size=12
)


@settings(max_examples=60, deadline=None)
@given(first=st.dictionaries(st.sampled_from("abcdefghij"), texts_st, min_size=1), edits=edits_st, query=texts_st)
def test_an_edited_index_answers_like_a_fresh_one(
    first: dict[str, str], edits: list[tuple[str, str, str]], query: str
) -> None:
    live = dict(first)
    dense = Dense.build([Document(name, text) for name, text in live.items()], ENCODER)
    for what, name, text in edits:
        if what == "replace":
            live.pop(name, None)
            live[name] = text
            dense.index.replace([Document(name, text)])
        elif what == "delete" and name in live:
            del live[name]
            dense.index.delete([name])
        elif what == "compact":
            dense.index.compact()
    found = [answer(dense.retrieve(query, k)) for k in (3, 20)]
    if live:
        fresh = Dense.build([Document(name, text) for name, text in live.items()], ENCODER)
        assert found == [answer(fresh.retrieve(query, k)) for k in (3, 20)]
        assert len(dense) == len(fresh)
    else:
        assert found == [[], []]


def test_equal_documents_tie_in_the_order_of_the_index() -> None:
    words = ["bees", "find", "the", "way", "back", "to", "their", "hive", "by", "sun"]
    texts = [" ".join(words[: 1 + number % 10]) for number in range(3000)]
    retriever = Dense.build([Document(str(number), text) for number, text in enumerate(texts)], ENCODER)
    found = retriever.retrieve(texts[4], 3000)
    assert found.ids[:300] == tuple(str(number) for number in range(4, 3000, 10))
    assert len({hit.score for hit in found.hits}) == 10
    assert retriever.retrieve(texts[4], 25).hits == found.hits[:25]


# What is unknown


def test_what_the_encoder_does_not_know_is_not_found_and_finds_nothing() -> None:
    documents = [Document("empty", ""), Document("bees", "bees"), Document("!", "! ?"), Document("number", 4)]  # type: ignore[arg-type]
    retriever = Dense.build(documents, ENCODER)
    found = retriever.retrieve("quite another thing", 10)
    assert found.ids == ("bees",)
    assert dict(found.trace[0].detail) == {
        "documents": 4,
        "encoder": "bag-of-words",
        "dimensions": 64,
        "unknown_query": False,
    }
    for query in ("", " ", "?!"):
        nothing = retriever.retrieve(query, 10)
        assert not nothing.hits
        assert nothing.trace[0].detail["unknown_query"] is True


def test_the_title_counts_as_the_fields_say() -> None:
    documents = [Document("a", "ants", "bees"), Document("b", "bees", "ants", {"tag": "hive"})]
    assert Dense.build(documents, ENCODER, fields=["title"]).retrieve("bees", 2).ids == ("a", "b")
    assert Dense.build(documents, ENCODER, fields=["text"]).retrieve("bees", 2).ids == ("b", "a")


# Encoders


def test_opening_loads_no_encoder_before_a_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Dense.build([Document("a", "bees")], ENCODER).save(tmp_path / "index")
    asked: list[str] = []

    def open_encoder(name: str) -> BagOfWords:
        asked.append(name)
        return BagOfWords()

    monkeypatch.setattr(module, "open_encoder", open_encoder)
    dense = Dense.open(tmp_path / "index")
    assert (len(dense), repr(dense), asked) == (1, "Dense(1 documents, bag-of-words)", [])
    assert dense.retrieve("bees", 1).ids == ("a",)
    dense.index.add([Document("b", "ants")])
    assert dense.retrieve("ants", 1).ids == ("b",)
    assert asked == ["bag-of-words"]


def test_another_encoder_than_the_indexs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Dense.build([Document("a", "bees")], BagOfWords()).save(tmp_path / "index")
    other = BagOfWords(seed=7)
    with pytest.raises(IndexFolderError, match=r"by the encoder 'bag-of-words' \(64 dim.*, not by 'bag-of-words' \(64"):
        Dense.open(tmp_path / "index", encoder=other)
    monkeypatch.setattr(module, "open_encoder", lambda name: other)
    dense = Dense.open(tmp_path / "index")
    with pytest.raises(IndexFolderError, match="open it with that encoder, or build the index again"):
        dense.retrieve("bees", 1)
    with pytest.raises(IndexFolderError, match="not by"):
        dense.index.add([Document("b", "ants")])
    assert len(dense) == 1


def test_an_encoder_that_breaks_its_promise_is_named() -> None:
    for rows in (np.full((2, 4), math.nan, np.float32), np.zeros((2, 5), np.float32)):
        encoder = Rows(rows)
        encoder.dimensions = 4
        with pytest.raises(ModelError, match="the encoder 'rows'"):
            Dense.build(numbered(2), encoder)


# What cannot be


def test_an_index_without_vectors() -> None:
    index = Index.build([Document("a", "bees")], [Postings()])
    with pytest.raises(InputError, match="has no vectors"):
        Dense(index)


@pytest.mark.parametrize("threads", [0, 1.5])
def test_threads_that_cannot_be(threads: int) -> None:
    with pytest.raises(InputError, match="threads is"):
        Dense.build([Document("a", "bees")], ENCODER, threads=threads)


def test_a_question_that_cannot_be() -> None:
    dense = Dense.build([Document("a", "bees")], ENCODER)
    with pytest.raises(InputError, match="k is 0"):
        dense.retrieve("bees", 0)
    with pytest.raises(InputError, match="the query is a int"):
        dense.retrieve(3, 1)  # type: ignore[arg-type]
    assert [ranking.query_id for ranking in dense.retrieve_many({"q1": "bees", "q2": "?"}, 3)] == ["q1", "q2"]
