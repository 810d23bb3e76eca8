"""Judgments and runs: the order is trec_eval's, and what is written reads back in it."""

from __future__ import annotations

import gzip
import io
import random
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ir_measures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass.errors import CollectionError, InputError
from secondpass.evaluation import lines as lines_module
from secondpass.evaluation.trec import Run, read_qrels, read_run, read_run_by_query, read_timings, write_run


def test_trec_and_beir_judgments_agree(tmp_path: Path) -> None:
    (tmp_path / "trec").write_text("q1 0 d1 2\nq1\t0\td2\t-1\r\n\nq2 Q0 d1 0\n")
    (tmp_path / "beir").write_text("q1\td1\t2\nq1\td2\t-1\nq2\td1\t0\n")  # no header: still clear
    expected = {"q1": {"d1": 2, "d2": -1}, "q2": {"d1": 0}}
    assert read_qrels(tmp_path / "trec") == read_qrels(tmp_path / "beir") == expected
    (tmp_path / "five").write_text("q1 0 d1 2\nq1 0 d2 1 extra\n")
    with pytest.raises(CollectionError, match="five:2: 5 columns, expected 4"):
        read_qrels(tmp_path / "five")


def test_a_run_is_ordered_as_trec_eval_does(tmp_path: Path) -> None:
    text = "q1 Q0 a 1 0.5 t\nq1 Q0 c 2 0.5 t\nq1 Q0 b 3 9 t\nq2 Q0 x 1 1e-3 t\nq2 Q0 y 2 -inf t\n"
    path = tmp_path / "run.txt.gz"
    path.write_bytes(gzip.compress(text.encode()))
    notes: list[str] = []
    run = read_run(path, notes=notes)
    assert [d for d, _ in run["q1"]] == ["b", "c", "a"]
    assert [d for d, _ in run["q2"]] == ["x", "y"]
    assert "1 query with tied scores" in notes[0]
    assert "1 query whose rank column differs" in notes[1]
    assert read_run(io.StringIO(text)) == read_run(io.BytesIO(text.replace("\n", "\r\n").encode())) == run


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("q1 Q0 d2 2 0.1", "5 columns, expected 6"),
        ("q1 Q0 d2 2 nan t", "'nan' is not a number"),
        ("q1 Q0 d2 2 high t", "'high' is not a number"),
        ("q1 Q0 d1 2 0.1 t", "'d1' occurs twice for query 'q1'"),
    ],
)
def test_a_broken_run_is_refused_with_file_and_line(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "run").write_text(f"q1 Q0 d1 1 0.5 t\n{line}\n")
    with pytest.raises(CollectionError, match=f"run:2: .*{says}"):
        read_run(tmp_path / "run")
    with pytest.raises(CollectionError, match="no results"):
        read_run(io.StringIO("\n"))


scores = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, 1.0, 1.0 + 1e-9, 1e300])


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["q1", "q2"]),
        st.lists(st.tuples(st.sampled_from("abcdefgh"), scores), unique_by=lambda r: r[0], min_size=1),
        min_size=1,
    )
)
def test_the_order_survives_every_reader(run: Run) -> None:
    stream = io.StringIO()
    write_run(run, stream, "mine")
    order = {q: [d for d, _ in results] for q, results in run.items()}
    assert {q: [d for d, _ in results] for q, results in read_run(io.StringIO(stream.getvalue())).items()} == order
    # trec_eval itself: with the j-th document as the only relevant one, its reciprocal rank tells its place
    theirs = list(ir_measures.read_trec_run(stream.getvalue()))
    for query_id, ids in order.items():
        for place, doc_id in enumerate(ids, 1):
            [found] = ir_measures.iter_calc([ir_measures.RR], {query_id: {doc_id: 1}}, theirs)
            assert found.value == pytest.approx(1 / place)


