"""Opening a model folder: what it is, whether it may be trusted to score, its parts.

Knows: the Hugging Face / sentence-transformers layout of a reranker's folder, and what a caller may allow. Refuses to
know: engines, batches, rankings. A folder that would score wrongly in silence (no trained head, an unknown template,
missing special tokens) is refused with the reason; so is one that would run code (pickled weights, remote code) or
whose licence may not fit, until the caller allows it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import BertWordPieceTokenizer, Tokenizer

from secondpass.errors import ModelError
from secondpass.extras import require
from secondpass.scoring.architecture import (
    BERT_LIKE,
    GRAPHS,
    SPLIT,
    Encoder,
    Head,
    head_kind,
    missing,
    needs_code,
    read_encoder,
    renamed,
)
from secondpass.scoring.catalog import (
    Family,
    Known,
    catalog,
    check_allowed,
    families,
    family_named,
    permits_commerce,
)
from secondpass.scoring.frame import Frame, pair_frame, prompt_frame
from secondpass.scoring.parity import Parity, read_parity
from secondpass.scoring.tensors import read_tensors
from secondpass.weights import folder_digest, graph_files, locate, shipped_name, weight_files

__all__ = [
    "GRAPHS",
    "SPLIT",
    "Checkpoint",
    "Encoder",
    "Golden",
    "Head",
    "open_checkpoint",
    "read_json",
    "stated_licence",
]

_ACTIVATIONS = {"Identity": "identity", "Sigmoid": "sigmoid"}
_UNSTATED = "unstated"


@dataclass(frozen=True, slots=True)
class Golden:
    """A pair whose logit is known from an independent fp32 forward."""

    query: str
    document: str
    logit: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened folder.

    kind: config.json's model_type; `config` is all of it.
    family: how it is read, by its name in the catalog ("pair": as its tokenizer lays out pairs).
    max_length: tokens of the whole pair, template included, that are usual; `longest`: that it can be given.
    activation: what the folder asks `predict` to apply ("identity" or "sigmoid"); rankings always use logits.
    tolerance: precision -> the largest deviation from `golden` allowed.
    allowed: what the caller allowed of "licence", "pickle", "remote-code".
    exported: what was measured of the graph that the folder holds in place of weights; None where it has weights.
    """

    name: str
    folder: Path
    kind: str
    config: dict[str, Any]
    encoder: Encoder
    family: str
    frame: Frame
    head: Head
    pad: int
    max_length: int
    longest: int
    activation: str
    tokenizer: Tokenizer
    digest: str
    golden: tuple[Golden, ...]
    tolerance: dict[str, float]
    licence: str
    languages: tuple[str, ...] = ()  # two-letter codes of what it was made for; () where the folder does not say
    allowed: frozenset[str] = frozenset()
    exported: Parity | None = None

    @property
    def remote_code(self) -> bool:
        """Whether the folder's own code runs; then the caller has allowed it."""
        return needs_code(self.config)

    @property
    def pickled(self) -> bool:
        """Whether the weights are pickled; then the caller has allowed it."""
        return any(path.suffix == ".bin" for path in weight_files(self.folder))

    @property
    def typed(self) -> bool:
        """Whether its graph asks for token types."""
        if self.kind == "deberta-v2":
            return int(self.config.get("type_vocab_size", 0)) > 0
        return self.kind in BERT_LIKE and self.kind != SPLIT and int(self.config.get("type_vocab_size", 2)) > 1

    @property
    def shares_query(self) -> bool:
        """Whether the query's side is computed once for all documents."""
        return self.encoder.apart is not None or self.head.kind == "causal"

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """All tensors in fp32, by the names that `architecture.renamed` gives. Raises ModelError where the folder holds
        an exported graph in their place."""
        if self.exported is not None:
            raise ModelError(
                f"{self.name} is an exported graph and has no weights to build another from; "
                f"take the folder it was made from ({self.exported.source})"
            )
        return read_tensors(self.folder, self.kind)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; {} where there is no file. Raises ModelError for anything else."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: a JSON object is expected")
    return value


