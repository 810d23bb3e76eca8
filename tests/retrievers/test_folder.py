"""An index folder is whole or refused; a kill at any moment leaves the old index or the new one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from killed import killed
from secondpass.errors import IndexFolderError, InputError
from secondpass.retrievers.bm25 import BM25, Postings
from secondpass.retrievers.folder import publish, read_manifest
from secondpass.retrievers.index import Index
from secondpass.types import Document

DOCUMENTS = [
    Document("bees", "Bees find their hive by the sun.", "On bees", {"page": 1, "tags": ["insect", "home"]}),
    Document("ants", "Ants follow trails of scent.", "On ants"),
    Document("rates", "Interest rates rose; the markets did not mind."),
    Document("empty", ""),
    Document("umlaut", "Über Bienen \u2028 und Blüten, ein \ud800 Rest"),
    Document("number", 42),  # type: ignore[arg-type]
    Document("bees again", "Bees find their hive by the sun.", "On bees"),
    *(Document(f"more {number}", f"Trail {number} of ants") for number in range(7)),
]


@pytest.fixture(scope="module")
def index() -> BM25:
    return BM25.build(DOCUMENTS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two segments, one of them with a dead document: every kind of file is there."""
    folder = tmp_path_factory.mktemp("saved") / "index"
    Index.build(DOCUMENTS, [Postings()], folder=folder).update(add=[Document("new", "Bees!")], delete=["number"])
    assert len(list(folder.glob("segments/*/dead-*"))) == 1
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to do damage to."""
    return Path(shutil.copytree(saved, tmp_path / "index"))


def files_of(folder: Path) -> list[Path]:
    """Those that an index is made of."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "write.lock")


def strays(folder: Path) -> set[str]:
    """What lies in a folder and no manifest names, and the other way round."""
    segments = read_manifest(folder)["segments"]
    named = {f"segments/{record['name']}/{name}" for record in segments for name in record["files"]}
    folders = {str(Path(name).parents[n]) for name in named for n in range(len(Path(name).parents) - 1)}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    return there ^ (named | folders | {"segments", "manifest.json", "write.lock"})


# Damage


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_found(saved: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(files_of(saved)))
    whole = path.read_bytes()
    where = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytes([whole[where] ^ data.draw(st.sampled_from([1, 2, 4, 8, 16, 32, 64]))])
    try:
        path.write_bytes(whole[:where] + flipped + whole[where + 1 :])
        with pytest.raises(IndexFolderError, match=re.escape(str(saved))):
            Index.open(saved)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("verify", [True, False])
