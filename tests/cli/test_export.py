"""export: a folder and a table, or a table, exit code 1 and no folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.conftest import QUERIES, TEXTS, Run
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.checkpoint import open_checkpoint


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    lines = [
        {"query": query, "documents": [*TEXTS, {"id": "x", "text": "y", "title": "z"}]} for query in QUERIES.values()
    ]
    (tmp_path / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "requests.jsonl"


def test_what_was_measured_is_printed_and_the_folder_opens(run: Run, tiny: Path, tmp_path: Path) -> None:
    done = run("export", tiny, "out", "--format", "onnx", "--precision", "fp16")
    assert done.code == 0
    told = json.loads((tmp_path / "out" / "parity.json").read_text())
    table = {line.split()[0]: line for line in done.out.splitlines() if not line.startswith(" ")}
    assert f"{told['largest']:.3g} at most" in table["deviation"]
    assert table["allowed"].rstrip().endswith("it holds")
    assert max(map(len, done.out.splitlines())) <= 80
    assert "written to out" in done.err
    scores = CrossEncoder(tmp_path / "out").score("sort a list", ["a file"])
    assert scores.trace.detail["precision"] == "fp16"
    assert open_checkpoint(tmp_path / "out").exported is not None


def test_a_deviation_that_is_too_large_is_exit_code_1_with_the_table(run: Run, tiny: Path, tmp_path: Path) -> None:
    done = run("export", tiny, "out", "--format", "onnx", "--precision", "fp16", "--parity", "1e-9")
    assert done.code == 1
    assert "it does NOT hold" in done.out
    assert "deviates from fp32 by" in done.err
    assert len(done.err.strip().splitlines()) <= 2
    data = run("export", tiny, "out", "--format", "onnx", "--precision", "fp16", "--parity", "1e-9", "--json")
    assert data.code == 1
    told = json.loads(data.out)
    assert told["holds"] is False
    assert told["largest"] > told["tolerance"] == 1e-9
    assert not (tmp_path / "out").exists()


def test_requests_calibrate_int8_and_are_measured(run: Run, tiny: Path, requests: Path) -> None:
    refused = run("export", tiny, "out", "--format", "onnx", "--precision", "int8")
    assert (refused.code, refused.out) == (1, "")
    assert "no int8 scales" in refused.err
    plain = json.loads(run("export", tiny, "plain", "--format", "onnx", "--json").out)
    beside = json.loads(run("export", tiny, "beside", "--format", "onnx", "--pairs", requests, "--json").out)
    assert beside["pairs"] == plain["pairs"] + 10 * len(QUERIES)  # ten texts of a query at most
    arguments = ("--format", "openvino", "--precision", "int8", "--pairs", requests, "--parity", 2, "--json")
    int8 = json.loads(run("export", tiny, "out", *arguments).out)
    assert (int8["precision"], int8["engine"], int8["holds"]) == ("int8", "openvino", True)
    assert int8["largest"] > beside["largest"]
    assert "found on 4 queries" in int8["notes"][0]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--format", "gguf"], 2, "--format"),
        (["--format", "onnx", "--precision", "int4"], 2, "--precision"),
        (["--format", "onnx", "--parity", "-1"], 2, "--parity"),
        (["--format", "onnx", "--pairs", "nowhere.jsonl"], 1, "nowhere.jsonl: cannot be opened"),
        (["--format", "onnx", "--pairs", "empty.jsonl"], 1, "empty.jsonl: has no request"),
        (["--format", "onnx", "--family", "nothing"], 1, "no model family 'nothing'"),
        (["--format", "onnx", "--allow", "all"], 1, "allow is 'all'"),
        ([], 2, "--format"),
    ],
)
def test_mistakes_are_told(run: Run, tiny: Path, tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    done = run("export", tiny, "out", *arguments)
    assert (done.code, done.out) == (code, "")
    assert says in done.err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_taken_is_refused(run: Run, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    done = run("export", tiny, "out", "--format", "onnx")
    assert done.code == 1
    assert "not empty" in done.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
