"""A static model from pairs: the start, the fit, a killed run, and who can open the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from test_preparation import write_set

from secondpass.embedding import StaticEncoder, open_encoder
from secondpass.errors import ConfigError
from secondpass.training.recipe import Base, DataSet, Recipe, Static, read_recipe
from secondpass.training.static import initial_table, train_static
from secondpass.weights import SHIPPED
from tiny import tiny_checkpoint

THINGS = ["bank", "snake", "file", "list", "date", "string", "river", "document"]
# no word in common: only what was learned from the pairs can bring them together
NAMES = dict(zip(THINGS, ["qq", "ww", "zz", "xx", "vv", "kk", "jj", "yy"], strict=True))


def data(folder: Path) -> Path:
    rows: list[dict[str, Any]] = [
        {"query": f"{NAMES[one]} {NAMES[other]}", "positive": f"the {one} and the {other}"}
        for one in THINGS
        for other in THINGS
        if one != other
    ]
    return write_set(folder, rows, "things")


def recipe(base: Path, **static: Any) -> Recipe:
    chosen = {"dimensions": 16, "epochs": 30, "batch": 16, "learning_rate": 0.02} | static
    return Recipe(
        "tiny", Base(folder=str(base)), (DataSet("things", "CC0", sample=40, dev=12),), static=Static(**chosen)
    )


def test_the_start_is_a_principal_component_analysis_with_rare_tokens_louder() -> None:
    spread = np.linspace(3, 0.1, 24)
    vectors = (np.random.default_rng(1).standard_normal((200, 24)) * spread).astype(np.float32)
    counts = np.zeros(200, dtype=np.int64)
    table = initial_table(vectors, counts, Static(dimensions=8))
    _, _, directions = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    reference = (vectors - vectors.mean(axis=0)) @ directions[:8].T
    ratio = np.abs(table) / np.abs(reference)  # the sign of a direction is free, the scale common to all
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-2)
    assert np.linalg.norm(table, axis=1).mean() == pytest.approx(1.0, abs=1e-5)
    counts[7] = 1_000_000
    weighted = initial_table(vectors, counts, Static(dimensions=8))
    assert np.linalg.norm(weighted[7]) < 0.01 * np.linalg.norm(weighted[8])
    with pytest.raises(ConfigError, match="dimensions"):
        initial_table(vectors, counts, Static(dimensions=25))


def test_the_shipped_recipe_reads_and_names_a_licence_for_every_set() -> None:
    shipped = read_recipe(SHIPPED["secondpass-static"] / "recipe.toml")
    assert shipped.static is not None
    assert all(one.licence for one in shipped.sets)
    assert not {"cosqa-dev", "checkthat20-train"} & {one.name for one in shipped.sets}  # not to be redistributed


@pytest.mark.slow
def test_it_learns_what_words_alone_do_not_say_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    for module in ("torch", "transformers", "sentence_transformers"):
        pytest.importorskip(module, reason="needs the extra train")
    base = tiny_checkpoint(tmp_path / "base")
    data(tmp_path / "data")
    chosen = recipe(base)
    said: list[str] = []

    def train(name: str, stop: type[BaseException] | None = None) -> dict[str, Any]:
        def progress(what: str, done: int, total: int) -> None:
            if stop is not None and what == "fit" and done > total // 2:
                raise stop

        out, work = tmp_path / name, tmp_path / f"{name}.work"
        return train_static(chosen, tmp_path / "data", work, out, say=said.append, progress=progress)

    whole = train("whole")
    (row,) = whole["dev"]
    assert row["fitted"]["ndcg@10"] > row["distilled"]["ndcg@10"] + 0.2
    with pytest.raises(KeyboardInterrupt):
        train("cut", stop=KeyboardInterrupt)
    assert train("cut")["digest"] == whole["digest"]
    assert any("going on after step" in line for line in said)

    encoder = open_encoder(tmp_path / "whole")
    assert isinstance(encoder, StaticEncoder)
    library = pytest.importorskip("sentence_transformers")
    texts = ["qq ww", "the bank and the snake", "sort a list"]
    other = library.SentenceTransformer(str(tmp_path / "whole"), device="cpu").encode(texts)
    np.testing.assert_allclose(encoder.encode(texts), other, atol=2e-3)  # they sum in fp16


def test_a_recipe_without_the_table_is_refused(tmp_path: Path) -> None:
    plain = msgspec.structs.replace(recipe(tmp_path), static=None)
    with pytest.raises(ConfigError, match=r"\[static\]"):
        train_static(plain, tmp_path, tmp_path, tmp_path / "out", say=print, progress=lambda *_: None)
