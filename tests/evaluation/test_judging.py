"""What a judge said is on disk when `add` returns, and nothing that happens afterwards loses it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from secondpass.errors import CollectionError, InputError
from secondpass.evaluation.judging import Judgments, agreement, export_qrels
from secondpass.evaluation.pool import Pool, Pooled, write_pool
from secondpass.evaluation.trec import read_qrels
from secondpass.types import Document

PAIRS = [(f"q{q}", f"d{d}") for q in range(3) for d in range(3)]


def pooled(folder: Path) -> Path:
    queries = tuple(Pooled(f"q{q}", "why", tuple(Document(f"d{d}", "so") for d in range(3))) for q in range(3))
    write_pool(Pool(queries, 9, ("a", "b"), 3, 0), folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return pooled(tmp_path / "pool")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "judgments.jsonl").read_bytes().splitlines()]


steps = st.lists(
    st.tuples(
        st.sampled_from(["grade", "take back", "undo", "note", "crash", "reopen"]),
        st.integers(0, 1),
        st.sampled_from(["ann", "bob"]),
        st.sampled_from(PAIRS[:3]),  # few, so that they meet
        st.integers(0, 3),
    ),
    max_size=14,
)


@settings(max_examples=20, deadline=None)
@given(steps)
@example([("grade", 0, "ann", PAIRS[n], n) for n in (0, 1, 0)] + [("undo", 0, "ann", PAIRS[2], 0)])
@example([("grade", 0, "ann", PAIRS[0], 1), ("grade", 1, "ann", PAIRS[1], 2), ("undo", 0, "ann", PAIRS[0], 0)])
def test_two_screens_at_once_and_crashes_against_a_model(taken: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = pooled(Path(place))
        screens = [Judgments.open(folder), Judgments.open(folder)]
        model: dict[str, dict[Any, int]] = {"ann": {}, "bob": {}}
        notes: dict[Any, str] = {}
        halves: list[bytes] = []
        for what, which, judge, pair, grade in taken:
            screen = screens[which]
            if what == "grade":
                screen.add(*pair, grade, judge)
                model[judge].pop(pair, None)
                model[judge][pair] = grade
            elif what == "take back":
                screen.add(*pair, None, judge)
                model[judge].pop(pair, None)
            elif what == "note":
                screen.add(*pair, None, judge, note=f"n{grade}")
                model[judge].pop(pair, None)
                notes[judge, pair] = f"n{grade}"
            elif what == "undo":
                undone = screen.undo(judge)
                assert (undone is None) == (not model[judge])
                if undone is not None:
                    assert (undone.query_id, undone.doc_id) == model[judge].popitem()[0]
            elif what == "crash":
                half = b'{"query_id":"q0","doc_id":"d' + str(grade).encode()
                with (folder / "judgments.jsonl").open("ab") as stream:
                    stream.write(half)
                screens[1 - which] = Judgments.open(folder)
                halves.append(half)
            else:
                screens[which] = Judgments.open(folder)
        for screen in [Judgments.open(folder), Judgments.open(folder, best=3)]:
            for judge, wanted in model.items():
                assert screen.of_judge(judge) == wanted
                assert list(screen.of_judge(judge)) == list(wanted)  # the latest last
            for (judge, pair), note in notes.items():
                assert screen.note(pair[0], pair[1], judge) == note
            assert screen.judges == tuple(judge for judge, grades in model.items() if grades)
        damaged = folder / "judgments.damaged"
        assert (damaged.read_bytes().splitlines() if damaged.exists() else []) == halves


def test_a_line_cut_anywhere_costs_that_line_alone_and_is_set_aside(tmp_path: Path) -> None:
    whole = pooled(tmp_path / "whole")
    for number, pair in enumerate(PAIRS[:3]):
        Judgments.open(whole).add(*pair, number, "ann", note="wörds")
    written = (whole / "judgments.jsonl").read_bytes()
    last = len(written.splitlines(keepends=True)[-1])
    for cut in [1, 2, 3, *range(4, last, 11), last - 1]:
        folder = pooled(tmp_path / str(cut))
        (folder / "judgments.jsonl").write_bytes(written[: len(written) - cut])
        judgments = Judgments.open(folder)
        kept = 3 if cut == 1 else 2  # only its end is missing: it says all that it said
        assert judgments.of_judge("ann") == dict(zip(PAIRS[:kept], range(kept), strict=True))
        judgments.add(*PAIRS[4], 1, "ann")
        again = Judgments.open(folder)
        assert len(again.of_judge("ann")) == kept + 1
        assert again.notes == []  # said once
        if cut > 1:
            assert (folder / "judgments.damaged").read_bytes() == written[-last:-cut] + b"\n"
            assert judgments.notes[0].endswith("set aside in judgments.damaged; judge that document again")
        else:
            assert judgments.notes == []


_ADDS = """
import sys
from secondpass.evaluation.judging import Judgments
folder, judge = sys.argv[1:]
judgments = Judgments.open(folder)
print("ready", flush=True)
sys.stdin.readline()
for turn in range(40):
    judgments.add(f"q{turn % 3}", f"d{turn % 2}", turn % 4, judge, note="x" * (turn * 50))
