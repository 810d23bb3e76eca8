"""Selectors on the command line: what search and rerank remove, how they say so, and where a guarantee comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.conftest import QRELS, QUERIES, TEXTS, Run
from secondpass.evaluation.trec import read_run
from secondpass.scoring.checkpoint import open_checkpoint
from secondpass.scoring.probability import Calibration, Logistic, write_calibration
from secondpass.selection.risk import read_guarantee
from tiny import tiny_checkpoint

COPY = TEXTS[0].replace(".", "!")


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny cross-encoder with a calibration."""
    made = tiny_checkpoint(tmp_path_factory.mktemp("calibrated") / "model", seed=3)
    write_calibration(open_checkpoint(made), Calibration(Logistic(0.9, -2.0), Logistic(0.8, -1.0, first=1.2)))
    return made


def settings(model: Path, select: str) -> Path:
    """./secondpass.toml with one stage and these selectors."""
    stage = f'[[stages]]\nmodel = "{model}"\nprofile = "exact"\nengine = "onnxruntime"\nthreads = 1\n'
    path = Path("secondpass.toml")
    path.write_text(stage + select, encoding="utf-8")
    return path


def test_search_says_what_was_removed_and_why(run: Run, index: Path, calibrated: Path) -> None:
    settings(calibrated, "[[select]]\nselector = 'mmr'\nmost = 2\n")
    whole = json.loads(run("search", index, QUERIES["q2"], "--no-rerank", "--json").out)
    assert len(whole["hits"]) > 7
    assert [step["name"] for step in whole["trace"]] == ["bm25"]  # the first stage only
    told = json.loads(run("search", index, QUERIES["q2"], "--json").out)
    assert len(told["hits"]) == 2
    removed = told["trace"][-1]["detail"]["removed"]
    assert {hit["id"] for hit in told["hits"]} | removed.keys() == {hit["id"] for hit in whole["hits"]}
    assert set(removed.values()) == {"not among the 2 that were chosen"}
    seen = run("search", index, QUERIES["q2"])
    assert f"mmr removed {next(iter(removed))} (not among the 2 that were chosen), " in seen.err
    assert f", and {len(removed) - 5} more" in seen.err
    assert f"{len(removed)} removed" in seen.err


def test_where_everything_is_removed_it_is_not_said_that_nothing_was_found(
    run: Run, index: Path, calibrated: Path
) -> None:
    settings(calibrated, "[[select]]\nselector = 'threshold'\nprobability = 1.0\n")
    done = run("search", index, "locusts")
    assert (done.code, done.out) == (0, "")
    assert "nothing found" not in done.err
    assert "threshold removed d19 (probability 0." in done.err


def test_an_answer_lacks_what_a_prompt_does_not_need(run: Run, calibrated: Path) -> None:
    rows = [{"query": QUERIES["q1"], "documents": [*TEXTS[:4], COPY]} for _ in range(3)]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings(calibrated, "")
    assert len(json.loads(run("rerank", "in.jsonl").out.splitlines()[0])["hits"]) == 5
    settings(calibrated, "[[select]]\nselector = 'near-duplicates'\n")
    done = run("rerank", "in.jsonl", "--trace")
    answers = list(map(json.loads, done.out.splitlines()))
    assert [len(answer["hits"]) for answer in answers] == [4, 4, 4]
    (removed,) = answers[0]["trace"][-1]["detail"]["removed"]
    assert removed in ("0", "4")
    assert "3 documents removed for prompts: 3 by near-duplicates" in done.err
    one = json.loads(run("rerank", "in.jsonl", "--top-k", 4).out.splitlines()[0])
    assert [hit["id"] for hit in one["hits"]] == [hit["id"] for hit in answers[0]["hits"]]  # cut at last


def test_a_run_keeps_whole_rankings(run: Run, index: Path, beir: Path, calibrated: Path) -> None:
    settings(calibrated, "[[select]]\nselector = 'mmr'\nmost = 1\n")
    done = run("search", index, "--queries", beir, "--run", "out.trec")
    assert "[[select]] removes nothing from it" in done.err
    found = read_run("out.trec")
    assert len(found["q1"]) > 1
    again = run("rerank", "--run", "out.trec", "--collection", beir, "--out", "again.trec")
    assert "[[select]] removes nothing from it" in again.err
    assert {query: len(hits) for query, hits in read_run("again.trec").items()} == {
        query: len(hits) for query, hits in found.items()
    }
    lines = run("search", index, "--queries", beir, "--json")
    assert {len(json.loads(line)["hits"]) for line in lines.out.splitlines()} == {1}
    assert "removed for prompts" in lines.err


# calibrate


