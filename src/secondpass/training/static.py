"""A static embedding model: one vector a token, distilled from an encoder, then fitted to pairs.

Knows: torch (the extra `train`), the base encoder, and the folder that model2vec and
sentence-transformers open. Refuses to know: indexes, every test split. State is kept after each
epoch, so a run that was killed goes on from there.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from secondpass.embedding import StaticEncoder
from secondpass.errors import ConfigError
from secondpass.extras import require
from secondpass.training.data import Pair, PairSet, read_pairs
from secondpass.training.recipe import Recipe, Static
from secondpass.training.train import Progress, Say, base_folder, quieten
from secondpass.weights import folder_digest

__all__ = ["train_static"]

_QUERY, _PASSAGE = 64, 256  # tokens read while fitting; the finished model reads whole texts
_UNUSED = re.compile(r"\[unused\d+\]")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

Floats = NDArray[np.float32]
Tokens = NDArray[np.int64]
Rows = list[Tokens]


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Queries and passages as token ids, in parallel, and a number for each distinct passage."""

    queries: Rows
    passages: Rows
    same: NDArray[np.int64]


def train_static(
    recipe: Recipe, data: Path, work: Path, out: Path, *, say: Say, progress: Progress, stop_after: int = 0
) -> dict[str, Any]:
    """Make the model of `recipe.static`, write it to `out`, and return its lineage.

    `stop_after` ends the fitting after that many steps (0: the whole recipe). Queries of the dev parts are
    never learned from; the lineage reports nDCG@10 and recall@100 over all passages of their set.

    Raises ConfigError where the recipe has no table [static] or no pairs to learn from.
    """
    settings = recipe.static
    if settings is None:
        raise ConfigError(f"recipe {recipe.name}: has no table [static]")
    work.mkdir(parents=True, exist_ok=True)
    base = base_folder(recipe.base)
    tokenizer, old_ids = _own_tokenizer(base)
    seed = recipe.training.seed
    sets = [read_pairs(spec, data, seed) for spec in recipe.sets]
    pairs = _tokenized(tokenizer, [pair for one in sets for pair in one.train])
    if not pairs.queries:
        raise ConfigError(f"recipe {recipe.name}: its sets have no training pairs")
    counts = np.bincount(np.concatenate(pairs.passages), minlength=len(old_ids))
    first = initial_table(_token_vectors(base, old_ids), counts, settings)
    dev = [one for one in sets if one.dev]
    begun = _dev_rows(_encoder_of(first, tokenizer, work / "first"), dev)
    table = _fit(settings, first, pairs, seed, work, say=say, progress=progress, stop_after=stop_after)
    _write_model(table, tokenizer, out)
    finished = _dev_rows(StaticEncoder(out), dev)
    lineage = {
        "name": recipe.name,
        "licence": recipe.licence,
        "languages": recipe.languages,
        "base": msgspec.to_builtins(recipe.base),
        "sets": [
            {"name": spec.name, "licence": spec.licence, "sha256": one.digest, "pairs": len(one.train)}
            | {"dev_queries": len(one.dev), "rows_dropped": one.dropped}
            for spec, one in zip(recipe.sets, sets, strict=True)
        ],
        "static": msgspec.to_builtins(settings),
        "seed": seed,
        "tokens": len(old_ids),
        "dev": [
            {
                "set": one.name,
                "queries": len(one.dev),
                "passages": len(one.passages),
                "distilled": before,
                "fitted": after,
            }
            for one, before, after in zip(dev, begun, finished, strict=True)
        ],
        "digest": folder_digest(out),
        "made_with": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("torch", "tokenizers", "numpy")},
        },
    }
    (out / "lineage.json").write_text(json.dumps(lineage, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return lineage


def initial_table(vectors: Floats, counts: NDArray[np.int64], settings: Static) -> Floats:
    """float32[tokens, dimensions]: PCA of the tokens' own vectors, weighted by how rare each token is.

    `counts` says how often each token occurs in the passages. The mean row has length 1 afterwards.
    Raises ConfigError for more dimensions than the base has.
    """
    if settings.dimensions > vectors.shape[1]:
        raise ConfigError(f"static.dimensions is {settings.dimensions}, the base has {vectors.shape[1]}")
    centred = vectors - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    table = centred @ directions[:, ::-1][:, : settings.dimensions]
    share = (counts + 1) / (counts + 1).sum()
    table *= (settings.smoothing / (settings.smoothing + share))[:, None]
    return np.ascontiguousarray(table / np.linalg.norm(table, axis=1).mean(), dtype=np.float32)


def _own_tokenizer(base: Path) -> tuple[Tokenizer, NDArray[np.int64]]:
    """The base's tokenizer without its unused tokens, and the base's id of each token that is left."""
    content = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    known = content["model"]["vocab"]
    if not isinstance(known, dict):
        raise ConfigError(f"{base}: its tokenizer has no word-piece vocabulary; take a BERT-like base")
    kept = sorted((number, token) for token, number in known.items() if not _UNUSED.fullmatch(token))
    content["model"]["vocab"] = {token: number for number, (_, token) in enumerate(kept)}
    content["added_tokens"] = [
        {**token, "id": content["model"]["vocab"][token["content"]]}
        for token in content["added_tokens"]
        if token["content"] in content["model"]["vocab"]
    ]
    content |= {"post_processor": None, "truncation": None, "padding": None}  # no [CLS] and [SEP] here
    # as BM25's words: texts from PDF files are full of ligatures, which BERT's own rules leave unknown
    rules = [{"type": "NFKC"}, *filter(None, [content.get("normalizer")])]
    content["normalizer"] = {"type": "Sequence", "normalizers": rules}
    return Tokenizer.from_str(json.dumps(content)), np.array([number for number, _ in kept], dtype=np.int64)


def _ids(tokenizer: Tokenizer, texts: Sequence[str], most: int) -> Rows:
    encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.array(encoding.ids[:most], dtype=np.int64) for encoding in encodings]


def _tokenized(tokenizer: Tokenizer, pairs: Sequence[Pair]) -> _Pairs:
    number: dict[str, int] = {}
    same = np.array([number.setdefault(pair.passage, len(number)) for pair in pairs], dtype=np.int64)
    queries = _ids(tokenizer, [pair.query for pair in pairs], _QUERY)
    passages = _ids(tokenizer, [pair.passage for pair in pairs], _PASSAGE)
    full = [i for i in range(len(pairs)) if len(queries[i]) and len(passages[i])]
    return _Pairs([queries[i] for i in full], [passages[i] for i in full], same[full])


def _token_vectors(base: Path, ids: NDArray[np.int64]) -> Floats:
    """float32[tokens, hidden]: the base's mean output for `[CLS] token [SEP]`."""
    torch: Any = require("torch", extra="train", purpose="training")
    transformers: Any = require("transformers", extra="train", purpose="training")
    quieten(transformers)
    model = transformers.AutoModel.from_pretrained(str(base), dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    begin, end = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    parts = []
    with torch.no_grad():
        for start in range(0, len(ids), 1024):
            middle = torch.from_numpy(ids[start : start + 1024])
            tokens = torch.stack([torch.full_like(middle, begin), middle, torch.full_like(middle, end)], 1)
            hidden = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
            parts.append(hidden.mean(1).numpy())
    return np.concatenate(parts)


def _fit(
    settings: Static,
    table: Floats,
    pairs: _Pairs,
    seed: int,
    work: Path,
    *,
    say: Say,
    progress: Progress,
    stop_after: int,
) -> Floats:
    """The table after `settings.epochs` passes over the pairs; goes on from `work/static.pt` where that fits."""
    torch: Any = require("torch", extra="train", purpose="training")
    loss_of: Any = torch.nn.functional
    batch = min(settings.batch, len(pairs.queries))
    steps = len(pairs.queries) // batch
    total = min(steps * settings.epochs, stop_after or steps * settings.epochs)
    torch.manual_seed(seed)
    bag = torch.nn.EmbeddingBag(*table.shape, mode="mean", _weight=torch.from_numpy(table.copy()))
    optimiser = torch.optim.AdamW(bag.parameters(), lr=settings.learning_rate, weight_decay=0.0, betas=(0.9, 0.99))
    plan = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / 50) * max(0.0, 1.0 - step / max(total, 1))
    )
    state = work / "static.pt"
    made_from = hashlib.sha256(
        msgspec.json.encode([settings, seed, total, len(pairs.queries)]) + table.tobytes()
    ).hexdigest()
    step = 0
    if state.exists():
        kept = torch.load(state, weights_only=True)
        if kept["made_from"] == made_from:
            bag.load_state_dict(kept["bag"])
            optimiser.load_state_dict(kept["optimiser"])
            plan.load_state_dict(kept["plan"])
            step = int(kept["step"])
            say(f"going on after step {step} of {total}")

    def vectors(rows: Rows) -> Any:
        starts = np.cumsum([0, *map(len, rows[:-1])])
        return loss_of.normalize(bag(torch.from_numpy(np.concatenate(rows)), torch.from_numpy(starts)), dim=1)

    def contrast(chosen: NDArray[np.int64]) -> Any:
        """Every query finds its own passage among the batch's, and the other way round."""
        queries = vectors([pairs.queries[i] for i in chosen])
        passages = vectors([pairs.passages[i] for i in chosen])
        same = pairs.same[chosen]
        also_right = torch.from_numpy((same[:, None] == same[None, :]) & ~np.eye(len(chosen), dtype=bool))
        scores = (queries @ passages.T / settings.temperature).masked_fill(also_right, -1e4)
        own = torch.arange(len(chosen))
        return (loss_of.cross_entropy(scores, own) + loss_of.cross_entropy(scores.T, own)) / 2

    while step < total:
        epoch, first = divmod(step, steps)
        order = np.random.default_rng([seed, epoch]).permutation(len(pairs.queries))
        for place in range(first, min(steps, first + total - step)):
            loss = contrast(order[place * batch : (place + 1) * batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            plan.step()
            step += 1
            progress("fit", step, total)
        aside = state.with_suffix(".part")
        torch.save(
            {"made_from": made_from, "step": step, "bag": bag.state_dict()}
            | {"optimiser": optimiser.state_dict(), "plan": plan.state_dict()},
            aside,
        )
        aside.replace(state)
    fitted: Floats = bag.weight.detach().numpy()
    return fitted


def _write_model(table: Floats, tokenizer: Tokenizer, out: Path) -> None:
    """The folder: fp16 `embeddings`, as model2vec names them, and what sentence-transformers needs to open it."""
    from safetensors.numpy import save_file

    out.mkdir(parents=True, exist_ok=True)
    table = table.copy()
    for token in _SPECIAL:
        if (number := tokenizer.token_to_id(token)) is not None:
            table[number] = 0.0
    save_file({"embeddings": table.astype(np.float16)}, out / "model.safetensors", metadata={"format": "pt"})
    # not indented: a vocabulary of one token a line is half as large again
    content = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":"))
    (out / "tokenizer.json").write_text(content, encoding="utf-8")
    config = {"model_type": "model2vec", "architectures": ["StaticModel"], "normalize": True}
    config |= {"hidden_dim": int(table.shape[1]), "seq_length": 1_000_000}
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.StaticEmbedding"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (out / "modules.json").write_text(json.dumps(modules, indent=1) + "\n", encoding="utf-8")


def _encoder_of(table: Floats, tokenizer: Tokenizer, folder: Path) -> StaticEncoder:
    _write_model(table, tokenizer, folder)
    return StaticEncoder(folder)


def _dev_rows(model: StaticEncoder, sets: Sequence[PairSet]) -> list[dict[str, float]]:
    """A row a set: nDCG@10 and recall@100 of its dev queries over all its passages, one of them relevant."""
    rows = []
    for one in sets:
        place = {passage: number for number, passage in enumerate(one.passages)}
        own = np.array([place[pair.passage] for pair in one.dev])
        scores = model.encode([pair.query for pair in one.dev], query=True) @ model.encode(one.passages).T
        rank = (scores > scores[np.arange(len(own)), own][:, None]).sum(axis=1)  # 0: on top
        gain = np.where(rank < 10, 1.0 / np.log2(rank + 2.0), 0.0)
        rows.append({"ndcg@10": round(float(gain.mean()), 4), "recall@100": round(float((rank < 100).mean()), 4)})
    return rows
