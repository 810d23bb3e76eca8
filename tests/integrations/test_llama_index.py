"""The real LlamaIndex: our postprocessor over its nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

pytest.importorskip("llama_index.core", reason="needs the extra llama-index")

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers.no_text import NoText
from llama_index.core.schema import ImageNode, MetadataMode, NodeWithScore, QueryBundle, TextNode

import foreign_documents as foreign
from foreign_documents import Given, Returned
from secondpass import CrossEncoder
from secondpass.errors import InputError, ModelError
from secondpass.integrations.llama_index import SecondPassPostprocessor
from secondpass.testing import OverlapReranker
from secondpass.types import Ranking, as_ranking


class LlamaIndex:
    def make(self, given: Sequence[Given]) -> list[NodeWithScore]:
        return [
            NodeWithScore(node=TextNode(text=one.text, metadata=dict(one.metadata), **own(one)), score=0.5 * place)
            for place, one in enumerate(given)
        ]

    def rerank(self, query: str, documents: Any, top: int | None = None, **settings: Any) -> list[NodeWithScore]:
        processor = SecondPassPostprocessor(top_n=top, **settings)
        found: list[NodeWithScore] = processor.postprocess_nodes(documents, query_str=query)
        return found

    def read(self, documents: Sequence[NodeWithScore]) -> list[Returned]:
        read = []
        for one in documents:
            kept, told = foreign.told_apart(one.metadata)
            read.append(Returned(one.get_content(), one.node_id, kept, one.score, told))
        return read


def own(one: Given) -> dict[str, str]:
    return {} if one.id is None else {"id_": one.id}


@foreign.untimed
@given(foreign.documents)
def test_it_keeps_what_rerankers_promise(documents: list[Given]) -> None:
    foreign.check_promises(LlamaIndex(), documents)


NODES = LlamaIndex().make(
    [Given("rates rose", metadata={"page": 1}), Given("bees find the hive", metadata={"page": 2})]
)


class Fixed(BaseRetriever):  # type: ignore[misc]
    """A retriever that finds the same nodes for each query."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return NODES


def test_it_stands_in_a_query_engine(tiny: Path, cache: Path) -> None:
    encoder = CrossEncoder(tiny, profile="exact", cache_dir=cache)
    seen: list[Ranking] = []
    engine = RetrieverQueryEngine(
        Fixed(),
        response_synthesizer=NoText(MockLLM()),
        node_postprocessors=[SecondPassPostprocessor(model=encoder, on_ranking=seen.append)],
    )
    nodes = engine.query("bees").source_nodes
    ranking = encoder.rerank(as_ranking("bees", [node.get_content() for node in NODES]))
    assert [node.get_content() for node in nodes] == [hit.document.text for hit in ranking.hits]
    assert [node.score for node in nodes] == pytest.approx([hit.score for hit in ranking.hits])
    assert seen[0].trace[-1].pairs_scored == 2


def test_a_bundle_is_a_query_too_and_none_is_an_error() -> None:
    processor = SecondPassPostprocessor(model=OverlapReranker())
    nodes = processor.postprocess_nodes(NODES, QueryBundle(foreign.QUERY))
    assert nodes == processor.postprocess_nodes(NODES, query_str=foreign.QUERY)
    with pytest.raises(InputError, match="query_str or query_bundle"):
        processor.postprocess_nodes(NODES)


def test_neither_prompt_nor_embedding_shows_what_is_told() -> None:
    nodes = SecondPassPostprocessor(model=OverlapReranker()).postprocess_nodes(NODES, query_str=foreign.QUERY)
    twice = SecondPassPostprocessor(model=OverlapReranker()).postprocess_nodes(nodes, query_str=foreign.QUERY)
    for mode in (MetadataMode.LLM, MetadataMode.EMBED):
        assert twice[0].get_content(metadata_mode=mode) == NODES[1].get_content(metadata_mode=mode)
    assert len(twice[0].node.excluded_llm_metadata_keys) == len(foreign.TOLD)


def test_a_node_without_text_keeps_its_place_behind() -> None:
    nodes = [NodeWithScore(node=ImageNode(image="aGk=")), *NODES]
    found = SecondPassPostprocessor(model=OverlapReranker()).postprocess_nodes(nodes, query_str=foreign.QUERY)
    assert [node.metadata["secondpass_status"] for node in found] == ["scored", "scored", "empty"]
    assert isinstance(found[2].node, ImageNode)


def test_the_loop_goes_on_while_nodes_are_scored() -> None:
    held = foreign.HeldReranker()
    processor = SecondPassPostprocessor(model=held)
    nodes = asyncio.run(
        foreign.check_the_loop_goes_on(held, lambda: processor.apostprocess_nodes(NODES, query_str=foreign.QUERY))
    )
    assert [node.get_content() for node in nodes] == ["bees find the hive", "rates rose"]


def test_who_is_cancelled_has_left() -> None:
    held = foreign.HeldReranker()
    processor = SecondPassPostprocessor(model=held)
    asyncio.run(
        foreign.check_cancelling_is_told(held, lambda: processor.apostprocess_nodes(NODES, query_str=foreign.QUERY))
    )


@pytest.mark.parametrize(
    ("settings", "error"),
    [({"model": 3}, ValueError), ({"model": "no such model"}, ModelError), ({"top_n": 0}, ValueError)],
)
def test_a_mistake_is_told_when_it_is_made(settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(settings))):
        SecondPassPostprocessor(**settings)
