"""Every retriever that ships keeps the same promises and defines the same edges: in memory, from disk, after edits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from secondpass.embedding import open_encoder
from secondpass.retrievers.bm25 import BM25, Postings
from secondpass.retrievers.dense import Dense, Vectors
from secondpass.retrievers.hybrid import Hybrid
from secondpass.retrievers.index import Index, Part
from secondpass.testing import check_retriever
from secondpass.types import Document, Retriever

ENCODER = open_encoder()  # the shipped one
OVER: dict[str, Callable[[Index], Retriever]] = {
    "bm25": BM25,
    "dense": Dense,
    "hybrid": lambda index: Hybrid([BM25(index), Dense(index)]),
    "hybrid, convex": lambda index: Hybrid([BM25(index), Dense(index)], fusion="convex", weights=[1, 2]),
}
Make = Callable[[Sequence[Document]], Retriever]


@pytest.fixture(params=OVER)
def over(request: pytest.FixtureRequest) -> Callable[[Index], Retriever]:
    return OVER[request.param]


@pytest.fixture(params=["in memory", "from disk", "edited", "edited on disk"])
def make(request: pytest.FixtureRequest, over: Callable[[Index], Retriever], tmp_path: Path) -> Make:
    """Documents -> a retriever over them, by one of the ways there are to get an index."""
    count = 0

    def made(documents: Sequence[Document]) -> Retriever:
        nonlocal count
        count += 1
        if "disk" in request.param:  # a folder refuses what JSON cannot hold, and says so
            documents = [one for one in documents if not isinstance(one.text, bytes)]
        folder = tmp_path / str(count) if "disk" in request.param else None
        parts: list[Part] = [Postings(), Vectors(ENCODER)]
        if "edited" not in request.param:
            index = Index.build(documents, parts, folder=folder)
        else:
            others = [Document(f"other {n}", f"to be gone {n}") for n in range(3)]
            outdated = [Document(document.id, "an older text of bees") for document in documents[:2]]
            index = Index.build([*others, *outdated], parts, folder=folder)
            index.update(replace=documents[:2], delete=[one.id for one in others])
            for document in documents[2:]:
                index.add([document])
        return over(index if folder is None else Index.open(folder))

    return made


def test_the_promises_of_every_retriever(make: Make) -> None:
    check_retriever(make)


def test_equal_documents_stand_in_the_order_of_the_index(make: Make) -> None:
    texts = ["swallows come back in april", "the pill is swallowed", "swallows come back in april"] * 4
    ids = [f"d{n}" for n in range(len(texts))]
    found = make([Document(id, text) for id, text in zip(ids, texts, strict=True)]).retrieve("when swallows come", 8)
    assert found.ids == tuple(id for id, text in zip(ids, texts, strict=True) if "april" in text)
    assert len({hit.score for hit in found.hits}) in (1, 8)  # fused by rank, equal documents are told apart by place


def test_what_says_nothing_finds_nothing(make: Make) -> None:
    retriever = make([Document("a", "swallows come back in april"), Document("b", ""), Document("c", " \n")])
    for query in ("", " ", "\U0001f600 \U0001f680", "\ue000", "\u200b"):
        assert retriever.retrieve(query, 5).ids == (), repr(query)
    assert retriever.retrieve("swallows", 5).ids == ("a",)  # and a document that says nothing is never found


def test_one_document_and_k_beyond_the_size(make: Make) -> None:
    one = make([Document("only", "swallows come back in april", "birds", {"year": 1999})])
    (hit,) = one.retrieve("april swallows", 1000).hits
    assert (hit.document.id, hit.document.title, hit.document.metadata["year"], hit.first_rank) == (
        "only",
        "birds",
        1999,
        1,
    )


def test_a_megabyte_is_found_and_hides_nobody(make: Make) -> None:
    filler = "gravel and sand are carted to the harbour each morning " * 19_000
    retriever = make([Document("long", filler + "and one albatross"), Document("short", "an albatross at sea")])
    assert retriever.retrieve("albatross", 2).ids[0] == "short"
    assert retriever.retrieve("gravel for the harbour", 2).ids[0] == "long"


def test_odd_unicode_is_kept_and_found(make: Make) -> None:
    documents = [
        Document("ligature", "the ﬁsh of the ﬁrth"),
        Document("surrogate", "a broken \ud800 lantern"),
        Document("combining", "re\u0301sume\u0301 of a cook"),
        Document("right-to-left", "\u202ehouse\u202c by the sea"),
    ]
    retriever = make(documents)
    for query, id in {"fish firth": "ligature", "broken lantern": "surrogate", "résumé of a cook": "combining"}.items():
        found = retriever.retrieve(query, 1).hits[0]
        assert found.document.id == id
        assert found.document.text == {one.id: one.text for one in documents}[id]
    assert retriever.retrieve("house \udfff sea", 1).ids == ("right-to-left",)
