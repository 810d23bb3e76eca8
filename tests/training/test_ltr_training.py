"""Learning to rank: LightGBM's own trees where the rows are the same, nothing of a query kept aside in the training."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from secondpass.errors import CollectionError, InputError
from secondpass.evaluation.metrics import parse_metric
from secondpass.rerankers.features import Features, FeatureSpec
from secondpass.rerankers.ltr import LearnedToRank
from secondpass.rerankers.ltr_folder import read_folder
from secondpass.training.ltr import Boosting, boosting_of, file_ndcg, learn, train_on_file, train_on_rankings
from secondpass.training.svmlight import read_svmlight
from secondpass.types import Document, Hit, Ranking, as_ranking

lightgbm: Any = pytest.importorskip("lightgbm", reason="the extra ltr is not installed")

EARLY = {"min_data_in_leaf": 5, "num_threads": 1}
ALL_TREES = {"early_stopping_round": 0, "num_iterations": 30, "min_data_in_leaf": 5, "num_leaves": 8, "num_threads": 1}
SHARED = {"bagging_fraction": 0.8, "bagging_freq": 1, "feature_fraction": 0.7, "learning_rate": 0.1, "lambda_l2": 1.0}


def written(folder: Path, name: str, queries: int, seed: int = 1) -> Path:
    """Sparse rows whose grade follows two of the features, with LightGBM's file of sizes beside them."""
    rng = random.Random(f"{seed}/{name}")
    lines, sizes = [], []
    for _ in range(queries):
        sizes.append(rng.randint(4, 14))
        for _ in range(sizes[-1]):
            features = {number: round(rng.random(), 2) for number in range(1, 13) if rng.random() < 0.6}
            worth = features.get(3, 0.0) + 0.7 * features.get(8, 0.0) + rng.gauss(0, 0.15)
            grade = min(max(int(3 * worth - 1), 0), 4)
            lines.append(" ".join([str(grade), *(f"{number}:{features[number]}" for number in sorted(features))]))
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    path.with_name(f"{name}.query").write_text("\n".join(map(str, sizes)) + "\n", encoding="utf-8")
    return path


def test_the_same_settings_give_lightgbm_s_own_predictions(tmp_path: Path) -> None:
    train, test = written(tmp_path, "train", 60), written(tmp_path, "test", 20)
    boosting = boosting_of(ALL_TREES | SHARED)
    train_on_file(train, tmp_path / "model", boosting=boosting)
    settings = {key: value for key, value in msgspec.to_builtins(boosting).items() if key != "early_stopping_round"}
    settings |= {"deterministic": True, "force_row_wise": True, "verbosity": -1}
    rounds = settings.pop("num_iterations")
    theirs = lightgbm.train(settings, lightgbm.Dataset(str(train), params=settings), num_boost_round=rounds)
    expected = theirs.predict(str(test), data_has_header=False)
    model = LearnedToRank(tmp_path / "model")
    table, _ = read_svmlight(test, range(1, 13))
    assert np.array_equal(model.predict(table.rows.toarray()), expected)
    assert len(set(expected.tolist())) > 50
    # … and as metadata of documents, where 0 may be left out
    query = next(table.queries())
    rows = table.rows.toarray()[query].tolist()
    documents = [
        {"id": str(n), "text": "", **{f"feature_{k}": value for k, value in enumerate(row, 1) if value}}
        for n, row in enumerate(rows)
    ]
    found = {hit.document.id: hit.score for hit in model.rerank(as_ranking("q", documents)).hits}
    assert found == {str(n): score for n, score in enumerate(expected[query].tolist())}


def test_what_it_learnt_ranks_other_queries_better_than_chance(tmp_path: Path) -> None:
    train, test = written(tmp_path, "train", 80), written(tmp_path, "test", 40)
    lineage = train_on_file(train, tmp_path / "model", boosting=boosting_of(EARLY))
    assert lineage["queries"] == {"learnt from": 64, "kept aside": 16}
    assert list(lineage["gain"])[:2] == ["feature_3", "feature_8"]
    assert sum(lineage["gain"].values()) == pytest.approx(1, abs=0.01)
    assert 0 < lineage["trees"] < 500  # it stopped when the queries kept aside said so
    found = file_ndcg(test, read_folder(tmp_path / "model"))
    table, _ = read_svmlight(test)
    by_chance = []
    for query in table.queries():
        grades = {str(n): int(grade) for n, grade in enumerate(table.grades[query])}
        by_chance.append(parse_metric("ndcg@10")(list(grades), grades))
    assert found["ndcg@10"] > float(np.mean(by_chance)) + 0.1
    assert list(found) == ["ndcg@1", "ndcg@3", "ndcg@5", "ndcg@10"]
    assert json.loads((tmp_path / "model" / "lineage.json").read_text(encoding="utf-8")) == lineage