def test_a_guarantee_is_found_written_and_kept(run: Run, beir: Path, calibrated: Path) -> None:
    settings(calibrated, "")
    done = run("calibrate", "--collection", beir, "--alpha", 0.5, "--json")
    assert done.code == 0
    held = read_guarantee("guarantee.json")
    assert json.loads(done.out)["threshold"] == held.threshold > 0
    assert (held.alpha, held.queries, held.grade) == (0.5, 4, 1)
    assert held.ranker.digest == open_checkpoint(calibrated).digest
    assert 'selector = "risk-control" and guarantee = "guarantee.json"' in done.err
    settings(calibrated, "[[select]]\nselector = 'risk-control'\nguarantee = 'guarantee.json'\n")
    assert run("index", beir, "--out", "idx").code == 0
    lost, kept, candidates = [], 0, 0
    for query_id, query in QUERIES.items():
        told = json.loads(run("search", "idx", query, "--json", "--top-k", 100).out)
        removed = told["trace"][-1]["detail"]["removed"]
        there = {hit["id"] for hit in told["hits"]} | removed.keys()
        relevant = QRELS[query_id].keys() & there
        lost.append(len(relevant & removed.keys()) / len(relevant))
        kept, candidates = kept + len(told["hits"]), candidates + len(there)
    assert sum(lost) / 4 == pytest.approx(held.risk)
    assert kept / candidates == pytest.approx(held.kept)
    words = run("calibrate", "--collection", beir, "--alpha", 0.5, "--out", "other.json")
    assert f"threshold    {held.threshold:.4g}" in words.out
    assert "4 with a relevant candidate" in words.out
    assert read_guarantee("other.json") == held


def test_too_few_queries_are_said(run: Run, beir: Path, calibrated: Path) -> None:
    settings(calibrated, "")
    done = run("calibrate", "--collection", beir, "--alpha", 0.05, "--queries", 3)
    assert done.code == 0
    assert "3 queries are too few for alpha 0.05: it takes 19. Until then nothing is removed" in done.err
    assert read_guarantee("guarantee.json").threshold == 0
    settings(calibrated, "[[select]]\nselector = 'risk-control'\nguarantee = 'guarantee.json'\n")
    assert run("index", beir, "--out", "idx").code == 0
    told = json.loads(run("search", "idx", QUERIES["q1"], "--json").out)["trace"][-1]["detail"]
    assert (told["removed"], "too few queries" in told["guarantee"]["why"]) == ({}, True)


def test_what_comes_before_the_threshold_is_run_for_it(run: Run, beir: Path, calibrated: Path) -> None:
    """The file of the guarantee need not be there yet; what stands behind it does not count."""
    control = "[[select]]\nselector = 'risk-control'\nguarantee = 'guarantee.json'\n"
    few = "[[select]]\nselector = 'mmr'\nrelevance = 1.0\nmost = 5\n"
    settings(calibrated, "")
    run("calibrate", "--collection", beir, "--alpha", 0.5, "--out", "plain.json")
    settings(calibrated, control + few)
    assert run("calibrate", "--collection", beir, "--alpha", 0.5).code == 0
    assert read_guarantee("guarantee.json") == read_guarantee("plain.json")
    settings(calibrated, few + control)
    assert run("calibrate", "--collection", beir, "--alpha", 0.5).code == 0
    assert read_guarantee("guarantee.json").kept > read_guarantee("plain.json").kept  # the worst are gone before it


def test_another_model_is_refused(run: Run, beir: Path, calibrated: Path, tmp_path: Path) -> None:
    settings(calibrated, "")
    run("calibrate", "--collection", beir, "--alpha", 0.5)
    other = tiny_checkpoint(tmp_path / "other", seed=4)
    write_calibration(open_checkpoint(other), Calibration(Logistic(0.9, -2.0), Logistic(0.8, -1.0, first=1.2)))
    settings(other, "[[select]]\nselector = 'risk-control'\nguarantee = 'guarantee.json'\n")
    assert run("index", beir, "--out", "idx").code == 0
    done = run("search", "idx", QUERIES["q1"])
    assert done.code == 1
    assert "the guarantee was found for" in done.err
    assert "secondpass calibrate` again" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--alpha", "0"], 2, "--alpha"),
        (["--alpha", "1"], 2, "--alpha"),
        (["--grade", "0"], 2, "--grade"),
        (["--grade", "9"], 1, "no query has a candidate of grade 9"),
        (["--split", "dev"], 1, "dev"),
    ],
)
def test_what_cannot_be_calibrated(
    run: Run, beir: Path, calibrated: Path, arguments: list[str], code: int, says: str
) -> None:
    settings(calibrated, "")
    done = run("calibrate", "--collection", beir, *arguments)
    assert (done.code, says in done.err) == (code, True)
    assert not Path("guarantee.json").exists()


def test_a_model_without_a_calibration_gives_no_guarantee(run: Run, beir: Path, tiny: Path) -> None:
    settings(tiny, "")
    done = run("calibrate", "--collection", beir)
    assert done.code == 1
    assert "no candidate has a probability; take a model with a calibration" in " ".join(done.err.split())
