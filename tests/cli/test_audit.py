"""audit: the same verdict from a pipeline, from two run files, for people and for machines."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.conftest import QRELS, QUERIES, Run
from tiny import POSITIONS

FOUR = {"q1": ["d1", "d3", "d2"], "q2": ["d5", "d17", "d6"], "q3": ["d10", "d9"], "q4": ["d15", "d16"]}
TIMES = 10  # four queries are too few for any verdict
GOOD = {f"{query}.{i}": ids for i in range(TIMES) for query, ids in FOUR.items()}
BAD = {query: ids[::-1] for query, ids in GOOD.items()}


def write(path: Path, run: dict[str, list[str]]) -> Path:
    path.write_text(
        "".join(f"{query} Q0 {doc} {rank} {-rank} t\n" for query, ids in run.items() for rank, doc in enumerate(ids, 1))
    )
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[object]:
    baseline, reranked = write(tmp_path / "before.trec", BAD), write(tmp_path / "after.trec", GOOD)
    judgments = tmp_path / "judged.tsv"
    lines = [f"{q}\t{doc}\t{grade}\n" for q in GOOD for doc, grade in QRELS[q.split(".")[0]].items()]
    judgments.write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return ["--baseline", baseline, "--reranked", reranked, "--qrels", judgments]


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


def test_other_first_stages_are_measured_as_controls(run: Run, beir: Path, index: Path, tiny: Path) -> None:
    asked = ["audit", "--collection", beir, "--model", tiny, "--depth", 5, "--json"]
    controls = {one["name"]: one for one in json.loads(run(*asked).out)["controls"]}
    assert controls.keys() == {"dense", "hybrid"}
    assert all(one["mean_ms"] > 0 and "ms a query" in one["cost"] for one in controls.values())
    assert json.loads(run(*asked, "--control", "none").out)["controls"] == []
    (only,) = json.loads(run(*asked, "--control", "hybrid").out)["controls"]
    assert (only["name"], only["value"]) == ("hybrid", controls["hybrid"]["value"])
    # an index on disk has controls for the parts that it holds
    words = json.loads(run(*asked, "--index", index).out)["controls"]
    assert {one["name"] for one in words} <= {"dense", "hybrid"}
    assert run(*asked, "--control", "bm25").code == 2
    assert "no retriever" in run(*asked, "--control", "nonsense").err


def test_controls_and_times_of_run_files(run: Run, files: list[object], tmp_path: Path) -> None:
    other = write(tmp_path / "other.trec", {query: [*ids[1:], ids[0]] for query, ids in GOOD.items()})
    for name, ms in (("baseline", 2), ("reranked", 50), ("other", 3)):
        (tmp_path / f"{name}.tsv").write_text("".join(f"{query}\t{ms}\n" for query in GOOD))
    times = [part for name in ("baseline", "reranked", "other") for part in ("--timings", f"{name}={name}.tsv")]
    data = json.loads(run("audit", *files, "--control", f"other={other}", *times, "--json").out)
    (control,) = data["controls"]
    assert (control["name"], control["mean_ms"], control["affordable"]) == ("other", 3.0, True)
    assert (data["first_latency"]["p50_ms"], data["added_latency"]["p50_ms"]) == (2.0, 50.0)
    assert "'others' is none of baseline" in run("audit", *files, "--timings", "others=other.tsv").err
    assert run("audit", *files, "--control", "other").code == 2


def test_a_sweep_tries_other_values_on_the_same_candidates(run: Run, beir: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "secondpass.toml").write_text(
        "[price]\nmachine_hour = 1.5\nqueries_per_day = 1000\n[[stages]]\ncache = 1_000_000\n"
    )
    asked = ["audit", "--collection", beir, "--model", tiny, "--depth", 5, "--json"]
    data = json.loads(run(*asked, "--sweep", f"max_length=16,{POSITIONS}", "--sweep", "fuse=false,2.0").out)
    lengths, fuse = data["sweeps"]
    assert (lengths["key"], [point["setting"] for point in lengths["points"]]) == ("max_length", ["16", str(POSITIONS)])
    assert [point["setting"] for point in fuse["points"]] == ["false", "2.0"]
    assert lengths["points"][1]["value"] == data["reranked"]  # what the model takes by itself
    for point in lengths["points"]:
        assert point["latency"]["queries"] == 4
        assert point["per_1000"] == pytest.approx(1.5 * point["latency"]["mean_ms"] / 3600)
    assert any(point["on_time_front"] for point in lengths["points"])
    assert any("cache of scores is off" in note for note in data["notes"])
    assert data["cost"]["added_per_month"] == pytest.approx(data["cost"]["added_per_1000"] * 30)
    for wrong, words in (
        ("max_length", "write a key"),
        ("depth=5,10", "every audit has the curve of depths"),
        ("lengths=5", "no key of a stage"),
        ("max_length=long", "max_length=long"),
    ):
        assert words in run(*asked, "--sweep", wrong).err


ORACLE = """
import time
from dataclasses import replace
from pathlib import Path

RELEVANT = set(Path("relevant").read_text().split())


class Oracle:
    def rerank(self, ranking, *, deadline=None):
        time.sleep(0.3 if len(ranking.hits) > 2 else 0.005)  # far from the budget on either side of it
        hits = sorted(ranking.hits, key=lambda hit: hit.document.id not in RELEVANT)
        return replace(ranking, hits=tuple(replace(hit, score=-float(i)) for i, hit in enumerate(hits)))
