"""The decomposition adds up, its ceiling is a ceiling, and a pool never grows."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass.errors import InputError
from secondpass.evaluation.headroom import decompose
from secondpass.evaluation.metrics import parse_metric
from secondpass.evaluation.trec import Run

DOCUMENTS = [f"d{i}" for i in range(12)]
METRICS = ["ndcg@3", "ndcg", "mrr@10", "recall@2", "precision@3", "map", "map@4"]


def as_run(rankings: dict[str, list[str]]) -> Run:
    return {q: [(d, -float(i)) for i, d in enumerate(ids)] for q, ids in rankings.items()}


@st.composite
def reranked_pools(draw: Any) -> tuple[dict[str, dict[str, int]], Run, Run]:
    qrels, before, after = {}, {}, {}
    for q in ("a", "b", "c")[: draw(st.integers(1, 3))]:
        qrels[q] = draw(st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(-1, 3), min_size=1))
        before[q] = draw(st.lists(st.sampled_from(DOCUMENTS), unique=True, max_size=9))
        after[q] = draw(st.permutations(before[q]))
    return qrels, as_run(before), as_run(after)


@settings(max_examples=150, deadline=None)
@given(reranked_pools(), st.sampled_from(METRICS))
def test_it_adds_up(case: Any, metric: str) -> None:
    qrels, before, after = case
    found = decompose(before, after, qrels, metric=metric, depth=9)
    for query in found.queries:
        assert 0.0 <= query.first <= query.best + 1e-12
        assert query.reranked <= query.best + 1e-12
        assert query.best <= 1.0 + 1e-12
    assert 1 - found.first == pytest.approx(found.recall_loss + found.ordering_headroom)
    if found.capture is not None:
        gained = found.reranked - found.first
        assert found.capture * found.ordering_headroom == pytest.approx(gained)
        assert found.capture <= 1 + 1e-9
    else:
        assert found.ordering_headroom == pytest.approx(0)
    if found.unfixable is not None:
        assert 0 <= found.unfixable <= 1 + 1e-9
    else:
        assert found.first == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(DOCUMENTS), unique=True, max_size=5),
    st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(-1, 3), min_size=1),
    st.sampled_from(METRICS),
)
def test_the_best_order_is_the_best_of_all_orders(pool: list[str], grades: dict[str, int], metric: str) -> None:
    run = as_run({"q": pool})
    best = max(parse_metric(metric)(list(order), grades) for order in permutations(pool))
    assert decompose(run, run, {"q": grades}, metric=metric, depth=5).best == pytest.approx(best, abs=1e-12)


def test_ratios_of_means_not_means_of_ratios() -> None:
    qrels = {"a": {"r": 1}, "b": {"r": 1}}
    before = as_run({"a": ["x", "r"], "b": ["x", "y", "z", "r"]})
    after = as_run({"a": ["r", "x"], "b": ["x", "y", "z", "r"]})
    found = decompose(before, after, qrels, metric="mrr", depth=10)
    assert (found.first, found.reranked, found.best) == (0.375, 0.625, 1.0)
    assert found.capture == pytest.approx(0.25 / 0.625)  # the mean of ratios would be .5
    assert found.unfixable == 0.0


def test_nothing_to_gain_and_nothing_lost_have_no_ratio() -> None:
    qrels = {"a": {"r": 1}}
    perfect = as_run({"a": ["r", "x"]})
    found = decompose(perfect, perfect, qrels, depth=10)
    assert found.capture is found.unfixable is None
    lost = as_run({"a": ["x", "y"]})
    found = decompose(lost, lost, qrels, depth=10)
    assert found.capture is None
    assert found.unfixable == 1.0


def test_a_document_from_outside_the_pool_is_named_with_its_query() -> None:
    qrels = {"fine": {"r": 1}, "broken": {"r": 1}}
    before = as_run({"fine": ["r"], "broken": ["x", "y"]})
    after = as_run({"fine": ["r"], "broken": ["r", "x", "y"]})
    with pytest.raises(InputError, match=r"'broken'.*'r'"):
        decompose(before, after, qrels, depth=10)


def test_depth_cuts_the_pool() -> None:
    qrels = {"a": {"r": 1}}
    run = as_run({"a": ["x", "y", "r"]})
    assert decompose(run, run, qrels, depth=3).best == 1.0
    assert decompose(run, run, qrels, depth=2).best == 0.0


def test_a_query_without_results_counts_as_zero() -> None:
    qrels = {"a": {"r": 1}, "b": {"r": 1}}
    found = decompose(as_run({"a": ["r"]}), as_run({"a": ["r"]}), qrels, depth=3)
    assert (found.first, found.best, found.reranked) == (0.5, 0.5, 0.5)


def test_what_cannot_be_decomposed_is_refused() -> None:
    run = as_run({"a": ["r"]})
    with pytest.raises(InputError, match="depth"):
        decompose(run, run, {"a": {"r": 1}}, depth=0)
    with pytest.raises(InputError, match="no judged queries"):
        decompose(run, run, {}, depth=3)
    with pytest.raises(InputError, match=r"'a'.*'r' occurs twice"):
        decompose(as_run({"a": ["r", "x", "r"]}), run, {"a": {"r": 1}}, depth=3)
