"""The contract suites that come with secondpass, and what only this reranker promises."""

from __future__ import annotations

import pytest
from secondpass_longest_run import LongestRun

from secondpass.errors import InputError
from secondpass.registry import resolve
from secondpass.testing import check_pointwise, check_reranker
from secondpass.types import Status, as_ranking


def test_it_keeps_the_promises_of_every_reranker() -> None:
    check_reranker(LongestRun)
    check_pointwise(LongestRun)


def test_it_is_known_by_its_name() -> None:
    assert resolve("reranker", "longest-run") is LongestRun


def test_the_longest_piece_of_the_query_comes_first() -> None:
    texts = ["the bee, of the way", "on the way of the bee", "the way home", "a hive"]
    found = LongestRun().rerank(as_ranking("the way of the bee", texts))
    assert [(hit.document.text, hit.score) for hit in found.hits] == [
        ("on the way of the bee", 1.0),
        ("the bee, of the way", 0.4),
        ("the way home", 0.4),
        ("a hive", 0.0),
    ]


def test_a_long_query_is_not_cut() -> None:
    found = LongestRun(max_query_words=2).rerank(as_ranking("the way home", ["a hive", "the way home"]))
    assert [(hit.document.id, hit.status) for hit in found.hits] == [
        ("0", Status.QUERY_TOO_LONG),
        ("1", Status.QUERY_TOO_LONG),
    ]


def test_a_setting_that_cannot_be_meant_is_refused() -> None:
    with pytest.raises(InputError, match="max_query_words is 0"):
        LongestRun(max_query_words=0)