def test_the_ndcg_of_a_file_is_that_of_its_order(tmp_path: Path) -> None:
    train, test = written(tmp_path, "train", 30), written(tmp_path, "test", 10)
    train_on_file(train, tmp_path / "model", boosting=boosting_of(ALL_TREES))
    model = LearnedToRank(tmp_path / "model")
    table, _ = read_svmlight(test)
    values = []
    for query in table.queries():
        scores = model.predict(table.rows[query].toarray())
        grades = table.grades[query].astype(float)
        gains = grades[np.argsort(-scores, kind="stable")][:3] / np.log2(np.arange(2, 5))
        best = np.sort(grades)[::-1][:3] / np.log2(np.arange(2, 5))
        values.append(gains.sum() / best.sum() if best.sum() else 0.0)
    assert file_ndcg(test, read_folder(tmp_path / "model"))["ndcg@3"] == round(float(np.mean(values)), 4)


def test_a_file_of_one_s_own_says_when_to_stop(tmp_path: Path) -> None:
    train, dev = written(tmp_path, "train", 40), written(tmp_path, "dev", 15)
    lineage = train_on_file(train, tmp_path / "model", dev=dev, boosting=boosting_of(EARLY))
    assert lineage["queries"] == {"learnt from": 40, "kept aside": 15}
    assert lineage["aside"] == file_ndcg(dev, read_folder(tmp_path / "model"))


def test_once_more_is_the_same_on_any_number_of_threads(tmp_path: Path) -> None:
    train = written(tmp_path, "train", 40)
    for name, threads in (("one", 1), ("two", 2)):
        train_on_file(train, tmp_path / name, boosting=boosting_of(SHARED | {"num_threads": threads}))
    one, two = (read_folder(tmp_path / name).trees.split("parameters:")[0] for name in ("one", "two"))
    assert one == two


