"""What all integrations share, and that importing one loads its own framework only."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import foreign_documents as foreign
from secondpass import Cascade, Stage
from secondpass.errors import InputError
from secondpass.integrations.items import Item, reranked, searched
from secondpass.testing import ListRetriever, OverlapReranker
from secondpass.types import NEVER, Deadline, Ranking

EXTRAS = {
    "langchain": ("langchain_core", "langchain"),
    "llama_index": ("llama_index", "llama-index"),
    "haystack": ("haystack", "haystack"),
    "pyterrier": ("pyterrier", "pyterrier"),
    "pandas": ("pandas", "pandas"),
}
IDS = st.none() | st.sampled_from(["a", "0", "1", "#0", "#1", "##1", ""]) | st.integers(0, 2)


@foreign.untimed
@given(st.lists(IDS, max_size=8))
def test_ids_are_unique_and_those_that_can_stay_do(ids: list[object]) -> None:
    class Seeing(OverlapReranker):
        def rerank(self, ranking: Ranking, **more: object) -> Ranking:
            seen.extend(ranking.ids)
            return ranking

    seen: list[str] = []
    placed = reranked("q", [Item("text", own) for own in ids], model=Seeing())
    assert len(set(seen)) == len(ids)
    assert placed.positions == tuple(range(len(ids)))
    first = {str(own): place for place, own in reversed(list(enumerate(ids))) if own is not None}
    assert {name: place for place, name in enumerate(seen) if name in first} == first


def test_what_is_asked_for_wrongly_is_an_error() -> None:
    with pytest.raises(InputError, match="the query is a NoneType"):
        reranked(None, [], model=OverlapReranker())  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"model is 3; give a model's name, its folder, or an object"):
        reranked("q", [], model=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="True documents cannot be returned"):
        reranked("q", [], model=OverlapReranker()).top(True)


def test_a_title_is_the_document_s_and_a_score_the_first_stage_s() -> None:
    (hit,) = reranked(
        "q", [Item("text", metadata={"title": "Title", "year": 1}, score=3)], model=OverlapReranker()
    ).ranking.hits
    assert (hit.document.title, hit.first_score, hit.document.metadata["year"]) == ("Title", 3.0, 1)
    (hit,) = reranked("q", [Item("text", metadata={"title": 7})], model=OverlapReranker()).ranking.hits
    assert (hit.document.title, hit.first_score) == ("", None)


def test_a_search_is_the_cascade_s_and_its_first_stage_is_told_of_the_deadline() -> None:
    class Told(ListRetriever):
        def retrieve(self, query: str, k: int, *, deadline: Deadline = NEVER) -> Ranking:
            seen.append(deadline)
            return super().retrieve(query, k)

    seen: list[Deadline] = []
    retriever, deadline = Told({"q": ["a", "q", "b"]}), Deadline.after_ms(60_000)
    cascade = Cascade(retriever, Stage(OverlapReranker(), depth=2))
    assert searched(cascade, "q", 2, deadline=deadline).hits == cascade.search("q", top_k=2).hits
    assert searched(retriever, "q", 2, deadline=deadline).ids == ("0", "1")
    assert [one.at for one in seen] == [deadline.at, None, deadline.at]


@pytest.mark.parametrize("name", EXTRAS)
def test_a_missing_framework_says_what_to_install(name: str) -> None:
    module, extra = EXTRAS[name]
    code = f"import sys; sys.modules[{module!r}] = None\nimport secondpass.integrations.{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError" in done.stderr
    assert f"pip install 'secondpass[{extra}]'" in done.stderr


def test_the_package_itself_imports_no_framework() -> None:
    modules = [module for module, _ in EXTRAS.values()]
    code = f"import secondpass.integrations.items, sys; print([m for m in {modules!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
