"""Tiny random checkpoints, built without torch: a BERT cross-encoder as Hugging Face writes it, and a split encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import BertWordPieceTokenizer

HIDDEN, LAYERS, HEADS, INTERMEDIATE, POSITIONS = 32, 2, 4, 64, 128
_WORDS = (
    "the a of and to in is it for on with list sort file date string query document river bank snake python language"
)


def vocabulary() -> list[str]:
    """Special tokens, a few words, and every printable ASCII character alone and as a continuation."""
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    return [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *_WORDS.split()[1:],
        *characters,
        *(f"##{c}" for c in characters),
    ]


def tiny_split(folder: Path, seed: int = 0, layers: int = 3, apart: int = 1, **config: Any) -> Path:
    """Write a split encoder with a head after every layer from `apart` on, and return its folder."""
    tiny_checkpoint(folder, seed, layers=layers, **config)
    settings = json.loads((folder / "config.json").read_text())
    exits = list(range(max(apart, 1), layers + 1))
    settings |= {"model_type": "secondpass-split", "architectures": [], "apart": apart, "exits": exits}
    (folder / "config.json").write_text(json.dumps(settings))
    draw = np.random.default_rng(seed + 1)

    def normal(*shape: int, scale: float = 0.15) -> np.ndarray[Any, np.dtype[np.float32]]:
        return (draw.standard_normal(shape) * scale).astype(np.float32)

    tensors = load_file(folder / "model.safetensors")
    tensors = {name: value for name, value in tensors.items() if "pooler" not in name and "classifier" not in name}
    for i in range(apart, layers):
        tensors[f"bert.encoder.layer.{i}.gate"] = normal(2, HEADS, scale=0.5)
    for i in exits:
        head = {"factors": np.array([9.0, 5.0], np.float32), "token.weight": normal(1, HIDDEN, scale=0.5)}
        head |= {"token.bias": normal(1), "inner.weight": normal(8, 2 * HIDDEN, scale=1.0), "inner.bias": normal(8)}
        head |= {"outer.weight": normal(1, 8, scale=2.0), "outer.bias": normal(1)}
        if i < layers:
            head["project.weight"] = normal(16, HIDDEN)
        tensors |= {f"heads.{i}.{name}": value for name, value in head.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def tiny_checkpoint(folder: Path, seed: int = 0, vocab_only: bool = False, layers: int = LAYERS, **config: Any) -> Path:
    """Write the checkpoint and return its folder. `config` overrides keys of config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    words = list(dict.fromkeys(vocabulary()))
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    if not vocab_only:
        BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "model_max_length": POSITIONS, "do_lower_case": True})
    )
    settings = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "vocab_size": len(words),
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
    (folder / "config.json").write_text(json.dumps({**settings, **config}))
    draw = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 0.15) -> np.ndarray[Any, np.dtype[np.float32]]:
        return (draw.standard_normal(shape) * scale).astype(np.float32)

    def norm(name: str) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        return {f"{name}.weight": 1 + normal(HIDDEN), f"{name}.bias": normal(HIDDEN)}

    def dense(name: str, out: int, into: int) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        return {f"{name}.weight": normal(out, into), f"{name}.bias": normal(out)}

    tensors = {
        "bert.embeddings.word_embeddings.weight": normal(len(words), HIDDEN, scale=0.5),
        "bert.embeddings.position_embeddings.weight": normal(POSITIONS, HIDDEN),
        "bert.embeddings.token_type_embeddings.weight": normal(2, HIDDEN),
        **norm("bert.embeddings.LayerNorm"),
        **dense("bert.pooler.dense", HIDDEN, HIDDEN),
        **dense("classifier", 1, HIDDEN),
    }
    tensors["classifier.weight"] *= 8  # logits that spread like a trained head's
    for i in range(layers):
        at = f"bert.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            tensors |= dense(f"{at}.attention.self.{part}", HIDDEN, HIDDEN)
        tensors |= dense(f"{at}.attention.output.dense", HIDDEN, HIDDEN)
        tensors |= norm(f"{at}.attention.output.LayerNorm")
        tensors |= dense(f"{at}.intermediate.dense", INTERMEDIATE, HIDDEN)
        tensors |= dense(f"{at}.output.dense", HIDDEN, INTERMEDIATE)
        tensors |= norm(f"{at}.output.LayerNorm")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