"""


def test_processes_do_not_tear_each_other_s_lines(folder: Path) -> None:
    names = ("ann", "bob", "cid")
    started = [
        subprocess.Popen([sys.executable, "-c", _ADDS, folder, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for name in names
    ]
    for one in started:
        assert one.stdout is not None
        assert one.stdout.readline() == b"ready\n"
    for one in started:
        assert one.stdin is not None
        one.stdin.write(b"go\n")
        one.stdin.flush()
    for one in started:
        assert one.wait(30) == 0
        for stream in (one.stdin, one.stdout):
            assert stream is not None
            stream.close()
    written = lines(folder)
    assert len(written) == 120
    for name in names:
        assert [one["grade"] for one in written if one["judge"] == name] == [turn % 4 for turn in range(40)]
        assert len(Judgments.open(folder).of_judge(name)) == 6


def test_it_is_synced_before_add_returns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[int, int]] = []
    real = os.fsync

    def fsync(file: int) -> None:
        real(file)
        synced.append((os.fstat(file).st_ino, os.fstat(file).st_size))

    judgments = Judgments.open(folder)
    monkeypatch.setattr(os, "fsync", fsync)
    for pair in PAIRS[:2]:
        judgments.add(*pair, 1, "ann")
        found = (folder / "judgments.jsonl").stat()
        assert synced[-1] == (found.st_ino, found.st_size)


def test_a_full_disk_leaves_no_half_line_and_is_an_error(folder: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits of a process, which POSIX has")
    judgments = Judgments.open(folder)
    judgments.add(*PAIRS[0], 3, "ann")
    before = (folder / "judgments.jsonl").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))
        with pytest.raises(OSError, match="File too large"):
            judgments.add(*PAIRS[1], 2, "ann")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (folder / "judgments.jsonl").read_bytes() == before
    assert judgments.of_judge("ann") == {PAIRS[0]: 3}
    judgments.add(*PAIRS[1], 2, "ann")
    assert Judgments.open(folder).of_judge("ann") == {PAIRS[0]: 3, PAIRS[1]: 2}


def test_a_line_says_what_was_said(folder: Path) -> None:
    Judgments.open(folder, best=1).add("q1", "d2", 1, "ann", note="so so")
    (line,) = lines(folder)
    at = line.pop("at")
    assert at.endswith("+00:00")
    assert line == {"query_id": "q1", "doc_id": "d2", "grade": 1, "of": 1, "judge": "ann", "note": "so so"}


def test_one_folder_has_one_scale(folder: Path) -> None:
    assert Judgments.open(folder).best == 3
    Judgments.open(folder, best=1).add(*PAIRS[0], 1, "ann")
    assert Judgments.open(folder).best == 1
    with pytest.raises(InputError, match="judged from 0 to 1, not from 0 to 3; one folder has one scale"):
        Judgments.open(folder, best=3)
    with pytest.raises(InputError, match="known scales end at"):
        Judgments.open(folder, best=5)


def test_two_screens_that_begin_at_once_cannot_mix_scales(folder: Path) -> None:
    graded, binary = Judgments.open(folder, best=3), Judgments.open(folder, best=1)
    graded.add(*PAIRS[0], 3, "ann")
    with pytest.raises(InputError, match="one folder has one scale"):
        binary.add(*PAIRS[1], 1, "bob")
    assert len(lines(folder)) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("q9", "d0", 1, "ann"), "not in the pool of query 'q9'"),
        (("q0", "d9", 1, "ann"), "document 'd9' is not in the pool"),
        (("q0", "d0", 4, "ann"), "from 0 to 3"),
        (("q0", "d0", -1, "ann"), "from 0 to 3"),
        (("q0", "d0", True, "ann"), "whole number"),
        (("q0", "d0", 1.0, "ann"), "whole number"),
        (("q0", "d0", 1, "  "), "has no name"),
    ],
)
def test_what_is_no_judgment_is_not_taken(folder: Path, arguments: Any, says: str) -> None:
    judgments = Judgments.open(folder)
    with pytest.raises(InputError, match=says):
        judgments.add(*arguments)
    assert lines(folder) == []


@pytest.mark.parametrize(
    "line", [b"{}", b"not json", b'{"query_id":"q0","doc_id":"d0","grade":9,"of":3,"judge":"a","at":""}']
)
def test_a_broken_line_in_the_middle_is_named(folder: Path, line: bytes) -> None:
    Judgments.open(folder).add(*PAIRS[0], 3, "ann")
    path = folder / "judgments.jsonl"
    path.write_bytes(path.read_bytes() + b"\n" + line + b"\n" + path.read_bytes())
    with pytest.raises(CollectionError, match=r"judgments\.jsonl:3: "):
        Judgments.open(folder)


def test_a_file_that_shrinks_meanwhile_is_not_written_over(folder: Path) -> None:
    judgments = Judgments.open(folder)
    judgments.add(*PAIRS[0], 3, "ann")
    (folder / "judgments.jsonl").write_bytes(b"")
    with pytest.raises(CollectionError, match="became shorter"):
        judgments.add(*PAIRS[1], 3, "ann")


def test_progress_and_the_judgments_that_are_exported(folder: Path, tmp_path: Path) -> None:
    judgments = Judgments.open(folder)
    with pytest.raises(InputError, match="no query is judged completely"):
        judgments.qrels()
    for (query, doc), grade in zip(PAIRS[:5], (0, 1, 2, 3, 0), strict=True):
        judgments.add(query, doc, grade, "ann")
    for (query, doc), grade in zip(PAIRS[1:6], (2, 2, 0, 3, 1), strict=True):
        judgments.add(query, doc, grade, "bob")
    done = judgments.progress(judgments.of_judge("ann"))
    assert (done.judged, done.documents, done.complete, done.queries) == (5, 9, 1, 3)
    notes: list[str] = []
    assert judgments.qrels("ann", notes=notes) == {"q0": {"d0": 0, "d1": 1, "d2": 2}}
    assert notes[0] == "1 query judged only in part left out"
    assert notes[1].startswith("only the first 3 results of a, b were judged")
    assert judgments.qrels() == {"q0": {"d0": 0, "d1": 1, "d2": 2}, "q1": {"d0": 0, "d1": 0, "d2": 1}}
    assert judgments.progress(judgments.settled()).complete == 2
    for name in ("out.tsv", "out.qrels"):
        export_qrels(judgments.qrels(), tmp_path / name)
        assert read_qrels(tmp_path / name) == judgments.qrels()
    assert (tmp_path / "out.tsv").read_text().startswith("query-id\tcorpus-id\tscore\nq0\td0\t0\n")
    assert (tmp_path / "out.qrels").read_text().startswith("q0 0 d0 0\n")


def test_ids_that_a_file_cannot_hold_are_refused(tmp_path: Path) -> None:
    export_qrels({"a b": {"c": 1}}, tmp_path / "out.tsv")
    assert read_qrels(tmp_path / "out.tsv") == {"a b": {"c": 1}}
    for name, bad in (("out.qrels", "a b"), ("out.qrels", ""), ("x.tsv", "a\tb"), ("x.tsv", " a")):
        with pytest.raises(CollectionError, match="does not survive"):
            export_qrels({"q": {bad: 1}}, tmp_path / name)
    assert not (tmp_path / "out.qrels").exists()


def test_agreement_as_published() -> None:
    """The usual example: 20 times both say yes, 15 times both no, 5 and 10 times they differ: κ = .4."""
    grades = [(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15
    first = {("q", str(n)): a for n, (a, _) in enumerate(grades)}
    second = {("q", str(n)): b for n, (_, b) in enumerate(grades)}
    found = agreement(("a", "b"), first, second)
    assert (found.documents, found.same) == (50, 0.7)
    assert found.kappa == pytest.approx(0.4)
    assert found.weighted == pytest.approx(0.4)  # two grades have one distance


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_agreement_against_other_forms_of_it(grades: list[tuple[int, int]]) -> None:
    first = {("q", str(n)): a for n, (a, _) in enumerate(grades)} | {("q", "a"): 3}
    second = {("q", str(n)): b for n, (_, b) in enumerate(grades)} | {("q", "b"): 0}
    found = agreement(("a", "b"), first, second)
    a, b = np.array(grades, float).T
    observed = float(np.mean(a == b))
    expected = sum(float(np.mean(a == grade) * np.mean(b == grade)) for grade in range(4))
    assert found.documents == len(grades)
    assert found.same == pytest.approx(observed)
    if expected == pytest.approx(1.0):
        assert found.kappa is None
        assert found.weighted is None
    else:
        assert found.kappa == pytest.approx((observed - expected) / (1 - expected))
        # with squared distances κ is Lin's concordance correlation (Krippendorff 1970)
        concordance = 2 * np.mean((a - a.mean()) * (b - b.mean())) / (a.var() + b.var() + (a.mean() - b.mean()) ** 2)
        assert found.weighted == pytest.approx(concordance)


def test_agreement_of_judges_in_a_folder(folder: Path) -> None:
    judgments = Judgments.open(folder)
    draw = random.Random(0)
    for judge, (query, doc) in product(("ann", "bob"), PAIRS):
        judgments.add(query, doc, draw.randrange(4), judge)
    judgments.add(*PAIRS[0], 1, "cid")
    judgments.add(*PAIRS[1], 1, "dee")
    found = {one.judges: one for one in judgments.agreements()}
    assert found.keys() == {("ann", "bob"), ("ann", "cid"), ("ann", "dee"), ("bob", "cid"), ("bob", "dee")}
    assert found["ann", "bob"].documents == 9
    assert found["ann", "cid"].documents == 1
