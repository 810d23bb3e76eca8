"""SQLite's full text search, over tables of ours and people's own: the promises of every engine, and its own."""

from __future__ import annotations

import math
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from engine_promises import BIRDS, check_engine, check_hostile_queries

from secondpass.errors import InputError, RetrieverError
from secondpass.retrievers.filling import Filled
from secondpass.retrievers.sqlite import SQLite
from secondpass.types import Document


@pytest.fixture
def make(tmp_path: Path) -> Callable[[], SQLite]:
    files = (tmp_path / f"{number}.db" for number in range(1000))
    return lambda: SQLite(next(files))


def test_the_promises_of_every_engine(make: Callable[[], SQLite]) -> None:
    check_engine(make)


def test_hostile_queries(make: Callable[[], SQLite]) -> None:
    check_hostile_queries(make())


def test_hostile_names(tmp_path: Path) -> None:
    odd = SQLite(tmp_path / "a b?c#d%20.db", table='t"; DROP TABLE x; --', id="select", title="a b", text="it's")
    assert odd.fill(BIRDS) == Filled(added=4)
    assert odd.fill(BIRDS) == Filled(unchanged=4)
    assert odd.retrieve("moss", 5).ids == ("wren",)
    for name in ("", "a\x00b", 3):
        with pytest.raises(InputError, match="no name"):
            SQLite(tmp_path / "x.db", id=name)  # type: ignore[arg-type]


def test_scores_are_those_of_bm25(make: Callable[[], SQLite]) -> None:
    """Against the formula, over words that the stemmer leaves alone."""
    texts = ["red red fox", "red hen and a long tail of words", "blue fox", "green hen", "blue sky", "a dog", "a cat"]
    engine = make()
    engine.fill([Document(str(n), text) for n, text in enumerate(texts)])
    words = [text.split() for text in texts]
    mean = sum(map(len, words)) / len(words)

    def expected(number: int) -> float:
        total = 0.0
        for word in ("red", "fox"):
            holding = sum(word in one for one in words)
            idf = math.log((len(words) - holding + 0.5) / (holding + 0.5))
            count = Counter(words[number])[word]
            total += idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(words[number]) / mean))
        return total

    found = engine.retrieve("red fox", 10)
    assert set(found.ids) == {"0", "1", "2"}
    for hit in found.hits:
        assert hit.score == pytest.approx(expected(int(hit.document.id)), rel=1e-9)


def test_over_tables_that_people_have(tmp_path: Path) -> None:
    path = tmp_path / "mine.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(
            """
            CREATE TABLE articles (number INTEGER PRIMARY KEY, slug TEXT, headline TEXT, body TEXT, year INTEGER);
            INSERT INTO articles VALUES (7, 'swift', 'Swift', 'Swifts sleep on the wing', 1999),
                (9, 'nil', NULL, NULL, NULL);
            CREATE VIRTUAL TABLE search USING fts5(headline, body, content='articles', content_rowid='number');
            INSERT INTO search(search) VALUES ('rebuild');
            CREATE VIRTUAL TABLE notes USING fts5(body);
            INSERT INTO notes VALUES ('a note on wings'), ('another');
            """
        )
    mine = SQLite(path, table="articles", words="search", id="slug", title="headline", text="body", metadata=["year"])
    (hit,) = mine.retrieve("wing?", 3).hits
    assert hit.document == Document("swift", "Swifts sleep on the wing", "Swift", {"year": 1999})
    alone = SQLite(path, table="notes", words="notes", id="rowid", title=None, text="body")
    assert [(hit.document.id, hit.document.text) for hit in alone.retrieve("another", 3).hits] == [("2", "another")]
    with pytest.raises(InputError, match="not made here"):
        mine.fill(BIRDS)
    assert len(mine.retrieve("swifts", 3)) == 1


def test_words_of_an_earlier_text_find_nothing(make: Callable[[], SQLite]) -> None:
    engine = make()
    engine.fill([Document("a", "an albatross at sea"), Document("b", "moss")])
    engine.fill([Document("a", "a wren in the hedge")])
    assert engine.retrieve("albatross", 3).ids == ()
    assert engine.retrieve("hedge", 3).ids == ("a",)


def test_several_tables_in_one_file(tmp_path: Path) -> None:
    one, other = SQLite(tmp_path / "x.db", table="one"), SQLite(tmp_path / "x.db", table="other")
    one.fill(BIRDS[:1])
    other.fill(BIRDS[1:])
    assert one.retrieve("nest wing", 9).ids == ("swift",)
    assert "swift" not in other.retrieve("nest wing", 9).ids


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(RetrieverError, match=r"no file .*nosuch\.db") as missing:
        SQLite(tmp_path / "nosuch.db").retrieve("q", 1)
    assert missing.value.kind == "connection"
    assert not (tmp_path / "nosuch.db").exists()
    engine = SQLite(tmp_path / "x.db")
    engine.fill(BIRDS)
    with pytest.raises(RetrieverError, match="no such table") as refused:
        SQLite(tmp_path / "x.db", table="other").retrieve("q", 1)
    assert refused.value.kind == "refused"
    with pytest.raises(RetrieverError, match="no such column"):
        SQLite(tmp_path / "x.db", id="nosuch").retrieve("nest", 1)
    (tmp_path / "text.db").write_text("this is no database, but long enough to be looked at " * 20)
    with pytest.raises(RetrieverError, match="not a database"):
        SQLite(tmp_path / "text.db").retrieve("q", 1)
    for bad in (
        {"path": ":memory:"},
        {"path": ""},
        {"path": "x", "timeout_s": 0},
        {"path": "x", "timeout_s": math.nan},
    ):
        with pytest.raises(InputError):
            SQLite(**bad)


def test_what_takes_too_long_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    SQLite(path).fill(Document(str(n), f"red fox {n}") for n in range(2000))
    slow = SQLite(path, timeout_s=1e-6)  # over before the first look at the clock
    with pytest.raises(RetrieverError, match=r"within 1e-06 s") as late:
        slow.retrieve("red fox", 2000)
    assert late.value.kind == "timeout"
    assert len(SQLite(path).retrieve("red fox", 2000)) == 2000


def test_who_writes_does_not_stop_who_reads(tmp_path: Path) -> None:
    engine = SQLite(tmp_path / "x.db")
    engine.fill(BIRDS)
    errors: list[Exception] = []

    def read() -> None:
        try:
            for _ in range(30):
                assert len(engine.retrieve("nest", 5)) >= 1
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    engine.fill((Document(str(n), f"a nest of {n}") for n in range(300)), batch=20)
    for thread in threads:
        thread.join()
    assert errors == []
