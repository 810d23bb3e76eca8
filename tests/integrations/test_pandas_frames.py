"""Frames of the real pandas, in and out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pandas", reason="needs the extra pandas")

import pandas

import foreign_documents as foreign
from foreign_documents import Given, Returned
from secondpass import CrossEncoder
from secondpass.errors import InputError
from secondpass.integrations.pandas import rerank_frame
from secondpass.testing import OverlapReranker
from secondpass.types import Ranking, as_ranking


class Frames:
    """A frame of one query; the metadata are columns, in which NaN stands for what is not there."""

    def make(self, given: Sequence[Given]) -> Any:
        frame = pandas.DataFrame({"query": foreign.QUERY, "text": [one.text for one in given]})
        frame["docno"] = pandas.Series([one.id for one in given], dtype=object)
        for name in ("page", "source"):
            frame[name] = pandas.Series([one.metadata.get(name) for one in given], dtype="Int64")
        return frame

    def rerank(self, query: str, documents: Any, top: int | None = None, **settings: Any) -> Any:
        return rerank_frame(documents, top_k=top, **settings)

    def read(self, documents: Any) -> list[Returned]:
        read = []
        for row in documents.to_dict("records"):
            kept, told = foreign.told_apart({key: none(value) for key, value in row.items()})
            of = {name: kept[name] for name in ("page", "source")}
            read.append(Returned(kept["text"], kept["docno"], of, kept.get("score"), told))
        return read


def none(value: Any) -> Any:
    return None if pandas.isna(value) else value


@foreign.untimed
@given(foreign.documents)
def test_it_keeps_what_rerankers_promise(documents: list[Given]) -> None:
    foreign.check_promises(Frames(), documents)


QRELS = {
    "qid": ["q2", "q1", "q2", "q1", "q2"],
    "query": ["sun", "bees find", "sun", "bees find", "sun"],
    "docno": ["d1", "d2", "d3", "d4", "d5"],
    "text": ["the moon", "bees", "the sun", "bees find the hive", None],
    "score": [3.0, 9.0, 2.0, 8.0, 1.0],
    "rank": [1, 1, 2, 2, 3],
}


def trec() -> Any:
    frame = pandas.DataFrame(QRELS, index=pandas.Index(list("vwxyz"), name="row"))
    frame["day"] = pandas.to_datetime("2026-01-01")
    frame["kind"] = pandas.Categorical(["a", "b", "a", "b", "a"])
    frame["count"] = pandas.array([1, None, 3, 4, 5], dtype="Int64")
    return frame


def test_rows_keep_their_index_their_columns_and_their_dtypes() -> None:
    frame = trec()
    result = rerank_frame(frame, model=OverlapReranker())
    assert result["docno"].tolist() == ["d3", "d1", "d5", "d4", "d2"]
    assert result["rank"].tolist() == [1, 2, 3, 1, 2]
    assert result["score"].tolist()[:2] == [1.0, 0.0]
    assert math.isnan(result["score"].tolist()[2])
    assert result["secondpass_status"].tolist() == ["scored", "scored", "not_text", "scored", "scored"]
    assert result["secondpass_first_score"].tolist() == [2.0, 3.0, 1.0, 8.0, 9.0]
    assert result["secondpass_first_rank"].tolist() == [2, 1, 3, 2, 1]
    assert result.index.tolist() == list("xvzyw")
    assert result.index.name == "row"
    others = [name for name in frame.columns if name not in ("score", "rank")]
    pandas.testing.assert_frame_equal(result.loc[frame.index, others], frame[others])
    assert (result["score"].dtype, result["rank"].dtype) == ("float64", "int64")
    pandas.testing.assert_frame_equal(frame, trec())  # nothing was changed


def test_an_empty_frame_gets_the_same_columns() -> None:
    whole, empty = rerank_frame(trec(), model=OverlapReranker()), rerank_frame(trec().iloc[:0], model=OverlapReranker())
    assert len(empty) == 0
    assert empty.dtypes.to_dict() == whole.dtypes.to_dict()


def test_the_first_stage_s_order_is_by_rank_else_by_score_else_as_it_stands() -> None:
    frame = pandas.DataFrame({"query": "q", "text": ["a", "b", "c"], "score": ["1", "3", "2"], "rank": [2, None, 1]})

    def order(given: Any) -> list[str]:
        texts: list[str] = rerank_frame(given, model=OverlapReranker(), deadline_ms=0)["text"].tolist()
        return texts

    assert order(frame) == ["c", "a", "b"]
    assert order(frame.drop(columns="rank")) == ["b", "c", "a"]
    assert order(frame.drop(columns=["rank", "score"])) == ["a", "b", "c"]
    with pytest.raises(InputError, match="the column 'score' says how a query's rows are ordered, and is not numbers"):
        order(frame.assign(score="high"))


@foreign.untimed
@given(st.permutations(range(5)), st.sampled_from([[0, 0, 0, 0, 0], ["a", "b", "a", "b", "a"]]))
def test_the_order_of_the_rows_and_a_doubled_index_change_nothing(order: list[int], index: list[Any]) -> None:
    frame = trec().iloc[order]
    frame.index = index
    result = rerank_frame(frame, model=OverlapReranker())
    expected = rerank_frame(trec(), model=OverlapReranker())
    columns = ["docno", "score", "rank", "secondpass_status"]
    for qid in ("q1", "q2"):
        one, other = (each.loc[each["qid"] == qid, columns].reset_index(drop=True) for each in (result, expected))
        pandas.testing.assert_frame_equal(one, other)


def test_the_shipped_scores_and_metadata_for_templates(tiny: Path, cache: Path) -> None:
    frame = pandas.DataFrame(
        {"query": "sort", "text": ["a list", "a file"], "title": ["python", None], "year": [1999, 2000]}
    )
    encoder = CrossEncoder(tiny, profile="exact", cache_dir=cache, template="{title} {year} {text}")
    result = rerank_frame(frame, model=encoder)
    given = [{"text": "a list", "title": "python", "year": 1999}, {"text": "a file", "year": 2000}]
    hits = encoder.rerank(as_ranking("sort", given)).hits
    assert result["text"].tolist() == [hit.document.text for hit in hits]
    assert result["score"].tolist() == pytest.approx([hit.score for hit in hits], abs=1e-4)


def test_other_names_and_a_trace() -> None:
    seen: list[Ranking] = []
    frame = pandas.DataFrame(
        {"topic": [7, 7], "asked": ["bees", "bees"], "abstract": ["rates", "bees"], "pmid": [1, 2]}
    )
    names: dict[str, Any] = {"qid": "topic", "query": "asked", "text": "abstract", "docno": "pmid"}
    result = rerank_frame(frame, model=OverlapReranker(), on_ranking=seen.append, **names)
    assert result["pmid"].tolist() == [2, 1]
    assert (seen[0].query_id, seen[0].ids, seen[0].trace[-1].pairs_scored) == ("7", ("2", "1"), 2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda frame: frame.drop(columns="text"), "no column 'text'; its columns are: 'qid', 'query', 'docno'"),
        (lambda frame: frame.drop(columns="query"), "no column 'query'"),
        (lambda frame: frame.assign(qid=[None, "q1", "q2", "q1", "q2"]), "row 'v' has no 'qid'"),
        (lambda frame: frame.assign(query=[None, "b", "c", "b", "c"]), "row 'v' has (None|nan) as its 'query'"),
        (lambda frame: frame.assign(query=["a", "b", "c", "b", "c"]), "qid 'q2' has two queries: 'a' and 'c'"),
        (lambda frame: frame.rename(columns={"day": "kind"}), "the column 'kind' is there twice"),
        (lambda frame: {"query": ["q"], "text": ["t"]}, "frame is a dict; give a pandas DataFrame"),
    ],
)
def test_a_mistake_is_told(change: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        rerank_frame(change(trec()), model=OverlapReranker())


def test_a_column_that_is_named_has_to_be_there() -> None:
    with pytest.raises(InputError, match="no column 'topic'"):
        rerank_frame(trec(), model=OverlapReranker(), qid="topic")