def _family(folder: Path, config: dict[str, Any], wanted: str | None, allowed: frozenset[str]) -> Family:
    """The family that the folder is read by. Raises ModelError where none is sure, or it does not fit the folder."""
    if not config:
        raise ModelError(f"{folder}: no config.json; this is not a Hugging Face or sentence-transformers model folder")
    kind, architectures = config.get("model_type"), config.get("architectures") or []
    head = head_kind(config)
    if needs_code(config) and "remote-code" not in allowed:
        raise ModelError(
            f"{folder}: config.json's auto_map asks for the folder's own code to run; "
            "read that code, and if you trust it say allow=['remote-code']"
        )
    if head is None:
        raise ModelError(
            f"{folder}: architectures is {architectures}, which has no trained ranking head; a cross-encoder's ends in "
            "ForSequenceClassification, a yes/no reranker's in ForCausalLM (a bi-encoder cannot be opened as one)"
        )
    fitting = [one.name for one in families().values() if one.head == head and (not one.kinds or kind in one.kinds)]
    if wanted is None:
        decoder = any(kind in one.kinds for one in families().values() if one.head != "classifier")
        if head != "classifier" or decoder:
            known = f"give family= one of {', '.join(fitting)}" if fitting else "no family of the catalog fits it"
            raise ModelError(
                f"{folder}: {architectures[0]} ({kind}) ranks only by the very prompt it was trained with, and the "
                f"folder does not say which; {known}"
            )
        wanted = "pair"
    family = family_named(wanted)
    if family.head != head or (family.kinds and kind not in family.kinds):
        what = {"classifier": "a classifier", "causal": "a causal language model", "seq2seq": "an encoder and decoder"}
        needs = " of kind ".join([what[family.head], *([", ".join(family.kinds)] if family.kinds else [])])
        raise ModelError(
            f"{folder}: family {wanted!r} is read off {needs}, and this is {architectures} ({kind}); loaded so its "
            "head would be untrained or its prompt wrong. Take the original checkpoint, or another family"
        )
    if head == "classifier" and kind != SPLIT:
        labels = config.get("id2label")
        count = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
        if count != 1:
            raise ModelError(f"{folder}: the head has {count} labels; a reranker has exactly one")
    return family


def _check_weights(folder: Path, encoder: Encoder, allowed: frozenset[str]) -> None:
    paths = weight_files(folder)
    if graph_files(folder):
        return  # a graph, which `read_parity` asks about
    if not paths:
        raise ModelError(f"{folder}: neither model.safetensors nor its shards; the weights are missing")
    if paths[0].suffix == ".bin":
        if "pickle" not in allowed:
            raise ModelError(
                f"{folder}: no model.safetensors; found {paths[0].name}: pickled weights can run code. Convert them "
                "with transformers' save_pretrained(safe_serialization=True), or say allow=['pickle'] if you trust "
                "their source (only tensors are then read from them)"
            )
        return
    from safetensors import SafetensorError, safe_open

    names: set[str] = set()
    for path in paths:
        if not path.is_file():
            raise ModelError(f"{path}: this shard is named in the index and not there; copy it again")
        try:
            with safe_open(path, "np") as tensors:
                names |= {renamed(encoder.kind, name) for name in tensors.keys()}  # noqa: SIM118 - not a dict
        except SafetensorError as error:
            raise ModelError(f"{path}: damaged ({error}); copy it again") from error
    if encoder.kind in GRAPHS and (lacking := missing(encoder, names)):
        raise ModelError(f"{paths[0]}: the tensor {lacking[0]!r} is missing; without it the scores would be random")


