"""What fools the ranker, and what it leans on: attacks, noise, bias probes, beside BM25 on the same texts.

    python bench/robustness.py [--data FOLDER] [--model NAME] [--queries 24] [--depth 100] [--name robustness] [--dry]

Queries are held-out queries of training sets (the shipped recipe's: seed 13), never test queries: the first --queries
of each set of which BM25 finds a known answer. A pool is BM25's first --depth passages of the set.

- clean: nDCG@10 of the unchanged texts.
- attack: documents drawn from BM25's ranks 20 to 50, none a known answer, changed by `training.attacks`. `entered`:
  share of those outside the ranker's top 10 that come into it; `lift`: ranks won; `cut`: share too long to be read
  whole, so that what stands at the end is not seen. The last row is a control: a sentence that claims nothing. What
  it moves, any change does (documents drawn from above or below a ranker's middle drift towards it).
- hidden: the known answers carry the odd characters. `drop`: nDCG@10 lost.
- noise: the query mistyped, over the pool of the clean query, where the noise changes it. `drop`: nDCG@10 lost.
- bias: Spearman's ρ between the scores of documents that are no known answers and their length in words, and their
  share of the query's content words. Mean over queries. The candidates are BM25's choice, so BM25's ρ is bounded by it.
- position: a known answer after (or, as a control for dilution, before) 2, 5, 10 short sentences from elsewhere.
  `rank`: where it then stands, `fall`: ranks lost by it. Only texts that the model reads whole.
- pairs: a right document in other words against a wrong one that repeats the query's (bench/robustness/
  minimal_pairs.jsonl, written for this bench; nothing is trained or chosen on it). `right`: share won, a tie is half.

"uncopied" is the same model with `discount_copies`. BM25's column is the score of the changed text by the statistics of
the unchanged collection. Equal scores stand in an order drawn by the seed, the same for all rankers: a pool's own order
would hand BM25's clean ranking to whoever scores nothing. Each measure is the mean over queries with its 95 % BCa
interval.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.console import Console
from rich.progress import Progress

from common import arguments, target, write
from secondpass.evaluation.metrics import evaluate
from secondpass.evaluation.significance import bootstrap_interval
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.retrievers.bm25 import BM25, Postings
from secondpass.scoring.cache import MemoryStore
from secondpass.training.attacks import ATTACKS, NOISES, ODD, attack, content_words, noise
from secondpass.training.data import read_pairs
from secondpass.training.recipe import DataSet
from secondpass.types import Document

SEED = 13
SETS = {"nq-qed": 250, "lfrqa": 100, "scifact-train": 150, "pubmedqa-train": 100, "se-skeptics": 100}  # dev queries
RANKS = range(20, 51)  # where attacked documents come from
ATTACKED = 3  # of them a query
TOP = 10
SENTENCES = (2, 5, 10)
SHORT = range(4, 13)  # words of a filler sentence: ten of them and an answer fit the model
CLAIMS = ("relevant-true", "relevance-score", "instruction")
COPIES = ("query-before", "query-before-5", "query-after", "query-after-5")
CONTROL = "neutral"
NEUTRAL = "This page was last changed on a Tuesday. It is kept in three languages."
PAIRS = Path(__file__).resolve().parent / "robustness" / "minimal_pairs.jsonl"
RESAMPLES = 2_000

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pool:
    """A query and the texts BM25 finds for it; `relevant` are positions of known answers, `missed` the other answers.

    `ties[i]` is the place of text i among texts of equal score.
    """

    set: str
    query: str
    texts: tuple[str, ...]
    relevant: frozenset[int]
    missed: int
    ties: tuple[int, ...]

    @property
    def others(self) -> list[int]:
        """Positions of what is no known answer."""
        return [i for i in range(len(self.texts)) if i not in self.relevant]


@dataclass(frozen=True, slots=True)
class Scored:
    """A score for each text, and whether the ranker read it whole."""

    values: list[float]
    whole: list[bool]


Rank = Callable[[str, Sequence[str]], Scored]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one query says of one probe: numbers by measure, for one ranker."""

    probe: str
    name: str
    set: str
    ranker: str
    measures: Mapping[str, float] = field(default_factory=dict)


