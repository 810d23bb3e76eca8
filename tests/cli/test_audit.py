"""audit: the same verdict from a pipeline, from two run files, for people and for machines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli.conftest import QRELS, Run

GOOD = {"q1": ["d1", "d3", "d2"], "q2": ["d5", "d17", "d6"], "q3": ["d10", "d9"], "q4": ["d15", "d16"]}
BAD = {query: ids[::-1] for query, ids in GOOD.items()}


def write(path: Path, run: dict[str, list[str]]) -> Path:
    path.write_text(
        "".join(f"{query} Q0 {doc} {rank} {-rank} t\n" for query, ids in run.items() for rank, doc in enumerate(ids, 1))
    )
    return path


@pytest.fixture
def files(tmp_path: Path, beir: Path) -> list[object]:
    baseline, reranked = write(tmp_path / "before.trec", BAD), write(tmp_path / "after.trec", GOOD)
    return ["--baseline", baseline, "--reranked", reranked, "--qrels", beir / "qrels" / "test.tsv"]


def test_two_runs_need_no_model(run: Run, files: list[object]) -> None:
    done = run("audit", *files)
    assert done.code == 0
    assert "WORTH IT" in done.out
    assert "before → after" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    code = f"import sys; from secondpass.cli import main; sys.argv[1:] = {[str(one) for one in ['audit', *files]]!r}\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += "print([m for m in ('onnxruntime', 'openvino', 'tokenizers', 'bm25s') if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"


def test_json_and_html(run: Run, files: list[object], tmp_path: Path) -> None:
    done = run("audit", *files, "--json", "--html", "page.html", "--metric", "mrr@5", "--delta", 0.02, "--depth", 3)
    data = json.loads(done.out)
    assert (data["decision"], data["metric"], data["depth"], data["smallest_effect"]) == ("WORTH IT", "mrr@5", 3, 0.02)
    assert data["reranked"] == 1.0
    assert data["names"] == ["before", "after"]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "WORTH IT" in page
    assert "report written to page.html" in done.err


def test_check_makes_the_exit_code_tell(run: Run, files: list[object]) -> None:
    assert run("audit", *files, "--check").code == 0
    turned = [files[0], files[3], files[2], files[1], *files[4:]]
    assert run("audit", *turned).code == 0
    done = run("audit", *turned, "--check")
    assert done.code == 3
    assert "HARMFUL" in done.out


def test_settings_give_the_budget(run: Run, files: list[object], tmp_path: Path) -> None:
    (tmp_path / "secondpass.toml").write_text('[budget]\np99_ms = 7\ndelta = 0.05\nmetric = "recall@1"\n')
    data = json.loads(run("audit", *files, "--json").out)
    assert (data["budget_ms"], data["smallest_effect"], data["metric"]) == (7.0, 0.05, "recall@1")
    assert json.loads(run("audit", *files, "--json", "--budget-ms", 9).out)["budget_ms"] == 9.0


def test_a_collection_is_run_and_timed(run: Run, beir: Path, index: Path, tiny: Path) -> None:
    data = json.loads(run("audit", "--collection", beir, "--model", tiny, "--depth", 5, "--json").out)
    assert data["queries"] == len(QRELS)
    assert data["depth"] == 5
    assert data["names"] == ["bm25", "model"]
    assert data["added_latency"]["queries"] == data["first_latency"]["queries"] == 4
    assert data["added_latency"]["p99_ms"] > 0
    assert any("without judgments" in note for note in data["notes"])  # the collection's own notes are there
    opened = json.loads(
        run("audit", "--collection", beir, "--index", index, "--model", tiny, "--depth", 5, "--json").out
    )
    for key in ("first", "best", "reranked", "p_value", "outcomes"):
        assert opened[key] == data[key]  # an index on disk is the one built in memory
    few = json.loads(run("audit", "--collection", beir, "--model", tiny, "--queries", 2, "--json").out)
    assert few["queries"] == 2
    assert any("only the first 2 of 4 queries" in note for note in few["notes"])
    assert "bees" in data["outcomes"][0]["query"]


def test_a_collection_s_runs_give_the_same_verdict(
    run: Run, beir: Path, index: Path, tiny: Path, tmp_path: Path
) -> None:
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join((beir / "queries.jsonl").read_text().splitlines(keepends=True)[:4]))
    run("search", index, "--queries", asked, "--run", "a.trec", "--no-rerank", "--top-k", 5)
    run("rerank", "--run", "a.trec", "--collection", beir, "--model", tiny, "--out", "b.trec")
    qrels = beir / "qrels" / "test.tsv"
    arguments = ["--baseline", "a.trec", "--reranked", "b.trec", "--qrels", qrels, "--depth", 5]
    from_files = json.loads(run("audit", *arguments, "--json").out)
    from_pipeline = json.loads(run("audit", "--collection", beir, "--model", tiny, "--depth", 5, "--json").out)
    for key in ("first", "best", "reranked", "interval", "p_value", "decision"):
        assert from_files[key] == from_pipeline[key]


def test_a_pipeline_without_a_stage_cannot_be_audited(run: Run, beir: Path, tmp_path: Path) -> None:
    (tmp_path / "secondpass.toml").write_text(f'stages = []\n[collection]\npath = "{beir}"\n')
    done = run("audit")
    assert done.code == 1
    assert "give the pipeline both" in done.err
    assert "has 0 stages; set the model" in run("audit", "--depth", 3).err
