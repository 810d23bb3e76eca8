"""What ships keeps its word: golden scores on every engine, one small file, a card that names every set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from secondpass.scoring.checkpoint import open_checkpoint
from secondpass.scoring.pair_scorer import open_scorer
from secondpass.scoring.scales import SCALES
from secondpass.types import Status
from secondpass.weights import SHIPPED

FOLDER = SHIPPED["secondpass-mini"]
NANO = SHIPPED["secondpass-nano"]
PLAIN = Path(__file__).parents[2] / "weights" / "plain"


@pytest.mark.parametrize("folder", [FOLDER, NANO, PLAIN], ids=["mini", "nano", "plain"])
@pytest.mark.parametrize(
    ("engine", "profile"),
    [
        ("onnxruntime", "exact"),
        ("openvino", "exact"),
        ("auto", "default"),
        ("onnxruntime", "fast"),
        ("openvino", "fast"),
    ],
)
def test_golden_scores_come_out_on_every_engine(cache: Path, folder: Path, engine: str, profile: str) -> None:
    checkpoint = open_checkpoint(folder)
    assert len(checkpoint.golden) >= 10
    scorer = open_scorer(checkpoint, engine=engine, profile=profile, cache=cache)
    assert scorer.tolerance == checkpoint.tolerance[scorer.engine.precision]
    assert scorer.check_golden(checkpoint.golden) <= scorer.tolerance
    if scorer.engine.precision == "fp32":
        assert scorer.tolerance <= 1e-4


def test_it_tells_an_answer_from_what_is_about_something_else(cache: Path) -> None:
    scorer = open_scorer(open_checkpoint("secondpass-mini"), cache=cache)
    asked = {
        "who wrote Faust": ["A faucet drips.", "Goethe wrote Faust in two parts."],
        "how long do cats live": ["A cat naps on the warm windowsill.", "A house cat reaches 12 to 18 years."],
        "turn a string into a number": ["The string of a kite.", "int(text) converts text to an integer."],
    }
    for query, (wrong, right) in asked.items():
        scores = scorer.score(query, [wrong, right])
        assert set(scores.statuses) == {Status.SCORED}
        assert (scores.values[1] or 0) > (scores.values[0] or 0), query


@pytest.mark.parametrize(("folder", "most"), [(FOLDER, 50_000_000), (NANO, 30_000_000)], ids=["mini", "nano"])
def test_one_small_file_of_weights(folder: Path, most: int) -> None:
    weights = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".onnx", ".pt")]
    assert sorted(path.name for path in weights) == [SCALES, "model.safetensors"]
    assert (folder / "model.safetensors").stat().st_size <= most
    assert (folder / SCALES).stat().st_size <= 100_000


@pytest.mark.parametrize("folder", [FOLDER, NANO, PLAIN], ids=["mini", "nano", "plain"])
def test_the_card_names_every_set_with_its_licence_and_the_history_of_the_base(folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    lineage = json.loads((folder / "lineage.json").read_text(encoding="utf-8"))
    for one in lineage["sets"]:
        if one["groups"]:
            assert f"| {one['name']} | {one['groups']:,} | {one['licence']} |" in card
    for name in ("all-MiniLM-L6-v2", "MS MARCO", "Natural Questions"):
        assert name in card
    assert lineage["digest"] == open_checkpoint(folder).digest