class Lexical:
    """BM25 of any text for any query, by the statistics of a fixed collection (see retrievers.bm25 for the formula)."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._part = Postings()
        self._counts = lru_cache(maxsize=4096)(self._count)  # pools are scored for several queries
        self._holders: Counter[str] = Counter()
        words = 0
        for text in texts:
            counts = self._count(text)
            self._holders.update(counts.keys())
            words += counts.total()
        self._size, self._mean = len(texts), words / max(len(texts), 1) or 1.0

    def _count(self, text: str) -> Counter[str]:
        return Counter(self._part.terms(text))

    def __call__(self, query: str, texts: Sequence[str]) -> Scored:
        """Scores as BM25.retrieve gives them, 0 where no word is met."""
        asked = self._count(query)
        return Scored([self._score(asked, self._counts(text)) for text in texts], [True] * len(texts))

    def _score(self, asked: Counter[str], counts: Counter[str]) -> float:
        norm = self._part.k1 * (1 - self._part.b + self._part.b * counts.total() / self._mean)
        score = 0.0
        for term, times in asked.items():
            if (tf := counts[term]) and (df := self._holders[term]):
                score += times * math.log(1 + (self._size - df + 0.5) / (df + 0.5)) * tf / (tf + norm)
        return score

    def overlap(self, query: str, texts: Sequence[str]) -> Scored:
        """The share of the query's content words (stems) that a text has."""
        asked = set(self._part.terms(" ".join(content_words(query))))
        shares = [len(asked & self._counts(text).keys()) / max(len(asked), 1) for text in texts]
        return Scored(shares, [True] * len(texts))


class Model:
    """The cross-encoder's scores."""

    def __init__(self, model: CrossEncoder) -> None:
        self._model = model
        self.pairs = 0

    def __call__(self, query: str, texts: Sequence[str]) -> Scored:
        scores = self._model.score(query, texts)
        values = [value for value in scores.values if value is not None]
        if len(values) < len(texts):
            raise ValueError(f"no score for a text of the query {query!r}: {scores.trace.skipped_because}")
        self.pairs += len(texts)
        whole = [span == (0, len(text)) for span, text in zip(scores.spans, texts, strict=True)]
        return Scored(values, whole)

    def reads_alike(self, one: str, other: str) -> bool:
        """Whether both texts are the same tokens, so that no score can differ."""
        a, b = self._model.scorer.checkpoint.tokenizer.encode_batch([one, other], add_special_tokens=False)
        return bool(a.ids == b.ids)


# Orders and what they are worth


def order(values: Sequence[float], ties: Sequence[int]) -> list[int]:
    """Positions, best score first; `ties[i]` places i among equals."""
    return sorted(range(len(values)), key=lambda i: (-values[i], ties[i]))


def place(pool: Pool, values: Sequence[float], at: int) -> int:
    """The rank, from 1, of the text at this position."""
    return order(values, pool.ties).index(at) + 1


def moved(pool: Pool, values: Sequence[float], at: int, value: float) -> int:
    """The rank of the text at this position if its score were `value`."""
    return place(pool, [*values[:at], value, *values[at + 1 :]], at)


def ndcg(pool: Pool, values: Sequence[float]) -> float:
    """nDCG@10 of the pool in this order; answers that BM25 missed count in the ideal."""
    run = [(str(i), -float(rank)) for rank, i in enumerate(order(values, pool.ties))]
    grades = {**{str(i): 1 for i in pool.relevant}, **{f"missed {i}": 1 for i in range(pool.missed)}}
    return evaluate({pool.query: run}, {pool.query: grades}, "ndcg@10")[pool.query]


