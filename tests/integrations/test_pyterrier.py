"""The real PyTerrier, without Java: our transformers in its pipelines and experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pyterrier", reason="needs the extra pyterrier")

import pandas
import pyterrier
from pyterrier.measures import RR, nDCG

import foreign_documents as foreign
from secondpass import BM25, Cascade, Stage
from secondpass.errors import InputError
from secondpass.integrations.pandas import TOLD_DTYPES
from secondpass.integrations.pyterrier import SecondPassReranker, SecondPassRetriever
from secondpass.testing import ListRetriever, OverlapReranker
from secondpass.types import Document, Ranking, StageTrace, Status

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # PyTerrier's own, under the newest pandas

TEXTS = {
    "d1": "rates rose by a quarter",
    "d2": "bees dance",
    "d3": "bees find bees, find way, way",
    "d4": "it is by the sun and by what they learned before that bees find the way",
}
QUERY = "bees find the way"
TOPICS = pandas.DataFrame([["q1", QUERY], ["q2", "rates rose"], ["q3", "zzyzx"]], columns=["qid", "query"])
BM = BM25.build([Document(name, text, "a title" if name == "d4" else "") for name, text in TEXTS.items()])


@pytest.fixture(autouse=True)
def _no_java() -> Any:
    yield
    assert not pyterrier.java.started()


def order(frame: Any, qid: str = "q1") -> list[str]:
    """Documents of a query as PyTerrier's own measures see them: by score."""
    found: list[str] = frame[frame["qid"] == qid].sort_values("score", ascending=False, kind="stable")["docno"].tolist()
    return found


def test_a_pipeline_ranks_as_the_cascade_does() -> None:
    pipeline = SecondPassRetriever(BM, num_results=10) >> SecondPassReranker(OverlapReranker(), depth=2)
    found = pipeline(TOPICS)
    cascade = Cascade(BM, Stage(OverlapReranker(), depth=2), retrieve=10)
    whole = SecondPassRetriever(cascade, num_results=10)(TOPICS)
    for qid, query in TOPICS.itertuples(index=False):
        ranking = cascade.search(query, top_k=10)
        rows, direct = (frame[frame["qid"] == qid] for frame in (found, whole))
        assert rows["docno"].tolist() == order(rows, qid) == list(ranking.ids)
        assert direct["docno"].tolist() == order(direct, qid) == list(ranking.ids)
        assert rows["rank"].tolist() == direct["rank"].tolist() == list(range(len(ranking)))
        statuses = [str(hit.status) for hit in ranking.hits]
        assert rows["secondpass_status"].tolist() == direct["secondpass_status"].tolist() == statuses
        for scores in (rows["score"].tolist(), direct["score"].tolist()):
            given = [hit.score for hit in ranking.hits]
            assert scores[:2] == given[:2]
            assert scores[2:] == [given[1] - 1 - n for n in range(len(given[2:]))]  # type: ignore[operator]
    assert found["text"].tolist() == [TEXTS[name] for name in found["docno"]]
    assert (found["title"] == "a title").tolist() == [name == "d4" for name in found["docno"]]


@pytest.mark.filterwarnings("ignore:There are shared pipeline components")
def test_it_works_with_the_operators_and_in_an_experiment() -> None:
    first = SecondPassRetriever(BM)
    second = first >> SecondPassReranker(OverlapReranker())
    qrels = pandas.DataFrame([["q1", "d4", 1], ["q2", "d1", 1]], columns=["qid", "docno", "label"])
    table = pyterrier.Experiment([first, second], TOPICS[:2], qrels, [nDCG @ 10, RR @ 10], names=["bm25", "reranked"])
    assert table.set_index("name")["RR@10"].to_dict() == {"bm25": 0.75, "reranked": 1.0}
    assert (second % 1).search(QUERY)["docno"].tolist() == ["d4"]
    both = first + second
    assert set(both.search(QUERY)["docno"]) == set(first.search(QUERY)["docno"])


