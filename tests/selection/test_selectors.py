"""What all selectors promise, and where a cascade asks them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from drawn_rankings import gone, judged
from secondpass.cascade import Cascade, Stage
from secondpass.errors import InputError, SecondpassError
from secondpass.registry import _BUILT_IN, resolve
from secondpass.selection.mmr import MMR
from secondpass.selection.near_duplicates import NearDuplicates
from secondpass.selection.parents import Parents
from secondpass.selection.risk import Guarantee, Ranker
from secondpass.selection.threshold import RiskControl, Threshold
from secondpass.selection.token_budget import TokenBudget
from secondpass.testing import ListRetriever, ManualClock, OverlapReranker, check_reranker, check_selector
from secondpass.types import NEVER, Deadline, Ranking, Selector

CHECKED = Ranker(model="a model", digest="0" * 32, template="", calibration="")  # what check_selector's rankings tell
GUARANTEE = Guarantee(alpha=0.1, threshold=0.3, queries=50, grade=1, risk=0.05, kept=0.4, ranker=CHECKED)
SELECTORS: dict[str, Callable[[], Selector]] = {
    "threshold": lambda: Threshold(0.3),
    "threshold, everything goes": lambda: Threshold(1.0),
    "risk-control": lambda: RiskControl(GUARANTEE),
    "near-duplicates": NearDuplicates,
    "near-duplicates, loose": lambda: NearDuplicates(0.01),
    "mmr": MMR,
    "mmr, three": lambda: MMR(0.3, most=3),
    "parents": lambda: Parents("parent_id", 2),
    "parents, in reading order": lambda: Parents("parent_id", 2, position="place"),
    "parents, of odd keys": lambda: Parents("page", 1, position="page"),
    "token-budget": lambda: TokenBudget(60, overhead=3),
    "token-budget, prefix": lambda: TokenBudget(60, prefix=True),
    "token-budget, own tokenizer": lambda: TokenBudget(30, tokenizer=lambda text: len(text.split())),
    "a cascade of several": lambda: Cascade(None, select=[Threshold(0.05), NearDuplicates(), MMR(most=5)]),
}


@pytest.mark.parametrize("name", SELECTORS)
def test_the_promises_of_every_selector(name: str) -> None:
    check_selector(SELECTORS[name])


def test_every_selector_of_the_registry_is_checked() -> None:
    made = {type(make()) for make in SELECTORS.values()}
    assert {resolve("selector", name) for name in _BUILT_IN["selector"]} <= made


# In a cascade

TEXTS = ["a fly", "a red fly", "a red bee", "one big red bee", "nothing", "the big red bee flies"]
QUERY = "big red bee"


class Last:
    """Keeps the last `most` of what it is shown, and remembers that."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.seen: list[Ranking] = []

    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        self.seen.append(ranking)
        return replace(ranking, hits=ranking.hits[-self.most :])


def test_a_search_selects_from_all_that_was_ranked_and_cuts_at_last() -> None:
    last = Last(4)
    cascade = Cascade(ListRetriever({QUERY: TEXTS}), Stage(OverlapReranker(), depth=5), select=[last])
    found = cascade.search(QUERY, top_k=3)
    ranked = cascade.rerank(cascade.first_stage(QUERY, 3))
    assert len(ranked) == 5  # as many as the stage looks at
    assert [one.hits for one in last.seen] == [ranked.hits]
    assert found.hits == ranked.hits[-4:][:3]
    assert cascade.select(ranked).hits == ranked.hits[-4:]


def test_selectors_take_turns_and_each_leaves_an_entry() -> None:
    cascade = Cascade(None, select=[Threshold(0.2), Parents("parent", 1), MMR(most=1)])
    given = judged([0.9, 0.8, 0.1], metadata=[{"parent": 1}, {"parent": 1}, {"parent": 2}])
    chosen = cascade.select(given)
    assert chosen.ids == ("0",)
    assert [step.name for step in chosen.trace[len(given.trace) :]] == ["threshold", "parents", "mmr"]
    assert [list(step.detail["removed"]) for step in chosen.trace[len(given.trace) :]] == [["2"], ["1"], []]


def test_reranking_never_selects() -> None:
    check_reranker(lambda: Cascade(None, Stage(OverlapReranker()), select=[Last(1)]))


def test_the_deadline_reaches_the_selectors() -> None:
    clock = ManualClock()
    texts = ["one and the same text"] * 3
    cascade = Cascade(
        ListRetriever({QUERY: texts}),
        Stage(OverlapReranker(clock=clock, seconds_per_pair=0.0)),
        select=NearDuplicates(),
    )
    assert len(cascade.search(QUERY)) == 1
    late = cascade.search(QUERY, deadline_ms=0)
    assert (len(late), gone(late)) == (3, {})
    assert "time was up" in late.trace[-1].skipped_because


class Inventor(Last):
    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        return replace(ranking, hits=(*ranking.hits, *judged([0.5]).hits))


class Doubler(Last):
    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        return replace(ranking, hits=ranking.hits * 2)


class Changer(Last):
    def select(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        return replace(ranking, hits=tuple(replace(hit, score=1.0) for hit in ranking.hits))


@pytest.mark.parametrize("broken", [Inventor, Doubler, Changer])
def test_a_cascade_refuses_what_a_selector_made_up(broken: type[Last]) -> None:
    cascade = Cascade(ListRetriever({QUERY: TEXTS}), select=[broken(1)])
    with pytest.raises(SecondpassError, match=r"was not given, or one twice.*check_selector"):
        cascade.search(QUERY)


def test_what_cannot_select_is_said_when_the_cascade_is_made() -> None:
    with pytest.raises(InputError, match=r"0\.3 cannot select: it has no select"):
        Cascade(None, select=[0.3])  # type: ignore[list-item]
    with pytest.raises(InputError, match="cannot select"):
        Cascade(None, select=OverlapReranker())  # type: ignore[arg-type]


def test_a_cascade_reads_as_its_pipeline() -> None:
    cascade = Cascade(None, Stage(OverlapReranker()), select=[Threshold(0.2), TokenBudget(100)])
    assert repr(cascade).startswith("OverlapReranker() @ 100 >> Threshold(probability=0.2) >> TokenBudget(tokens=100,")
