"""BM25: the published formula, the promises of a retriever, and a folder that is whole or refused."""

from __future__ import annotations

import json
import math
import re
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass.errors import IndexFolderError, InputError
from secondpass.retrievers.bm25 import BM25
from secondpass.testing import check_retriever
from secondpass.types import Document, Status

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


@pytest.fixture(scope="module")
def saved(index: BM25, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bm25") / "index"
    index.save(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to do damage to."""
    return Path(shutil.copytree(saved, tmp_path / "index"))


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


# The folder


def test_an_opened_index_is_the_one_that_was_saved(index: BM25, saved: Path) -> None:
    opened = BM25.open(saved)
    assert repr(opened) == "BM25(7 documents)"
    assert opened._documents[4] == DOCUMENTS[4], "a lone surrogate and a line separator included"
    assert opened._documents[5] == DOCUMENTS[5]
    for query in ("bees", "trails of scent", "rates", "nothing here", "Über", ""):
        assert opened.retrieve(query, 5).hits == index.retrieve(query, 5).hits


def test_an_opened_index_can_be_saved_even_over_itself(folder: Path, tmp_path: Path, index: BM25) -> None:
    BM25.open(folder).save(folder)
    BM25.open(folder).save(tmp_path / "deep" / "copy")
    assert BM25.open(tmp_path / "deep" / "copy").retrieve("bees", 5).hits == index.retrieve("bees", 5).hits
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "index"], "nothing is left lying about"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_found(saved: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(saved.iterdir())))
    whole = path.read_bytes()
    where = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytes([whole[where] ^ data.draw(st.sampled_from([1, 2, 4, 8, 16, 32, 64]))])
    try:
        path.write_bytes(whole[:where] + flipped + whole[where + 1 :])
        with pytest.raises(IndexFolderError, match=re.escape(str(saved))):
            BM25.open(saved)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("verify", [True, False])
def test_a_missing_or_truncated_file_is_found(folder: Path, verify: bool) -> None:
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for damaged in (None, b"", whole[:-2], whole[: len(whole) // 2], whole + b"\n\n{"):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            with pytest.raises(IndexFolderError, match=re.escape(path.name)):
                BM25.open(folder, verify=verify)
            path.write_bytes(whole)
    BM25.open(folder, verify=verify)


def test_files_of_another_index_are_found(folder: Path, tmp_path: Path) -> None:
    BM25.build(DOCUMENTS[::-1]).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "documents.jsonl", folder)
    with pytest.raises(IndexFolderError, match=r"documents\.jsonl is damaged"):
        BM25.open(folder)


def rewrite(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def test_a_newer_format_says_to_upgrade(folder: Path) -> None:
    rewrite(folder, version=2)
    with pytest.raises(IndexFolderError, match=r"has format 2, this secondpass reads up to 1; upgrade"):
        BM25.open(folder)


@pytest.mark.parametrize("changes", [{"version": None}, {"settings": {}}, {"files": {}}, {"files": None}, {"seal": 0}])
def test_an_edited_manifest_is_found(folder: Path, changes: dict[str, Any]) -> None:
    rewrite(folder, **changes)
    with pytest.raises(IndexFolderError, match="does not match its own digest"):
        BM25.open(folder)


def test_a_foreign_folder_is_refused_and_never_overwritten(tmp_path: Path, index: BM25) -> None:
    with pytest.raises(IndexFolderError, match="does not exist"):
        BM25.open(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(IndexFolderError, match="is not a folder"):
        BM25.open(tmp_path / "file")
    mine = tmp_path / "mine"
    mine.mkdir()
    index.save(mine)  # an empty folder may be used
    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_text('{"name": "my web app"}')
    for target in (other, tmp_path / "file"):
        with pytest.raises(IndexFolderError, match="not a secondpass index; remove it"):
            index.save(target)
    with pytest.raises(IndexFolderError, match="is not a BM25 index"):
        BM25.open(other)
    (other / "manifest.json").unlink()
    with pytest.raises(IndexFolderError, match=r"is not a secondpass index \(it has no manifest"):
        BM25.open(other)


def test_a_save_that_fails_leaves_the_old_index(folder: Path, index: BM25) -> None:
    broken = BM25.build([*DOCUMENTS, Document("bad", b"bytes")])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="document 'bad' cannot be saved"):
        broken.save(folder)
    assert BM25.open(folder).retrieve("bees", 5).hits == index.retrieve("bees", 5).hits
    assert [path.name for path in folder.parent.iterdir()] == ["index"]


def test_an_open_index_outlives_its_replacement(folder: Path) -> None:
    opened = BM25.open(folder)
    BM25.build([Document("new", "bees")]).save(folder)
    assert opened.retrieve("bees", 5).ids == ("bees", "bees again")
    assert BM25.open(folder).retrieve("bees", 5).ids == ("new",)


def test_opening_does_not_read_the_collection_into_memory(tmp_path: Path) -> None:
    text = "bee " * 5_000
    BM25.build(Document(str(n), f"{text} {n}x") for n in range(400)).save(tmp_path / "index")
    assert (tmp_path / "index" / "documents.jsonl").stat().st_size > 8_000_000
    BM25.open(tmp_path / "index")  # so that imports are not counted
    tracemalloc.start()
    try:
        opened = BM25.open(tmp_path / "index")
        opened.retrieve("7x", 1)
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
