"""A model that states its languages: whoever asks in another one is told, wherever a trace or its sum is shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cli.conftest import Run

GERMAN = {
    "q1": "wie finden die Bienen nach Hause und warum",
    "q2": "was ist das Ufer von einem Fluss nach der Flut",
    "q3": "wie kann man eine Liste sortieren",
    "q4": "wer trägt einen Schleier und warum",
}


@pytest.fixture
def english(tiny: Path, tmp_path: Path) -> Path:
    """The tiny model, for English only."""
    folder = shutil.copytree(tiny, tmp_path / "english")
    (folder / "golden.json").write_text('{"languages": ["en"]}')
    return folder


def german(beir: Path, folder: Path, *queries: str) -> Path:
    """The collection with some of its queries in German."""
    shutil.copytree(beir, folder)
    rows = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    turned = [row | {"text": GERMAN[row["_id"]]} if row["_id"] in queries else row for row in rows]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turned))
    return folder


def test_the_trace_of_a_search_asks(run: Run, index: Path, english: Path, tiny: Path) -> None:
    asked = "was ist eine bank und ein river"
    assert "not English?" in " ".join(run("search", index, asked, "--model", english).err.split())
    told = json.loads(run("search", index, asked, "--model", english, "--json").out)["trace"][-1]["detail"]["language"]
    assert (told["query"], told["documents"]) == ("German", 0)
    assert "not English?" not in run("search", index, "the bank of a river", "--model", english).err
    assert "not English?" not in run("search", index, asked, "--model", tiny).err  # it does not say what it is for


def test_many_requests_are_summed_up(run: Run, index: Path, english: Path, beir: Path, tmp_path: Path) -> None:
    rows = [{"query": "wo ist das Haus und wer wohnt da", "documents": ["Das Haus ist nicht weit von hier."]}] * 2
    rows += [{"query": "where is the house", "documents": ["It is not far from here."]}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("rerank", "in.jsonl", "--model", english)
    assert len(done.out.splitlines()) == 3
    assert "2 of 3 queries look not English" in " ".join(done.err.split())
    folder = german(beir, tmp_path / "german", "q3")
    done = run("search", index, "--queries", folder, "--model", english, "--run", "out.trec")
    assert "1 of 5 queries look not English" in " ".join(done.err.split())
    assert "look not" not in run("search", index, "--queries", beir, "--model", english, "--run", "out.trec").err


def test_an_audit_notes_it(run: Run, beir: Path, english: Path, tmp_path: Path) -> None:
    folder = german(beir, tmp_path / "german", *GERMAN)
    for collection, count in ((folder, 4), (beir, 0)):
        done = run("audit", "--collection", collection, "--model", english, "--depth", 5, "--json")
        notes = [note for note in json.loads(done.out)["notes"] if "look not English" in note]
        assert len(notes) == bool(count)
        assert all(f"{count} of 4 queries" in note for note in notes)


def test_models_shows_what_a_folder_states(run: Run, english: Path, tiny: Path) -> None:
    assert json.loads(run("models", english, "--json").out)[0]["languages"] == ["en"]
    assert "languages" in run("models", english).out
    assert json.loads(run("models", tiny, "--json").out)[0]["languages"] == []
