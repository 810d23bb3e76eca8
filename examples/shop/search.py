"""A shop's search that learns from its clicks: places' bias out, trees over words and numbers, a cross-encoder on top.

    python examples/shop/search.py [--out FOLDER] [--sessions 40000] [--depth 20]

The shop shows BM25's items with what is popular on top, in three mixtures, and people click what they look at and want;
they look less the further down. From that log: how often each place is looked at, labels without that bias, trees that
learn from them. Beside them trees that take click rates for what they are, and the cross-encoder. Then what the clicks
cannot say: who ranks better by judgments, on queries that are in no log.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from recommend import file_name, lines, ranked
from rich.console import Console
from shop import KINDS, PRICES, STYLES, items

from secondpass import BM25, CrossEncoder, Document, Ranking
from secondpass.evaluation.leaderboard import leaderboard
from secondpass.evaluation.trec import Qrels
from secondpass.rerankers.features import Features, FeatureSpec
from secondpass.rerankers.fused import Fused
from secondpass.rerankers.ltr import LearnedToRank
from secondpass.rerankers.term_statistics import TermStatistics
from secondpass.training.clicks.debiased import debiased
from secondpass.training.clicks.impressions import Impressions, gather, read_sessions
from secondpass.training.clicks.position_bias import measure
from secondpass.training.ltr import boosting_of, train_on_rankings

SHOWN, CANDIDATES = 10, 40
CROWDS = (0.3, 1.0, 3.0)  # what popularity weighs in the shop's three rankers
LOOKED = tuple(place**-0.8 for place in range(1, SHOWN + 1))
PER_GRADE = 0.25  # trees learn from whole numbers: a grade for so much of a label


def asked(seed: int) -> list[tuple[str, str, str]]:
    """Every query once, in an order drawn by the seed: its text, and the kind and style that are meant."""
    queries = [
        (text, kind, style)
        for kind in sorted(KINDS)
        for style in sorted(STYLES)
        for text in (f"{style} {kind}", f"something {style} that {KINDS[kind][0]}")
    ]
    random.Random(f"queries/{seed}").shuffle(queries)
    return queries


def grade(item: Document, kind: str, style: str) -> int:
    """0: something else. 1: the kind. 2: in that style, too. 3: and not dear."""
    if f" {kind} " not in f" {item.title} ":
        return 0
    if item.metadata["style"] != style:
        return 1
    return 3 if item.metadata["price"] <= PRICES[item.metadata["room"]] else 2


def popular(pool: Ranking, crowd: float) -> list[Document]:
    """What a ranker of the shop shows: BM25's order, moved by what others bought."""
    best = {hit.document.id: -np.log(place) + crowd * np.log(hit.document.metadata["popularity"])
            for place, hit in enumerate(pool.hits, 1)}  # fmt: skip
    return sorted(pool.documents, key=lambda item: -best[item.id])[:SHOWN]


def write_log(pools: Sequence[Ranking], qrels: Qrels, sessions: int, path: Path, seed: int) -> None:
    """What people saw and clicked, a session a line: where they looked and found what they wanted, mostly."""
    rng = random.Random(f"sessions/{seed}")
    shown = {(pool.query_id, crowd): popular(pool, crowd) for pool in pools for crowd in CROWDS}
    with path.open("w", encoding="utf-8") as out:
        for _ in range(sessions):
            pool, crowd = rng.choice(pools), rng.choice(CROWDS)
            seen = shown[pool.query_id, crowd]
            wanted = [0.05 + 0.28 * qrels[pool.query_id].get(item.id, 0) for item in seen]
            clicked = [
                one.id for one, want, look in zip(seen, wanted, LOOKED, strict=True) if rng.random() < want * look
            ]
            ids = [item.id for item in seen]
            row = {"query": pool.query, "query_id": pool.query_id, "shown": ids, "clicked": clicked}
            out.write(json.dumps({**row, "ranker": f"popularity {crowd}"}) + "\n")


def as_grades(made: Impressions, labels: Sequence[float]) -> dict[str, dict[str, int]]:
    """Labels of clicks as whole numbers, by query and item."""
    found: dict[str, dict[str, int]] = {}
    for query, item, label in zip(made.query_of, made.documents, labels, strict=True):
        found.setdefault(made.queries[query], {})[item] = round(min(label, 1.0) / PER_GRADE)
    return found


def main() -> None:
    """Make the shop and its log, learn, rank, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("shop-search"), help="where the log, models and runs go")
    parser.add_argument("--sessions", type=int, default=40_000)
    parser.add_argument("--depth", type=int, default=20, help="items that the cross-encoder sees")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    say = partial(Console(highlight=False, markup=False).print, soft_wrap=True)

    shop = items(400, options.seed)
    stage = BM25.build(shop)
    pools, qrels = [], {}
    for number, (text, kind, style) in enumerate(asked(options.seed)):
        pools.append(replace(stage.retrieve(text, CANDIDATES), query_id=f"q{number}"))
        qrels[f"q{number}"] = {item.id: found for item in shop if (found := grade(item, kind, style))}
    half = len(pools) // 2
    logged, tested = pools[:half], pools[half:]
    log = options.out / "sessions.jsonl"
    write_log(logged, qrels, options.sessions, log, options.seed)

    with log.open("rb") as written:
        made = gather(read_sessions(written, log), depth=SHOWN)
    bias = measure(made, "harvested", repeats=50)
    say("How often a place is looked at, found and true:")
    say("  ".join(f"{found:.2f}/{true:.2f}" for found, true in zip(bias.alpha, LOOKED, strict=True)))
    labels: Mapping[str, Sequence[float]] = {
        "trees, click rates": (made.of_pairs(made.clicked) / made.of_pairs(made.shown)).tolist(),
        "trees, debiased": debiased(made, bias).gains.tolist(),
    }

    spec = FeatureSpec(fields=("title", "text"), metadata=("popularity", "price"))
    features = Features(spec, TermStatistics.of(shop, spec.fields, spec.language))
    boosting = boosting_of({"num_leaves": 7, "num_threads": 1})
    trees = {}
    for name, gains in labels.items():
        folder = options.out / file_name(name)
        grades = as_grades(made, gains)
        lineage = train_on_rankings(logged, grades, features, folder, boosting=boosting, source="clicks")
        trees[name] = LearnedToRank(folder)
        used = [f"{feature} {share:.0%}" for feature, share in list(lineage["gain"].items())[:4]]
        say(f"What {name} go by:", ", ".join(used))

    best, texts = trees["trees, debiased"], CrossEncoder()
    chosen = [best.rerank(pool).top(options.depth) for pool in tested]
    systems = [
        ranked("bm25", None, tested),
        *(ranked(name, one, tested) for name, one in trees.items()),
        ranked("cross-encoder", texts, [pool.top(options.depth) for pool in tested]),
        ranked("trees, then both", Fused(best, texts, weights=[2, 1]), chosen),
    ]
    board = leaderboard(systems, {pool.query_id: qrels[pool.query_id] for pool in tested}, depth=CANDIDATES)
    say(f"\nBy judgments, on {len(tested)} queries that are in no log:")
    for line in lines(board):
        say(line)
    say(f"\nThe log is {log}; the same from the command line: secondpass clicks {log}")


if __name__ == "__main__":
    main()