def test_scores_that_carry_the_order_are_kept() -> None:
    run = {"q": [("a", 3.25), ("b", -1.125)], "tied": [("a", 1.0), ("b", 1.0)]}
    stream = io.StringIO()
    write_run(run, stream, "mine")
    assert stream.getvalue().splitlines() == [
        "q Q0 a 1 3.25 mine",
        "q Q0 b 2 -1.125 mine",
        "tied Q0 a 1 2 mine",
        "tied Q0 b 2 1 mine",
    ]
    for bad in ({"q 1": [("a", 1.0)]}, {"q": [("a b", 1.0)]}, {"q": [("", 1.0)]}):
        with pytest.raises(CollectionError, match="white space"):
            write_run(bad, io.StringIO(), "mine")
    with pytest.raises(CollectionError, match="tag"):
        write_run(run, io.StringIO(), "two words")


def test_query_by_query_is_the_whole_run(tmp_path: Path) -> None:
    lines = [b"\xef\xbb\xbfq2 Q0 b 1 0.5 t\r\n", b"\n", b"q2 Q0 c 2 0.5 t\n", b"q1 Q0 a 1 2 t\n", b"q1 Q0 b 2 3 t\n"]
    found = list(read_run_by_query(lines, "run"))
    by_query = {rows[0].query_id: [(row.doc_id, row.score) for row in rows] for rows in found}
    whole = read_run(io.BytesIO(b"".join(lines)))
    assert list(by_query.items()) == list(whole.items())
    assert [[row.line for row in rows] for rows in found] == [[3, 1], [5, 4]]


def test_only_query_by_query_must_a_query_s_lines_stand_together() -> None:
    lines = [b"q1 Q0 a 1 2 t\n", b"q2 Q0 b 1 2 t\n", b"q1 Q0 b 2 1 t\n"]
    assert read_run(io.BytesIO(b"".join(lines)))["q1"] == [("a", 2.0), ("b", 1.0)]
    with pytest.raises(CollectionError, match="run:3: query 'q1' comes back after others"):
        list(read_run_by_query(lines, "run"))


@st.composite
def run_files(draw: Any) -> list[str]:
    """Lines of a run, in any order; scores with ties, ids of several bytes, blank lines between."""
    pairs = draw(
        st.lists(st.tuples(st.sampled_from(["q1", "q2", "ä"]), st.sampled_from("abcdeföß語")), unique=True, min_size=1)
    )
    found = [
        f"{q} Q0 {d} {draw(st.integers(0, 9))} {draw(st.sampled_from(['1', '1.5', '-2e0', 'inf', '-inf']))} t"
        for q, d in pairs
    ]
    return [line for one in found for line in ([one, ""] if draw(st.booleans()) else [one])]


@settings(max_examples=100, deadline=None)
@given(run_files(), st.sampled_from([1, 40, 10_000]), st.integers(1, 4))
def test_blocks_and_depth_change_nothing(lines: list[str], size: int, depth: int) -> None:
    data = "\n".join(lines).encode()
    expected: dict[str, list[tuple[str, float]]] = {}
    for query_id, _, doc_id, _, score, _ in (line.split() for line in lines if line):
        expected.setdefault(query_id, []).append((doc_id, float(score)))
    for results in expected.values():
        results.sort(key=lambda pair: (pair[1], pair[0].encode()), reverse=True)
    with pytest.MonkeyPatch.context() as patch:
        # a block is at least as long as the longest line
        patch.setattr(lines_module, "_BLOCK", size + max(len(line.encode()) + 1 for line in lines))
        whole = read_run(io.BytesIO(data))
        assert whole == expected
        assert list(whole) == list(expected)
        cut = read_run(io.BytesIO(data), depth=depth)
    assert cut == {query_id: results[:depth] for query_id, results in expected.items()}


def many(change: Callable[[list[str]], None] = lambda lines: None) -> list[str]:
    """A run of 3 queries × 4,000 documents, more than a block, as lines; line n is at n - 1."""
    lines = [f"q{q} Q0 doc-{d} {d + 1} {9999 - d} t" for q in range(3) for d in range(4_000)]
    change(lines)
    return lines


