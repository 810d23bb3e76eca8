"""An exported folder scores as its model does, here and in sentence-transformers, or it is not written at all."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from secondpass.errors import GoldenError, InputError, ModelError, ParityError
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring import exporting, graph_parts
from secondpass.scoring.architecture import Head
from secondpass.scoring.calibration import calibrate
from secondpass.scoring.checkpoint import Checkpoint, open_checkpoint
from secondpass.scoring.exporting import FORMATS, PRECISIONS, export
from secondpass.scoring.parity import PARITY, Parity, read_parity, swapped
from secondpass.scoring.probability import Calibration, Logistic, read_calibration, write_calibration
from secondpass.scoring.probes import PROBES
from secondpass.scoring.scales import write_scales
from secondpass.weights import GRAPH_FILES, graph_files
from tiny import tiny_checkpoint, tiny_split

QUERY = "sort a list"
TEXTS = ["list sort in place", "a snake of the river bank", "the date of a document " * 60, "python", "query " * 9]
PAIRS = [(f"{QUERY} {i}", [*TEXTS, f"file {i}"]) for i in range(10)]
ALL = [(format, precision) for format in FORMATS for precision in PRECISIONS]


def scores(model: CrossEncoder, texts: list[str] = TEXTS, query: str = QUERY) -> np.ndarray[Any, Any]:
    return np.array(model.score(query, texts).values, np.float64)


def opened(folder: Path, **options: Any) -> CrossEncoder:
    return CrossEncoder(folder, threads=1, **options)


@pytest.fixture(scope="module")
def checkpoint(tiny: Path) -> Checkpoint:
    return open_checkpoint(tiny)


@pytest.fixture(scope="module")
def exports(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """The tiny model in each format and precision; read-only."""
    place = tmp_path_factory.mktemp("exports")
    for format, precision in ALL:
        export(checkpoint, place / f"{format}-{precision}", format=format, precision=precision, pairs=PAIRS)
    return {(format, precision): place / f"{format}-{precision}" for format, precision in ALL}


@pytest.fixture(scope="module")
def exact(tiny: Path, cache: Path) -> CrossEncoder:
    """The model itself, in fp32 on the portable engine."""
    return opened(tiny, profile="exact", engine="onnxruntime", cache_dir=cache)


@pytest.fixture(scope="module")
def models(exports: dict[tuple[str, str], Path]) -> dict[tuple[str, str], CrossEncoder]:
    """The exports, opened once."""
    return {one: opened(folder) for one, folder in exports.items()}


@pytest.fixture
def copy(exports: dict[tuple[str, str], Path], tmp_path: Path) -> Path:
    """An export of one's own to break."""
    return Path(shutil.copytree(exports["onnx", "int8"], tmp_path / "copy"))


@pytest.mark.parametrize(("format", "precision"), ALL)
def test_it_opens_again_and_scores_as_it_was_measured(
    exports: dict[tuple[str, str], Path],
    models: dict[tuple[str, str], CrossEncoder],
    exact: CrossEncoder,
    format: str,
    precision: str,
) -> None:
    model = models[format, precision]
    detail = model.score(QUERY, TEXTS).trace.detail
    assert detail["precision"] == precision
    assert detail["engine"] == {"onnx": "onnxruntime", "openvino": "openvino"}[format]
    assert detail["digest"] != exact.scorer.checkpoint.digest
    told = json.loads((exports[format, precision] / PARITY).read_text(encoding="utf-8"))
    assert np.abs(scores(model) - scores(exact)).max() <= told["tolerance"]
    # alone, on the pairs that were measured in batches: as far off as was told
    probed = [scores(model, [text], query) - scores(exact, [text], query) for query, text in PROBES[:6]]
    assert np.abs(probed).max() <= told["largest"] + 1e-5
    least = {"fp32": 0.0, "fp16": 1e-5, "int8": 1e-3}[precision]
    most = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.05}[precision] * max(1.0, told["largest_logit"])
    assert least <= told["largest"] <= told["tolerance"] == pytest.approx(most)
    assert told["mean"] <= told["largest"]
    assert (told["swapped"] > 0.01) == (precision == "int8")
    assert told["cut"] >= 2


