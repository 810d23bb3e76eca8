"""A pool is a fair draw, tells nothing of who ranked what, grows without losing judgments, and holds all texts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass.errors import CollectionError, InputError
from secondpass.evaluation.judging import Judgments
from secondpass.evaluation.pool import Pool, draw_pool, read_pool, write_pool
from secondpass.evaluation.trec import Run
from secondpass.types import Document

QUERIES = {f"q{n}": f"what is {n}" for n in range(12)}
DOCUMENTS = {f"d{n}": Document(f"d{n}", f"text {n}\nof two lines", f"title {n}" if n % 2 else "") for n in range(30)}


def run(step: int) -> Run:
    return {q: [(f"d{(n * 5 + i * step) % 30}", -float(i)) for i in range(20)] for n, q in enumerate(QUERIES)}


RUNS = {"words": run(1), "vectors": run(7), "control": run(11)}


def draw(**options: Any) -> Pool:
    return draw_pool(QUERIES, RUNS, DOCUMENTS, **{"sample": 5, "depth": 4, "seed": 0, **options})


def test_the_candidates_are_the_union_of_the_first_of_every_run() -> None:
    pool = draw()
    assert len(pool.queries) == 5
    for query in pool.queries:
        wanted = {doc_id for one in RUNS.values() for doc_id, _ in one[query.query_id][:4]}
        assert {document.id for document in query.documents} == wanted
        assert len(query.documents) == len(wanted)
        assert query.query == QUERIES[query.query_id]
        assert all(document.text == DOCUMENTS[document.id].text for document in query.documents)
    assert (pool.drawn_from, pool.runs, pool.notes) == (12, ("words", "vectors", "control"), ())


def test_every_query_is_drawn_as_often() -> None:
    drawn = Counter(query.query_id for seed in range(400) for query in draw(seed=seed).queries)
    expected = 400 * 5 / 12
    # a query is drawn with probability 5/12: the sd of its count is 9.9
    assert all(abs(drawn[query] - expected) < 40 for query in QUERIES)
    pairs = Counter(tuple(sorted(one.query_id for one in draw(seed=seed, sample=2).queries)) for seed in range(800))
    assert len(pairs) == 66  # all of them, at about 12 each
    assert max(pairs.values()) < 30


def test_the_order_tells_nothing_of_rank_or_run() -> None:
    turned = dict(reversed(RUNS.items()))
    assert draw_pool(QUERIES, turned, DOCUMENTS, sample=5, depth=4).queries == draw().queries
    backwards = {name: {q: hits[:4][::-1] for q, hits in one.items()} for name, one in RUNS.items()}
    assert draw_pool(QUERIES, backwards, DOCUMENTS, sample=5, depth=4).queries == draw().queries
    firsts = Counter(
        query.documents.index(DOCUMENTS[RUNS["words"][query.query_id][0][0]])
        for seed in range(60)
        for query in draw(seed=seed, sample=12).queries
    )
    assert all(firsts[place] > 25 for place in range(8))  # the best of a run comes in every place


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 20), st.integers(1, 20), st.integers())
def test_a_larger_pool_holds_the_smaller_one(few: int, many: int, low: int, high: int, seed: int) -> None:
    (few, many), (low, high) = sorted((few, many)), sorted((low, high))
    small, large = draw(sample=few, depth=low, seed=seed), draw(sample=many, depth=high, seed=seed)
    assert [one.query_id for one in large.queries][:few] == [one.query_id for one in small.queries]
    assert set(small.pairs) <= set(large.pairs)


def test_it_reads_back_the_same(tmp_path: Path) -> None:
    odd = DOCUMENTS | {"d5": Document("d5", 'a "quoted"\u2028\x00 line\r\n', "ünïcode")}
    pool = draw_pool(QUERIES, RUNS, odd, sample=12, depth=9, seed=-3)
    write_pool(pool, tmp_path / "a" / "b")
    assert read_pool(tmp_path / "a" / "b") == pool
    assert "uniform" in (tmp_path / "a" / "b" / "pool.jsonl").read_text(encoding="utf-8").splitlines()[0]


def test_what_cannot_be_judged_is_said() -> None:
    few = {doc_id: document for doc_id, document in DOCUMENTS.items() if doc_id != "d5"}
    runs = {name: {q: hits for q, hits in one.items() if q != "q3"} for name, one in RUNS.items()}
    pool = draw_pool(QUERIES, runs, few, sample=99, depth=4)
    lacking = sum("d5" in {doc_id for one in runs.values() for doc_id, _ in one.get(q, [])[:4]} for q in QUERIES)
    assert pool.notes[0].startswith("there are only 12 queries")
    assert pool.notes[1].startswith("1 drawn query without candidates")
    assert pool.notes[2].startswith(f"{lacking} candidates that the collection lacks")
    assert not any(document.id == "d5" for query in pool.queries for document in query.documents)


def test_a_text_that_is_no_text_can_still_be_shown() -> None:
    broken: Any = None
    documents = {key: replace(document, text=broken) for key, document in DOCUMENTS.items()}
    pool = draw_pool(QUERIES, RUNS, documents, sample=1)
    assert {document.text for document in pool.queries[0].documents} == {""}


def test_a_pool_is_replaced_only_where_no_judgment_loses_its_document(tmp_path: Path) -> None:
    write_pool(draw(), tmp_path)
    write_pool(draw(seed=1), tmp_path)  # nothing judged yet: any pool will do
    write_pool(draw(), tmp_path)
    pair = draw().pairs[3]
    Judgments.open(tmp_path).add(*pair, 2, "ann")
    write_pool(draw(sample=8, depth=6), tmp_path)
    assert Judgments.open(tmp_path).of_judge("ann") == {pair: 2}
    with pytest.raises(InputError, match="judgments of another pool"):
        write_pool(draw(seed=1), tmp_path)
    assert read_pool(tmp_path) == draw(sample=8, depth=6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace('"seed":0', '"seed":"x"'), "pool.jsonl:1: not the line of a pool"),
        (lambda text: text.replace('"title":""', '"title":7', 1), r"pool.jsonl:\d: not the line of a pool"),
        (lambda text: text.replace('"pool":1', '"pool":9'), "not all of a pool of version 1"),
        (lambda text: "".join(text.splitlines(keepends=True)[:-1]), "then 4 queries"),
        (lambda text: text[:-20], "pool.jsonl:6: broken JSON"),
        (lambda text: "", "not all of a pool"),
    ],
)
def test_what_is_no_pool_is_refused(tmp_path: Path, change: Any, says: str) -> None:
    write_pool(draw(), tmp_path)
    path = tmp_path / "pool.jsonl"
    path.write_text(change(path.read_text()))
    with pytest.raises(CollectionError, match=says):
        read_pool(tmp_path)


def test_wrong_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="draw one with `secondpass audit --sample 50`"):
        read_pool(tmp_path)
    for options in ({"sample": 0}, {"depth": 0}):
        with pytest.raises(InputError, match="at least 1 query and 1 document"):
            draw(**options)
    with pytest.raises(InputError, match="at least one run"):
        draw_pool(QUERIES, {}, DOCUMENTS)
