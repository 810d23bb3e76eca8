"""Texts -> vectors: the shipped static model without torch, any sentence-transformers model with it.

Knows: token tables, tokenizers, the extra `torch`. Refuses to know: indexes and how vectors are searched.

A static model has one vector a token and no layers: a text is the normalised sum of its tokens' vectors
(model2vec's manner: Tulkens & van Dongen, 2024). It costs about as much as tokenizing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import ModelError
from secondpass.extras import require
from secondpass.weights import folder_digest, locate, shipped_name

__all__ = ["Encoder", "SentenceEncoder", "StaticEncoder", "is_static", "open_encoder"]

_TOKENS = 16_384  # gathered at once: a block of 16 MB at 256 dimensions stays in cache
_TEXTS = 1024  # tokenized at once


@runtime_checkable
class Encoder(Protocol):
    """What an index asks of a model. `digest` tells whether two encoders give the same vectors."""

    name: str
    digest: str
    dimensions: int

    def encode(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        """float32[texts, dimensions], rows of length 1, or all 0 where nothing is known of a text."""
        ...


def open_encoder(model: str | Path = "secondpass-static", **options: Any) -> Encoder:
    """The encoder of a shipped name, a folder or a hub name.

    Folders of model2vec and of sentence-transformers' StaticEmbedding become a StaticEncoder and need no
    torch; all others go to sentence-transformers (extra `torch`), with `options` as SentenceEncoder takes them.

    Raises ModelError where the folder cannot be read, MissingExtraError without the extra.
    """
    folder = locate(model)
    if is_static(folder):
        return StaticEncoder(model, **options)
    return SentenceEncoder(model, **options)


def is_static(folder: Path) -> bool:
    """Whether a folder holds one table of token vectors, as model2vec and StaticEmbedding write it."""
    if _table_name(folder) is None or not (folder / "tokenizer.json").is_file():
        return False
    modules = folder / "modules.json"
    if not modules.is_file():
        return True
    kinds = [str(module.get("type", "")) for module in json.loads(modules.read_text(encoding="utf-8"))]
    return bool(kinds) and kinds[0].endswith("StaticEmbedding")


def _table_name(folder: Path) -> str | None:
    """The tensor that holds the vectors: `embeddings` as model2vec calls it, or `embedding.weight`."""
    from safetensors import SafetensorError, safe_open

    path = folder / "model.safetensors"
    if not path.is_file():
        return None
    try:
        with safe_open(path, "np") as tensors:
            names = set(tensors.keys())
    except SafetensorError as error:
        raise ModelError(f"{path}: damaged ({error}); copy it again") from error
    return next((name for name in ("embeddings", "embedding.weight") if name in names), None)


def _name(folder: Path, model: str | Path) -> str:
    """What opens the same model again from any working directory: an index keeps it."""
    local = Path(model).expanduser().is_dir()
    return shipped_name(folder, folder.resolve() if local else model)


class StaticEncoder:
    """One vector a token, summed and normalised. Opens model2vec and StaticEmbedding folders.

    Whole texts are read, however long. Special and unknown tokens count for nothing. The vector of a
    text does not depend on the texts beside it.

    Raises ModelError where the folder holds no such model.
    """

    def __init__(self, model: str | Path = "secondpass-static") -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        folder = locate(model)
        table = _table_name(folder)
        if table is None or not (folder / "tokenizer.json").is_file():
            raise ModelError(
                f"{folder}: not a static model; it needs tokenizer.json, and model.safetensors with `embeddings`"
            )
        self.name = _name(folder, model)
        self.digest = folder_digest(folder)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        tensors = load_file(folder / "model.safetensors")
        vectors = tensors[table].astype(np.float32)
        if "mapping" in tensors:  # model2vec's quantised vocabulary: a row for several tokens …
            vectors = vectors[tensors["mapping"]]
        if "weights" in tensors:  # … and a weight for each
            vectors = vectors * tensors["weights"].astype(np.float32)[:, None]
        if len(vectors) < self._tokenizer.get_vocab_size():
            raise ModelError(f"{folder}: {len(vectors)} vectors for {self._tokenizer.get_vocab_size()} tokens")
        for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"):
            if (number := self._tokenizer.token_to_id(token)) is not None:
                vectors[number] = 0.0
        self._vectors = np.ascontiguousarray(vectors)
        self.dimensions = int(vectors.shape[1])

    def encode(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        """float32[texts, dimensions]; `query` changes nothing here. A lone surrogate is read as `?`."""
        out = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for start in range(0, len(texts), _TEXTS):
            batch = [text.encode("utf-8", "replace").decode() for text in texts[start : start + _TEXTS]]
            encodings = self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            self._sum([encoding.ids for encoding in encodings], out[start : start + len(batch)])
        lengths = np.linalg.norm(out, axis=1, keepdims=True)
        np.divide(out, lengths, out=out, where=lengths > 0)
        return out

    def _sum(self, rows: Sequence[Sequence[int]], out: NDArray[np.float32]) -> None:
        """out[i] = sum of the vectors of rows[i], gathered some thousand tokens at a time."""
        block: list[int] = []
        tokens = 0
        for i, ids in enumerate(rows):
            if len(ids) > _TOKENS:  # by distinct tokens: faster, and no long float32 sum that drifts
                distinct, counts = np.unique(np.asarray(ids, dtype=np.int64), return_counts=True)
                out[i] = counts.astype(np.float32) @ self._vectors[distinct]
                continue
            if tokens + len(ids) > _TOKENS:
                self._sum_block(rows, block, out)
                block, tokens = [], 0
            if ids:
                block.append(i)
                tokens += len(ids)
        self._sum_block(rows, block, out)

    def _sum_block(self, rows: Sequence[Sequence[int]], block: list[int], out: NDArray[np.float32]) -> None:
        if block:
            gathered = self._vectors[np.concatenate([np.asarray(rows[i], dtype=np.int64) for i in block])]
            starts = np.cumsum([0, *(len(rows[i]) for i in block[:-1])])
            out[block] = np.add.reduceat(gathered, starts, axis=0)

    def __repr__(self) -> str:
        return f"StaticEncoder({self.name!r}, {self.dimensions} dimensions)"


class SentenceEncoder:
    """Any sentence-transformers model (extra `torch`): a folder or a hub name.

    `device` as torch names it (None: its own choice), `batch_size` texts at a time. Prompts that the model
    has for queries and documents are used. The model's own length limit cuts longer texts.

    Raises MissingExtraError without the extra, ModelError where the model cannot be opened.
    """

    def __init__(self, model: str | Path, *, device: str | None = None, batch_size: int = 32) -> None:
        library: Any = require("sentence_transformers", extra="torch", purpose="this encoder")
        folder = locate(model)
        try:
            self._model = library.SentenceTransformer(str(folder), device=device)
        except Exception as error:  # many layers below may fail, each in its own way
            raise ModelError(
                f"{folder}: sentence-transformers cannot open it ({type(error).__name__}: {error})"
            ) from error
        self._batch_size = batch_size
        self.name = _name(folder, model)
        self.dimensions = int(self._model.get_embedding_dimension())
        total = hashlib.blake2b(digest_size=16)
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".json", ".safetensors", ".txt") and path.is_file():
                total.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
        self.digest = total.hexdigest()

    def encode(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        """float32[texts, dimensions]; a text without a word gets zeros."""
        run = self._model.encode_query if query else self._model.encode_document
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        out = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        full = [i for i, text in enumerate(clean) if text.strip()]
        if full:
            out[full] = run(
                [clean[i] for i in full],
                batch_size=self._batch_size,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
        return out

    def __repr__(self) -> str:
        return f"SentenceEncoder({self.name!r}, {self.dimensions} dimensions)"
