"""Engines: graphs and a batch in, logits out.

Knows: the graphs that a checkpoint needs and how a batch passes through them, ONNX Runtime and
OpenVINO, precisions, threads, and where a built graph is kept. Refuses to know: texts and rankings.
`infer` may be called from as many threads as `workers`; each worker computes on one core, which was
measured faster than one batch on all cores.

    default  bf16 on OpenVINO where the CPU has bf16, else fp32 there, else fp32 on ONNX Runtime
    exact    fp32, the reference
    fast     int8 with the scales that the model folder brings, on OpenVINO or on ONNX Runtime

An exported graph (see `exporting`) has one engine and one precision: those that it was measured in.
"""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import ModelError
from secondpass.scoring import graph, split
from secondpass.scoring.architecture import BERT_LIKE, GRAPHS
from secondpass.scoring.batching import Batch
from secondpass.scoring.checkpoint import SPLIT, Checkpoint
from secondpass.scoring.document_states import DocumentStates
from secondpass.scoring.graph_deberta import deberta_classifier
from secondpass.scoring.graph_modernbert import modernbert_classifier
from secondpass.scoring.graph_parts import fits_memory, saved
from secondpass.scoring.parity import Parity
from secondpass.scoring.scales import SCALES, read_scales
from secondpass.weights import file_digest, graph_files

__all__ = ["ENGINES", "PROFILES", "Begun", "Engine", "Logits", "cores", "graph_builders", "open_engine"]

PROFILES = ("default", "exact", "fast")
ENGINES = ("auto", "openvino", "onnxruntime", "torch")
_PRECISIONS = {"exact": "fp32", "fast": "int8"}  # those that a profile stands for everywhere
_QUERIES = 16  # whose lower layers a split encoder remembers

Logits = NDArray[np.float32]
Run = Callable[[Mapping[str, NDArray[Any]]], NDArray[np.float32]]
"""A compiled graph: its inputs by name -> its one output."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What a split encoder's lower layers made of a batch.

    `logits` float32 [rows] are their head's, `query` float32 [1, query tokens, hidden] and `documents` float32 [rows,
    tokens, hidden] what the upper layers go on with.
    """

    logits: NDArray[np.float32]
    query: NDArray[np.float32]
    documents: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Engine:
    """A compiled model. `infer` gives float32 logits, shape [rows]; `why` says how it was chosen.

    `batch_tokens` are the padded tokens that a batch should hold, `piece` the texts to prepare at a time (None: all),
    so that preparing goes on while the engine computes. A `packed` engine computes on real tokens only. `variant` names
    what else a score depends on, beside the model, the engine and the precision.

    A split encoder with a head after its lower layers can stop there: `begin` computes as far as that, and
    `finish`, given a batch and the query and documents that begin made of it, what infer gives. Which rows share a
    batch in which is free.

    Where documents are kept, `kept` says how many of a batch's were read before.

    `alone` gives the same scores by the plainest path, for self-tests.
    """

    name: str
    precision: str
    workers: int
    why: str
    infer: Callable[[Batch], Logits]
    variant: str = ""
    batch_tokens: int = 512
    piece: int | None = None
    packed: bool = False
    begin: Callable[[Batch], Begun] | None = None
    finish: Callable[[Batch, NDArray[np.float32], NDArray[np.float32]], Logits] | None = None
    kept: Callable[[Batch], int] | None = None
    alone: Callable[[Batch], Logits] | None = None


def cores() -> int:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_Write = Callable[[Any, Path], Any]
"""An onnx.ModelProto, spent by it, into a folder."""


def _kept(
    cache: Path | None, name: str, build: Callable[[], Any], write: _Write, stack: contextlib.ExitStack
) -> tuple[bytes | Path, str]:
    """A built graph as a folder in the cache, or where there is no place for one as bytes; one too large for a message
    as a folder that goes with the stack."""
    if cache is None:
        return _held(build(), write, stack), "in memory"
    folder = cache / name
    if folder.is_dir():
        return folder, "from the cache"
    aside = None
    try:
        cache.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=cache, prefix=f"{name}.", suffix=".part"))
        write(build(), aside)
        with contextlib.suppress(FileExistsError):  # another process was faster
            aside.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # renaming onto a folder that is not empty is an OSError of many names
            held = _held(build(), write, stack)
            return held, f"in memory (the cache {cache} cannot be written: {error.strerror})"
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
    return folder, "built and cached"


def _held(model: Any, write: _Write, stack: contextlib.ExitStack) -> bytes | Path:
    if fits_memory(model):
        return bytes(model.SerializeToString())
    # an engine that maps the files keeps them mapped; where they cannot be deleted then, the system does it later
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
    write(model, folder)
    return folder