@pytest.mark.parametrize(("format", "precision"), ALL)
def test_the_files_lie_and_are_named_as_sentence_transformers_has_them(
    exports: dict[tuple[str, str], Path], format: str, precision: str
) -> None:
    folder = exports[format, precision]
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / "onnx" / "model.onnx"))
        inputs = {one.name: one.type for one in session.get_inputs()}
        outputs = {one.name: one.shape for one in session.get_outputs()}
        assert set(inputs.values()) == {"tensor(int64)"}
        assert list(outputs["logits"])[1:] == [1]
    else:
        openvino = pytest.importorskip("openvino")
        model = openvino.Core().read_model(folder / "openvino" / "openvino_model.xml")
        inputs = {one.get_any_name(): "" for one in model.inputs}
        outputs = {one.get_any_name(): [str(size) for size in one.partial_shape] for one in model.outputs}
        assert outputs["logits"][1:] == ["1"]
    assert set(inputs) == {"input_ids", "attention_mask", "token_type_ids"}
    assert set(outputs) == {"logits"}
    assert not list(folder.glob("*.safetensors"))
    assert (folder / "tokenizer.json").is_file()
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"] == "bert"
    assert set(json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["model_input_names"]) == set(
        inputs
    )


def test_fp16_halves_the_matrices_and_nothing_else(exports: dict[tuple[str, str], Path]) -> None:
    import onnx

    for precision, type_ in (("fp32", onnx.TensorProto.FLOAT), ("fp16", onnx.TensorProto.FLOAT16)):
        graph = onnx.load(exports["onnx", precision] / "onnx" / "model.onnx").graph
        kinds = {(len(one.dims) >= 2): set[int]() for one in graph.initializer}
        for one in graph.initializer:
            kinds[len(one.dims) >= 2].add(one.data_type)
        assert kinds[True] == {type_}
        assert onnx.TensorProto.FLOAT16 not in kinds[False]
    for format in FORMATS:
        heaviest = {p: max(file.stat().st_size for file in graph_files(exports[format, p])) for p in PRECISIONS}
        if format == "onnx":
            assert heaviest["int8"] < heaviest["fp16"] < 0.6 * heaviest["fp32"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_deviation_that_is_too_large_leaves_nothing(checkpoint: Checkpoint, tmp_path: Path, format: Any) -> None:
    with pytest.raises(
        ParityError, match=r"fp16 .* deviates from fp32 by .*, allowed are 0; nothing was written"
    ) as told:
        export(checkpoint, tmp_path / "out", format=format, precision="fp16", tolerance=0)
    assert isinstance(told.value.parity, Parity)
    assert not told.value.parity.holds
    assert told.value.parity.largest > 0
    assert list(tmp_path.iterdir()) == []


def test_weights_that_fp16_cannot_hold_are_found(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors["bert.embeddings.word_embeddings.weight"][-60:] *= 1e6
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ParityError, match="nan") as told:
        export(open_checkpoint(folder), tmp_path / "out", format="onnx", precision="fp16")
    assert math.isnan(told.value.parity.largest)  # type: ignore[attr-defined]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_writer_that_damages_the_graph_is_found(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnx import numpy_helper

    def write(model: Any, path: Path) -> None:
        (bias,) = (one for one in model.graph.initializer if one.name == "classifier.bias")
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.01), bias.name))
        right(model, path)

    right = exporting._WRITERS["onnx"]
    monkeypatch.setitem(exporting._WRITERS, "onnx", write)
    with pytest.raises(ParityError, match=r"by 0\.01"):
        export(checkpoint, tmp_path / "out", format="onnx", precision="fp32")
    assert list(tmp_path.iterdir()) == []


