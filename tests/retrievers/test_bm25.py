"""BM25: the published formula, the promises of a retriever, built, opened or edited."""

from __future__ import annotations

import json
import math
import re
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from secondpass.errors import InputError
from secondpass.retrievers.bm25 import BM25, Postings
from secondpass.retrievers.index import Index
from secondpass.testing import check_retriever
from secondpass.types import Document, Status
from secondpass.words import words

DOCUMENTS = [
    Document("bees", "Bees find their hive by the sun.", "On bees", {"page": 1, "tags": ["insect", "home"]}),
    Document("ants", "Ants follow trails of scent.", "On ants"),
    Document("rates", "Interest rates rose; the markets did not mind."),
    Document("empty", ""),
    Document("umlaut", "Über Bienen \u2028 und Blüten, ein \ud800 Rest"),
    Document("number", 42),  # type: ignore[arg-type]
    Document("bees again", "Bees find their hive by the sun.", "On bees"),
]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "collections"


@pytest.fixture(scope="module")
def index() -> BM25:
    return BM25.build(DOCUMENTS)


# Scores


def reference(texts: list[str], query: str, k1: float, b: float) -> list[float]:
    """The formula as it is published, in plain Python, by nobody's library."""
    words = [re.findall(r"\w\w+", text.lower()) for text in texts]
    mean = sum(map(len, words)) / len(words)
    scores = []
    for document in words:
        counts, score = Counter(document), 0.0
        for word in re.findall(r"\w\w+", query.lower()):
            df = sum(word in other for other in words)
            if counts[word]:
                idf = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
                score += idf * counts[word] / (counts[word] + k1 * (1 - b + b * len(document) / mean))
        scores.append(score)
    return scores


words_st = st.lists(st.sampled_from(["bee", "ant", "hive", "sun", "The", "x"]), max_size=8).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(words_st, min_size=1, max_size=9),
    query=words_st,
    k=st.integers(1, 12),
    k1=st.sampled_from([0.0, 0.9, 1.5]),
    b=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_scores_are_the_published_formula(texts: list[str], query: str, k: int, k1: float, b: float) -> None:
    index = BM25.build(map(Document, map(str, range(len(texts))), texts), k1=k1, b=b, language=None)
    found = index.retrieve(query, k)
    expected = reference(texts, query, k1, b)
    assert len(found) == min(k, sum(score > 0 for score in expected))
    for hit in found.hits:
        assert hit.score == pytest.approx(expected[int(hit.document.id)], abs=1e-5)
    everything = index.retrieve(query, 100)
    assert found.hits == everything.hits[:k], "a smaller k is a prefix of a larger one, ties included"
    places = [(-(hit.score or 0.0), int(hit.document.id)) for hit in everything.hits]
    assert places == sorted(places), "best first, ties in the order of the collection"


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(words_st, min_size=1, max_size=30), query=words_st, b=st.sampled_from([0.0, 0.4, 1.0]))
def test_scores_are_those_of_bm25s(texts: list[str], query: str, b: float) -> None:
    corpus = [words(text) for text in texts]
    assume(any(corpus))
    engine = bm25s.BM25(method="lucene", k1=1.2, b=b)
    engine.index(corpus, show_progress=False)
    asked = [word for word in words(query) if word in engine.vocab_dict]
    assume(asked)
    expected = engine.get_scores(asked)
    found = BM25.build(map(Document, map(str, range(len(texts))), texts), k1=1.2, b=b, language=None)
    scores = {int(hit.document.id): hit.score for hit in found.retrieve(query, len(texts)).hits}
    assert sorted(scores) == [number for number, score in enumerate(expected) if score > 0]
    for number, score in scores.items():
        assert score == pytest.approx(expected[number], rel=1e-4)


def test_the_promises_of_a_retriever_hold() -> None:
    check_retriever(BM25.build)


def test_words_are_stemmed_and_stop_words_dropped(index: BM25) -> None:
    assert index.retrieve("hives", 5).ids == ("bees", "bees again")
    assert index.retrieve("the of by", 5).ids == ()
    assert index.retrieve("BLÜTEN", 5).ids == ("umlaut",)
    assert index.retrieve("blu\u0308ten", 5).ids == ("umlaut",), "however the umlaut is written"


def test_languages_and_none() -> None:
    documents = [Document("a", "die Häuser"), Document("b", "der Hund"), Document("c", "drittes")]
    assert BM25.build(documents, language="german").retrieve("Haus", 5).ids == ("a",)
    assert BM25.build(documents, language="german").retrieve("die", 5).ids == ()
    assert BM25.build(documents, language="finnish").retrieve("hund", 5).ids == ("b",)
    assert BM25.build(documents, language=None).retrieve("die", 5).ids == ("a",)


