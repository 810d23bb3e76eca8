"""The licence of what reranks stands in every audit and leaderboard that ran it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.conftest import Run
from secondpass.cli.measured import Measured, licences
from secondpass.types import Ranking, StageTrace, as_ranking
from tiny import tiny_checkpoint


@pytest.fixture
def licensed(tmp_path: Path) -> Path:
    folder = tiny_checkpoint(tmp_path / "licensed", seed=1)
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# a model\n")
    return folder


def test_an_audit_names_it_in_every_view(run: Run, beir: Path, licensed: Path, tiny: Path, tmp_path: Path) -> None:
    asked = ["audit", "--collection", beir, "--depth", 5, "--control", "none", "--model"]
    assert json.loads(run(*asked, licensed, "--json").out)["licence"] == "cc-by-nc-4.0"
    assert json.loads(run(*asked, tiny, "--json").out)["licence"] == "unstated"
    (line,) = [line for line in run(*asked, licensed).out.splitlines() if "cc-by-nc-4.0" in line]
    assert "licence cc-by-nc-4.0" in line
    run(*asked, licensed, "--html", "page.html", "--markdown", "page.md")
    for page in ("page.html", "page.md"):
        assert "cc-by-nc-4.0" in (tmp_path / page).read_text(encoding="utf-8").replace("\\", "")


def test_two_stages_have_two_and_a_leaderboard_has_them_too(
    run: Run, beir: Path, licensed: Path, tiny: Path, tmp_path: Path
) -> None:
    stages = "".join(f'[[stages]]\nmodel = "{folder}"\ndepth = 5\n' for folder in (licensed, tiny))
    (tmp_path / "secondpass.toml").write_text(f'[collection]\npath = "{beir}"\n{stages}')
    assert json.loads(run("audit", "--control", "none", "--json").out)["licence"] == "cc-by-nc-4.0, unstated"
    rows = {row["name"]: row["licence"] for row in json.loads(run("compare", "--json").out)["rows"]}
    assert rows == {"bm25": "", "bm25 → model": "cc-by-nc-4.0, unstated"}
    (tmp_path / "secondpass.toml").unlink()
    assert "cc-by-nc-4.0" in run("compare", "--collection", beir, "--model", licensed, "--depth", 5).out


def test_runs_of_elsewhere_have_none(run: Run, beir: Path, tmp_path: Path) -> None:
    (tmp_path / "a.trec").write_text("q1 Q0 d1 1 2.0 t\nq1 Q0 d3 2 1.0 t\n")
    files = ["--baseline", "a.trec", "--reranked", "a.trec", "--qrels", beir / "qrels" / "test.tsv"]
    assert json.loads(run("audit", *files, "--json").out)["licence"] == ""
    assert "Licence" not in run("audit", *files).out


def traced(query_id: str, *told: str | None) -> Ranking:
    """What a query has passed: a retriever, then stages that say this of their licence (None: nothing)."""
    stages = [StageTrace(f"stage {n}", detail={} if one is None else {"licence": one}) for n, one in enumerate(told)]
    ranking = as_ranking("q", ["d"])
    return Ranking(ranking.query, ranking.hits, (StageTrace("first", detail={"licence": "first"}), *stages), query_id)


def measured(*after: Ranking) -> Measured:
    before = {str(one.query_id): Ranking(one.query, one.hits, one.trace[:1], one.query_id) for one in after}
    return Measured(found=before, after={str(one.query_id): one for one in after})


def test_a_stage_that_had_no_time_for_one_query_is_known_by_another() -> None:
    assert licences(measured(traced("q1", None), traced("q2", "MIT"))) == "MIT"
    assert licences(measured(traced("q1", "MIT", None), traced("q2", None, "MIT"))) == "MIT"
    assert licences(measured(traced("q1", "MIT", "ISC"))) == "MIT, ISC"
    # a stage of another package says nothing: then nothing is known of the whole
    assert licences(measured(traced("q1", "MIT", None), traced("q2", "MIT", None))) == ""