def test_what_cannot_be_learnt_from_is_said(tmp_path: Path) -> None:
    alike = tmp_path / "alike"
    alike.write_text("1 qid:1 1:1\n1 qid:1 1:2\n0 qid:2 1:3\n", encoding="utf-8")
    with pytest.raises(InputError, match="no query has candidates of two grades"):
        train_on_file(alike, tmp_path / "model", boosting=boosting_of({"early_stopping_round": 0}))
    alike.write_text("1 qid:1 1:1\n0 qid:1 1:2\n", encoding="utf-8")
    with pytest.raises(InputError, match="1 query is too few to keep some aside"):
        train_on_file(alike, tmp_path / "model")
    with pytest.raises(CollectionError, match="nowhere"):
        train_on_file(tmp_path / "nowhere", tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_leafs": 3}, "num_leafs.*the settings are objective, num_iterations"),
        ({"num_leaves": 1}, "num_leaves.*the settings are"),
        ({"num_leaves": "many"}, "num_leaves"),
        ({"objective": "binary"}, "objective"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": "nan"}, "learning_rate"),
        ({"num_leaves": "7.5"}, "num_leaves"),
    ],
)
def test_a_wrong_setting_is_said(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        boosting_of(settings)


def test_settings_may_come_as_texts() -> None:
    settings = boosting_of({"num_leaves": "7", "learning_rate": ".2", "lambda_l2": "3", "lambdarank_norm": "false"})
    assert settings == Boosting(num_leaves=7, learning_rate=0.2, lambda_l2=3.0, lambdarank_norm=False)


# From rankings


def pools(queries: int, candidates: int = 30) -> tuple[list[Ranking], dict[str, dict[str, int]]]:
    """Rankings in which the good metadata number tells what is relevant, and the first stage does not."""
    rng = random.Random(3)
    rankings, qrels = [], {}
    for n in range(queries):
        hits, grades = [], {}
        for k in range(candidates):
            good = rng.random()
            document = Document(f"{n}-{k}", f"word{k % 7} and so on", metadata={"good": good, "noise": rng.random()})
            hits.append(Hit(document, 30.0 - k, first_score=30.0 - k, first_rank=k + 1))
            if good > 0.85:
                grades[document.id] = 2
            elif k % 9 == 0:
                grades[document.id] = 0
        rankings.append(Ranking(f"word{n % 7}", tuple(hits), (), f"q{n}"))
        qrels[f"q{n}"] = grades
    return rankings, qrels


NUMBERS = Features(FeatureSpec((), ("good", "noise")))


def test_a_model_of_rankings_and_what_is_told_of_it(tmp_path: Path) -> None:
    rankings, qrels = pools(60)
    qrels["q1"] = {"not in the pool": 1}
    lineage = train_on_rankings(
        iter(rankings), qrels, NUMBERS, tmp_path / "model", boosting=boosting_of(EARLY), source="toy"
    )
    counts = lineage["queries"]
    assert counts["kept aside"] == 12
    assert counts["learnt from"] + counts["unreached"] + counts["kept aside"] == 60
    assert counts["unreached"] <= 2
    assert next(iter(lineage["gain"])) == "good"
    assert (lineage["candidates"], lineage["source"]) == (30, "toy")
    aside = lineage["aside"]
    assert aside["queries"] == 12
    assert aside["model"] > 0.9 > aside["first"] + 0.3
    assert aside["difference"] == pytest.approx(aside["model"] - aside["first"], abs=2e-4)
    low, high = aside["interval"]
    assert low <= aside["difference"] <= high
    model = LearnedToRank(tmp_path / "model")
    best = model.rerank(rankings[0]).hits[0].document.metadata["good"]
    assert best > 0.85


def test_the_queries_kept_aside_are_not_learnt_from(tmp_path: Path) -> None:
    rankings, qrels = pools(40)
    boosting = boosting_of(EARLY | {"num_iterations": 5, "early_stopping_round": 5})
    first = train_on_rankings(rankings, qrels, NUMBERS, tmp_path / "one", boosting=boosting)
    # without their rankings there is nothing to stop by, and the rows learnt from are the same
    ids = sorted(qrels)
    random.Random(boosting.seed).shuffle(ids)
    aside = set(ids[: len(ids) // 5])
    rest = [ranking for ranking in rankings if ranking.query_id not in aside]
    second = train_on_rankings(rest, qrels, NUMBERS, tmp_path / "two", boosting=boosting)
    assert second["queries"]["kept aside"] == 0
    assert first["data"] == second["data"]
    assert first["queries"]["learnt from"] == 32


def test_of_the_others_some_are_drawn_and_all_relevant_ones_stay(tmp_path: Path) -> None:
    rankings, qrels = pools(10)
    boosting = boosting_of(ALL_TREES)
    few = train_on_rankings(rankings, qrels, NUMBERS, tmp_path / "few", boosting=boosting, negatives=4)
    learnt = [ranking for ranking in rankings if any(qrels[ranking.query_id].values())]
    relevant = sum(grade > 0 for ranking in learnt for grade in qrels[ranking.query_id].values())
    assert few["rows"] == relevant + 4 * len(learnt)
    assert few["aside"] is None
    every = train_on_rankings(rankings, qrels, NUMBERS, tmp_path / "all", boosting=boosting)
    assert every["rows"] == 30 * len(learnt)
    assert every["data"] != few["data"]


def test_judgments_that_cannot_be_used_are_said(tmp_path: Path) -> None:
    rankings, qrels = pools(10)
    with pytest.raises(InputError, match="'q0' has a grade of 31; the most is 30"):
        train_on_rankings(rankings, {**qrels, "q0": {"0-0": 31}}, NUMBERS, tmp_path / "model")
    with pytest.raises(InputError, match="1 query has relevant judgments; that is too few"):
        train_on_rankings(rankings, {"q0": {"0-0": 1}}, NUMBERS, tmp_path / "model")
    strangers = [replace(ranking, query_id="nobody") for ranking in rankings]
    with pytest.raises(InputError, match="no query has candidates of two grades"):
        train_on_rankings(strangers, qrels, NUMBERS, tmp_path / "model")
    below = {query: dict.fromkeys(grades, -1) for query, grades in qrels.items()}
    with pytest.raises(InputError, match="0 queries have relevant judgments; that is too few"):
        train_on_rankings(rankings, below, NUMBERS, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_learning_tells_how_far_it_is(tmp_path: Path) -> None:
    table, numbers = read_svmlight(written(tmp_path, "train", 10))
    seen: list[tuple[str, int, int]] = []
    names = [f"feature_{number}" for number in numbers]
    learnt = learn(table, None, boosting_of(ALL_TREES), names, lambda *step: seen.append(step))
    assert seen == [("trees", n, 30) for n in range(1, 31)]
    assert learnt.rounds == 30
    assert math.isfinite(float(learnt.predict(table.rows).sum()))