def test_rows_without_a_rank_of_their_own_and_an_unsorted_frame() -> None:
    frame = pandas.DataFrame(
        [["q1", QUERY, name, text, float(n)] for n, (name, text) in enumerate(TEXTS.items())],
        columns=["qid", "query", "docno", "text", "score"],
        index=[0, 0, 1, 1],
    )
    late = SecondPassReranker(OverlapReranker(), deadline_ms=0)(frame)
    assert order(late) == late["docno"].tolist() == ["d4", "d3", "d2", "d1"]
    assert late["score"].tolist() == [0.0, -1.0, -2.0, -3.0]
    assert set(late["secondpass_status"]) == {str(Status.DEADLINE)}
    assert late.index.tolist() == [0, 1, 2, 3]


class SomeScored:
    """A reranker that keeps the order and gives a score to some."""

    def __init__(self, scores: Sequence[float | None]) -> None:
        self.scores = scores

    def rerank(self, ranking: Ranking, **more: object) -> Ranking:
        hits = [
            replace(hit, score=score, status=Status.EMPTY if score is None else Status.SCORED)
            for hit, score in zip(ranking.hits, self.scores, strict=True)
        ]
        return replace(ranking, hits=tuple(hits), trace=(StageTrace("some"),))


@foreign.untimed
@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_each_row_has_a_score_and_scores_give_the_order(scored: list[bool]) -> None:
    given = [-float(place) if one else None for place, one in enumerate(scored)]  # as a listwise reranker's
    names = [f"d{n}" for n in range(len(given))]
    frame = pandas.DataFrame({"qid": "q", "query": "q", "docno": names, "text": "t"})
    found = SecondPassReranker(SomeScored(given))(frame)
    scores = found["score"].tolist()
    assert found["docno"].tolist() == names
    assert all(one > other for one, other in pairwise(scores))
    assert [score for score, one in zip(scores, scored, strict=True) if one] == [
        one for one in given if one is not None
    ]


def test_pipelines_can_be_inspected() -> None:
    reranker, retriever = SecondPassReranker(OverlapReranker()), SecondPassRetriever(BM)
    outputs = pyterrier.inspect.transformer_outputs(retriever >> reranker, ["qid", "query"])
    assert outputs == list((retriever >> reranker)(TOPICS).columns)
    assert pyterrier.inspect.transformer_outputs(retriever, ["qid", "query"]) == list(retriever(TOPICS).columns)
    empty, whole = retriever(TOPICS[:0]), retriever(TOPICS)
    numbers = ["score", "rank", *TOLD_DTYPES]
    assert empty[numbers].dtypes.to_dict() == whole[numbers].dtypes.to_dict()


def test_what_is_missing_is_told() -> None:
    with pytest.raises(pyterrier.validate.InputValidationError, match="text"):
        SecondPassReranker(OverlapReranker())(pandas.DataFrame([["q", "a", "d"]], columns=["qid", "query", "docno"]))
    with pytest.raises(pyterrier.validate.InputValidationError, match="query"):
        SecondPassRetriever(BM)(pandas.DataFrame([["q"]], columns=["qid"]))
    with pytest.raises(InputError, match="model is 3"):
        SecondPassReranker(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot be the first stage"):
        SecondPassRetriever(OverlapReranker())  # type: ignore[arg-type]


def test_a_model_by_its_folder_and_traces(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found: list[Ranking] = []
    retriever = SecondPassRetriever(ListRetriever({QUERY: list(TEXTS.values())}), on_ranking=found.append)
    pipeline = retriever >> SecondPassReranker(str(tiny), on_ranking=found.append)
    assert len(pipeline.search(QUERY)) == len(TEXTS)
    assert [len(ranking.trace) for ranking in found] == [1, 1]
    assert found[1].trace[-1].pairs_scored == len(TEXTS)
