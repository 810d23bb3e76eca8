"""What config.json and the weights of each architecture say: its head, its sizes, the names of its tensors.

Knows: the keys and the names that each `model_type` uses, and one name for each part that the graphs of the BERT-like
share. Refuses to know: files, tokens, engines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from secondpass.errors import ModelError

__all__ = [
    "BERT_LIKE",
    "GRAPHS",
    "SPLIT",
    "Encoder",
    "Head",
    "head_kind",
    "missing",
    "needs_code",
    "read_encoder",
    "renamed",
]

SPLIT = "secondpass-split"  # the model_type of a split encoder, unknown elsewhere: nothing else scores it wrongly
REMOTE = "remote"  # what is computed by the folder's own code
BERT_LIKE = ("bert", "electra", "roberta", "xlm-roberta", SPLIT)
GRAPHS = (*BERT_LIKE, "modernbert", "deberta-v2")  # what there is a graph of; the rest runs on transformers

_PREFIXES = {
    "bert": "bert.",
    SPLIT: "bert.",
    "electra": "electra.",
    "roberta": "roberta.",
    "xlm-roberta": "roberta.",
    "deberta-v2": "deberta.",
    "modernbert": "model.",
}
_HEADS = {"classifier.dense.": "pooler.dense.", "classifier.out_proj.": "classifier."}
_ACTIVATIONS = ("gelu", "relu", "gelu_new", "gelu_pytorch_tanh")
_ENDS = {"ForSequenceClassification": "classifier", "ForCausalLM": "causal", "ForConditionalGeneration": "seq2seq"}

HeadKind = Literal["classifier", "causal", "seq2seq"]


@dataclass(frozen=True, slots=True)
class Head:
    """How a score is read off: a classifier's one label, or the logits of two tokens.

    "causal": at the last token; "seq2seq": at the first decoder step. The logit is (h·W_positive − h·W_negative) /
    scale, or h·W_positive / scale without a negative.
    """

    kind: HeadKind = "classifier"
    positive: int = -1
    negative: int | None = None
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Encoder:
    """The sizes of a transformer; a BERT-like graph is built from these.

    `positions` are those that tokens can have, the first being row `first_position` of their table. A split encoder
    (see `split`) reads query and document apart in its first `apart` layers and has a head after each of the layers
    `exits`, the last one among them; None and () for the others. If `summed`, its logit is the last head's and
    that after the `apart` layers together.
    """

    layers: int
    hidden: int
    heads: int
    intermediate: int
    positions: int
    epsilon: float
    activation: str
    apart: int | None = None
    exits: tuple[int, ...] = ()
    summed: bool = False
    kind: str = "bert"
    first_position: int = 0
    head_activation: str = "tanh"


def head_kind(config: Mapping[str, Any]) -> HeadKind | None:
    """What config.json's architecture ends in; None where that is no head that ranks."""
    if config.get("model_type") == SPLIT:
        return "classifier"
    for architecture in config.get("architectures") or []:
        for end, kind in _ENDS.items():
            if str(architecture).endswith(end):
                return kind  # type: ignore[return-value]
    return None


def needs_code(config: Mapping[str, Any]) -> bool:
    """Whether the folder brings the code of its model itself; a configuration class alone is not needed."""
    own = config.get("auto_map")
    return isinstance(own, dict) and any(str(key).startswith("AutoModel") for key in own)


