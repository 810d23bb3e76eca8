"""rerank: a stream of any length, in order, in bounded memory, and on again after a kill."""

from __future__ import annotations

import gc
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.conftest import QUERIES, TEXTS, Done, Run
from secondpass.cascade import Cascade, Stage
from secondpass.cli.requests import read_rankings, read_requests
from secondpass.cli.rerank import rerank_stream
from secondpass.evaluation.trec import read_run
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.testing import OverlapReranker
from secondpass.types import Document, Ranking


def request_line(number: int, *, query_id: str | None = None) -> str:
    texts = [TEXTS[(number + step) % len(TEXTS)] for step in range(3)]
    row: dict[str, object] = {"query": list(QUERIES.values())[number % 4], "documents": texts}
    return json.dumps({**row, "query_id": query_id} if query_id else row) + "\n"


def steady(folder: Path, model: Path) -> Path:
    """Settings under which the same request gets the same bytes."""
    path = folder / "steady.toml"
    path.write_text(f'[[stages]]\nmodel = "{model}"\nprofile = "exact"\nengine = "onnxruntime"\nthreads = 1\n')
    return path


def test_requests_in_answers_out(run: Run, tmp_path: Path, tiny: Path) -> None:
    documents = ["bees", {"id": "b", "text": "the river bank", "title": "banks"}, "", {"text": 7, "_id": 9}]
    rows = [{"query": "river bank", "documents": documents, "query_id": 5}, {"query": "x", "documents": []}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    done = run("rerank", "in.jsonl", "--model", tiny)
    assert done.code == 0
    first, second = map(json.loads, done.out.splitlines())
    assert first.keys() == {"query_id", "hits"}
    assert (first["query_id"], second) == ("5", {"query_id": "3", "hits": []})
    assert [hit["status"] for hit in first["hits"]] == ["scored", "scored", "empty", "not_text"]
    texts = ["bees", "banks the river bank"]
    scores = CrossEncoder(tiny, cache_dir=tmp_path / "c").score("river bank", texts).values
    assert {hit["id"]: hit["score"] for hit in first["hits"][:2]} == pytest.approx(dict(zip("0b", scores, strict=True)))
    assert {hit["id"]: hit["first_rank"] for hit in first["hits"]} == {"0": 1, "b": 2, "2": 3, "9": 4}
    traced = json.loads(run("rerank", "in.jsonl", "--model", tiny, "--trace", "--top-k", 1).out.splitlines()[0])
    assert len(traced["hits"]) == 1
    assert traced["trace"][0]["pairs_scored"] == 2
    late = json.loads(run("rerank", "in.jsonl", "--model", tiny, "--deadline-ms", 0).out.splitlines()[0])
    assert [hit["first_rank"] for hit in late["hits"]] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"query": "q", "docs": []}', "unknown key 'docs'"),
        ('{"query": "q"}', "no 'documents' (a list)"),
        ('{"query": 3, "documents": []}', "no 'query' (text)"),
        ('{"query": "q", "documents": "text"}', "no 'documents' (a list)"),
        ('{"query": "q", "documents": [{"id": "a"}]}', "document 0 is a mapping without 'text'"),
        ('{"query": "q", "documents": [], "query_id": 1.5}', "query_id is a float"),
        ('{"query": "q", "documents": [', "broken JSON"),
    ],
)
def test_a_bad_request_names_its_line_and_what_came_before_is_out(
    run: Run, tmp_path: Path, tiny: Path, line: str, says: str
) -> None:
    (tmp_path / "in.jsonl").write_text(request_line(0) + line + "\n")
    done = run("rerank", "in.jsonl", "--model", tiny)
    assert done.code == 1
    assert "error: in.jsonl:2: " in done.err
    assert says in done.err
    assert len(done.out.splitlines()) == 1


def test_stdin_is_the_default(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(request_line(0).encode())))
    assert len(json.loads(run("rerank", "--model", tiny).out)["hits"]) == 3


