"""A training run: prepare groups, fit with sentence-transformers' trainer, hand over a checkpoint.

Knows: torch and sentence-transformers (the extra `train`), and how a run resumes. Refuses
to know: rankings, collections, every test split. Each step leaves a file behind; a run that
was killed goes on from the last one.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from secondpass.errors import ConfigError
from secondpass.extras import require
from secondpass.scoring.checkpoint import SPLIT
from secondpass.scoring.frame import query_limit
from secondpass.training.data import Group, read_groups, read_pairs, write_groups
from secondpass.training.negatives import Encode, dev_pools, mine
from secondpass.training.recipe import Base, DataSet, Recipe

__all__ = ["Prepared", "base_folder", "dev_report", "encoder", "fit", "is_split", "prepare", "quieten"]

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]
DEV_DEPTH = 30
_CHUNK = 8


@dataclass(frozen=True, slots=True)
class Prepared:
    """Groups to learn from, pools to choose on, and what they were made of."""

    groups: list[Group]
    dev: list[Group]
    lineage: dict[str, Any]


def base_folder(base: Base) -> Path:
    """The folder the encoder is loaded from."""
    if base.folder:
        return Path(base.folder)
    module = require(base.package.replace("-", "_"), extra="train", purpose="the recipe's base")
    folder = Path(str(module.__file__)).parent / "model"
    if not (folder / "config.json").is_file():
        raise ConfigError(f"base package {base.package!r} holds no model/config.json; name a folder instead")
    return folder


def quieten(transformers: Any) -> None:
    """No bars and load reports of its own: `progress` and `say` tell what matters, a fresh head among it."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def is_split(folder: Path) -> bool:
    """Whether the folder holds a split encoder."""
    return bool(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") == SPLIT)


def is_cross_encoder(folder: Path) -> bool:
    """Whether the base was trained on pairs: its cosine then says little about a query and a passage apart."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return is_split(folder) or any("SequenceClassification" in name for name in config.get("architectures") or ())


def encoder(folder: Path, *, bf16: bool, progress: Progress) -> Encode:
    """The base as a bi-encoder: texts -> unit vectors, truncated at 128 tokens as in its own training."""
    torch: Any = require("torch", extra="train", purpose="training")
    library: Any = require("sentence_transformers", extra="train", purpose="training")
    quieten(require("transformers", extra="train", purpose="training"))
    model = library.SentenceTransformer(str(folder), device="cuda" if torch.cuda.is_available() else "cpu")
    model.max_seq_length = 128

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = np.zeros((len(texts), model.get_embedding_dimension()), dtype=np.float32)
        step = 512
        for start in range(0, len(order), step):
            rows = order[start : start + step]
            with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16):
                out[rows] = model.encode(
                    [texts[i] for i in rows], batch_size=32, normalize_embeddings=True, show_progress_bar=False
                )
            progress("encode", min(start + step, len(order)), len(order))
        return out

    known: dict[str, NDArray[np.float32]] = {}  # sets ask for the same passages twice: to mine, and to choose

    def remember(texts: Sequence[str]) -> NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, encode(new), strict=True))
        return np.array([known[text] for text in texts], dtype=np.float32)

    return remember


def _prepare_set(
    recipe: Recipe, spec: DataSet, data: Path, encode: Encode | None
) -> tuple[list[Group], list[Group], dict[str, Any]]:
    """One set's training groups, dev pools, and its row of the lineage."""
    pairs = read_pairs(spec, data, recipe.training.seed)
    groups = mine(pairs, recipe.negatives, encode, recipe.training.seed)
    pools = dev_pools(pairs, DEV_DEPTH, encode)
    row = {
        "name": spec.name,
        "licence": spec.licence,
        "sha256": pairs.digest,
        "groups": len(groups),
        "dev_queries": len(pairs.dev),
        "dev_pools": len(pools),
        "rows_dropped": pairs.dropped,
    }
    return groups, pools, row


def prepare(recipe: Recipe, data: Path, work: Path, *, say: Say, progress: Progress) -> Prepared:
    """Read the sets, mine negatives, filter them, draw dev pools; each set is kept in `work/sets` once it is done.

    A set is read back where everything that decides its groups (its spec, the negatives, the base, the
    seed) is unchanged; optimiser settings may change without mining again.
    """
    folder = work / "sets"
    folder.mkdir(parents=True, exist_ok=True)
    base = base_folder(recipe.base)
    unfiltered = is_cross_encoder(base)
    if unfiltered:
        say("the base is a cross-encoder: its cosines mean nothing, so mined negatives are not filtered")
    encode: Encode | None = None
    groups: list[Group] = []
    dev: list[Group] = []
    rows: list[dict[str, Any]] = []
    for number, spec in enumerate(recipe.sets, 1):
        made_from = msgspec.json.encode([spec, recipe.negatives, recipe.base, recipe.training.seed, DEV_DEPTH])
        stem = folder / f"{spec.name}-{hashlib.sha256(made_from).hexdigest()[:12]}"
        paths = [stem.with_name(stem.name + suffix) for suffix in (".groups.jsonl", ".dev.jsonl", ".row.json")]
        if not paths[2].exists():
            say(f"[{number}/{len(recipe.sets)}] {spec.name}: mining negatives")
            if encode is None and not unfiltered:
                encode = encoder(base, bf16=recipe.training.bf16, progress=progress)
            made, pools, row = _prepare_set(recipe, spec, data, encode)
            write_groups(made, paths[0])
            write_groups(pools, paths[1])
            paths[2].write_text(json.dumps(row), encoding="utf-8")  # last: it says that the set is complete
        groups += read_groups(paths[0])
        dev += read_groups(paths[1])
        rows.append(json.loads(paths[2].read_text(encoding="utf-8")))
    random.Random(recipe.training.seed).shuffle(groups)
    groups = groups[: recipe.training.groups or None]
    return Prepared(groups, dev, {"sets": rows, "base": msgspec.to_builtins(recipe.base)})


def targets(group: Group, weight: float, temperature: float) -> list[float]:
    """The list target: (1 − weight) · one-hot(positive) + weight · softmax(cosines / temperature). Sums to 1."""
    hard = [1.0 if i == group.positive else 0.0 for i in range(len(group.passages))]
    if not weight or not group.cosines:
        return hard
    scaled = np.array(group.cosines) / temperature
    soft = np.exp(scaled - scaled.max())
    soft /= soft.sum()
    return [(1 - weight) * h + weight * float(s) for h, s in zip(hard, soft, strict=True)]


def _batches(groups: Sequence[Group], recipe: Recipe) -> list[list[int]]:
    if any(group.positive for group in groups):
        raise ConfigError("training groups must hold their positive first")
    lengths = [len(group.query) + max(map(len, group.passages)) for group in groups]
    return _length_sorted_batches(lengths, recipe.training.groups_per_batch, recipe.training.seed)


def _length_sorted_batches(lengths: Sequence[int], size: int, seed: int) -> list[list[int]]:
    """Batches of like lengths in random order: sorted within chunks of 64 batches, so padding stays small."""
    draw = random.Random(seed)
    order = list(range(len(lengths)))
    draw.shuffle(order)
    batches = []
    chunk = size * 64
    for start in range(0, len(order), chunk):
        part = sorted(order[start : start + chunk], key=lambda i: lengths[i])
        batches += [part[i : i + size] for i in range(0, len(part), size)]
    draw.shuffle(batches)
    return batches


def fit(recipe: Recipe, prepared: Prepared, work: Path, *, say: Say, progress: Progress, stop_after: int = 0) -> Path:
    """Train from the base (or the last checkpoint in `work`) and return the folder of the fp32 model.

    `stop_after` ends the run after that many optimiser steps (0: the whole recipe); the learning
    rate is planned for the steps that will be taken.
    """
    base = base_folder(recipe.base)
    if recipe.split is not None or is_split(base):
        from secondpass.training.split import fit_split

        batches, groups = _batches(prepared.groups, recipe), prepared.groups
        return fit_split(recipe, base, groups, batches, work, say=say, progress=progress, stop_after=stop_after)
    torch: Any = require("torch", extra="train", purpose="training")
    library: Any = require("sentence_transformers", extra="train", purpose="training")
    transformers: Any = require("transformers", extra="train", purpose="training")
    datasets: Any = require("datasets", extra="train", purpose="training")
    cross: Any = require("sentence_transformers.cross_encoder", extra="train", purpose="training")
    sampler: Any = require("sentence_transformers.base.sampler", extra="train", purpose="training")
    settings = recipe.training
    done = work / "model"
    if (done / "config.json").exists():
        say(f"training was finished before: {done}")
        return done

    transformers.set_seed(settings.seed)
    quieten(transformers)
    datasets.disable_progress_bars()
    model = library.CrossEncoder(str(base_folder(recipe.base)), num_labels=1, max_length=settings.max_length)
    for part in model.model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = settings.dropout

    class ListSoftmaxWithBCE(torch.nn.Module):  # type: ignore[misc]
        """Cross-entropy of the list's softmax against its target, plus pointwise BCE on the known positive."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: list[list[Any]], labels: list[Any], **_: Any) -> Any:
            queries, lists = inputs
            pairs = [[query, text] for query, texts in zip(queries, lists, strict=True) for text in texts]
            tokens = self.model.tokenizer(pairs, truncation="only_second", max_length=settings.max_length)
            order = sorted(range(len(pairs)), key=lambda i: len(tokens["input_ids"][i]))
            parts = []
            for start in range(0, len(order), _CHUNK):  # pairs of like length together: a third less padding
                rows = order[start : start + _CHUNK]
                features = self.model.tokenizer.pad(
                    {name: [column[i] for i in rows] for name, column in tokens.items()}, return_tensors="pt"
                )
                parts.append(self.model.model(**features.to(self.model.device)).logits.float().view(-1))
            back = torch.tensor(order, device=self.model.device).argsort()
            logits = torch.cat(parts)[back].view(len(queries), -1)
            target = torch.stack(labels).to(logits.device).float()  # [groups, passages]
            listwise = torch.nn.functional.cross_entropy(logits, target)
            hard = torch.zeros_like(target)
            hard[:, 0] = 1.0
            pointwise = torch.nn.functional.binary_cross_entropy_with_logits(logits, hard)
            return listwise + settings.bce_weight * pointwise

    asked = model.tokenizer([group.query for group in prepared.groups], add_special_tokens=False)["input_ids"]
    fits = [len(tokens) <= query_limit(settings.max_length) for tokens in asked]
    groups = [group for group, fit in zip(prepared.groups, fits, strict=True) if fit]
    if len(groups) < len(prepared.groups):
        left_out = len(prepared.groups) - len(groups)
        say(f"{left_out} groups left out: the query does not fit {settings.max_length} tokens")
    batches = _batches(groups, recipe)

    class LikeLengths(sampler.DefaultBatchSampler):  # type: ignore[misc]
        def __init__(self, *_: Any, **__: Any) -> None:
            self.epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self) -> Iterator[list[int]]:
            order = list(batches)
            random.Random(settings.seed + self.epoch).shuffle(order)
            return iter(order)

        def __len__(self) -> int:
            return len(batches)

    class Trainer(cross.CrossEncoderTrainer):  # type: ignore[misc]
        def get_batch_sampler(self, *_: Any, **__: Any) -> Any:
            return LikeLengths()

    rows = datasets.Dataset.from_dict(
        {
            "query": [group.query for group in groups],
            "passages": [list(group.passages) for group in groups],
            "labels": [targets(group, settings.teacher_weight, settings.teacher_temperature) for group in groups],
        }
    )
    planned = len(batches) * settings.epochs
    steps = min(stop_after, planned) if stop_after else planned

    class Talk(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress("train", state.global_step, state.max_steps)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if logs and "loss" in logs:
                say(f"step {state.global_step}/{state.max_steps}: loss {float(logs['loss']):.4f}")

    arguments = cross.CrossEncoderTrainingArguments(
        output_dir=str(work / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=settings.groups_per_batch,
        learning_rate=settings.learning_rate,
        warmup_steps=int(settings.warmup * steps),
        weight_decay=settings.weight_decay,
        bf16=settings.bf16,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="steps",
        save_steps=settings.save_every,
        save_total_limit=1,
        logging_steps=100,
        report_to=[],
        disable_tqdm=True,
        seed=settings.seed,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, loss=ListSoftmaxWithBCE(), callbacks=[Talk()])
    trainer.remove_callback(transformers.PrinterCallback)
    checkpoints = list((work / "checkpoints").glob("checkpoint-*/trainer_state.json"))
    if checkpoints:
        say(f"going on from {checkpoints[0].parent.name}")
    trainer.train(resume_from_checkpoint=bool(checkpoints))
    aside = work / "model.part"
    model.model.save_pretrained(aside)
    model.tokenizer.save_pretrained(aside)
    aside.rename(done)
    return done


def dev_report(
    dev: Sequence[Group],
    score: Callable[[str, Sequence[str]], Sequence[float]],
    fuse: Callable[[Sequence[float], Sequence[float]], Sequence[float]] | None = None,
) -> list[dict[str, Any]]:
    """nDCG@10 by set over the dev pools: BM25's order, the base's cosine, the model, and the model with BM25.

    `fuse` makes scores of both stages from logits and BM25's scores; without it, or where a set's pools hold none,
    "fused" is None, as "cosine" is where there are no cosines. Each pool has one positive.
    The source of the formula: with one relevant passage, nDCG@10 = 1 / log2(1 + rank) if rank ≤ 10, else 0.
    """

    def gain(values: Sequence[float], positive: int) -> float:
        rank = 1 + sum(v > values[positive] or (v == values[positive] and i < positive) for i, v in enumerate(values))
        return float(1 / np.log2(1 + rank)) if rank <= 10 else 0.0

    by_set: dict[str, list[tuple[float, float, float, float]]] = {}
    for pool in dev:
        bm25 = gain([-float(i) for i in range(len(pool.passages))], pool.positive)
        cosine = gain(pool.cosines, pool.positive) if pool.cosines else 0.0
        logits = score(pool.query, pool.passages)
        fused = gain(fuse(logits, pool.first_scores), pool.positive) if fuse and pool.first_scores else 0.0
        by_set.setdefault(pool.set, []).append((bm25, cosine, gain(logits, pool.positive), fused))
    with_cosine = {pool.set for pool in dev if pool.cosines}
    with_fused = {pool.set for pool in dev if fuse and pool.first_scores}
    report = []
    for name, rows in by_set.items():
        bm25, cosine, model, fused = np.mean(rows, axis=0).round(4).tolist()
        row = {"set": name, "queries": len(rows), "bm25": bm25, "model": model}
        row |= {"cosine": cosine if name in with_cosine else None, "fused": fused if name in with_fused else None}
        report.append(row)
    return report