def read_encoder(folder: Path, config: Mapping[str, Any]) -> Encoder:
    """The sizes that config.json states. Raises ModelError for one that is missing or that no graph can be built of."""
    kind = REMOTE if needs_code(config) else str(config.get("model_type"))

    def number(*names: str, default: float | None = None) -> float:
        for name in names:
            if isinstance(value := config.get(name), int | float):
                return value
        if default is None:
            raise ModelError(f"{folder}: config.json lacks {names[0]}")
        return default

    pad = config.get("pad_token_id")
    first = (1 if pad is None else int(pad)) + 1 if kind in ("roberta", "xlm-roberta") else 0
    hidden = int(number("hidden_size", "d_model"))
    activation = str(config.get("hidden_act", config.get("hidden_activation", "gelu")))
    if kind in BERT_LIKE:
        positions = config.get("position_embedding_type", "absolute")
        if positions != "absolute":
            raise ModelError(f"{folder}: position_embedding_type {positions!r} is not supported, only 'absolute'")
        if activation not in _ACTIVATIONS:
            raise ModelError(f"{folder}: hidden_act {activation!r} is not supported, only {', '.join(_ACTIVATIONS)}")
    apart, exits, summed = _split(folder, config)
    return Encoder(
        layers=int(number("num_hidden_layers", "num_layers", "n_layers")),
        hidden=hidden,
        heads=int(number("num_attention_heads", "num_heads", "n_heads")),
        intermediate=int(number("intermediate_size", "d_ff", "hidden_dim", default=4 * hidden)),
        positions=int(number("max_position_embeddings", "n_positions", default=512)) - first,
        epsilon=float(number("layer_norm_eps", "norm_eps", "rms_norm_eps", "layer_norm_epsilon", default=1e-12)),
        activation=activation,
        apart=apart,
        exits=exits,
        summed=summed,
        kind=kind,
        first_position=first,
        head_activation="gelu" if kind == "electra" else "tanh",
    )


def _split(folder: Path, config: Mapping[str, Any]) -> tuple[int | None, tuple[int, ...], bool]:
    """How a split encoder is cut, where it has heads, and whether they are summed. Raises ModelError where that makes
    no sense."""
    if config.get("model_type") != SPLIT:
        return None, (), False
    apart, exits, layers = config.get("apart"), config.get("exits"), int(config["num_hidden_layers"])
    if not isinstance(apart, int) or not 0 <= apart < layers:
        raise ModelError(f"{folder}: config.json says apart = {apart!r}; of {layers} layers 0 to {layers - 1} can be")
    if not isinstance(exits, list) or exits != sorted({*exits, layers}) or not all(apart <= e <= layers for e in exits):
        raise ModelError(
            f"{folder}: config.json says exits = {exits!r}; give layers from {apart} up in order, {layers} the last"
        )
    summed = config.get("summed", False)
    if not isinstance(summed, bool) or (summed and apart not in exits):
        raise ModelError(f"{folder}: config.json says summed = {summed!r}; it needs a head after layer {apart}")
    return apart, tuple(exits), summed


def renamed(kind: str, name: str) -> str:
    """The name of a tensor without its family's prefix, the head's two linear layers as `pooler.dense` and
    `classifier` whatever the family calls them, and the oldest checkpoints' norms as today's."""
    name = name.removeprefix(_PREFIXES.get(kind, ""))
    if kind in ("electra", "roberta", "xlm-roberta"):
        for old, new in _HEADS.items():
            if name.startswith(old):
                name = new + name.removeprefix(old)
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(f"LayerNorm{old}"):
            name = name.removesuffix(old) + new
    return name


def missing(encoder: Encoder, names: Iterable[str]) -> list[str]:
    """The tensors, by their common names, that a graph would lack; those of the head before the others."""
    kind, there = encoder.kind, set(names)
    if kind == SPLIT:
        parts = ("factors", "token.weight", "inner.weight", "inner.bias", "outer.weight", "outer.bias")
        head = [f"heads.{i}.{part}" for i in encoder.exits for part in parts]
        head += [f"encoder.layer.{i}.gate" for i in range(encoder.apart or 0, encoder.layers)]
    elif kind == "modernbert":
        head = ["classifier.weight", "classifier.bias", "head.dense.weight", "head.norm.weight"]
    else:
        head = ["classifier.weight", "classifier.bias", "pooler.dense.weight", "pooler.dense.bias"]
    if kind == "modernbert":
        trunk = ["embeddings.tok_embeddings.weight", "final_norm.weight"]
        trunk += [f"layers.{i}.mlp.Wo.weight" for i in range(encoder.layers)]
    else:
        own = "encoder.rel_embeddings.weight" if kind == "deberta-v2" else "embeddings.position_embeddings.weight"
        trunk = ["embeddings.word_embeddings.weight", own]
        trunk += [f"encoder.layer.{i}.output.dense.weight" for i in range(encoder.layers)]
    return [name for name in (*head, *trunk) if name not in there]
