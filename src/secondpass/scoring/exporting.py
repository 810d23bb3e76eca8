"""From a checkpoint to a folder with its graph in a chosen precision, which is measured before it is written.

Knows: a checkpoint's graph, how ONNX and OpenVINO keep one on disk, and the names and places that the backends `onnx`
and `openvino` of sentence-transformers expect. Refuses to know: commands, rankings, and how a graph is built.

    fp32  the weights as the graph has them
    fp16  matrices kept in fp16 and widened when they are read: half the bytes, and it computes in fp32 everywhere
    int8  linear layers on integers by the scales of `calibration`, the other matrices kept in fp16

What is written has been read back from disk by its engine and compared, on mixed batches, with the portable engine in
fp32 on the checkpoint, pair by pair.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InputError, ModelError, ParityError
from secondpass.scoring.architecture import BERT_LIKE, GRAPHS
from secondpass.scoring.batching import Batch, plan, stacked
from secondpass.scoring.calibration import calibrate
from secondpass.scoring.checkpoint import Checkpoint, open_checkpoint, read_json
from secondpass.scoring.engines import graph_builders, open_engine
from secondpass.scoring.graph_parts import fits_memory, saved
from secondpass.scoring.pair_scorer import open_scorer
from secondpass.scoring.parity import PARITY, Parity, swapped
from secondpass.scoring.prepare import Row, prepare
from secondpass.scoring.probability import read_calibration, write_calibration
from secondpass.scoring.probes import PROBES
from secondpass.scoring.scales import SCALES, read_scales
from secondpass.scoring.tokens import Tokens
from secondpass.weights import GRAPH_FILES, folder_digest, weight_files

__all__ = ["FORMATS", "PRECISIONS", "Format", "Pairs", "Precision", "export"]

Format = Literal["onnx", "openvino"]
Precision = Literal["fp32", "fp16", "int8"]
Pairs = Sequence[tuple[str, Sequence[str]]]
"""Queries, each with texts."""

FORMATS: tuple[Format, ...] = ("onnx", "openvino")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")

# of the largest logit, 1 at least: what is allowed where nothing is stated, and how far the checkpoint's own scores in
# fp32 may be from its golden ones (see `open_scorer`)
_SHARES, _OWN = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.05}, 1e-3
_NAMES = {"ids": "input_ids", "mask": "attention_mask", "types": "token_type_ids"}
_ACTIVATIONS = {"identity": "torch.nn.modules.linear.Identity", "sigmoid": "torch.nn.modules.activation.Sigmoid"}
# what sentence-transformers' backend has to be told; OpenVINO would take bf16 where the CPU has it
_OTHERS = {"onnx": "", "openvino": ', model_kwargs={"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}'}
_KEPT = (".json", ".txt", ".model", ".jinja")  # configuration, tokenizer, provenance
_LEFT = ("model.safetensors.index.json", "pytorch_model.bin.index.json")  # they name weights that stay behind
_QUERIES, _TEXTS = 100, 10  # of the pairs given: so many are measured
_HELD_OUT = 5  # every fifth query calibrates nothing
_BATCH = 2048  # padded tokens of a batch that is measured

Float = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Measured:
    """Queries with their rows, and the logits of these in fp32, in one array."""

    groups: tuple[tuple[str, tuple[tuple[str, Row], ...]], ...]
    logits: Float

    @property
    def rows(self) -> list[Row]:
        return [row for _, texts in self.groups for _, row in texts]


def export(
    checkpoint: Checkpoint,
    out: str | Path,
    *,
    format: Format,
    precision: Precision,
    pairs: Pairs = (),
    tolerance: float | None = None,
) -> Parity:
    """Write the folder `out`, which secondpass opens and sentence-transformers with `backend=format`.

    `pairs` are measured beside the built-in ones, at most 100 queries with 10 texts each; for int8 they are what the
    scales are found on where the checkpoint brings none, every fifth query, which is measured, left out. `tolerance` is
    the largest deviation of a logit that is allowed. None: what the checkpoint states for the precision, else, of the
    largest logit (1 at least), 0.0001 in fp32, 0.01 in fp16, 0.05 in int8.

    The licence and the golden pairs are carried over, with the calibration, which then holds as far as the logits do.
    Raises ParityError, and leaves nothing, where a deviation is larger; ModelError for a model that one graph cannot
    hold and where int8 has no scales; InputError for an `out` that is not empty.
    """
    out = Path(out).expanduser().resolve()
    _check(checkpoint, out, format, precision, tolerance)
    notes: list[str] = []
    scales, pairs = _scales(checkpoint, pairs, notes) if precision == "int8" else (None, pairs)
    measured = _reference(checkpoint, pairs)
    model = _named(next(iter(graph_builders(checkpoint, scales).values()))())
    if precision != "fp32":
        _halve(model)
    if format == "onnx" and not fits_memory(model):
        raise ModelError(
            f"{checkpoint.name}: its graph in {precision} exceeds the 2 GiB of an ONNX file; take fp16 or openvino"
        )
    aside = out.parent / f".{out.name}.{secrets.token_hex(4)}.part"
    try:
        aside.mkdir()
        _WRITERS[format](model, aside / GRAPH_FILES[format][0])
        del model  # large ones should not be in memory twice
        largest = max(1.0, float(np.abs(measured.logits).max()))
        allowed = checkpoint.tolerance.get(precision, _SHARES[precision] * largest) if tolerance is None else tolerance
        _copied(checkpoint, aside, measured, precision, allowed + checkpoint.tolerance.get("fp32", _OWN * largest))
        copy = replace(checkpoint, folder=aside, digest=folder_digest(aside))
        if (calibration := read_calibration(checkpoint)) is not None:
            write_calibration(copy, calibration)
            notes.append("the calibration was carried over: it was fitted on the model's own logits")
        parity = _parity(checkpoint, copy, measured, format, precision, allowed, notes)
        if not parity.holds:
            raise ParityError(
                f"{checkpoint.name} in {precision} ({format}) deviates from fp32 by {parity.largest:.4g}, allowed are "
                f"{allowed:.4g}; nothing was written. Take another precision, or allow more if that is little enough",
                parity,
            )
        _write_json(aside / PARITY, parity.to_dict())
        _write_card(checkpoint, parity, aside)
        again = open_checkpoint(aside)
        if again.frame != checkpoint.frame:
            raise ModelError(f"{checkpoint.name}: a folder has no place for the instruction; leave it out")
        open_scorer(replace(again, name=checkpoint.name)).close()  # which checks the golden pairs
        if out.is_dir():  # empty; Windows renames onto none
            out.rmdir()
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return parity


def _check(checkpoint: Checkpoint, out: Path, format: str, precision: str, tolerance: float | None) -> None:
    if format not in FORMATS or precision not in PRECISIONS:
        raise InputError(
            f"format {format!r} in precision {precision!r}: formats are {', '.join(FORMATS)}, "
            f"precisions {', '.join(PRECISIONS)}"
        )
    if tolerance is not None and not tolerance >= 0:
        raise InputError(f"the tolerance is {tolerance}; give the largest deviation of a logit that is allowed")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is there and not empty; name a new folder")
    if not out.parent.is_dir():
        raise InputError(f"{out.parent}: no such folder, so nothing can be written into it; make it first")
    name, kind = checkpoint.name, checkpoint.kind
    if checkpoint.exported is not None:
        raise ModelError(f"{name}: is an exported graph already; export the folder it was made from")
    if checkpoint.encoder.apart is not None:
        raise ModelError(
            f"{name}: a split encoder is several graphs, run one after the other, which one file cannot hold; "
            "use its folder as it is"
        )
    if checkpoint.head.kind != "classifier" or kind not in GRAPHS:
        raise ModelError(f"{name}: {kind!r} runs on transformers, there is no graph of ours of it to export")
    if precision == "int8" and kind not in BERT_LIKE:
        raise ModelError(f"{name}: int8 is for BERT, ELECTRA, RoBERTa and XLM-R; take fp16 for {kind!r}")


def _scales(checkpoint: Checkpoint, pairs: Pairs, notes: list[str]) -> tuple[Mapping[str, NDArray[Any]], Pairs]:
    """Scales, and the pairs that they were not found on."""
    if (checkpoint.folder / SCALES).is_file():
        notes.append(f"the int8 scales are those of the model's folder ({SCALES})")
        return read_scales(checkpoint), pairs
    if not pairs:
        raise ModelError(
            f"{checkpoint.name} has no int8 scales ({SCALES}); give pairs to find them on: some hundred queries with "
            "several texts each, like those that will be scored; or take fp16"
        )
    apart = pairs[_HELD_OUT - 1 :: _HELD_OUT]
    sample = [pair for i, pair in enumerate(pairs) if i % _HELD_OUT != _HELD_OUT - 1]
    notes.append(f"the int8 scales were found on {len(sample):,} queries with their texts; none of these was measured")
    return calibrate(checkpoint, sample), apart


def _reference(checkpoint: Checkpoint, pairs: Pairs) -> _Measured:
    """The pairs to measure on, and what the portable engine says of each of them alone."""
    engine = open_engine(checkpoint, engine="onnxruntime", profile="exact", threads=1, cache=None)
    tokens = Tokens(checkpoint.tokenizer, checkpoint.max_length, keep_bytes=0)
    groups = []
    for query, texts in [*_probes(checkpoint), *pairs[:: -(-len(pairs) // _QUERIES) or 1]]:
        rows = prepare(checkpoint, query, texts[:_TEXTS], tokens).rows if texts else ()
        kept = tuple((text, row) for text, row in zip(texts, rows, strict=False) if row is not None)
        if kept:
            groups.append((query, kept))
    logits = [engine.infer(_batch(checkpoint, [row])) for _, texts in groups for _, row in texts]
    if not logits:
        raise ModelError(
            f"{checkpoint.name}: no pair could be scored; its tokenizer is damaged, or it reads too little"
        )
    return _Measured(tuple(groups), np.concatenate(logits))


def _probes(checkpoint: Checkpoint) -> list[tuple[str, list[str]]]:
    """The golden pairs, and every probe's query with the texts of ten probes, its own and one of full length first."""
    texts = list(dict.fromkeys(text for _, text in PROBES))
    long = " ".join(texts) * (1 + checkpoint.max_length // 100)
    groups: list[tuple[str, list[str]]] = [(pair.query, [pair.document]) for pair in checkpoint.golden]
    for k, query in enumerate(dict.fromkeys(query for query, _ in PROBES)):
        own = [text for asked, text in PROBES if asked == query]
        others = [text for text in texts[k:] + texts[:k] if text not in own]
        groups.append((query, [*own, *([long] if k < 2 else []), *others]))
    return groups


def _batch(checkpoint: Checkpoint, rows: Sequence[Row]) -> Batch:
    return stacked(checkpoint, range(len(rows)), rows, checkpoint.max_length)


def _named(model: Any) -> Any:
    """The graph with the inputs' names and the output's shape, [batch, 1], that transformers' models have."""
    from onnx import TensorProto, checker, helper, numpy_helper

    graph = model.graph
    new = {**_NAMES, "logits": "flat_logits"}
    for one in [*graph.input, *graph.output]:
        one.name = new[one.name]
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new.get(name, name) for name in names]
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "label"))
    graph.node.append(helper.make_node("Unsqueeze", ["flat_logits", "label"], ["logits"], name="by_label"))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1]))
    if fits_memory(model):  # the checker takes no more
        checker.check_model(model)
    return model


