"""How fast is the torch engine on a GPU, beside sentence-transformers in fp16 on the same machine and weights?

    python bench/gpu.py [--rounds 20] [--candidates 500]     measure on the first CUDA GPU
    python bench/gpu.py --smoke                              every path, tiny, on the CPU; writes nothing

Needs torch, numpy, tokenizers, safetensors, rich and this package; sentence-transformers where it is to be compared
with. Two models: the shipped one (6 layers, width 384), and one of XLM-R-large's size (24 layers, width 1,024,
250,002 words) with random weights, which serve for speed. One query and candidates of about 100 tokens a pair, made of
words by a seed. "text" is from raw text, "tokens" with the documents' tokens kept from an earlier request, both through
the library's own scorer to scores in the host's memory. Rounds are interleaved in a shuffled order; medians with 95 %
intervals. Floating point operations are counted for real tokens alone, so padding lowers the share of the peak. Where
there is no CUDA GPU the smoke check runs in its place and results/gpu.json says that nothing was measured.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors.numpy import save_file

from common import target, write
from secondpass.scoring.checkpoint import Checkpoint, Encoder, open_checkpoint
from secondpass.scoring.engines import Engine
from secondpass.scoring.pair_scorer import PairScorer
from secondpass.scoring.prepare import Row, prepare
from secondpass.scoring.tokens import KEEP_BYTES, Tokens
from secondpass.scoring.torch_backend import open_torch

SEED = 17
SHIPPED = "secondpass-mini"
XLMR_LARGE = Encoder(24, 1024, 16, 4096, 514, 1e-5, "gelu")
SMALL = Encoder(2, 64, 4, 128, 514, 1e-5, "gelu")
LESS = (16, 100)  # candidates of the requests on which CUDA graphs are tried too
# dense bf16 TFLOP/s by the datasheets; the first name that the device's own begins with
PEAKS = {"NVIDIA H200": 989, "NVIDIA H100 PCIe": 756, "NVIDIA H100": 989, "NVIDIA A100": 312}
GOALS = {SHIPPED: 10.0, "xlm-r-large-size": 100.0}

say = Console(stderr=True)
Run = Callable[[], Sequence[float]]


def random_checkpoint(folder: Path, encoder: Encoder, words: int) -> Path:
    """A BERT cross-encoder of these sizes with random weights in fp16, and the shipped tokenizer."""
    source = open_checkpoint(SHIPPED).folder
    folder.mkdir()
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_act": encoder.activation,
        "hidden_size": encoder.hidden,
        "num_hidden_layers": encoder.layers,
        "num_attention_heads": encoder.heads,
        "intermediate_size": encoder.intermediate,
        "max_position_embeddings": encoder.positions,
        "layer_norm_eps": encoder.epsilon,
        "type_vocab_size": 2,
        "vocab_size": words,
        "pad_token_id": 0,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
    (folder / "config.json").write_text(json.dumps(config))
    kept = {"tokenizer_class": "BertTokenizer", "model_max_length": 512, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(kept))
    draw = np.random.default_rng(SEED)
    tensors: dict[str, Any] = {}

    def normal(name: str, *shape: int) -> None:
        tensors[name] = (draw.standard_normal(shape, dtype=np.float32) * 0.02).astype(np.float16)

    def dense(name: str, out: int, into: int) -> None:
        normal(f"{name}.weight", out, into)
        tensors[f"{name}.bias"] = np.zeros(out, np.float16)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = np.ones(encoder.hidden, np.float16)
        tensors[f"{name}.bias"] = np.zeros(encoder.hidden, np.float16)

    width, inner = encoder.hidden, encoder.intermediate
    for table, rows in (("word", words), ("position", encoder.positions), ("token_type", 2)):
        normal(f"bert.embeddings.{table}_embeddings.weight", rows, width)
    norm("bert.embeddings.LayerNorm")
    for i in range(encoder.layers):
        at = f"bert.encoder.layer.{i}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            dense(f"{at}.attention.{part}", width, width)
        dense(f"{at}.intermediate.dense", inner, width)
        dense(f"{at}.output.dense", width, inner)
        norm(f"{at}.attention.output.LayerNorm")
        norm(f"{at}.output.LayerNorm")
    dense("bert.pooler.dense", width, width)
    dense("classifier", 1, width)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def texts(checkpoint: Checkpoint, candidates: int) -> tuple[str, list[str]]:
    """A query of 8 tokens and texts of log-normal length (median 80, 95th percentile 180), a word a token."""
    draw = random.Random(SEED)
    words = sorted(word for word in checkpoint.tokenizer.get_vocab() if word.isalpha() and len(word) > 2)
    lengths = [min(draw.lognormvariate(math.log(80), math.log(180 / 80) / 1.645), 450) for _ in range(candidates)]
    return " ".join(draw.choices(words, k=8)), [" ".join(draw.choices(words, k=round(n))) for n in lengths]


def operations(encoder: Encoder, rows: Sequence[Row]) -> float:
    """Multiplications and additions of one forward over real tokens, the last layer for [CLS] alone."""
    width, inner = encoder.hidden, encoder.intermediate
    tokens = sum(len(row.ids) for row in rows)
    squares = sum(len(row.ids) ** 2 for row in rows)
    a_layer = tokens * (8 * width**2 + 4 * width * inner) + 4 * width * squares
    last = tokens * 4 * width**2 + len(rows) * (4 * width**2 + 4 * width * inner) + 4 * width * tokens
    return float((encoder.layers - 1) * a_layer + last + 2 * len(rows) * width**2)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to score a request: whose engine, from what."""

    engine: str
    precision: str
    source: str
    run: Run


