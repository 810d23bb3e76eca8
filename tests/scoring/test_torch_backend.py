"""The torch engine says what the portable one says; where a GPU is at hand, so do its kernels."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secondpass.errors import GoldenError, MissingExtraError, ModelError
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.batching import Batch, stack
from secondpass.scoring.checkpoint import Checkpoint, open_checkpoint
from secondpass.scoring.engines import Engine, open_engine
from secondpass.scoring.pair_scorer import PairScorer, open_scorer
from secondpass.scoring.prepare import prepare
from secondpass.scoring.probes import PROBES
from secondpass.scoring.tokens import Tokens
from secondpass.testing import check_pointwise
from tiny import tiny_checkpoint

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the extra torch")
PLAIN = Path(__file__).parents[2] / "weights" / "plain"
TEXTS = [f"list {'river bank ' * (7 * k % 31)}document" for k in range(40)]


@pytest.fixture(scope="module")
def checkpoint(tiny: Path) -> Checkpoint:
    return open_checkpoint(tiny)


def batch_of(checkpoint: Checkpoint, pairs: Sequence[tuple[str, str]] = PROBES) -> Batch:
    tokens = Tokens(checkpoint.tokenizer, checkpoint.max_length)
    rows = [prepare(checkpoint, query, [text], tokens).rows[0] for query, text in pairs]
    kept = [row for row in rows if row is not None]
    assert len(kept) == len(pairs)
    return stack(range(len(kept)), kept, checkpoint.pad, checkpoint.max_length)


def on(checkpoint: Checkpoint, device: str = "cpu", profile: str = "exact", **options: Any) -> Engine:
    from secondpass.scoring.torch_backend import open_torch

    return open_torch(checkpoint, device=device, profile=profile, **options)


def portable(checkpoint: Checkpoint, batch: Batch) -> NDArray[np.float32]:
    return open_engine(checkpoint, engine="onnxruntime", profile="exact", threads=1, cache=None).infer(batch)


def one_by_one(engine: Engine, checkpoint: Checkpoint, pairs: Sequence[tuple[str, str]] = PROBES) -> NDArray[Any]:
    return np.concatenate([engine.infer(batch_of(checkpoint, [pair])) for pair in pairs])


@needs_torch
@pytest.mark.parametrize("act", ["gelu", "relu"])
def test_fp32_agrees_with_the_portable_engine(tmp_path: Path, act: str) -> None:
    opened = open_checkpoint(tiny_checkpoint(tmp_path / "m", hidden_act=act))
    batch = batch_of(opened)
    expected = portable(opened, batch)
    assert np.ptp(expected) > 0.1  # or any order of rows would do
    engine = on(opened)
    assert (engine.name, engine.precision, engine.packed) == ("torch", "fp32", True)
    np.testing.assert_allclose(engine.infer(batch), expected, atol=1e-4)
    np.testing.assert_allclose(one_by_one(engine, opened), expected, atol=1e-4)


@needs_torch
def test_fp32_gives_the_golden_scores_of_the_shipped_model() -> None:
    opened = open_checkpoint(PLAIN)
    expected = np.array([pair.logit for pair in opened.golden])
    batch = batch_of(opened, [(pair.query, pair.document) for pair in opened.golden])
    np.testing.assert_allclose(on(opened).infer(batch), expected, atol=1e-4)


@needs_torch
@pytest.mark.parametrize("model", [PLAIN, "secondpass-mini"], ids=["plain", "mini"])
def test_the_default_profile_stays_within_the_tolerance_of_its_precision(model: str | Path) -> None:
    opened = open_checkpoint(model)
    scorer = open_scorer(opened, engine="torch")
    precision = scorer.engine.precision
    assert precision in ("bf16", "fp32")
    assert ("has bf16" in scorer.engine.why) == (precision == "bf16")
    worst = scorer.check_golden(opened.golden)
    assert worst <= opened.tolerance[precision]
    assert (worst > 1e-4) == (precision == "bf16")  # or it is not what it says


@needs_torch
def test_rows_keep_their_order_whatever_it_is(checkpoint: Checkpoint) -> None:
    engine = on(checkpoint)
    pairs = [("sort a list", text) for text in TEXTS]
    scores = one_by_one(engine, checkpoint, pairs)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(pairs))
        batch = batch_of(checkpoint, [pairs[k] for k in order])
        np.testing.assert_allclose(engine.infer(batch), scores[order], atol=1e-5)


@needs_torch
def test_it_keeps_every_promise_of_a_pointwise_reranker(tiny: Path) -> None:
    encoder = CrossEncoder(tiny, engine="torch", profile="exact")
    check_pointwise(lambda: encoder, tolerance=1e-4)


@needs_torch
def test_threads_at_once_get_the_scores_of_one_after_the_other(checkpoint: Checkpoint) -> None:
    engine = on(checkpoint)
    batches = [batch_of(checkpoint, [("sort a list", text) for text in TEXTS[k : k + 5]]) for k in range(0, 40, 5)]
    expected = [engine.infer(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for logits, one in zip(pool.map(engine.infer, batches), expected, strict=True):
                np.testing.assert_allclose(logits, one, atol=1e-5)


@needs_torch
def test_packed_rows_reach_varlen_attention_as_it_wants_them(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel runs on a GPU alone; what it is given is checked here by plain torch in its place."""
    varlen = pytest.importorskip("torch.nn.attention.varlen", reason="needs torch >= 2.10")
    import torch

    from secondpass.scoring import torch_layers as layers

    def plain(query: Any, key: Any, value: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int) -> Any:
        assert cu_q.dtype == cu_k.dtype == torch.int32
        assert 0 <= int(cu_q.diff().min()) <= int(cu_q.diff().max()) <= max_q
        assert 0 <= int(cu_k.diff().min()) <= int(cu_k.diff().max()) <= max_k
        assert int(cu_k[-1]) <= len(key) == len(value)
        out = torch.full_like(query, torch.nan)  # what belongs to no row is undefined
        for (a, b), (c, d) in zip(
            zip(cu_q[:-1].tolist(), cu_q[1:].tolist(), strict=True),
            zip(cu_k[:-1].tolist(), cu_k[1:].tolist(), strict=True),
            strict=True,
        ):
            if c < d:
                weights = torch.einsum("qhw,khw->hqk", query[a:b], key[c:d]) / query.shape[-1] ** 0.5
                out[a:b] = torch.einsum("hqk,khw->qhw", weights.softmax(-1), value[c:d])
        return out

    monkeypatch.setattr(varlen, "varlen_attn", plain)
    batch = batch_of(checkpoint)
    rows, width = batch.ids.shape
    expected = portable(checkpoint, batch)
    weights = layers.Weights(checkpoint.weights(), torch.device("cpu"), torch.float32)
    model = layers.Classifier(checkpoint.encoder, weights, layers.packed_attention)
    for tokens, room in ((int(batch.mask.sum()), rows), (1024, 16)):  # as it is, and filled up as for a CUDA graph
        arrays = torch.from_numpy(layers.arrays_of(batch, tokens, room))
        logits = model(layers.pack(arrays, tokens, width))
        assert len(logits) == room
        np.testing.assert_allclose(logits[:rows].numpy(), expected, atol=1e-4)


