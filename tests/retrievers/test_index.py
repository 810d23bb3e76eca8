"""An index that grows and shrinks: it always answers like one built afresh, to every reader, whoever else writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from secondpass.errors import IndexBusyError, IndexFolderError, InputError
from secondpass.retrievers import documents as documents_module
from secondpass.retrievers import index as index_module
from secondpass.retrievers.bm25 import BM25, Postings
from secondpass.retrievers.index import Index
from secondpass.types import Document

ODD_IDS = ["a/b", "../c", "new\nline", "🐝", "", " ", "\ud800", "x" * 300, "\x00"]


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def texts_of(*texts: str) -> list[Document]:
    """Documents with the ids 0, 1, …"""
    return [Document(str(number), text) for number, text in enumerate(texts)]


def answers(found: BM25, *queries: str) -> list[Any]:
    return [found.retrieve(query, 50).hits for query in queries or QUERIES]


# Any sequence of edits

ids_st = st.sampled_from([*ODD_IDS, *map(str, range(8))])
text_st = st.lists(st.sampled_from(["bee", "ant", "hive", "sun", "The", "x", "Über"]), max_size=6).map(" ".join)
documents_st = st.lists(
    st.builds(Document, ids_st, text_st, st.sampled_from(["", "bee"]), st.just({"page": 1})),
    max_size=7,
    unique_by=lambda document: document.id,
)
QUERIES = ("bee", "ant hive ant", "über the sun", "zzyzx")


class Edits(RuleBasedStateMachine):
    """Edits an index in memory and one in a folder, and keeps in `live` what should be in both."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.kept = (index_module._SEGMENT_SIZE, index_module._MERGE_UP_TO)
        index_module._SEGMENT_SIZE, index_module._MERGE_UP_TO = 3, 9  # so that a few documents are many
        self.copies = 0

    def teardown(self) -> None:
        index_module._SEGMENT_SIZE, index_module._MERGE_UP_TO = self.kept
        shutil.rmtree(self.root)

    @initialize(documents=documents_st.filter(bool), segment_size=st.integers(1, 4))
    def build(self, documents: list[Document], segment_size: int) -> None:
        part = [Postings(language=None)]
        self.live = {document.id: document for document in documents}
        self.memory = BM25(Index.build(documents, part, segment_size=segment_size))
        self.stored = BM25(Index.build(documents, part, folder=self.root / "index", segment_size=segment_size))

    @rule(add=documents_st, replace=documents_st, delete=st.sets(ids_st))
    def update(self, add: list[Document], replace: list[Document], delete: set[str]) -> None:
        add = [document for document in add if document.id not in self.live]
        replace = [document for document in replace if document.id not in {each.id for each in add}]
        gone = [id for id in delete if id in self.live and id not in {each.id for each in replace}]
        for found in (self.memory, self.stored):
            found.index.update(add, replace, gone)
        for id in [*gone, *(document.id for document in replace)]:
            self.live.pop(id, None)
        self.live |= {document.id: document for document in [*add, *replace]}

    @rule()
    def compact(self) -> None:
        for found in (self.memory, self.stored):
            found.index.compact()
            assert len(found.index.snapshot.segments) == min(1, len(self.live))
            assert found.index.snapshot.starts[-1] == len(self.live)

    @rule()
    def open_again(self) -> None:
        before = (self.stored.index.version, self.stored.index.digest)
        self.stored = BM25.open(self.root / "index")
        assert (self.stored.index.version, self.stored.index.digest) == before

    @rule(which=st.sampled_from(["memory", "stored"]))
    def save_a_copy_and_go_on_with_it(self, which: str) -> None:
        self.copies += 1
        getattr(self, which).save(self.root / f"copy{self.copies}")
        self.stored = BM25.open(self.root / f"copy{self.copies}")
        os.replace(self.root / "index", self.root / f"old{self.copies}")
        os.replace(self.root / f"copy{self.copies}", self.root / "index")
        self.stored = BM25.open(self.root / "index")

    @invariant()
    def answers_like_one_built_afresh(self) -> None:
        live = list(self.live.values())
        fresh = BM25.build(live, language=None) if live else None
        for found in (self.memory, self.stored):
            assert len(found) == len(live)
            assert list(found.index) == live
            for id in [*ODD_IDS, *map(str, range(8))]:
                assert found.index.get(id) == self.live.get(id)
                assert (id in found.index) == (id in self.live)
            assert answers(found) == (answers(fresh) if fresh else [() for _ in QUERIES]), "to the last bit, ties too"

    @invariant()
    def no_segment_is_mostly_dead(self) -> None:
        for found in (self.memory, self.stored):
            assert all(4 * each.live >= 3 * len(each.documents) for each in found.index.snapshot.segments)


