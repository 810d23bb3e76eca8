"""Engines: a graph and a batch in, logits out.

Knows: ONNX Runtime and OpenVINO, precisions, threads, and where a built graph is kept. Refuses
to know: texts and rankings. `infer` may be called from as many threads as `workers`; each
worker computes on one core, which was measured faster than one batch on all cores.

    default  bf16 on OpenVINO where the CPU has bf16, else fp32 there, else fp32 on ONNX Runtime
    exact    fp32, the reference
    fast     int8 with the scales that the model folder brings, on OpenVINO or on ONNX Runtime
"""

from __future__ import annotations

import os
import queue
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import ModelError
from secondpass.scoring.batching import Batch
from secondpass.scoring.checkpoint import Checkpoint

__all__ = ["ENGINES", "PROFILES", "Engine", "cores", "open_engine"]

PROFILES = ("default", "exact", "fast")
ENGINES = ("auto", "openvino", "onnxruntime")


@dataclass(frozen=True, slots=True)
class Engine:
    """A compiled model. `infer` gives float32 logits, shape [rows]; `why` says how it was chosen."""

    name: str
    precision: str
    workers: int
    why: str
    infer: Callable[[Batch], NDArray[np.float32]]


def cores() -> int:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _graph(checkpoint: Checkpoint, cache: Path | None) -> tuple[bytes | Path, str]:
    """The ONNX graph as a file in the cache, or as bytes where there is no place for one."""
    from secondpass.scoring import graph

    def build() -> bytes:
        return bytes(graph.bert_classifier(checkpoint.encoder, checkpoint.weights()).SerializeToString())

    if cache is None:
        return build(), "in memory"
    path = cache / f"graph-v{graph.VERSION}-{checkpoint.digest}.onnx"
    if path.is_file():
        return path, "from the cache"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache, suffix=".part", delete=False) as aside:
            aside.write(build())
        Path(aside.name).replace(path)
    except OSError as error:
        return build(), f"in memory (the cache {cache} cannot be written: {error.strerror})"
    return path, "built and cached"


def _openvino(graph: bytes | Path, precision: str, threads: int) -> Callable[[Batch], NDArray[np.float32]]:
    import openvino

    core = openvino.Core()
    model = core.read_model(graph)
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": {"bf16": "bf16", "fp32": "f32"}[precision],
            "NUM_STREAMS": str(threads),
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # pinning would tie two processes on one machine to the same cores
        },
    )
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(threads):
        requests.put(compiled.create_infer_request())

    def infer(batch: Batch) -> NDArray[np.float32]:
        request = requests.get()  # a request serves one caller at a time; waiting here is the bound on threads
        try:
            # inputs are copied on purpose: shared ones were seen to give silently wrong scores
            result = request.infer({"ids": batch.ids, "mask": batch.mask, "types": batch.types})
            return np.array(result["logits"], dtype=np.float32)
        finally:
            requests.put(request)

    return infer


def _onnxruntime(graph: bytes | Path, threads: int) -> Callable[[Batch], NDArray[np.float32]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        str(graph) if isinstance(graph, Path) else graph,
        options,
        providers=["CPUExecutionProvider"],
        # the fused form was measured four times slower than Add and LayerNormalization apart
        disabled_optimizers=["SkipLayerNormFusion"],
    )
    turns: queue.SimpleQueue[None] = queue.SimpleQueue()
    for _ in range(threads):
        turns.put(None)

    def infer(batch: Batch) -> NDArray[np.float32]:
        turns.get()  # a session may run in many threads at once; this keeps it to `threads`
        try:
            (logits,) = session.run(["logits"], {"ids": batch.ids, "mask": batch.mask, "types": batch.types})
            return np.asarray(logits, dtype=np.float32)
        finally:
            turns.put(None)

    return infer


def _openvino_abilities() -> tuple[bool, str]:
    """Whether OpenVINO can be used, and either the CPU's abilities or the reason why not."""
    try:
        import openvino
    except ImportError:
        return False, "openvino is not installed"
    core = openvino.Core()
    if "CPU" not in core.available_devices:
        return False, "OpenVINO has no CPU plugin here"
    return True, " ".join(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def open_engine(
    checkpoint: Checkpoint, *, engine: str, profile: str, threads: int | None, cache: Path | None
) -> Engine:
    """Choose and compile. Raises ModelError where the engine or profile asked for cannot be had."""
    if engine not in ENGINES:
        raise ModelError(f"engine {engine!r} is not known; choose one of {', '.join(ENGINES)}")
    if profile not in PROFILES:
        raise ModelError(f"profile {profile!r} is not known; choose one of {', '.join(PROFILES)}")
    if profile == "fast":
        raise ModelError(f"{checkpoint.name} has no int8 scales")
    if threads is not None and threads < 1:
        raise ModelError(f"threads is {threads}; give 1 or more, or None for one per core")
    workers = min(threads or cores(), 64)
    usable, abilities = (False, "onnxruntime was asked for") if engine == "onnxruntime" else _openvino_abilities()
    if engine == "openvino" and not usable:
        raise ModelError(f"engine 'openvino' cannot be used: {abilities}; pip install openvino, or engine='auto'")
    has_bf16 = usable and "BF16" in abilities.split()
    precision = "bf16" if profile == "default" and has_bf16 else "fp32"
    if profile == "exact":
        why = "profile exact was asked for"
    elif has_bf16:
        why = "the CPU has bf16"
    else:
        why = "the CPU has no bf16" if usable else f"fp32 is what the portable engine has ({abilities})"
    graph, kept = _graph(checkpoint, cache)
    infer = _openvino(graph, precision, workers) if usable else _onnxruntime(graph, workers)
    return Engine("openvino" if usable else "onnxruntime", precision, workers, f"{why}; graph {kept}", infer)
