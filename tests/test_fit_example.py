"""examples/fit: the whole loop, from an audit to a promoted model and back, with the shipped model."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "fit"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    shutil.copy(EXAMPLE / "secondpass.toml", tmp_path)
    subprocess.run([sys.executable, str(EXAMPLE / "stockroom.py"), "data"], cwd=tmp_path, check=True)
    return tmp_path


def test_every_part_is_asked_for_once_in_the_words_of_its_split(place: Path) -> None:
    """No test query's part was ever a training query's, and no nickname stands in a text."""
    folder = place / "data" / "fitters"
    answers = {
        split: {line.split("\t")[1] for line in (folder / "qrels" / f"{split}.tsv").read_text().splitlines()[1:]}
        for split in ("train", "dev", "test")
    }
    everything = [part for parts in answers.values() for part in parts]
    assert len(everything) == len(set(everything))
    corpus = (folder / "corpus.jsonl").read_text()
    assert set(everything) == {json.loads(line)["_id"] for line in corpus.splitlines()}
    assert "duckbill" in (folder / "queries.jsonl").read_text()
    assert "duckbill" not in corpus


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is None, reason="needs the extra train")
def test_the_loop_ends_with_a_promoted_model_and_the_old_one_again(place: Path) -> None:
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "COLUMNS": "100",
        "OMP_NUM_THREADS": "1",  # torch's threads spin where others are at work, too
    }
    done = subprocess.run(
        ["bash", str(EXAMPLE / "loop.sh")], cwd=place, env=environment, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hold 100.0% of the relevant documents" in done.stdout
    assert "PROMOTED: GAIN" in done.stdout
    history = [json.loads(line) for line in (place / "store" / "promotions.jsonl").read_text().splitlines()]
    assert [line["event"] for line in history] == ["began", "promoted", "rolled back"]
    assert history[0]["digest"] == history[2]["digest"] != history[1]["digest"]
