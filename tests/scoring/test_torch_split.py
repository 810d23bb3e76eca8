"""Split encoders in torch: batches of any shape, the two passes, packed attention. What the scores are is held by
test_split, where torch is one of the engines."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secondpass.errors import ModelError
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.batching import Batch, stack
from secondpass.scoring.checkpoint import Checkpoint, open_checkpoint
from secondpass.scoring.engines import Engine, open_engine
from secondpass.scoring.pair_scorer import open_scorer
from secondpass.scoring.prepare import prepare
from secondpass.scoring.tokens import Tokens
from secondpass.testing import check_pointwise
from secondpass.types import as_ranking
from tiny import tiny_split

pytest.importorskip("torch", reason="needs the extra torch")
import torch

from secondpass.scoring import torch_layers as layers
from secondpass.scoring.torch_backend import open_torch
from secondpass.scoring.torch_split import SplitModel, joined

QUERY = "river in the list"
TEXTS = ["the river bank", "a", "snake " * 60, "sort a list in python", "query document query", "date"]


@pytest.fixture(scope="module", params=[False, True], ids=["last head", "summed"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(tiny_split(tmp_path_factory.mktemp("split"), seed=4, summed=request.param))


@pytest.fixture(scope="module")
def engine(checkpoint: Checkpoint) -> Engine:
    return open_torch(checkpoint, device="cpu", profile="exact")


@pytest.fixture(scope="module")
def portable(checkpoint: Checkpoint) -> Engine:
    return open_engine(checkpoint, engine="onnxruntime", profile="exact", threads=1, cache=None)


def batch_of(checkpoint: Checkpoint, texts: Sequence[str], query: str = QUERY) -> Batch:
    tokens = Tokens(checkpoint.tokenizer, checkpoint.max_length)
    rows = [row for row in prepare(checkpoint, query, texts, tokens).rows if row is not None]
    assert len(rows) == len(texts)
    return stack(range(len(rows)), rows, checkpoint.pad, checkpoint.max_length, split=True)


def stopped(engine: Engine, batch: Batch) -> tuple[NDArray[Any], ...]:
    """What `begin` gives."""
    assert engine.begin is not None
    begun = engine.begin(batch)
    return begun.logits, begun.query, begun.documents


def finished(engine: Engine, batch: Batch, query: NDArray[Any], documents: NDArray[Any]) -> NDArray[Any]:
    assert engine.finish is not None
    return engine.finish(batch, query, documents)


@pytest.mark.parametrize(
    ("query", "texts"),
    [
        (QUERY, TEXTS),
        (QUERY, TEXTS[2:3]),
        ("of", ["a"]),
        ("river " * 30, ["a", "date"]),  # wider than every document
    ],
    ids=["mixed lengths", "one pair", "shortest", "long query"],
)
def test_both_passes_say_what_the_portable_engine_says(
    checkpoint: Checkpoint, engine: Engine, portable: Engine, query: str, texts: list[str]
) -> None:
    batch = batch_of(checkpoint, texts, query)
    expected = portable.infer(batch)
    np.testing.assert_allclose(engine.infer(batch), expected, atol=1e-4)
    made, theirs = stopped(engine, batch), stopped(portable, batch)
    real = (slice(None), batch.shared()[1][0] > 0), batch.mask > 0  # what stands in the padding is nobody's promise
    assert [one.shape for one in made] == [one.shape for one in theirs]
    assert [one.dtype for one in made] == [np.float32] * 3
    np.testing.assert_allclose(made[0], theirs[0], atol=1e-4)
    np.testing.assert_allclose(made[1][real[0]], theirs[1][real[0]], atol=1e-4)
    np.testing.assert_allclose(made[2][real[1]], theirs[2][real[1]], atol=1e-4)
    np.testing.assert_allclose(finished(engine, batch, made[1], made[2]), expected, atol=1e-4)
    np.testing.assert_allclose(finished(engine, batch, theirs[1], theirs[2]), expected, atol=1e-4)


def test_a_document_of_its_marks_alone_has_a_score(checkpoint: Checkpoint, engine: Engine, portable: Engine) -> None:
    batch = batch_of(checkpoint, ["the river bank", "a", "date"])
    ids, mask = batch.ids.copy(), batch.mask.copy()
    ids[1, 1], mask[1, 2:] = checkpoint.frame.between[0], 0  # [CLS] [SEP]
    bare = replace(batch, ids=ids, mask=mask)
    np.testing.assert_allclose(engine.infer(bare), portable.infer(bare), atol=1e-4)
    assert abs(engine.infer(bare)[1] - engine.infer(batch)[1]) > 1e-3


def test_the_rows_of_a_finish_need_not_be_those_of_a_begin(checkpoint: Checkpoint, engine: Engine) -> None:
    batch = batch_of(checkpoint, TEXTS)
    expected = engine.infer(batch)
    _, query, documents = stopped(engine, batch)
    for chosen in ([4, 0], [5], [1, 2, 3]):
        some = batch_of(checkpoint, [TEXTS[k] for k in chosen])
        width = some.ids.shape[1]
        logits = finished(engine, some, query, documents[chosen, :width])
        np.testing.assert_allclose(logits, expected[chosen], atol=1e-4)


def test_the_query_is_read_once(checkpoint: Checkpoint) -> None:
    weights = layers.Weights(checkpoint.weights(), torch.device("cpu"), torch.float32)
    asked: list[int] = []

    def attend(query: Any, key: Any, value: Any, asking: layers.Rows, seen: layers.Rows) -> Any:
        asked.append(len(query))
        return layers.padded_attention(query, key, value, asking, seen)

    batch = batch_of(checkpoint, TEXTS)
    whole, query = joined(batch), int(batch.shared()[1].sum())
    tokens = int(whole.mask.sum())
    packed = layers.pack(torch.from_numpy(layers.arrays_of(whole, tokens, len(whole.mask))), tokens, whole.ids.shape[1])
    SplitModel(checkpoint.encoder, weights, attend).read(packed, query)
    assert asked == [query + int(batch.mask.sum())] * (checkpoint.encoder.apart or 0)


def test_threads_at_once_get_the_scores_of_one_after_the_other(checkpoint: Checkpoint, engine: Engine) -> None:
    batches = [batch_of(checkpoint, TEXTS[k : k + 3], query) for k in range(3) for query in (QUERY, "snake")]
    expected = [engine.infer(batch) for batch in batches]
    lower = [stopped(engine, batch)[0] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for logits, one in zip(pool.map(engine.infer, batches), expected, strict=True):
                np.testing.assert_allclose(logits, one, atol=1e-5)
            for begun, one in zip(pool.map(lambda batch: stopped(engine, batch)[0], batches), lower, strict=True):
                np.testing.assert_allclose(begun, one, atol=1e-5)


def test_packed_rows_reach_varlen_attention_as_it_wants_them(
    checkpoint: Checkpoint, portable: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel runs on a GPU alone; what it is given is checked here by plain torch in its place."""
    varlen = pytest.importorskip("torch.nn.attention.varlen", reason="needs torch >= 2.10")

    def plain(query: Any, key: Any, value: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int) -> Any:
        assert cu_q.dtype == cu_k.dtype == torch.int32
        assert (int(cu_q[0]), int(cu_k[0]), len(cu_q)) == (0, 0, len(cu_k))
        assert (int(cu_q[-1]), int(cu_k[-1])) == (len(query), len(key))
        assert (int(cu_q.diff().max()) <= max_q, int(cu_k.diff().max()) <= max_k) == (True, True)
        out = []
        for a, b, c, d in zip(*(x.tolist() for x in (cu_q[:-1], cu_q[1:], cu_k[:-1], cu_k[1:])), strict=True):
            weights = torch.einsum("qhw,khw->hqk", query[a:b], key[c:d]) / query.shape[-1] ** 0.5
            out.append(torch.einsum("hqk,khw->qhw", weights.softmax(-1), value[c:d]))
        return torch.cat(out)

    monkeypatch.setattr(varlen, "varlen_attn", plain)
    from secondpass.scoring import torch_backend as backend

    monkeypatch.setattr(backend, "_attention", lambda *_: (layers.packed_attention, "for a test"))
    packed = open_torch(checkpoint, device="cpu", profile="exact")
    for texts in (TEXTS, TEXTS[1:2]):
        batch = batch_of(checkpoint, texts)
        np.testing.assert_allclose(packed.infer(batch), portable.infer(batch), atol=1e-4)


