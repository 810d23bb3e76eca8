"""The real Haystack: our ranker in its pipelines."""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("haystack", reason="needs the extra haystack")

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

import foreign_documents as foreign
from foreign_documents import Given, Returned
from secondpass import CrossEncoder, api
from secondpass.errors import InputError, ModelError
from secondpass.integrations.haystack import SecondPassRanker
from secondpass.testing import OverlapReranker
from secondpass.types import NEVER, Deadline, Ranking, StageTrace, Status, as_ranking


@pytest.fixture(autouse=True)
def _no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haystack.telemetry._telemetry.telemetry", None)


class Haystack:
    def make(self, given: Sequence[Given]) -> list[Document]:
        return [
            Document(id=one.id or "", content=one.text, meta=dict(one.metadata), score=0.5 * place)
            for place, one in enumerate(given)
        ]

    def rerank(self, query: str, documents: Any, top: int | None = None, **settings: Any) -> list[Document]:
        ranker = SecondPassRanker(top_k=top, scale_score=False, **settings)
        found: list[Document] = ranker.run(query=query, documents=documents)["documents"]
        return found

    def read(self, documents: Sequence[Document]) -> list[Returned]:
        read = []
        for one in documents:
            kept, told = foreign.told_apart(one.meta)
            read.append(Returned(one.content or "", one.id, kept, one.score, told))
        return read


@foreign.untimed
@given(foreign.documents)
def test_it_keeps_what_rerankers_promise(documents: list[Given]) -> None:
    foreign.check_promises(Haystack(), documents)


TEXTS = ["rates rose", "bees find the hive", "the hive", ""]
DOCUMENTS = Haystack().make([Given(text) for text in TEXTS])


class Logits:
    """A reranker that gives fixed scores."""

    def __init__(self, logits: Sequence[float]) -> None:
        self.logits = logits

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        hits = [replace(h, score=s, status=Status.SCORED) for h, s in zip(ranking.hits, self.logits, strict=True)]
        hits.sort(key=lambda hit: -(hit.score or 0.0))
        return replace(ranking, hits=tuple(hits), trace=(StageTrace("logits"),))


@foreign.untimed
@given(st.lists(st.floats(-1e6, 1e6), max_size=6))
def test_scaled_scores_lie_between_0_and_1_in_the_same_order(logits: list[float]) -> None:
    documents = [Document(content=str(n), id=str(n)) for n in range(len(logits))]
    plain, scaled = (
        SecondPassRanker(Logits(logits), scale_score=scale).run("q", documents)["documents"] for scale in (False, True)
    )
    assert [one.id for one in plain] == [one.id for one in scaled]
    for one, other in zip(plain, scaled, strict=True):
        assert 0.0 <= other.score <= 1.0
        if abs(one.score) < 30:
            assert math.log(other.score / (1 - other.score)) == pytest.approx(one.score, abs=1e-2)
    assert [one.score for one in scaled] == sorted((one.score for one in scaled), reverse=True)


def test_a_run_s_own_wishes_go_first() -> None:
    ranker = SecondPassRanker(OverlapReranker(), top_k=1)
    assert len(ranker.run(foreign.QUERY, DOCUMENTS)["documents"]) == 1
    whole = ranker.run(foreign.QUERY, DOCUMENTS, top_k=9, scale_score=False)["documents"]
    assert [one.score for one in whole] == [1.0, 0.5, 0.0, None]
    with pytest.raises(InputError, match="0 documents"):
        ranker.run(foreign.QUERY, DOCUMENTS, top_k=0)
    with pytest.raises(InputError, match="depth is 0"):
        SecondPassRanker(OverlapReranker(), depth=0).run(foreign.QUERY, DOCUMENTS)


def test_it_comes_back_from_a_pipeline_s_yaml_and_ranks_the_same(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(api, "_opened", {})
    store = InMemoryDocumentStore()
    store.write_documents([Document(id=str(n), content=text) for n, text in enumerate(TEXTS)])
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(store))
    pipeline.add_component("ranker", SecondPassRanker(str(tiny), top_k=3, depth=50, deadline_ms=60_000))
    pipeline.connect("retriever.documents", "ranker.documents")
    asked = {"retriever": {"query": "hive"}, "ranker": {"query": "hive"}}
    found = pipeline.run(copy.deepcopy(asked), include_outputs_from={"retriever"})
    encoder = CrossEncoder(tiny, cache_dir=tmp_path)
    first = found["retriever"]["documents"]
    ranking = encoder.rerank(as_ranking("hive", [{"id": one.id, "text": one.content} for one in first])).top(3)
    assert [one.id for one in found["ranker"]["documents"]] == list(ranking.ids)
    assert found["ranker"]["trace"][-1]["pairs_scored"] == len([one for one in first if one.content])

    written = pipeline.dumps()
    again = Pipeline.loads(written, allowed_modules=["secondpass.*"])
    assert again.dumps() == written
    ranker = again.get_component("ranker")
    assert ranker.to_dict() == SecondPassRanker(str(tiny), 3, 50, 60_000).to_dict()
    once_more = ranker.run("hive", first)["documents"]
    assert [(one.id, one.score) for one in once_more] == [
        (one.id, pytest.approx(one.score, abs=1e-2)) for one in found["ranker"]["documents"]
    ]


def test_a_pipeline_runs_it_without_stopping_the_loop() -> None:
    held = foreign.HeldReranker()
    pipeline = Pipeline()
    pipeline.add_component("ranker", SecondPassRanker(held))
    asked = {"ranker": {"query": foreign.QUERY, "documents": DOCUMENTS}}
    found = asyncio.run(foreign.check_the_loop_goes_on(held, lambda: pipeline.run_async(asked)))
    assert [one.content for one in found["ranker"]["documents"]] == ["bees find the hive", "the hive", "rates rose", ""]


def test_who_is_cancelled_has_left() -> None:
    held = foreign.HeldReranker()
    ranker = SecondPassRanker(held)
    asyncio.run(foreign.check_cancelling_is_told(held, lambda: ranker.run_async(foreign.QUERY, DOCUMENTS)))


def test_warming_up_opens_the_model_once(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(api, "_opened", {})
    ranker = SecondPassRanker(str(tiny))
    assert api._opened == {}
    ranker.warm_up()
    opened = dict(api._opened)
    assert set(opened) == {str(tiny)}
    ranker.warm_up()
    ranker.run("hive", DOCUMENTS)
    assert api._opened == opened
    with pytest.raises(ModelError, match="no such model"):
        SecondPassRanker("no such model").warm_up()


def test_a_model_that_is_an_object_cannot_be_written() -> None:
    with pytest.raises(InputError, match=r"OverlapReranker\(\) cannot be written"):
        SecondPassRanker(OverlapReranker()).to_dict()


def test_a_document_without_text_keeps_a_place() -> None:
    found = SecondPassRanker(OverlapReranker()).run(foreign.QUERY, [Document(content=None, id="n"), *DOCUMENTS])
    assert [(one.id, one.meta["secondpass_status"]) for one in found["documents"][-2:]] == [
        ("n", "not_text"),
        (DOCUMENTS[3].id, "empty"),
    ]
