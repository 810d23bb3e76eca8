"""From a trained model to a folder that ships: fp16 weights, golden scores, int8 scales, calibration, lineage, card.

Knows: the layout that secondpass, transformers and sentence-transformers all open. Refuses to
know: how the model was trained, beyond what the lineage says. The golden logits come from
torch in fp32 on the rounded weights, not from the engines they will be used to check.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import random
import shutil
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from secondpass.errors import GoldenError
from secondpass.extras import require
from secondpass.scoring.calibration import calibrate
from secondpass.scoring.checkpoint import SPLIT, open_checkpoint, read_json
from secondpass.scoring.engines import open_engine
from secondpass.scoring.pair_scorer import PairScorer
from secondpass.scoring.prepare import prepare
from secondpass.scoring.probability import (
    CALIBRATION,
    FEWEST_QUERIES,
    fit_order,
    read_calibration,
    write_calibration,
)
from secondpass.scoring.probes import PROBES
from secondpass.scoring.scales import write_scales
from secondpass.scoring.tensors import SCALE
from secondpass.scoring.tokens import Tokens
from secondpass.training.curves import METRICS, read_curves
from secondpass.training.data import Group
from secondpass.training.probability import Parent, calibrated, fused, halves, in_words
from secondpass.training.recipe import Recipe
from secondpass.training.report import REPORT, Judged, training_report
from secondpass.training.train import DEV_DEPTH, RUN, Prepared, base_folder, dev_report, is_cross_encoder, is_split
from secondpass.weights import shipped_name

__all__ = ["export", "write_int8"]

_FP32 = 1e-4  # what an engine in fp32 may differ from torch; tests hold both engines to it
_PAIRS = 1500  # dev pairs that a precision's deviation from fp32 is measured on
_CALIBRATION = 300  # training groups that the int8 scales are found on


def export(recipe: Recipe, prepared: Prepared, trained: Path, out: Path) -> dict[str, Any]:
    """Write the checkpoint to `out` and return its lineage.

    Raises GoldenError where an engine on this machine does not reproduce torch's fp32 scores.
    """
    out.mkdir(parents=True, exist_ok=True)
    _weights(trained, out, small_embeddings=recipe.split is not None and recipe.split.small_embeddings)
    _configuration(recipe, trained, out)
    trained_on = {group.set for group in prepared.groups}
    lower_weight = sum_heads(out, halves(prepared.dev, trained_on, recipe.training.seed)[0]) if is_split(out) else None
    golden = _golden_split(out) if is_split(out) else _golden(recipe, out)
    written: dict[str, Any] = {"licence": recipe.licence, "languages": recipe.languages}
    written |= {"tolerance": {"fp32": _FP32}, "pairs": golden}
    _write_json(out / "golden.json", written)

    fp32 = _scorer(out, "exact")
    worst = fp32.check_golden(fp32.checkpoint.golden)
    default = _scorer(out, "default")  # what users will get on a machine like this one
    deviation = None
    if default.engine.precision != "fp32":
        deviation = _largest_deviation(fp32, default, prepared.dev)
        written["tolerance"][default.engine.precision] = _allowed(deviation)
    deviation_of_fast = write_int8(out, prepared.groups, prepared.dev, recipe.training.seed)
    written["tolerance"]["int8"] = _allowed(deviation_of_fast)
    _write_json(out / "golden.json", written)

    @cache  # the pools are scored once, to calibrate and to report
    def score(query: str, texts: tuple[str, ...]) -> list[float]:
        return _numbers(default, query, texts)

    parent = _parent(base_folder(recipe.base))
    calibration, probability = calibrated(prepared.dev, trained_on, score, recipe.training.seed, parent=parent)
    (out / CALIBRATION).unlink(missing_ok=True)  # an older model's, which this one would refuse
    if calibration is not None:
        write_calibration(default.checkpoint, calibration)

    run = read_json(trained / RUN)
    lineage = {
        "name": recipe.name,
        "licence": recipe.licence,
        "languages": recipe.languages,
        **prepared.lineage,
        "groups": len(prepared.groups),
        "steps": run.pop("steps", None),
        "run": run,
        "training": msgspec.to_builtins(recipe.training),
        "negatives": msgspec.to_builtins(recipe.negatives),
        **({"split": msgspec.to_builtins(recipe.split)} if recipe.split else {}),
        "lower_head_weight": lower_weight,
        "dev": dev_report(prepared.dev, score, partial(fused, calibration) if calibration else None),
        "dev_precision": default.engine.precision,
        "calibration": probability,
        "golden": {
            "fp32_worst": worst,
            "largest_deviation_of_default": deviation,
            "largest_deviation_of_fast": deviation_of_fast,
        },
        "digest": fp32.checkpoint.digest,
        "made_with": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("torch", "transformers", "sentence-transformers")},
        },
    }
    _write_json(out / "lineage.json", lineage)
    if (trained / METRICS).exists():
        shutil.copyfile(trained / METRICS, out / METRICS)
    name, ranked = _before(parent, prepared.dev)
    judged = [Judged(pool, ranked(pool), score(pool.query, pool.passages)) for pool in prepared.dev]
    page = training_report(lineage, read_curves(out / METRICS), judged, name)
    (out / REPORT).write_text(page, encoding="utf-8")
    if not (out / "README.md").exists():  # a card that a person has edited is never overwritten
        (out / "README.md").write_text(_card(lineage), encoding="utf-8")
    return lineage


def _parent(base: Path) -> Parent | None:
    """The base, where it ranks pairs; the dev pools are scored once by it, too."""
    if not is_cross_encoder(base):
        return None
    scorer = _scorer(base, "default")

    @cache
    def score(query: str, texts: tuple[str, ...]) -> list[float]:
        return _numbers(scorer, query, texts)

    return Parent(shipped_name(base, base.name), score, read_calibration(scorer.checkpoint))


def _before(parent: Parent | None, dev: Sequence[Group]) -> tuple[str, Callable[[Group], Sequence[float]]]:
    """What ranked the dev pools before the run, and its scores of one: the base if it ranks pairs, else its cosines,
    else the first stage."""
    if parent is not None:
        return parent.name, lambda pool: parent.score(pool.query, pool.passages)
    if dev and all(pool.cosines for pool in dev):
        return "the base's cosine", lambda pool: pool.cosines
    return "the first stage", lambda pool: [-float(place) for place in range(len(pool.passages))]


def _numbers(scorer: PairScorer, query: str, texts: Sequence[str]) -> list[float]:
    """Logits; what cannot be scored comes last."""
    return [-math.inf if value is None else value for value in scorer.score(query, texts).values]


def _golden(recipe: Recipe, out: Path) -> list[dict[str, Any]]:
    torch: Any = require("torch", extra="train", purpose="export")
    transformers: Any = require("transformers", extra="train", purpose="export")
    model = transformers.BertForSequenceClassification.from_pretrained(str(out), dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(out))
    golden = []
    with torch.no_grad():
        for query, text in PROBES:
            features = tokenizer(
                query, text, truncation="only_second", max_length=recipe.max_length, return_tensors="pt"
            )
            golden.append({"query": query, "document": text, "logit": round(float(model(**features).logits[0, 0]), 6)})
    return golden


def _golden_split(out: Path) -> list[dict[str, Any]]:
    from secondpass.training.split import logits_of, open_split

    torch: Any = require("torch", extra="train", purpose="export")
    model, checkpoint = open_split(out), open_checkpoint(out)
    tokens = Tokens(checkpoint.tokenizer, checkpoint.max_length, keep_bytes=0)
    golden = []
    with torch.no_grad():
        for query, text in PROBES:
            (row,) = prepare(checkpoint, query, [text], tokens).rows
            if row is not None:
                sides = row.ids[: row.query_tokens].tolist(), row.ids[row.query_tokens :].tolist()
                logits = logits_of(model, [sides[0]], [sides[1]], [0])[model.layers]
                golden.append({"query": query, "document": text, "logit": round(float(logits[0]), 6)})
    return golden


def sum_heads(folder: Path, pools: Sequence[Group]) -> float | None:
    """Let a split encoder's logit be the last head's and the lower one's together, and return what that one weighs.

    The layers that read apart know which words match, the upper ones what is meant; together they rank better than
    either. The weight is fitted on dev pools that nothing is measured on (`fit_order`) and put into the lower head,
    which then ranks as before. None, and the folder stays as it is, where it has no lower head, where fewer
    than 20 pools are given, or where the lower head does not help.
    """
    scorer = _scorer(folder, "default")
    if scorer.checkpoint.encoder.summed or scorer.engine.begin is None or len(pools) < FEWEST_QUERIES:
        return None
    lists = []
    for pool in pools:
        texts = list(pool.passages)
        columns = [scorer.score(pool.query, texts).values, scorer.lower_logits(pool.query, texts)]
        table = np.array([[math.nan if value is None else value for value in column] for column in columns]).T
        usable = np.isfinite(table).all(axis=1)
        lists.append((table[usable], (np.array(pool.gains) > 0)[usable].astype(float)))
    last, lower = fit_order(lists)
    if last <= 0 or lower <= 0:
        return None
    weight = float(lower / last)
    from safetensors.numpy import load_file, save

    path, at = folder / "model.safetensors", f"heads.{scorer.checkpoint.encoder.apart}."
    tensors = load_file(path)
    for name in ("factors", "outer.weight", "outer.bias"):
        tensors[at + name] = (tensors[at + name].astype(np.float32) * weight).astype(tensors[at + name].dtype)
    path.write_bytes(save(tensors, metadata={"format": "pt"}))
    _write_json(folder / "config.json", {**read_json(folder / "config.json"), "summed": True})
    return round(weight, 4)


def write_int8(folder: Path, groups: Sequence[Group], dev: Sequence[Group], seed: int) -> float:
    """Put the scales of profile "fast" into a model folder, and return its largest deviation from fp32 on dev pairs.

    The scales are found on a sample of the training groups, the same number of each set as far as they have it.
    Raises InputError where no group can be scored.
    """
    sample = _evenly(groups, _CALIBRATION, seed)
    checkpoint = open_checkpoint(folder)
    write_scales(checkpoint, calibrate(checkpoint, [(group.query, group.passages) for group in sample], seed=seed))
    return _largest_deviation(_scorer(folder, "exact"), _scorer(folder, "fast"), dev)


def _evenly(groups: Sequence[Group], count: int, seed: int) -> list[Group]:
    """Groups drawn by a seed, one of each set in turn."""
    by_set: dict[str, list[Group]] = {}
    for group in random.Random(seed).sample(groups, len(groups)):
        by_set.setdefault(group.set, []).append(group)
    turns = zip_longest(*(by_set[name] for name in sorted(by_set)))
    return list(islice((group for turn in turns for group in turn if group is not None), count))


def _allowed(deviation: float) -> float:
    """A tolerance from a measured maximum: half as much again, since the maximum is of a sample."""
    return math.ceil(deviation * 1.5 * 100) / 100


def _weights(trained: Path, out: Path, *, small_embeddings: bool) -> None:
    """Weights in fp16, as they will be computed on; if asked for, the vectors of tokens in 8 bits with a scale each."""
    from safetensors.numpy import load_file, save

    tensors = load_file(trained / "model.safetensors")
    halves = {name: t.astype(np.float16) for name, t in tensors.items() if not name.endswith("position_ids")}
    unusable = [name for name, tensor in halves.items() if not np.isfinite(tensor).all()]
    if unusable:
        raise GoldenError(
            f"{unusable[0]} does not fit into fp16; the training went astray (NaN or infinity in the weights)"
        )
    if small_embeddings:
        for name in [name for name in tensors if name.endswith("word_embeddings.weight")]:
            scale = (np.abs(tensors[name]).max(axis=1, keepdims=True) / 127 + 1e-12).astype(np.float32)
            halves[name] = np.round(tensors[name] / scale).astype(np.int8)
            halves[name.removesuffix("weight") + SCALE] = scale
    # not save_file, which lets nobody else read the file
    (out / "model.safetensors").write_bytes(save(halves, metadata={"format": "pt"}))


def _configuration(recipe: Recipe, trained: Path, out: Path) -> None:
    config = json.loads((trained / "config.json").read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    # weights lie on disk in fp16 and are meant to be computed on in fp32 unless a profile takes less
    config |= {"dtype": "float32", "torch_dtype": "float32"}
    if config["model_type"] != SPLIT:
        config |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.linear.Identity"}
    _write_json(out / "config.json", config)
    tokenizer = json.loads((trained / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer |= {"truncation": None, "padding": None}
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    settings = json.loads((trained / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["model_max_length"] = recipe.max_length
    _write_json(out / "tokenizer_config.json", settings)
    if (trained / "vocab.txt").exists():
        shutil.copyfile(trained / "vocab.txt", out / "vocab.txt")


def _scorer(folder: Path, profile: str) -> PairScorer:
    checkpoint = open_checkpoint(folder)
    engine = open_engine(checkpoint, engine="auto", profile=profile, threads=None, cache=None)
    tolerance = checkpoint.tolerance.get(engine.precision, math.inf)
    return PairScorer(checkpoint, engine, max_length=checkpoint.max_length, batch_tokens=512, tolerance=tolerance)


def _largest_deviation(one: PairScorer, other: PairScorer, dev: Sequence[Group]) -> float:
    """The largest difference of two scorers of one checkpoint, over the probes and a sample of dev pairs."""
    pools = [(query, [text]) for query, text in PROBES]
    taken = 0
    for pool in dev[:: max(1, len(dev) * DEV_DEPTH // _PAIRS)]:
        pools.append((pool.query, list(pool.passages)))
        taken += len(pool.passages)
        if taken >= _PAIRS:
            break
    worst = 0.0
    for query, texts in pools:
        for a, b in zip(one.score(query, texts).values, other.score(query, texts).values, strict=True):
            if a is not None and b is not None:
                worst = max(worst, abs(a - b))
    return worst


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _card(lineage: dict[str, Any]) -> str:
    """A model card to begin with; people add what was measured elsewhere."""
    sets = "\n".join(
        f"| {one['name']} | {one['groups']} | {one['licence']} |" for one in lineage["sets"] if one["groups"]
    )

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    dev = "\n".join(
        f"| {one['set']} | {one['queries']} | "
        + " | ".join(number(one[key]) for key in ("first", "cosine", "model", "fused"))
        + " |"
        for one in lineage["dev"]
    )
    history = lineage["base"]["history"] or "not stated in the recipe"
    stated = "" if lineage["licence"] == "not stated" else f"license: {lineage['licence'].lower()}\n"
    return f"""---
{stated}library_name: secondpass
pipeline_tag: text-ranking
---
# {lineage["name"]}

A cross-encoder for reranking. Base: {history}.

Made by `secondpass train --recipe recipe.toml`; what it was made of is in `lineage.json`.

| training set | groups prepared | licence |
|---|---|---|
{sets}

Dev queries, held out of training (nDCG@10 over the first stage's first 30, queries whose answer it found):

| dev set | queries | first stage's order | cosine of the base | this model | both stages |
|---|---|---|---|---|---|
{dev}

{in_words(lineage["calibration"])}
"""