def test_a_model_without_a_lower_head_is_scored_and_cannot_stop(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_split(tmp_path, apart=0))  # nothing is read apart, so no head follows that
    engine = open_torch(checkpoint, device="cpu", profile="exact")
    assert (engine.begin, engine.finish) == (None, None)


def test_its_trace_counts_the_query_for_each_pair(checkpoint: Checkpoint) -> None:
    trace = open_scorer(checkpoint, engine="torch", profile="exact").score(QUERY, TEXTS).trace
    assert trace.padded_tokens == trace.tokens > 0


def test_a_cross_encoder_keeps_its_promises_and_stops_early(checkpoint: Checkpoint) -> None:
    encoder = CrossEncoder(checkpoint.folder, engine="torch", profile="exact")
    check_pointwise(lambda: encoder, tolerance=1e-4)
    texts = [f"{TEXTS[k % 6]} {'of ' * (k // 6)}" for k in range(48)]
    ranking = as_ranking(QUERY, texts)
    ours, theirs = (
        CrossEncoder(checkpoint.folder, engine=engine, profile="exact", go_on=0.5).rerank(ranking)
        for engine in ("torch", "onnxruntime")
    )
    scores = [{hit.document.id: hit.score for hit in one.hits} for one in (ours, theirs)]
    assert scores[0] == pytest.approx(scores[1], abs=3e-3)  # states wait in half precision
    assert ours.trace[-1].detail["exits"] == theirs.trace[-1].detail["exits"] == {"layer 1": 24, "layer 3": 24}


def test_cuda_graphs_are_refused_in_words(checkpoint: Checkpoint) -> None:
    with pytest.raises(ModelError, match="graphs are for classifiers"):
        open_torch(checkpoint, device="cpu", profile="exact", graphs=True)


def _gpu() -> bool:
    return importlib.util.find_spec("torch") is not None and bool(torch.cuda.is_available())


@pytest.mark.gpu
@pytest.mark.skipif(not _gpu(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(("profile", "share"), [("exact", 1e-4), ("default", 0.05), ("fast", 0.01)])
def test_cuda_agrees_with_the_portable_engine(
    checkpoint: Checkpoint, portable: Engine, profile: str, share: float
) -> None:
    engine = open_torch(checkpoint, device="cuda", profile=profile)
    batch = batch_of(checkpoint, TEXTS * 20)
    expected = portable.infer(batch)
    near = share * float(np.abs(expected).max())
    np.testing.assert_allclose(engine.infer(batch), expected, atol=near)
    lower, query, documents = stopped(engine, batch)
    np.testing.assert_allclose(lower, stopped(portable, batch)[0], atol=near)
    np.testing.assert_allclose(finished(engine, batch, query, documents), expected, atol=near)