def peer(folder: Path, device: str) -> Any:
    """sentence-transformers with its defaults, in fp16 on a GPU; None where it is not installed."""
    try:
        from sentence_transformers import CrossEncoder
    except ImportError:
        return None
    model = CrossEncoder(str(folder), device=device)
    return model if device == "cpu" else model.half()


def logits(scorer: PairScorer, query: str, documents: Sequence[str]) -> list[float]:
    """What the library's own scorer gives, as its callers get it."""
    return [math.nan if value is None else value for value in scorer.score(query, documents).values]


def ways(checkpoint: Checkpoint, count: int, engines: dict[str, Engine], other: Any) -> tuple[list[Way], list[Row]]:
    """The ways to score `count` candidates, and their rows."""
    query, documents = texts(checkpoint, count)
    pairs = [(query, document) for document in documents]
    identity = torch.nn.Identity()

    def ours(name: str, engine: Engine, source: str, keep: int) -> Way:
        scorer = opened(checkpoint, engine, keep)
        return Way(name, engine.precision, source, lambda: logits(scorer, query, documents))

    def theirs() -> Sequence[float]:
        return [float(x) for x in other.predict(pairs, activation_fn=identity, show_progress_bar=False)]

    sources = {"tokens": KEEP_BYTES, "text": 0}
    found = [ours(name, engine, *source) for name, engine in engines.items() for source in sources.items()]
    if other is not None:
        precision = {torch.float16: "fp16", torch.float32: "fp32"}[next(other.parameters()).dtype]
        found.append(Way("sentence-transformers", precision, "text", theirs))
    tokens = Tokens(checkpoint.tokenizer, checkpoint.max_length)
    return found, [row for row in prepare(checkpoint, query, documents, tokens).rows if row is not None]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % of the median, from order statistics: no distribution is assumed."""
    ordered, n = sorted(values), len(values)
    reach = 0.98 * math.sqrt(n)
    return ordered[max(math.floor((n - 1) / 2 - reach), 0)], ordered[min(math.ceil((n - 1) / 2 + reach), n - 1)]


def measured(
    name: str, found: Sequence[Way], rows: Sequence[Row], encoder: Encoder, rounds: int, peak: float
) -> tuple[list[dict[str, Any]], list[Sequence[float]]]:
    """Interleaved rounds of all ways: result rows, and what each way scored."""
    scores = [way.run() for way in found]
    for way in found:
        for _ in range(2):  # CUDA graphs are captured at the second batch of a size
            way.run()
    seconds: list[list[float]] = [[] for _ in found]
    order, draw = list(range(len(found))), random.Random(SEED)
    for _ in range(rounds):
        draw.shuffle(order)
        for k in order:
            began = time.perf_counter()
            found[k].run()
            seconds[k].append(time.perf_counter() - began)
    work = operations(encoder, rows)
    out = []
    for way, times in zip(found, seconds, strict=True):
        median = statistics.median(times)
        low, high = interval(times)
        row: dict[str, Any] = {
            "model": name,
            "candidates": len(rows),
            "tokens": sum(len(one.ids) for one in rows),
            "engine": way.engine,
            "precision": way.precision,
            "source": way.source,
            "ms": round(1000 * median, 3),
            "interval": [round(1000 * low, 3), round(1000 * high, 3)],
            "tflops": round(work / median / 1e12, 2),
            "share_of_peak": round(work / median / 1e12 / peak, 4) if peak else None,
        }
        out.append(row)
        say.print(
            f"{name:>17} {row['candidates']:>5} candidates  {way.engine:<21} {way.precision} from {way.source:<6} "
            f"{row['ms']:>9.2f} ms [{row['interval'][0]:.2f}, {row['interval'][1]:.2f}]  {row['tflops']} TFLOP/s",
            soft_wrap=True,
        )
    return out, scores


def agreement(found: Sequence[Way], scores: Sequence[Sequence[float]], exact: Sequence[float]) -> list[dict[str, Any]]:
    """How far each way is from fp32 on the same device: largest deviation, and shared documents in the first ten."""

    def first(values: Sequence[float]) -> set[int]:
        return set(np.argsort(-np.asarray(values), kind="stable")[:10].tolist())

    return [
        {
            "engine": way.engine,
            "precision": way.precision,
            "source": way.source,
            "deviation": float(np.abs(np.asarray(values) - np.asarray(exact)).max()),
            "spread": float(np.ptp(exact)),
            "overlap@10": len(first(values) & first(exact)) / min(10, len(exact)),
        }
        for way, values in zip(found, scores, strict=True)
    ]


def kernels(run: Run, cuda: bool) -> dict[str, Any]:
    """Where the time of one run goes: all kernels (on a CPU, operators) together, and the eight largest."""
    kind = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kind.CUDA if cuda else kind.CPU]) as profile:
        run()
    name = "self_device_time_total" if cuda else "self_cpu_time_total"
    events = sorted(((getattr(event, name), event.key) for event in profile.key_averages()), reverse=True)
    largest = [{"kernel": key[:100], "ms": spent / 1000} for spent, key in events[:8]]
    return {"ms": sum(spent for spent, _ in events) / 1000, "largest": largest}


def matmul_peak() -> float:
    """TFLOP/s of an 8192³ bf16 product on random data: the best of five times ten."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    best = math.inf
    for _ in range(5):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(10):
            a @ b
        torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - began) / 10)
    return 2 * 8192**3 / best / 1e12


