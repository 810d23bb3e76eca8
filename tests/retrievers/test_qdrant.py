"""Qdrant as a first stage, in its client's local mode: the promises of every engine, and its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_promises import BIRDS, Counting, check_engine, check_hostile_queries, documented

from relay import Relay
from secondpass.embedding import open_encoder
from secondpass.errors import IndexFolderError, InputError, RetrieverError
from secondpass.retrievers.filling import Filled
from secondpass.retrievers.qdrant import Qdrant
from secondpass.types import Document

qdrant = pytest.importorskip("qdrant_client", reason="needs the extra 'qdrant' (qdrant-client)")
ENCODER = open_encoder()


@pytest.fixture
def client() -> Iterator[Any]:
    client = qdrant.QdrantClient(":memory:")
    yield client
    client.close()


@pytest.fixture
def make(client: Any) -> Callable[[], Qdrant]:
    numbers = itertools.count()
    return lambda: Qdrant(client=client, encoder=ENCODER, collection=f"c{next(numbers)}")


def test_the_promises_of_every_engine(make: Callable[[], Qdrant]) -> None:
    check_engine(make)


def test_hostile_queries(make: Callable[[], Qdrant]) -> None:
    check_hostile_queries(make())


def test_scores_are_cosines(make: Callable[[], Qdrant]) -> None:
    engine = make()
    engine.fill(BIRDS)
    texts = [f"{bird.title} {bird.text}" for bird in BIRDS]
    cosines = ENCODER.encode(texts) @ ENCODER.encode(["who sings in the moss"], query=True)[0]
    found = engine.retrieve("who sings in the moss", 4)
    assert found.ids == tuple(BIRDS[n].id for n in sorted(range(4), key=lambda n: -cosines[n]))
    for hit in found.hits:
        assert hit.score == pytest.approx(cosines[[bird.id for bird in BIRDS].index(hit.document.id)], abs=1e-5)


def test_a_folder_is_there_for_the_next_process_too(tmp_path: Path) -> None:
    encoder = Counting()
    one = Qdrant(path=str(tmp_path / "birds"), encoder=encoder)
    one.fill(BIRDS[:2])
    one.close()
    other = Qdrant(path=str(tmp_path / "birds"), encoder=encoder)
    assert other.fill(BIRDS) == Filled(added=2, unchanged=2)
    assert len(encoder.encoded) == 4  # none of them twice
    assert other.retrieve("moss", 1).ids == ("wren",)
    other.close()


def test_over_collections_that_people_have(client: Any) -> None:
    models, encoder = qdrant.models, Counting()
    texts = ["the wing", "a nest", "the hive"]
    rows = encoder.encode(texts).tolist()
    for distance in ("COSINE", "DOT", "EUCLID", "MANHATTAN"):
        space = models.VectorParams(size=8, distance=models.Distance[distance])
        client.create_collection(distance, vectors_config={"body": space, "other": space})
        points = [
            models.PointStruct(id=n, vector={"body": row}, payload={"body": text, "more": {"year": 1990 + n}})
            for n, (row, text) in enumerate(zip(rows, texts, strict=True))
        ]
        client.upsert(distance, [*points, models.PointStruct(id=9, vector={}, payload={})])
        names: dict[str, Any] = {"id": None, "title": None, "text": "body", "vector": "body"}
        mine = Qdrant(client=client, encoder=encoder, collection=distance, metadata=["more.year", "nosuch"], **names)
        found = mine.retrieve("nests", 9)
        assert found.hits[0].document == Document("1", "a nest", "", {"more.year": 1991, "nosuch": None})
        scores = [hit.score for hit in found.hits]
        assert len(scores) == 3
        assert scores == sorted(scores, reverse=True, key=lambda score: score or 0.0)
        with pytest.raises(InputError, match="not made here"):
            mine.fill(BIRDS)
        with pytest.raises(InputError, match="has vectors body, other; name one"):
            Qdrant(client=client, encoder=encoder, collection=distance).retrieve("nest", 1)
    with pytest.raises(RetrieverError, match="does not do"):
        Qdrant(client=client, encoder=ENCODER, collection="DOT", **names).retrieve("nest", 1)


def test_vectors_of_another_encoder_are_refused(client: Any) -> None:
    Qdrant(client=client, encoder=Counting()).fill(BIRDS)
    other = Qdrant(client=client, encoder=Counting(digest="d" * 32))
    with pytest.raises(IndexFolderError, match="not by 'counting'"):
        other.fill(BIRDS)
    with pytest.raises(IndexFolderError, match="open it with that encoder"):
        other.retrieve("nest", 3)


def test_what_is_wrong_is_said(client: Any) -> None:
    with pytest.raises(RetrieverError, match="nosuch not found") as refused:
        Qdrant(client=client, encoder=ENCODER, collection="nosuch").retrieve("q", 1)
    assert refused.value.kind == "refused"
    bad: list[dict[str, Any]] = [{}, {"url": "http://x", "path": "y"}, {"url": "http://x", "timeout_s": 0}]
    bad += [{"url": "secret"}, {"url": "http://"}, {"url": "http://a:secret@b:port"}]
    for options in bad:
        with pytest.raises(InputError) as wrong:
            Qdrant(encoder=ENCODER, **options)
        assert "secret" not in str(wrong.value)


def test_a_server_that_is_not_there_or_does_not_answer() -> None:
    silent = Relay(("127.0.0.1", 1))  # takes connections, and drops them
    with pytest.warns(UserWarning, match="insecure connection"):
        engine = Qdrant(f"http://me:secret@127.0.0.1:{silent.port}", encoder=ENCODER, api_key="very secret")
    with pytest.raises(RetrieverError, match="is not reached") as lost:
        engine.retrieve("nest", 1)
    assert (lost.value.kind, "secret" in str(lost.value) + repr(engine)) == ("connection", False)
    silent.close()
    hanging = Relay(("127.0.0.1", silent.port))
    hanging.hold()
    engine = Qdrant(f"http://127.0.0.1:{hanging.port}", encoder=ENCODER, timeout_s=0.5)
    with pytest.raises(RetrieverError, match="no answer within 1 s") as late:
        engine.retrieve("nest", 1)
    assert late.value.kind == "timeout"
    hanging.close()


def test_the_documented_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(documented("qdrant"), names)
    assert capsys.readouterr().out == "swift\nswift\n"
    names["birds"].close()
