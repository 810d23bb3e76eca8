"""Recommendation as second-pass ranking: a customer's history is the query, the shop's items are the documents.

    python examples/shop/recommend.py [--out FOLDER] [--customers 300] [--depth 30]

BM25 finds items whose texts share words with the history. Trees (LambdaMART) rank them by numbers, of the item and of
how it fits this customer; a cross-encoder ranks them by their texts; both together are the two fused. Learnt from half
of the customers, told of the other half, by the audit and the leaderboard that any search gets.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from rich.console import Console
from shop import Customer, customers, items

from secondpass import BM25, CrossEncoder, Document, Hit, Ranking
from secondpass.evaluation.audit import audit
from secondpass.evaluation.leaderboard import Leaderboard, leaderboard
from secondpass.evaluation.report import terminal
from secondpass.evaluation.systems import System
from secondpass.evaluation.trec import write_run
from secondpass.rerankers.features import Features, FeatureSpec
from secondpass.rerankers.fused import Fused
from secondpass.rerankers.ltr import LearnedToRank
from secondpass.rerankers.term_statistics import TermStatistics
from secondpass.training.ltr import boosting_of, train_on_rankings
from secondpass.types import Reranker

NUMBERS = ("popularity", "price_gap", "room_share", "style_share")
WIDE = 200  # items that the first stage finds


def fitting(item: Document, history: Sequence[Document]) -> Document:
    """The item with numbers that say how it fits this customer: a request may bring its own metadata."""
    usual = fmean(math.log(one.metadata["price"]) for one in history)
    numbers = {
        "popularity": item.metadata["popularity"],
        "price_gap": abs(math.log(item.metadata["price"]) - usual),
        "room_share": fmean(one.metadata["room"] == item.metadata["room"] for one in history),
        "style_share": fmean(one.metadata["style"] == item.metadata["style"] for one in history),
    }
    return replace(item, metadata=numbers)


def found(stage: BM25, customer: Customer, depth: int) -> Ranking:
    """The first stage's items for a customer, less what they have."""
    query = " ".join(item.text for item in customer.history)
    known = {item.id for item in customer.history}
    hits = [hit for hit in stage.retrieve(query, depth + len(known)).hits if hit.document.id not in known][:depth]
    fitted = (replace(hit, document=fitting(hit.document, customer.history)) for hit in hits)
    return Ranking(query, tuple(fitted), (), customer.id)


def ranked(name: str, reranker: Reranker | None, pools: Sequence[Ranking]) -> System:
    """A system's run over all customers, timed."""
    run, seconds = {}, {}
    for pool in pools:
        began = time.perf_counter()
        hits: tuple[Hit, ...] = (reranker.rerank(pool) if reranker else pool).hits
        seconds[pool.query_id] = time.perf_counter() - began
        run[pool.query_id] = [(hit.document.id, float(len(hits) - place)) for place, hit in enumerate(hits)]
    return System(name, run, seconds)


def lines(board: Leaderboard) -> Iterator[str]:
    """The systems of a leaderboard, one a line."""
    for row in board.rows:
        low, high = row.interval
        p50 = f"{row.latency.p50_ms:.1f} ms" if row.latency else ""
        yield f"{row.rank}. {row.name:<18} {board.metric} {row.mean:.3f} [{low:.3f}, {high:.3f}]  {p50}"


def file_name(system: str) -> str:
    """A system's name as part of a path."""
    return system.replace(", ", "-").replace(" ", "-")


def main() -> None:
    """Make the shop, learn, rank, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("recommendation"), help="where model, runs and judgments go")
    parser.add_argument("--customers", type=int, default=300)
    parser.add_argument("--depth", type=int, default=30, help="items that the cross-encoder sees")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    shop = items(400, options.seed)
    people = customers(options.customers, shop, options.seed)
    stage = BM25.build(shop)
    half = len(people) // 2
    qrels = {one.id: {item.id: 1 for item in one.next} for one in people}
    learnt, tested = people[:half], people[half:]

    spec = FeatureSpec(fields=("text",), metadata=NUMBERS)
    features = Features(spec, TermStatistics.of(shop, spec.fields, spec.language))
    pools = [found(stage, one, WIDE) for one in learnt]
    judged = {one.id: qrels[one.id] for one in learnt}
    boosting = boosting_of({"num_leaves": 7, "num_threads": 1})
    lineage = train_on_rankings(pools, judged, features, options.out / "trees", boosting=boosting, source="made up")

    trees, texts = LearnedToRank(options.out / "trees"), CrossEncoder()
    pools = [found(stage, one, WIDE) for one in tested]
    judged = {one.id: qrels[one.id] for one in tested}
    by_trees = ranked("trees", trees, pools)
    best = [trees.rerank(pool).top(options.depth) for pool in pools]
    systems = [
        ranked("bm25", None, pools),
        by_trees,
        ranked("cross-encoder", texts, [pool.top(options.depth) for pool in pools]),
        ranked("trees, then both", Fused(trees, texts, weights=[3, 1]), best),
    ]

    console = Console(highlight=False, markup=False)
    say = console.print
    terminal(audit(systems[0].run, by_trees.run, judged, depth=WIDE, names=("bm25", "trees"), licence="own"), console)
    say(
        "\nWhat the trees go by:", ", ".join(f"{name} {share:.0%}" for name, share in list(lineage["gain"].items())[:5])
    )
    board = leaderboard(systems, judged, depth=WIDE)
    for line in lines(board):
        say(line)

    for system in systems:
        with (options.out / f"{file_name(system.name)}.trec").open("w", encoding="utf-8") as out:
            write_run(system.run, out)
    with (options.out / "test.tsv").open("w", encoding="utf-8") as out:
        out.write("query-id\tcorpus-id\tscore\n")
        out.writelines(f"{one}\t{item}\t{grade}\n" for one, grades in judged.items() for item, grade in grades.items())
    say(f"\nRuns and judgments are in {options.out}, for `secondpass audit` and `secondpass compare`.")


if __name__ == "__main__":
    main()
