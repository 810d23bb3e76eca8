"""The real LangChain: our compressor and retriever where its own would stand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

pytest.importorskip("langchain_core", reason="needs the extra langchain")

from langchain_core.documents import Document

import foreign_documents as foreign
from foreign_documents import Given, Returned
from secondpass import BM25, Cascade, CrossEncoder, Stage
from secondpass.errors import ModelError
from secondpass.integrations.langchain import SecondPassCompressor, SecondPassRetriever
from secondpass.selection.threshold import Threshold
from secondpass.testing import ListRetriever, OverlapReranker
from secondpass.types import Ranking, Status, as_ranking


class LangChain:
    def make(self, given: Sequence[Given]) -> list[Document]:
        return [Document(id=one.id, page_content=one.text, metadata=dict(one.metadata)) for one in given]

    def rerank(self, query: str, documents: list[Document], top: int | None = None, **settings: Any) -> list[Document]:
        return SecondPassCompressor(top_n=top, **settings).compress_documents(documents, query)

    def read(self, documents: Sequence[Document]) -> list[Returned]:
        read = []
        for one in documents:
            kept, told = foreign.told_apart(one.metadata)
            read.append(Returned(one.page_content, one.id, kept, kept.pop("relevance_score", None), told))
        return read


@foreign.untimed
@given(foreign.documents)
def test_it_keeps_what_rerankers_promise(documents: list[Given]) -> None:
    foreign.check_promises(LangChain(), documents)


BEES = [
    {"id": "rates", "text": "Interest rates rose.", "page": 1},
    {"id": "hive", "text": "Bees find the way back to their hive by the sun.", "page": 2, "title": "Bees"},
    {"id": "sun", "text": "The sun is a star.", "page": 3},
]


def test_it_compresses_for_langchain_s_own_retriever(tiny: Path, cache: Path) -> None:
    retrievers = pytest.importorskip("langchain_classic.retrievers", reason="needs langchain-classic")
    encoder = CrossEncoder(tiny, profile="exact", cache_dir=cache)
    pipeline = retrievers.ContextualCompressionRetriever(
        base_compressor=SecondPassCompressor(model=encoder, top_n=2),
        base_retriever=SecondPassRetriever(retriever=ListRetriever({"bees and hives": BEES})),
    )
    found = pipeline.invoke("bees and hives")
    ranking = encoder.rerank(as_ranking("bees and hives", BEES)).top(2)
    assert [one.id for one in found] == list(ranking.ids)
    assert [one.metadata["relevance_score"] for one in found] == pytest.approx([hit.score for hit in ranking.hits])
    assert found == asyncio.run(pipeline.ainvoke("bees and hives"))
    assert pipeline.invoke("nothing is found for this") == []


def test_a_retriever_finds_what_the_cascade_finds() -> None:
    documents = [dict(one) for one in BEES]
    index = BM25.build(as_ranking("", documents).documents)
    cascade = Cascade(index, Stage(OverlapReranker()))
    seen: list[Ranking] = []
    found = SecondPassRetriever(retriever=cascade, k=2, on_ranking=seen.append).invoke("the sun and the hive")
    ranking = cascade.search("the sun and the hive", top_k=2)
    assert [one.id for one in found] == list(ranking.ids)
    assert [one.page_content for one in found] == [hit.document.text for hit in ranking.hits]
    assert [one.metadata["relevance_score"] for one in found] == [hit.score for hit in ranking.hits]
    bees = next(one.metadata for one in found if one.id == "hive")
    assert (bees["page"], bees["title"], bees["secondpass_status"]) == (2, "Bees", "scored")
    assert bees["secondpass_first_score"] == next(hit.first_score for hit in ranking.hits if hit.document.id == "hive")
    assert [trace.name for trace in seen[0].trace] == ["bm25", "overlap-reranker"]
    late = SecondPassRetriever(retriever=cascade, deadline_ms=0).invoke("the sun and the hive")
    assert [one.id for one in late] == list(index.retrieve("the sun and the hive", 10).ids)
    assert {one.metadata["secondpass_status"] for one in late} == {str(Status.DEADLINE)}


def test_a_retriever_selects_as_the_cascade_does() -> None:
    cascade = Cascade(ListRetriever({"q": BEES}), select=[Threshold(probability=0.5)])
    assert len(SecondPassRetriever(retriever=cascade).invoke("q")) == len(cascade.search("q"))


def test_the_loop_goes_on_while_documents_are_scored() -> None:
    held = foreign.HeldReranker()
    compressor = SecondPassCompressor(model=held, deadline_ms=60_000)
    documents = LangChain().make([Given("rates rose"), Given("bees find the hive")])
    answer = asyncio.run(
        foreign.check_the_loop_goes_on(held, lambda: compressor.acompress_documents(documents, foreign.QUERY))
    )
    assert [one.page_content for one in answer] == ["bees find the hive", "rates rose"]
    assert held.deadline.at is not None
    held = foreign.HeldReranker()
    retriever = SecondPassRetriever(retriever=Cascade(ListRetriever({"sun": BEES}), Stage(held)))
    found = asyncio.run(foreign.check_the_loop_goes_on(held, lambda: retriever.ainvoke("sun")))
    assert found[0].id == "hive"


def test_who_is_cancelled_has_left() -> None:
    held = foreign.HeldReranker()
    documents = LangChain().make([Given("rates rose")])
    compressor = SecondPassCompressor(model=held)
    asyncio.run(foreign.check_cancelling_is_told(held, lambda: compressor.acompress_documents(documents, "q")))


def test_a_text_that_is_none_is_an_empty_page() -> None:
    found = ListRetriever({"q": [{"id": "n", "text": None}]})
    (one,) = SecondPassRetriever(retriever=found).invoke("q")
    assert (one.id, one.page_content) == ("n", "")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"model": 3}, ValueError),
        ({"model": "no such model"}, ModelError),
        ({"top_n": 0}, ValueError),
        ({"depth": 0}, ValueError),
        ({"deadline_ms": -1}, ValueError),
        ({"top_k": 3}, ValueError),
    ],
)
def test_a_mistake_is_told_when_it_is_made(settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(settings))):
        SecondPassCompressor(**{"model": OverlapReranker(), **settings})


def test_a_retriever_that_cannot_search_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be the first stage"):
        SecondPassRetriever(retriever=OverlapReranker())
    with pytest.raises(ValueError, match="cannot search"):
        SecondPassRetriever(retriever=Cascade(None, Stage(OverlapReranker())))