"""


def test_too_slow_comes_with_a_depth_that_was_measured(
    run: Run, beir: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reranker that knows the answers, found through its entry point, slow for more than two documents."""
    judged = tmp_path / "judged"
    shutil.copytree(beir, judged)
    asked = [{"_id": f"{key}.{i}", "text": text} for i in range(5) for key, text in QUERIES.items()]
    (judged / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    run("search", index, "--queries", judged / "queries.jsonl", "--run", "a.trec", "--no-rerank", "--top-k", 5)
    second = [line.split() for line in (tmp_path / "a.trec").read_text().splitlines() if line.split()[3] == "2"]
    (judged / "qrels" / "test.tsv").write_text("q\td\tgrade\n" + "".join(f"{row[0]}\t{row[2]}\t1\n" for row in second))
    (tmp_path / "relevant").write_text(" ".join(row[2] for row in second))
    (tmp_path / "oracle_of_tests.py").write_text(ORACLE)
    about = tmp_path / "oracle-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: oracle\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[secondpass.rerankers]\noracle = oracle_of_tests:Oracle\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "secondpass.toml").write_text(
        '[budget]\ndepths = [1, 2]\np99_ms = 200\n[[stages]]\nreranker = "oracle"\ndepth = 5\n'
    )
    data = json.loads(run("audit", "--collection", judged, "--metric", "mrr@5", "--control", "none", "--json").out)
    assert (data["decision"], data["reranked"]) == ("TOO SLOW", 1.0)
    assert data["fits"]["measured"] is True
    assert (data["fits"]["depth"], data["fits"]["difference"]) == (2, data["difference"])
    assert 5 <= data["fits"]["p99_ms"] <= 200
    assert "The largest depth that keeps it is 2" in data["reason"]


def test_conditions_fail_a_build(run: Run, files: list[object]) -> None:
    turned = [files[0], files[3], files[2], files[1], *files[4:]]
    assert run("audit", *files, "--fail-if", "ndcg@10 < -0.01").code == 0
    done = run("audit", *turned, "--fail-if", "recall < 0.1", "--fail-if", "ndcg@10 < -0.01")
    assert done.code == 3
    assert "HARMFUL" in done.out
    assert "ndcg@10 < -0.01" in done.err
    assert "failed" in done.err
    unknown = run("audit", *files, "--fail-if", "p99_ms > 80")
    assert (unknown.code, "cannot be checked" in unknown.err) == (1, True)
    assert "not NAME OPERATOR NUMBER" in run("audit", *files, "--fail-if", "ndcg falls").err


def test_fields_and_markdown(run: Run, files: list[object], tmp_path: Path) -> None:
    (tmp_path / "fields.tsv").write_text("query-id\ttenant\nq1.0\ta\nq2.1\tb\nq3.0\ta\n")
    data = json.loads(run("audit", *files, "--fields", "fields.tsv", "--json", "--markdown", "pr.md").out)
    tenants = [one for one in data["segments"] if one["grouping"] == "tenant"]
    assert {one["name"]: one["queries"] for one in tenants} == {"a": 2, "b": 1, "not given": 37}
    assert "WORTH IT" in (tmp_path / "pr.md").read_text(encoding="utf-8")
    (tmp_path / "fields.tsv").write_text("query-id\ttenant\nq1.0\ta\tb\n")
    assert "fields.tsv:2: 3 columns" in run("audit", *files, "--fields", "fields.tsv").err


def test_two_audits_compared(run: Run, files: list[object], tmp_path: Path) -> None:
    turned = [files[0], files[3], files[2], files[1], *files[4:]]
    (tmp_path / "before.json").write_text(run("audit", *files, "--json").out)
    (tmp_path / "after.json").write_text(run("audit", *turned, "--json").out)
    done = run("audit", "diff", "before.json", "after.json", "--markdown", "diff.md")
    assert done.code == 0
    assert "WORTH IT" in done.out
    assert "HARMFUL" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    data = json.loads(run("audit", "diff", "before.json", "after.json", "--json").out)
    assert data["decisions"] == ["WORTH IT", "HARMFUL"]
    assert data["queries"] == 4 * TIMES
    assert (tmp_path / "diff.md").is_file()
    (tmp_path / "broken.json").write_text("{")
    assert "broken.json: not JSON" in run("audit", "diff", "before.json", "broken.json").err


def test_without_judgments_a_sample_is_drawn_judged_and_audited(
    run: Run, beir: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("corpus.jsonl", "queries.jsonl"):
        shutil.copy(beir / name, bare / name)
    asked = ["audit", "--collection", bare, "--model", tiny, "--depth", 10]
    done = run(*asked, "--sample", 3, "--pool", "pool")
    assert done.code == 0
    assert "NO JUDGMENTS, NO VERDICT" in done.out
    assert "What it cannot know" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    assert "secondpass judge pool" in done.err
    lines = [json.loads(line) for line in (tmp_path / "pool" / "pool.jsonl").read_text().splitlines()]
    assert lines[0]["runs"] == ["bm25", "model", "dense", "hybrid"]
    assert len(lines[1:]) == 3
    pairs = sum(len(line["documents"]) for line in lines[1:])
    monkeypatch.setattr("sys.stdin", io.StringIO("2\n" * pairs))
    run("judge", "pool", "--judge", "me")
    assert run("judge", "pool", "--export", "judged.tsv").code == 0
    (bare / "qrels").mkdir()
    shutil.copy("judged.tsv", bare / "qrels" / "test.tsv")
    data = json.loads(run(*asked, "--json").out)
    assert (data["queries"], data["judged_at_10"]) == (3, [1.0, 1.0])  # both were pooled as deep as they are shown
    report = json.loads(run(*asked, "--sample", 3, "--pool", "other", "--control", "none", "--json").out)
    assert (report["queries"], report["names"]) == (3, ["bm25", "model"])
    assert run(*asked, "--sample", 3, "--html", "x.html").code == 2
