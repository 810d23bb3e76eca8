"""SVMlight files are read as LightGBM reads them, and what cannot be meant is said with its line."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass.errors import CollectionError
from secondpass.training.svmlight import Table, read_svmlight

pytest.importorskip("lightgbm", reason="the extra ltr is not installed")


def file(folder: Path, text: str, sizes: str | None = None) -> Path:
    path = folder / "rows.txt"
    path.write_text(text, encoding="utf-8")
    if sizes is not None:
        (folder / "rows.txt.query").write_text(sizes, encoding="utf-8")
    return path


def dense(table: Table) -> list[list[float]]:
    found: list[list[float]] = table.rows.toarray().tolist()
    return found


def test_queries_by_qid(tmp_path: Path) -> None:
    path = file(tmp_path, "2 qid:a 1:.5 3:-1e3 # doc 7\n\n0 qid:a\n# nothing\n1 qid:b 2:nan\n")
    table, numbers = read_svmlight(path)
    assert numbers == range(1, 4)
    assert table.sizes == (2, 1)
    assert table.grades.tolist() == [2, 0, 1]
    np.testing.assert_equal(dense(table), [[0.5, 0, -1000], [0, 0, 0], [0, np.nan, 0]])
    assert list(table.queries()) == [slice(0, 2), slice(2, 3)]


def test_queries_by_a_file_beside(tmp_path: Path) -> None:
    table, numbers = read_svmlight(file(tmp_path, "2 0:1 5:2\n0 1:3\n1.0\n", "1\n\n2\n"))
    assert (numbers, table.sizes, table.grades.tolist()) == (range(6), (1, 2), [2, 0, 1])
    assert dense(table) == [[1, 0, 0, 0, 0, 2], [0, 3, 0, 0, 0, 0], [0] * 6]


def test_of_another_file_s_features_all_have_a_column_and_no_others_may_come(tmp_path: Path) -> None:
    path = file(tmp_path, "2 2:1\n0 3:2\n", "2\n")
    table, numbers = read_svmlight(path, range(1, 5))
    assert (numbers, dense(table)) == (range(1, 5), [[0, 1, 0, 0], [0, 0, 2, 0]])
    for others in (range(1, 3), range(3, 5)):
        with pytest.raises(CollectionError, match=r"rows.txt:[12]: feature [23] was not learnt from, only those from"):
            read_svmlight(path, others)


def test_a_gzipped_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.gz"
    path.write_bytes(gzip.compress(b"1 qid:1 1:1\n0 qid:1 1:2\n"))
    assert dense(read_svmlight(path)[0]) == [[1], [2]]


rows = st.dictionaries(st.integers(1, 9), st.floats(-1e6, 1e6).map(lambda value: round(value, 3)), max_size=9)


@given(st.lists(st.lists(st.tuples(st.integers(0, 30), rows), min_size=1, max_size=4), min_size=1, max_size=5))
@settings(deadline=None, max_examples=50)
def test_what_is_written_is_read(tmp_path_factory: Any, queries: list[list[tuple[int, dict[int, float]]]]) -> None:
    folder = tmp_path_factory.mktemp("written")
    lines, bare = [], []
    for number, query in enumerate(queries):
        for grade, features in query:
            told = " ".join(f"{name}:{features[name]!r}" for name in sorted(features))
            lines.append(f"{grade} qid:{number} {told}")
            bare.append(f"{grade} {told}")
    table, _ = read_svmlight(file(folder, "\n".join(lines)), range(1, 10))
    assert table.sizes == tuple(map(len, queries))
    flat = [row for query in queries for row in query]
    assert table.grades.tolist() == [grade for grade, _ in flat]
    assert dense(table) == [[features.get(name, 0.0) for name in range(1, 10)] for _, features in flat]
    other = folder / "other"
    other.mkdir()
    again, _ = read_svmlight(file(other, "\n".join(bare), "\n".join(str(len(one)) for one in queries)), range(1, 10))
    assert (dense(again), again.sizes) == (dense(table), table.sizes)


@pytest.mark.parametrize(
    ("text", "sizes", "says"),
    [
        ("", None, "holds no rows"),
        ("1 1:1\n", None, "nothing tells its queries apart; write qid:N"),
        ("1 qid:1 1:1\n0 1:1\n", None, ":2: some lines have a qid and some have none"),
        ("1 1:1\n0 qid:1 1:1\n", "2\n", ":2: some lines have a qid and some have none"),
        ("1 qid:1\n0 qid:2\n0 qid:1\n", None, ":3: query '1' comes back after others"),
        ("1 qid:1 1:1\n", "1\n", "has qid tokens and rows.txt.query beside it"),
        ("1 1:1\n0 1:1\n", "1\n", "its 1 query have 1 rows, and rows.txt has 2"),
        ("1 1:1\n", "one\n", "query:1: 'one' is no number of rows"),
        ("1 1:1\n", "0\n1\n", "query:1: '0' is no number of rows"),
        ("good qid:1 1:1\n", None, ":1: the grade 'good' is no whole number from 0 to 30"),
        ("1 qid:1\n-1 qid:1\n", None, ":2: the grade '-1'"),
        ("31 qid:1\n", None, "grade '31'"),
        ("1.5 qid:1\n", None, "grade '1.5'"),
        ("nan qid:1\n", None, "grade 'nan'"),
        ("inf qid:1\n", None, "grade 'inf'"),
        ("1 qid:1 1\n", None, ":1: '1' is no feature; write number:value"),
        ("1 qid:1 a:1\n", None, "'a:1' is no feature"),
        ("1 qid:1 -1:1\n", None, "'-1:1' is no feature"),
        ("1 qid:1 1:inf\n", None, "'1:inf' is no feature"),
        ("1 qid:1 1:x\n", None, "'1:x' is no feature"),
        ("1 qid:1 9999999:1\n", None, "'9999999:1' is no feature"),
        ("1 qid:1 2:1 1:1\n", None, ":1: feature 1 comes after 2"),
        ("1 qid:1 2:1 2:1\n", None, ":1: feature 2 comes after 2"),
    ],
)
def test_what_cannot_be_meant_is_said(tmp_path: Path, text: str, sizes: str | None, says: str) -> None:
    with pytest.raises(CollectionError) as error:
        read_svmlight(file(tmp_path, text, sizes))
    assert says in str(error.value)
    assert "rows.txt" in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="nowhere: cannot be opened"):
        read_svmlight(tmp_path / "nowhere")