@needs_torch
def test_the_sizes_of_graphs_are_few_and_never_too_small() -> None:
    from secondpass.scoring.torch_backend import _rounded

    for least in (8, 128, 512):
        sizes = {count: _rounded(count, least) for count in range(1, 16_385)}
        assert all(count <= size <= max(1.25 * count, count + least) for count, size in sizes.items())
        assert len(set(sizes.values())) <= 50


@needs_torch
def test_damaged_arithmetic_is_refused_at_load(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from secondpass.scoring import torch_layers as layers

    monkeypatch.setitem(layers._ACTIVATIONS, "gelu", layers._ACTIVATIONS["relu"])
    with pytest.raises(GoldenError, match="torch"):
        open_scorer(open_checkpoint(tiny), engine="torch", profile="exact")


@needs_torch
@pytest.mark.parametrize("device", ["cuda:99", "mpz", "tpu", ""])
def test_a_device_that_is_not_there_is_refused_with_what_is(checkpoint: Checkpoint, device: str) -> None:
    with pytest.raises(ModelError, match=r"not available.*torch .* has cpu"):
        on(checkpoint, device)


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"engine": "openvino", "device": "cuda"}, "'openvino'.*CPU"),
        ({"engine": "torch", "threads": 2}, "threads"),
        ({"engine": "torch", "profile": "int9"}, "profile 'int9'"),
    ],
)
def test_what_does_not_go_together_is_refused(checkpoint: Checkpoint, choice: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        open_scorer(checkpoint, **choice)


@needs_torch
def test_graphs_without_packed_attention_are_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(ModelError, match="CUDA graphs need packed attention"):
        on(checkpoint, graphs=True)


def test_without_torch_the_line_to_install_it_is_said(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "secondpass.scoring.torch_backend", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'secondpass\[torch\]'"):
        CrossEncoder(tiny, device="cuda")


@needs_torch
def test_exact_is_refused_where_products_are_rounded(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from secondpass.scoring import torch_backend as backend

    assert not backend._rounds(torch.device("cpu"))
    monkeypatch.setattr(backend, "_rounds", lambda device: True)  # as TF32 does; this machine may have nothing like it
    with pytest.raises(ModelError, match="profile 'exact' needs products in full fp32"):
        on(checkpoint)
    assert on(checkpoint, profile="default").name == "torch"


def counting(piece: int | None) -> tuple[Engine, list[int]]:
    """An engine whose logits are 0, and how many rows each batch had."""
    sizes: list[int] = []

    def infer(batch: Batch) -> NDArray[np.float32]:
        sizes.append(len(batch.rows))
        return np.zeros(len(batch.rows), dtype=np.float32)

    return Engine("test", "fp32", 1, "a test", infer, batch_tokens=32_768, piece=piece, packed=True), sizes


@pytest.mark.parametrize("piece", [None, 1, 16, 100])
def test_texts_are_prepared_and_batched_a_piece_at_a_time(checkpoint: Checkpoint, piece: int | None) -> None:
    engine, sizes = counting(piece)
    scorer = PairScorer(checkpoint, engine, max_length=128, batch_tokens=engine.batch_tokens, tolerance=0.0)
    scores = scorer.score("sort", ["", *TEXTS[:37], None])
    scorer.close()
    assert scores.trace.pairs_scored == 37
    assert sizes == {None: [37], 1: [1] * 37, 16: [15, 16, 6], 100: [37]}[piece]
    assert scores.trace.padded_tokens == scores.trace.tokens  # packed: nothing else was computed on


def test_the_engine_says_how_many_tokens_a_batch_holds(tiny: Path, cache: Path) -> None:
    checkpoint = open_checkpoint(tiny)
    assert open_scorer(checkpoint, cache=cache).batch_tokens == 512
    assert open_scorer(checkpoint, cache=cache, batch_tokens=64).batch_tokens == 64


def _gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def cuda(checkpoint: Checkpoint, profile: str, **options: Any) -> Engine:
    if not _gpu():
        pytest.skip("needs torch and a CUDA GPU")
    return on(checkpoint, "cuda", profile, **options)


@pytest.mark.gpu
@pytest.mark.parametrize(("profile", "share"), [("exact", 1e-5), ("default", 0.02), ("fast", 0.005)])
def test_cuda_agrees_with_the_portable_engine(profile: str, share: float) -> None:
    opened = open_checkpoint(PLAIN)
    engine = cuda(opened, profile)
    batch = batch_of(opened)
    expected = portable(opened, batch)
    near = share * float(np.abs(expected).max())
    np.testing.assert_allclose(engine.infer(batch), expected, atol=near)
    np.testing.assert_allclose(one_by_one(engine, opened), expected, atol=near)


@pytest.mark.gpu
def test_cuda_graphs_give_what_eager_gives(checkpoint: Checkpoint) -> None:
    opened = open_checkpoint(PLAIN)
    eager, graphs = cuda(opened, "default"), cuda(opened, "default", graphs=True)
    assert "packed attention" in eager.why
    assert "CUDA graphs" in graphs.why
    batches = [batch_of(opened, PROBES[a:b]) for a in range(4) for b in (a + 1, a + 3, len(PROBES))]
    expected = [eager.infer(batch) for batch in batches]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(4):  # eager at first, captured, replayed; from two threads
            for logits, one in zip(pool.map(graphs.infer, batches), expected, strict=True):
                np.testing.assert_allclose(logits, one, atol=0.02 * float(np.abs(one).max()))


_TF32 = """
import sys, torch
from secondpass.errors import ModelError
from secondpass.scoring.checkpoint import open_checkpoint
from secondpass.scoring.torch_backend import open_torch
torch.set_float32_matmul_precision("high")
try:
    open_torch(open_checkpoint(sys.argv[1]), device="cuda", profile="exact")
except ModelError as error:
    assert "profile 'exact'" in str(error), error
else:
    assert torch.cuda.get_device_capability()[0] < 8, "TF32 was not noticed"
assert torch.get_float32_matmul_precision() == "high", "the process's own setting was changed"
"""


@pytest.mark.gpu
def test_exact_is_refused_under_tf32(tiny: Path) -> None:
    if not _gpu():
        pytest.skip("needs torch and a CUDA GPU")
    subprocess.run([sys.executable, "-c", _TF32, str(tiny)], check=True, timeout=120)


@pytest.mark.gpu
def test_a_cross_encoder_on_cuda_keeps_its_promises() -> None:
    if not _gpu():
        pytest.skip("needs torch and a CUDA GPU")
    encoder = CrossEncoder(PLAIN, device="cuda")
    check_pointwise(lambda: encoder, tolerance=encoder.tolerance)
