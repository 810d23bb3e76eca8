"""One engine in a process of its own: raw texts in, scores and seconds out. `bench/peers.py` starts it.

    python worker.py ENGINE FOLDER WORKLOAD.json THREADS

Runs in that engine's environment, so it imports nothing but the standard library and the engine. Speaks lines of
JSON: first {"ready": facts} or {"error": reason}; then for each {"draw": i, "forget": bool} on stdin the seconds,
the scores and the peak memory of one pass over draw i, a list of [query, texts].
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Request = tuple[str, list[str]]


@dataclass
class Opened:
    """A loaded engine: the scores of all pairs in order, what it is, and how to make it forget what it keeps."""

    score: Callable[[list[Request]], list[float]]
    facts: dict[str, Any] = field(default_factory=dict)
    forget: Callable[[], None] = lambda: None


def _pairs(requests: list[Request]) -> list[tuple[str, str]]:
    return [(query, text) for query, texts in requests for text in texts]


def sentence_transformers(folder: Path, threads: int) -> Opened:
    """CrossEncoder with its defaults: torch, batches of 32 sorted by length."""
    import torch
    from sentence_transformers import CrossEncoder

    torch.set_num_threads(threads)
    model = CrossEncoder(str(folder / "checkpoint"), device="cpu")
    precision = str(next(model.parameters()).dtype).removeprefix("torch.").replace("float", "fp")
    return Opened(
        lambda requests: model.predict(_pairs(requests), show_progress_bar=False).tolist(),
        {"precision": precision, "max_length": model.max_seq_length, "units": "logit"},
    )


def sentence_transformers_openvino(folder: Path, threads: int) -> Opened:
    """CrossEncoder on its OpenVINO backend, batches of 8; precision is left to OpenVINO."""
    from sentence_transformers import CrossEncoder

    options = {"ov_config": {"INFERENCE_NUM_THREADS": str(threads)}}
    model = CrossEncoder(str(folder / "openvino"), backend="openvino", device="cpu", model_kwargs=options)
    backend = getattr(model, "model", None) or model[0].model  # where it lies depends on the version
    backend.compile()
    chosen = str(backend.request.get_property("INFERENCE_PRECISION_HINT").to_string())
    precision = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}.get(chosen, chosen)
    return Opened(
        lambda requests: model.predict(_pairs(requests), batch_size=8, show_progress_bar=False).tolist(),
        {"precision": precision, "max_length": model.max_seq_length, "units": "logit"},
    )


def _flashrank(folder: Path, name: str, precision: str) -> Opened:
    from flashrank import Ranker, RerankRequest

    # it has no option for threads: ONNX Runtime takes all cores
    ranker = Ranker(model_name=name, cache_dir=str(folder / "flashrank"), max_length=512, log_level="WARNING")

    def score(requests: list[Request]) -> list[float]:
        scores: list[float] = []
        for query, texts in requests:
            passages = [{"id": i, "text": text} for i, text in enumerate(texts)]
            ranked = ranker.rerank(RerankRequest(query=query, passages=passages))
            scores += (float(one["score"]) for one in sorted(ranked, key=lambda one: int(one["id"])))
        return scores

    return Opened(score, {"precision": precision, "max_length": 512, "units": "sigmoid"})


def flashrank_fp32(folder: Path, threads: int) -> Opened:
    """FlashRank over the fp32 export, under the known name whose file is not quantised."""
    return _flashrank(folder, "ms-marco-TinyBERT-L-2-v2", "fp32")


def flashrank_int8(folder: Path, threads: int) -> Opened:
    """FlashRank over the dynamically quantised export, under a known name whose file is."""
    return _flashrank(folder, "ms-marco-MiniLM-L-12-v2", "int8")


def _fastembed(folder: Path, precision: str, threads: int) -> Opened:
    from fastembed.common.model_description import ModelSource
    from fastembed.rerank.cross_encoder import TextCrossEncoder

    name, source = f"bench/{precision}", ModelSource(hf="bench/none")
    TextCrossEncoder.add_custom_model(name, sources=source, model_file="model.onnx")
    model = TextCrossEncoder(name, threads=threads, specific_model_path=str(folder / f"onnx-{precision}"), cuda=False)

    # query by query: rerank_pairs pads 64 pairs of several queries to the longest, which was measured slower
    def score(requests: list[Request]) -> list[float]:
        return [score for query, texts in requests for score in model.rerank(query, texts)]

    return Opened(score, {"precision": precision, "max_length": 512, "units": "logit"})


def fastembed_fp32(folder: Path, threads: int) -> Opened:
    """fastembed over the fp32 export."""
    return _fastembed(folder, "fp32", threads)


def fastembed_int8(folder: Path, threads: int) -> Opened:
    """fastembed over the dynamically quantised export."""
    return _fastembed(folder, "int8", threads)


def _secondpass(folder: Path, profile: str, threads: int) -> Opened:
    from secondpass.rerankers.cross_encoder import CrossEncoder

    model = CrossEncoder(folder / "checkpoint", profile=profile, threads=threads, cache_dir=folder / "graphs" / profile)
    return Opened(
        lambda requests: model.predict(_pairs(requests)).tolist(),
        {**model.scorer.detail, "units": "logit"},
        model.scorer.tokens.clear,
    )


def secondpass_exact(folder: Path, threads: int) -> Opened:
    """Ours, fp32."""
    return _secondpass(folder, "exact", threads)


def secondpass_default(folder: Path, threads: int) -> Opened:
    """Ours with its defaults."""
    return _secondpass(folder, "default", threads)


def secondpass_fast(folder: Path, threads: int) -> Opened:
    """Ours, int8."""
    return _secondpass(folder, "fast", threads)


ENGINES: dict[str, Callable[[Path, int], Opened]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        sentence_transformers,
        sentence_transformers_openvino,
        flashrank_fp32,
        flashrank_int8,
        fastembed_fp32,
        fastembed_int8,
        secondpass_exact,
        secondpass_default,
        secondpass_fast,
    )
}


def _peak_mb() -> float:
    """Peak resident set. On Linux of this program alone: getrusage counts what the process was before it, too."""
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) / 1024, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1)  # bytes on macOS


def main() -> None:
    """Load, say so, then answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    name, folder, workload, threads = sys.argv[1:]
    draws = json.loads(Path(workload).read_text(encoding="utf-8"))["draws"]
    try:
        opened = ENGINES[name](Path(folder).resolve(), int(threads))
        say({"ready": opened.facts})
        for line in sys.stdin:
            order = json.loads(line)
            draw = draws[order["draw"]]
            if order["forget"]:
                opened.forget()
            began = time.perf_counter()
            scores = opened.score(draw)
            seconds = time.perf_counter() - began
            say({"seconds": seconds, "scores": scores, "peak_mb": _peak_mb()})
    except Exception as error:  # whatever a peer raises is reported, not hidden
        say({"error": f"{type(error).__name__}: {error}"})
        raise


if __name__ == "__main__":
    main()