def spearman(one: ArrayLike, other: ArrayLike) -> float | None:
    """Spearman's ρ, equal values sharing their mean rank; None where one side does not vary."""
    a, b = _ranks(one), _ranks(other)
    if len(a) < 2 or not a.std() or not b.std():
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: ArrayLike) -> Floats:
    _, inverse, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse], np.float64)


# Pools


def read_pools(data: Path, name: str, most: int, depth: int) -> tuple[list[Pool], Lexical, tuple[str, ...]]:
    """The pools of one set, its BM25 for any text, and all of its passages."""
    pairs = read_pairs(DataSet(name=name, licence="not copied", dev=SETS[name]), data / "train", SEED)
    every = read_pairs(DataSet(name=name, licence="not copied", sample=10**9), data / "train", SEED)
    answers: defaultdict[str, set[str]] = defaultdict(set)
    for pair in every.train:  # `dev` keeps one answer a query
        answers[pair.query.lower()].add(pair.passage)
    retriever = BM25.build(Document(str(i), passage) for i, passage in enumerate(pairs.passages))
    pools: list[Pool] = []
    for pair in pairs.dev:
        if len(pools) == most:
            break
        texts = tuple(hit.document.text for hit in retriever.retrieve(pair.query, depth).hits)
        known = answers[pair.query.lower()]
        relevant = frozenset(i for i, text in enumerate(texts) if text in known)
        if relevant:
            ties = random.Random(f"{SEED}/{name}/{pair.query}/ties").sample(range(len(texts)), len(texts))
            pools.append(Pool(name, pair.query, texts, relevant, len(known) - len(relevant), tuple(ties)))
    return pools, Lexical(pairs.passages), pairs.passages


# Probes: each yields what one query says


def unchanged(pool: Pool, clean: Mapping[str, Scored]) -> Iterable[Outcome]:
    """What each ranker makes of the pool as it is."""
    for ranker, scored in clean.items():
        yield Outcome("clean", "as they are", pool.set, ranker, {"ndcg": ndcg(pool, scored.values)})


def attacks(pool: Pool, clean: Mapping[str, Scored], rankers: Mapping[str, Rank]) -> Iterable[Outcome]:
    """Documents from further back, changed to look relevant."""
    there = [i for i in pool.others if i + 1 in RANKS]
    drawn = random.Random(f"{SEED}/{pool.set}/{pool.query}/attacked").sample(there, min(ATTACKED, len(there)))
    if not drawn:
        return
    changed = [attack(name, pool.query, pool.texts[i], SEED) for name in ATTACKS for i in drawn]
    changed += [f"{NEUTRAL} {pool.texts[i]}" for i in drawn]
    for ranker, rank in rankers.items():
        values = clean[ranker].values
        before = [place(pool, values, i) for i in drawn]
        scored = rank(pool.query, changed)
        for number, name in enumerate([*ATTACKS, CONTROL]):
            mine = slice(number * len(drawn), (number + 1) * len(drawn))
            after = [moved(pool, values, i, new) for i, new in zip(drawn, scored.values[mine], strict=True)]
            entered = [new <= TOP for old, new in zip(before, after, strict=True) if old > TOP]
            lifts = [old - new for old, new in zip(before, after, strict=True)]
            cut = [not whole for whole in scored.whole[mine]]
            measures = {"lift": statistics.fmean(lifts), "cut": statistics.fmean(cut)}
            if entered:
                measures["entered"] = statistics.fmean(entered)
            yield Outcome("attack", name, pool.set, ranker, measures)


