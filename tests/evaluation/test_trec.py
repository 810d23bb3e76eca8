"""Judgments and runs: the order is trec_eval's, and what is written reads back in it."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import ir_measures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass.errors import CollectionError
from secondpass.evaluation.trec import Run, read_qrels, read_run, read_run_by_query, write_run


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
