"""Elasticsearch and OpenSearch as first stages: the real clients, against a server that speaks what is documented."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from engine_promises import BIRDS, Counting, check_engine, check_hostile_queries, documented

from relay import Relay
from search_server import SearchServer
from secondpass.embedding import open_encoder
from secondpass.errors import IndexFolderError, InputError, RetrieverError
from secondpass.fusion import reciprocal_rank
from secondpass.retrievers.filling import Filled
from secondpass.retrievers.lucene import Elasticsearch, OpenSearch
from secondpass.types import Document

ENCODER = open_encoder()
KINDS = {"elasticsearch": (Elasticsearch, "elasticsearch"), "opensearch": (OpenSearch, "opensearchpy")}
Make = Callable[..., Any]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(KINDS[request.param][1], reason=f"needs the extra {request.param!r}")
    return str(request.param)


@pytest.fixture
def server(kind: str) -> Iterator[SearchServer]:
    server = SearchServer(kind)
    yield server
    server.close()


@pytest.fixture
def make(kind: str, server: SearchServer) -> Iterator[Make]:
    """Retrievers with an index of their own each, closed at the end."""
    made: list[Any] = []
    numbers = itertools.count()

    def one(**options: Any) -> Any:
        made.append(KINDS[kind][0](**{"url": server.url, "index": f"i{next(numbers)}", **options}))
        return made[-1]

    yield one
    for retriever in made:
        retriever.close()


@pytest.mark.parametrize("mode", ["words", "vectors", "hybrid"])
def test_the_promises_of_every_engine(make: Make, mode: str) -> None:
    check_engine(lambda: make(encoder=ENCODER, mode=mode), longest=100_000)  # each answer would have megabytes
    check_hostile_queries(make(encoder=ENCODER, mode=mode), examples=15)


def test_hybrid_is_the_fusion_of_the_two_rankings_in_one_request(make: Make, server: SearchServer) -> None:
    how: dict[str, Any] = {"encoder": Counting(), "index": "birds"}
    make(**how).fill(BIRDS)
    both = make(**how, weights=[1, 2.5], rrf_k=7, depth=3)
    parts = [make(**how, mode=mode) for mode in ("words", "vectors")]
    for query in ("a nest in the sea", "the wing", "moss", "xyz"):
        expected = reciprocal_rank([part.retrieve(query, 3) for part in parts], weights=[1, 2.5], k=7).top(2)
        both.retrieve(query, 2)
        before = len(server.requests)
        found = both.retrieve(query, 2)
        assert len(server.requests) == before + 1
        assert [(hit.document, hit.score) for hit in found.hits] == [(hit.document, hit.score) for hit in expected.hits]
        assert all(hit.document.text for hit in found.hits)


def test_over_indexes_that_people_have(make: Make, server: SearchServer, kind: str) -> None:
    encoder = Counting()
    field = "dims" if kind == "elasticsearch" else "dimension"
    vector = {"type": "dense_vector" if kind == "elasticsearch" else "knn_vector", field: 8}
    texts = ["the wing", "a nest", "the hive"]
    rows = encoder.encode(texts).tolist()
    kept = {str(n): {"body": text, "meta": {"year": 1990 + n}, "v": rows[n]} for n, text in enumerate(texts)} | {
        "9": {}
    }
    mappings = {"properties": {"v": vector, "body": {"type": "text"}}}
    server.indexes["mine"] = {"mappings": mappings, "documents": kept, "found": kept}
    for mode in ("words", "vectors", "hybrid"):
        mine = make(
            index="mine", encoder=encoder, mode=mode, title=None, text="body", vector="v", metadata=["meta.year"]
        )
        (hit,) = mine.retrieve("nest", 1).hits
        assert hit.document == Document("1", "a nest", "", {"meta.year": 1991})
        with pytest.raises(InputError, match="not made here"):
            mine.fill(BIRDS)
    other = make(index="mine", encoder=ENCODER, title=None, text="body", vector="v")
    with pytest.raises(RetrieverError, match=r"different dimension \[256\]"):
        other.retrieve("nest", 1)


def test_vectors_of_another_encoder_are_refused(make: Make) -> None:
    make(index="birds", encoder=Counting()).fill(BIRDS)
    other = make(index="birds", encoder=Counting(digest="d" * 32))
    with pytest.raises(IndexFolderError, match="not by 'counting'"):
        other.fill(BIRDS)
    with pytest.raises(IndexFolderError, match="open it with that encoder"):
        other.retrieve("nest", 3)
    words = make(index="birds")
    with pytest.raises(InputError, match="fill it with the encoder 'counting'"):
        words.fill(BIRDS)
    assert words.retrieve("moss", 3).ids == ("wren",)
    make(index="words").fill(BIRDS)
    with pytest.raises(InputError, match="made without an encoder"):
        make(index="words", encoder=Counting()).retrieve("nest", 3)


def test_what_is_there_is_not_encoded_again(make: Make) -> None:
    encoder = Counting()
    engine = make(encoder=encoder)
    engine.fill(BIRDS[:3])
    assert engine.fill(BIRDS) == Filled(added=1, unchanged=3)
    assert len(encoder.encoded) == 4


def test_a_megabyte(make: Make) -> None:
    engine = make(encoder=ENCODER)
    huge = Document("huge", "bees and hives " * 70_000)
    engine.fill([huge, *BIRDS])
    assert engine.retrieve("hives", 1).documents == (huge,)


def test_an_answer_of_a_part_is_none(make: Make, server: SearchServer) -> None:
    engine = make()
    engine.fill(BIRDS)
    server.fault = {"timed_out": True}
    with pytest.raises(RetrieverError, match="no answer within 5 s") as late:
        engine.retrieve("moss", 3)
    assert late.value.kind == "timeout"
    server.fault = {"_shards": {"total": 5, "successful": 3, "failed": 2}}
    with pytest.raises(RetrieverError, match="2 of 5 shards failed"):
        engine.retrieve("moss", 3)
    server.fault = {"error": {"type": "too_many_nested_clauses", "reason": "maxClauseCount is set to 1024"}}
    with pytest.raises(RetrieverError, match="too_many_nested_clauses: maxClauseCount"):
        engine.retrieve("moss", 3)


def test_a_lost_connection_is_replaced_once(make: Make, server: SearchServer) -> None:
    engine = make(timeout_s=30)
    engine.fill(BIRDS)
    engine.retrieve("moss", 3)
    server.stumble = 1
    assert engine.retrieve("moss", 3).ids == ("wren",)
    server.stumble = 9
    with pytest.raises(RetrieverError, match="is not reached") as lost:
        engine.retrieve("moss", 3)
    assert lost.value.kind == "connection"
    assert server.stumble == 7


def test_time_is_up(make: Make, server: SearchServer, kind: str) -> None:
    make(index="birds").fill(BIRDS)
    engine = make(index="birds", timeout_s=0.05)
    engine.retrieve("moss", 3)
    server.delay = 0.5
    with pytest.raises(RetrieverError, match=r"no answer within 0\.05 s") as late:
        engine.retrieve("moss", 3)
    assert late.value.kind == "timeout"
    relay = Relay(("127.0.0.1", 1))
    relay.hold()
    with pytest.raises(RetrieverError, match="no answer within"):
        make(url=f"http://127.0.0.1:{relay.port}", timeout_s=0.05).retrieve("moss", 3)
    relay.close()


def test_secrets_are_sent_and_not_shown(make: Make, server: SearchServer, kind: str) -> None:
    engine = make(user="me", password="secret words")
    engine.fill(BIRDS)
    assert server.headers[-1]["authorization"].startswith("Basic ")
    if kind == "elasticsearch":
        make(api_key="c2VjcmV0").fill(BIRDS)
        assert server.headers[-1]["authorization"] == "ApiKey c2VjcmV0"
    server.indexes.clear()
    with pytest.raises(RetrieverError, match="no such index") as refused:
        engine.retrieve("moss", 3)
    server.close()
    with pytest.raises(RetrieverError) as lost:
        engine.retrieve("moss", 3)
    assert "secret" not in str(refused.value) + str(lost.value) + repr(engine)


def test_what_is_wrong_is_said(make: Make) -> None:
    bad: list[dict[str, Any]] = [
        {"mode": "vectors"},
        {"mode": "both"},
        {"depth": 0},
        {"weights": [0, 0]},
        {"weights": [1]},
    ]
    bad += [
        {"timeout_s": 0},
        {"rrf_k": -1},
        {"url": None},
        {"url": "secret"},
        {"user": "me"},
        {"nosuch": 1},
        {"client": 1},
    ]
    for options in bad:
        with pytest.raises(InputError) as wrong:
            make(**options)
        assert "secret" not in str(wrong.value)
    with pytest.raises(InputError, match="512 bytes"):
        make().fill([Document("x" * 513, "text")])
    with pytest.raises(RetrieverError, match="Invalid index name"):
        make(index="Not Possible").fill(BIRDS)


def test_the_documented_code_runs(
    make: Make, server: SearchServer, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    exec(documented(kind).replace("http://localhost:9200", server.url), names)
    assert capsys.readouterr().out == "swift\n"
    names["birds"].close()