def test_a_run_comes_back_as_a_run(run: Run, index: Path, beir: Path, tmp_path: Path, tiny: Path) -> None:
    run("search", index, "--queries", beir, "--run", "bm25.trec", "--no-rerank")
    before = read_run(tmp_path / "bm25.trec")
    done = run("rerank", "--run", "bm25.trec", "--collection", beir, "--model", tiny, "--depth", 3, "--out", "out.trec")
    assert (done.code, done.out) == (0, "")
    after = read_run(tmp_path / "out.trec")
    assert list(after) == list(before)  # the order of the queries is kept
    for query, hits in before.items():
        ids, old = [doc for doc, _ in after[query]], [doc for doc, _ in hits]
        assert sorted(ids[:3]) == sorted(old[:3])
        assert ids[3:] == old[3:]
    assert any(after[query][0][0] != before[query][0][0] for query in before)
    cut = run("rerank", "--run", "bm25.trec", "--collection", beir, "--model", tiny, "--top-k", 1).out
    assert len(cut.splitlines()) == len(before)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            ["q1 Q0 d1 1 2.0 x", "q2 Q0 d5 1 2.0 x", "q1 Q0 d2 2 1.0 x"],
            "run.trec:3: query 'q1' comes back after others",
        ),
        (["q1 Q0 d1 1 2.0 x", "q1 Q0 d1 2 1.0 x"], "run.trec:2: document 'd1' occurs twice"),
        (["q1 Q0 d1 1 2.0 x", "q1 Q0 nothing 2 1.0 x"], "run.trec:2: the collection has no document 'nothing'"),
        (["", "q9 Q0 d1 1 2.0 x"], "run.trec:2: the collection has no query 'q9'"),
        (["q1 Q0 d1 1 2.0"], "run.trec:1: 5 columns, expected 6"),
        (["q1 Q0 d1 1 high x"], "run.trec:1: score 'high' is not a number"),
        (["q1 Q0 d1 1 nan x"], "run.trec:1: score 'nan' is not a number"),
    ],
)
def test_a_bad_run_names_its_line(
    run: Run, beir: Path, tmp_path: Path, tiny: Path, lines: list[str], says: str
) -> None:
    (tmp_path / "run.trec").write_text("\n".join(lines) + "\n")
    done = run("rerank", "--run", "run.trec", "--collection", beir, "--model", tiny)
    assert done.code == 1
    assert says in done.err


def test_a_run_s_order_is_trec_eval_s() -> None:
    documents = {name: Document(name, name) for name in "abc"}
    lines = [b"q 0 a 1 1.0 x\n", b"q 0 b 2 2.0 x\n", b"q 0 c 3 1.0 x\n"]
    (ranking,) = read_rankings(lines, "run", {"q": "text"}, documents)
    assert ranking.ids == ("b", "c", "a")
    assert [(hit.first_rank, hit.first_score) for hit in ranking.hits] == [(1, 2.0), (2, 1.0), (3, 1.0)]


@pytest.mark.parametrize("trec", [False, True])
def test_memory_does_not_grow_with_the_stream(trec: bool) -> None:
    produced = 0

    def lines() -> Iterator[bytes]:
        nonlocal produced
        for number in range(5000):
            produced += 1
            yield f"q{number} 0 a 1 1.0 x\n".encode() if trec else request_line(number).encode()

    class AnyQuery(dict[str, str]):
        def __contains__(self, key: object) -> bool:
            return True

        def __missing__(self, key: str) -> str:
            return "bees"

    cascade = Cascade(None, Stage(OverlapReranker()))
    requests: Iterator[Ranking]
    if trec:
        requests = read_rankings(lines(), "run", AnyQuery(), {"a": Document("a", "bees")})
    else:
        requests = read_requests(lines(), "stream")
    for answered, _ in enumerate(rerank_stream(cascade, requests, None, None), 1):
        assert produced <= answered + 1  # in a run, the next query's first line ends this one
        if answered % 1000 == 0:
            gc.collect()
            assert sum(type(one) is Ranking for one in gc.get_objects()) < 50
    assert answered == 5000


