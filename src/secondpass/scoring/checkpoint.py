"""Opening a model folder: what it is, whether it may be trusted to score, its parts.

Knows: the Hugging Face / sentence-transformers layout of a BERT sequence classifier with one
label, and the same with a split encoder's gates and heads. Refuses to know: engines, batches,
rankings. A folder that would score wrongly in silence (no trained head, an unknown architecture,
pickled weights) is refused with the reason.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import BertWordPieceTokenizer, Tokenizer

from secondpass.errors import ModelError
from secondpass.weights import folder_digest, locate, shipped_name

__all__ = ["SPLIT", "Checkpoint", "Encoder", "Golden", "open_checkpoint"]

SPLIT = "secondpass-split"  # the model_type of a split encoder, unknown elsewhere: nothing else scores it wrongly
_ACTIVATIONS = {"Identity": "identity", "Sigmoid": "sigmoid"}


@dataclass(frozen=True, slots=True)
class Encoder:
    """The sizes that a BERT graph is built from.

    A split encoder (see `split`) reads query and document apart in its first `apart` layers and has a head after each
    of the layers `exits`, the last one among them; None and () for a classifier.
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


@dataclass(frozen=True, slots=True)
class Golden:
    """A pair whose logit is known from an independent fp32 forward."""

    query: str
    document: str
    logit: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened folder. `max_length` counts tokens of the whole pair, specials included.

    `activation` ("identity" or "sigmoid") is what the folder asks `predict` to apply; rankings
    always use logits. `tolerance` maps a precision to the largest deviation from `golden` allowed.
    """

    name: str
    folder: Path
    encoder: Encoder
    max_length: int
    activation: str
    tokenizer: Tokenizer
    special: tuple[int, int, int]  # ids of [CLS], [SEP], [PAD]
    digest: str
    golden: tuple[Golden, ...]
    tolerance: dict[str, float]
    licence: str
    languages: tuple[str, ...] = ()  # two-letter codes of what it was made for; () where the folder does not say

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """All tensors in fp32, names without the `bert.` prefix."""
        from safetensors.numpy import load_file

        tensors = load_file(self.folder / "model.safetensors")
        return {name.removeprefix("bert."): tensor.astype(np.float32) for name, tensor in tensors.items()}


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: a JSON object is expected")
    return value


def _check_architecture(folder: Path, config: dict[str, Any]) -> None:
    if not config:
        raise ModelError(f"{folder}: no config.json; this is not a Hugging Face or sentence-transformers model folder")
    kind, architectures = config.get("model_type"), config.get("architectures") or []
    if kind not in ("bert", SPLIT):
        raise ModelError(f"{folder}: model_type is {kind!r}; so far only the BERT family ('bert') can be opened")
    if kind == "bert" and "BertForSequenceClassification" not in architectures:
        raise ModelError(
            f"{folder}: architectures is {architectures}, which has no trained ranking head; "
            "a cross-encoder says BertForSequenceClassification (a bi-encoder cannot be opened as one)"
        )
    labels = config.get("id2label")
    count = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
    if kind == "bert" and count != 1:
        raise ModelError(f"{folder}: the head has {count} labels; a reranker has exactly one")
    positions = config.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise ModelError(f"{folder}: position_embedding_type {positions!r} is not supported, only 'absolute'")
    if config.get("hidden_act", "gelu") not in ("gelu", "relu"):
        raise ModelError(f"{folder}: hidden_act {config.get('hidden_act')!r} is not supported, only gelu and relu")


def _split(folder: Path, config: dict[str, Any]) -> tuple[int | None, tuple[int, ...]]:
    """How a split encoder is cut, and where it has heads. Raises ModelError where that makes no sense."""
    if config["model_type"] != SPLIT:
        return None, ()
    apart, exits, layers = config.get("apart"), config.get("exits"), int(config["num_hidden_layers"])
    if not isinstance(apart, int) or not 0 <= apart < layers:
        raise ModelError(f"{folder}: config.json says apart = {apart!r}; of {layers} layers 0 to {layers - 1} can be")
    if not isinstance(exits, list) or exits != sorted({*exits, layers}) or not all(apart <= e <= layers for e in exits):
        raise ModelError(
            f"{folder}: config.json says exits = {exits!r}; give layers from {apart} up in order, {layers} the last"
        )
    return apart, tuple(exits)


def _check_weights(folder: Path, encoder: Encoder) -> None:
    path = folder / "model.safetensors"
    if not path.is_file():
        others = [one.name for one in folder.iterdir() if one.suffix in (".bin", ".pt", ".safetensors", ".index.json")]
        why = f"found {', '.join(sorted(others))}; " if others else ""
        raise ModelError(
            f"{folder}: no model.safetensors; {why}pickled weights can run code and sharded ones are not supported: "
            "convert with transformers' save_pretrained(safe_serialization=True)"
        )
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as tensors:
            names = {name.removeprefix("bert.") for name in tensors.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ModelError(f"{path}: damaged ({error}); copy it again") from error
    if encoder.apart is None:
        needed = {"classifier.weight", "classifier.bias", "pooler.dense.weight", "pooler.dense.bias"}
    else:
        parts = ("factors", "token.weight", "inner.weight", "inner.bias", "outer.weight", "outer.bias")
        needed = {f"heads.{i}.{part}" for i in encoder.exits for part in parts}
        needed |= {f"encoder.layer.{i}.gate" for i in range(encoder.apart, encoder.layers)}
    needed |= {"embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"}
    needed |= {f"encoder.layer.{i}.output.dense.weight" for i in range(encoder.layers)}
    missing = sorted(needed - names)
    if missing:
        raise ModelError(f"{path}: the tensor {missing[0]!r} is missing; without it the scores would be random")


def _tokenizer(folder: Path, config: dict[str, Any]) -> Tokenizer:
    if (folder / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    elif (folder / "vocab.txt").is_file():
        built = BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=bool(config.get("do_lower_case", True)))
        tokenizer = Tokenizer.from_str(built.to_str())
    else:
        raise ModelError(f"{folder}: neither tokenizer.json nor vocab.txt; the tokenizer's files are missing")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _special(folder: Path, tokenizer: Tokenizer) -> tuple[int, int, int]:
    found = []
    for token in ("[CLS]", "[SEP]", "[PAD]"):
        number = tokenizer.token_to_id(token)
        if number is None:
            raise ModelError(f"{folder}: the tokenizer lacks the special token {token}")
        found.append(number)
    return found[0], found[1], found[2]


def _languages(folder: Path, golden: dict[str, Any]) -> tuple[str, ...]:
    stated = golden.get("languages", [])
    if not isinstance(stated, list) or not all(isinstance(one, str) for one in stated):
        raise ModelError(f'{folder}: golden.json says languages = {stated!r}; give a list of codes such as ["en"]')
    return tuple(stated)


def open_checkpoint(model: str | Path) -> Checkpoint:
    """Open a shipped name, a folder or a hub name. Raises ModelError with the reason where it must not score."""
    folder = locate(model)
    config = _read_json(folder / "config.json")
    _check_architecture(folder, config)
    apart, exits = _split(folder, config)
    encoder = Encoder(
        layers=int(config["num_hidden_layers"]),
        hidden=int(config["hidden_size"]),
        heads=int(config["num_attention_heads"]),
        intermediate=int(config["intermediate_size"]),
        positions=int(config["max_position_embeddings"]),
        epsilon=float(config.get("layer_norm_eps", 1e-12)),
        activation=str(config.get("hidden_act", "gelu")),
        apart=apart,
        exits=exits,
    )
    _check_weights(folder, encoder)
    tokenizer_config = _read_json(folder / "tokenizer_config.json")
    tokenizer = _tokenizer(folder, tokenizer_config)
    lengths = [encoder.positions]
    stated = tokenizer_config.get("model_max_length")
    if isinstance(stated, int | float) and 0 < stated < 1e6:  # transformers writes 1e30 for "unlimited"
        lengths.append(int(stated))
    golden = _read_json(folder / "golden.json")
    path = (
        config.get("sentence_transformers", {}).get("activation_fn")
        or config.get("sbert_ce_default_activation_function")
        or _read_json(folder / "config_sentence_transformers.json").get("activation_fn")
        or "torch.nn.modules.activation.Sigmoid"  # sentence-transformers' default for one label
    )
    activation = _ACTIVATIONS.get(str(path).rsplit(".", 1)[-1])
    if activation is None:
        raise ModelError(f"{folder}: activation {path!r} is not known; known are {', '.join(_ACTIVATIONS)}")
    return Checkpoint(
        name=shipped_name(folder, model),
        folder=folder,
        encoder=encoder,
        max_length=min(lengths),
        activation=activation,
        tokenizer=tokenizer,
        special=_special(folder, tokenizer),
        digest=folder_digest(folder),
        golden=tuple(Golden(one["query"], one["document"], float(one["logit"])) for one in golden.get("pairs", ())),
        tolerance={str(key): float(value) for key, value in golden.get("tolerance", {}).items()},
        licence=str(golden.get("licence", "not stated in the folder")),
        languages=_languages(folder, golden),
    )
