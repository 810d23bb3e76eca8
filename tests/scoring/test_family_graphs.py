"""The graphs of the further families say what transformers says of the same tiny random checkpoint, row by row.

The reference reads each row alone and unpadded, with eager attention; the graphs read them so too, and all in one
padded batch. Lengths go beyond the reach of local attention and beyond where distances have a bucket of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

torch: Any = pytest.importorskip("torch", reason="needs the extra torch")
transformers: Any = pytest.importorskip("transformers", reason="needs transformers for the reference")

from secondpass.errors import ModelError  # noqa: E402
from secondpass.scoring import graph_parts  # noqa: E402
from secondpass.scoring.architecture import Encoder, read_encoder, renamed  # noqa: E402
from secondpass.scoring.batching import Batch  # noqa: E402
from secondpass.scoring.graph import bert_classifier  # noqa: E402
from secondpass.scoring.graph_deberta import deberta_classifier, distance_rows  # noqa: E402
from secondpass.scoring.graph_modernbert import modernbert_classifier  # noqa: E402

Float = NDArray[np.float32]
Inputs = dict[str, NDArray[np.int64]]
Run = Callable[[Inputs], Float]

VOCABULARY, POSITIONS = 60, 64
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": POSITIONS,
}
ROBERTA = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "max_position_embeddings": POSITIONS + 2}
MODERN: dict[str, Any] = {
    "local_attention": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
}
MODERN |= {"sep_token_id": 2, "num_hidden_layers": 4}
DEBERTA: dict[str, Any] = {
    "relative_attention": True,
    "position_biased_input": False,
    "position_buckets": 8,
    "type_vocab_size": 0,
}
DEBERTA |= {"norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": "p2c|c2p"}
BIASES = dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), True)
APART = {"share_att_key": False, "norm_rel_ebd": "none"}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert, gelu by tanh": ("Bert", {"hidden_act": "gelu_new"}),
    "electra, narrow embeddings": ("Electra", {"embedding_size": 16}),
    "electra, as wide": ("Electra", {"embedding_size": 32, "hidden_act": "relu"}),
    "roberta": ("Roberta", {**ROBERTA, "type_vocab_size": 1}),
    "xlm-roberta, two types": ("XLMRoberta", {**ROBERTA, "type_vocab_size": 2}),
    "modernbert": ("ModernBert", MODERN),
    "modernbert, its last layer local": ("ModernBert", {**MODERN, "num_hidden_layers": 3}),
    "modernbert, mean": ("ModernBert", {**MODERN, "classifier_pooling": "mean", "num_hidden_layers": 3}),
    "modernbert, biases": ("ModernBert", {**MODERN, **BIASES, "hidden_activation": "gelu_pytorch_tanh"}),
    "deberta": ("DebertaV2", DEBERTA),
    "deberta, distances apart": ("DebertaV2", {**DEBERTA, **APART, "type_vocab_size": 2}),
    "deberta, by key": ("DebertaV2", {**DEBERTA, **APART, "pos_att_type": ["c2p"]}),
    "deberta, by query": ("DebertaV2", {**DEBERTA, "pos_att_type": ["p2c"], "max_relative_positions": 30}),
    "deberta, no buckets": ("DebertaV2", {**DEBERTA, "position_buckets": -1, "max_relative_positions": 12}),
}
BERT_LIKE = [name for name, (family, _) in CASES.items() if family not in ("ModernBert", "DebertaV2")]

LENGTHS = (60, 3, 17, 44, 8, 31, 59, 5, 12, 23, 40, 4, 50, 9, 28, 36)


class Tiny:
    """A checkpoint in its family's own layout, read back from its folder, and what transformers says of the rows."""

    def __init__(self, case: str, folder: Path) -> None:
        family, options = CASES[case]
        settings = {**SIZES, **options, "num_labels": 1, "attn_implementation": "eager"}
        config = getattr(transformers, f"{family}Config")(**settings)
        model = transformers.AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()
        draw = np.random.default_rng(len(case))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(torch.from_numpy(drawn(name, tuple(parameter.shape), draw)))
        model.save_pretrained(folder)
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        kind = self.config["model_type"]
        tensors = load_file(folder / "model.safetensors")
        self.weights = {renamed(kind, name): tensor for name, tensor in tensors.items()}
        self.encoder: Encoder = read_encoder(folder, self.config)
        self.kind = kind

        types = int(self.config.get("type_vocab_size", 0))
        self.rows = [(draw.integers(5, VOCABULARY, n), draw.integers(0, max(types, 1), n)) for n in LENGTHS]
        with torch.inference_mode():
            self.logits = np.array([self._asked(model, *row, typed=types > 0) for row in self.rows], np.float32)

    def _asked(self, model: Any, ids: NDArray[np.int64], types: NDArray[np.int64], *, typed: bool) -> float:
        given = {"input_ids": torch.from_numpy(ids[None]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        if typed:
            given["token_type_ids"] = torch.from_numpy(types[None])
        return float(model(**given).logits[0, 0])

    def batch(self, rows: list[int] | None = None, padding: int = 0) -> Inputs:
        """Rows side by side; behind their ends lies anything."""
        chosen = [self.rows[k] for k in rows or range(len(self.rows))]
        width = max(len(ids) for ids, _ in chosen) + padding
        draw = np.random.default_rng(padding)
        out = {"ids": draw.integers(5, VOCABULARY, (len(chosen), width)), "mask": np.zeros((len(chosen), width), int)}
        out["types"] = np.zeros_like(out["mask"])
        for k, (ids, types) in enumerate(chosen):
            out["ids"][k, : len(ids)], out["mask"][k, : len(ids)], out["types"][k, : len(ids)] = ids, 1, types
        return out

    def graph(self, **options: Any) -> bytes:
        config = {**self.config, **options}
        if self.kind == "modernbert":
            model = modernbert_classifier(config, self.weights)
        elif self.kind == "deberta-v2":
            model = deberta_classifier(config, self.weights)
        else:
            model = bert_classifier(self.encoder, self.weights)
        return bytes(model.SerializeToString())


def drawn(name: str, shape: tuple[int, ...], draw: np.random.Generator) -> Float:
    """Weights under which logits spread and attention is far from even."""
    values = draw.standard_normal(shape)
    norm = "norm" in name.lower() and name.endswith("weight")
    scale = 0.15 if norm or name.endswith("bias") else 0.7 if "embeddings" in name else 0.3
    last = name in ("classifier.weight", "classifier.out_proj.weight")
    return (values * (1.0 if last else scale) + norm).astype(np.float32)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    return cache(lambda case: Tiny(case, tmp_path_factory.mktemp("family")))


def portable(model: bytes | Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(model) if isinstance(model, Path) else model, options, providers=["CPUExecutionProvider"]
    )
    names = [one.name for one in session.get_inputs()]
    return lambda inputs: np.array(session.run(["logits"], {name: inputs[name] for name in names})[0])


def openvino(model: bytes | Path) -> Run:
    core = pytest.importorskip("openvino", reason="needs openvino").Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    names = [one.get_any_name() for one in compiled.inputs]
    return lambda inputs: np.array(compiled({name: inputs[name] for name in names})[0])


@pytest.mark.parametrize("engine", [portable, openvino])
@pytest.mark.parametrize("case", CASES)
def test_a_graph_says_what_transformers_says(
    opened: Callable[[str], Tiny], case: str, engine: Callable[[bytes], Run]
) -> None:
    tiny = opened(case)
    assert np.ptp(tiny.logits) > 1  # or any order of rows would do
    run = engine(tiny.graph())
    alone = np.concatenate([run(tiny.batch([k])) for k in range(len(LENGTHS))])
    together, padded = run(tiny.batch()), run(tiny.batch(padding=POSITIONS - max(LENGTHS)))
    for logits in (alone, together, padded):
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, tiny.logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("largest", [0, 2**31])
def test_a_graph_too_large_for_one_file_is_read_from_two(
    opened: Callable[[str], Tiny], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    tiny = opened("roberta")
    monkeypatch.setattr(graph_parts, "_LARGEST", largest)
    path = graph_parts.saved(bert_classifier(tiny.encoder, tiny.weights), tmp_path)
    assert (tmp_path / "graph.data").is_file() == (largest == 0)
    for engine in (portable, openvino):
        np.testing.assert_allclose(engine(path)(tiny.batch()), tiny.logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", BERT_LIKE)
def test_torch_layers_say_it_too(opened: Callable[[str], Tiny], case: str) -> None:
    from secondpass.scoring.torch_layers import Classifier, Weights, arrays_of, pack, padded_attention

    tiny = opened(case)
    weights = Weights(tiny.weights, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        classifier = Classifier(tiny.encoder, weights, padded_attention)
        for rows in ([*range(len(LENGTHS))], [3], [0]):
            given = tiny.batch(rows)
            tokens = int(given["mask"].sum())
            arrays = arrays_of(Batch(tuple(rows), given["ids"], given["mask"], given["types"]), tokens, len(rows))
            logits = classifier(pack(torch.from_numpy(arrays), tokens, given["ids"].shape[1])).numpy()
            np.testing.assert_allclose(logits, tiny.logits[rows], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("case", "option"),
    [
        ("modernbert", {"local_attention": 6}),
        ("modernbert", {"local_attention": 1000}),
        ("modernbert", {"layer_types": ["full_attention", "sliding_attention"] * 2}),
        ("modernbert", {"classifier_pooling": "mean"}),
        ("modernbert", {"hidden_activation": "relu"}),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_theta": 10.0}}}),
        ("deberta", {"pos_att_type": "c2p"}),
        ("deberta", {"norm_rel_ebd": "none"}),
        ("deberta", {"max_relative_positions": 30}),
    ],
)
def test_every_option_of_the_reference_is_seen_in_its_logits(
    opened: Callable[[str], Tiny], case: str, option: Mapping[str, Any]
) -> None:
    tiny = opened(case)
    other = portable(tiny.graph(**option))(tiny.batch())
    assert np.abs(other - tiny.logits).max() > 1e-2


def test_a_config_of_before_transformers_5_is_the_same_model(opened: Callable[[str], Tiny]) -> None:
    tiny = opened("modernbert")
    old = {"global_attn_every_n_layers": 3, "global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0}
    assert {"rope_parameters", "layer_types"} <= tiny.config.keys()  # what today's transformers writes in their place
    assert tiny.graph(**old, rope_parameters=None, layer_types=None) == tiny.graph()
    assert tiny.graph(**old | {"local_rope_theta": 99.0}, rope_parameters=None, layer_types=None) != tiny.graph()
    assert tiny.graph(**old | {"global_rope_theta": 99.0}, rope_parameters=None, layer_types=None) != tiny.graph()
    one_theta = {"global_rope_theta": 50.0, "local_rope_theta": None}  # none of its own: the other kind's
    same = {"rope_parameters": {kind: {"rope_theta": 50.0} for kind in ("full_attention", "sliding_attention")}}
    assert tiny.graph(**old | one_theta, rope_parameters=None, layer_types=None) == tiny.graph(**same)


@pytest.mark.parametrize(("buckets", "reach"), [(256, 512), (8, 64), (32, 128), (6, 30), (-1, 12), (256, 1024)])
def test_distances_have_the_rows_that_transformers_gives_them(buckets: int, reach: int) -> None:
    from transformers.models.deberta_v2 import modeling_deberta_v2 as reference

    farthest = 2 * reach
    distances = torch.arange(-farthest, farthest + 1)
    span = buckets if buckets > 0 else reach
    if buckets > 0:
        distances = reference.make_log_bucket_position(distances, buckets, reach).to(torch.long)
    expected = torch.clamp(distances + span, 0, 2 * span - 1).numpy()
    np.testing.assert_array_equal(distance_rows(buckets, reach, farthest), expected)


@pytest.mark.parametrize(
    ("case", "option", "said"),
    [
        ("deberta", {"conv_kernel_size": 3}, "conv_kernel_size = 3"),
        ("deberta", {"position_biased_input": True}, "position_biased_input"),
        ("deberta", {"relative_attention": False}, "relative_attention"),
        ("deberta", {"embedding_size": 16}, "embedding_size"),
        ("deberta", {"hidden_act": "quick_gelu"}, "quick_gelu"),
        ("modernbert", {"hidden_activation": "silu"}, "silu"),
        ("modernbert", {"classifier_pooling": "max"}, "max"),
        ("modernbert", {"attention_bias": True}, "attention_bias"),
        ("modernbert, biases", {"norm_bias": False}, "norm_bias"),
        ("modernbert", {"layer_types": ["full_attention"]}, "layer_types"),
        ("modernbert", {"rope_scaling": {"rope_type": "yarn"}}, "yarn"),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "linear"}}}, "linear"),
    ],
)
def test_what_a_graph_cannot_compute_is_refused(
    opened: Callable[[str], Tiny], case: str, option: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        opened(case).graph(**option)
