"""Every engine against an independent forward: plain numpy here, transformers where it is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import erf, softmax

from secondpass.errors import ModelError
from secondpass.scoring.batching import stack
from secondpass.scoring.checkpoint import Checkpoint, open_checkpoint
from secondpass.scoring.engines import open_engine
from secondpass.scoring.prepare import Row, prepare
from secondpass.scoring.tokens import Tokens
from tiny import HEADS, LAYERS, tiny_checkpoint

PAIRS = [
    ("sort a list", "list sort in place"),
    ("sort a list", "file"),
    ("python the snake", "a snake of the river bank " * 4),
    ("q", "document " * 300),
]
FP32 = [("onnxruntime", "exact"), ("openvino", "exact")]


def reference(checkpoint: Checkpoint, row: Row) -> float:
    """One pair, all rows of all layers, no masks: as the paper has it and nothing saved."""
    w: dict[str, Any] = {name: tensor.astype(np.float64) for name, tensor in checkpoint.weights().items()}

    def linear(x: Any, name: str) -> Any:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Any, name: str) -> Any:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + checkpoint.encoder.epsilon)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    n = len(row.ids)
    types = [0] * row.query_tokens + [1] * (n - row.query_tokens)
    x = w["embeddings.word_embeddings.weight"][row.ids] + w["embeddings.position_embeddings.weight"][:n]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][types], "embeddings.LayerNorm")
    for i in range(LAYERS):
        at = f"encoder.layer.{i}"
        q, k, v = (
            linear(x, f"{at}.attention.self.{part}").reshape(n, HEADS, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        mixed = softmax(q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]), axis=-1) @ v
        x = norm(
            x + linear(mixed.swapaxes(0, 1).reshape(n, -1), f"{at}.attention.output.dense"),
            f"{at}.attention.output.LayerNorm",
        )
        inner = linear(x, f"{at}.intermediate.dense")
        inner = inner * 0.5 * (1 + erf(inner / np.sqrt(2)))
        x = norm(x + linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    return float(linear(np.tanh(linear(x[0], "pooler.dense")), "classifier")[0])


def rows_of(checkpoint: Checkpoint) -> list[Row]:
    tokens = Tokens(checkpoint.tokenizer, checkpoint.max_length)
    rows = [prepare(checkpoint, query, [text], tokens).rows[0] for query, text in PAIRS]
    assert all(row is not None for row in rows)
    return [row for row in rows if row is not None]


@pytest.fixture(scope="module")
def checkpoint(tiny: Path) -> Checkpoint:
    return open_checkpoint(tiny)


@pytest.mark.parametrize(("engine", "profile"), FP32)
def test_fp32_agrees_with_the_plain_forward(checkpoint: Checkpoint, cache: Path, engine: str, profile: str) -> None:
    rows = rows_of(checkpoint)
    expected = np.array([reference(checkpoint, row) for row in rows])
    assert np.ptp(expected) > 0.1  # a reference that cannot tell pairs apart would prove nothing
    opened = open_engine(checkpoint, engine=engine, profile=profile, threads=1, cache=cache)
    together = opened.infer(stack(range(len(rows)), rows, 0, checkpoint.max_length))
    alone = np.concatenate([opened.infer(stack((0,), [row], 0, checkpoint.max_length)) for row in rows])
    np.testing.assert_allclose(together, expected, atol=1e-4)
    np.testing.assert_allclose(alone, expected, atol=1e-4)


def test_bf16_stays_near_and_is_what_auto_takes_where_the_cpu_has_it(checkpoint: Checkpoint, cache: Path) -> None:
    opened = open_engine(checkpoint, engine="auto", profile="default", threads=1, cache=cache)
    rows = rows_of(checkpoint)
    expected = np.array([reference(checkpoint, row) for row in rows])
    logits = opened.infer(stack(range(len(rows)), rows, 0, checkpoint.max_length))
    assert opened.precision in ("bf16", "fp32")
    assert ("has bf16" in opened.why) == (opened.precision == "bf16")
    np.testing.assert_allclose(
        logits, expected, atol=0.05 * np.abs(expected).max() if opened.precision == "bf16" else 1e-4
    )


def test_relu_and_fp16_weights(tmp_path: Path, cache: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tiny_checkpoint(tmp_path / "m", hidden_act="relu")
    half = {name: tensor.astype(np.float16) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(half, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    row = rows_of(checkpoint)[0]
    for engine, profile in FP32:
        opened = open_engine(checkpoint, engine=engine, profile=profile, threads=1, cache=cache)
        (logit,) = opened.infer(stack((0,), [row], 0, 128))
        assert np.isfinite(logit)
        assert abs(logit - reference(checkpoint, row)) > 1e-4  # relu is not gelu


def test_transformers_agrees(tiny: Path, checkpoint: Checkpoint, cache: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra 'train' (torch, transformers)")
    import torch
    from transformers import BertForSequenceClassification, BertTokenizerFast

    model = BertForSequenceClassification.from_pretrained(str(tiny)).eval()
    tokenizer = BertTokenizerFast.from_pretrained(str(tiny))
    opened = open_engine(checkpoint, engine="onnxruntime", profile="exact", threads=1, cache=cache)
    with torch.no_grad():
        for (query, text), row in zip(PAIRS, rows_of(checkpoint), strict=True):
            features = tokenizer(query, text, truncation="only_second", max_length=128, return_tensors="pt")
            expected = float(model(**features).logits[0, 0])
            assert row.ids.tolist() == features["input_ids"][0].tolist()
            assert opened.infer(stack((0,), [row], 0, 128))[0] == pytest.approx(expected, abs=1e-4)


def test_the_graph_is_kept_and_a_place_that_cannot_be_written_is_told(checkpoint: Checkpoint, tmp_path: Path) -> None:
    def open_with(cache: Path | None) -> str:
        return open_engine(checkpoint, engine="onnxruntime", profile="exact", threads=1, cache=cache).why

    assert "built and cached" in open_with(tmp_path)
    assert "from the cache" in open_with(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "cannot be written" in open_with(blocked / "below")
    assert "in memory" in open_with(None)


@pytest.mark.parametrize(("engine", "file"), [("onnxruntime", "graph.onnx"), ("openvino", "graph.xml")])
def test_a_damaged_graph_says_what_to_delete(checkpoint: Checkpoint, tmp_path: Path, engine: str, file: str) -> None:
    open_engine(checkpoint, engine=engine, profile="exact", threads=1, cache=tmp_path)
    (folder,) = tmp_path.iterdir()
    shutil.rmtree(folder / "compiled", ignore_errors=True)
    (folder / file).write_bytes(b"garbage")
    with pytest.raises(ModelError, match=f"{folder}.*delete that folder"):
        open_engine(checkpoint, engine=engine, profile="exact", threads=1, cache=tmp_path)
    shutil.rmtree(folder)
    assert "built and cached" in open_engine(checkpoint, engine=engine, profile="exact", threads=1, cache=tmp_path).why


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"engine": "cuda"}, "engine 'cuda'"),
        ({"profile": "int9"}, "profile 'int9'"),
        ({"profile": "fast"}, "int8"),
        ({"threads": 0}, "threads"),
    ],
)
def test_what_cannot_be_had_is_refused(checkpoint: Checkpoint, choice: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        open_engine(checkpoint, **{"engine": "auto", "profile": "default", "threads": None, "cache": None, **choice})


def test_opening_a_model_tells_nobody_and_forks_nothing() -> None:
    """OpenVINO would send its makers an event when it is imported, from a fork that keeps the sockets of a server."""
    code = """if True:
        import sys
        seen = []
        watched = ("os.fork", "os.forkpty", "socket.getaddrinfo", "socket.connect", "urllib.Request")
        sys.addaudithook(lambda event, _: seen.append(event) if event in watched else None)
        from secondpass import CrossEncoder
        CrossEncoder().score("a", ["b"])
        import time; time.sleep(0.5)
        print(seen, "openvino_telemetry" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"
