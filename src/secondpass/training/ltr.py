"""Learning to rank: from judged candidates to the folder that LearnedToRank opens.

Knows: which candidates are learnt from, which queries are kept aside, LightGBM (extra `ltr`), what is told of the
result. Refuses to know: where candidates come from, test splits.

Queries are kept aside whole, drawn by a seed; their nDCG@10 decides when to stop, so what is told of them is a little
too good. Judge a model on queries of its own, with `secondpass audit`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import math
import platform
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InputError
from secondpass.evaluation.metrics import parse_metric
from secondpass.evaluation.significance import bootstrap_interval
from secondpass.evaluation.trec import Qrels
from secondpass.evaluation.wording import counted
from secondpass.extras import require
from secondpass.rerankers.features import Features, FeatureSpec
from secondpass.rerankers.ltr_folder import Contents, write_folder
from secondpass.training.svmlight import GRADES, Table, read_svmlight
from secondpass.types import Ranking

__all__ = ["CUTOFFS", "Boosting", "boosting_of", "file_ndcg", "learn", "train_on_file", "train_on_rankings"]

CUTOFFS = (1, 3, 5, 10)  # of the nDCG that is told of files
_ASIDE = 5  # one query in so many is kept aside
_GOLDEN = 16  # rows

Progress = Callable[[str, int, int], None]
Predict = Callable[[Any], NDArray[np.float64]]
Count = Annotated[int, msgspec.Meta(ge=1)]
NotNegative = Annotated[float, msgspec.Meta(ge=0.0)]
Share = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]


class Boosting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How trees are grown, by LightGBM's own names. With `early_stopping_round` 0 all `num_iterations` trees are
    grown, and no query is kept aside."""

    objective: Literal["lambdarank", "rank_xendcg"] = "lambdarank"
    num_iterations: Count = 500
    early_stopping_round: Annotated[int, msgspec.Meta(ge=0)] = 50
    learning_rate: Annotated[float, msgspec.Meta(gt=0.0)] = 0.05
    num_leaves: Annotated[int, msgspec.Meta(ge=2)] = 31
    max_depth: int = -1
    min_data_in_leaf: Annotated[int, msgspec.Meta(ge=0)] = 20
    min_sum_hessian_in_leaf: NotNegative = 1e-3
    bagging_fraction: Share = 1.0
    bagging_freq: Annotated[int, msgspec.Meta(ge=0)] = 0
    feature_fraction: Share = 1.0
    lambda_l1: NotNegative = 0.0
    lambda_l2: NotNegative = 0.0
    min_gain_to_split: NotNegative = 0.0
    max_bin: Annotated[int, msgspec.Meta(ge=2)] = 255
    lambdarank_truncation_level: Count = 30
    lambdarank_norm: bool = True
    seed: Annotated[int, msgspec.Meta(ge=0)] = 13
    num_threads: Annotated[int, msgspec.Meta(ge=0)] = 0


