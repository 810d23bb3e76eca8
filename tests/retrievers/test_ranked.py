"""The k best, with ties by position, and the questions that are none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass.errors import InputError
from secondpass.retrievers.ranked import best, check_question, retrieve_many
from secondpass.testing import ListRetriever


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(0, 3000),
    values=st.integers(1, 2000),
    k=st.integers(1, 40),
    above=st.sampled_from([-np.inf, 0.0, 3.0]),
    seed=st.integers(0, 1000),
)
def test_the_k_best_are_those_of_sorting(size: int, values: int, k: int, above: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(-5, values, size).astype(np.float32)
    scores[rng.random(size) < 0.1] = -np.inf
    expected = sorted((-float(score), position) for position, score in enumerate(scores) if score > above)[:k]
    assert best(scores, k, above) == [(position, -score) for score, position in expected]


@pytest.mark.parametrize("k", [0, -1, 2.5, "10", None])
def test_a_k_that_is_none(k: int) -> None:
    with pytest.raises(InputError, match="k is"):
        check_question("a query", k)


def test_a_query_that_is_no_text() -> None:
    with pytest.raises(InputError, match="the query is a bytes; give a str"):
        check_question(b"bees", 10)  # type: ignore[arg-type]


def test_many_queries_keep_their_ids_and_order() -> None:
    retriever = ListRetriever({"bees": ["one", "two"]})
    found = list(retrieve_many(retriever, {"q2": "bees", "q1": "ants"}, 1))
    assert [(ranking.query_id, ranking.query, len(ranking)) for ranking in found] == [
        ("q2", "bees", 1),
        ("q1", "ants", 0),
    ]
