"""What a job is cut into, without a cluster: shards read alone are the input, in every format it may have."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.conftest import QUERIES, TEXTS, Run
from secondpass.cli.options import configured
from secondpass.cli.requests import read_parquet, read_rankings, read_requests
from secondpass.cli.rerank_on_ray import Asked, Whole, Work, lay_out
from secondpass.config import Config
from secondpass.distributed.cluster import share_of
from secondpass.distributed.shards import Counts, Shard, cut
from secondpass.errors import CollectionError
from secondpass.types import Document, Ranking

SIZES = st.lists(st.integers(0, 5), min_size=1, max_size=12)


def asked(source: Path, *, is_run: bool = False, settings: Config | None = None) -> Asked:
    return Asked(settings or Config(), source, is_run, None, None, False)


def shards_of(one: Asked, folder: Path, most: int) -> tuple[list[Shard], list[list[Ranking]]]:
    """The shards, and what is read of each."""
    whole = Whole(one.source, one.is_run, folder)
    shards = list(cut(whole.places(), whole.end(), most))
    read = whole.reader()
    return shards, [list(read(shard)) for shard in shards]


def check_shards(shards: Sequence[Shard], read: Sequence[Sequence[Ranking]], expected: Sequence[Ranking]) -> None:
    assert [ranking for piece in read for ranking in piece] == list(expected)
    for shard, piece in zip(shards, read, strict=True):
        assert (shard.queries, shard.documents) == (len(piece), sum(map(len, piece)))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=SIZES, most=st.integers(1, 8), blanks=st.integers(0, 3), begins=st.sampled_from(["", "\ufeff"]))
def test_lines_of_json(tmp_path: Path, sizes: list[int], most: int, blanks: int, begins: str) -> None:
    file = tmp_path / "in.jsonl"
    lines = []
    for n, size in enumerate(sizes):
        named = {"query_id": f"é{n}"} if n % 2 else {}
        lines.append(json.dumps({"query": "wörter", "documents": [*TEXTS[:size]], **named}, ensure_ascii=False))
        lines += [""] * (blanks if n % 3 == 0 else 0)
    file.write_text(begins + "\n".join(lines) + ("\n" if blanks else ""), encoding="utf-8")
    with file.open("rb") as stream:
        expected = list(read_requests(stream, file))
    assert len(expected) == len(sizes)
    check_shards(*shards_of(asked(file), tmp_path, most), expected)


def test_a_run_with_its_collection(beir: Path, tmp_path: Path) -> None:
    rows = ["", *(f"{query} Q0 d{1 + (3 * k) % 20} {k} {9 - k} x" for query in QUERIES for k in range(1, 6)), ""]
    file = tmp_path / "in.trec"
    file.write_text("\n".join(rows))
    documents = {f"d{n}": Document(f"d{n}", text) for n, text in enumerate(TEXTS, 1)}
    with file.open("rb") as stream:
        expected = list(read_rankings(stream, file, QUERIES, documents))
    one = asked(file, is_run=True, settings=configured(None, collection=str(beir)))
    lay_out(str(beir), tmp_path)
    for most in (1, 7, 10, 99):
        shards, read = shards_of(one, tmp_path, most)
        assert len(shards) == {1: 4, 7: 4, 10: 2, 99: 1}[most]
        check_shards(shards, read, expected)
    whole = Whole(one.source, one.is_run, tmp_path)
    *_, last = cut(whole.places(), whole.end(), 5)
    file.write_text("\n".join(rows).replace("q4 Q0 d7 ", "q4 Q0 x7 "))  # changed after it was looked at
    line = 1 + next(n for n, row in enumerate(rows) if row.startswith("q4 Q0 d7 "))
    with pytest.raises(CollectionError, match=rf"in\.trec:{line}: the collection has no document 'x7'"):
        list(whole.reader()(last))


def parquet(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
    tables = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    tables.write_table(pyarrow.Table.from_pylist(list(rows)), file, row_group_size=3)
    return file


def requests(count: int) -> list[dict[str, Any]]:
    """Requests of one to four documents, some with a title."""
    found: list[dict[str, Any]] = []
    for n in range(count):
        documents = [
            {"id": f"d{k}", "text": text, "title": "t" if k else None} for k, text in enumerate(TEXTS[: n % 4 + 1])
        ]
        found.append({"query": QUERIES["q2"], "query_id": f"q{n}" if n % 2 else None, "documents": documents})
    return found


def test_rows_of_parquet(tmp_path: Path) -> None:
    rows = requests(10)
    file = parquet(tmp_path / "in.parquet", rows)
    expected = list(read_parquet(file))
    assert [ranking.query_id for ranking in expected[:4]] == ["1", "q1", "3", "q3"]
    assert expected[1].documents[1] == Document("d1", TEXTS[1], "t")
    for most in (1, 4, 99):
        check_shards(*shards_of(asked(file), tmp_path, most), expected)


def test_parquet_is_answered_as_lines_of_json_are(run: Run, tmp_path: Path, tiny: Path) -> None:
    rows = requests(6)
    parquet(tmp_path / "in.parquet", rows)
    lines = [{key: value for key, value in row.items() if value is not None} for row in rows]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run("rerank", "in.parquet", "--model", tiny)
    assert (done.code, done.out) == (0, run("rerank", "in.jsonl", "--model", tiny).out)


def test_what_is_no_parquet_is_told(run: Run, tmp_path: Path, tiny: Path) -> None:
    parquet(tmp_path / "in.parquet", [{"query": "a", "documents": ["b"]}, {"query": "c", "documents": None}])
    told = run("rerank", "in.parquet", "--model", tiny).err
    assert "error: in.parquet:2: no 'query' (text) or no 'documents'" in told
    (tmp_path / "in.parquet").write_text("{}")
    assert "error: in.parquet: cannot be read as Parquet" in run("rerank", "in.parquet", "--model", tiny).err
    assert "error: in2.parquet: cannot be opened" in run("rerank", "in2.parquet", "--model", tiny).err


def test_a_worker_answers_what_one_process_does(run: Run, tmp_path: Path, tiny: Path) -> None:
    rows = [{"query": query, "documents": ["", *TEXTS[:n]]} for n, query in enumerate(QUERIES.values())]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "secondpass.toml").write_text(f'[[stages]]\nmodel = "{tiny}"\nprofile = "exact"\nthreads = 1\n')
    expected = [json.loads(line) for line in run("rerank", "in.jsonl", "--top-k", 3).out.splitlines()]
    one = Asked(configured(None), tmp_path / "in.jsonl", False, None, 3, False)
    answer = Work(one.settings, one, Whole(one.source, one.is_run, tmp_path), str(tmp_path))()
    shards, _ = shards_of(one, tmp_path, 3)
    total, got = Counts(), b""
    for shard in shards:
        counts, lines = answer(shard)
        total, got = total.plus(counts), got + lines
    answers = [json.loads(line) for line in got.splitlines()]
    for there, here in zip(answers, expected, strict=True):
        assert [hit["id"] for hit in there["hits"]] == [hit["id"] for hit in here["hits"]]
        scores = [hit["score"] for hit in here["hits"]]
        assert [hit["score"] for hit in there["hits"]] == pytest.approx(scores, abs=1e-4)
    assert (total.queries, total.statuses) == (4, {"scored": 6, "empty": 4})
    assert list(total.pairs.values()) == [6]
    assert [model.startswith(f"{tiny} ") for model in total.models] == [True]
    assert [engine.endswith("in fp32") for engine in total.engines] == [True]


def test_a_share_of_a_machine() -> None:
    def threads(config: Config) -> list[int | None]:
        tables = [*config.stages, *config.stages[0].rerankers, *config.serve.models]
        return [table.threads for table in tables]

    table = '[[stages]]\nreranker="fused"\n[[stages.rerankers]]\nthreads=3\n[[stages.rerankers]]\nmodel="x"\n'
    made = msgspec.toml.decode(table + '[[serve.models]]\nname="m"\n', type=Config)
    assert threads(made) == [None, 3, None, None]
    assert threads(share_of(made, 2.5)) == [None, 3, 2, 2]
    assert threads(share_of(made, 0.5)) == [None, 3, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--ray"], 2, "needs a file to read and --out FILE"),
        (["in.jsonl", "--ray"], 2, "needs a file to read and --out FILE"),
        (["--ray", "--out", "o"], 2, "needs a file to read and --out FILE"),
        (["--run", "-", "--collection", "c", "--ray", "--out", "o"], 2, "needs a file to read and --out FILE"),
    ],
)
def test_what_cannot_be_shared(run: Run, arguments: list[str], code: int, says: str) -> None:
    done = run("rerank", *arguments)
    assert done.code == code
    assert says in done.err


def test_bad_input_is_told_before_anything_is_reranked(run: Run, tmp_path: Path, tiny: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    (tmp_path / "in.jsonl").write_text('{"query": "a", "documents": ["b"]}\n{"query": 3, "documents": []}\n')
    done = run("rerank", "in.jsonl", "--model", tiny, "--ray", "--out", "o")
    assert (done.code, "in.jsonl:2: no 'query' (text)" in done.err) == (1, True), done.err
    with gzip.open(tmp_path / "in.jsonl.gz", "wb") as stream:
        stream.write(b"{}\n")
    done = run("rerank", "in.jsonl.gz", "--model", tiny, "--ray", "--out", "o2")
    assert (done.code, "a gzip file can only be read from its beginning" in done.err) == (1, True), done.err
    assert not list(tmp_path.glob("o*"))
    (tmp_path / "in.jsonl").write_text('{"query": "a", "documents": ["b"]}\n')
    (tmp_path / "secondpass.toml").write_text('[ray]\naddress = "127.0.0.1:1"\n')
    done = run("rerank", "in.jsonl", "--model", tiny, "--ray", "--out", "o3")
    assert (done.code, "no Ray cluster answers at 127.0.0.1:1 (" in done.err) == (1, True), done.err
