"""compare: one leaderboard from run files, from a file of settings, and from what is run here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import QRELS, Run
from secondpass.evaluation.metrics import evaluate
from secondpass.evaluation.trec import read_run
from secondpass.scoring.checkpoint import stated_licence
from secondpass.weights import SHIPPED

GOOD = {"q1": ["d1", "d3", "d2"], "q2": ["d5", "d17", "d6"], "q3": ["d10", "d9"], "q4": ["d15", "d16"]}
BAD = {query: ids[::-1] for query, ids in GOOD.items()}
OTHER = GOOD | {"q3": ["d10", "d12"]}


def write(path: Path, run: dict[str, list[str]]) -> Path:
    path.write_text(
        "".join(f"{query} Q0 {doc} {rank} {-rank} t\n" for query, ids in run.items() for rank, doc in enumerate(ids, 1))
    )
    return path


@pytest.fixture
def files(tmp_path: Path, beir: Path) -> list[object]:
    """Three systems and the judgments."""
    for name, order in (("good", GOOD), ("bad", BAD), ("other", OTHER)):
        write(tmp_path / f"{name}.trec", order)
    (tmp_path / "good.ms").write_text(
        "query-id\tms\n" + "".join(f"{query}\t{ms}\n" for ms, query in enumerate(GOOD, 1))
    )
    return ["--qrels", beir / "qrels" / "test.tsv", "good=good.trec", "bad=bad.trec", "other=other.trec"]


def rows(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in data["rows"]}


def test_run_files_with_times_prices_and_licences(run: Run, files: list[object], tmp_path: Path) -> None:
    told = ["--timings", "good=good.ms", "--price", "other=0.002", "--licence", "bad=Apache-2.0"]
    data = json.loads(run("compare", *files, *told, "--json", "--metric", "mrr@5", "--depth", 7).out)
    assert (data["schema"], data["metric"], data["depth"], data["queries"]) == (1, "mrr@5", 7, 4)
    found = rows(data)
    for name in ("good", "bad", "other"):
        per_query = evaluate(read_run(tmp_path / f"{name}.trec"), QRELS, "mrr@5")
        assert found[name]["mean"] == pytest.approx(sum(per_query.values()) / 4)
    assert found["good"]["latency"]["p50_ms"] == pytest.approx(2.5)
    assert found["other"]["latency"] is None
    assert (found["other"]["per_1000"], found["other"]["currency"]) == (2.0, "USD")
    assert found["bad"]["licence"] == "Apache-2.0"
    assert data["pools"] == [["good", "bad"], ["other"]]
    assert "good and bad reorder the same candidates" in data["notes"]


def test_the_tables_fit_and_say_what_separates_the_systems(run: Run, files: list[object], tmp_path: Path) -> None:
    told = ["--timings", "good=good.ms", "--price", "other=0.002", "--licence", "bad=Apache-2.0"]
    done = run("compare", *files, *told, "--markdown", "table.md")
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 80
    for words in ("nDCG@10", "2.5 / 3.8", "USD", "Apache-2.0", "to the best", "candidates", "same candidates", "Holm"):
        assert words in done.out
    assert "tables written to table.md" in done.err
    page = (tmp_path / "table.md").read_text(encoding="utf-8")
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert len(tables) == 2 * (3 + 2)
    assert {line.count("|") for line in tables[:5]} == {7}
    assert sum("2.5 / 3.8" in line for line in tables) == 1
    assert any(line.startswith("| 1 | good | 1.000 [") for line in tables)
    plain = run("compare", *files).out
    assert "p95" not in plain  # columns that nobody fills are left out
    assert "licence" not in plain


def test_the_settings_may_name_the_systems(run: Run, files: list[object], beir: Path, tmp_path: Path) -> None:
    (tmp_path / "secondpass.toml").write_text(
        f'[collection]\npath = "{beir}"\n[price]\nmachine_hour = 3.6\ncurrency = "EUR"\n'
        '[[systems]]\nname = "good"\nrun = "good.trec"\ntimings = "good.ms"\nlicence = "MIT"\n'
        '[[systems]]\nname = "bad"\nrun = "bad.trec"\nprice_per_call = 0.5\ntimings = "good.ms"\n'
    )
    found = rows(json.loads(run("compare", "--json").out))
    assert found["good"]["per_1000"] == pytest.approx(0.0025)  # its time on our machine
    assert found["bad"]["per_1000"] == pytest.approx(500.0)  # what a call costs, and no machine of ours
    assert (found["good"]["licence"], found["good"]["currency"]) == ("MIT", "EUR")
    assert found.keys() == {"good", "bad"}
    changed = rows(json.loads(run("compare", "--json", "--price", "bad=0.25", "--qrels", files[1]).out))
    assert changed["bad"]["per_1000"] == pytest.approx(250.0)
    assert rows(json.loads(run("compare", *files, "--json").out)).keys() == {"good", "bad", "other"}


def test_a_collection_is_run_with_every_first_stage_and_model(run: Run, beir: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "secondpass.toml").write_text("[price]\nmachine_hour = 1.0\n")
    asked = ["--retriever", "bm25", "--retriever", "hybrid", "--model", tiny]
    data = json.loads(run("compare", "--collection", beir, *asked, "--depth", 5, "--json").out)
    found = rows(data)
    assert found.keys() == {"bm25", "hybrid", "bm25 → model", "hybrid → model"}
    for row in found.values():
        assert row["latency"]["queries"] == len(QRELS)
        assert row["per_1000"] == pytest.approx(row["latency"]["mean_ms"] / 3600)
    assert [sorted(pool) for pool in sorted(data["pools"], key=min)] == [
        sorted(name for name in found if name.startswith(first)) for first in ("bm25", "hybrid")
    ]
    assert (found["bm25 → model"]["licence"], found["bm25"]["licence"]) == ("unstated", "")
    assert any("without judgments" in note for note in data["notes"])  # the collection's own notes are there
    asked = ["--model", tiny, "--depth", 5, "--control", "none", "--json"]
    audited = json.loads(run("audit", "--collection", beir, *asked).out)
    assert found["bm25"]["mean"] == pytest.approx(audited["first"])
    assert found["bm25 → model"]["mean"] == pytest.approx(audited["reranked"])


SLOW = """
import time
from secondpass.types import as_ranking