def test_fields_say_what_is_searched() -> None:
    documents = [Document("a", "text", "title", {"author": "Lovelace", "year": 1843}), Document("b", "other")]
    assert BM25.build(documents).retrieve("title", 5).ids == ("a",)
    assert BM25.build(documents).retrieve("lovelace", 5).ids == ()
    assert BM25.build(documents, fields=["author"]).retrieve("lovelace", 5).ids == ("a",)
    assert BM25.build(documents, fields=["author"]).retrieve("title", 5).ids == ()


def test_hits_are_first_stage_hits(index: BM25) -> None:
    found = index.retrieve("bees", 5)
    assert found.ids == ("bees", "bees again")
    for rank, hit in enumerate(found.hits, 1):
        assert (hit.status, hit.first_rank, hit.first_score) == (Status.RETRIEVED, rank, hit.score)
        assert type(hit.score) is float
    assert found.documents[0] == DOCUMENTS[0]
    assert found.trace[0].name == "bm25"
    assert found.trace[0].seconds > 0
    assert index.retrieve("bees zzyzx", 5).trace[0].detail["unknown_words"] == 1


def test_many_queries_keep_their_ids(index: BM25) -> None:
    found = list(index.retrieve_many({"1": "bees", "2": "ants", "3": ""}, k=1))
    assert [(ranking.query_id, ranking.query, ranking.ids) for ranking in found] == [
        ("1", "bees", ("bees",)),
        ("2", "ants", ("ants",)),
        ("3", "", ()),
    ]
    assert found[0].hits == index.retrieve("bees", 1).hits


@pytest.mark.parametrize("texts", [[""], ["", "", ""], ["the of"], ["a b c"]])
def test_a_collection_without_a_word_finds_nothing(texts: list[str], tmp_path: Path) -> None:
    index = BM25.build(map(Document, map(str, range(len(texts))), texts))
    index.save(tmp_path / "index")
    for each in (index, BM25.open(tmp_path / "index")):
        assert len(each) == len(texts)
        assert each.retrieve("anything", 5).ids == ()


def test_progress_counts_documents() -> None:
    seen: list[int] = []
    BM25.build((Document(str(n), "bee") for n in range(600)), on_progress=seen.append)
    assert seen == [256, 512, 600]


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    BM25.build(DOCUMENTS).save(tmp_path / "index")
    BM25.open(tmp_path / "index").retrieve("bees", 1)
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_indexed_says_why() -> None:
    with pytest.raises(InputError, match="no documents"):
        BM25.build([])
    with pytest.raises(InputError, match=r"two documents have the id 'a' \(the second is number 2\)"):
        BM25.build([Document("a", "x"), Document("b", "y"), Document("a", "z")])
    with pytest.raises(InputError, match="document 1 is str"):
        BM25.build([Document("a", "x"), "text"])  # type: ignore[list-item]
    with pytest.raises(InputError, match="with id 3"):
        BM25.build([Document(3, "x")])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="language 'klingon' is not known"):
        BM25.build(DOCUMENTS, language="klingon")
    with pytest.raises(InputError, match="no document has the field 'body'"):
        BM25.build(DOCUMENTS, fields=["title", "body"])
    for k1, b in ((-1.0, 0.4), (0.9, 1.5), (math.nan, 0.4), (math.inf, 0.4), (0.9, math.nan)):
        with pytest.raises(InputError, match="k1 is"):
            BM25.build(DOCUMENTS, k1=k1, b=b)


def test_what_cannot_be_asked_says_why(index: BM25) -> None:
    with pytest.raises(InputError, match="k is 0"):
        index.retrieve("bees", 0)
    with pytest.raises(InputError, match="query is a NoneType"):
        index.retrieve(None, 5)  # type: ignore[arg-type]


# In an index that grows and shrinks


def test_an_opened_index_is_the_one_that_was_saved(index: BM25, tmp_path: Path) -> None:
    index.save(tmp_path / "index")
    opened = BM25.open(tmp_path / "index")
    assert repr(opened) == "BM25(7 documents)"
    assert (opened.language, opened.fields) == (index.language, index.fields)
    assert opened.index.get("umlaut") == DOCUMENTS[4], "a lone surrogate and a line separator included"
    assert opened.index.get("number") == DOCUMENTS[5]
    for query in ("bees", "trails of scent", "rates", "nothing here", "Über", ""):
        assert opened.retrieve(query, 5).hits == index.retrieve(query, 5).hits