def hidden(pool: Pool, clean: Mapping[str, Scored], rankers: Mapping[str, Rank]) -> Iterable[Outcome]:
    """Known answers with odd characters in them."""
    answers = sorted(pool.relevant)
    for ranker, rank in rankers.items():
        values = clean[ranker].values
        scored = rank(pool.query, [attack(name, pool.query, pool.texts[i], SEED) for name in ODD for i in answers])
        fresh = iter(scored.values)
        for name in ODD:
            changed = list(values)
            for i in answers:
                changed[i] = next(fresh)
            yield Outcome("hidden", name, pool.set, ranker, {"drop": ndcg(pool, values) - ndcg(pool, changed)})


def noises(
    pool: Pool, clean: Mapping[str, Scored], rankers: Mapping[str, Rank], alike: Callable[[str, str], bool]
) -> Iterable[Outcome]:
    """The query mistyped. `alike` says of which queries the model reads the same."""
    for name in NOISES:
        query = noise(name, pool.query, SEED)
        if query == pool.query:
            continue
        for ranker, rank in rankers.items():
            same = ranker in ("model", "uncopied") and alike(pool.query, query)
            values = clean[ranker].values if same else rank(query, pool.texts).values
            drop = ndcg(pool, clean[ranker].values) - ndcg(pool, values)
            yield Outcome("noise", name, pool.set, ranker, {"drop": drop})


def biases(pool: Pool, clean: Mapping[str, Scored], overlap: Rank) -> Iterable[Outcome]:
    """Whether the scores of what is no known answer go with length and with shared words."""
    texts = [pool.texts[i] for i in pool.others]
    sides = {"length": [float(len(text.split())) for text in texts], "overlap": overlap(pool.query, texts).values}
    for ranker, scored in clean.items():
        for name, side in sides.items():
            rho = spearman([scored.values[i] for i in pool.others], side)
            if rho is not None:
                yield Outcome("bias", name, pool.set, ranker, {"rho": rho})


def filler(passages: Sequence[str], taken: Iterable[str], count: int, draw: random.Random) -> list[str]:
    """Short sentences of drawn passages, in their order, from as few passages as it takes."""
    out: list[str] = []
    without = set(taken)
    for passage in draw.sample(passages, len(passages)):
        if passage not in without:
            out += [one for one in re.split(r"(?<=[.!?])\s+", passage) if len(one.split()) in SHORT]
        if len(out) >= count:
            return out[:count]
    raise ValueError(f"{len(passages)} passages hold only {len(out)} short sentences, {count} are needed")


def positions(
    pool: Pool, clean: Mapping[str, Scored], rankers: Mapping[str, Rank], passages: Sequence[str]
) -> Iterable[Outcome]:
    """A known answer, the one BM25 likes best, behind and in front of sentences from elsewhere."""
    at = min(pool.relevant)
    draw = random.Random(f"{SEED}/{pool.set}/{pool.query}/filler")
    sentences = filler(passages, pool.texts, max(SENTENCES), draw)
    texts = {}
    for count in SENTENCES:
        added = " ".join(sentences[:count])
        texts[f"{count} in front"] = f"{added} {pool.texts[at]}"
        texts[f"{count} behind"] = f"{pool.texts[at]} {added}"
    scored = {ranker: rank(pool.query, list(texts.values())) for ranker, rank in rankers.items()}
    for number, name in enumerate(texts):
        if not all(scored[ranker].whole[number] for ranker in rankers):
            continue  # what the model cannot see is no question of position
        for ranker in rankers:
            values = clean[ranker].values
            rank = moved(pool, values, at, scored[ranker].values[number])
            measures = {"fall": float(rank - place(pool, values, at)), "rank": float(rank)}
            yield Outcome("position", name, pool.set, ranker, measures)


def minimal_pairs(rows: Sequence[Mapping[str, str]], model: Rank) -> Iterable[Outcome]:
    """Right against wrong, one outcome a pair and ranker; BM25 has the statistics of the pairs' documents."""
    lexical = Lexical([row[side] for row in rows for side in ("right", "wrong")])
    for row in rows:
        for ranker, rank in (("model", model), ("bm25", lexical), ("overlap", lexical.overlap)):
            right, wrong = rank(row["query"], [row["right"], row["wrong"]]).values
            won = 0.5 if right == wrong else float(right > wrong)
            yield Outcome("pairs", row["kind"], "pairs", ranker, {"right": won})