@pytest.mark.parametrize("depth", [None, 10])
@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("q2 Q0 d 1 0.1", "5 columns, expected 6"),
        ("q2 Q0 d 1 0.1 t t", "7 columns, expected 6"),
        ("q2 Q0 d 0.1 t", "5 columns, expected 6"),  # no rank
        ("q2 Q0 d 1 NaN t", "'NaN' is not a number"),
        ("q2 Q0 d 1 -nan t", "'-nan' is not a number"),
        ("q2 Q0 d 1 1_0 t", "'1_0' is not a number"),  # float() takes it for 10, strtod for 1
        ("q2 Q0 d 1 １ t", "'１' is not a number"),
        ("q2 Q0 d 1 0x1p3 t", "'0x1p3' is not a number"),
        ("q2 Q0 d 1 \0 t", "is not a number"),
        ("q2 Q0 doc-3 1 0.1 t", "'doc-3' occurs twice for query 'q2'"),
        ("q2 Q0 doc-3000 1 99999999 t", "'doc-3000' occurs twice"),  # the first of them is beyond the depth
        ("q2 Q0 d 1 " + 300 * "x" + " t", "x…' is not a number"),
        (3_000 * "q2 ", "3,000 columns"),
    ],
)
def test_far_into_a_file_the_line_is_exact(tmp_path: Path, line: str, says: str, depth: int | None) -> None:
    path = tmp_path / "run"
    path.write_text("\n".join(many(lambda lines: lines.insert(11_999, line))), encoding="utf-8")
    with pytest.raises(CollectionError, match=f"run:12000: .*{says}") as error:
        read_run(path, depth=depth)
    assert len(str(error.value)) < 400 + len(str(path))


def test_lines_that_only_together_have_six_columns_each_are_refused() -> None:
    with pytest.raises(CollectionError, match="<stream>:2: 5 columns"):
        read_run(io.StringIO("q Q0 a 1 3 9\nq Q0 b 2 2\nq Q0 c 3 1 9 9\n"))
    with pytest.raises(CollectionError, match="<stream>:1: 13 columns"):
        read_run(io.StringIO("q Q0 a 1 3 t \0 q Q0 b 2 2 t\nq Q0 c 3 1\n\n"))


def test_a_document_twice_is_found_beyond_the_depth_where_lines_stand_together() -> None:
    lines = many(lambda lines: lines.insert(7_899, "q1 Q0 doc-500 1 0.5 t"))  # 4501 is in another block
    with pytest.raises(CollectionError, match="<stream>:7900: document 'doc-500' occurs twice for query 'q1'"):
        read_run(io.StringIO("\n".join(lines)), depth=5)


def test_lines_may_stand_anywhere() -> None:
    lines = many()
    whole = read_run(io.StringIO("\n".join(lines)))
    random.Random(1).shuffle(lines)
    scattered = io.StringIO("\n".join(lines))
    assert read_run(scattered) == whole
    scattered.seek(0)
    assert read_run(scattered, depth=7) == {query_id: results[:7] for query_id, results in whole.items()}
    with pytest.raises(InputError, match="depth is 0"):
        read_run(io.StringIO(""), depth=0)


@pytest.mark.parametrize("scattered", [False, True])
def test_with_a_depth_memory_does_not_go_by_lines(scattered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "_BLOCK", 4096)  # what is being split counts as well

    def peak(documents: int) -> int:
        lines = [f"q{q} Q0 a-document-{d} {d} {-d} t" for q in range(20) for d in range(documents)]
        if scattered:
            random.Random(1).shuffle(lines)
        stream = io.BytesIO("\n".join(lines).encode())
        tracemalloc.start()
        try:
            read_run(stream, depth=10)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(20), peak(400)
    # one query whose lines stand together is held while it is read: 400 rows of up to 200 bytes
    assert many < few + (40_000 if scattered else 120_000)  # and not 20 × 380 × 100 bytes


