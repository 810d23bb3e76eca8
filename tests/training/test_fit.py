"""A real run on a tiny base: it learns, resumes, exports what opens everywhere."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from secondpass.errors import ConfigError
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.checkpoint import open_checkpoint
from secondpass.scoring.probability import CALIBRATION, read_calibration
from secondpass.training.curves import METRICS, read_curves
from secondpass.training.data import Group
from secondpass.training.export import _evenly, export
from secondpass.training.recipe import Base, DataSet, Recipe, Split, Training
from secondpass.training.report import REPORT
from secondpass.training.train import RUN, Prepared, fit
from secondpass.types import as_ranking
from tiny import tiny_checkpoint
from word_groups import quiet, word_groups

pytest.importorskip("sentence_transformers", reason="needs the extra 'train' (torch, sentence-transformers)")

from secondpass.training.classifier import Classifier
from secondpass.training.loop import measured

pytestmark = [
    pytest.mark.slow,
    # what torch and transformers warn about among themselves is theirs to mend
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


def recipe_for(base: Path, **settings: object) -> Recipe:
    few: dict[str, Any] = {"learning_rate": 3e-3, "groups_per_batch": 4, "max_length": 32, "bf16": False}
    training = Training(**{**few, "save_every": 10, **settings})
    sets = (DataSet("words", "CC0", 1),)
    return Recipe("tiny", Base(folder=str(base)), sets, training=training, max_length=64, languages=("en",))


def prepared_words(count: int, seed: int = 0) -> Prepared:
    groups = word_groups(count, seed)
    dev = [replace(group, first_scores=(4.0, 1.0, 3.0, 2.0)) for group in groups[:60]]
    return Prepared(
        groups, dev, {"sets": [{"name": "words", "licence": "CC0", "groups": count}], "base": {"history": ""}}
    )


def test_a_run_learns_resumes_and_exports(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base")
    prepared = prepared_words(160)
    recipe = recipe_for(base)

    said: list[str] = []
    stopped: list[int] = []

    def stop(_: str, done: int, total: int) -> None:
        stopped.append(done)
        if done == 13:  # as a kill would, after the checkpoint of step 10
            raise KeyboardInterrupt

    work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, prepared, work, say=said.append, progress=stop)
    assert not (work / "model").exists()
    resumed: list[int] = []
    trained = fit(recipe, prepared, work, say=said.append, progress=lambda _, done, total: resumed.append(done))
    assert any("going on from step 10" in line for line in said)
    assert (resumed[0], resumed[-1]) == (11, 40)
    assert fit(recipe, prepared, work, say=said.append, progress=quiet) == trained  # nothing left to do

    out = tmp_path / "out"
    out.mkdir()
    (out / CALIBRATION).write_text('{"model": "an older one"}')
    lineage = export(recipe, prepared, trained, out)
    assert lineage["dev"][0]["model"] > 0.9
    assert (lineage["steps"], lineage["run"]["precision"], lineage["run"]["ended_early"]) == (40, "fp32", False)
    assert [row["step"] for row in read_curves(out / METRICS)] == [10, 20, 30, 40]
    page = (out / REPORT).read_text(encoding="utf-8")
    assert "nDCG@10 of 60 dev queries" in page  # by the base, a cross-encoder, and by what became of it
    assert "by base, now" in page
    assert json.loads((out / "lineage.json").read_text())["digest"] == open_checkpoint(out).digest
    assert lineage["licence"] == "not stated"  # nobody said what it may be used for
    assert open_checkpoint(out).licence == "unstated"
    assert open_checkpoint(out).languages == lineage["languages"] == ("en",)
    assert "license:" not in (out / "README.md").read_text(encoding="utf-8")
    opens_as_fast(out, lineage, tmp_path / "cache")
    says_how_likely(out, lineage, tmp_path / "cache")
    hands_down_what_it_says(out, lineage, prepared, tmp_path / "child")
    model = CrossEncoder(out, profile="exact", cache_dir=tmp_path / "cache")
    assert model.scorer.max_length == 64
    assert model.scorer.checkpoint.golden
    held_out = word_groups(40, seed=9)
    right = [int(np.argmax(model.predict([(g.query, text) for text in g.passages]))) == 0 for g in held_out]
    assert np.mean(right) > 0.8

    from sentence_transformers import CrossEncoder as Theirs

    pairs = [(group.query, group.passages[1]) for group in held_out]
    np.testing.assert_allclose(model.predict(pairs), Theirs(str(out)).predict(pairs), atol=1e-4)


def test_the_best_state_between_base_and_what_was_learnt_is_exported(tmp_path: Path) -> None:
    """Early stopping, a share of general groups and interpolation through the whole of a run, with another loss."""
    base, prepared = tiny_checkpoint(tmp_path / "base"), prepared_words(80)
    general = [replace(group, set="other") for group in word_groups(30, seed=3)]
    dev = [*prepared.dev[:20], *general[:10]]
    prepared = Prepared([*prepared.groups, *general], dev, prepared.lineage)
    training = {"loss": "lambda", "eval_every": 10, "replay": 0.25, "interpolate": True}
    recipe = recipe_for(base, **training)
    sets = (*recipe.sets, DataSet("other", "CC0", role="general"))
    recipe = msgspec.structs.replace(recipe, sets=sets)
    trained = fit(recipe, prepared, tmp_path / "work", say=quiet, progress=quiet)
    run = json.loads((trained / RUN).read_text())
    rows = [row for row in read_curves(trained / METRICS) if "dev" in row]
    best = max(rows, key=lambda row: row["ndcg@10"])
    assert run["best"] == best["step"]
    assert run["ndcg@10"] == pytest.approx(best["ndcg@10"], abs=1e-6)
    told = run["interpolation"]
    assert told["measured"][0] == {  # the base itself, as before the first step
        "share": 0.0,
        "domain": pytest.approx(rows[0]["dev"]["words"], abs=1e-6),
        "general": pytest.approx(rows[0]["dev"]["other"], abs=1e-6),
    }
    assert told["measured"][-1]["domain"] == pytest.approx(best["dev"]["words"], abs=1e-6)
    learner = Classifier(trained, 0.0, 1e-3)
    found = measured(learner, learner.learnt, dev[:20], recipe.max_length, False)
    (taken,) = [one for one in told["measured"] if one["share"] == told["share"]]
    assert np.mean(found) == pytest.approx(taken["domain"], abs=1e-6)

    alone = Prepared(prepared.groups, dev[:20], prepared.lineage)
    with pytest.raises(ConfigError, match="both kinds a `dev`"):
        fit(recipe, alone, tmp_path / "alone", say=quiet, progress=quiet)
    fresh = tiny_checkpoint(tmp_path / "fresh", architectures=["BertModel"])
    with pytest.raises(ConfigError, match="needs a parent that ranks"):
        fit(recipe_for(fresh, **training), prepared, tmp_path / "none", say=quiet, progress=quiet)


def hands_down_what_it_says(parent: Path, lineage: dict[str, Any], prepared: Prepared, child: Path) -> None:
    """A model fitted to a few judgments keeps what its parent knows of probabilities and of the first stage."""
    few, recipe = Prepared(prepared.groups[:4], prepared.dev[:10], prepared.lineage), recipe_for(parent)
    recipe = msgspec.structs.replace(recipe, training=msgspec.structs.replace(recipe.training, learning_rate=1e-5))
    told = export(recipe, few, fit(recipe, few, child / "work", say=quiet, progress=quiet), child)["calibration"]
    assert told["inherited"]["from"] == parent.name
    assert told["inherited"]["scale"] == pytest.approx(1.0, abs=0.05)
    assert told["weight"] == pytest.approx(lineage["calibration"]["weight"], rel=0.05)
    kept = read_calibration(open_checkpoint(child))
    assert kept is not None
    assert kept.weight == pytest.approx(told["weight"], abs=1e-4)


def says_how_likely(out: Path, lineage: dict[str, Any], cache: Path) -> None:
    """The folder brings a calibration, fitted on a part of the dev queries and measured on the others."""
    told = lineage["calibration"]
    (row, _) = told["measured"]
    assert (row["where"], row["map"]) == ("in domain", "alone")
    assert told["fitted_on"]["queries"] + row["queries"] == 60
    assert f"| in domain | logit | {row['queries']} |" in (out / "README.md").read_text(encoding="utf-8")
    assert lineage["dev"][0]["fused"] >= lineage["dev"][0]["model"]  # its first stage knows the answer
    model = CrossEncoder(out, cache_dir=cache)
    group = word_groups(40, seed=9)[0]
    ranking = model.rerank(
        as_ranking(group.query, [{"text": text, "score": -i} for i, text in enumerate(group.passages)])
    )
    assert ranking.trace[-1].detail["fused"]["weight"] == pytest.approx(told["weight"], rel=1e-3)
    assert told["weight"] > 0
    assert ranking.hits[0].document.text == group.passages[0]
    assert ranking.hits[0].probability > 0.5 > ranking.hits[1].probability  # type: ignore[operator]


def opens_as_fast(out: Path, lineage: dict[str, Any], cache: Path) -> None:
    """The folder brings int8 scales, and a tolerance that was measured: half as much again, rounded up."""
    measured = lineage["golden"]["largest_deviation_of_fast"]
    fast = CrossEncoder(out, profile="fast", cache_dir=cache)
    assert fast.scorer.engine.precision == "int8"
    assert 0 < measured < 1.5 * measured <= fast.tolerance < 1.5 * measured + 0.01
    exact = CrossEncoder(out, profile="exact", cache_dir=cache)
    for group in word_groups(10):
        pairs = [(group.query, text) for text in group.passages]
        one, other = (model.predict(pairs, activation_fn=lambda x: x) for model in (fast, exact))
        np.testing.assert_allclose(one, other, atol=measured + 1e-6)  # they are among the pairs measured on


def test_the_scales_are_found_on_all_sets_alike_and_by_a_seed() -> None:
    groups = [
        Group(name, f"{name} {i}", ("a",)) for name, count in (("a", 50), ("b", 5), ("c", 30)) for i in range(count)
    ]
    drawn = _evenly(groups, 40, seed=1)
    assert Counter(group.set for group in drawn) == {"a": 18, "b": 5, "c": 17}
    assert len(set(drawn)) == 40
    assert drawn == _evenly(groups, 40, seed=1) != _evenly(groups, 40, seed=2)
    assert Counter(_evenly(groups, 300, seed=1)) == Counter(groups)  # fewer than asked for: all of them


def test_token_vectors_in_8_bits_give_nearly_the_same_scores(tmp_path: Path) -> None:
    base, prepared = tiny_checkpoint(tmp_path / "base"), prepared_words(24)
    split = Split(apart=1, exits=(1, 2), project=8, inner=8)
    recipe = msgspec.structs.replace(recipe_for(base), split=split)
    trained = fit(recipe, prepared, tmp_path / "work", say=quiet, progress=quiet, stop_after=2)
    folders = []
    for small in (False, True):
        folders.append(tmp_path / f"out-{small}")
        written = msgspec.structs.replace(recipe, split=msgspec.structs.replace(split, small_embeddings=small))
        export(written, prepared, trained, folders[-1])
    sizes = [(folder / "model.safetensors").stat().st_size for folder in folders]
    tensors = [open_checkpoint(folder).weights()["embeddings.word_embeddings.weight"] for folder in folders]
    assert sizes[0] - sizes[1] == pytest.approx(tensors[0].size - 4 * len(tensors[0]), abs=400)
    assert 0 < np.abs(tensors[0] - tensors[1]).max() <= np.abs(tensors[0]).max() / 127
    one, other = (CrossEncoder(folder, profile="exact", cache_dir=tmp_path / "cache") for folder in folders)
    pairs = [(group.query, text) for group in word_groups(10, seed=4) for text in group.passages]
    scores = [model.predict(pairs, activation_fn=lambda x: x) for model in (one, other)]
    np.testing.assert_allclose(scores[0], scores[1], atol=0.05)


def test_teacher_and_other_settings_reach_the_run(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base")
    prepared = prepared_words(8)
    taught = [with_teacher(group) for group in prepared.groups]
    recipe = recipe_for(base, teacher_weight=1.0, bce_weight=0.0, teacher_temperature=0.1, dropout=0.0)
    lines: list[str] = []
    trained = fit(
        recipe,
        Prepared(taught, [], prepared.lineage),
        tmp_path / "work",
        say=lines.append,
        progress=quiet,
        stop_after=1,
    )
    assert (trained / "model.safetensors").exists()


def with_teacher(group: Group) -> Group:
    """The same group with a teacher that likes the second passage best."""
    return Group(group.set, group.query, group.passages, (0.1, 0.9, 0.1, 0.1))
