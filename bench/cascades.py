"""How much of the cross-encoder's work a cascade saves, and what that costs in nDCG@10.

    python bench/cascades.py [--data FOLDER] [--work FOLDER] [--most 60] [--only cosqa,scifact] [--record | --replay]

The full cross-encoder is secondpass-mini as it ships over BM25's first 100. What stands against it is made of trees
(learned to rank, over words and a cosine, of documents that were read before), secondpass-nano and secondpass-mini
reading 96 tokens of query and document together, secondpass-mini, and secondpass-mini whose lower layers have read the
documents before (`keep_documents`), of which a share alone may pass the upper layers; of two of them, or three, in a
row; of their depths, these shares, and the weights of the first stage's scores. Every candidate is scored once by each,
and `evaluation.tuner` replays thousands of such cascades over these scores.

Two questions. Which cascade ranks best at less than a third of the processor time, a collection at a time and one for
all? And which ranks best among those whose 95th percentile on W1 (deadline.py: 100 passages of median 75 tokens) is
within 100 ms? Both are chosen on dev queries, which no shipped model was trained on; then what was chosen is run and
timed beside the full cross-encoder, in turns, by processor time, and reported on test queries. Cranfield has one set of
queries only: those that are not reported grow the trees and choose. All other trees grow on training or dev queries
that choose nothing.

Scores are kept in --work, a line a query and model, so that a run that was killed goes on where it stopped; all
collections advance together. With --record only that is done: it may run beside other work, since it is timed by
processor time.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from common import arguments, target, write
from deadline import Passages, lengths_w1
from ltr import SEED, compared, trees
from ltr import task as queries_of
from quality import COLLECTIONS, DEPTH, drawn
from secondpass.cascade import Cascade, Stage
from secondpass.evaluation.collections import Collection, read_beir
from secondpass.evaluation.metrics import evaluate
from secondpass.evaluation.tuner import (
    NO_RERANKING,
    Cost,
    Recorded,
    Recordings,
    Setting,
    fit_cost,
    grid,
    percentiles,
    replayed,
)
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.rerankers.fields import renderer
from secondpass.rerankers.ltr import KEEP_BYTES, LearnedToRank
from secondpass.retrievers.bm25 import BM25
from secondpass.scoring.probability import read_calibration
from secondpass.types import Ranking, Reranker

NAMES = ("scifact", "cosqa", "cranfield", "checkthat20", "nq-qed")
SHORT = 96  # tokens of query and document together, where a model reads less of a document
TREES, LAST, READ = "trees", "mini", "mini, documents read before"
ENCODERS = {
    f"nano, {SHORT} tokens": ("secondpass-nano", SHORT),
    f"mini, {SHORT} tokens": ("secondpass-mini", SHORT),
    LAST: ("secondpass-mini", None),
    READ: ("secondpass-mini", None),
}
KEEP = 2_000_000_000  # bytes for documents that were read
MODELS = (TREES, *ENCODERS)  # as they may follow each other
FULL = Setting(DEPTH, model=LAST)
SHIPPED = Setting(DEPTH, go_on=0.2, model=READ)  # the card's setting, chosen by nothing here
WAYS = ("own", "one for all", "as it ships")
DEV, TEST = 30, 60  # queries of each collection
REACH = {f"mini, {SHORT} tokens": 50}  # candidates that are recorded, where not all: more would take too long
PIECE = 30  # candidates of the one of two requests that a query's scores are asked for in, so that a line can be fitted
SHARE = 0.3  # of the full processor time that a choice may take by estimate: a third, less what estimates are off
TIMES, LOSS, W1_MS = 3.0, 0.01, 100.0
TIMED, W1_TIMED, W1_RUNS = 4, 12, 30  # queries of each collection; requests of W1 to fit lines by, and of each way
LEVELS = (0.05, 0.1, 0.15, 0.2, 0.25, SHARE, 0.5, 0.75, 1.0)  # shares of the full processor time
CURVE = (20.0, 40.0, 60.0, 80.0, 100.0, 150.0, 250.0, 500.0)  # milliseconds of W1
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
text_of = renderer()
Floats = NDArray[np.float64]
Judged = tuple[Mapping[str, str], Mapping[str, Mapping[str, int]]]


@dataclass(frozen=True, slots=True)
class Task:
    """A collection with BM25 over it, the queries to choose by and to report on, and others that grow trees."""

    collection: Collection
    stage: BM25
    dev: Judged
    test: Judged
    learn: Judged

    @property
    def asked(self) -> dict[str, str]:
        """Query texts, dev and test in turns, so that a recording that was stopped has some of both."""
        pairs = [list(part.items()) for part in (self.dev[0], self.test[0])]
        longest = max(map(len, pairs))
        return dict(part[i] for i in range(longest) for part in pairs if i < len(part))

    def grades(self, query_id: str) -> Mapping[str, int]:
        """What is judged of one of these queries."""
        return {**self.dev[1], **self.test[1]}[query_id]


def task(data: Path, name: str, most: int) -> Task:
    """The queries of one collection; to choose by and to report on at most so many each."""
    if name == "cranfield":
        whole = read_beir(data / "collections" / name, COLLECTIONS[name])
        collection = drawn(whole, TEST)
        left = sorted(set(whole.queries) - set(collection.queries))
        random.Random(SEED).shuffle(left)
        others = _some((whole.queries, whole.qrels), left)
    else:
        found = queries_of(data, name, TEST)
        collection, others = found.test, found.unseen
    keys, reported = list(others[0]), sorted(collection.queries)
    random.Random(SEED).shuffle(reported)
    stage = BM25.build(collection.documents.values())
    test = _some((collection.queries, collection.qrels), reported[:most])
    return Task(collection, stage, _some(others, keys[: min(DEV, most)]), test, _some(others, keys[DEV:]))


def _some(part: Judged, keys: Iterable[str]) -> Judged:
    kept = list(keys)
    return {key: part[0][key] for key in kept}, {key: part[1][key] for key in kept}


@cache
def encoder(name: str, fuse: bool | float, go_on: float) -> CrossEncoder:
    """A model with its knobs, opened once."""
    model, length = ENCODERS[name]
    return CrossEncoder(model, max_length=length, fuse=fuse, go_on=go_on, keep_documents=KEEP if name == READ else 0)


def read_before(stages: Cascade, found: Ranking) -> None:
    """The documents as after some thousand queries: those who keep what they have read have read them."""
    for stage in stages.stages:
        if isinstance(stage.reranker, LearnedToRank):
            stage.reranker.features.read(found.documents)
        elif isinstance(stage.reranker, CrossEncoder) and stage.reranker.scorer.engine.kept is not None:
            stage.reranker.read(found.documents)


@cache
def ranker(folder: Path) -> LearnedToRank:
    """Trees, opened once, that keep what they have read."""
    return LearnedToRank(folder, keep_bytes=10 * KEEP_BYTES)


def cascade(setting: Setting, folder: Path) -> Cascade:
    """The stages of a setting, as they would be run; trees from their folder."""
    stages = []
    for stage in setting.stages if setting.depth else ():
        own: Reranker = ranker(folder) if stage.model == TREES else encoder(stage.model, stage.fuse, stage.go_on)
        stages.append(Stage(own, stage.depth))
    return Cascade(None, *stages)


# What is recorded


@dataclass(frozen=True, slots=True)
class Row:
    """One query's candidates, and what each model said of them: scores, tokens, and the seconds of `parts_of`."""

    query_id: str
    found: Ranking
    models: dict[str, dict[str, Any]]