def test_columns_are_parted_as_c_does() -> None:
    plain = "q Q0 a 1 2 t\nq Q0 b 2 1 t\n"
    assert read_run(io.StringIO(plain.replace(" ", "\t"))) == read_run(io.StringIO(plain))
    assert read_run(io.StringIO(plain.replace(" ", " \t  ").replace("q", "  q"))) == read_run(io.StringIO(plain))
    # a no-break space is part of an id, here and in trec_eval; so are a group separator and an ideographic space
    for odd in "\xa0\x1d\u3000":
        for lines in (f"q Q0 a{odd}a 1 2 t\n", f"\nq Q0 a{odd}a 1 2 t\n"):
            assert read_run(io.StringIO(lines)) == {"q": [(f"a{odd}a", 2.0)]}


def test_what_deserves_a_word_is_counted() -> None:
    def notes(*scores_and_ranks: str) -> list[str]:
        found: list[str] = []
        rows = [f"q Q0 d{i} {one.split()[1]} {one.split()[0]} t\n" for i, one in enumerate(scores_and_ranks)]
        read_run(io.StringIO("".join(rows)), notes=found)
        return found

    assert notes("3 1", "2 2", "1 3") == notes("3 0", "2 5", "1 60") == []  # gaps and any start are an order
    for ranks in (("3 1", "2 1"), ("3 2", "2 1"), ("3 x", "2 1"), ("3 1.5", "2 2.5"), ("3 " + "9" * 5000, "2 1")):
        [note] = notes(*ranks)
        assert "1 query whose rank column differs" in note
    [note] = notes("1.000000001 1", "1 2")
    assert "1 query with scores so close that trec_eval, in single precision" in note
    for infinite in ("inf", "Infinity", "1e400"):  # strtod overflows to infinity as well
        [note] = notes(f"{infinite} 1", "1e30 2", "-9 3")
        assert "1 query with infinite scores" in note
    tied, _, _ = notes("inf 1", "inf 2")
    assert "1 query with tied scores" in tied


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["inf", "-inf", "2", "1", "1.0", "-1e-3", "1e400"]), min_size=1, max_size=6))
def test_ties_and_infinities_stand_where_trec_eval_puts_them(values: list[str]) -> None:
    text = "".join(f"q Q0 {'bDaé9Z'[i]} {i} {value} t\n" for i, value in enumerate(values))
    theirs = list(ir_measures.read_trec_run(text))
    for place, (doc_id, _) in enumerate(read_run(io.StringIO(text))["q"], 1):
        [found] = ir_measures.iter_calc([ir_measures.RR], {"q": {doc_id: 1}}, theirs)
        assert found.value == pytest.approx(1 / place)


def test_a_query_s_results_are_a_sequence_of_pairs() -> None:
    results = read_run(io.StringIO("q Q0 a 1 2 t\nq Q0 b 2 1 t\nq Q0 c 3 0 t\n"))["q"]
    pairs = [("a", 2.0), ("b", 1.0), ("c", 0.0)]
    assert results == pairs == list(results)
    assert pairs == results  # also from the other side
    assert (results[0], results[-1], results[1:], results[:9]) == (pairs[0], pairs[-1], pairs[1:], pairs)
    assert (len(results), list(reversed(results))) == (3, pairs[::-1])
    assert results != pairs[:2]
    assert repr(pairs) in repr(results)


def test_the_encoding_is_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "run"
    text = "\n".join(many())
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert read_run(path) == read_run(io.StringIO(text))
    for bad in ("q2 Q0 \xe4 1 1 t", "\xe4 Q0 d 1 1 t", "q2 Q0 d 1 1 \xe4"):  # also in a column that nobody reads
        path.write_bytes("\n".join(many(lambda lines: lines.insert(9_000, bad))).encode("latin-1"))  # noqa: B023
        with pytest.raises(CollectionError, match="run:9001: not UTF-8"):
            read_run(path)
    with pytest.raises(CollectionError, match="<stream>:1: not UTF-8"):
        read_run(io.StringIO("q Q0 \udcff 1 1 t\n"))
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(CollectionError, match="run:1: not UTF-8"):
        read_run(path)


