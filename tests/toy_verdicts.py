"""Verdicts over toy runs: one for every outcome that is wanted, and one in which nothing is missing."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from secondpass.evaluation.audit import audit
from secondpass.evaluation.systems import Latency, Price, System
from secondpass.evaluation.verdict import Sweep, SweepPoint, Verdict
from secondpass.types import Document

HOSTILE = '<script>alert("1")</script> & [bold]not markup[/] | `code` \x1b[31mred\x07 ' + "very long " * 30
NAMES = ("A<b>", "B & [red]c|d")


def runs_of(helped: int, hurt: int, missed: int = 1) -> tuple[Any, Any, Any]:
    """Judgments and two runs: the relevant document moves up, moves down or is not in the pool."""
    qrels, before, after = {}, {}, {}
    for kind, n in (("up", helped), ("down", hurt), ("missed", missed)):
        for i in range(n):
            key, others = f"{kind}{i}", ["x", "y"]
            qrels[key] = {"r": 1}
            front, back = ["r", *others], [*others, "r"]
            both = {"up": (back, front), "down": (front, back), "missed": (others, others)}[kind]
            before[key], after[key] = ([(d, -float(j)) for j, d in enumerate(ids)] for ids in both)
    return qrels, before, after


def verdict_of(helped: int, hurt: int, missed: int = 1, **more: Any) -> Verdict:
    """A verdict on `runs_of` so many, with hostile texts and names, and few draws."""
    qrels, before, after = runs_of(helped, hurt, missed)
    documents = {d: Document(d, f"{d} {HOSTILE}", HOSTILE) for d in "rxy"}
    queries = {key: f"{'how' if i % 2 else 'where'} {HOSTILE}" for i, key in enumerate(qrels)}
    options: dict[str, Any] = {"depth": 3, "documents": documents, "queries": queries, "names": NAMES}
    options |= {"permutations": 500}
    return audit(before, after, qrels, **(options | more))


@cache
def full_verdict() -> Verdict:
    """Too slow, at a price, beside two controls, with a curve of three depths, two sweeps, and every other part."""
    qrels, before, _ = runs_of(60, 12, 8)
    better = {key: [("r", 1.0)] if key.startswith("down") else run for key, run in before.items()}
    seconds = {key: 0.2 + 0.001 * i for i, key in enumerate(qrels)}
    verdict = verdict_of(
        60,
        12,
        8,
        budget_ms=100,
        seconds_baseline=dict.fromkeys(qrels, 0.001),
        seconds_reranked=seconds,
        p99_at={1: 50.0, 2: 150.0},
        depths=(1, 2, 3),
        controls=[System(HOSTILE, better, dict.fromkeys(qrels, 0.004)), System("untimed", better)],
        price=Price(0.4, 0.0001, "EUR"),
        queries_per_day=10_000,
        licence=HOSTILE,
        truncated={key: ["r"] for key in qrels},
        fields={"team": {key: HOSTILE if i % 3 else "b" for i, key in enumerate(qrels)}},
    )
    points = tuple(
        SweepPoint(
            setting=setting,
            value=verdict.first + gain,
            difference=gain,
            interval=(gain - 0.02, gain + 0.02),
            latency=Latency(ms, 2 * ms, 3 * ms, ms, 80),
            per_1000=ms / 100,
            on_time_front=front,
            on_cost_front=front,
        )
        for setting, gain, ms, front in ((HOSTILE, 0.1, 20.0, True), ("32", 0.05, 30.0, False), ("64", 0.2, 90.0, True))
    )
    return replace(verdict, sweeps=(Sweep("model", points), Sweep("max_length", points[1:])))