def test_the_promises_of_a_retriever_hold_opened_and_edited(tmp_path: Path) -> None:
    folders = (tmp_path / str(number) for number in count())

    def opened(documents: Sequence[Document]) -> BM25:
        folder = next(folders)
        BM25.build([each for each in documents if not isinstance(each.text, bytes)]).save(folder)  # JSON has no bytes
        return BM25.open(folder)

    def edited(documents: Sequence[Document]) -> BM25:
        before = [Document(each.id, "something else about bees and hives") for each in documents[::2]]
        found = BM25.build([*before, Document("gone", "bees")])
        found.retrieve("bees", 1)  # what it has prepared by now must not last
        third = len(documents) // 3 + 1
        for begin in range(0, len(documents), third):
            found.index.replace(documents[begin : begin + third])
        found.index.delete(["gone"])
        return found

    check_retriever(opened)
    check_retriever(edited)


def test_a_merge_makes_the_postings_that_building_makes() -> None:
    part = Postings(language=None)
    texts = ["bee hive", "", "ant bee bee \ud800x", "zebra", "bee Ünder", "yak"]
    alive = [np.array([True, False, True]), np.array([False, True, True])]
    merged = part.merge([(part.build(texts[:3]), alive[0]), (part.build(texts[3:]), alive[1])])
    built = part.build([texts[0], texts[2], texts[4], texts[5]])
    assert list(merged) == list(built)
    for name, array in built.items():
        assert merged[name].dtype == array.dtype
        assert merged[name].tolist() == array.tolist(), name


def test_long_documents_are_counted_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"bee hive w{number % 3} bee" * (number % 4) for number in range(20)]
    whole = Postings().build(texts)
    monkeypatch.setattr("secondpass.retrievers.bm25._BLOCK", 7)
    for name, array in Postings().build(texts).items():
        assert array.tolist() == whole[name].tolist(), name


def test_an_index_without_postings_is_refused() -> None:
    class Other:
        name = "other"

        def settings(self) -> dict[str, Any]:
            return {}

        def build(self, texts: Sequence[str]) -> dict[str, Any]:
            return {}

        def merge(self, pieces: Any) -> dict[str, Any]:
            return {}

    with pytest.raises(InputError, match=r"no BM25 postings \(only other\)"):
        BM25(Index.build(DOCUMENTS, [Other()]))


def test_threads_may_ask_at_once(index: BM25) -> None:
    queries = [
        f"{first} {second}" for first in ("bees", "ants", "hives", "rates") for second in ("trails", "scent", "x")
    ]
    alone = [index.retrieve(query, 5).hits for query in queries]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            fresh = BM25(index.index)  # prepared by whichever thread is first
            assert [
                ranking.hits for ranking in pool.map(lambda query, of=fresh: of.retrieve(query, 5), queries)
            ] == alone


def test_opening_does_not_read_the_collection_into_memory(tmp_path: Path) -> None:
    text = "bee " * 5_000
    BM25.build((Document(str(n), f"{text} {n}x") for n in range(400)), folder=tmp_path / "index")
    assert sum(path.stat().st_size for path in tmp_path.rglob("documents.jsonl")) > 8_000_000
    BM25.open(tmp_path / "index")  # so that imports are not counted
    tracemalloc.start()
    try:
        opened = BM25.open(tmp_path / "index")
        opened.retrieve("7x", 1)
        opened.index.add([Document("new", "ant")])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000


# Real collections


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        yield from map(json.loads, file)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the folder of test collections beside the clone")
@pytest.mark.parametrize(
    ("name", "split", "ndcg", "recall"),
    [("scifact", "test", 0.676, 0.913), ("cosqa", "test", 0.320, 0.742), ("cranfield", "test-binary", 0.485, 0.739)],
)
def test_published_numbers(name: str, split: str, ndcg: float, recall: float) -> None:
    ir_measures = pytest.importorskip("ir_measures")
    corpus = (Document(row["_id"], row["text"], row.get("title") or "") for row in rows(SHARED / name / "corpus.jsonl"))
    queries = {row["_id"]: row["text"] for row in rows(SHARED / name / "queries.jsonl")}
    lines = (SHARED / name / "qrels" / f"{split}.tsv").read_text().splitlines()[1:]
    qrels = [ir_measures.Qrel(query, document, int(grade)) for query, document, grade in map(str.split, lines)]
    judged = {qrel.query_id: queries[qrel.query_id] for qrel in qrels}
    run = [
        ir_measures.ScoredDoc(ranking.query_id, hit.document.id, -float(hit.first_rank or 0))
        for ranking in BM25.build(corpus).retrieve_many(judged, k=100)
        for hit in ranking.hits
    ]
    measured = ir_measures.calc_aggregate([ir_measures.nDCG @ 10, ir_measures.R @ 100], qrels, run)
    assert measured[ir_measures.nDCG @ 10] == pytest.approx(ndcg, abs=0.005)
    assert measured[ir_measures.R @ 100] == pytest.approx(recall, abs=0.005)
