"""What holds of every framework's documents when they come through a reranker, and a reranker that a test can hold."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hypothesis import settings
from hypothesis import strategies as st

from secondpass.testing import OverlapReranker
from secondpass.types import NEVER, Deadline, Document, Ranking, Status, as_ranking

WORDS = ("bees", "find", "the", "way", "back", "hive", "rates", "rose")
QUERY = "bees find the hive"
untimed = settings(deadline=None, max_examples=50)
TOLD = {"secondpass_status", "secondpass_probability", "secondpass_first_rank", "secondpass_first_score"}


@dataclass(frozen=True)
class Given:
    """A document before it is a framework's; `id` None: it has none of its own."""

    text: str
    id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    score: float | None = None


@dataclass(frozen=True)
class Returned:
    """What of a framework's document came back; `metadata` is without what was told."""

    text: str
    id: str | None
    metadata: dict[str, Any]
    score: float | None
    told: dict[str, Any]


class Framework(Protocol):
    """How a framework makes, reranks and reads documents. `settings`: model, depth, deadline_ms, top."""

    def make(self, given: Sequence[Given]) -> Any: ...

    def rerank(self, query: str, documents: Any, **settings: Any) -> Any: ...

    def read(self, documents: Any) -> list[Returned]: ...


texts = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join) | st.sampled_from(["", "  ", "#0", "é\u0301 bees"])
documents = st.lists(
    st.builds(
        Given,
        texts,
        st.sampled_from([None, "a", "b", "#1", "##2"]),
        st.dictionaries(st.sampled_from(["page", "source"]), st.integers(0, 9), max_size=2),
    ),
    max_size=9,
)


def told_apart(metadata: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is not told of a hit, and what is."""
    return (
        {key: value for key, value in metadata.items() if key not in TOLD},
        {key: value for key, value in metadata.items() if key in TOLD},
    )


def expected(given: Sequence[Given], deadline: Deadline = NEVER) -> Ranking:
    """The ranking that the words of the query give, ids being places."""
    ranking = as_ranking(QUERY, [Document(str(place), one.text) for place, one in enumerate(given)])
    return OverlapReranker().rerank(ranking, deadline=deadline)


def check_promises(framework: Framework, given: Sequence[Given]) -> None:
    """Nothing is lost, doubled or mutated; order, scores and statuses are the reranker's, whatever the ids are."""
    made = framework.make(given)
    before, untouched = framework.read(made), copy.deepcopy(made)

    def asked(**settings: Any) -> list[Returned]:
        return framework.read(framework.rerank(QUERY, made, model=OverlapReranker(), **settings))

    whole = asked()
    assert framework.read(made) == framework.read(untouched)
    ranking = expected(given)
    places = [int(name) for name in ranking.ids]
    for hit, place, one in zip(ranking.hits, places, whole, strict=True):
        assert (one.text, one.id, one.metadata) == (before[place].text, before[place].id, before[place].metadata)
        assert one.score == hit.score
        assert one.told["secondpass_status"] == str(hit.status)
        assert one.told["secondpass_first_rank"] == place + 1
        assert one.told["secondpass_first_score"] == before[place].score
        assert set(one.told) == TOLD
    late = asked(deadline_ms=0)
    assert [one.text for one in late] == [one.text for one in before]
    assert {one.told["secondpass_status"] for one in late} <= {str(Status.DEADLINE)}
    assert [one.score for one in late] == [None] * len(given)
    shallow = asked(depth=2)
    assert [one.text for one in shallow[2:]] == [one.text for one in before[2:]]
    assert {one.told["secondpass_status"] for one in shallow[2:]} <= {str(Status.BEYOND_DEPTH)}
    assert asked(top=2) == whole[:2]


class HeldReranker:
    """A reranker that waits inside until somebody lets it go; `released` says whether that was in time."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()
        self.released = False
        self.deadline = NEVER

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        self.deadline = deadline
        self.entered.set()
        self.released = self.go.wait(20)
        return OverlapReranker().rerank(ranking)


async def check_the_loop_goes_on(held: HeldReranker, work: Callable[[], Awaitable[Any]]) -> Any:
    """What `work` gives, after the loop has turned while the reranker was held, and let it go itself."""
    task = asyncio.ensure_future(work())
    while not held.entered.is_set():
        await asyncio.sleep(0.001)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    held.go.set()
    answer = await task
    assert held.released, "the loop stood still while the reranker was at work"
    return answer


async def check_cancelling_is_told(held: HeldReranker, work: Callable[[], Awaitable[Any]]) -> None:
    """Whoever is cancelled while the reranker is at work is said to have left, so that no further batch is begun."""
    task = asyncio.ensure_future(work())
    while not held.entered.is_set():
        await asyncio.sleep(0.001)
    assert not held.deadline.left
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert held.deadline.left
    held.go.set()