TestEdits = Edits.TestCase
TestEdits.settings = settings(
    max_examples=40, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_growing_one_by_one_keeps_segments_few_and_rewrites_little(monkeypatch: pytest.MonkeyPatch) -> None:
    built = 0
    merge = Postings.merge

    def counted(self: Postings, pieces: Any) -> Any:
        nonlocal built
        built += sum(int(alive.sum()) for _, alive in pieces)
        return merge(self, pieces)

    monkeypatch.setattr(Postings, "merge", counted)
    index = Index.build([Document("-1", "bee")], [Postings()])
    for number in range(511):
        index.add([Document(str(number), "bee")])
        assert len(index.snapshot.segments) <= 10
    assert built <= 512 * 9, "each document is merged log2(n) times at most"
    assert BM25(index).retrieve("bee", 600).ids == tuple(map(str, range(-1, 511)))


def test_a_large_segment_is_left_alone_until_a_quarter_is_dead(tmp_path: Path) -> None:
    index = Index.build((Document(str(n), f"bee w{n}") for n in range(100)), [Postings()], folder=tmp_path / "index")
    large = index.snapshot.segments[0].documents
    index.add([Document("new", "bee")])
    index.delete(map(str, range(25)))
    assert index.snapshot.segments[0].documents is large
    assert "12" not in index
    index.delete(["25"])
    assert [len(segment.documents) for segment in index.snapshot.segments] == [74, 1]


# What cannot be done


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_an_update_that_cannot_be_done_changes_nothing(where: str, tmp_path: Path) -> None:
    index = Index.build(texts_of("bee", "ant"), [Postings()], folder=tmp_path / "index" if where == "folder" else None)
    before = index.snapshot
    good = Document("good", "bee")
    bad: list[tuple[str, dict[str, Any]]] = [
        ("the id '1' is in the index already; use replace", {"add": [good, Document("1", "x")]}),
        ("the id 'nobody' is not in the index", {"add": [good], "delete": ["0", "nobody"]}),
        ("the id 'x' is given twice", {"add": [Document("x", ""), good, Document("x", "")]}),
        ("the id '0' is given twice", {"replace": [Document("0", "")], "delete": ["0"]}),
        ("the id 'x' is given twice", {"add": [Document("x", "")], "replace": [Document("x", "")]}),
        ("document 1 is str", {"add": [good, "text"]}),
        ("document 0 is Document with id 3", {"replace": [Document(3, "x")]}),  # type: ignore[arg-type]
        ("documents is a Document; give a list", {"add": good}),
        ("the ids to delete are 'id'; give a list", {"delete": "id"}),
        ("the ids to delete are", {"delete": [1]}),
    ]
    if where == "folder":
        bad.append(("document 'b' cannot be saved", {"add": [Document("b", b"bytes")], "delete": ["0"]}))  # type: ignore[arg-type]
    for message, edits in bad:
        with pytest.raises(InputError, match=message):
            index.update(**edits)
        assert index.snapshot is before
    index.update()
    index.compact()
    assert index.snapshot is before, "nothing to do, nothing committed"
    index.update(add=[good], delete=["0"])
    assert [document.id for document in index] == ["1", "good"]
    if where == "folder":
        assert [document.id for document in Index.open(tmp_path / "index")] == ["1", "good"]


def test_an_index_may_become_empty_and_grow_again(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "index"):
        found = BM25(Index.build(texts_of("bee", "ant"), [Postings()], folder=folder))
        found.index.delete(["0", "1"])
        assert (len(found), list(found.index), found.retrieve("bee", 5).hits) == (0, [], ())
        if folder:
            found = BM25.open(folder)
            assert found.retrieve("bee", 5).hits == ()
            found.save(tmp_path / "copy")
            assert len(BM25.open(tmp_path / "copy")) == 0
        found.index.add([Document("0", "bee again")])
        assert found.retrieve("bee", 5).ids == ("0",)


def test_building_in_a_folder_needs_documents_too(tmp_path: Path) -> None:
    for documents in ([], [Document("a", "x"), Document("a", "y")], [Document("a", b"x")]):  # type: ignore[arg-type]
        with pytest.raises(InputError):
            Index.build(documents, [Postings()], folder=tmp_path / "deep" / "index", segment_size=1)
        assert not (tmp_path / "deep" / "index").exists()
    with pytest.raises(InputError, match=r"two documents have the id 'a' \(the second is number 3\)"):
        Index.build([Document(id, "") for id in "abcad"], [Postings()], segment_size=2)
    with pytest.raises(InputError, match="no document has the field 'body'"):
        Index.build(texts_of("bee"), [Postings()], fields=["text", "body"])
    nothing: list[str] = []
    for fields in ("text", nothing):
        with pytest.raises(InputError, match="fields is"):
            Index.build(texts_of("bee"), [Postings()], fields=fields)


def test_ids_whose_hashes_collide_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(documents_module, "_key", lambda identity: bytes(8))
    index = Index.build(texts_of(*"abcdefgh"), [Postings()], folder=tmp_path / "index", segment_size=3)
    index.update(add=[Document("new", "x")], delete=["1"], replace=[Document("5", "other")])
    assert [document.id for document in index] == ["0", "2", "3", "4", "6", "7", "new", "5"]
    assert [index.get(id) is not None for id in ("1", "5", "nobody", "new")] == [False, True, False, True]
    found = index.get("5")
    assert found
    assert found.text == "other"
    with pytest.raises(InputError, match="the id '7' is in the index already"):
        index.add([Document("7", "x")])


def test_progress_counts_on_over_segments(tmp_path: Path) -> None:
    seen: list[int] = []
    documents = (Document(str(n), "bee") for n in range(1000))
    Index.build(documents, [Postings()], folder=tmp_path / "index", segment_size=300, on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1000
    assert max(np.diff(seen)) <= 300


def test_an_index_says_what_and_where_it_is(tmp_path: Path) -> None:
    index = Index.build(texts_of("bee", "ant"), [Postings()])
    assert repr(index) == "Index(2 documents, bm25, version 1, in memory)"
    assert (index.version, index.digest, index.refresh()) == (1, None, False)
    index.save(tmp_path / "index")
    stored = Index.open(tmp_path / "index")
    assert repr(stored) == f"Index(2 documents, bm25, version 1, in {str(tmp_path / 'index')!r})"
    stored.delete(["1"])
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert (stored.version, stored.digest) == (2, manifest["seal"])


# Several writers and readers


def test_writers_in_turn_both_keep_their_edits(tmp_path: Path) -> None:
    one = Index.build(texts_of("bee"), [Postings()], folder=tmp_path / "index")
    other = Index.open(tmp_path / "index")
    for number in range(1, 8):
        (one if number % 2 else other).add([Document(str(number), "bee")])
    with pytest.raises(InputError, match="the id '7' is in the index already"):
        other.add([Document("7", "x")])  # of which `other` knew nothing before
    other.delete(["3"])
    assert (one.refresh(), one.refresh()) == (True, False)
    for index in (one, other, Index.open(tmp_path / "index")):
        assert [document.id for document in index] == ["0", "1", "2", "4", "5", "6", "7"]
        assert index.version == 9
    code = "from secondpass.retrievers.index import Index; import sys; Index.open(sys.argv[1]).delete(['4'])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "index")], check=True)
    one.add([Document("last", "bee")])
    assert "4" not in one
    assert other.refresh()
    assert BM25(other).retrieve("bee", 9).ids == ("0", "1", "2", "5", "6", "7", "last")


def test_an_index_built_anew_with_other_settings_is_noticed(tmp_path: Path) -> None:
    old = Index.build(texts_of("bee"), [Postings()], folder=tmp_path / "index")
    Index.build(texts_of("ant"), [Postings(k1=2.0)], folder=tmp_path / "index")
    for edit in (old.refresh, old.compact):
        with pytest.raises(IndexFolderError, match="built anew with other settings"):
            edit()
    assert [document.text for document in old] == ["bee"]


def test_a_second_writer_is_refused_while_the_first_one_lives(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    index = Index.build(texts_of("bee"), [Postings()], folder=folder)
    code = """if True:
        import sys
        from secondpass.retrievers.bm25 import Postings
        from secondpass.retrievers.index import Index
        from secondpass.types import Document
        def documents():
            yield Document("theirs", "bee")
            yield Document("theirs too", "bee")
            print("writing", flush=True)
            sys.stdin.read()
        Index.build(documents(), [Postings()], folder=sys.argv[1], segment_size=1)
    """
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdin
    assert writer.stdout
    with writer:
        assert writer.stdout.readline() == "writing\n"
        with pytest.raises(IndexBusyError, match="being written by someone else"):
            index.add([Document("x", "")])
        with pytest.raises(IndexBusyError, match="being written by someone else"):
            index.compact()
        with pytest.raises(IndexBusyError, match="being written by someone else"):
            index.save(folder)
        assert BM25.open(folder).retrieve("bee", 5).ids == ("0",), "readers do not care"
        assert len(list((folder / "segments").iterdir())) == 3
        writer.kill()
    index.add([Document("mine", "bee")])
    assert BM25.open(folder).retrieve("bee", 5).ids == ("0", "mine")
    assert len(list((folder / "segments").iterdir())) == len(index.snapshot.segments), "what it left is gone"


READER = """if True:
    import json, sys
    from pathlib import Path
    from secondpass.retrievers.bm25 import BM25
    folder, query = Path(sys.argv[1]), sys.argv[2]
    opened = BM25.open(folder)
    last = False
    print("reading", flush=True)
    while not last:
        last = (folder.parent / "done").exists()
        opened.index.refresh()
        for found in (opened, BM25.open(folder, verify=True)):
            hits = found.retrieve(query, 99).hits
            print(json.dumps([(hit.document.id, hit.document.text, hit.score) for hit in hits]))
"""


def test_every_answer_is_that_of_a_committed_version(tmp_path: Path) -> None:
    """Fifty updates, while threads ask the same index, and a process opens and refreshes its own."""
    folder, query = tmp_path / "index", "bee hive"

    def answer(found: BM25) -> tuple[Any, ...]:
        return tuple((hit.document.id, hit.document.text, hit.score) for hit in found.retrieve(query, 99).hits)

    live = {document.id: document for document in texts_of(*["bee hive", "ant", "bee bee", "hive sun"] * 5)}
    index = Index.build(live.values(), [Postings()], folder=folder)
    versions = [answer(BM25.build(live.values()))]
    updates: list[dict[str, Any]] = []
    for number in range(50):
        gone = list(live)[number % len(live)]
        changed = Document(list(live)[-1], f"bee changed {'hive ' * (number % 5)}")
        added = Document(f"new {number}", "bee " * (number % 7))
        replaced = [changed] if changed.id != gone else []
        updates.append({"add": [added], "replace": replaced, "delete": [gone]})
        for id in (gone, changed.id):
            live.pop(id, None)
        live |= {document.id: document for document in [added, *replaced]}
        versions.append(answer(BM25.build(live.values())))
    place = {version: number for number, version in enumerate(versions)}
    assert len(place) == 51

    process = subprocess.Popen([sys.executable, "-c", READER, str(folder), query], stdout=subprocess.PIPE, text=True)
    shared, stop = BM25(index), threading.Event()
    heard: list[list[Any]] = [[], [], [], []]

    def read(into: list[Any]) -> None:
        while not stop.is_set():
            into.append(answer(shared))
        into.append(answer(shared))

    def listen(into: list[Any], lines: Iterable[str]) -> None:
        for line in lines:  # as they come: a full pipe stops the process
            into.append(tuple(map(tuple, json.loads(line))))

    def caught_up(number: int) -> None:
        """Wait, however busy the machine, until each reader has answered from this version."""
        until = time.monotonic() + 60
        while not all(one and place[one[-1]] == number for one in heard):
            assert time.monotonic() < until, f"a reader never saw version {number}"
            time.sleep(0.001)

    with process:
        assert process.stdout
        assert process.stdout.readline() == "reading\n"
        threads = [threading.Thread(target=read, args=(into,)) for into in heard[:3]]
        threads.append(threading.Thread(target=listen, args=(heard[3], process.stdout)))
        for thread in threads:
            thread.start()
        try:
            for number, edits in enumerate(updates, 1):
                index.update(**edits)
                if number % 10 == 0:
                    caught_up(number)
        finally:
            stop.set()
            (tmp_path / "done").touch()
        for thread in threads:
            thread.join()
    assert process.returncode == 0
    for one in heard:
        seen = [place[each] for each in one]
        assert seen == sorted(seen), "no reader goes back in time"
        assert seen[-1] == 50
        assert {10, 20, 30, 40} <= set(seen)
