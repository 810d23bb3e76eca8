"""Collections: what is written reads back the same; what cannot be meant is refused with file and line."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass.errors import CollectionError, MissingExtraError
from secondpass.evaluation.collections import (
    Collection,
    open_collection,
    read_beir,
    read_corpus,
    read_ir_datasets,
    read_queries,
    write_beir,
)
from secondpass.types import Document

CORPUS = """\
{"_id": "d1", "title": "One", "text": "first"}
{"_id": "d2", "text": "second", "url": "u", "metadata": {"n": 2}}
"""
QUERIES = '{"_id": "q1", "text": "which is first?"}\n{"_id": "q2", "text": "which is second?"}\n'
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq2\td2\t1\n"


def folder(path: Path, corpus: str = CORPUS, queries: str = QUERIES, qrels: str = QRELS, split: str = "test") -> Path:
    (path / "qrels").mkdir(parents=True, exist_ok=True)
    (path / "corpus.jsonl").write_text(corpus, encoding="utf-8", newline="")
    (path / "queries.jsonl").write_text(queries, encoding="utf-8", newline="")
    (path / "qrels" / f"{split}.tsv").write_text(qrels, encoding="utf-8", newline="")
    return path


def test_a_beir_folder(tmp_path: Path) -> None:
    found = open_collection(str(folder(tmp_path / "mine")))
    assert found.name == "mine"
    assert found.documents["d1"] == Document("d1", "first", "One")
    assert dict(found.documents["d2"].metadata) == {"url": "u", "n": 2}
    assert found.queries == {"q1": "which is first?", "q2": "which is second?"}
    assert found.qrels == {"q1": {"d1": 2}, "q2": {"d2": 1}}
    assert found.notes == ()


def test_texts_alone_need_no_judgments(tmp_path: Path) -> None:
    path = folder(tmp_path / "mine")
    whole = read_beir(path)
    (path / "qrels" / "test.tsv").unlink()
    for corpus, queries in ((path, path), (path / "corpus.jsonl", str(path / "queries.jsonl"))):
        assert {document.id: document for document in read_corpus(corpus)} == whole.documents
        assert read_queries(queries) == whole.queries
    (path / "queries.jsonl").write_text("\n")
    with pytest.raises(CollectionError, match=r"queries\.jsonl: holds no queries"):
        read_queries(path)
    (path / "queries.jsonl").unlink()
    with pytest.raises(CollectionError, match=r"has no queries\.jsonl"):
        read_queries(path)


def test_a_corpus_is_read_while_it_is_asked_for(tmp_path: Path) -> None:
    documents = read_corpus(folder(tmp_path, CORPUS + "{broken\n"))
    assert [next(documents).id, next(documents).id] == ["d1", "d2"]
    with pytest.raises(CollectionError, match=r"corpus\.jsonl:3: broken JSON"):
        next(documents)


def test_gzip_crlf_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    plain = read_beir(folder(tmp_path / "a" / "same"))
    crlf = folder(
        tmp_path / "b" / "same",
        "\ufeff" + CORPUS.replace("\n", "\r\n"),
        QUERIES.replace("\n", "\r\n") + "\r\n",
        QRELS.replace("\n", "\r\n"),
    )
    assert read_beir(crlf) == plain
    zipped = tmp_path / "c" / "same"
    (zipped / "qrels").mkdir(parents=True)
    for name, text in (("corpus.jsonl", CORPUS), ("queries.jsonl", QUERIES), ("qrels/test.tsv", QRELS)):
        (zipped / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    assert read_beir(zipped) == plain


def test_what_deserves_a_word_is_counted(tmp_path: Path) -> None:
    path = folder(
        tmp_path,
        CORPUS + '{"_id": "d3", "text": "  "}\n',
        QUERIES + '{"_id": "q3", "text": ""}\n{"_id": "q4", "text": "never judged"}\n',
        QRELS + "q1\td1\t2\nq3\tgone\t1\nq3\tlost\t1\nq9\td1\t1\nq2\td1\t0\n",
    )
    found = read_beir(path)
    assert set(found.qrels) == set(found.queries) == {"q1", "q2", "q3"}
    assert found.qrels["q3"] == {"gone": 1, "lost": 1}  # a document that nobody can find still counts as missed
    said = "\n".join(found.notes)
    for words in (
        "1 judgment given more than once",
        "1 query without judgments in split 'test' left out",
        "1 judged query not in queries.jsonl",
        "2 judgments (of 1 query) for documents that the corpus lacks",
        "1 document without any text",
        "1 query without any text",
    ):
        assert words in said
    assert len(found.notes) == 6


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("corpus", CORPUS + "{broken\n", "corpus.jsonl:3: broken JSON"),
        ("corpus", CORPUS + '["a list"]\n', "corpus.jsonl:3: a JSON list"),
        ("corpus", CORPUS + '{"_id": "d3"}\n', "corpus.jsonl:3: no 'text'"),
        ("corpus", '{"id": "d1", "text": "x"}\n', "corpus.jsonl:1: no '_id'"),
        ("corpus", '{"_id": "", "text": "x"}\n', "corpus.jsonl:1: '_id' is empty"),
        ("corpus", '{"_id": "d1", "text": null}\n', "corpus.jsonl:1: 'text' is NoneType"),
        ("corpus", '{"_id": "d1", "text": "x", "title": 3}\n', "corpus.jsonl:1: 'title' is int"),
        ("corpus", CORPUS + CORPUS, "corpus.jsonl:3: document id 'd1' occurs twice"),
        ("corpus", '{"_id": "d1", "text": "x", "a": 1, "metadata": {"a": 2}}\n', "corpus.jsonl:1: 'a' stands both"),
        ("corpus", "", "holds no documents"),
        ("queries", QUERIES + '{"_id": "q1", "text": "again"}\n', "queries.jsonl:3: query id 'q1' occurs twice"),
        ("queries", QUERIES + "\n\nnot json\n", "queries.jsonl:5: broken JSON"),
        ("queries", '{"_id": "other", "text": "x"}\n', "do not belong together"),
        ("qrels", QRELS + "q1\td2\n", "test.tsv:4: 1 column, expected 3|test.tsv:4: 2 columns, expected 3"),
        ("qrels", QRELS + "q1\td2\t1.5\n", "test.tsv:4: grade '1.5' is not a whole number"),
        ("qrels", QRELS + "q1\td2\t\n", "test.tsv:4: grade '' is not a whole number"),
        ("qrels", QRELS + "q1\t\t1\n", "test.tsv:4: an empty id"),
        ("qrels", QRELS + "q1\td1\t0\n", "test.tsv:4: .*'q1'.*'d1' has grade 0 here and 2 above"),
        ("qrels", "query-id\tcorpus-id\tscore\n", "holds no judgments"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_file_and_line(tmp_path: Path, name: str, text: str, says: str) -> None:
    with pytest.raises(CollectionError, match=says):
        read_beir(folder(tmp_path, **{name: text}))


def test_missing_and_doubled_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="no such folder"):
        open_collection(tmp_path / "nowhere")
    path = folder(tmp_path)
    with pytest.raises(CollectionError, match=r"no dev\.tsv; splits there: test"):
        read_beir(path, "dev")
    (path / "corpus.jsonl.gz").write_bytes(gzip.compress(CORPUS.encode()))
    with pytest.raises(CollectionError, match="both"):
        read_beir(path)
    (path / "corpus.jsonl.gz").unlink()
    (path / "corpus.jsonl").unlink()
    with pytest.raises(CollectionError, match=r"has no corpus\.jsonl"):
        read_beir(path)


def test_damaged_bytes_are_refused_with_file_and_line(tmp_path: Path) -> None:
    path = folder(tmp_path)
    (path / "corpus.jsonl").write_bytes(CORPUS.encode() + b'{"_id": "d3", "text": "\xff"}\n')
    with pytest.raises(CollectionError, match=r"corpus\.jsonl:3: not UTF-8"):
        read_beir(path)
    (path / "corpus.jsonl").write_bytes(gzip.compress(CORPUS.encode())[:-12])
    with pytest.raises(CollectionError, match="broken gzip"):
        read_beir(path)


names = st.text(st.characters(codec="utf-8", exclude_categories=["Zs", "Zl", "Zp", "Cc", "Cs"]), min_size=1, max_size=6)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
plain_json = st.one_of(st.integers(-(2**53), 2**53), texts, st.booleans(), st.none(), st.lists(st.integers(0, 9)))


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(names, st.tuples(texts, texts, st.dictionaries(texts, plain_json, max_size=3)), min_size=1),
    st.dictionaries(names, st.tuples(texts, st.dictionaries(names, st.integers(-3, 5), min_size=1)), min_size=1),
)
def test_what_is_written_reads_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, documents: Any, judged: Any
) -> None:
    path = tmp_path_factory.mktemp("written")
    collection = Collection(
        path.name,
        {key: Document(key, text, title, metadata) for key, (text, title, metadata) in documents.items()},
        {key: text for key, (text, _) in judged.items()},
        {key: grades for key, (_, grades) in judged.items()},
    )
    write_beir(collection, path, "dev")
    found = read_beir(path, "dev")
    assert (found.documents, found.queries, found.qrels) == (
        collection.documents,
        collection.queries,
        collection.qrels,
    )


def test_writing_keeps_the_queries_of_other_splits(tmp_path: Path) -> None:
    path = folder(tmp_path, split="train")
    train = read_beir(path, "train")
    test = Collection("x", train.documents, {"q7": "a new one"}, {"q7": {"d1": 1}})
    write_beir(test, path, "test")
    assert read_beir(path, "train").queries == train.queries
    assert read_beir(path, "test").queries == {"q7": "a new one"}
    with pytest.raises(CollectionError, match="another text"):
        write_beir(Collection("x", train.documents, {"q1": "changed"}, {"q1": {"d1": 1}}), path, "test")
    assert read_beir(path, "train").queries == train.queries


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = folder(tmp_path)
    before = read_beir(path)
    documents = {"d1": Document("d1", "new"), "d2": Document("d2", "bad", metadata={"no json": object()})}
    with pytest.raises(TypeError):
        write_beir(Collection("x", documents, before.queries, before.qrels), path)
    assert read_beir(path) == before
    assert sorted(p.name for p in path.iterdir()) == ["corpus.jsonl", "qrels", "queries.jsonl"]


def test_ids_that_a_tsv_cannot_hold_are_refused(tmp_path: Path) -> None:
    for bad in ("a\tb", " a", ""):
        with pytest.raises(CollectionError, match="does not survive"):
            write_beir(Collection("x", {"d": Document("d", "t")}, {bad: "?"}, {bad: {"d": 1}}), tmp_path)


def test_ir_datasets_reads_as_a_folder_does(tmp_path: Path) -> None:
    ir_datasets = pytest.importorskip("ir_datasets", reason="needs the extra 'datasets'")
    from ir_datasets.datasets.base import Dataset
    from ir_datasets.formats import JsonlDocs, TrecQrels, TsvQueries
    from ir_datasets.util import LocalDownload

    class Row(NamedTuple):
        doc_id: str
        title: str
        text: str
        url: str

    (tmp_path / "docs.jsonl").write_text(
        "".join(json.dumps({"doc_id": i, "title": "T", "text": i, "url": "u"}) + "\n" for i in ("d1", "d2"))
    )
    (tmp_path / "queries.tsv").write_text("q1\tfirst?\nq2\tnot judged\n")
    (tmp_path / "qrels").write_text("q1 0 d1 2\nq1 0 gone 1\n")
    dataset = Dataset(
        JsonlDocs(LocalDownload(tmp_path / "docs.jsonl"), doc_cls=Row, mapping={k: k for k in Row._fields}),
        TsvQueries(LocalDownload(tmp_path / "queries.tsv")),
        TrecQrels(LocalDownload(tmp_path / "qrels"), {}),
    )
    ir_datasets.registry.register("secondpass-test", dataset)
    found = open_collection("ir_datasets:secondpass-test")
    assert (found.documents["d1"].title, dict(found.documents["d1"].metadata)) == ("T", {"url": "u"})
    assert found.queries == {"q1": "first?"}
    assert found.qrels == {"q1": {"d1": 2, "gone": 1}}
    assert len(found.notes) == 2
    with pytest.raises(CollectionError, match="knows no such name"):
        read_ir_datasets("secondpass-nothing")


def test_without_the_extra_ir_datasets_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)  # what Python itself does for a module that must not import
    with pytest.raises(MissingExtraError, match=r"secondpass\[datasets\]"):
        open_collection("ir_datasets:beir/scifact/test")
