"""A collection small enough to read, and a command run in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from secondpass.cli import main

TEXTS = (
    "Bees find the way back to their hive by the sun and by landmarks.",
    "A hive is kept at thirty-five degrees all year round.",
    "Foragers dance in the hive to tell where flowers are.",
    "Flowers open in the morning, when bees are about.",
    "The river bank is soft after a flood.",
    "A bank lends money against a house.",
    "Interest rates of the bank rose by a quarter point.",
    "The python sleeps on the river bank.",
    "Python is a language with a short list of keywords.",
    "To sort a list in place, call its sort method.",
    "Sorting a file needs more disk than memory.",
    "A file is opened, read and closed.",
    "The date of the flood is in the file.",
    "Rain fell for nine days before the flood.",
    "The keeper of the hive wears a veil.",
    "A veil of rain hung over the valley.",
    "The house by the river was sold in spring.",
    "In spring the bees leave the hive in a swarm.",
    "A swarm of locusts came after the rain.",
    "",
)
QUERIES = {
    "q1": "how do bees find the hive",
    "q2": "river bank after a flood",
    "q3": "sort a list",
    "q4": "who wears a veil",
}
QRELS = {"q1": {"d1": 2, "d3": 1}, "q2": {"d5": 2, "d17": 1}, "q3": {"d10": 2}, "q4": {"d15": 1}}


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in an empty folder, at 80 columns, with a cache of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    monkeypatch.delenv("SECONDPASS_DEBUG", raising=False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("index", folder, …)` as on the command line."""

    def call(*arguments: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        code = ended.value.code
        out, err = capsys.readouterr()
        return Done(code if isinstance(code, int) else 0, out, err)

    return call


@pytest.fixture(scope="session")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty documents, four judged queries and one without judgments, as a BEIR folder; read-only."""
    folder = tmp_path_factory.mktemp("beir") / "bees"
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(TEXTS, 1)]
    queries = [{"_id": key, "text": text} for key, text in {**QUERIES, "q5": "locusts"}.items()]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = [f"{query}\t{doc}\t{grade}\n" for query, grades in QRELS.items() for doc, grade in grades.items()]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def index(run: Run, beir: Path, tmp_path: Path) -> Path:
    """A BM25 index of it."""
    assert run("index", beir, "--out", tmp_path / "idx").code == 0
    return tmp_path / "idx"