def test_a_broken_gzip_names_the_line_where_it_breaks(tmp_path: Path) -> None:
    path = tmp_path / "run.gz"
    lines = many()
    whole = gzip.compress("\n".join(lines).encode())
    path.write_bytes(whole)
    assert read_run(path) == read_run(io.StringIO("\n".join(lines)))
    for broken in (whole[:-4], whole[: len(whole) // 2], whole[:30]):
        path.write_bytes(broken)
        had = 0
        with gzip.open(path) as stream, suppress(EOFError):
            while stream.readline():
                had += 1
        with pytest.raises(CollectionError, match=r"run\.gz:\d+: broken gzip") as error:
            read_run(path)
        line = int(str(error.value).split("run.gz:")[1].split(":")[0])
        assert line in (had, had + 1)  # the last may have been cut
    path.write_bytes(whole[:-8] + bytes(8))  # a wrong checksum
    with pytest.raises(CollectionError, match=r"run\.gz:12000: broken gzip"):
        read_run(path)


def test_a_file_without_an_end_of_line_is_not_swallowed_whole(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"q Q0 a 1 1 t\n" + 500_000 * b"x")
    with pytest.raises(CollectionError, match=r"blob:2: a line of more than 128 KiB"):
        read_run(path)


def test_a_broken_judgment_is_refused_with_file_and_line(tmp_path: Path) -> None:
    for line, says in {
        "q 0 d high": "'high' is not a whole number",
        "q 0 d 1.5": "'1.5' is not a whole number",
        "q 0 d 1_0": "'1_0' is not a whole number",
        "q 0 d " + 9_999 * "9": "9…' is not a whole number",
        "q 0 d": "3 columns, expected 4",
        "q 0 a 2": "grade 2 here and 1 above",
    }.items():
        (tmp_path / "qrels").write_text(f"q 0 a 1\n{line}\n")
        with pytest.raises(CollectionError, match=f"qrels:2: .*{says}") as error:
            read_qrels(tmp_path / "qrels")
        assert len(str(error.value)) < 400 + len(str(tmp_path))
    notes: list[str] = []
    (tmp_path / "qrels").write_text("q 0 a 1\nq 0 a 1\n")
    assert read_qrels(tmp_path / "qrels", notes=notes) == {"q": {"a": 1}}
    assert "1 judgment given more than once" in notes[0]
    for empty in ("", "\n \n", "query-id\tcorpus-id\tscore\n"):
        (tmp_path / "qrels").write_text(empty)
        with pytest.raises(CollectionError, match="holds no judgments"):
            read_qrels(tmp_path / "qrels")


def test_timings_are_milliseconds_in_the_file_and_seconds_after(tmp_path: Path) -> None:
    path = tmp_path / "ms"
    for data in (
        b"q1\t12.5\nq2\t0\n",
        b"query-id ms\nq1 12.5\n\nq2   0\n",
        b"\xef\xbb\xbfquery-id\tms\r\nq1\t12.5\r\nq2\t0",
        gzip.compress(b"q1 1.25e1\nq2 0.0\n"),
    ):
        path.write_bytes(data)
        assert read_timings(path) == {"q1": 0.0125, "q2": 0.0}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("q1 1\nq2 fast\n", "ms:2: time 'fast' is not a number of milliseconds"),
        ("q1 1\nq2 -1\n", "ms:2: time '-1'"),
        ("q1 1\nq2 nan\n", "ms:2: time 'nan'"),
        ("q1 1\nq2 inf\n", "ms:2: time 'inf'"),
        ("q1 1\nq2 1_0\n", "ms:2: time '1_0'"),
        ("q1 1\nquery-id ms\n", "ms:2: time 'ms'"),
        ("query-id ms\nquery-id ms\n", "ms:2: time 'ms'"),
        ("q1 1\n\nq1 1\n", "ms:3: query 'q1' occurs twice"),
        ("q1 1\nq2 1 s\n", "ms:2: 3 columns, expected 2"),
        ("q1 1\nq2\n", "ms:2: 1 column, expected 2"),
        ("", "ms: holds no timings"),
        ("query-id ms\n", "ms: holds no timings"),
    ],
)
def test_a_broken_timing_is_refused_with_file_and_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "ms").write_text(text)
    with pytest.raises(CollectionError, match=says):
        read_timings(tmp_path / "ms")