def test_int8_takes_the_folders_scales_or_pairs_or_is_refused(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    plain = open_checkpoint(folder)
    with pytest.raises(ModelError, match=r"no int8 scales .*give pairs"):
        export(plain, tmp_path / "out", format="onnx", precision="int8")
    found = export(plain, tmp_path / "found", format="onnx", precision="int8", pairs=PAIRS)
    probed = export(plain, tmp_path / "probed", format="onnx", precision="fp32")
    # of ten queries two are held out: what the scales were found on says nothing of others
    assert found.pairs == probed.pairs + 2 * len(PAIRS[0][1])
    assert "found on 8 queries" in found.notes[0]
    write_scales(plain, calibrate(plain, PAIRS[:2]))
    given_ = export(plain, tmp_path / "given", format="onnx", precision="int8", pairs=PAIRS)
    assert "those of the model's folder" in given_.notes[0]
    assert given_.pairs == probed.pairs + len(PAIRS) * len(PAIRS[0][1])
    graphs = [(tmp_path / name / "onnx" / "model.onnx").read_bytes() for name in ("found", "given")]
    assert graphs[0] != graphs[1]
    assert not (tmp_path / "given" / "int8.safetensors").exists()


def test_a_model_that_fails_its_own_golden_pairs_is_not_exported(tmp_path: Path, tiny: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "m"))
    pair = {"query": "q", "document": "d", "logit": 100.0}
    (folder / "golden.json").write_text(json.dumps({"pairs": [pair]}))
    with pytest.raises(GoldenError, match="/m on onnxruntime"):
        export(open_checkpoint(folder), tmp_path / "out", format="onnx", precision="fp32")
    assert list(tmp_path.iterdir()) == [folder]