def _tokenizer(folder: Path, kind: str, config: dict[str, Any]) -> Tokenizer:
    if (folder / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    elif kind in (*BERT_LIKE[:2], SPLIT) and (folder / "vocab.txt").is_file():
        try:
            built = BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=bool(config.get("do_lower_case", True)))
        except TypeError as error:  # what tokenizers raises
            raise ModelError(f"{folder}: the tokenizer lacks a special token of {kind} ({error})") from error
        tokenizer = Tokenizer.from_str(built.to_str())
    elif any((folder / name).is_file() for name in ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")):
        transformers: Any = require("transformers", extra="torch", purpose="reading a SentencePiece tokenizer")
        own = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        tokenizer = Tokenizer.from_str(own.backend_tokenizer.to_str())
    else:
        raise ModelError(f"{folder}: neither tokenizer.json nor vocab.txt; the tokenizer's files are missing")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _head(family: Family, tokenizer: Tokenizer, folder: Path) -> Head:
    def number(token: str) -> int:
        if (found := tokenizer.token_to_id(token)) is None:
            raise ModelError(f"{folder}: the tokenizer has no token {token!r}, which family {family.name!r} scores by")
        return int(found)

    if family.head == "classifier":
        return Head()
    head = Head(
        family.head, number(family.positive), number(family.negative) if family.negative else None, family.scale
    )
    stated = read_json(folder / "1_LogitScore" / "config.json")  # where sentence-transformers keeps the tokens
    if stated and (stated.get("true_token_id"), stated.get("false_token_id")) != (head.positive, head.negative):
        raise ModelError(
            f"{folder}: 1_LogitScore/config.json scores by the tokens {stated.get('true_token_id')} and "
            f"{stated.get('false_token_id')}, family {family.name!r} by {head.positive} and {head.negative}; "
            "it is another family's checkpoint"
        )
    return head


def _activation(folder: Path, config: dict[str, Any], family: Family, known: Known | None) -> str:
    if family.head != "classifier":
        return family.activation
    path = (
        config.get("sentence_transformers", {}).get("activation_fn")
        or config.get("sbert_ce_default_activation_function")
        or read_json(folder / "config_sentence_transformers.json").get("activation_fn")
    )
    if not path:  # sentence-transformers' default for one label is the sigmoid
        return (known.activation if known else "") or "sigmoid"
    activation = _ACTIVATIONS.get(str(path).rsplit(".", 1)[-1])
    if activation is None:
        raise ModelError(f"{folder}: activation {path!r} is not known; known are {', '.join(_ACTIVATIONS)}")
    return activation


def _languages(folder: Path, golden: dict[str, Any]) -> tuple[str, ...]:
    stated = golden.get("languages", [])
    if not isinstance(stated, list) or not all(isinstance(one, str) for one in stated):
        raise ModelError(f'{folder}: golden.json says languages = {stated!r}; give a list of codes such as ["en"]')
    return tuple(stated)


def _spoken(known: Known | None) -> tuple[str, ...]:
    return known.languages if known and known.languages != ("multilingual",) else ()


def stated_licence(folder: Path) -> str:
    """The licence that a model's folder states: in its golden pairs, its lineage, or its README's front matter.

    "" where it states none.
    """
    for name in ("golden.json", "lineage.json"):
        stated = read_json(folder / name).get("licence")
        if stated and stated != "not stated":
            return str(stated)
    readme = folder / "README.md"
    if readme.is_file():
        front = re.match(r"---\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.S)
        stated = re.search(r"^license: *[\"']?([^\s\"']+)", front[1], re.M) if front else None
        return stated[1] if stated else ""
    return ""


def _check_licence(name: str, licence: str, allowed: frozenset[str]) -> None:
    if "licence" not in allowed and not permits_commerce(licence):
        what = f"its licence is {licence}" if licence != _UNSTATED else "its card states no licence"
        raise ModelError(
            f"{name}: {what}, which is not known to allow commercial use; read it, and if it fits what you do say "
            "allow=['licence']"
        )


def open_checkpoint(
    model: str | Path,
    *,
    family: str | None = None,
    instruction: str | None = None,
    allow: Collection[str] = (),
) -> Checkpoint:
    """Open a shipped name, a folder or a hub name. Raises ModelError with the reason where it must not score.

    `family` is a name in the catalog, for a folder that does not say how it is read; `instruction` what its prompt
    asks, in place of the published one. `allow` accepts what is refused otherwise: "licence" (one that is not known to
    allow commercial use, of a model that is fetched by its name; one's own folders are not asked), "pickle",
    "remote-code".
    """
    allowed = check_allowed(allow)
    known = catalog().get(str(model).partition("@")[0]) if not Path(model).is_dir() else None
    if known:  # before anything is fetched
        _check_licence(known.name, known.licence, allowed)
        if known.remote_code and "remote-code" not in allowed:
            raise ModelError(
                f"{known.name} runs code from its own repository; read it, and if you trust it "
                "say allow=['remote-code']"
            )
    folder = locate(model, pickled="pickle" in allowed, code="remote-code" in allowed)
    name = shipped_name(folder, model)
    licence = stated_licence(folder) or (known.licence if known else _UNSTATED)
    if not known and not Path(model).is_dir() and name == str(model):
        _check_licence(name, licence, allowed)
    config = read_json(folder / "config.json")
    golden = read_json(folder / "golden.json")
    chosen = _family(folder, config, family or golden.get("family") or (known.family if known else None), allowed)
    encoder = read_encoder(folder, config)
    _check_weights(folder, encoder, allowed)
    tokenizer_config = read_json(folder / "tokenizer_config.json")
    tokenizer = _tokenizer(folder, encoder.kind, tokenizer_config)
    if chosen.name == "pair":
        if instruction is not None:
            raise ModelError(f"{name}: its pairs have no place for an instruction; leave instruction= out")
        frame = pair_frame(tokenizer, folder, split=encoder.apart is not None)
    else:
        frame = prompt_frame(tokenizer, chosen, instruction, folder)
    lengths = [encoder.positions] if encoder.kind not in ("t5", "mt5") else []  # relative positions have no end
    stated = tokenizer_config.get("model_max_length")
    if isinstance(stated, int | float) and 0 < stated < 1e6:  # transformers writes 1e30 for "unlimited"
        lengths.append(int(stated))
    if known:
        lengths.append(known.longest)
    longest = min(lengths, default=512)
    pad = config.get("pad_token_id")
    digest = folder_digest(folder)
    return Checkpoint(
        name=name,
        folder=folder,
        kind=encoder.kind,
        config=config,
        encoder=encoder,
        family=chosen.name,
        frame=frame,
        head=_head(chosen, tokenizer, folder),
        pad=pad if isinstance(pad, int) and pad >= 0 else 0,
        max_length=min(longest, known.max_length) if known else min(longest, chosen.max_length or longest),
        longest=longest,
        activation=_activation(folder, config, chosen, known),
        tokenizer=tokenizer,
        digest=digest,
        golden=tuple(Golden(one["query"], one["document"], float(one["logit"])) for one in golden.get("pairs", ())),
        tolerance={str(key): float(value) for key, value in golden.get("tolerance", {}).items()},
        licence=licence,
        languages=_languages(folder, golden) or _spoken(known),
        allowed=allowed,
        exported=read_parity(folder, digest),
    )