def _halve(model: Any) -> None:
    """Keep matrices in fp16, with a Cast behind each. What is no matrix is small, and some of it needs fp32."""
    from onnx import TensorProto, checker, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2:
            name = tensor.name
            with np.errstate(over="ignore"):  # infinity is found when it is measured
                half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.fp16"))
            casts.append(
                helper.make_node("Cast", [f"{name}.fp16"], [name], name=f"{name}.widened", to=TensorProto.FLOAT)
            )
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + nodes)
    if fits_memory(model):  # the checker takes no more
        checker.check_model(model)


def _write_onnx(model: Any, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(model.SerializeToString())


def _write_openvino(model: Any, path: Path) -> None:
    openvino = _openvino()
    path.parent.mkdir()
    with tempfile.TemporaryDirectory(dir=path.parent, ignore_cleanup_errors=True) as aside:
        read = openvino.Core().read_model(saved(model, Path(aside)))
        # not compress_to_fp16: what is to be in fp16 is so already
        openvino.save_model(read, path, compress_to_fp16=False)
        del read  # it may hold the files of the folder


_WRITERS: dict[str, Callable[[Any, Path], None]] = {"onnx": _write_onnx, "openvino": _write_openvino}


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise ModelError("openvino is not installed; pip install openvino, or take the format onnx") from error
    return openvino


def _copied(checkpoint: Checkpoint, aside: Path, measured: _Measured, precision: str, allowed: float) -> None:
    """What else is in a model's folder, saying by itself what was known of the model by its name."""
    for path in sorted(checkpoint.folder.iterdir()):
        licence = path.name.upper().startswith(("LICENSE", "LICENCE", "NOTICE"))
        if path.is_file() and (licence or path.suffix in _KEPT) and path.name not in _LEFT:
            shutil.copyfile(path, aside / path.name)
    config = dict(checkpoint.config)
    stated = config.get("sentence_transformers")
    config["sentence_transformers"] = {
        **(stated if isinstance(stated, dict) else {}),
        "activation_fn": _ACTIVATIONS[checkpoint.activation],
    }
    _write_json(aside / "config.json", config)
    # transformers' tokenizers give token types only where they are told to
    inputs = [name for key, name in _NAMES.items() if key != "types" or checkpoint.typed]
    stated = read_json(aside / "tokenizer_config.json")
    tokenizer = {**stated, "model_max_length": checkpoint.max_length, "model_input_names": inputs}
    _write_json(aside / "tokenizer_config.json", tokenizer)
    golden = read_json(aside / "golden.json")
    golden.setdefault("pairs", [])
    if not golden["pairs"]:
        golden["pairs"] = _golden(measured)
    golden["tolerance"] = {**checkpoint.tolerance, precision: allowed}
    if checkpoint.licence != "unstated":
        golden["licence"] = checkpoint.licence
    if checkpoint.languages:
        golden["languages"] = list(checkpoint.languages)
    if checkpoint.family != "pair":
        golden["family"] = checkpoint.family
    _write_json(aside / "golden.json", golden)


def _golden(measured: _Measured) -> list[dict[str, Any]]:
    """The probes that are read whole, with their logits in fp32."""
    logits = iter(measured.logits.tolist())
    known = {(query, text): (next(logits), row.cut_tokens) for query, texts in measured.groups for text, row in texts}
    whole = [(pair, *known[pair]) for pair in PROBES if pair in known]
    return [{"query": query, "document": text, "logit": logit} for (query, text), logit, cut in whole if not cut]


def _parity(
    checkpoint: Checkpoint,
    copy: Checkpoint,
    measured: _Measured,
    format: Format,
    precision: Precision,
    allowed: float,
    notes: Iterable[str],
) -> Parity:
    files = [copy.folder / name for name in GRAPH_FILES[format]]
    engine, version, run = _opened(files[0], format)
    rows, logits = measured.rows, np.full(len(measured.logits), np.nan, np.float32)
    for positions in plan([len(row.ids) for row in rows], _BATCH):
        batch = _batch(checkpoint, [rows[i] for i in positions])
        logits[list(positions)] = run(
            {_NAMES["ids"]: batch.ids, _NAMES["mask"]: batch.mask, _NAMES["types"]: batch.types}
        )
    off = np.abs(logits.astype(np.float64) - measured.logits)
    ends = np.cumsum([len(texts) for _, texts in measured.groups])[:-1]
    return Parity(
        source=checkpoint.name,
        source_digest=checkpoint.digest,
        digest=copy.digest,
        format=format,
        precision=precision,
        engine=engine,
        engine_version=version,
        pairs=len(rows),
        cut=sum(row.cut_tokens > 0 for row in rows),
        largest_logit=float(np.abs(measured.logits).max()),
        largest=float(off.max()),
        mean=float(off.mean()),
        swapped=swapped(list(zip(np.split(measured.logits, ends), np.split(logits, ends), strict=True))),
        tolerance=allowed,
        bytes_before=sum(path.stat().st_size for path in weight_files(checkpoint.folder)),
        bytes_after=sum(path.stat().st_size for path in files),
        notes=tuple(notes),
    )


_Run = Callable[[Mapping[str, NDArray[Any]]], Float]


def _opened(path: Path, format: Format) -> tuple[str, str, _Run]:
    """The engine of a format, its version, and logits, [batch], from a graph on disk: opened as anybody would."""
    if format == "openvino":
        openvino = _openvino()
        compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        names = {one.get_any_name() for one in compiled.inputs}
        return (
            "openvino",
            openvino.__version__.split("-")[0],
            lambda inputs: compiled(_of(inputs, names))[0].reshape(-1),
        )
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = {one.name for one in session.get_inputs()}
    return "onnxruntime", onnxruntime.__version__, lambda inputs: session.run(None, _of(inputs, names))[0].reshape(-1)


def _of(inputs: Mapping[str, NDArray[Any]], names: set[str]) -> dict[str, NDArray[Any]]:
    return {name: values for name, values in inputs.items() if name in names}


def _write_card(checkpoint: Checkpoint, parity: Parity, aside: Path) -> None:
    """The model's own card with a section on the export; where it has none, one with the licence."""
    path = checkpoint.folder / "README.md"
    card = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else f"# {checkpoint.name}\n"
    if not re.match(r"---\n", card):
        licence = "" if checkpoint.licence == "unstated" else f"license: {checkpoint.licence.lower()}\n"
        card = f"---\n{licence}library_name: secondpass\npipeline_tag: text-ranking\n---\n{card}"
    table = "\n".join(f"| {name} | {value} |" for name, value in parity.table())
    notes = "".join(f"\n- {note}" for note in parity.notes)
    others = f'sentence_transformers.CrossEncoder(folder, backend="{parity.format}"{_OTHERS[parity.format]})'
    text = f"""{card.rstrip()}

## Exported

Made by `secondpass export`; the numbers are in `{PARITY}`. It computes as it was measured in

    secondpass.CrossEncoder(folder)
    {others}

| | |
|---|---|
{table}
{notes}
"""
    (aside / "README.md").write_text(text.rstrip() + "\n", encoding="utf-8")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