def boosting_of(settings: Mapping[str, Any]) -> Boosting:
    """The settings that are given, as numbers or as texts, and our defaults for all others.

    Raises InputError for a name that is not there or a value that cannot be meant.
    """
    try:
        return msgspec.convert({name: _read(value) for name, value in settings.items()}, Boosting, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(Boosting.__struct_fields__)
        raise InputError(f"{error}; the settings are {known}, as LightGBM names them") from error


def _read(value: Any) -> Any:
    """A text that is a number as that number, also where it is written as ".1"."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value) if isinstance(value, str) else value
    return value


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """Trees as LightGBM writes them, how many, the share of the gain that each feature brought, and what they predict
    of rows once they are read back."""

    trees: str
    rounds: int
    gain: dict[str, float]
    predict: Predict


def learn(
    train: Table, aside: Table | None, boosting: Boosting, names: Sequence[str], progress: Progress = lambda *_: None
) -> Learnt:
    """Grow trees on `train`; with `aside` as many as rank that best, else all.

    The same rows, settings and version of LightGBM give the same trees, on any number of threads.
    Raises MissingExtraError without the extra, InputError where no query has rows of two grades.
    """
    library: Any = require("lightgbm", extra="ltr", purpose="learning to rank")
    if not any(len(np.unique(train.grades[query])) > 1 for query in train.queries()):
        raise InputError("no query has candidates of two grades, so there is no order to learn; judge more of them")
    settings = msgspec.to_builtins(boosting)
    trees, patience = settings.pop("num_iterations"), settings.pop("early_stopping_round")
    settings |= {"metric": "ndcg", "eval_at": [10], "deterministic": True, "force_row_wise": True, "verbosity": -1}

    def dataset(table: Table, **options: Any) -> Any:
        return library.Dataset(
            table.rows,
            label=table.grades,
            group=list(table.sizes),
            feature_name=list(names),
            params=settings,
            **options,
        )

    def told(env: Any) -> None:
        progress("trees", env.iteration + 1, env.end_iteration)

    data = dataset(train)
    more: dict[str, Any] = {"callbacks": [told]}
    if aside is not None:
        more["valid_sets"] = [dataset(aside, reference=data)]
        more["callbacks"].append(library.early_stopping(patience, verbose=False))
    booster = library.train(settings, data, num_boost_round=trees, **more)
    rounds = booster.best_iteration if aside is not None else booster.num_trees()
    gains = booster.feature_importance("gain", iteration=rounds)
    shares = sorted(zip((gains / (gains.sum() or 1.0)).tolist(), names, strict=True), reverse=True)
    trees = booster.model_to_string(num_iteration=rounds)
    return Learnt(trees, rounds, {name: round(gain, 4) for gain, name in shares}, predictor(trees))


def predictor(trees: str) -> Predict:
    """What trees, as LightGBM writes them, say of rows: float64[rows]. Raises MissingExtraError without the extra."""
    library: Any = require("lightgbm", extra="ltr", purpose="learning to rank")
    booster = library.Booster(model_str=trees)
    return lambda rows: np.asarray(booster.predict(rows, verbosity=-1), np.float64)


# From rankings


@dataclass(frozen=True, slots=True)
class _Gathered:
    """Rows of some queries, as they come in."""

    rows: list[NDArray[np.float64]] = field(default_factory=list)
    grades: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def add(self, rows: NDArray[np.float64], grades: Sequence[int]) -> None:
        self.rows.append(rows)
        self.grades.extend(grades)
        self.sizes.append(len(grades))

    def table(self, width: int) -> Table:
        rows = np.concatenate([np.empty((0, width)), *self.rows])
        return Table(rows, np.array(self.grades, np.int32), tuple(self.sizes))


def train_on_rankings(
    rankings: Iterable[Ranking],
    qrels: Qrels,
    features: Features,
    out: str | Path,
    *,
    boosting: Boosting = Boosting(),  # noqa: B008 - frozen
    negatives: int = 200,
    source: str = "",
    licence: str = "not stated",
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Learn from first-stage rankings and their judgments, write the folder `out`, and return its lineage.

    Of each ranking all relevant candidates are learnt from, and at most so many `negatives` of the others, drawn by
    the seed: what is not judged counts as not relevant. Rankings without a relevant candidate teach nothing, and are
    counted. Train on as many candidates as there will be, since `first_z` is of all of them.

    Raises InputError for too few judged queries, a grade above 30, metadata that no candidate has, or as `learn` does.
    """
    ids = sorted(query_id for query_id, grades in qrels.items() if any(grade > 0 for grade in grades.values()))
    random.Random(boosting.seed).shuffle(ids)
    aside = set(ids[: max(len(ids) // _ASIDE, 1)]) if boosting.early_stopping_round else set()
    if len(ids) - len(aside) < 1:
        raise InputError(f"{counted(len(ids), 'query has', 'queries have')} relevant judgments; that is too few")
    drawing = random.Random(boosting.seed)
    learnt_from, kept = _Gathered(), _Gathered()
    held: list[tuple[tuple[str, ...], Mapping[str, int], NDArray[np.float64]]] = []
    asked = unreached = most = 0
    for ranking in rankings:
        judged = qrels.get(ranking.query_id, {})
        grades = [max(judged.get(name, 0), 0) for name in ranking.ids]
        if max(grades, default=0) >= GRADES:
            raise InputError(f"query {ranking.query_id!r} has a grade of {max(grades)}; the most is {GRADES - 1}")
        asked, most = asked + 1, max(most, len(ranking))
        progress("candidates", asked, len(qrels))
        if ranking.query_id in aside:
            rows = features.of(ranking)
            held.append((ranking.ids, judged, rows))
            if any(grades):
                kept.add(rows, grades)
            continue
        relevant = [place for place, grade in enumerate(grades) if grade]
        others = [place for place, grade in enumerate(grades) if not grade]
        if not relevant or not others:
            unreached += 1
            continue
        places = sorted([*relevant, *drawing.sample(others, min(negatives, len(others)))])
        learnt_from.add(features.asked(ranking).rows(places), [grades[place] for place in places])
    names = features.spec.names
    train, dev = learnt_from.table(len(names)), kept.table(len(names)) if kept.sizes else None
    for name in features.spec.metadata:
        if len(train) and np.isnan(train.rows[:, names.index(name)]).all():
            raise InputError(f"no document has a number {name!r} in its metadata; check the name, or leave it out")
    learnt = learn(train, dev, boosting, names, progress)
    contents = _contents(features, learnt, train)
    lineage = {
        "source": source,
        "licence": licence,
        "queries": {"learnt from": len(train.sizes), "unreached": unreached, "kept aside": len(held)},
        "candidates": most,
        "negatives": negatives,
        **_lineage(train, boosting, learnt),
        "aside": _report(held, learnt.predict) if held else None,
    }
    write_folder(out, contents, lineage)
    return lineage


def _report(
    held: Sequence[tuple[tuple[str, ...], Mapping[str, int], NDArray[np.float64]]], predict: Predict
) -> dict[str, Any]:
    """nDCG@10 of the first stage's order and of the model's, on the queries kept aside."""
    metric, before, after = parse_metric("ndcg@10"), [], []
    for ids, judged, rows in held:
        order = np.argsort(-predict(rows), kind="stable").tolist()
        before.append(metric(ids, judged))
        after.append(metric([ids[place] for place in order], judged))
    differences = np.array(after) - np.array(before)
    return {
        "queries": len(held),
        "first": round(fmean(before), 4),
        "model": round(fmean(after), 4),
        "difference": round(float(differences.mean()), 4),
        "interval": [round(end, 4) if math.isfinite(end) else None for end in bootstrap_interval(differences)],
    }


# From files


def train_on_file(
    path: str | Path,
    out: str | Path,
    *,
    dev: str | Path | None = None,
    boosting: Boosting = Boosting(),  # noqa: B008 - frozen
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Learn from an SVMlight file, write the folder `out`, and return its lineage.

    `dev` is a file that decides when to stop; without it a fifth of the queries does. To the reranker, feature n is
    the metadata number `feature_n`, 0 where a document has none.

    Raises CollectionError, with file and line, as `read_svmlight` does, InputError as `learn` does.
    """
    whole, numbers = read_svmlight(path)
    train, aside = whole, None
    if boosting.early_stopping_round:
        train, aside = (whole, read_svmlight(dev, numbers)[0]) if dev else _halved(whole, boosting.seed)
    spec = FeatureSpec((), tuple(f"feature_{number}" for number in numbers), "", False, None, absent="zero")
    learnt = learn(train, aside, boosting, spec.names, progress)
    contents = _contents(Features(spec), learnt, train)
    lineage = {
        "source": str(path),
        "licence": "not stated",
        "queries": {"learnt from": len(train.sizes), "kept aside": len(aside.sizes) if aside else 0},
        **_lineage(train, boosting, learnt),
        "aside": _ndcg(learnt.predict, aside) if aside else None,
    }
    write_folder(out, contents, lineage)
    return lineage


def file_ndcg(path: str | Path, contents: Contents) -> dict[str, float]:
    """nDCG@1, 3, 5 and 10 of a model over an SVMlight file, with the grade as the gain (as trec_eval has it)."""
    first = int(contents.spec.metadata[0].removeprefix("feature_"))
    table, _ = read_svmlight(path, range(first, first + len(contents.spec.names)))
    return _ndcg(predictor(contents.trees), table)


def _halved(table: Table, seed: int) -> tuple[Table, Table]:
    """The queries to learn from, and a fifth that is kept aside."""
    order = list(range(len(table.sizes)))
    random.Random(seed).shuffle(order)
    aside = set(order[: max(len(order) // _ASIDE, 1)])
    if len(aside) == len(order):
        told = counted(len(order), "query is", "queries are")
        raise InputError(f"{told} too few to keep some aside; give more, or early_stopping_round=0")

    def some(kept: bool) -> Table:
        places = [query for number, query in enumerate(table.queries()) if (number in aside) is kept]
        rows = np.concatenate([np.arange(query.start, query.stop) for query in places])
        sizes = tuple(query.stop - query.start for query in places)
        return Table(table.rows[rows], table.grades[rows], sizes)

    return some(False), some(True)


def _ndcg(predict: Predict, table: Table) -> dict[str, float]:
    """nDCG at the cutoffs, a mean over the queries."""
    scores = predict(table.rows)
    found: dict[str, list[float]] = {f"ndcg@{k}": [] for k in CUTOFFS}
    for query in table.queries():
        grades = {str(place): int(grade) for place, grade in enumerate(table.grades[query])}
        order = [str(place) for place in np.argsort(-scores[query], kind="stable").tolist()]
        for name, values in found.items():
            values.append(parse_metric(name)(order, grades))
    return {name: round(fmean(values), 4) for name, values in found.items()}


# Both


def _contents(features: Features, learnt: Learnt, table: Table) -> Contents:
    """What the folder gets; the golden rows are drawn evenly from what was learnt from."""
    places = np.unique(np.linspace(0, len(table) - 1, _GOLDEN).astype(np.int64))
    rows = table.rows[places]
    dense = np.ascontiguousarray(rows if isinstance(rows, np.ndarray) else rows.toarray())
    golden = dense, learnt.predict(dense)
    return Contents(features.spec, learnt.trees, features.statistics, features.encoder, golden)


def _lineage(table: Table, boosting: Boosting, learnt: Learnt) -> dict[str, Any]:
    digest = hashlib.blake2b(digest_size=16)
    parts = [table.rows] if isinstance(table.rows, np.ndarray) else [table.rows.data, table.rows.indices]
    for part in (*parts, table.grades, np.array(table.sizes, np.int64)):
        digest.update(np.ascontiguousarray(part).tobytes())
    return {
        "rows": len(table),
        "data": digest.hexdigest(),
        "boosting": msgspec.to_builtins(boosting),
        "trees": learnt.rounds,
        "gain": learnt.gain,
        "made_with": {"python": platform.python_version(), "lightgbm": importlib.metadata.version("lightgbm")},
    }
