"""PostgreSQL as a first stage, on real servers: Debian's (words), and one with pgvector (words, vectors, hybrid)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from engine_promises import BIRDS, Counting, Engine, check_engine, check_hostile_queries, documented
from hypothesis import given, settings
from hypothesis import strategies as st

from postgres_server import Postgres as Server
from postgres_server import programs, programs_with_vectors, running
from relay import Relay
from secondpass.embedding import open_encoder
from secondpass.errors import IndexFolderError, InputError, RetrieverError
from secondpass.fusion import reciprocal_rank
from secondpass.retrievers.filling import Filled
from secondpass.retrievers.postgres import Mode, Postgres
from secondpass.types import Document

psycopg = pytest.importorskip("psycopg", reason="needs the extra 'postgres' (psycopg)")
ENCODER = open_encoder()
WORDS = ["red", "green", "blue", "fox", "hen", "dog", "sky", "sea"]


@pytest.fixture(scope="module")
def debian() -> Iterator[Server]:
    yield from running(programs(), "a PostgreSQL server: initdb and postgres (apt-get install postgresql)")


@pytest.fixture(scope="module")
def pgvector() -> Iterator[Server]:
    yield from running(programs_with_vectors(), "a PostgreSQL server with pgvector (pip install pgserver)")


@pytest.fixture
def dsn(pgvector: Server) -> str:
    """A database with nothing in it."""
    return pgvector.database()


@pytest.fixture
def make(dsn: str) -> Iterator[Callable[..., Postgres]]:
    """Retrievers with a table of their own each, closed at the end."""
    made: list[Postgres] = []
    numbers = itertools.count()

    def one(**options: Any) -> Postgres:
        made.append(Postgres(dsn, **{"table": f"t{next(numbers)}", **options}))
        return made[-1]

    yield one
    for retriever in made:
        retriever.close()


def execute(dsn: str, *statements: str) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_the_promises_of_every_engine_by_words_on_debians_server(debian: Server) -> None:
    dsn, numbers = debian.database(), itertools.count()
    made: list[Engine] = []

    def make() -> Engine:
        made.append(Postgres(dsn, table=f"t{next(numbers)}"))
        return made[-1]

    check_engine(make)
    check_hostile_queries(make())


@pytest.mark.parametrize("mode", ["words", "vectors", "hybrid"])
def test_the_promises_of_every_engine(make: Callable[..., Postgres], mode: Mode) -> None:
    check_engine(lambda: make(encoder=ENCODER, mode=mode))
    check_hostile_queries(make(encoder=ENCODER, mode=mode))


def test_hostile_names(dsn: str) -> None:
    names = {
        "table": 't"; DROP TABLE x; --',
        "id": "select",
        "title": "a b",
        "text": "it's {0}",
        "words": "%s",
        "vector": "?",
    }
    odd = Postgres(dsn, encoder=Counting(), language="simple", **names)  # type: ignore[arg-type]
    assert odd.fill(BIRDS) == Filled(added=4)
    assert odd.fill(BIRDS) == Filled(unchanged=4)
    assert odd.retrieve("moss", 1).ids == ("wren",)
    odd.fill([Document("link", "see example.com/it's for more")])
    assert odd.retrieve("example.com/it's", 1).ids == ("link",)  # one term, with a quote in it
    for name in ("table", "id", "words"):
        with pytest.raises(InputError, match="no name"):
            Postgres(dsn, **{name: "a\x00b"})  # type: ignore[arg-type]


TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), min_size=1, max_size=12)
WEIGHT = st.sampled_from([0.0, 0.3, 1.0, 2.5])


def test_hybrid_in_sql_is_the_fusion_of_the_two_rankings(make: Callable[..., Postgres]) -> None:
    """Bit for bit: scores, order, ties; any weights, constants and depths."""

    class Colours(Counting):
        known = ("red", "green", "blue", "fox", "hen", "dog", "sky", "sea")

    engine = make(encoder=Colours(), language="simple")

    @settings(max_examples=40, deadline=None, database=None)
    @given(
        texts=TEXTS,
        query=st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join),
        weights=st.tuples(WEIGHT, WEIGHT).filter(any),
        rrf_k=st.sampled_from([0, 1, 60, 60.5]),
        depth=st.integers(1, 6),
        k=st.integers(1, 15),
    )
    def same(texts: list[str], query: str, weights: tuple[float, float], rrf_k: float, depth: int, k: int) -> None:
        engine.fill([Document(str(n), text) for n, text in enumerate(texts)])
        options: dict[str, Any] = {"table": engine.table, "encoder": Colours(), "language": "simple"}
        asked = make(**options, weights=weights, rrf_k=rrf_k, depth=depth)
        parts = [make(**options, mode=mode) for mode in ("words", "vectors")]
        pool = max(k, depth)
        expected = reciprocal_rank([part.retrieve(query, pool) for part in parts], weights=weights, k=rrf_k).top(k)
        found = asked.retrieve(query, k)
        assert [(hit.document, hit.score) for hit in found.hits] == [(hit.document, hit.score) for hit in expected.hits]
        for one in (asked, *parts):
            one.close()

    same()


def test_vectors_are_ranked_by_their_cosine(make: Callable[..., Postgres]) -> None:
    engine = make(encoder=ENCODER, mode="vectors")
    engine.fill(BIRDS)
    texts = [f"{bird.title} {bird.text}" for bird in BIRDS]
    cosines = ENCODER.encode(texts).astype(float) @ ENCODER.encode(["who sings in the moss"], query=True)[0].astype(
        float
    )
    found = engine.retrieve("who sings in the moss", 4)
    assert found.ids == tuple(BIRDS[n].id for n in sorted(range(4), key=lambda n: -cosines[n]))
    for hit in found.hits:
        assert hit.score == pytest.approx(cosines[[bird.id for bird in BIRDS].index(hit.document.id)], abs=1e-5)
    assert engine.retrieve("", 4).ids == ()


@pytest.mark.parametrize("mode", ["words", "vectors", "hybrid"])
def test_a_query_is_one_round_trip_with_all_texts(pgvector: Server, mode: Mode) -> None:
    pgvector.database()
    relay = Relay(f"{pgvector.folder}/.s.PGSQL.5432")
    engine = Postgres(f"postgresql://log@127.0.0.1:{relay.port}/postgres?sslmode=disable", encoder=ENCODER, mode=mode)
    engine.fill(BIRDS)
    engine.retrieve("nest", 4)  # connects, and looks at the table
    before = relay.turns
    assert all(hit.document.text for hit in engine.retrieve("a nest of moss", 4).hits)
    assert relay.turns == before + 1
    engine.close()
    relay.close()


def test_an_approximate_index_gives_as_many_as_are_asked_for(dsn: str, make: Callable[..., Postgres]) -> None:
    engine = make(encoder=ENCODER, mode="vectors")
    engine.fill(Document(str(n), f"bird {n} of {n % 7} colours in the {WORDS[n % 8]}") for n in range(300))
    exact = engine.retrieve("a red bird", 200)
    execute(
        dsn,
        f"CREATE INDEX ON {engine.table} USING hnsw (secondpass_vector vector_cosine_ops)",
        f"ANALYZE {engine.table}",
    )
    execute(dsn, "ALTER DATABASE postgres SET enable_seqscan = off", "ALTER DATABASE postgres SET enable_sort = off")
    try:
        approximate = make(table=engine.table, encoder=ENCODER, mode="vectors").retrieve("a red bird", 200)
    finally:
        execute(dsn, "ALTER DATABASE postgres RESET ALL")
    assert len(approximate) == 200  # the server's own limit is 40
    assert len(set(approximate.ids) & set(exact.ids)) > 190


def test_over_tables_that_people_have(dsn: str) -> None:
    encoder = Counting()
    vectors = [str(row) for row in encoder.encode(["the wing", "a nest", "the hive"]).tolist()]
    execute(
        dsn,
        "CREATE EXTENSION vector",
        "CREATE SCHEMA shop",
        "CREATE TABLE shop.goods (sku int PRIMARY KEY, body text, year int, tags jsonb, v vector(8), w tsvector)",
        f"INSERT INTO shop.goods VALUES (7, 'the wing', 1999, '[\"air\"]', '{vectors[0]}'), (8, 'a nest', NULL, NULL, "
        f"'{vectors[1]}'), (9, NULL, NULL, NULL, NULL), (10, 'nothing', 1, '{{}}', '[0,0,0,0,0,0,0,0]')",
        "UPDATE shop.goods SET w = to_tsvector('english', body)",
    )
    names: dict[str, Any] = {
        "table": "goods",
        "schema": "shop",
        "id": "sku",
        "title": None,
        "text": "body",
        "vector": "v",
    }
    wing = Document("7", "the wing", "", {"year": 1999, "tags": ["air"]})
    ways: list[dict[str, Any]] = [{}, {"words": "w"}, {"distance": "l2"}, {"distance": "inner"}]
    for more in (*ways, {"mode": "words"}, {"mode": "vectors"}):
        mine = Postgres(dsn, encoder=encoder, metadata=["year", "tags"], **names, **more)
        found = mine.retrieve("wings", 9)
        assert found.hits[0].document == wing, more
        assert all(hit.score is not None and math.isfinite(hit.score) for hit in found.hits)
        with pytest.raises(InputError, match="not made here"):
            mine.fill(BIRDS)
        mine.close()
    other = Postgres(dsn, encoder=ENCODER, **names)
    with pytest.raises(RetrieverError, match="different vector dimensions 8 and 256"):
        other.retrieve("wings", 9)
    assert execute(dsn, "SELECT count(*) FROM shop.goods") == [(4,)]


def test_vectors_of_another_encoder_are_refused(make: Callable[..., Postgres]) -> None:
    engine = make(encoder=Counting())
    engine.fill(BIRDS)
    other = make(table=engine.table, encoder=Counting(digest="d" * 32))
    with pytest.raises(IndexFolderError, match="not by 'counting'"):
        other.fill(BIRDS)
    with pytest.raises(IndexFolderError, match="open it with that encoder"):
        other.retrieve("nest", 3)
    words = make(table=engine.table)
    with pytest.raises(InputError, match="fill it with the encoder 'counting'"):
        words.fill(BIRDS)
    assert words.retrieve("moss", 3).ids == ("wren",)
    without = make()
    without.fill(BIRDS)
    with pytest.raises(InputError, match="made without an encoder"):
        make(table=without.table, encoder=Counting()).retrieve("nest", 3)


def test_what_is_there_is_not_encoded_again(make: Callable[..., Postgres]) -> None:
    encoder = Counting()
    engine = make(encoder=encoder)
    engine.fill(BIRDS[:3])
    assert engine.fill(BIRDS) == Filled(added=1, unchanged=3)
    assert len(encoder.encoded) == 4


def test_long_texts_are_kept_whole_and_counted(make: Callable[..., Postgres]) -> None:
    engine = make()
    long = Document("long", " ".join(f"w{n}" for n in range(300_000)))  # as words more than a tsvector holds
    assert engine.fill([long, BIRDS[0]]) == Filled(added=2, cut=1)
    (hit,) = engine.retrieve("w17", 3).hits
    assert hit.document == long
    assert engine.retrieve("w299999", 3).ids == ()


def test_lost_connections(pgvector: Server) -> None:
    pgvector.database()
    relay = Relay(f"{pgvector.folder}/.s.PGSQL.5432")
    engine = Postgres(f"postgresql://log:secret@127.0.0.1:{relay.port}/postgres?sslmode=disable", timeout_s=30)
    engine.fill(BIRDS)
    assert engine.retrieve("moss", 3).ids == ("wren",)
    relay.cut()
    assert engine.retrieve("moss", 3).ids == ("wren",)  # the one that was kept is replaced
    pgvector.stop()
    with pytest.raises(RetrieverError, match=r"not reached") as lost:
        engine.retrieve("moss", 3)
    assert lost.value.kind == "connection"
    pgvector.start()
    assert engine.retrieve("moss", 3).ids == ("wren",)
    relay.close()
    with pytest.raises(RetrieverError, match="127") as lost:
        engine.retrieve("moss", 3)
    assert "secret" not in str(lost.value) + repr(engine)
    engine.close()


def test_time_is_up(dsn: str, pgvector: Server) -> None:
    engine = Postgres(dsn, timeout_s=0.2)
    engine.fill(BIRDS)
    engine.retrieve("moss", 3)
    with psycopg.connect(dsn) as other:
        other.execute("LOCK TABLE secondpass_documents")  # who asks now waits
        with pytest.raises(RetrieverError, match=r"no answer within 0\.2 s") as late:
            engine.retrieve("moss", 3)
    assert late.value.kind == "timeout"
    assert engine.retrieve("moss", 3).ids == ("wren",)
    engine.close()
    relay = Relay(f"{pgvector.folder}/.s.PGSQL.5432")
    engine = Postgres(f"postgresql://log@127.0.0.1:{relay.port}/postgres?sslmode=disable", timeout_s=0.2)
    engine.retrieve("moss", 3)
    relay.freeze()  # the server does not even say that time is up
    with pytest.raises(RetrieverError, match=r"no answer within 0\.2 s"):
        engine.retrieve("moss", 3)
    engine.close()
    relay.close()


def test_what_is_wrong_is_said(dsn: str) -> None:
    for bad in ("host=", "postgresql://me:se cret@[::1", "secret words without a meaning", "password=secret x"):
        if bad != "host=":
            with pytest.raises(InputError, match="cannot be read") as unread:
                Postgres(bad)
            assert "secret" not in str(unread.value)
    with pytest.raises(RetrieverError, match='relation "nosuch" does not exist') as refused:
        Postgres(dsn, table="nosuch").retrieve("q", 1)
    assert refused.value.kind == "refused"
    Postgres(dsn).fill(BIRDS)
    with pytest.raises(RetrieverError, match='column "nosuch" does not exist'):
        Postgres(dsn, id="nosuch").retrieve("nest", 1)
    with pytest.raises(RetrieverError, match="text search configuration"):
        Postgres(dsn, table="other", language="klingon").fill(BIRDS)
    options: list[dict[str, Any]] = [{"mode": "vectors"}, {"mode": "both"}, {"depth": 0}, {"weights": [0, 0]}]
    options += [{"timeout_s": 0}, {"rrf_k": -1}, {"distance": "far"}, {"weights": [1]}]
    for one in options:
        with pytest.raises(InputError):
            Postgres(dsn, **one)


def test_the_documented_code_runs(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(documented("postgres").replace("postgresql://me@localhost/birds", dsn), names)
    assert capsys.readouterr().out == "('swift', 'eider')\n{'year': 1999}\n"
    names["birds"].close()
    names["notes"].close()
