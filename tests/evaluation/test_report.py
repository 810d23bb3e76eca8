"""Both views say what the verdict says, at their width, and take no text for markup."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.cells import cell_len
from rich.console import Console

from secondpass.evaluation.audit import Decision, Verdict, audit
from secondpass.evaluation.report import html, terminal
from secondpass.evaluation.story import decomposition, loss_and_gain
from secondpass.evaluation.wording import clean, counted, roughly, signed
from secondpass.types import Document

HOSTILE = '<script>alert("1")</script> & [bold]not markup[/] \x1b[31mred\x07 ' + "very long " * 30


def verdict_of(helped: int, hurt: int, missed: int = 1, **more: Any) -> Verdict:
    """A query per wanted outcome; the relevant document moves up, moves down or is not in the pool."""
    qrels, before, after = {}, {}, {}
    kinds = [("up", helped), ("down", hurt), ("missed", missed)]
    for kind, n in kinds:
        for i in range(n):
            key, others = f"{kind}{i}", ["x", "y"]
            qrels[key] = {"r": 1}
            front, back = ["r", *others], [*others, "r"]
            both = {"up": (back, front), "down": (front, back), "missed": (others, others)}[kind]
            before[key], after[key] = ([(d, -float(j)) for j, d in enumerate(ids)] for ids in both)
    documents = {d: Document(d, "text", HOSTILE) for d in "rxy"}
    queries = dict.fromkeys(qrels, HOSTILE)
    return audit(
        before, after, qrels, depth=3, documents=documents, queries=queries, names=("A<b>", "B & [red]c"), **more
    )


VERDICTS = {
    "gain": verdict_of(60, 3),
    "loss": verdict_of(2, 50),
    "unsure": verdict_of(12, 11),
    "nothing": verdict_of(0, 0, missed=30),
    "slow": verdict_of(60, 3, budget_ms=1, seconds_reranked={"up0": 0.5}, seconds_baseline={"up0": 0.001}),
    "single": verdict_of(1, 0, missed=0),
    "perfect": verdict_of(0, 30, missed=0),
}


def shown(verdict: Verdict, width: int = 80, **options: Any) -> str:
    stream = io.StringIO()
    terminal(verdict, Console(file=stream, width=width, **options))
    return stream.getvalue()


@pytest.mark.parametrize("name", VERDICTS)
@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_terminal_fits_and_says_it(name: str, width: int) -> None:
    verdict = VERDICTS[name]
    text = shown(verdict, width)
    assert all(cell_len(line) <= width for line in text.splitlines())
    flat = " ".join(text.replace("│", " ").split())
    assert verdict.decision.value in flat.splitlines()[0]
    for sentence in (clean(verdict.reason), *map(clean, loss_and_gain(verdict)), *map(clean, verdict.notes)):
        assert sentence in flat
    assert f"{verdict.first:.3f} → {verdict.reranked:.3f}" in flat
    assert "\x1b" not in text
    assert "[bold]not markup[/]" in flat or not (verdict.most_helped() or verdict.most_hurt()) or width == 60


def test_hostile_text_reaches_neither_terminal_nor_page() -> None:
    coloured = shown(VERDICTS["gain"], force_terminal=True, color_system="standard")
    assert "\x1b[31mred" not in coloured
    assert "\x07" not in coloured
    page = html(VERDICTS["gain"])
    assert "<script" not in page
    assert "&lt;script&gt;alert(&quot;1&quot;)" in page
    assert "A&lt;b&gt;" in page
    assert not re.search("[\x00-\x09\x0b-\x1f]", page)


@pytest.mark.parametrize("name", VERDICTS)
def test_the_page_is_whole_and_needs_nothing_else(name: str) -> None:
    verdict = VERDICTS[name]
    page = html(verdict)
    body = re.sub(r"<meta[^>]*>", "", page.removeprefix("<!DOCTYPE html>"))
    tree = ElementTree.fromstring(body)  # every tag closed, every attribute quoted, nothing unescaped
    text = " ".join("".join(tree.itertext()).split())
    assert tree.findtext(".//h1") == verdict.decision.value
    for sentence in (clean(verdict.reason), *map(clean, loss_and_gain(verdict)), *map(clean, verdict.notes)):
        assert sentence in text
    assert not re.search(r"https?:|src=|href=|url\(|@import", page)
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    for rect in tree.iter("rect"):
        x, width = float(rect.attrib["x"]), float(rect.attrib["width"])
        y, height = float(rect.get("y", "0")), float(rect.attrib["height"])
        assert -0.01 <= x <= x + width <= 1000.1
        assert -0.01 <= y <= y + height <= 200.1


@pytest.mark.parametrize("name", VERDICTS)
def test_the_parts_fill_the_whole(name: str) -> None:
    parts = decomposition(VERDICTS[name])
    assert sum(part.value for part in parts) == pytest.approx(1)
    assert all(part.value >= 0 for part in parts)


def test_the_sentences_speak_of_recall_first_and_of_what_no_reranker_can_fix() -> None:
    sentences = loss_and_gain(VERDICTS["gain"])
    assert "of the relevant documents" in sentences[0]
    assert "no reranker can fix" in sentences[1]
    assert "nothing is lost" in loss_and_gain(replace(VERDICTS["gain"], unfixable=None))[1]
    assert "best order already" in loss_and_gain(VERDICTS["nothing"])[2]
    assert "loses" in loss_and_gain(VERDICTS["loss"])[-1]


def test_the_page_reads_as_each_word() -> None:
    for decision in Decision:
        assert decision.value in html(replace(VERDICTS["gain"], decision=decision))
        assert decision.value in shown(replace(VERDICTS["gain"], decision=decision))


def test_wording() -> None:
    assert [roughly(n) for n in (0, 7, 42, 100, 101, 1264, 98_765)] == ["0", "7", "42", "100", "110", "1,300", "99,000"]
    assert [signed(x) for x in (0.0, -0.0001, 0.0126, -0.5)] == ["0.000", "0.000", "+0.013", "−0.500"]
    assert counted(1, "query", "queries") == "1 query"
    assert counted(1200, "document") == "1,200 documents"
    assert clean("a\x1b[2J\n\tb\u202e") == "a [2J b"