def test_weights_in_shards_become_one_graph(tmp_path: Path, tiny: Path, exact: CrossEncoder) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "m"))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = {name: f"model-{k % 2}.safetensors" for k, name in enumerate(tensors)}
    for shard in set(shards.values()):
        save_file({name: tensor for name, tensor in tensors.items() if shards[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    parity = export(open_checkpoint(folder), tmp_path / "out", format="onnx", precision="fp32")
    assert parity.bytes_before == sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    np.testing.assert_allclose(scores(opened(tmp_path / "out")), scores(exact), atol=1e-4)


def test_two_texts_of_full_length_are_measured_whatever_that_is(checkpoint: Checkpoint) -> None:
    for length in (128, 512, 2048):
        groups = exporting._probes(replace(checkpoint, max_length=length))
        counts = [len(checkpoint.tokenizer.encode(text).ids) for _, texts in groups for text in texts[:10]]
        assert sum(count > length for count in counts) >= 2
        assert min(counts) < 30


def test_many_pairs_are_sampled_evenly(checkpoint: Checkpoint, tmp_path: Path) -> None:
    many = [(f"sort {i}", [f"file {k}" for k in range(12)]) for i in range(150)]
    few = export(checkpoint, tmp_path / "few", format="onnx", precision="fp32").pairs
    assert export(checkpoint, tmp_path / "many", format="onnx", precision="fp32", pairs=many).pairs == few + 75 * 10


def test_what_a_folder_says_of_itself_is_carried_over(tmp_path: Path, tiny: Path, exact: CrossEncoder) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "m"))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A card\nwith words\n")
    (folder / "LICENSE").write_text("MIT")
    (folder / "secrets.bin").write_bytes(b"x")
    pair = {"query": "q", "document": "d", "logit": float(scores(exact, ["d"], "q")[0])}
    golden = {"languages": ["de"], "tolerance": {"fp32": 1e-4, "fp16": 0.5}, "pairs": [pair]}
    (folder / "golden.json").write_text(json.dumps(golden))
    checkpoint = open_checkpoint(folder)
    calibration = Calibration(Logistic(1.5, -0.5), Logistic(1.25, -0.25, first=0.5))
    write_calibration(checkpoint, calibration)
    known = replace(checkpoint, activation="identity", max_length=64)  # as the catalog knows some by their names
    parity = export(known, tmp_path / "out", format="onnx", precision="fp16")
    assert parity.tolerance == 0.5
    again = open_checkpoint(tmp_path / "out")
    assert again.licence == "mit"
    assert again.languages == ("de",)
    assert (again.activation, again.max_length) == ("identity", 64)
    assert again.golden == checkpoint.golden
    assert again.tolerance == pytest.approx({"fp32": 1e-4, "fp16": 0.5001})
    assert read_calibration(again) == calibration
    assert any("calibration was carried over" in note for note in parity.notes)
    assert again.exported == parity
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: mit\n---\n# A card\nwith words\n\n## Exported\n")
    assert f"| deviation | {parity.largest:.3g} at most" in card
    assert (tmp_path / "out" / "LICENSE").read_text(encoding="utf-8") == "MIT"
    assert not (tmp_path / "out" / "secrets.bin").exists()


def test_a_licence_that_only_the_catalog_knew_stays_with_the_folder(checkpoint: Checkpoint, tmp_path: Path) -> None:
    export(replace(checkpoint, licence="Apache-2.0"), tmp_path / "out", format="onnx", precision="fp32")
    assert open_checkpoint(tmp_path / "out").licence == "Apache-2.0"
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8").startswith("---\nlicense: apache-2.0\n")
    (tmp_path / "out" / "golden.json").unlink()
    assert open_checkpoint(tmp_path / "out").licence == "apache-2.0"


def test_the_golden_pairs_are_the_models_own_in_fp32(
    models: dict[tuple[str, str], CrossEncoder], exact: CrossEncoder
) -> None:
    written = models["onnx", "int8"].scorer.checkpoint
    whole = [pair for pair in PROBES if len(written.tokenizer.encode(*pair).ids) <= written.max_length]
    assert [(pair.query, pair.document) for pair in written.golden] == whole
    assert 3 < len(whole) < len(PROBES)
    for pair in written.golden:
        (logit,) = scores(exact, [pair.document], pair.query)
        assert pair.logit == pytest.approx(logit, abs=1e-5)


def test_golden_pairs_are_checked_at_load(copy: Path) -> None:
    golden = json.loads((copy / "golden.json").read_text(encoding="utf-8"))
    golden["pairs"][0]["logit"] += 2
    (copy / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(ModelError, match="golden pairs deviate"):
        CrossEncoder(copy)


def test_a_short_length_and_a_folder_without_golden_pairs_still_open(copy: Path) -> None:
    assert np.isfinite(scores(opened(copy, max_length=24))).all()  # no golden pair is that short
    (copy / "golden.json").unlink()
    assert np.isfinite(scores(opened(copy))).all()


def test_another_graph_than_the_one_measured_is_refused(copy: Path, exports: dict[tuple[str, str], Path]) -> None:
    shutil.copyfile(exports["onnx", "fp16"] / "onnx" / "model.onnx", copy / "onnx" / "model.onnx")
    with pytest.raises(ModelError, match="measured on another graph"):
        open_checkpoint(copy)


def test_another_configuration_than_the_one_measured_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, "pad_token_id": 3}))
    with pytest.raises(ModelError, match="configuration"):
        open_checkpoint(copy)


@pytest.mark.parametrize("wrong", ["", "[]", "{}", '{"holds": true, "notes": [], "largest": 0}'])
def test_a_damaged_report_is_refused(copy: Path, wrong: str) -> None:
    (copy / PARITY).write_text(wrong)
    with pytest.raises(ModelError, match=r"parity\.json: damaged"):
        open_checkpoint(copy)