def _openvino(place: bytes | Path, precision: str, threads: int) -> Run:
    """`place`: a graph as bytes, as a file, or as the folder that `_kept` gives."""
    openvino = _openvino_library()
    core = openvino.Core()
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "NUM_STREAMS": str(threads),
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # pinning would tie two processes on one machine to the same cores
    }
    if isinstance(place, Path) and place.is_dir():
        if os.access(place, os.W_OK):
            # what is compiled is kept beside the graph, without the weights; it halves the time of opening
            settings |= {"CACHE_DIR": str(place / "compiled"), "CACHE_MODE": "OPTIMIZE_SIZE"}
        compiled = core.compile_model(place / "graph.xml", "CPU", settings)
    else:
        compiled = core.compile_model(core.read_model(place), "CPU", settings)
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(threads):
        requests.put(compiled.create_infer_request())

    def run(inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        request = requests.get()  # a request serves one caller at a time; waiting here is the bound on threads
        try:
            # inputs are copied on purpose: shared ones were seen to give silently wrong scores
            return np.array(request.infer(dict(inputs))[0], dtype=np.float32)
        finally:
            requests.put(request)

    return run


def _intermediate(model: Any, folder: Path) -> None:
    """The graph in OpenVINO's own format, which it opens ten times faster than ONNX."""
    openvino = _openvino_library()
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as aside:
        read = openvino.Core().read_model(saved(model, Path(aside)))
        openvino.save_model(read, folder / "graph.xml", compress_to_fp16=False)
        del read  # it may hold the files of the folder


def _onnxruntime(place: bytes | Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        str(place / "graph.onnx" if place.is_dir() else place) if isinstance(place, Path) else place,
        options,
        providers=["CPUExecutionProvider"],
        # the fused form was measured four times slower than Add and LayerNormalization apart
        disabled_optimizers=["SkipLayerNormFusion"],
    )
    turns: queue.SimpleQueue[None] = queue.SimpleQueue()
    for _ in range(threads):
        turns.put(None)

    def run(inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        turns.get()  # a session may run in many threads at once; this keeps it to `threads`
        try:
            return np.asarray(session.run(None, dict(inputs))[0], dtype=np.float32)
        finally:
            turns.put(None)

    return run


def graph_builders(checkpoint: Checkpoint, scales: Mapping[str, NDArray[Any]] | None) -> dict[str, Callable[[], Any]]:
    """What builds each graph that the checkpoint needs, by its name."""
    encoder, config = checkpoint.encoder, checkpoint.config
    weights = functools.cache(checkpoint.weights)  # read when the first graph is built, for all of them
    if checkpoint.kind == "modernbert":
        return {"graph": lambda: modernbert_classifier(config, weights())}
    if checkpoint.kind == "deberta-v2":
        return {"graph": lambda: deberta_classifier(config, weights())}
    if encoder.apart is None:
        return {"graph": lambda: graph.bert_classifier(encoder, weights(), scales)}
    apart, last = encoder.apart, encoder.layers
    return {
        "apart": lambda: split.apart_block(encoder, weights(), apart, scales),
        "joint": lambda: split.joint_block(encoder, weights(), apart, last, scales),
        "head": lambda: split.pair_head(encoder, weights(), last),
        **({"first head": lambda: split.pair_head(encoder, weights(), apart)} if apart in encoder.exits else {}),
    }


def _whole(runs: Mapping[str, Run], *, typed: bool) -> Callable[[Batch], Logits]:
    """A classifier: one graph from ids to logits."""
    run = runs["graph"]
    if typed:
        return lambda batch: run({"ids": batch.ids, "mask": batch.mask, "types": batch.types})
    return lambda batch: run({"ids": batch.ids, "mask": batch.mask})


class _Split:
    """A split encoder's graphs: both sides apart, then together. `summed`: see Encoder."""

    def __init__(self, runs: Mapping[str, Run], *, summed: bool, documents: DocumentStates | None) -> None:
        self._runs, self._summed, self._documents = runs, summed, documents
        # all batches of a request ask the same; a handful of requests run at a time
        self._asked = functools.lru_cache(maxsize=_QUERIES)(self._ask)

    def infer(self, batch: Batch) -> Logits:
        return self.finish(batch, *self._read(batch))

    def begin(self, batch: Batch) -> Begun:
        asked, documents = self._read(batch)
        return Begun(self._lower_head(batch, asked, documents), asked, documents)

    def finish(self, batch: Batch, asked: NDArray[np.float32], documents: NDArray[np.float32]) -> Logits:
        _, query_mask = batch.shared()
        inputs = split.both_sides(asked, query_mask, documents, batch.mask)
        hidden, count = self._runs["joint"](inputs), query_mask.shape[1]
        sides: dict[str, NDArray[Any]] = {"query": np.ascontiguousarray(hidden[:, :count])}
        sides |= {"hidden": np.ascontiguousarray(hidden[:, count:]), "query_mask": query_mask, "mask": batch.mask}
        logits = self._runs["head"](sides)
        return logits + self._lower_head(batch, asked, documents) if self._summed else logits

    def _read(self, batch: Batch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        query, query_mask = batch.shared()
        asked = self._asked(query.tobytes(), query_mask.tobytes())
        return asked, self._documents.of(batch, self._apart) if self._documents else self._apart(batch.ids, batch.mask)

    def _apart(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._runs["apart"]({"ids": ids, "mask": mask})

    def _ask(self, ids: bytes, mask: bytes) -> NDArray[np.float32]:
        asked = self._apart(*(np.frombuffer(side, np.int64).reshape(1, -1) for side in (ids, mask)))
        asked.setflags(write=False)  # it is shared
        return asked

    def _lower_head(self, batch: Batch, asked: NDArray[np.float32], documents: NDArray[np.float32]) -> Logits:
        sides: dict[str, NDArray[Any]] = {"query": asked, "hidden": documents}
        return self._runs["first head"](sides | {"query_mask": batch.shared()[1], "mask": batch.mask})


def _openvino_library() -> Any:
    """OpenVINO, without what it sends to its makers when it is imported: from a fork, which would keep our sockets."""
    telemetry = "openvino_telemetry"
    hidden = "openvino" not in sys.modules and telemetry not in sys.modules
    if hidden:
        sys.modules[telemetry] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        if hidden:
            del sys.modules[telemetry]
    return openvino


def _openvino_abilities() -> tuple[bool, str]:
    """Whether OpenVINO can be used, and either the CPU's abilities or the reason why not."""
    try:
        openvino = _openvino_library()
    except ImportError:
        return False, "openvino is not installed"
    core = openvino.Core()
    if "CPU" not in core.available_devices:
        return False, "OpenVINO has no CPU plugin here"
    return True, " ".join(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _torch(checkpoint: Checkpoint, engine: str, profile: str, threads: int | None, device: str) -> Engine:
    if engine not in ("auto", "torch"):
        raise ModelError(f"engine {engine!r} runs on the CPU; for device {device!r} leave engine= out")
    if threads is not None:
        raise ModelError(
            "threads= is of the CPU's engines; how many torch uses is the process's setting: torch.set_num_threads"
        )
    if checkpoint.kind in BERT_LIKE:
        from secondpass.scoring.torch_backend import open_torch

        return open_torch(checkpoint, device=device, profile=profile)
    from secondpass.scoring.transformers_backend import open_transformers

    return open_transformers(checkpoint, device=device, profile=profile)


def _workers(threads: int | None) -> int:
    if threads is not None and threads < 1:
        raise ModelError(f"threads is {threads}; give 1 or more, or None for one per core")
    return min(threads or cores(), 64)


def _exported(checkpoint: Checkpoint, parity: Parity, engine: str, profile: str, workers: int, device: str) -> Engine:
    """The graph that a folder holds in place of weights."""
    name, precision = parity.engine, parity.precision
    made = f"{checkpoint.name} is a graph exported for {name} in {precision}"
    other = f"or open the folder it was made from ({parity.source})"
    if device != "cpu" or engine not in ("auto", name):
        raise ModelError(f"{made}, on the CPU; leave engine= and device= out, {other}")
    if profile != "default" and _PRECISIONS[profile] != precision:
        raise ModelError(f"{made}, and profile {profile!r} is {_PRECISIONS[profile]}; leave profile= out, {other}")
    usable, reason = _openvino_abilities() if name == "openvino" else (True, "")
    if not usable:
        raise ModelError(f"{made}: {reason}; pip install openvino, {other}")
    place = graph_files(checkpoint.folder)[0]
    try:
        run = _openvino(place, "fp32", workers) if name == "openvino" else _onnxruntime(place, workers)
    except Exception as error:  # engines raise errors of many types
        raise ModelError(
            f"{place}: {name} cannot open it ({type(error).__name__}: {error}); export it again"
        ) from error

    def infer(batch: Batch) -> Logits:
        inputs = {"input_ids": batch.ids, "attention_mask": batch.mask}
        return run(inputs | {"token_type_ids": batch.types} if checkpoint.typed else inputs)[:, 0]

    why = f"exported in {precision}, within {parity.tolerance:.3g} of its model in fp32 ({parity.largest:.3g} measured)"
    return Engine(name, precision, workers, why, infer, alone=infer)


def open_engine(
    checkpoint: Checkpoint,
    *,
    engine: str,
    profile: str,
    threads: int | None,
    cache: Path | None,
    device: str = "cpu",
    keep_documents: int = 0,
) -> Engine:
    """Choose and compile. `keep_documents`: bytes for what a split encoder's lower layers made of documents.

    Raises ModelError where the engine, profile or device asked for cannot be had, or keeps no documents."""
    if engine not in ENGINES:
        raise ModelError(f"engine {engine!r} is not known; choose one of {', '.join(ENGINES)}")
    if profile not in PROFILES:
        raise ModelError(f"profile {profile!r} is not known; choose one of {', '.join(PROFILES)}")
    if keep_documents and checkpoint.kind != SPLIT:
        raise ModelError(
            f"{checkpoint.name} reads query and document together, so there is nothing of a document to keep: "
            "leave keep_documents out, or take a split encoder such as secondpass-mini"
        )
    if keep_documents and (device != "cpu" or engine == "torch"):
        raise ModelError("keep_documents is of the CPU's engines; leave it out, or device= and engine=")
    if checkpoint.exported is not None:
        return _exported(checkpoint, checkpoint.exported, engine, profile, _workers(threads), device)
    graphs = checkpoint.kind in GRAPHS and checkpoint.head.kind == "classifier"
    if not graphs and engine in ("openvino", "onnxruntime"):
        raise ModelError(
            f"engine {engine!r} computes our own graphs, and there is none of {checkpoint.kind!r}; "
            "leave engine= out: the extra `torch` runs it"
        )
    if device != "cpu" or engine == "torch" or not graphs:
        return _torch(checkpoint, engine, profile, threads, device)
    workers = _workers(threads)
    usable, abilities = (False, "onnxruntime was asked for") if engine == "onnxruntime" else _openvino_abilities()
    if engine == "openvino" and not usable:
        raise ModelError(f"engine 'openvino' cannot be used: {abilities}; pip install openvino, or engine='auto'")
    has_bf16 = usable and "BF16" in abilities.split()
    name = "openvino" if usable else "onnxruntime"
    if profile == "fast":
        precision, why = "int8", "profile fast was asked for"
    elif profile == "exact":
        precision, why = "fp32", "profile exact was asked for"
    elif has_bf16:
        precision, why = "bf16", "the CPU has bf16"
    else:
        precision = "fp32"
        why = "the CPU has no bf16" if usable else f"fp32 is what the portable engine has ({abilities})"
    scales = read_scales(checkpoint) if precision == "int8" else None
    variant = f"v{graph.VERSION}" + (f"-{file_digest(checkpoint.folder / SCALES)[:12]}" if scales else "")
    # what does not compute on integers computes in bf16 where it can
    compute = "bf16" if precision == "bf16" or (precision == "int8" and has_bf16) else "fp32"
    runs, kept = {}, ""
    with contextlib.ExitStack() as stack:
        for part, build in graph_builders(checkpoint, scales).items():
            called = f"{part.replace(' ', '-')}-{variant}-{checkpoint.digest}-{name}"
            place, kept = _kept(cache, called, build, _intermediate if usable else saved, stack)
            # neighbours in a ranking are closer than bf16 can tell apart, so a head of its own computes in fp32
            part_precision = "fp32" if part.endswith("head") else compute
            try:
                runs[part] = _openvino(place, part_precision, workers) if usable else _onnxruntime(place, workers)
            except Exception as error:  # engines raise errors of many types
                if isinstance(place, bytes):
                    raise
                raise ModelError(
                    f"{name} cannot open the graph kept in {place} ({type(error).__name__}); "
                    "delete that folder, and it is built again"
                ) from error
    how = f"{why}; graph {kept}"
    if checkpoint.encoder.apart is None:
        return Engine(name, precision, workers, how, _whole(runs, typed=checkpoint.typed), variant)

    documents = (
        DocumentStates(keep_documents, np.float32 if compute == "fp32" else np.float16) if keep_documents else None
    )
    parts = _Split(runs, summed=checkpoint.encoder.summed, documents=documents)
    opened = Engine(name, precision, workers, how, parts.infer, variant)
    if documents is not None:  # long ones are cut elsewhere, which is another score
        opened = replace(opened, variant=f"{variant}-documents", kept=documents.known)
    return opened if "first head" not in runs else replace(opened, begin=parts.begin, finish=parts.finish)
