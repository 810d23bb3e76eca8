"""A served model: opened once, when it is needed; pinned; exchanged while it is in use; closed when nobody uses it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from secondpass.errors import ConfigError, GoldenError
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.serving.models import Served
from secondpass.types import as_ranking

RANKING = as_ranking("sort the list", ["the river bank", "sort a list in python", "a date"])


@pytest.fixture
def opener(tiny: Path, cache: Path) -> Callable[[], CrossEncoder]:
    return lambda: CrossEncoder(tiny, profile="exact", threads=1, cache_dir=cache)


def test_it_is_opened_once_by_whoever_asks_first(opener: Callable[[], CrossEncoder]) -> None:
    opened: list[CrossEncoder] = []

    def slowly() -> CrossEncoder:
        time.sleep(0.05)
        opened.append(opener())
        return opened[-1]

    served = Served("m", slowly, preload=False)
    assert served.current is None
    assert served.unwell == ""  # it need not be there yet
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: served.rerank(RANKING), range(8)))
    assert len(opened) == 1
    assert {one.ids for one in found} == {opened[0].rerank(RANKING).ids}
    assert served.unwell == ""
    assert Served("m", opener).unwell == "not opened yet"


def test_one_that_could_not_be_opened_is_tried_again(opener: Callable[[], CrossEncoder]) -> None:
    tries: list[int] = []

    def fails_once() -> CrossEncoder:
        tries.append(1)
        if len(tries) == 1:
            raise GoldenError("the golden pairs deviate")
        return opener()

    served = Served("m", fails_once)
    served.probe()
    assert "deviate" in served.unwell
    served.probe()
    assert served.unwell == ""


def test_a_digest_that_is_pinned_is_the_only_one_that_opens(opener: Callable[[], CrossEncoder]) -> None:
    digest = opener().scorer.checkpoint.digest
    Served("m", opener, digest=digest[:12]).load()
    with pytest.raises(ConfigError, match=f"{digest[:16]}.*ask for 00000000"):
        Served("m", opener, digest="00000000").load()


def test_what_was_begun_is_ended_with_the_same_model(opener: Callable[[], CrossEncoder]) -> None:
    served = Served("m", opener)
    served.load()
    old = served.current
    with served.borrowed() as first:
        served.exchange(Served("m", opener))
        assert served.current is not old
        with served.borrowed() as second:
            assert second is served.current
        assert first is old
        assert first.rerank(RANKING).ids == second.rerank(RANKING).ids  # it still works
    with pytest.raises(RuntimeError):  # and is closed now that nobody uses it
        first.rerank(RANKING)


def test_nobody_notices_an_exchange(opener: Callable[[], CrossEncoder]) -> None:
    served, stop = Served("m", opener), threading.Event()
    expected = served.rerank(RANKING).ids
    answers: list[tuple[str, ...]] = []

    def ask() -> None:
        while not stop.is_set():
            answers.append(served.rerank(RANKING).ids)

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        for _ in range(4):
            served.exchange(Served("m", opener))
        stop.set()
        for one in asking:
            one.result(20)
    assert set(answers) == {expected}
    assert served.loads == 5


def test_a_model_that_does_not_open_changes_nothing(opener: Callable[[], CrossEncoder]) -> None:
    served = Served("m", opener)
    served.load()
    old = served.current
    with pytest.raises(ConfigError):
        served.exchange(Served("m", opener, digest="00000000"))
    assert served.current is old
    assert served.rerank(RANKING).ids
    served.probe()
    assert served.unwell == ""


def test_one_that_hangs_is_unwell_until_it_answers(opener: Callable[[], CrossEncoder]) -> None:
    served = Served("m", opener)
    served.load()
    served.hangs(20)
    assert "20 seconds" in served.unwell
    served.probe()
    assert served.unwell == ""
