"""The split encoder in torch: the same scores as the engines', starting where its base is, learning, resuming."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secondpass.errors import ConfigError
from secondpass.scoring.checkpoint import open_checkpoint
from secondpass.scoring.pair_scorer import open_scorer
from secondpass.scoring.probability import fit_order
from secondpass.training.data import Group
from secondpass.training.export import export, sum_heads
from secondpass.training.recipe import Base, DataSet, Recipe, Split, Training
from secondpass.training.train import Prepared, fit
from tiny import tiny_checkpoint, tiny_split
from word_groups import quiet, word_groups

torch = pytest.importorskip("torch", reason="needs the extra 'train' (torch)")

from secondpass.training.split import SplitEncoder, SplitLearner, logits_of, open_split  # noqa: E402 - needs torch

TEXTS = ["the river bank", "sort a list", "date of the file", "snake " * 9]


def recipe_for(base: Path, **settings: Any) -> Recipe:
    split = Split(apart=1, exits=(1, 3), project=8, inner=8, head_rate=3e-3)
    few = {"learning_rate": 2e-3, "groups_per_batch": 4, "bf16": False, "lengths": (32,), "save_every": 10}
    training = Training(**{**few, **settings})
    return Recipe(
        "tiny", Base(folder=str(base)), (DataSet("words", "CC0", 1),), training=training, split=split, max_length=64
    )


def prepared_words(count: int, seed: int = 0) -> Prepared:
    groups = word_groups(count, seed)
    return Prepared(groups, [], {"sets": [], "base": {"history": ""}})


def scores_of(model: SplitEncoder, folder: Path, query: str, texts: Sequence[str], layer: int) -> list[float]:
    checkpoint = open_checkpoint(folder)
    (start,), (end,) = checkpoint.frame.before, checkpoint.frame.between

    def ids(text: str) -> list[int]:
        return [start, *checkpoint.tokenizer.encode(text, add_special_tokens=False).ids, end]

    with torch.no_grad():
        logits = logits_of(model, [ids(query)], [ids(text) for text in texts], [0] * len(texts))
    return logits[layer].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("summed", [False, True])
def test_torch_and_the_engines_give_the_same_scores(tmp_path: Path, summed: bool) -> None:
    folder = tiny_split(tmp_path / "m", seed=2, summed=summed)
    values = open_scorer(open_checkpoint(folder), profile="exact", threads=1).score("river list", TEXTS).values
    assert scores_of(open_split(folder), folder, "river list", TEXTS, 3) == pytest.approx(values, abs=1e-4)


def test_it_starts_as_its_base(tmp_path: Path) -> None:
    """After no step at all the scores are the base's cosine, to the little that its gates are open."""
    base = tiny_checkpoint(tmp_path / "base", layers=3)
    folder = fit(
        recipe_for(base, learning_rate=1e-9),
        prepared_words(4),
        tmp_path / "work",
        say=quiet,
        progress=quiet,
        stop_after=1,
    )
    model = open_split(folder)
    checkpoint = open_checkpoint(folder)
    (start,), (end,) = checkpoint.frame.before, checkpoint.frame.between

    def vector(text: str) -> Any:
        ids = torch.tensor([[start, *checkpoint.tokenizer.encode(text, add_special_tokens=False).ids, end]])
        with torch.no_grad():
            model.begin()
            mean = model.read(ids, torch.ones_like(ids), layers=3)[0].mean(0)
        return mean / mean.norm()

    cosines = [float(vector("river list") @ vector(text)) for text in TEXTS]
    scores = scores_of(model, folder, "river list", TEXTS, 3)
    assert scores == pytest.approx([20 * cosine - 9 for cosine in cosines], abs=0.1)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", layers=3)
    prepared, recipe = prepared_words(160), recipe_for(base)
    whole = fit(recipe, prepared, tmp_path / "whole", say=quiet, progress=quiet)

    def stop(_: str, done: int, total: int) -> None:
        if done == 13:  # as a kill would, after what step 10 left
            raise KeyboardInterrupt

    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, prepared, tmp_path / "killed", say=said.append, progress=stop)
    again = fit(recipe, prepared, tmp_path / "killed", say=said.append, progress=quiet)
    assert "going on from step 10" in said
    one, other = (open_split(folder).tensors for folder in (whole, again))
    for name, tensor in one.items():
        np.testing.assert_allclose(tensor.numpy(), other[name].numpy(), atol=1e-6, err_msg=name)

    held_out = word_groups(40, seed=9)
    scorer = open_scorer(open_checkpoint(again), profile="exact", threads=1)
    right = [int(np.argmax(np.array(scorer.score(g.query, g.passages).values, dtype=float))) == 0 for g in held_out]
    assert np.mean(right) > 0.8
    first = [int(np.argmax(scores_of(open_split(again), again, g.query, g.passages, 1))) == 0 for g in held_out]
    assert np.mean(first) > 0.8  # the lower head has learnt it too
    frozen = tiny_checkpoint(tmp_path / "untouched", layers=3)
    assert (
        open_checkpoint(frozen).weights()["embeddings.word_embeddings.weight"]
        == one["embeddings.word_embeddings.weight"].numpy()
    ).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_what_is_exported_opens_in_every_profile(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", layers=3)
    prepared = prepared_words(40)
    prepared = Prepared(prepared.groups, prepared.groups[:10], {"sets": [], "base": {"history": ""}})
    recipe = recipe_for(base)
    trained = fit(recipe, prepared, tmp_path / "work", say=quiet, progress=quiet)
    lineage = export(recipe, prepared, trained, tmp_path / "out")
    checkpoint = open_checkpoint(tmp_path / "out")
    assert lineage["digest"] == checkpoint.digest
    assert lineage["split"]["apart"] == checkpoint.encoder.apart == 1
    assert len(checkpoint.golden) > 5
    assert checkpoint.max_length == 64
    group = word_groups(1, seed=5)[0]
    exact = open_scorer(checkpoint, profile="exact", threads=1).score(group.query, group.passages).values
    for profile in ("default", "fast"):
        scorer = open_scorer(checkpoint, profile=profile, threads=1)  # which checks the golden pairs
        assert scorer.score(group.query, group.passages).values == pytest.approx(exact, abs=scorer.tolerance)
    assert scorer.engine.precision == "int8"


def test_a_split_encoder_can_be_trained_further(tmp_path: Path) -> None:
    base = tiny_split(tmp_path / "base")
    recipe = recipe_for(base)
    recipe = Recipe(recipe.name, recipe.base, recipe.sets, training=recipe.training, max_length=64)
    folder = fit(recipe, prepared_words(8), tmp_path / "work", say=quiet, progress=quiet, stop_after=1)
    config = json.loads((folder / "config.json").read_text())
    assert (config["apart"], config["exits"]) == (1, [1, 2, 3])
    before, after = (open_checkpoint(one) for one in (base, folder))
    assert before.digest != after.digest


def test_the_first_layers_of_a_split_encoder_can_be_had_alone(tmp_path: Path) -> None:
    """Two layers of three, one of which reads both sides: heads that fit stay, and so far nothing else has changed."""
    base = tiny_split(tmp_path / "base", apart=2)  # heads after layers 2 and 3
    split = Split(apart=1, exits=(2,), layers=2)
    recipe = Recipe("tiny", Base(folder=str(base)), (DataSet("words", "CC0", 1),), split=split)
    tensors, cut = SplitLearner(base, recipe)._model.tensors, open_split(base).tensors
    assert {name.split(".")[1] for name in tensors if name.startswith("heads.")} == {"2"}
    assert not [name for name in tensors if name.startswith("encoder.layer.2.")]
    gates = tensors["encoder.layer.1.gate"].detach()
    assert float(gates.max()) < 0.01
    for name, tensor in tensors.items():
        if not name.endswith(".gate"):
            assert torch.equal(tensor.detach(), cut[name]), name
    folder = fit(recipe, prepared_words(8), tmp_path / "work", say=quiet, progress=quiet, stop_after=1)
    assert open_checkpoint(folder).encoder.layers == 2


def lists_of(folder: Path, groups: Sequence[Group]) -> list[tuple[Any, Any]]:
    scorer = open_scorer(open_checkpoint(folder), profile="exact", threads=1)
    return [
        (
            np.array([scorer.score(g.query, g.passages).values, scorer.lower_logits(g.query, g.passages)], float).T,
            np.array([1.0, 0.0, 0.0, 0.0]),
        )
        for g in groups
    ]


def test_the_lower_head_is_summed_with_the_last_one_as_far_as_it_helps(tmp_path: Path) -> None:
    folder = tiny_split(tmp_path / "model", seed=3)
    groups = word_groups(30)
    before = lists_of(folder, groups)
    last, lower = fit_order(before)
    weight = sum_heads(folder, groups)
    assert (weight is None) == (lower <= 0)
    after = lists_of(folder, groups)
    expected = 0.0 if weight is None else lower / last
    assert weight is None or weight == pytest.approx(lower / last, rel=0.05)  # found in the profile that users get
    for (one, _), (other, _) in zip(before, after, strict=True):
        np.testing.assert_allclose(other[:, 0], one[:, 0] + expected * one[:, 1], atol=0.1)
    assert sum_heads(folder, groups[:5]) is None  # too few to say


@pytest.mark.parametrize(
    "split", [Split(apart=3, exits=(3,)), Split(apart=1, exits=(2,)), Split(apart=2, exits=(1, 3))]
)
def test_a_split_that_the_base_cannot_have_is_refused(tmp_path: Path, split: Split) -> None:
    base = tiny_checkpoint(tmp_path / "base", layers=3)
    recipe = Recipe("tiny", Base(folder=str(base)), (DataSet("words", "CC0", 1),), split=split)
    with pytest.raises(ConfigError, match="3 layers"):
        fit(recipe, prepared_words(8), tmp_path / "work", say=quiet, progress=quiet)