def test_a_report_that_does_not_hold_is_refused(copy: Path) -> None:
    told = json.loads((copy / PARITY).read_text(encoding="utf-8"))
    (copy / PARITY).write_text(json.dumps({**told, "largest": 100.0}))
    with pytest.raises(ModelError, match="export it again"):
        open_checkpoint(copy)


def test_a_graph_that_nobody_measured_is_refused(copy: Path) -> None:
    (copy / PARITY).unlink()
    with pytest.raises(ModelError, match=r"model\.onnx: a graph without parity\.json"):
        open_checkpoint(copy)


def test_a_graph_beside_weights_is_not_looked_at(tmp_path: Path, copy: Path, tiny: Path) -> None:
    both = Path(shutil.copytree(tiny, tmp_path / "both"))
    shutil.copytree(copy / "onnx", both / "onnx")
    assert graph_files(both) == []
    assert open_checkpoint(both).exported is None
    assert open_checkpoint(both).digest == open_checkpoint(tiny).digest
    assert read_parity(both, "") is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"profile": "exact"}, r"exported for onnxruntime in int8, and profile 'exact' is fp32; leave profile= out"),
        ({"engine": "openvino"}, "leave engine= and device= out"),
        ({"engine": "torch"}, "leave engine= and device= out"),
        ({"device": "cuda"}, "or open the folder it was made from"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_it_runs_as_it_was_measured_or_not_at_all(
    exports: dict[tuple[str, str], Path], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ModelError, match=says):
        CrossEncoder(exports["onnx", "int8"], **options)


def test_the_profile_that_it_was_exported_in_may_be_named(
    exports: dict[tuple[str, str], Path], models: dict[tuple[str, str], CrossEncoder]
) -> None:
    for precision, profile in (("int8", "fast"), ("fp32", "exact")):
        named = opened(exports["onnx", precision], profile=profile)
        np.testing.assert_array_equal(scores(named), scores(models["onnx", precision]))


def test_there_are_no_weights_to_take(exports: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    checkpoint = open_checkpoint(exports["openvino", "fp16"])
    with pytest.raises(ModelError, match="exported graph and has no weights"):
        checkpoint.weights()
    with pytest.raises(ModelError, match="exported graph already"):
        export(checkpoint, tmp_path / "out", format="onnx", precision="fp32")


def test_only_what_one_graph_can_hold_is_exported(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(one: Checkpoint, says: str, precision: Any = "fp32", pairs: Any = ()) -> None:
        with pytest.raises(ModelError, match=says):
            export(one, tmp_path / "out", format="onnx", precision=precision, pairs=pairs)

    refused(open_checkpoint(tiny_split(tmp_path / "split")), "split encoder is several graphs")
    refused(replace(checkpoint, head=Head("causal", 5), kind="qwen3"), "'qwen3' runs on transformers")
    refused(replace(checkpoint, kind="modernbert"), "take fp16 for 'modernbert'", "int8", PAIRS)
    # the tiny model's graph takes some 100 kB in fp32 and half of that in fp16
    monkeypatch.setattr(graph_parts, "_LARGEST", 80_000)
    refused(checkpoint, "in fp32 exceeds the 2 GiB of an ONNX file; take fp16 or openvino")
    assert [path.name for path in tmp_path.iterdir()] == ["split"]
    assert export(checkpoint, tmp_path / "halved", format="onnx", precision="fp16").holds
    pytest.importorskip("openvino", reason="not on this platform")
    assert export(checkpoint, tmp_path / "other", format="openvino", precision="fp32").holds


def test_a_place_that_is_taken_is_left_as_it_is(checkpoint: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="make it first"):
        export(checkpoint, tmp_path / "no" / "out", format="onnx", precision="fp32")
    out.mkdir()
    export(checkpoint, out, format="onnx", precision="fp32")  # an empty folder is as good as none
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for place in (out, out / "README.md"):
        with pytest.raises(InputError, match="is there and not empty"):
            export(checkpoint, place, format="onnx", precision="fp16")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    "wrong", [{"format": "tflite"}, {"precision": "int4"}, {"tolerance": -1.0}, {"tolerance": math.nan}]
)
def test_settings_that_mean_nothing_are_refused(checkpoint: Checkpoint, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"precisions fp32, fp16, int8|give the largest deviation"):
        export(checkpoint, tmp_path / "out", **{"format": "onnx", "precision": "fp32", **wrong})


@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), max_size=8))
def test_swapped_counts_neighbours_whose_order_turns(values: list[tuple[int, int]]) -> None:
    first, second = (np.array([pair[k] for pair in values], np.float32) for k in (0, 1))
    ranked = sorted(values, key=lambda pair: -pair[0])
    near = [(a, b) for a, b in itertools.pairwise(ranked) if a[0] > b[0]]
    expected = sum(b[1] > a[1] for a, b in near) / len(near) if near else 0.0
    assert swapped([(first, second)]) == pytest.approx(expected)
    assert swapped([(first, first), (second, second)]) == 0