def hardware(cuda: bool) -> dict[str, Any]:
    """The device and what counts as its peak."""
    if not cuda:
        return {"device": "cpu", "torch": torch.__version__, "note": "no GPU on this machine: nothing was measured"}
    name = torch.cuda.get_device_name(0)
    product = matmul_peak()
    stated = next((peak for key, peak in PEAKS.items() if name.startswith(key)), None)
    return {
        "device": name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "peak_tflops": stated or product,
        "peak_is": "dense bf16 by the datasheet" if stated else "an 8192³ bf16 product measured here",
        "product_tflops": round(product, 1),
    }


def compiled(checkpoint: Checkpoint, device: str) -> dict[str, Engine]:
    """Our engines by name; on a CPU the default profile alone."""
    engines = {"secondpass": open_torch(checkpoint, device=device, profile="default")}
    if device != "cpu":
        engines["secondpass fast"] = open_torch(checkpoint, device=device, profile="fast")
        for name, profile in (("secondpass, graphs", "default"), ("secondpass fast, graphs", "fast")):
            engines[name] = open_torch(checkpoint, device=device, profile=profile, graphs=True)
    return engines


def opened(checkpoint: Checkpoint, engine: Engine, keep: int = 0) -> PairScorer:
    """A scorer that keeps tokens in so many bytes. The golden check is left to the tests marked gpu."""
    size, budget = checkpoint.max_length, engine.batch_tokens
    return PairScorer(checkpoint, engine, max_length=size, batch_tokens=budget, tolerance=math.inf, keep_tokens=keep)