def test_a_missing_or_truncated_file_is_found(folder: Path, verify: bool) -> None:
    for path in files_of(folder):
        whole = path.read_bytes()
        for damaged in (None, b"", whole[:-2], whole[: len(whole) // 2], whole + b"\n\n{"):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            with pytest.raises(IndexFolderError, match=re.escape(path.name)):
                Index.open(folder, verify=verify)
            path.write_bytes(whole)
    Index.open(folder, verify=verify)


def test_files_of_another_index_are_found(folder: Path, tmp_path: Path) -> None:
    Index.build(DOCUMENTS[::-1], [Postings()], folder=tmp_path / "other")
    (other,) = (tmp_path / "other").glob("segments/*")
    (mine,) = (path.parent for path in folder.glob("segments/*/dead-*"))
    for name in ("documents.jsonl", "places.npy", "bm25/docs.npy"):
        kept = (mine / name).read_bytes()
        shutil.copy(other / name, mine / name)
        with pytest.raises(IndexFolderError, match=re.escape(f"{name} is damaged")):
            Index.open(folder)
        (mine / name).write_bytes(kept)


def test_files_that_do_not_fit_each_other_are_found_without_digests(folder: Path) -> None:
    """Where digests are not read, or were made of wrong files, the shapes still have to fit."""
    (mine,) = (path.parent for path in folder.glob("segments/*/dead-*"))
    (dead,) = mine.glob("dead-*")
    changes: dict[str, NDArray[Any]] = {
        "offsets.npy": np.arange(8, dtype=np.int64),
        "keys.npy": np.zeros(6, np.uint64),
        "places.npy": np.zeros(0, np.int32),
        dead.name: np.array([99], np.int32),
    }
    for name, array in changes.items():
        whole = (mine / name).read_bytes()
        np.save(mine / name, array)
        manifest = read_manifest(folder)
        for record in manifest["segments"]:
            if record["name"] == mine.name:
                record["files"][name]["bytes"] = (mine / name).stat().st_size
        kept = (folder / "manifest.json").read_bytes()
        publish(folder, manifest)
        with pytest.raises(IndexFolderError, match=re.escape(mine.name)):
            Index.open(folder, verify=False)
        (mine / name).write_bytes(whole)
        (folder / "manifest.json").write_bytes(kept)
    Index.open(folder)


def rewrite(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def test_a_newer_format_says_to_upgrade(folder: Path) -> None:
    rewrite(folder, version=3)
    with pytest.raises(IndexFolderError, match=r"has format 3, this secondpass reads up to 2; upgrade"):
        Index.open(folder)


def test_a_part_that_is_not_known_says_to_upgrade(folder: Path) -> None:
    manifest = read_manifest(folder)
    publish(folder, {**manifest, "parts": {**manifest["parts"], "late-interaction": {}}})
    with pytest.raises(IndexFolderError, match="has a part 'late-interaction', which this secondpass does not know"):
        Index.open(folder)


@pytest.mark.parametrize(
    "changes", [{"version": None}, {"parts": {}}, {"segments": []}, {"segments": None}, {"generation": 0}, {"seal": 0}]
)
def test_an_edited_manifest_is_found(folder: Path, changes: dict[str, Any]) -> None:
    rewrite(folder, **changes)
    with pytest.raises(IndexFolderError, match="does not match its own digest"):
        Index.open(folder)


def test_an_index_of_version_1_is_to_be_built_again_and_may_be_replaced(tmp_path: Path, index: BM25) -> None:
    names = ["documents.jsonl", "offsets.npy", "vocab.index.json", "params.index.json", "data.csc.index.npy"]
    for name in [*names, "indices.csc.index.npy", "indptr.csc.index.npy"]:
        (tmp_path / name).write_text("x")
    (tmp_path / "manifest.json").write_text('{"format": "secondpass-bm25", "version": 1}')
    with pytest.raises(IndexFolderError, match="has format 1, this secondpass reads format 2; build the index again"):
        BM25.open(tmp_path)
    index.save(tmp_path)
    assert BM25.open(tmp_path).retrieve("bees", 5).hits == index.retrieve("bees", 5).hits
    assert strays(tmp_path) == set()


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
    notes = tmp_path / "notes"
    (notes / "segments").mkdir(parents=True)
    for target in (other, tmp_path / "file", notes):
        with pytest.raises(IndexFolderError, match="not a secondpass index; remove it"):
            index.save(target)
        with pytest.raises(IndexFolderError, match="not a secondpass index; remove it"):
            Index.build(DOCUMENTS, [Postings()], folder=target)
    assert [path.name for path in other.iterdir()] == ["manifest.json"]
    with pytest.raises(IndexFolderError, match="is not an index of secondpass"):
        BM25.open(other)
    (other / "manifest.json").unlink()
    with pytest.raises(IndexFolderError, match=r"is not a secondpass index \(it has no manifest"):
        BM25.open(other)


def test_a_folder_that_vanished_is_named(folder: Path) -> None:
    opened = Index.open(folder)
    os.rename(folder, folder.with_name("elsewhere"))
    for edit in (opened.refresh, opened.compact, lambda: opened.delete(["bees"])):
        with pytest.raises(IndexFolderError, match=r"index does not exist"):
            edit()
    assert not folder.exists()


# Saving


def test_an_opened_index_can_be_saved_even_over_itself(folder: Path, tmp_path: Path) -> None:
    opened = BM25.open(folder)
    before = opened.retrieve("bees", 5).hits
    opened.save(folder)
    BM25.open(folder).save(tmp_path / "deep" / "copy")
    for there in (folder, tmp_path / "deep" / "copy"):
        assert BM25.open(there).retrieve("bees", 5).hits == before
        assert strays(there) == set()
        assert not list(there.glob("segments/*/dead-*")), "a copy leaves the dead behind"
    assert (BM25.open(folder).index.version, opened.index.version) == (3, 2)
    opened.index.add([Document("more", "bees")])  # it takes over what it saved, and goes on
    assert BM25.open(folder).retrieve("bees", 5).ids[-1] == "more"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "index"], "nothing is left lying about"


def test_a_link_stays_a_link(folder: Path, tmp_path: Path, index: BM25) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    index.save(link)
    assert link.is_symlink()
    assert BM25.open(folder).retrieve("bees", 5).hits == index.retrieve("bees", 5).hits


def test_a_save_that_fails_leaves_the_old_index(folder: Path, tmp_path: Path) -> None:
    before = BM25.open(folder).retrieve("bees", 5).hits
    broken = BM25.build([*DOCUMENTS, Document("bad", b"bytes")])  # type: ignore[arg-type]
    for target in (folder, tmp_path / "new"):
        with pytest.raises(InputError, match="document 'bad' cannot be saved"):
            broken.save(target)
    assert BM25.open(folder).retrieve("bees", 5).hits == before
    assert strays(folder) == set()
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_an_open_index_outlives_its_replacement(folder: Path) -> None:
    opened = BM25.open(folder)
    BM25.build([Document("new", "bees")]).save(folder)
    assert opened.retrieve("bees", 5).ids == ("bees", "bees again", "new")
    assert BM25.open(folder).retrieve("bees", 5).ids == ("new",)
    assert strays(folder) == set()


def test_a_reader_that_a_writer_overtakes_starts_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between reading the manifest and its files, a writer replaces both; twice."""
    from secondpass.retrievers import folder as module

    real, left = module.read_segment, 2

    def overtaken(*args: Any) -> Any:
        nonlocal left
        if left:
            left -= 1
            BM25.build([Document(f"new {left}", "bees")]).save(folder)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, "read_segment", overtaken)
        patch.setattr(Index, "save", _in_another_process)
        opened = BM25.open(folder)
    assert opened.retrieve("bees", 5).ids == ("new 0",)


def _in_another_process(index: Index, folder: Path) -> None:
    code = """if True:
        import sys
        from secondpass.retrievers.bm25 import BM25
        from secondpass.types import Document
        BM25.build([Document(sys.argv[2], sys.argv[3])]).save(sys.argv[1])
    """
    (document,) = index
    subprocess.run([sys.executable, "-c", code, str(folder), document.id, document.text], check=True)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="asks /proc which file a handle is of")
def test_everything_is_on_disk_before_the_manifest_names_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut may take back whatever was not synced, so the order counts."""
    synced: set[Path] = set()
    old: set[Path] = set()
    lost: list[set[Path]] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(handle: int) -> None:
        fsync(handle)
        synced.add(Path(os.readlink(f"/proc/self/fd/{handle}")))

    def watched_replace(source: Path, target: Path) -> None:
        new = {source}
        for record in json.loads(source.read_text())["segments"]:
            home = source.parent / "segments" / record["name"]
            new |= {home / name for name in record["files"]} - old
        old.update(new)
        lost.append({path for path in new | {path.parent for path in new - {source}} if path not in synced})
        replace(source, target)
        synced.discard(target.parent)

    opened = Index.open(folder)
    old.update(folder.rglob("*"))
    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    opened.update(add=[Document(f"x{n}", "bees") for n in range(5)], replace=[Document("y", "ants")], delete=["bees"])
    opened.delete(["ants"])
    assert list(folder.glob("segments/*/dead-*"))
    opened.compact()
    opened.save(tmp_path / "copy")
    Index.build(DOCUMENTS, [Postings()], folder=tmp_path / "built", segment_size=2)
    assert lost == [set()] * 5
    assert {folder, tmp_path / "copy", tmp_path / "built"} <= synced, "and the manifest's new name after it"
    for home in (tmp_path / "copy", tmp_path / "built"):
        assert {home / "segments", tmp_path} <= synced, "and the names of new folders"


# Kills

HARNESS = """
import json, sys
from pathlib import Path

from killed import outcomes
from secondpass.errors import IndexFolderError
from secondpass.retrievers.bm25 import BM25, Postings
from secondpass.retrievers.index import Index
from secondpass.types import Document

scenario, start, work = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
MORE = [Document("x", "bees and ants"), Document("y", "a hive")]

def act(folder):
    if scenario == "update":
        Index.open(folder).update(add=MORE, replace=[Document("ants", "Ants!")], delete=["rates"])
    elif scenario == "delete":
        Index.open(folder).delete(["rates"])
    elif scenario == "compact":
        Index.open(folder).compact()
    elif scenario == "save over":
        BM25.build(MORE).save(folder)
    elif scenario == "save new":
        BM25.build(MORE).save(folder)

def state(folder):
    try:
        found = BM25.open(folder, verify=True)
    except IndexFolderError as error:
        assert "has no manifest" in str(error) or "does not exist" in str(error), error
        return None
    hits = [(hit.document.id, hit.score) for hit in found.retrieve("bees ants hive rates", 99).hits]
    return [[document.id, document.text] for document in found.index], hits, found.index.version

def leftovers(folder):
    segments = json.loads((folder / "manifest.json").read_text())["segments"]
    named = {f"segments/{record['name']}/{name}" for record in segments for name in record["files"]}
    named |= {"manifest.json", "write.lock"}
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    homes = {path.name for path in (folder / "segments").iterdir()}
    return sorted(files ^ named) + sorted(homes ^ {record["name"] for record in segments})

def after(folder, left, new, n):
    if left is None:  # the save that was killed can be done again
        act(folder)
        assert state(folder) == new, n
    else:
        index = Index.open(folder)
        index.add([Document("after", "bees after all")])
        assert [document.id for document in Index.open(folder)] == [id for id, _ in left[0]] + ["after"], n
    assert leftovers(folder) == [], (n, leftovers(folder))

print(json.dumps(outcomes(None if scenario == "save new" else start, work, act, state, after)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
@pytest.mark.parametrize("scenario", ["update", "delete", "compact", "save over", "save new"])
def test_a_kill_at_any_moment_leaves_the_old_index_or_the_new(scenario: str, saved: Path, tmp_path: Path) -> None:
    """A process is killed at its n-th change to a file, for every n; what is left opens, and goes on."""
    seen = killed(HARNESS, scenario, saved, tmp_path)
    assert len(seen) > 15, "the harness saw the files being written"
    assert seen == sorted(seen, key=["old", "new"].index), "once the new index is there, it stays"
    assert {"old", "new"} == set(seen)
