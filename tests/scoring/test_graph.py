"""The graph in blocks and with probes. What it computes is held to a plain forward in test_engines."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from secondpass.scoring.calibration import calibrate
from secondpass.scoring.checkpoint import Checkpoint, open_checkpoint
from secondpass.scoring.graph import bert_block, bert_classifier
from tiny import HIDDEN, INTERMEDIATE, tiny_checkpoint

LAYERS = 4
PLACES = {"attention.self": HIDDEN, "attention.output": HIDDEN, "intermediate": HIDDEN, "output": INTERMEDIATE}
CUTS = range(1 << (LAYERS - 1))  # each bit: whether the classifier is cut behind that layer


def session(model: Any) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(tiny_checkpoint(tmp_path_factory.mktemp("graph") / "m", layers=LAYERS))


@pytest.fixture(scope="module", params=["fp32", "int8"])
def sessions(checkpoint: Checkpoint, request: pytest.FixtureRequest) -> dict[tuple[int, int], Any]:
    """A session for every block there is."""
    pairs = [("sort a list", ["list sort in place", "a snake of the river bank " * 4]), ("q", ["file"])]
    scales = calibrate(checkpoint, pairs) if request.param == "int8" else None
    weights = checkpoint.weights()
    spans = [(a, b) for a in range(LAYERS) for b in range(a + 1, LAYERS + 1)]
    return {span: session(bert_block(checkpoint.encoder, weights, *span, scales)) for span in spans}


def feed(lengths: list[int], width: int, seed: int) -> dict[str, Any]:
    """Random tokens, padded on the right; the second text begins anywhere."""
    draw = np.random.default_rng(seed)
    at, ends = np.arange(width), np.array(lengths)[:, None]
    mask = (at < ends).astype(np.int64)
    types = (at >= draw.integers(1, ends + 1)).astype(np.int64) * mask
    return {"ids": draw.integers(5, 100, mask.shape) * mask, "mask": mask, "types": types}


@settings(max_examples=40, deadline=None)
@given(
    cut=st.sampled_from(CUTS),
    lengths=st.lists(st.integers(3, 40), min_size=1, max_size=5),
    padding=st.integers(0, 24),
    seed=st.integers(0, 999),
)
def test_blocks_that_follow_one_another_are_the_classifier(
    sessions: dict[tuple[int, int], Any], cut: int, lengths: list[int], padding: int, seed: int
) -> None:
    inputs = feed(lengths, max(lengths) + padding, seed)
    (whole,) = sessions[0, LAYERS].run(["logits"], inputs)
    bounds = [0, *(i + 1 for i in range(LAYERS - 1) if cut >> i & 1), LAYERS]
    state = dict(inputs)
    for first, last in pairwise(bounds):
        (out,) = sessions[first, last].run(None, state)
        assert out.shape == ((len(lengths),) if last == LAYERS else (*inputs["ids"].shape, HIDDEN))
        state = {"hidden_in": out, "mask": inputs["mask"]}
    np.testing.assert_allclose(out, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("first", "last"), [(0, LAYERS), (0, 2), (1, 3), (3, LAYERS)])
def test_probes_are_what_goes_into_the_linear_layers(checkpoint: Checkpoint, first: int, last: int) -> None:
    names: list[str] = []
    model = session(bert_block(checkpoint.encoder, checkpoint.weights(), first, last, probes=names))
    wanted = [f"encoder.layer.{i}.{place}" for i in range(first, last) for place in PLACES]
    assert names == [name for name in wanted if name != f"encoder.layer.{LAYERS - 1}.attention.self"]
    inputs = feed([7, 20], 24, 0)
    if first:
        hidden = np.random.default_rng(1).standard_normal((2, 24, HIDDEN)).astype(np.float32)
        inputs = {"hidden_in": hidden, "mask": inputs["mask"]}
    probes = dict(zip(names, model.run(names, inputs), strict=True))
    for name, values in probes.items():
        place = name.split(".", 3)[3]
        rows = 1 if name.startswith(f"encoder.layer.{LAYERS - 1}.") else 24  # the last layer is of the [CLS] row alone
        assert values.shape == (2, rows, PLACES[place]), name
    if 0 < first < LAYERS - 1:
        np.testing.assert_array_equal(probes[f"encoder.layer.{first}.attention.self"], hidden)


def test_probing_changes_no_logit(checkpoint: Checkpoint) -> None:
    inputs = feed([5, 16, 11], 16, 3)
    none, some = None, list[str]()
    plain, probed = (
        session(bert_classifier(checkpoint.encoder, checkpoint.weights(), probes=probes)).run(["logits"], inputs)[0]
        for probes in (none, some)
    )
    np.testing.assert_allclose(probed, plain, rtol=0, atol=1e-6)


def test_with_scales_every_layer_reads_its_matrices_as_integers(checkpoint: Checkpoint) -> None:
    scales = calibrate(checkpoint, [("sort a list", ["list sort in place", "a snake"])])
    graph = bert_classifier(checkpoint.encoder, checkpoint.weights(), scales).graph
    integers = [numpy_helper.to_array(one) for one in graph.initializer if one.name.endswith(".integers")]
    # query, key, value, attention's output, the two of the feed-forward; the last layer's first three are one token's
    assert len(integers) == LAYERS * 6 - 3
    assert all(matrix.dtype == np.int8 and np.abs(matrix).max() == 127 for matrix in integers)
