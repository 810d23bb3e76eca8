"""Metrics agree with ir_measures (trec_eval's and MS MARCO's code) on any ranking."""

from __future__ import annotations

from typing import Any

import ir_measures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass.errors import InputError
from secondpass.evaluation.metrics import MEASURES, Metric, evaluate, judged, parse_metric
from secondpass.evaluation.trec import Run

DOCUMENTS = [f"d{i:02}" for i in range(30)]
THEIRS = {
    "ndcg@1": ir_measures.nDCG @ 1,
    "ndcg@10": ir_measures.nDCG @ 10,
    "ndcg": ir_measures.nDCG,
    "mrr@3": ir_measures.RR @ 3,
    "mrr@10": ir_measures.RR @ 10,
    "mrr": ir_measures.RR,
    "recall@5": ir_measures.R @ 5,
    "recall@100": ir_measures.R @ 100,
    "precision@10": ir_measures.P @ 10,
    "map": ir_measures.AP,
    "map@10": ir_measures.AP @ 10,
}


@st.composite
def judged_runs(draw: Any) -> tuple[dict[str, dict[str, int]], Run]:
    # trec_eval's C code crashes on a query that has negative grades only; test_known_values has that case
    grades = st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(-2, 3), min_size=1, max_size=12).filter(
        lambda found: max(found.values()) >= 0
    )
    qrels = draw(st.dictionaries(st.sampled_from(["q1", "q2", "q3"]), grades, min_size=1))
    # a query may lack results, and results may lack judgments
    rankings = st.lists(st.sampled_from(DOCUMENTS), unique=True, min_size=1, max_size=25)
    run = draw(st.dictionaries(st.sampled_from(["q1", "q2", "q3", "q4"]), rankings))
    return qrels, {q: [(d, float(-i)) for i, d in enumerate(ids)] for q, ids in run.items()}


@settings(max_examples=150, deadline=None)
@given(judged_runs())
def test_agrees_with_ir_measures(case: Any) -> None:
    qrels, run = case
    theirs = {}
    for value in ir_measures.iter_calc(list(THEIRS.values()), qrels, {q: dict(r) for q, r in run.items()}):
        theirs[value.query_id, str(value.measure)] = value.value
    for name, measure in THEIRS.items():
        ours = evaluate(run, qrels, name)
        assert list(ours) == list(qrels)
        for query_id, value in ours.items():
            assert value == pytest.approx(theirs[query_id, str(measure)], abs=1e-9), (name, query_id)


@settings(max_examples=100, deadline=None)
@given(judged_runs())
def test_judged_agrees_with_ir_measures(case: Any) -> None:
    qrels, run = case
    theirs = {
        v.query_id: v.value
        for v in ir_measures.iter_calc([ir_measures.Judged @ 10], qrels, {q: dict(r) for q, r in run.items()})
    }
    for query_id, grades in qrels.items():
        if query_id in run:
            ours = judged([d for d, _ in run[query_id]], grades, 10)
            assert ours == pytest.approx(theirs[query_id], abs=1e-9)


def test_known_values() -> None:
    grades = {"a": 3, "b": 1, "c": 0}
    assert parse_metric("ndcg@10")(["a", "b"], grades) == 1.0
    assert parse_metric("mrr@10")(["c", "x", "b"], grades) == pytest.approx(1 / 3)
    assert parse_metric("mrr@2")(["c", "x", "b"], grades) == 0.0
    assert parse_metric("precision@10")(["a"], grades) == 0.1
    assert parse_metric("recall@1")(["a", "b"], grades) == 0.5
    for name in THEIRS:
        assert parse_metric(name)([], grades) == 0.0
        assert parse_metric(name)(["a"], {"a": 0}) == 0.0
        assert parse_metric(name)(["a"], {}) == 0.0
        assert parse_metric(name)(["a", "b"], {"a": -1, "b": -2}) == 0.0


def test_names_read_back() -> None:
    for name in THEIRS:
        assert str(parse_metric(name)) == name
        assert parse_metric(parse_metric(name).label) == parse_metric(name)
        assert parse_metric(f" {name.upper()} ") == parse_metric(name)
    assert parse_metric("R@100") == Metric("recall", 100)
    assert parse_metric("rr@10").label == "MRR@10"


@pytest.mark.parametrize("name", ["", "ndgc@10", "ndcg@0", "ndcg@-1", "ndcg@x", "ndcg@1.5", "ndcg10", "ndcg@１０"])
def test_unknown_names_list_the_known(name: str) -> None:
    with pytest.raises(InputError) as error:
        parse_metric(name)
    assert all(measure in str(error.value) for measure in MEASURES)


def test_a_cutoff_where_one_is_needed() -> None:
    with pytest.raises(InputError, match="recall@10"):
        parse_metric("recall")