def promises(rows: Sequence[dict[str, Any]], candidates: int, cuda: bool) -> list[dict[str, Any]]:
    """The targets of what a user gets by device="cuda" and nothing else; without a GPU none was measured."""
    out = []
    for model, goal in GOALS.items():
        at = {
            (row["engine"], row["source"]): row["ms"]
            for row in rows
            if cuda and row["model"] == model and row["candidates"] == candidates
        }
        ms, ours = at.get(("secondpass", "tokens")), at.get(("secondpass", "text"))
        theirs = at.get(("sentence-transformers", "text"))
        ratio = round(theirs / ours, 2) if ours and theirs else None
        named = f"{model}, {candidates} candidates of about 100 tokens"
        out.append(target(f"{named}, from cached tokens, ms", ms, f"< {goal:g}", ms is not None and ms < goal))
        faster = ratio is not None and ratio >= 2
        out.append(target(f"{named}, raw text, × sentence-transformers fp16", ratio, "≥ 2", faster))
    return out


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--smoke", action="store_true", help="every path, tiny, on the CPU; writes nothing")
    given = parser.parse_args()
    cuda = torch.cuda.is_available() and not given.smoke
    device, rounds = ("cuda", given.rounds) if cuda else ("cpu", 2)
    machine = hardware(cuda)
    say.print(machine)
    sizes = (*LESS, given.candidates) if cuda else (6,)
    rows: list[dict[str, Any]] = []
    agreements: list[dict[str, Any]] = []
    profiles, why = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        size = ("xlm-r-large-size", XLMR_LARGE, 250_002) if cuda else ("small-random", SMALL, 30_522)
        models = {SHIPPED: open_checkpoint(SHIPPED).folder}
        models[size[0]] = random_checkpoint(Path(scratch) / size[0], *size[1:])
        for name, folder in models.items():
            checkpoint = open_checkpoint(folder)
            engines, other = compiled(checkpoint, device), peer(folder, device)
            why[name] = {key: engine.why for key, engine in engines.items()}
            for count in sizes:
                found, pairs = ways(checkpoint, count, engines, other)
                some, scores = measured(name, found, pairs, checkpoint.encoder, rounds, machine.get("peak_tflops", 0))
                rows += some
            if name == SHIPPED:  # random weights score all alike: nothing to agree on
                exact = open_torch(checkpoint, device=device, profile="exact")
                reference = logits(opened(checkpoint, exact), *texts(checkpoint, sizes[-1]))
                agreements = agreement(found, scores, reference)
            profiles[name] = kernels(found[0].run, cuda)
    targets = promises(rows, given.candidates, cuda)
    if not given.smoke:
        ran = [{key: row[key] for key in ("model", "candidates", "engine", "precision", "source")} for row in rows]
        kept = {"rows": rows} if cuda else {"rows": [], "smoke": ran}  # times of a smoke check say nothing
        extra = {"gpu": machine, "why": why, "agreement": agreements, "kernels": profiles if cuda else {}}
        say.print(f"written to {write('gpu', kept.pop('rows'), targets, **extra, **kept)}")
    for one in targets:
        value = "not measured" if one["value"] is None else one["value"]
        print(f"{one['name']}: {value} (goal {one['goal']})")


if __name__ == "__main__":
    main()
