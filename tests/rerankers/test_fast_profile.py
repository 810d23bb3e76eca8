"""Profile "fast" as people use it: the promises of pointwise rerankers, on integers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.cache import MemoryStore
from secondpass.scoring.calibration import calibrate
from secondpass.scoring.checkpoint import open_checkpoint
from secondpass.scoring.scales import read_scales, write_scales
from secondpass.testing import check_pointwise, check_reranker
from secondpass.types import as_ranking
from tiny import tiny_checkpoint

TEXTS = ["sort a list in place", "a snake on the river bank", "file date", "the python language"]
PAIRS = [(query, TEXTS) for query in ("sort a list", "snake", "python file", "how do bees find the way")]


def folder_with_scales(folder: Path) -> Path:
    """A tiny checkpoint that allows int8 what 8 bits cost so small and random a model."""
    tiny_checkpoint(folder)
    (folder / "golden.json").write_text(json.dumps({"tolerance": {"int8": 0.5}}))
    write_scales(open_checkpoint(folder), calibrate(open_checkpoint(folder), PAIRS))
    return folder


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def encoder(request: pytest.FixtureRequest, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    folder = folder_with_scales(tmp_path_factory.mktemp("fast") / "m")
    return CrossEncoder(folder, engine=request.param, profile="fast", cache_dir=cache)


def test_it_keeps_the_promises_of_every_reranker(encoder: CrossEncoder) -> None:
    check_reranker(lambda: encoder)


def test_it_keeps_the_promises_of_pointwise_rerankers_as_strictly_as_fp32(encoder: CrossEncoder) -> None:
    # the tolerance is of the distance to fp32; among its batch mates a score does not move
    check_pointwise(lambda: encoder, tolerance=1e-4)


def test_the_trace_says_int8(encoder: CrossEncoder) -> None:
    (trace,) = encoder.rerank(as_ranking("sort", TEXTS)).trace
    assert trace.detail["precision"] == "int8"
    assert "profile fast was asked for" in trace.detail["why"]
    assert encoder.tolerance == 0.5  # the checkpoint's own word


def test_kept_scores_of_other_scales_are_not_taken(tmp_path: Path, cache: Path) -> None:
    store = MemoryStore(1 << 20)
    folder = folder_with_scales(tmp_path / "m")

    def ask() -> tuple[int, list[float | None]]:
        model = CrossEncoder(folder, engine="onnxruntime", profile="fast", cache_dir=cache, cache=store)
        scores = model.score("sort", TEXTS)
        return scores.trace.detail["cache"]["hits"], list(scores.values)

    none, first = ask()
    again, same = ask()
    assert (none, again) == (0, len(TEXTS))
    assert same == first
    scales = read_scales(open_checkpoint(folder))
    write_scales(
        open_checkpoint(folder), scales | {"encoder.layer.0.intermediate.range": np.array([-4, 4], np.float32)}
    )
    other, different = ask()
    assert other == 0
    assert different != first