class Slow:
    def retrieve(self, query, k):
        time.sleep(0.05)
        return as_ranking(query, [{"id": "d1", "text": "bees"}, {"id": "d5", "text": "river"}])
"""


def test_times_are_of_whole_queries(
    run: Run, beir: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "installed" / "slow_of_tests-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-of-tests\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[secondpass.retrievers]\nslow = slow_of_tests:Slow\n")
    (about.parent / "slow_of_tests.py").write_text(SLOW)
    monkeypatch.syspath_prepend(str(about.parent))
    data = json.loads(
        run("compare", "--collection", beir, "--retriever", "slow", "--model", tiny, "--depth", 2, "--json").out
    )
    assert all(row["latency"]["p50_ms"] >= 50.0 for row in rows(data).values())
    assert rows(data).keys() == {"slow", "slow → model"}


def test_the_first_queries_over_an_index_on_disk(run: Run, beir: Path, index: Path, tiny: Path) -> None:
    asked = ["--index", index, "--model", tiny, "--queries", 2]
    few = json.loads(run("compare", "--collection", beir, *asked, "--json").out)
    assert few["queries"] == rows(few)["bm25"]["latency"]["queries"] == 2
    assert any("only the first 2 of 4 queries" in note for note in few["notes"])


def test_the_stage_of_the_settings_is_run_without_its_cache(
    run: Run, beir: Path, index: Path, tiny: Path, tmp_path: Path
) -> None:
    file = tmp_path / "secondpass.toml"
    stage = f'[[stages]]\nmodel = "{tiny}"\ndepth = 3\ncache = 100000\n'
    file.write_text(f'[collection]\npath = "{beir}"\n[retriever]\nindex = "{index}"\n{stage}')
    data = json.loads(run("compare", "--json").out)
    assert rows(data).keys() == {"bm25", "bm25 → model"}
    assert data["depth"] == 3
    assert any("cache of scores is off" in note for note in data["notes"])
    file.write_text(f'stages = []\n[collection]\npath = "{beir}"\n')
    assert "has no stages; set one, or give --model" in run("compare").err


def test_models_of_one_folder_name_keep_their_paths_apart(run: Run, beir: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "model").symlink_to(tiny, target_is_directory=True)
    asked = ["--model", tiny, "--model", "b/model", "--depth", 3]
    found = rows(json.loads(run("compare", "--collection", beir, *asked, "--json").out))
    assert found.keys() == {"bm25", f"bm25 → {tiny}", "bm25 → b/model"}
    assert found["bm25 → b/model"]["mean"] == found[f"bm25 → {tiny}"]["mean"]
    assert {row["rank"] for row in found.values()} == {1}


def test_pipelines_of_settings_files_stand_beside_models(run: Run, beir: Path, tiny: Path, tmp_path: Path) -> None:
    model = f'model = "{tiny.as_posix()}"'
    (tmp_path / "two.toml").write_text(
        f'[[stages]]\n{model}\ndepth = 12\nfuse = false\n[[stages]]\nreranker = "fused"\ndepth = 4\n'
        f"[[stages.rerankers]]\n{model}\nfuse = false\n"
    )
    (tmp_path / "gone.toml").write_text(
        '[[stages]]\nreranker = "hosted"\noptions = { service = "tei", url = "http://127.0.0.1:9", retries = 0 }\n'
    )
    asked = ["--collection", beir, "--pipeline", "two=two.toml", "--pipeline", "gone=gone.toml", "--json"]
    alone = json.loads(run("compare", *asked).out)
    assert set(rows(alone)) == {"bm25", "bm25 → two", "bm25 → gone"}
    assert alone["depth"] == 100  # what the deepest of them looks at
    assert rows(alone)["bm25 → gone"]["mean"] == rows(alone)["bm25"]["mean"]  # the order stays, and it is said
    assert any("gone" in note and "failed" in note for note in alone["notes"])
    both = json.loads(run("compare", *asked, "--model", tiny).out)
    assert set(rows(both)) == {"bm25", f"bm25 → {tiny.name}", "bm25 → two", "bm25 → gone"}
    (tmp_path / "none.toml").write_text("stages = []")
    for wrong, code, told in (
        (["--pipeline", "x=none.toml"], 1, "none.toml: has no stages"),
        (["--pipeline", "x=no-file.toml"], 1, "no-file.toml: cannot be read"),
        (["--model", tiny, "--pipeline", f"{tiny.name}=two.toml"], 2, "is a model, too"),
        (["--pipeline", "x"], 2, "is not of the form"),
    ):
        done = run("compare", *asked[:2], *wrong)
        assert (done.code, told in done.err) == (code, True), done.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "give NAME=RUN at least twice with --qrels, or --collection"),
        (["good=good.trec", "bad.trec"], 2, "'bad.trec' is not of the form NAME=RUN"),
        (["good=good.trec", "=bad.trec"], 2, "is not of the form"),
        (["good=good.trec", "bad="], 2, "is not of the form"),
        (["good=good.trec", "good=bad.trec"], 2, "'good' is given twice"),
        (["good=good.trec"], 2, "at least two systems"),
        (["good=good.trec", "bad=bad.trec"], 2, "run files need judgments"),
        (["a=good.trec", "b=bad.trec", "--model", "m"], 2, "not with run files"),
        (["a=good.trec", "b=bad.trec", "--timings", "c=good.ms"], 2, "no system is called 'c'; there are a, b"),
        (["a=good.trec", "b=bad.trec", "--price", "a=cheap"], 2, "'cheap' is no amount"),
        (["a=good.trec", "b=bad.trec", "--price", "a"], 2, "is not of the form"),
        (["a=good.trec", "b=bad.trec", "--licence", "a=x", "--licence", "a=y"], 2, "'a' is given twice"),
        (["--collection", "x", "--price", "a=1"], 2, "goes with NAME=RUN"),
        (["--collection", "BEIR", "--model", "m", "--model", "m"], 2, "the same model is given twice"),
        (["--collection", "BEIR", "--retriever", "bm25", "--retriever", "bm25"], 2, "the same first stage"),
        (
            ["--collection", "BEIR", "--retriever", "nothing"],
            1,
            "retriever.name: there is no retriever called 'nothing'",
        ),
        (["--qrels", "QRELS", "a=good.trec", "b=none.trec"], 1, "none.trec: cannot be opened"),
        (["--qrels", "QRELS", "a=good.trec", "b=bad.trec", "--price", "a=-1"], 1, "price.call is -1"),
        (["--qrels", "QRELS", "a=good.trec", "b=bad.trec", "--metric", "accuracy"], 1, "unknown metric 'accuracy'"),
        (["--qrels", "QRELS", "a=good.trec", "b=bad.trec", "--timings", "a=bad.trec"], 1, "bad.trec:1: 6 columns"),
    ],
)
def test_mistakes_are_told(
    run: Run, files: list[object], beir: Path, arguments: list[str], code: int, says: str
) -> None:
    real = {"QRELS": str(files[1]), "BEIR": str(beir)}
    done = run("compare", *(real.get(one, one) for one in arguments))
    assert (done.code, done.out) == (code, "")
    assert says in " ".join(done.err.replace("│", " ").split())


def test_a_name_twice_in_the_settings_is_told(run: Run, files: list[object], tmp_path: Path) -> None:
    table = '[[systems]]\nname = "good"\nrun = "good.trec"\n'
    (tmp_path / "secondpass.toml").write_text(table * 2)
    assert "[[systems]] has two of one name" in run("compare", *files[:2]).err


def test_the_models_that_ship_state_their_licence() -> None:
    assert {stated_licence(folder).lower() for folder in SHIPPED.values()} == {"apache-2.0"}


@pytest.mark.parametrize(
    ("name", "text", "licence"),
    [
        ("golden.json", '{"licence": "MIT", "pairs": []}', "MIT"),
        ("lineage.json", '{"licence": "CC-BY-4.0"}', "CC-BY-4.0"),
        ("lineage.json", '{"licence": "not stated"}', ""),
        ("README.md", "---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n", "apache-2.0"),
        ("README.md", "---\r\nlicense: 'mit'\r\n---\r\n# A model\r\n", "mit"),
        ("README.md", "# A model\n\nlicense: ask us\n", ""),
        ("notes.txt", "license: mit", ""),
    ],
)
def test_the_licence_is_what_the_folder_states(tmp_path: Path, name: str, text: str, licence: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert stated_licence(tmp_path) == licence
