"""LearnedToRank: the promises of every reranker, and folders that open only whole and with what they learnt from."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secondpass.cascade import Cascade, Stage
from secondpass.config import build_cascade, read_config
from secondpass.embedding import open_encoder
from secondpass.errors import ConfigError, GoldenError, InputError, MissingExtraError, ModelError
from secondpass.registry import resolve
from secondpass.rerankers.features import FIRST_STAGE, Features, FeatureSpec
from secondpass.rerankers.ltr import LearnedToRank
from secondpass.rerankers.ltr_folder import read_folder
from secondpass.rerankers.term_statistics import TermStatistics
from secondpass.retrievers.bm25 import BM25
from secondpass.testing import ManualClock, OverlapReranker, check_pointwise, check_reranker
from secondpass.training.ltr import boosting_of, train_on_rankings
from secondpass.types import Caller, Deadline, Document, Hit, Ranking, Status, as_ranking
from secondpass.weights import file_digest

pytest.importorskip("lightgbm", reason="the extra ltr is not installed")

TOPICS = ("bees", "hives", "honey", "flowers", "sun", "dance", "swarm", "veil")
SETTINGS = {"num_iterations": 20, "early_stopping_round": 0, "min_data_in_leaf": 2, "num_leaves": 6, "num_threads": 1}


def documents() -> list[Document]:
    """Every pair of topics, near each other or far apart."""
    made = []
    for n, one in enumerate(TOPICS):
        for k, other in enumerate(TOPICS):
            text = f"{one} {'and so on, and so forth, ' * (n % 3)}{other} in the way back to their {one}"
            made.append(Document(f"d{n}{k}", text, title=other if k % 2 else "", metadata={"page": k, "good": n + k}))
    return made


def trained(folder: Path, spec: FeatureSpec) -> Path:
    """A model of the toy collection: relevant is a document of both topics of the query, more so if they come early."""
    stage = BM25.build(documents())
    qrels, rankings = {}, []
    for n, one in enumerate(TOPICS):
        for k, other in enumerate(TOPICS[n + 1 :], n + 1):
            query = f"{one} {other} way"
            qrels[query] = {f"d{n}{k}": 2, f"d{k}{n}": 1}
            rankings.append(replace(stage.retrieve(query, 40), query_id=query))
    statistics = TermStatistics.of(stage.index, spec.fields, spec.language) if spec.fields else None
    features = Features(spec, statistics, open_encoder(spec.encoder) if spec.encoder else None)
    train_on_rankings(rankings, qrels, features, folder, boosting=boosting_of(SETTINGS))
    return folder


@pytest.fixture(scope="module")
def pointwise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the query and one document: nothing from the first stage."""
    return trained(tmp_path_factory.mktemp("ltr") / "pointwise", FeatureSpec(first=False))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that the first stage has a say in."""
    return trained(tmp_path_factory.mktemp("ltr") / "with-first", FeatureSpec(metadata=("good",)))


def ranking(n: int = 40) -> Ranking:
    return BM25.build(documents()).retrieve("bees dance", n)


@pytest.mark.parametrize("keep_bytes", [0, 1_000_000])
def test_it_keeps_every_promise_of_a_reranker(folder: Path, keep_bytes: int) -> None:
    check_reranker(lambda: LearnedToRank(folder, keep_bytes=keep_bytes))


@pytest.mark.parametrize("keep_bytes", [0, 1_000_000])
def test_without_the_first_stage_it_scores_each_document_on_its_own(pointwise: Path, keep_bytes: int) -> None:
    check_reranker(lambda: LearnedToRank(pointwise, keep_bytes=keep_bytes))
    check_pointwise(lambda: LearnedToRank(pointwise, keep_bytes=keep_bytes), tolerance=0.0)


def test_metadata_alone_can_rank(tmp_path: Path) -> None:
    model = LearnedToRank(trained(tmp_path / "numbers", FeatureSpec((), ("good", "page"), first=False)))
    check_reranker(lambda: model)
    answer = model.rerank(as_ranking("q", [{"id": "a", "text": "", "good": 3}, {"id": "b", "text": "bees"}]))
    assert [(hit.document.id, hit.status) for hit in answer.hits] == [("a", Status.SCORED), ("b", Status.EMPTY)]


def test_it_finds_the_order_that_it_was_taught(folder: Path) -> None:
    stage, model = BM25.build(documents()), LearnedToRank(folder)
    pairs = [(n, k) for n in range(len(TOPICS)) for k in range(n + 1, len(TOPICS))]
    found = {f"d{n}{k}": stage.retrieve(f"{TOPICS[n]} {TOPICS[k]} way", 40) for n, k in pairs}
    right = [best == model.rerank(one).ids[0] for best, one in found.items()]
    before = [best == one.ids[0] for best, one in found.items()]
    assert sum(right) > sum(before) + 5


def test_the_score_is_what_the_trees_say_of_the_features(folder: Path) -> None:
    model, found = LearnedToRank(folder), ranking()
    expected = dict(zip(found.ids, model.predict(model.features.of(found)).tolist(), strict=True))
    assert {hit.document.id: hit.score for hit in model.rerank(found).hits} == expected
    assert len(set(expected.values())) > 5


def test_the_trace_says_what_was_computed_and_what_was_nowhere(folder: Path) -> None:
    model = LearnedToRank(folder)
    found = ranking()
    (before, entry) = model.rerank(found).trace
    assert before == found.trace[0]
    assert (entry.name, entry.pairs_scored, entry.skipped, entry.skipped_because) == ("learned-to-rank", 28, {}, "")
    lengths = [model.features.spec.names.index(f"{name}_length") for name in ("title", "text")]
    assert entry.tokens == model.features.of(found)[:, lengths].sum()
    assert entry.detail["features"] == len(model.features.spec.names)
    assert entry.detail["trees"] == 20
    assert entry.detail["engine"].startswith("lightgbm ")
    assert entry.detail["digest"] == read_folder(folder).digest
    assert "in_no_document" not in entry.detail
    bare = replace(found, hits=tuple(Hit(Document(hit.document.id, hit.document.text)) for hit in found.hits))
    assert model.rerank(bare).trace[-1].detail["in_no_document"] == [*FIRST_STAGE, "good"]


def test_time_decides_how_many_are_scored_and_never_a_score(folder: Path) -> None:
    model = LearnedToRank(folder)
    copies = [replace(hit.document, id=f"{hit.document.id}-{n}") for n in range(10) for hit in ranking().hits]
    many = as_ranking("bees dance", copies)
    full = {hit.document.id: hit.score for hit in model.rerank(many).hits}
    readings = iter(range(100))
    answer = model.rerank(many, deadline=Deadline(2.0, lambda: float(next(readings))))
    scored = [hit for hit in answer.hits if hit.score is not None]
    assert 0 < len(scored) < len(many) == 280
    assert {hit.document.id for hit in scored} == set(many.ids[: len(scored)])
    assert all(full[hit.document.id] == hit.score for hit in scored)
    assert answer.trace[-1].skipped == {"deadline": 280 - len(scored)}
    assert answer.trace[-1].skipped_because == f"{280 - len(scored)}: time was up"
    gone = Caller()
    gone.leave()
    assert model.rerank(many, deadline=Deadline(caller=gone)).ids == many.ids


@pytest.mark.parametrize(("at", "scored"), [(0.0, 0), (1.5, 16), (4.25, 16 + 20), (5.5, 16 + 32), (1e6, 280)])
def test_as_many_are_taken_at_a_time_as_the_time_left_allows(folder: Path, at: float, scored: int) -> None:
    copies = [replace(hit.document, id=f"{hit.document.id}-{n}") for n in range(10) for hit in ranking().hits]
    answer = LearnedToRank(folder).rerank(as_ranking("bees dance", copies), deadline=Deadline(at, ManualClock(tick=1)))
    assert answer.trace[-1].pairs_scored == scored


def test_a_query_without_end_is_too_long(folder: Path) -> None:
    model = LearnedToRank(folder)
    answer = model.rerank(replace(ranking(), query="bees dance " * 513))
    assert {hit.status for hit in answer.hits} == {Status.QUERY_TOO_LONG}
    assert answer.trace[-1].skipped_because == "28: the query has more than 1024 words"
    assert {hit.status for hit in model.rerank(replace(ranking(), query="bees dance " * 512)).hits} == {Status.SCORED}


def test_threads_may_share_one(folder: Path) -> None:
    stage, model = BM25.build(documents()), LearnedToRank(folder, keep_bytes=65_536)
    rankings = [stage.retrieve(f"{one} {other}", 60) for one in TOPICS for other in TOPICS]
    expected = [LearnedToRank(folder, keep_bytes=0).rerank(one).hits for one in rankings[:8]]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(model.rerank, rankings * 3))
    assert [answer.hits for answer in answers[:8]] == expected
    assert [answer.hits for answer in answers[:64]] == [answer.hits for answer in answers[128:]]
    several = LearnedToRank(folder, threads=2)
    assert [several.rerank(one).hits for one in rankings[:8]] == expected


def test_it_stands_before_another_stage(folder: Path, tmp_path: Path) -> None:
    stage = BM25.build(documents())
    pipeline = Cascade(stage, Stage(LearnedToRank(folder), depth=60), Stage(OverlapReranker(), depth=5))
    answer = pipeline.search("bees dance", top_k=60)
    alone = LearnedToRank(folder).rerank(stage.retrieve("bees dance", 60))
    assert sorted(answer.ids[:5]) == sorted(alone.ids[:5])
    assert answer.ids[5:] == alone.ids[5:]
    stage.save(tmp_path / "index")
    shutil.copytree(folder, tmp_path / "my-ltr")
    (tmp_path / "secondpass.toml").write_text(
        '[retriever]\nindex = "index"\n'
        '[[stages]]\nreranker = "ltr"\nmodel = "my-ltr"\nthreads = 2\ndepth = 60\n'
        '[[stages]]\nreranker = "ltr"\nmodel = "my-ltr"\ndepth = 5\n',
        encoding="utf-8",
    )
    built = build_cascade(read_config(tmp_path / "secondpass.toml"))
    assert built.search("bees dance", top_k=60).ids == alone.ids
    assert [step.name for step in built.search("bees dance").trace] == ["bm25", "learned-to-rank", "learned-to-rank"]
    (tmp_path / "none.toml").write_text('[[stages]]\nreranker = "ltr"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="missing a required argument: 'model'; it takes: model, threads"):
        build_cascade(read_config(tmp_path / "none.toml"), documents())
    assert resolve("reranker", "ltr") is LearnedToRank


def test_statistics_of_today_may_take_the_place_of_the_folder_s(folder: Path) -> None:
    some = documents()[:9]
    newer = TermStatistics.of(some, ("title", "text"), "english")
    model = LearnedToRank(folder, statistics=newer)
    assert model.features.statistics is newer
    with pytest.raises(InputError, match="statistics are of 1 fields"):
        LearnedToRank(folder, statistics=TermStatistics.of(some, ("text",), "english"))


@pytest.mark.parametrize("threads", [0, 1.5, True])
def test_a_wrong_number_of_threads_is_said(folder: Path, threads: Any) -> None:
    with pytest.raises(InputError, match="threads is"):
        LearnedToRank(folder, threads=threads)


def test_rows_of_another_width_are_said(folder: Path) -> None:
    with pytest.raises(InputError, match=r"rows have the shape \(2, 3\)"):
        LearnedToRank(folder).predict(np.zeros((2, 3)))
    assert LearnedToRank(folder).predict(np.zeros((0, 21))).shape == (0,)


def _schema(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "features.json"
        schema = json.loads(path.read_text(encoding="utf-8"))
        change(schema)
        path.write_text(json.dumps(schema), encoding="utf-8")

    return spoil


def _retold(folder: Path) -> None:
    """Other trees, with digests to match: only the golden rows can tell."""
    path = folder / "model.txt"
    text = path.read_text(encoding="utf-8")
    values = text.split("leaf_value=", 1)[1].split("\n", 1)[0]
    turned = " ".join(str(-2 * float(value)) for value in values.split())
    path.write_text(text.replace(values, turned, 1).replace("tree_sizes", "tree_sizes_of_old"), encoding="utf-8")
    _schema(lambda schema: schema["digests"].update({"model.txt": file_digest(path)}))(folder)


def _no_trees(folder: Path) -> None:
    (folder / "model.txt").write_text("nothing", encoding="utf-8")
    _schema(lambda schema: schema["digests"].update({"model.txt": file_digest(folder / "model.txt")}))(folder)


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (lambda folder: (folder / "features.json").unlink(), ModelError, "no learned ranker"),
        (lambda folder: (folder / "features.json").write_text("{"), ModelError, r"features.json: damaged"),
        (lambda folder: (folder / "features.json").write_text("[]"), ModelError, r"features.json: damaged"),
        (lambda folder: (folder / "model.txt").unlink(), ModelError, r"model.txt: missing, damaged"),
        (lambda folder: (folder / "model.txt").write_text("tree"), ModelError, r"model.txt: missing, damaged"),
        (lambda folder: (folder / "arrays.safetensors").write_bytes(b""), ModelError, "arrays.safetensors: missing"),
        (_schema(lambda schema: schema.update(format=2)), ModelError, "format 2, and this version reads 1"),
        (_schema(lambda schema: schema["features"].append("more")), ModelError, r"others than the model's \(more\)"),
        (_schema(lambda schema: schema["features"].reverse()), ModelError, r"others .* \(their order\)"),
        (_schema(lambda schema: schema["spec"].update(k1="high")), ModelError, "damaged"),
        (_schema(lambda schema: schema["spec"].update(b=3)), ModelError, "damaged"),
        (_no_trees, ModelError, "LightGBM cannot read its trees"),
        (_retold, GoldenError, "golden rows are off by"),
    ],
)
def test_a_folder_that_is_not_whole_does_not_open(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], object], error: type[Exception], says: str
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    spoil(copy)
    with pytest.raises(error, match=says):
        LearnedToRank(copy)


def test_another_encoder_than_it_learnt_from_is_refused(tmp_path: Path) -> None:
    made = trained(tmp_path / "made", FeatureSpec(encoder="secondpass-static"))
    found = LearnedToRank(made).rerank(ranking())
    assert {hit.status for hit in found.hits} == {Status.SCORED}
    _schema(lambda schema: schema.update(encoder_digest="another"))(made)
    with pytest.raises(ModelError, match="the encoder 'secondpass-static' is another one"):
        LearnedToRank(made)


def test_without_the_extra_the_install_line_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'secondpass\[ltr\]'"):
        LearnedToRank(folder)