def test_swapped_looks_at_one_query_at_a_time() -> None:
    up = np.array([1.0, 2.0, 3.0], np.float32)
    assert swapped([(up, -up), (up, up)]) == 0.5
    assert swapped([(up, up), (up + 10, up)]) == 0  # of another query, so no neighbours


FAMILIES = ("electra", "roberta", "xlm-roberta", "deberta-v2", "modernbert")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", FAMILIES)
def test_other_families_come_out_alike(tmp_path: Path, cache: Path, kind: str, format: Any) -> None:
    pytest.importorskip("torch", reason="needs the extra torch")
    from tiny_families import build

    folder = build(kind, tmp_path / "m")
    export(open_checkpoint(folder), tmp_path / "out", format=format, precision="fp16")
    exact = scores(opened(folder, profile="exact", cache_dir=cache))
    assert np.abs(scores(opened(tmp_path / "out")) - exact).max() <= 1e-2 * max(1.0, np.abs(exact).max())


@pytest.mark.parametrize("format", FORMATS)
def test_sentence_transformers_finds_the_graph(exports: dict[tuple[str, str], Path], format: str) -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra torch")
    finder = importlib.import_module("sentence_transformers.backend.utils").backend_should_export
    name, pattern = {"onnx": ("model.onnx", "*.onnx"), "openvino": ("openvino_model.xml", "openvino*.xml")}[format]
    called = {"onnx": "ONNX", "openvino": "OpenVINO"}[format]
    make, where = finder(exports[format, "fp32"], True, {}, name, pattern, called)
    assert not make
    assert Path(where["subfolder"], where["file_name"]) == Path(GRAPH_FILES[format][0])


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")  # its libraries' own
@pytest.mark.parametrize(("format", "precision"), ALL)
def test_sentence_transformers_scores_as_we_do(
    exports: dict[tuple[str, str], Path],
    models: dict[tuple[str, str], CrossEncoder],
    format: Any,
    precision: str,
) -> None:
    module = {"onnx": "optimum.onnxruntime", "openvino": "optimum.intel.openvino"}[format]
    pytest.importorskip(module, reason=f"sentence-transformers needs {module.split('.')[0]} for {format}")
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the extra torch")
    torch: Any = importlib.import_module("torch")
    folder = exports[format, precision]
    (line,) = (
        one for one in (folder / "README.md").read_text(encoding="utf-8").splitlines() if "sentence_transformers" in one
    )
    model = eval(
        line.strip(), {"sentence_transformers": sentence_transformers, "folder": str(folder)}
    )  # as the card says
    assert model.get_backend() == format
    pairs = [(QUERY, text) for text in TEXTS]
    theirs = model.predict(pairs, activation_fn=torch.nn.Identity(), batch_size=3)
    np.testing.assert_allclose(theirs, scores(models[format, precision]), atol=1e-3)
    np.testing.assert_allclose(model.predict(pairs), models[format, precision].predict(pairs), atol=1e-3)
