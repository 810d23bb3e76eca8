"""Long documents: does the model still find a passage that stands far behind?

    python bench/long_documents.py [--data FOLDER] [--most 100] [--work FOLDER]

Queries are dev queries of train/nq-qed (the ones the shipped model was not trained on; no test query), each with one
relevant Wikipedia paragraph. The candidates of a query are BM25's first 20 paragraphs and the relevant one. Every
candidate is made long in the same way: near = the paragraph, then foreign paragraphs; far = at least 800 tokens of
foreign paragraphs, the paragraph, then the rest of them. Foreign paragraphs are drawn by a seed from all that are no
candidates of the query; near and far hold the same ones.

Answers are kept in --work, one line a query, so that a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import track

from common import ROOT, arguments, target, write
from secondpass.evaluation.metrics import evaluate
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.retrievers.bm25 import BM25
from secondpass.scoring.pair_scorer import PairScorer
from secondpass.scoring.prepare import prepare
from secondpass.scoring.windows import Windowed
from secondpass.training.data import Pair, PairSet, read_pairs
from secondpass.training.recipe import read_recipe
from secondpass.types import NEVER, Deadline, Document, Scores, StageTrace, Status
from secondpass.weights import SHIPPED

DEPTH = 20
BEHIND = 800  # tokens before the paragraph, at least
SEED = 0
BEGINNING = "beginning"
SETTINGS: dict[str, dict[str, Any]] = {
    BEGINNING: {"pooling": "first"},
    "windows=2, overlap=0.25": {"windows": 2, "overlap": 0.25},
    "windows=1, overlap=0.5": {"windows": 1, "overlap": 0.5},
    "windows=2, overlap=0.5": {"windows": 2, "overlap": 0.5},
    "windows=3, overlap=0.5": {"windows": 3, "overlap": 0.5},
    "windows=2, overlap=0.5, mean": {"windows": 2, "overlap": 0.5, "pooling": "mean"},
    "windows=3, overlap=0.5, mean": {"windows": 3, "overlap": 0.5, "pooling": "mean"},
}
DEFAULT = "windows=2, overlap=0.25"
PLACES = ("near", "far")


class Remembering:
    """Scores of the one query at hand, each text scored once for all settings; the trace counts what it would cost."""

    def __init__(self, scorer: PairScorer) -> None:
        self._scorer = scorer
        self._query = ""
        self._known: dict[str, tuple[float, tuple[int, int], int]] = {}

    def score(self, query: str, texts: Sequence[str], *, deadline: Deadline = NEVER) -> Scores:
        """As the scorer answers; every text here has a score."""
        if query != self._query:
            self._query, self._known = query, {}
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            fresh = self._scorer.score(query, new)
            rows = prepare(self._scorer.checkpoint, query, new, self._scorer.tokens).rows
            for text, value, span, row in zip(new, fresh.values, fresh.spans, rows, strict=True):
                if value is None or span is None or row is None:
                    raise ValueError(f"no score for {text[:80]!r}")
                self._known[text] = (value, span, len(row.ids))
        found = [self._known[text] for text in texts]
        trace = StageTrace("model", pairs_scored=len(found), tokens=sum(one[2] for one in found))
        return Scores(
            tuple(one[0] for one in found), (Status.SCORED,) * len(found), tuple(one[1] for one in found), trace
        )


def lengthened(
    passages: Sequence[str], fillers: Sequence[str], lengths: dict[str, int], draw: random.Random
) -> dict[str, list[tuple[str, int]]]:
    """Each passage near and far in a long text of the same fillers, and where it begins there."""
    out: dict[str, list[tuple[str, int]]] = {place: [] for place in PLACES}
    for passage in passages:
        parts: list[list[str]] = [[], []]
        for part in parts:
            while sum(lengths[filler] for filler in part) < BEHIND:
                part.append(draw.choice(fillers))
        before, after = ("\n\n".join(part) for part in parts)
        out["near"].append((f"{passage}\n\n{before}\n\n{after}", 0))
        out["far"].append((f"{before}\n\n{passage}\n\n{after}", len(before) + 2))
    return out


def answer(
    pair: Pair, passages: PairSet, first: BM25, lengths: dict[str, int], scorers: dict[str, Windowed]
) -> dict[str, Any]:
    """One query: by place and setting the rank of the relevant document, the tokens, and whether its text was read."""
    found = [hit.document.text for hit in first.retrieve(pair.query, DEPTH).hits]
    candidates = found if pair.passage in found else [*found, pair.passage]
    unrelated = set(candidates)
    draw = random.Random(f"{SEED}/{pair.query}")
    fillers = [passage for passage in passages.passages if passage not in unrelated]
    texts = lengthened(candidates, fillers, lengths, draw)
    right = candidates.index(pair.passage)
    out: dict[str, Any] = {"query": pair.query}
    for place in PLACES:
        for name, scorer in scorers.items():
            scores = scorer.score(pair.query, [text for text, _ in texts[place]])
            order = sorted(range(len(candidates)), key=lambda i: -(scores.values[i] or 0.0))
            start, span = texts[place][right][1], scores.spans[right]
            inside = 0 if span is None else min(span[1], start + len(pair.passage)) - max(span[0], start)
            out[f"{place}/{name}"] = [
                order.index(right) + 1, scores.trace.tokens, int(inside * 2 >= len(pair.passage))
            ]  # fmt: skip
    return out


def ndcg(ranks: Sequence[int]) -> float:
    """nDCG@10 where each query has one relevant document, at these ranks."""
    run = {
        str(q): [("right" if r == rank else f"d{r}", -float(r)) for r in range(1, rank + 1)]
        for q, rank in enumerate(ranks)
    }
    qrels = {query: {"right": 1} for query in run}
    return statistics.fmean(evaluate(run, qrels, "ndcg@10").values())


def main() -> None:
    """Answer every query under every setting, and write bench/results/long_documents.json."""
    parser = arguments(__doc__)
    parser.add_argument("--most", type=int, default=100, help="queries")
    parser.add_argument("--work", type=Path, default=ROOT / ".bench" / "long_documents")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model = CrossEncoder()
    scorer = model.scorer
    tokenizer = scorer.checkpoint.tokenizer
    recipe = read_recipe(SHIPPED["secondpass-mini"] / "recipe.toml")
    (spec,) = (one for one in recipe.sets if one.name == "nq-qed")
    pairs = read_pairs(spec, options.data / "train", recipe.training.seed)
    passages = list(pairs.passages)
    encodings = tokenizer.encode_batch(passages, add_special_tokens=False)
    lengths = {passage: len(encoding.ids) for passage, encoding in zip(passages, encodings, strict=True)}
    first = BM25.build([Document(str(i), passage) for i, passage in enumerate(passages)])
    asked = pairs.dev[: options.most]
    remembering = Remembering(scorer)
    scorers = {name: Windowed(remembering, scorer.tokens, **setting) for name, setting in SETTINGS.items()}
    path = options.work / f"{scorer.checkpoint.digest[:12]}-{scorer.engine.precision}.jsonl"
    known: dict[str, dict[str, Any]] = {}
    if path.exists():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        known = {row["query"]: row for row in map(json.loads, lines) if all(f"far/{name}" in row for name in SETTINGS)}
    with path.open("a", encoding="utf-8") as out:
        for pair in track(asked, description="queries"):
            if pair.query not in known:
                known[pair.query] = answer(pair, pairs, first, lengths, scorers)
                out.write(json.dumps(known[pair.query]) + "\n")
                out.flush()
    answers = [known[pair.query] for pair in asked]
    rows: list[dict[str, Any]] = []
    base = sum(row[f"far/{BEGINNING}"][1] for row in answers)
    for name in SETTINGS:
        near, far = (ndcg([row[f"{place}/{name}"][0] for row in answers]) for place in PLACES)
        rows.append(
            {
                "setting": name,
                "near": round(near, 4),
                "far": round(far, 4),
                "far_of_near": round(far / near, 4),
                "far_of_beginning_near": round(far / (rows[0]["near"] if rows else near), 4),
                "tokens": round(sum(row[f"far/{name}"][1] for row in answers) / base, 4),
                "winner_is_the_passage": round(statistics.fmean(row[f"far/{name}"][2] for row in answers), 4),
            }
        )
        print(rows[-1])
    two = next(row for row in rows if row["setting"] == DEFAULT)
    targets = [
        target("windows=2: nDCG@10 far, share of near", two["far_of_near"], "≥ 0.9", two["far_of_near"] >= 0.9),
        target(
            "windows=2: nDCG@10 far, share of the beginning alone with the text near",
            two["far_of_beginning_near"],
            "≥ 0.9",
            two["far_of_beginning_near"] >= 0.9,
        ),
        target("windows=2: tokens, times the beginning alone", two["tokens"], "≤ 2", two["tokens"] <= 2),
    ]
    more = {"model": scorer.detail, "queries": len(answers), "depth": DEPTH, "tokens_before": BEHIND, "seed": SEED}
    print(write("long_documents", rows, targets, **more))


if __name__ == "__main__":
    main()