def record(tasks: Mapping[str, Task], work: Path) -> dict[str, dict[str, Row]]:
    """All scores of all queries, by collection and query; those that --work does not have are computed, and kept there
    a line each."""
    rows: dict[str, dict[str, Row]] = {}
    todo = []
    for name, one in tasks.items():
        known: dict[str, dict[str, dict[str, Any]]] = {}
        path = work / f"{name}.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            if line.endswith("}"):  # not one half written
                said = json.loads(line)
                known.setdefault(said["query_id"], {})[said["model"]] = said
        rows[name] = {
            key: Row(key, one.stage.retrieve(query, DEPTH), known.get(key, {})) for key, query in one.asked.items()
        }
        todo += [(i, name, model, key) for i, key in enumerate(rows[name]) for model in MODELS
                 if model not in rows[name][key].models]  # fmt: skip
    for _, name, model, key in track(sorted(todo), "scoring", console=Console(stderr=True)):
        row = rows[name][key]
        grades = tasks[name].grades(key)
        if any(grades.get(doc_id, 0) > 0 for doc_id in row.found.ids):
            said = {"query_id": key, "model": model, **recorded(model, row.found, work / f"{name}-trees")}
        else:  # no order of these candidates is worth anything
            nothing = len(row.found)
            said = {"query_id": key, "model": model, "scores": [None] * nothing, "tokens": [0] * nothing, "seconds": []}
        with (work / f"{name}.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps(said) + "\n")
        row.models[model] = said
    return rows


def parts_of(model: str, count: int) -> list[tuple[int, int]]:
    """The requests, a small one and a large one, that a model scores so many candidates in: from, to. Trees get all of
    them at last, since z is among their features."""
    reach = min(REACH.get(model, DEPTH), count)
    small = min(PIECE, reach)
    return [(0, small), (0, reach) if model == TREES else (small, reach)]


def recorded(model: str, found: Ranking, folder: Path) -> dict[str, Any]:
    """What a model says of a query's candidates, and the processor time of its requests."""
    one: LearnedToRank | CrossEncoder
    if model == TREES:
        one = ranker(folder)
        one.features.read(found.documents)  # as after some thousand queries
    else:
        one = encoder(model, False, 1.0)
        if model == READ:
            one.read(found.documents)
    scores: dict[str, float | None] = {}
    seconds = []
    for begin, end in parts_of(model, len(found)):
        part = replace(found, hits=found.hits[begin:end])
        began = time.process_time()
        answer = one.rerank(part)
        seconds.append(time.process_time() - began)
        scores |= {hit.document.id: hit.score for hit in answer.hits}
    said: dict[str, Any] = {"scores": [scores.get(doc_id) for doc_id in found.ids], "seconds": seconds}
    if isinstance(one, CrossEncoder):
        texts = [text_of(hit.document) for hit in found.hits]
        said["tokens"] = one.scorer.pair_tokens(found.query, texts)
        if model == READ:
            began = time.process_time()
            said["exits"] = one.scorer.lower_logits(found.query, texts)
            said["lower_seconds"] = time.process_time() - began
    return said


def recordings(rows: Sequence[Row]) -> dict[str, Recordings]:
    """As the tuner takes them."""
    made = {}
    for name in MODELS:
        queries = []
        for row in rows:
            said, first = row.models[name], tuple(hit.first_score for hit in row.found.hits)
            tokens, exits = (tuple(said[key]) if key in said else None for key in ("tokens", "exits"))
            if name == READ and exits is None:
                exits = (None,) * len(row.found)
            queries.append(Recorded(row.query_id, row.found.ids, first, tuple(said["scores"]), exits, tokens))
        made[name] = as_recordings(name, tuple(queries), lower_share(rows) if name == READ else 0.0)
    return made


def lower_share(rows: Sequence[Row]) -> float:
    """Which part of the time of documents that were read before the lower head is."""
    said = [row.models[READ] for row in rows]
    return float(
        statistics.median(one["lower_seconds"] / sum(one["seconds"]) for one in said if "lower_seconds" in one)
    )


def lines_of(rows: Sequence[Row]) -> dict[str, Cost]:
    """Each model's processor time."""
    costs = {}
    for name, one in recordings(rows).items():
        sizes, seconds = [], []
        for row, query in zip(rows, one.queries, strict=True):
            parts = parts_of(name, len(query.ids))
            for (begin, end), took in zip(parts, row.models[name]["seconds"], strict=False):
                if size := sum(query.sizes[begin:end]):
                    sizes.append(float(size))
                    seconds.append(took)
        costs[name] = fit_cost(sizes, seconds)
    return costs


def as_recordings(name: str, queries: tuple[Recorded, ...], lower: float = 0.0) -> Recordings:
    """One model's, with its calibration's weight."""
    if name == TREES:
        return Recordings(queries, DEPTH, fuses=False)
    scorer = encoder(name, False, 1.0).scorer
    calibration = read_calibration(scorer.checkpoint)
    return Recordings(queries, REACH.get(name, DEPTH), calibration.weight if calibration else None, lower)


# What is chosen


@dataclass(frozen=True, slots=True)
class Judging:
    """All settings on one part of one collection's queries: nDCG@10 and processor seconds, [settings, queries]."""

    ids: list[str]
    values: Floats
    seconds: Floats

    def share(self) -> Floats:
        """Of the processor time of the full cross-encoder, which is the first setting."""
        return np.asarray(self.seconds.mean(axis=1) / self.seconds[0].mean())


def settings_of(models: Mapping[str, Recordings]) -> list[Setting]:
    """The full cross-encoder first, then the grid, then trees before any two of the others.

    Trees look at all candidates, since z is among their features and was found over all of them."""
    front = Setting(DEPTH, fuse=False, model=TREES)
    tried = [one for one in grid(models) if one.stages[0].model != TREES or one.stages[0] == front]
    tried = [one for one in tried if one.model != READ or one.before is None or one.before.model == TREES]
    three = [
        replace(one, before=replace(one.before, before=front))
        for one in tried
        if one.before and one.before.model != TREES and not REACH.keys() & {stage.model for stage in one.stages}
    ]
    return [FULL, SHIPPED, *(one for one in (*tried, *three) if one not in (FULL, SHIPPED))]


def judged(rows: Mapping[str, Row], part: Judged, settings: Sequence[Setting]) -> Judging:
    """The settings on one part of a collection's recorded queries; times are by lines through all of them."""
    ids = list(part[0])
    models, costs = recordings([rows[key] for key in ids]), lines_of(list(rows.values()))
    values, seconds = replayed(models, range(len(ids)), _of(part[1], ids), settings, costs)
    return Judging(ids, values, seconds.sum(axis=0))


def leading(values: Floats, cost: Floats, places: NDArray[np.int64]) -> int:
    """Of the settings at these places the best, of several the cheapest."""
    return int(places[np.lexsort((cost[places], -values[places]))[0]])


def best(own: Floats, together: Floats, cost: Floats, most: float) -> int:
    """Of the settings that cost no more, and are not certainly worse than the best of them on a collection's own
    queries (a standard error of the paired differences), the one that is best on all collections' together.

    Some dozens of queries tell few of thousands of settings apart; others' queries are the best guess among those.
    """
    places = np.flatnonzero(cost <= most)
    lost = own[leading(own.mean(axis=1), cost, places)] - own[places]
    tied = lost.mean(axis=1) <= lost.std(axis=1, ddof=1) / np.sqrt(own.shape[1])
    return leading(together, cost, places[tied])


# What is run


def timed(one: Task, settings: Sequence[Setting], folder: Path) -> list[dict[str, Any]]:
    """Each setting beside the first, in turns over test queries: the median ratio of processor time, median seconds,
    and nDCG@10 of what was run."""
    seconds: list[list[float]] = [[] for _ in settings]
    runs: list[dict[str, list[tuple[str, float]]]] = [{} for _ in settings]
    for key, query in list(one.test[0].items())[: TIMED + 1]:
        found = one.stage.retrieve(query, DEPTH)
        for number, setting in enumerate(settings):
            stages = cascade(setting, folder)
            read_before(stages, found)
            began = time.process_time()
            answer = stages.rerank(found)
            seconds[number].append(time.process_time() - began)
            runs[number][key] = [(doc_id, 0.0) for doc_id in answer.ids]
    kept = [own[1:] for own in seconds]  # the first query also pays for what engines set up once
    return [
        {
            "cpu_s": round(statistics.median(own), 4),
            "times": round(statistics.median(full / took for full, took in zip(kept[0], own, strict=True)), 2),
            "run": {key: round(value, 4) for key, value in evaluate(hits, _of(one.test[1], hits), "ndcg@10").items()},
        }
        for own, hits in zip(kept, runs, strict=True)
    ]


def _of(qrels: Mapping[str, Mapping[str, int]], keys: Iterable[str]) -> dict[str, dict[str, int]]:
    return {key: dict(qrels[key]) for key in keys}


def w1_requests(data: Path, folder: Path, count: int) -> list[Ranking]:
    """Requests of W1, whose documents the trees have read before."""
    passages, draw = Passages(data, encoder(LAST, False, 1.0)), random.Random(SEED)
    made = [passages.ranking(draw, lengths_w1(draw))[0] for _ in range(count)]
    ranker(folder).features.read([hit.document for ranking in made for hit in ranking.hits])
    return made


def w1_costs(requests: Sequence[Ranking], folder: Path, lower: float) -> tuple[dict[str, Recordings], dict[str, Cost]]:
    """The requests as recordings in which all candidates are alike, and lines of processor seconds by core through
    requests of four depths."""
    made, costs = {}, {}
    for name in MODELS:
        queries, sizes, seconds = [], [], []
        one: LearnedToRank | CrossEncoder = ranker(folder) if name == TREES else encoder(name, False, 1.0)
        for number, found in enumerate(requests):
            tokens = None
            if isinstance(one, CrossEncoder):
                tokens = tuple(one.scorer.pair_tokens(found.query, [text_of(hit.document) for hit in found.hits]))
            none, zero = (None,) * len(found), (0.0,) * len(found)
            queries.append(Recorded(str(number), found.ids, none, zero, zero if name == READ else None, tokens))
            if number <= W1_TIMED:
                part = found.top((DEPTH, DEPTH // 2, DEPTH // 4, DEPTH // 10)[number % 4])
                if name == READ:
                    encoder(name, False, 1.0).read(found.documents)
                began = time.process_time()
                one.rerank(part)
                if number:  # the first sets up shapes
                    seconds.append((time.process_time() - began) / CORES)
                    sizes.append(float(sum(queries[-1].sizes[: len(part)])))
        costs[name] = fit_cost(sizes, seconds)
        made[name] = as_recordings(name, tuple(queries), lower if name == READ else 0.0)
    return made, costs


def w1_estimated(requests: Sequence[Ranking], settings: Sequence[Setting], folder: Path, lower: float) -> Floats:
    """The 95th percentile of each setting, in milliseconds with all cores at work."""
    models, costs = w1_costs(requests, folder, lower)
    qrels = {str(number): {"0": 1} for number in range(len(requests))}
    _, seconds = replayed(models, range(len(requests)), qrels, settings, costs)
    lines = [costs[name] for name in models]
    return np.array([1000 * percentiles(lines, seconds[:, i], (95,))[0] for i in range(len(settings))])


def w1_run(requests: Sequence[Ranking], settings: Sequence[Setting], folder: Path) -> list[dict[str, float]]:
    """Each setting over the requests, in turns: milliseconds, and those of its processor time on all cores."""
    wall: list[list[float]] = [[] for _ in settings]
    cpu: list[list[float]] = [[] for _ in settings]
    for found in requests[: W1_RUNS + 1]:
        for number, setting in enumerate(settings):
            stages = cascade(setting, folder)
            read_before(stages, found)
            began, worked = time.perf_counter(), time.process_time()
            stages.rerank(found)
            cpu[number].append(1000 * (time.process_time() - worked) / CORES)
            wall[number].append(1000 * (time.perf_counter() - began))
    names = {"p50_ms": (wall, 50), "p95_ms": (wall, 95), "cpu_p50_ms": (cpu, 50), "cpu_p95_ms": (cpu, 95)}
    return [
        {name: round(float(np.percentile(of[number][1:], at)), 1) for name, (of, at) in names.items()}
        for number in range(len(settings))
    ]


# What is told


def told(judging: Judging, at: int) -> dict[str, Any]:
    """A setting on these queries: its value, and what it loses against the full cross-encoder."""
    row = judging.values[at]
    return {"ndcg@10": round(float(row.mean()), 4), **compared(row.tolist(), judging.values[0].tolist())}


def chosen(settings: Sequence[Setting], dev: Judging, test: Judging, at: int) -> dict[str, Any]:
    """A choice on the queries that chose it and on those that did not."""
    return {
        "setting": asdict(settings[at]),
        "reads": str(settings[at]),
        "share_estimated": round(float(dev.share()[at]), 3),
        "dev": round(float(dev.values[at].mean() - dev.values[0].mean()), 4),
        **told(test, at),
    }


def gained(parts: Mapping[str, Judging]) -> Floats:
    """Of every setting, the mean over collections of its change of nDCG@10 against the full cross-encoder."""
    each = [(part.values - part.values[0]).mean(axis=1) for part in parts.values()]
    return np.asarray(np.mean(each, axis=0))


def targets_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was promised of each collection, by each way."""
    made = []
    for way in WAYS:
        name, change, times = f"{row['collection']}, {way}", row[way]["difference"], row["timed"][way]["times"]
        made += [
            target(f"{name}: nDCG@10 against the full cross-encoder", change, f"≥ −{LOSS}", change >= -LOSS),
            target(f"{name}: times less processor time", times, f"≥ {TIMES:g}", times >= TIMES),
        ]
    return made


def main() -> None:
    """Measure, print, and write bench/results/cascades.json."""
    parser = arguments(__doc__)
    parser.add_argument("--most", type=int, default=TEST, help="queries to choose by, and to report on, at most")
    parser.add_argument("--work", type=Path, default=Path("cascades.work"), help="where scores and trees are kept")
    parser.add_argument("--only", default=",".join(NAMES), help="collections by name, with commas")
    parser.add_argument("--record", action="store_true", help="score, and choose nothing")
    parser.add_argument("--replay", action="store_true", help="choose and print, time nothing")
    parser.add_argument("--dry", action="store_true", help="write no result")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    tasks = {name: task(options.data, name, options.most) for name in options.only.split(",")}
    folders = {name: options.work / f"{name}-trees" for name in tasks}
    learnt = {}
    for name, one in tasks.items():
        lineage = trees(folders[name], one.stage, (dict(one.learn[0]), dict(one.learn[1])), "secondpass-static", DEPTH)
        learnt[name] = {"queries": lineage["queries"], "trees": lineage["trees"]}
    rows = record(tasks, options.work)
    if options.record:
        return
    settings = settings_of(recordings(list(next(iter(rows.values())).values())))
    dev = {name: judged(rows[name], one.dev, settings) for name, one in tasks.items()}
    test = {name: judged(rows[name], one.test, settings) for name, one in tasks.items()}
    together = gained(dev)
    shares = {name: part.share() for name, part in dev.items()}
    largest = np.max(list(shares.values()), axis=0)
    one_for_all = leading(together, largest, np.flatnonzero(largest <= SHARE))
    found = []
    for name, one in tasks.items():
        own = best(dev[name].values, together, shares[name], SHARE)
        whole = [i for i, setting in enumerate(settings) if repr(setting) == repr(replace(FULL, fuse=setting.fuse))]
        weighed = whole[int(dev[name].values[whole].mean(axis=1).argmax())]
        levels = [(level, best(dev[name].values, together, shares[name], level)) for level in LEVELS]
        row: dict[str, Any] = {
            "collection": name,
            "queries": {"dev": len(one.dev[0]), "test": len(one.test[0]), "trees": learnt[name]},
            "bm25": round(float(test[name].values[settings.index(NO_RERANKING)].mean()), 4),
            "full": round(float(test[name].values[0].mean()), 4),
            "full, weight chosen": chosen(settings, dev[name], test[name], weighed),
            "own": chosen(settings, dev[name], test[name], own),
            "one for all": chosen(settings, dev[name], test[name], one_for_all),
            "as it ships": chosen(settings, dev[name], test[name], 1),
            "levels": [{"level": level, **chosen(settings, dev[name], test[name], at)} for level, at in levels],
        }
        for way in ("full, weight chosen", *WAYS):
            print(f"{name:12} {way:20} {row[way]['difference']:+.4f} {row[way]['interval']} {row[way]['reads']}")
        found.append(row)
        if not options.replay:
            ways = timed(one, [FULL, settings[own], settings[one_for_all], SHIPPED], folders[name])
            replays = {key: test[name].values[:, i] for i, key in enumerate(test[name].ids)}
            for at, way, measured in zip((0, own, one_for_all, 1), ("full", *WAYS), ways, strict=True):
                off = max(abs(value - replays[key][at]) for key, value in measured.pop("run").items())
                row["timed"] = {**row.get("timed", {}), way: {**measured, "off_replay": round(float(off), 4)}}
            print(json.dumps(row["timed"]))
    if options.replay:
        return
    folder = folders.get("nq-qed", next(iter(folders.values())))
    requests = w1_requests(options.data, folder, max(W1_RUNS, W1_TIMED) + 1)
    shares_of_lower = [lower_share(list(some.values())) for some in rows.values()]
    estimated = w1_estimated(requests, settings, folder, statistics.median(shares_of_lower))
    picked = sorted({leading(together, estimated, np.flatnonzero(estimated <= most)) for most in CURVE} | {0})
    curve = []
    for at, measured in zip(picked, w1_run(requests, [settings[at] for at in picked], folder), strict=True):
        losses = {name: told(part, at) for name, part in test.items()}
        mean = round(statistics.fmean(loss["difference"] for loss in losses.values()), 4)
        row = {"reads": str(settings[at]), "setting": asdict(settings[at]), "estimated_p95_ms": round(estimated[at], 1)}
        curve.append({**row, **measured, "dev": round(float(together[at]), 4), "difference": mean, "of": losses})
        print(json.dumps({key: value for key, value in curve[-1].items() if key not in ("setting", "of")}))
    fitting = [row for row in curve if row["p95_ms"] <= W1_MS]
    within = max(fitting, key=lambda row: row["dev"]) if fitting else None
    targets = [one for row in found for one in targets_of(row)]
    if within:
        value = within["difference"]
        targets.append(target("W1 within 100 ms: mean change of nDCG@10", value, f"≥ −{LOSS}", value >= -LOSS))
    else:
        targets.append(target("W1: a cascade within 100 ms", None, "p95 ≤ 100 ms", False))
    if options.dry:
        print(json.dumps(targets, indent=1))
        return
    more = {"tried": len(settings), "share": SHARE, "w1": curve, "w1_within": within, "w1_requests": W1_RUNS}
    detail = {name: encoder(name, False, 1.0).scorer.detail for name in ENCODERS}
    wanted = ("model", "digest", "engine", "precision", "max_length")
    more["models"] = {name: {key: one[key] for key in wanted} for name, one in detail.items()}
    print(write("cascades", found, targets, load=os.getloadavg()[0], **more))


if __name__ == "__main__":
    main()