def start(folder: Path, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "secondpass", "rerank", *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stderr=subprocess.PIPE)


def kill_after(process: subprocess.Popen[bytes], given: bytes, out: Path, lines: int) -> None:
    """Hand over `given`, wait until so many lines are answered, and kill without a warning."""
    assert process.stdin is not None
    process.stdin.write(given)
    process.stdin.flush()  # and leave it open: there is more to come, as far as the process knows
    until = time.monotonic() + 60
    while time.monotonic() < until and (not out.exists() or out.read_bytes().count(b"\n") < lines):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_requests_go_on_after_a_kill(run: Run, tmp_path: Path, tiny: Path) -> None:
    lines = [request_line(number, query_id=f"r{number}") for number in range(40)]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    settings, out = steady(tmp_path, tiny), tmp_path / "out.jsonl"
    whole = run("rerank", "in.jsonl", "--config", settings).out
    process = start(tmp_path, "-", "--config", settings, "--out", out)
    kill_after(process, "".join(lines[:25]).encode(), out, 25)
    assert out.read_text() == "".join(whole.splitlines(keepends=True)[:25])  # finished requests survived the kill
    out.write_text(out.read_text()[:-30])  # the last one half-written
    refused = run("rerank", "in.jsonl", "--config", settings, "--out", out)
    assert refused.code == 1
    assert "exists; add --resume" in refused.err
    done = run("rerank", "in.jsonl", "--config", settings, "--out", out, "--resume")
    assert done.code == 0
    assert "24 finished before" in done.err
    assert out.read_text() == whole
    again = run("rerank", "in.jsonl", "--config", settings, "--out", out, "--resume")
    assert "40 finished before" in again.err
    assert out.read_text() == whole


@pytest.mark.parametrize("cut", [0, 1, 17, 60])
def test_a_run_goes_on_after_a_kill(run: Run, beir: Path, index: Path, tmp_path: Path, tiny: Path, cut: int) -> None:
    run("search", index, "--queries", beir, "--run", "bm25.trec", "--no-rerank")
    settings, out = steady(tmp_path, tiny), tmp_path / "out.trec"
    whole = run("rerank", "--run", "bm25.trec", "--collection", beir, "--config", settings).out
    given = "".join(
        line
        for line in (tmp_path / "bm25.trec").read_text().splitlines(keepends=True)
        if line[:2] in ("q1", "q2", "q3")
    )
    finished = sum(line[:2] in ("q1", "q2") for line in given.splitlines())
    process = start(tmp_path, "--run", "-", "--collection", beir, "--config", settings, "--out", out)
    kill_after(process, given.encode(), out, finished)  # q3 may have more lines to come: it is not answered yet
    assert whole.startswith(out.read_text())
    out.write_text(out.read_text()[: len(out.read_text()) - cut])
    done = run("rerank", "--run", "bm25.trec", "--collection", beir, "--config", settings, "--out", out, "--resume")
    assert "1 finished before" in done.err or cut == 60
    assert out.read_text() == whole


@pytest.mark.parametrize("found", ['{"query_id": "other", "hits": []}\n', "words\n", '{"hits": []}\n', "[]\n"])
def test_a_file_of_another_input_is_left_alone(run: Run, tmp_path: Path, tiny: Path, found: str) -> None:
    (tmp_path / "in.jsonl").write_text(request_line(0, query_id="mine"))
    (tmp_path / "out.jsonl").write_text(found + "half")

    def resumed() -> Done:
        return run("rerank", "in.jsonl", "--model", tiny, "--out", "out.jsonl", "--resume")

    done = resumed()
    assert done.code == 1
    assert "give another --out" in done.err
    assert (tmp_path / "out.jsonl").read_text() == found + "half"
