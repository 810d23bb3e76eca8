"""Hybrid: what fusing its retrievers' rankings by hand gives, with every promise of a retriever."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from bag_of_words import BagOfWords
from secondpass.errors import IndexFolderError, InputError
from secondpass.fusion import convex, reciprocal_rank
from secondpass.retrievers.bm25 import BM25
from secondpass.retrievers.dense import Dense
from secondpass.retrievers.hybrid import Fusion, Hybrid
from secondpass.testing import ListRetriever, check_retriever
from secondpass.types import Document, Ranking

ENCODER = BagOfWords()
DOCUMENTS = [
    Document("bees", "Bees find their hive by the sun.", "On bees"),
    Document("ants", "Ants follow trails of scent.", "On ants"),
    Document("empty", ""),
    Document("rates", "Interest rates rose; the markets did not mind.", metadata={"page": 3}),
    Document("the", "the of by on"),  # stop words alone: for the vectors only
    Document("bees again", "Bees find their hive by the sun.", "On bees"),
]


# The promises of every retriever


def built(documents: Sequence[Document], folder: Path, fusion: Fusion) -> Hybrid:
    return Hybrid.build(documents, ENCODER, fusion=fusion)


def opened(documents: Sequence[Document], folder: Path, fusion: Fusion) -> Hybrid:
    texts = [document for document in documents if isinstance(document.text, str)]  # JSON holds no bytes
    Hybrid.build(texts, ENCODER, folder=folder)
    return Hybrid.open(folder, encoder=ENCODER, fusion=fusion)


def edited(documents: Sequence[Document], folder: Path, fusion: Fusion) -> Hybrid:
    bm25 = BM25(Hybrid.build([*documents[:1], Document("passing", "bees and hives")], ENCODER).index)
    bm25.index.update(add=documents[1:], delete=["passing"])
    return Hybrid([bm25, Dense(bm25.index)], fusion=fusion)


@pytest.mark.parametrize("fusion", ["rrf", "convex"])
@pytest.mark.parametrize("make", [built, opened, edited])
def test_the_promises_of_a_retriever(
    make: Callable[[Sequence[Document], Path, Fusion], Hybrid], fusion: Fusion, tmp_path: Path
) -> None:
    numbers = count()
    check_retriever(lambda documents: make(documents, tmp_path / str(next(numbers)), fusion))


# Fusion


class Asked(ListRetriever):
    """A list that notes what it was asked for."""

    def __init__(self, *documents: str) -> None:
        super().__init__({"q": [Document(name, name) for name in documents]})
        self.asked: list[int] = []

    def retrieve(self, query: str, k: int) -> Ranking:
        self.asked.append(k)
        return super().retrieve(query, k)


@pytest.mark.parametrize("query", ["where do bees live", "the", "sun and rates", "", "zzyzx"])
def test_the_same_as_fusing_by_hand(query: str) -> None:
    bm25, dense = BM25.build(DOCUMENTS), Dense.build(DOCUMENTS, ENCODER)
    rankings = [bm25.retrieve(query, 100), dense.retrieve(query, 100)]
    assert Hybrid([bm25, dense]).retrieve(query, 4).hits == reciprocal_rank(rankings).top(4).hits
    weighted = Hybrid([bm25, dense], fusion="convex", weights=[1, 4]).retrieve(query, 4)
    assert weighted.hits == convex(rankings, weights=[1, 4], minima=[0, -1]).top(4).hits
    assert [entry.name for entry in weighted.trace] == ["bm25", "dense", "fusion"]
    assert weighted.trace[-1].detail["minima"] == (0, -1)
    own = Hybrid([bm25, dense], fusion=partial(reciprocal_rank, k=1)).retrieve(query, 4)
    assert own.hits == reciprocal_rank(rankings, k=1).top(4).hits
    assert Hybrid.build(DOCUMENTS, ENCODER).retrieve(query, 4).hits == reciprocal_rank(rankings).top(4).hits


def test_each_is_asked_for_the_depth_or_for_k_where_that_is_more() -> None:
    one, two = Asked("a", "b", "c", "d"), Asked("d", "c", "b", "a", "e")
    hybrid = Hybrid([one, two], depth=3)
    assert hybrid.retrieve("q", 1).ids == ("b",)  # as good as c, and first in the first list
    assert hybrid.retrieve("q", 5).ids == ("a", "d", "b", "c", "e")
    assert one.asked == two.asked == [3, 5]
    assert not hybrid.retrieve("another", 5).hits


def test_a_retriever_that_gives_no_scores_and_no_lowest_one() -> None:
    hybrid = Hybrid([Asked("a", "b"), BM25.build(DOCUMENTS)], fusion="convex")
    found = hybrid.retrieve("q", 5)
    assert found.trace[-1].detail["minima"] == (None, 0)
    assert [(hit.document.id, hit.score) for hit in found.hits] == [("a", None), ("b", None)]


def test_each_finds_what_the_other_cannot() -> None:
    hybrid = Hybrid.build(DOCUMENTS, ENCODER)
    assert set(hybrid.retrieve("by the sun", 6).ids) == {"bees", "bees again", "ants", "rates", "the"}
    lists = Hybrid([Asked("only here"), Asked("only there")])
    assert set(lists.retrieve("q", 6).ids) == {"only here", "only there"}


def test_edits_are_seen_by_all() -> None:
    hybrid = Hybrid.build(DOCUMENTS, ENCODER)
    hybrid.index.update(add=[Document("wasps", "Wasps build with paper")], delete=["bees"])
    found = hybrid.retrieve("wasps and bees", 10)
    assert "bees" not in found.ids
    assert found.ids[0] in ("wasps", "bees again")
    assert {entry.detail["documents"] for entry in found.trace[:2]} == {6}
    assert [ranking.query_id for ranking in hybrid.retrieve_many({"q1": "bees", "q2": "?"}, 3)] == ["q1", "q2"]


# Folders


def test_one_folder_for_all_three(tmp_path: Path) -> None:
    hybrid = Hybrid.build(DOCUMENTS, ENCODER, fields=["text"])
    hybrid.save(tmp_path / "index")
    again = Hybrid.open(tmp_path / "index", encoder=ENCODER)
    assert again.retrieve("bees", 5).hits == hybrid.retrieve("bees", 5).hits
    assert BM25.open(tmp_path / "index").retrieve("bees", 5).ids == ("bees", "bees again")
    assert len(Dense.open(tmp_path / "index", encoder=ENCODER).retrieve("bees", 9)) == 5
    with pytest.raises(IndexFolderError, match="open it with that encoder"):
        Hybrid.open(tmp_path / "index", encoder=BagOfWords(seed=1))


def test_retrievers_over_different_indexes_have_none_in_common(tmp_path: Path) -> None:
    for other in (BM25.build(DOCUMENTS), Asked("a")):
        with pytest.raises(InputError, match="not all over one index"):
            Hybrid([BM25.build(DOCUMENTS), other]).save(tmp_path / "index")


def test_an_index_with_one_part_alone() -> None:
    with pytest.raises(InputError, match="has no vectors"):
        Hybrid([BM25.build(DOCUMENTS), Dense(BM25.build(DOCUMENTS).index)])


# What cannot be


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retrievers": []}, "no retrievers; give"),
        ({"retrievers": ["bm25"]}, "'bm25' cannot be a part of a hybrid"),
        ({"fusion": "borda"}, "fusion is 'borda'; give 'rrf', 'convex' or a function"),
        ({"weights": [1]}, "2 rankings but 1 weights"),
        ({"weights": [0, 0]}, "at least one above 0"),
        ({"fusion": reciprocal_rank, "weights": [1, 1]}, "a function of your own knows its weights"),
        ({"depth": 0}, "depth is 0"),
    ],
)
def test_what_cannot_be_is_said_when_it_is_made(options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InputError, match=message):
        Hybrid(**{"retrievers": [Asked("a"), Asked("b")], **options})


def test_a_question_that_cannot_be() -> None:
    hybrid = Hybrid([Asked("a")])
    with pytest.raises(InputError, match="k is 0"):
        hybrid.retrieve("q", 0)
    with pytest.raises(InputError, match="the query is a int"):
        hybrid.retrieve(3, 1)  # type: ignore[arg-type]


def test_the_repr_reads_as_the_pipeline() -> None:
    assert repr(Hybrid.build(DOCUMENTS, ENCODER)) == "Hybrid(BM25(6 documents) + Dense(6 documents, bag-of-words), rrf)"