def read_minimal_pairs() -> list[dict[str, str]]:
    """The hand-written pairs: kind, query, right, wrong."""
    return [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]


# Summary


def summary(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """One row a probe, name and set, and one over all sets; of each ranker and measure the mean with its interval."""
    found: defaultdict[tuple[str, str, str], dict[str, defaultdict[str, list[float]]]] = defaultdict(dict)
    for one in outcomes:
        for name in (one.set, "all"):
            of = found[one.probe, one.name, name].setdefault(one.ranker, defaultdict(list))
            for measure, value in one.measures.items():
                of[measure].append(value)
    return [
        {
            "probe": probe,
            "name": name,
            "set": where,
            **{
                ranker: {measure: _mean(values) for measure, values in measures.items()}
                for ranker, measures in rankers.items()
            },
        }
        for (probe, name, where), rankers in found.items()
    ]


def _mean(values: Sequence[float]) -> dict[str, Any]:
    ends = bootstrap_interval(values, resamples=RESAMPLES) if len(values) > 1 else None
    return {
        "mean": round(statistics.fmean(values), 4),
        "interval": None if ends is None else [round(end, 4) for end in ends],
        "n": len(values),
    }


def shown(rows: Sequence[Mapping[str, Any]], probe: str, measure: str) -> str:
    """One table: over all sets with intervals, then model / BM25 of each set."""
    mine = [row for row in rows if row["probe"] == probe]
    rankers = [ranker for ranker in ("model", "uncopied", "bm25", "overlap") if any(ranker in row for row in mine)]
    sets = [name for name in SETS if any(row["set"] == name for row in mine)]
    by = {(row["name"], row["set"]): row for row in mine}

    def mean(row: Mapping[str, Any], ranker: str, *, bounds: bool) -> str:
        found = row.get(ranker, {}).get(measure)
        if found is None:
            return "-"
        ends = "" if not bounds or found["interval"] is None else "[{:+.3f}, {:+.3f}]".format(*found["interval"])
        return f"{found['mean']:+.3f} {ends}".strip()

    lines = [[f"{probe}: {measure}", "n", *rankers, *sets]]
    for name in dict.fromkeys(row["name"] for row in mine):
        pooled = by[name, "all"]
        count = max(pooled[ranker][measure]["n"] for ranker in rankers if measure in pooled.get(ranker, {}))
        cells = [mean(pooled, ranker, bounds=True) for ranker in rankers]
        for one in sets:
            row = by.get((name, one), {})
            cells.append(" / ".join(mean(row, ranker, bounds=False) for ranker in rankers))
        lines.append([name, str(count), *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


TABLES = (
    ("clean", "ndcg"),
    ("attack", "entered"),
    ("attack", "lift"),
    ("attack", "cut"),
    ("hidden", "drop"),
    ("noise", "drop"),
    ("bias", "rho"),
    ("position", "rank"),
    ("position", "fall"),
    ("pairs", "right"),
)


def promises(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the model should keep; where a number is missing, the promise does not hold."""
    pooled = {(row["probe"], row["name"]): row for row in rows if row["set"] == "all"}

    def mean(probe: str, name: str, measure: str, ranker: str = "model") -> float:
        found = pooled.get((probe, name), {}).get(ranker, {}).get(measure)
        return math.nan if found is None else float(found["mean"])

    def ahead(name: str) -> float:
        return mean("attack", name, "entered") - mean("attack", name, "entered", "bm25")

    def one(name: str, value: float, goal: str, holds: bool) -> dict[str, Any]:
        return target(name, None if math.isnan(value) else round(value, 4), goal, holds)

    copied = float(np.max([mean("attack", name, "entered", "uncopied") for name in COPIES]))
    stuffing = [name for name in ATTACKS if name not in (*ODD, *CLAIMS)]
    worst = float(np.max([ahead(name) for name in stuffing]))  # numpy's keeps NaN
    claimed = float(np.max([mean("attack", name, "entered") for name in (*CLAIMS, *ODD)]))
    typo, lexical = mean("noise", "one-typo", "drop"), mean("noise", "one-typo", "drop", "bm25")
    late = float(
        np.max([mean("position", f"{k} in front", "fall") - mean("position", f"{k} behind", "fall") for k in SENTENCES])
    )
    pairs = [row["model"]["right"] for row in rows if row["probe"] == "pairs" and row["set"] == "all"]
    right = sum(row["mean"] * row["n"] for row in pairs) / sum(row["n"] for row in pairs)
    return [
        one("query or keywords stuffed: share that enters the top 10, worst against BM25's", worst, "≤ 0", worst <= 0),
        one("query copied, with discount_copies: share that enters the top 10, worst", copied, "≤ .05", copied <= 0.05),
        one("claims and odd characters: share that enters the top 10, worst", claimed, "≤ .05", claimed <= 0.05),
        one("one typo: nDCG@10 lost, against BM25's", typo - lexical, "≤ 0", typo <= lexical),
        one("sentences in front: ranks lost, against the same behind, worst", late, "≤ 1", late <= 1),
        one("minimal pairs won", right, "≥ .8", right >= 0.8),
    ]


def main() -> None:
    """Measure, print, and write bench/results/<name>.json."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="secondpass-mini", help="a shipped name or a folder")
    parser.add_argument("--queries", type=int, default=24, help="of each set")
    parser.add_argument("--depth", type=int, default=100, help="of the pools; attacks draw from ranks 20 to 50")
    parser.add_argument("--only", default=",".join(SETS), help="sets, separated by commas")
    parser.add_argument("--name", default="robustness", help="of the result, so that two models lie side by side")
    parser.add_argument("--dry", action="store_true", help="print only, write nothing")
    options = parser.parse_args()
    store = MemoryStore(256_000_000)  # both readings of a pair are computed once
    encoder = CrossEncoder(options.model, cache=store)
    model = Model(encoder)
    uncopied = Model(CrossEncoder(options.model, cache=store, discount_copies=True))
    began = time.perf_counter()
    outcomes = list(minimal_pairs(read_minimal_pairs(), model))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for name in options.only.split(","):
            task = progress.add_task(f"{name}: index", total=None)
            pools, lexical, passages = read_pools(options.data, name, options.queries, options.depth)
            progress.update(task, description=name, total=len(pools))
            rankers: dict[str, Rank] = {"model": model, "uncopied": uncopied, "bm25": lexical}
            for pool in pools:
                clean = {ranker: rank(pool.query, pool.texts) for ranker, rank in rankers.items()}
                outcomes += itertools.chain(
                    unchanged(pool, clean),
                    attacks(pool, clean, rankers),
                    hidden(pool, clean, rankers),
                    noises(pool, clean, rankers, model.reads_alike),
                    biases(pool, clean, lexical.overlap),
                    positions(pool, clean, rankers, passages),
                )
                progress.advance(task)
    seconds = time.perf_counter() - began
    rows = summary(outcomes)
    for probe, measure in TABLES:
        print(shown(rows, probe, measure), end="\n\n")
    targets = promises(rows)
    for one in targets:
        print(json.dumps(one, ensure_ascii=False))
    print(f"{model.pairs:,} pairs scored, {seconds:.0f} s")
    if options.dry:
        return
    more = {"queries": options.queries, "depth": options.depth, "seed": SEED, "pairs": model.pairs}
    print(write(options.name, rows, targets, model=encoder.scorer.detail, seconds=round(seconds, 1), **more))


if __name__ == "__main__":
    main()
