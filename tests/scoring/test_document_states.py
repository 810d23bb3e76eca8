"""Documents whose lower layers are kept: the same scores, nothing read twice, bounded memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from secondpass.errors import InputError, ModelError
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.batching import Batch
from secondpass.scoring.document_states import DocumentStates, most_tokens
from secondpass.types import Document, Status, as_ranking
from tiny import tiny_checkpoint, tiny_split

ROOM = 50_000_000
HIDDEN = 3
WORDS = ["list", "file", "date", "string", "document", "river", "bank", "snake", "python", "language"]


def texts(count: int, longest: int = 40, seed: int = 0) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, draw.integers(1, longest))) for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_split(tmp_path_factory.mktemp("split"), layers=3, apart=2)


def opened(folder: Path, cache: Path, **options: Any) -> CrossEncoder:
    return CrossEncoder(folder, threads=2, cache_dir=cache, **{"profile": "exact", **options})


def kept(encoder: CrossEncoder, query: str, some: list[str], **options: Any) -> int:
    found: int = encoder.scorer.score(query, some, **options).trace.detail["documents_kept"]
    return found


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("profile", ["exact", "default"])
def test_scores_are_those_of_documents_read_anew(folder: Path, cache: Path, engine: str, profile: str) -> None:
    fresh = opened(folder, cache, engine=engine, profile=profile)
    keeps = opened(folder, cache, engine=engine, profile=profile, keep_documents=ROOM)
    some = texts(60)
    for query in ("sort list", "river bank snake", "date"):
        expected = fresh.scorer.score(query, some).values
        for _ in range(2):
            assert keeps.scorer.score(query, some).values == pytest.approx(expected, abs=2 * fresh.tolerance)
        stops = keeps.scorer.score(query, some, go_on=0.4).values
        assert stops == pytest.approx(fresh.scorer.score(query, some, go_on=0.4).values, abs=2 * fresh.tolerance)


def test_no_document_is_read_twice_whatever_is_asked(folder: Path, cache: Path) -> None:
    encoder, some = opened(folder, cache, keep_documents=ROOM), list(dict.fromkeys(texts(50)))
    assert kept(encoder, "sort list", some) == 0
    assert kept(encoder, "a quite different query", some) == len(some)
    assert kept(encoder, "river", [*some[:10], "snake snake river"], go_on=0.5) == 10
    assert "documents_kept" not in opened(folder, cache).scorer.score("sort", some).trace.detail


def test_documents_are_read_before_any_query(folder: Path, cache: Path) -> None:
    encoder, some = opened(folder, cache, keep_documents=ROOM), list(dict.fromkeys(texts(40, seed=1)))
    encoder.read([*some[:20], *(Document(str(i), text) for i, text in enumerate(some[20:]))])
    encoder.read([])
    encoder.read([" "])  # nothing to read
    assert kept(encoder, "sort list", some) == len(some)
    ranked = encoder.rerank(as_ranking("sort list", some))
    assert ranked.trace[-1].detail["documents_kept"] == len(some)
    with pytest.raises(ModelError, match="keep_documents="):
        opened(folder, cache).read(some)


def test_a_long_document_is_the_same_to_short_queries(folder: Path, cache: Path) -> None:
    encoder, long = opened(folder, cache, keep_documents=ROOM, max_length=96), [" ".join(WORDS * 30)]
    scored = encoder.scorer.score("sort", long)
    assert (scored.trace.truncated, kept(encoder, "sort list", long), kept(encoder, "a river of snakes", long)) == (
        1,
        1,
        1,
    )
    assert kept(encoder, "list " * 50, long) == 0  # leaves it less room
    assert encoder.scorer.score("list " * 50, long).statuses == (Status.SCORED,)
    (whole,) = opened(folder, cache, max_length=96).scorer.score("sort", long).spans
    (span,) = scored.spans
    assert whole is not None
    assert span is not None
    assert span[1] < whole[1]  # it is told what was read
    for length in (16, 40, 64, 256, 512):
        assert length // 2 <= most_tokens(length) <= length
    assert most_tokens(256) == 224


def test_memory_is_bounded_and_what_was_used_longest_ago_goes(folder: Path, cache: Path) -> None:
    encoder, some = opened(folder, cache, keep_documents=1_000_000), list(dict.fromkeys(texts(400, 80)))
    for i in range(0, len(some), 20):
        encoder.scorer.score("sort", some[i : i + 20])
    assert 0 < kept(encoder, "river", some[-20:]) <= 20
    assert kept(encoder, "river", some[:20]) == 0
    states = DocumentStates(1_000_000, np.float16)
    for seed in range(40):
        batch = batch_of(np.random.default_rng(seed).integers(1, 900, (4, 50)).tolist())
        assert states.of(batch, lambda ids, mask: np.ones((*ids.shape, 500), np.float32)).shape == (4, 56, 500)
        assert states.used_bytes <= 1_000_000


def test_what_was_kept_teaches_the_cost_model_nothing(folder: Path, cache: Path) -> None:
    encoder, some = opened(folder, cache, keep_documents=ROOM), list(dict.fromkeys(texts(50)))
    encoder.scorer.score("sort", some)
    before = encoder.scorer.cost.coefficients
    encoder.scorer.score("river", some)
    assert encoder.scorer.cost.coefficients == before


def test_many_threads_get_the_scores_of_one(folder: Path, cache: Path) -> None:
    fresh, keeps = opened(folder, cache), opened(folder, cache, keep_documents=1_000_000)
    queries = [f"sort {word}" for word in WORDS]
    some = texts(60, 60)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda query: keeps.scorer.score(query, some).values, queries * 3))
    for query, values in zip(queries * 3, found, strict=True):
        assert values == pytest.approx(fresh.scorer.score(query, some).values, abs=1e-4)


def test_where_nothing_can_be_kept_it_is_said(folder: Path, tmp_path: Path, cache: Path) -> None:
    whole = tiny_checkpoint(tmp_path / "whole")
    with pytest.raises(ModelError, match="query and document together"):
        opened(whole, cache, keep_documents=ROOM)
    with pytest.raises(ModelError, match="CPU's engines"):
        opened(folder, cache, keep_documents=ROOM, engine="torch")
    with pytest.raises(InputError, match="windows"):
        opened(folder, cache, keep_documents=ROOM, windows=3)
    for number in (5, -1, 1.5e9, True):
        with pytest.raises(InputError, match="keep_documents is"):
            opened(folder, cache, keep_documents=number)


def batch_of(rows: list[list[int]]) -> Batch:
    width = -(-max(map(len, rows)) // 8) * 8
    ids = np.array([[*row, *[0] * (width - len(row))] for row in rows], np.int64)
    mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows], np.int64)
    return Batch(tuple(range(len(rows))), ids, mask, np.zeros_like(ids))


@given(st.lists(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=12), min_size=1, max_size=5), max_size=8))
def test_any_batches_come_out_as_if_read_whole(batches: list[list[list[int]]]) -> None:
    states, seen = DocumentStates(1_000_000, np.float32), set[tuple[int, ...]]()
    asked: list[tuple[int, ...]] = []

    def read(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        asked.extend(tuple(row[: int(real.sum())].tolist()) for row, real in zip(ids, mask, strict=True))
        return whole(ids)

    for rows in batches:
        batch, asked[:] = batch_of(rows), []
        known = states.known(batch)
        assert known == sum(tuple(row) in seen for row in rows)
        out = states.of(batch, read)
        np.testing.assert_array_equal(out, whole(batch.ids) * batch.mask[:, :, None])
        assert set(asked) == {tuple(row) for row in rows} - seen
        assert len(asked) == len(set(asked))
        seen |= {tuple(row) for row in rows}


def whole(ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """As layers that see one row alone would: another number at each place, that the row's other tokens decide too."""
    total = (ids * (1 + np.arange(ids.shape[1]))).sum(axis=1)[:, None, None]
    return np.asarray(ids[:, :, None] * 10 + total + np.arange(HIDDEN), np.float32)
