"""What tests of every engine ask of it: the contract, hostile queries drawn by hypothesis, filling and its resume.

An engine's test module hands in `make`, a function without arguments that gives a fresh, empty retriever with `fill`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secondpass.errors import InputError
from secondpass.retrievers.filling import Fillable, Filled
from secondpass.testing import check_retrieval, check_retriever
from secondpass.types import Document, Ranking, Retriever

__all__ = ["BIRDS", "Counting", "Engine", "check_engine", "check_hostile_queries", "documented"]

BIRDS = (
    Document("swift", "Swifts sleep on the wing, high above the roofs.", "Swift", {"year": 1999, "of": ["air"]}),
    Document("eider", "An eider lines its nest with down.", "Eider"),
    Document("wren", "The wren sings louder than its size lets expect; the nest is a ball of moss.", "Wren"),
    Document("gannet", "Gannets dive from thirty metres into the sea.", "", {"nested": {"deep": None}}),
)
_SYNTAX = st.sampled_from(
    [
        "'",
        '"',
        "\\",
        "&",
        "|",
        "!",
        "<->",
        "(",
        ")",
        ":*",
        "*",
        "^",
        "-",
        "AND",
        "OR",
        "NOT",
        "NEAR(",
        "nest",
        "sea",
        ";",
        "\x00",
    ]
)
_QUERIES = st.one_of(
    st.text(st.characters(), max_size=12),
    st.lists(_SYNTAX, max_size=6).map(" ".join),
    st.lists(_SYNTAX, max_size=6).map("".join),
)


class Engine(Retriever, Fillable, Protocol):
    """A first stage that can be filled."""


class Counting:
    """An encoder of a few words that tells what it encoded: each of them is a direction of its own."""

    name, dimensions = "counting", 8
    known = ("sleep", "nest", "sea", "wing", "moss", "dive", "bees", "hive")

    def __init__(self, digest: str = "c" * 32) -> None:
        self.digest, self.encoded = digest, list[str]()

    def encode(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        if not query:
            self.encoded += texts
        counts = np.array([[text.lower().count(word) for word in self.known] for text in texts], np.float32).reshape(
            len(texts), 8
        )
        lengths = np.linalg.norm(counts, axis=1, keepdims=True)
        counts /= np.where(lengths > 0, lengths, 1)
        return counts


def check_engine(make: Callable[[], Engine], longest: int = 10**9) -> None:
    """All that holds for every engine, whatever it finds by. Texts of more than `longest` characters are left out."""

    def made(documents: Sequence[Document]) -> Retriever:
        engine = make()
        known = [one for one in documents if not isinstance(one.text, bytes)]  # what JSON cannot hold is refused
        engine.fill([one for one in known if not isinstance(one.text, str) or len(one.text) <= longest])
        return engine

    check_retriever(made)
    check_filling(make)
    check_threads(make)


def check_filling(make: Callable[[], Engine]) -> None:
    engine, told = make(), list[int]()
    assert engine.fill(iter(BIRDS), batch=3, on_progress=told.append) == Filled(added=4)
    assert told == [3, 4]
    assert engine.fill(BIRDS) == Filled(unchanged=4)
    found = engine.retrieve("nest", 10)
    assert set(found.ids) >= {"eider", "wren"}
    new = Document("eider", "An eider dives for mussels in the sea.", "Eider", {"changed": True})
    assert engine.fill([BIRDS[0], new]) == Filled(replaced=1, unchanged=1)
    (hit,) = [hit for hit in engine.retrieve("mussels in the sea", 10).hits if hit.document.id == "eider"]
    assert hit.document == new
    assert len(engine.retrieve("nest sea wing", 10)) == 4  # and none twice
    only_metadata = Document(new.id, new.text, new.title, {"changed": "again"})
    assert engine.fill([only_metadata, BIRDS[1], only_metadata]) == Filled(replaced=3)  # the last one of an id stays
    (hit,) = [hit for hit in engine.retrieve("mussels in the sea", 10).hits if hit.document.id == "eider"]
    assert hit.document.metadata == {"changed": "again"}
    engine.fill([Document("blank", "")])  # what says nothing is not found, and finds nothing
    assert "blank" not in engine.retrieve("nest sea wing", 10).ids
    assert engine.retrieve("", 10).ids == ()
    stopped = make()
    with pytest.raises(KeyboardInterrupt):
        stopped.fill(_interrupted(BIRDS, 3), batch=2)
    assert stopped.fill(BIRDS, batch=2) == Filled(added=2, unchanged=2)  # the first batch was there whole
    with pytest.raises(InputError, match="batch"):
        stopped.fill(BIRDS, batch=0)
    with pytest.raises(InputError, match="cannot be kept"):
        stopped.fill([Document("a\x00b", "text")])
    with pytest.raises(InputError, match="JSON"):
        stopped.fill([Document("a", "text", metadata={"set": {1}})])
    with pytest.raises(InputError, match="Document"):
        stopped.fill([{"id": "a", "text": "text"}])  # type: ignore[list-item]


def _interrupted(documents: Iterable[Document], count: int) -> Iterator[Document]:
    for number, document in enumerate(documents):
        if number == count:
            raise KeyboardInterrupt
        yield document


def check_threads(make: Callable[[], Engine]) -> None:
    """Many threads at once get what one gets."""
    engine = make()
    engine.fill(BIRDS)
    queries = ["nest of moss", "dive into the sea", "sleep on the wing"]
    alone = [engine.retrieve(query, 3).hits for query in queries]
    answers: list[tuple[int, Any]] = []

    def ask(number: int) -> None:
        for _ in range(5):
            try:
                answers.append((number, engine.retrieve(queries[number], 3).hits))
            except Exception as error:  # told by the test's own thread
                answers.append((number, error))

    threads = [threading.Thread(target=ask, args=(number % 3,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 45
    for number, hits in answers:
        assert hits == alone[number]


def check_hostile_queries(engine: Engine, examples: int = 100) -> None:
    """Whatever is asked, there is an answer that keeps the promises, and what is there stays as it was."""
    engine.fill(BIRDS)

    @settings(max_examples=examples, deadline=None, database=None)
    @given(query=_QUERIES)
    def asked(query: str) -> None:
        check_retrieval(engine, BIRDS, query, 2)

    asked()
    assert engine.fill(BIRDS) == Filled(unchanged=4)
    found: Ranking = engine.retrieve("nest", 10)
    assert set(found.ids) >= {"eider", "wren"}


def documented(engine: str) -> str:
    """The code of docs/first-stages.md that needs this engine."""
    page = Path(__file__).resolve().parents[2] / "docs" / "first-stages.md"
    blocks = re.findall(rf"^```python {engine}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    assert blocks
    return "\n".join(blocks)
