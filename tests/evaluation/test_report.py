"""Every view says what the verdict says, at its width, and takes no text for markup."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.cells import cell_len
from rich.console import Console

from secondpass.evaluation import diagnosis
from secondpass.evaluation.audit import audit
from secondpass.evaluation.report import html, markdown, terminal
from secondpass.evaluation.report.pull_request import cell
from secondpass.evaluation.report.story import between, decomposition, depths, loss_and_gain, p_value, statistics
from secondpass.evaluation.segments import sentences as segment_sentences
from secondpass.evaluation.verdict import Decision, Verdict
from secondpass.evaluation.wording import clean, counted, money, roughly, signed
from toy_verdicts import full_verdict, verdict_of

VERDICTS = {
    "full": full_verdict(),
    "gain": verdict_of(60, 3),
    "loss": verdict_of(2, 50),
    "unsure": verdict_of(12, 11),
    "nothing": verdict_of(0, 0, missed=30),
    "slow": verdict_of(60, 3, budget_ms=1, seconds_reranked={"up0": 0.5}, seconds_baseline={"up0": 0.001}),
    "single": verdict_of(1, 0, missed=0),
    "perfect": verdict_of(0, 30, missed=0),
    "without texts": audit({"q": [("x", 1.0), ("r", 0.0)]}, {"q": [("r", 1.0)]}, {"q": {"r": 1}}),
}


def shown(verdict: Verdict, width: int = 80, **options: Any) -> str:
    stream = io.StringIO()
    terminal(verdict, Console(file=stream, width=width, **options))
    return stream.getvalue()


def parsed(page: str) -> ElementTree.Element:
    """The page as XML: every tag closed, every attribute quoted, nothing unescaped."""
    return ElementTree.fromstring(re.sub(r"<meta[^>]*>", "", page.removeprefix("<!DOCTYPE html>")))


def flat(tree: ElementTree.Element) -> str:
    return " ".join(" ".join(tree.itertext()).split())


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
    assert depths(verdict) in flat
    assert f"{verdict.first:.3f} → {verdict.reranked:.3f}" in flat
    assert "\x1b" not in text
    if width > 60 and any(outcome.query for outcome in (*verdict.most_helped(), *verdict.most_hurt())):
        assert "[bold]not markup[/]" in flat


def test_the_terminal_is_one_screen_and_names_every_part() -> None:
    verdict = VERDICTS["full"]
    text = shown(verdict)
    assert len(shown(replace(verdict, sweeps=(), notes=())).splitlines()) <= 66  # of a verdict that has everything
    for control in verdict.controls:
        assert clean(control.name)[:15] in text
        assert between(control.gain_interval) in text
    for _, facts in statistics(verdict)[:-1]:
        for fact in facts:
            assert f"{fact.short} {fact.value}" in text
    for point in verdict.curve:
        assert f"{point.value:.3f}" in text
    for count in verdict.diagnosis.counts:
        if count.queries:
            line = next(line for line in text.splitlines() if line.strip().startswith(count.kind.value))
            assert f"{count.queries:,} of {count.checked:,}" in line
    for tried in verdict.sweeps[0].points:
        assert f"{tried.value:.3f} (" in text
    assert "not checked: cut by truncation" in shown(VERDICTS["gain"])
    flat = " ".join(text.split())
    assert any(clean(sentence) in flat for sentence in segment_sentences(verdict.segments))


def test_hostile_text_reaches_neither_terminal_nor_page() -> None:
    for verdict in (VERDICTS["gain"], VERDICTS["full"]):
        coloured = shown(verdict, force_terminal=True, color_system="standard")
        assert "\x1b[31mred" not in coloured
        assert "\x07" not in coloured
        page = html(verdict)
        assert page.count("<script") == 1  # the page's own, which its policy knows by its hash
        assert "alert" not in re.search(r"<script>(.*?)</script>", page, re.S)[1]  # type: ignore[index]
        assert "&lt;script&gt;alert(&quot;1&quot;)" in page
        assert "A&lt;b&gt;" in page
        assert not re.search("[\x00-\x09\x0b-\x1f]", page)
        # what stands in attributes ends where the page ends it
        allowed = {"class", "id", "role", "aria-label", "aria-hidden", "scope", "tabindex", "lang", "d", "points"}
        allowed |= {"x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height", "viewBox", "text-anchor"}
        allowed |= {"preserveAspectRatio", "patternUnits", "patternTransform"}
        assert {name for element in parsed(page).iter() for name in element.attrib} <= allowed


@pytest.mark.parametrize("name", VERDICTS)
def test_the_page_is_whole_and_needs_nothing_else(name: str) -> None:
    verdict = VERDICTS[name]
    page = html(verdict)
    tree = parsed(page)
    text = flat(tree)
    assert tree.findtext(".//h1") == verdict.decision.value
    for sentence in (clean(verdict.reason), *map(clean, loss_and_gain(verdict)), *map(clean, verdict.notes)):
        assert sentence in text
    for _, facts in statistics(verdict):
        for fact in facts:
            assert clean(fact.name) in text
            assert clean(fact.value) in text
    assert not re.search(r"https?:|src=|href=|url\((?!#)|@import|\b(fetch|eval|innerHTML)\b", page)
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    for svg in tree.iter("svg"):
        _, _, width, height = map(float, svg.get("viewBox", "0 0 8 8").split())
        for rect in svg.iter("rect"):
            x, y = float(rect.attrib["x"]), float(rect.get("y", "0"))
            assert -0.01 <= x <= x + float(rect.attrib["width"]) <= width + 0.1
            assert -0.01 <= y <= y + float(rect.attrib["height"]) <= height + 0.1
        for circle in svg.iter("circle"):
            assert 0 <= float(circle.attrib["cx"]) <= width
            assert 0 <= float(circle.attrib["cy"]) <= height
        for line in svg.iter("polyline"):
            for pair in line.attrib["points"].split():
                x, y = map(float, pair.split(","))
                assert 0 <= x <= width
                assert 0 <= y <= height


def test_the_policy_lets_nothing_in_but_what_is_in_the_page() -> None:
    page = html(VERDICTS["full"])
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        [content] = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert " style=" not in page
    assert not re.search(r"\son[a-z]+=", page)


def test_every_query_is_a_row_and_every_table_is_whole() -> None:
    verdict = VERDICTS["full"]
    tree = parsed(html(verdict))
    tables = {region.attrib["aria-label"]: region.find("table") for region in tree.iter("div") if region.get("role")}
    assert {"Every query", "The depth curve", "Controls", "Patterns", "Segments"} <= tables.keys()
    for table in tables.values():
        assert table is not None
        heads = table.findall("./thead/tr/th")
        rows = table.findall("./tbody/tr")
        assert rows
        assert all(len(row.findall("td")) == len(heads) for row in rows)
    every = tables["Every query"]
    assert every is not None
    cells = [["".join(one.itertext()) for one in row] for row in every.iter("tr")][1:]
    assert {row[-1] for row in cells} == {outcome.query_id for outcome in verdict.outcomes}
    by_id = {row[-1]: row for row in cells}
    for outcome in verdict.outcomes:
        row = by_id[outcome.query_id]
        assert row[1:4] == [signed(outcome.difference), f"{outcome.first:.3f}", f"{outcome.reranked:.3f}"]
        assert row[5:7] == [str(rank or "") for rank in (outcome.rank_before, outcome.rank_after)]
    sides = [one for one in tree.iter("details") if one.find("./div[@class='sides']") is not None]
    assert len(sides) == len(verdict.diagnosis.worst) + len(verdict.diagnosis.best)
    assert verdict.diagnosis.worst[0].query_id.startswith("down")  # r x y became x y r
    assert [one.text for one in sides[0].iter("small")] == [
        "then rank 3", "then rank 1", "then rank 2", "from rank 2", "from rank 3", "from rank 1",
    ]  # fmt: skip
    grades = ["grade 1", "unjudged", "unjudged", "unjudged", "unjudged", "grade 1"]
    assert [one.text for one in sides[0].iter("b")] == grades


def test_a_thousand_queries_stay_small() -> None:
    verdict = VERDICTS["full"]
    outcomes = tuple(
        replace(outcome, query_id=f"{outcome.query_id}-{i}") for i in range(13) for outcome in verdict.outcomes
    )
    page = html(replace(verdict, outcomes=outcomes[:1000], queries=1000))
    assert len(page.encode()) < 3_000_000


def test_the_plots_draw_every_point() -> None:
    verdict = VERDICTS["full"]
    plots = {one.findtext("figcaption") or "": one for one in parsed(html(verdict)).iter("figure")}
    [curve] = [figure for title, figure in plots.items() if "by depth" in title]
    assert [one.get("class") for one in curve.iter("circle")] == ["point"] * len(verdict.curve) + ["peak"]
    assert f"peak {verdict.peak.value:.3f} at {verdict.peak.depth}" in flat(curve) if verdict.peak else False
    heights = [float(one.attrib["cy"]) for one in curve.iter("circle") if one.get("class") == "point"]
    ordered = sorted(range(len(heights)), key=lambda i: -heights[i])
    assert ordered == sorted(range(len(heights)), key=lambda i: verdict.curve[i].value)  # higher is up
    fronts = [figure for title, figure in plots.items() if "Filled and joined" in title]
    assert len(fronts) == 2
    for figure in fronts:
        svg = figure.find("svg")
        assert svg is not None
        marks = [one.get("class") for one in svg.iter() if one.get("class") in ("front-point", "outdone")]
        assert marks.count("front-point") == 3  # one of the model's points is of max_length, too
        assert marks.count("outdone") == 2
    assert sum("line across" in title for title in plots) == len(verdict.sweeps)


def test_the_markdown_says_it_and_foreign_text_stays_text() -> None:
    for verdict in VERDICTS.values():
        text = markdown(verdict)
        assert verdict.decision.value in text.splitlines()[0]
        plain = re.sub(r"\\([^\w\s])", r"\1", text)
        plain = plain.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").replace("\u200b", "")
        for sentence in (clean(verdict.reason), *map(clean, verdict.notes)):
            assert sentence in plain
        assert f"| {verdict.first:.3f} | {verdict.reranked:.3f} | **{signed(verdict.difference)}** |" in text
        assert between(verdict.interval) in text
        assert "<script" not in text
        assert "\x1b" not in text
        assert text.count("<details>") == text.count("</details>") == 2 + bool(verdict.notes)
        tables = re.findall(r"(?:^\|.*\|\n)+", text, re.M)
        assert tables
        for table in tables:
            pipes = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
            assert len(pipes) == 1, table
    full = VERDICTS["full"]
    for part in (depths(full), "**Instead of it:**", "hurt most", "All numbers"):
        assert part in markdown(full)
    for said in diagnosis.sentences(full.diagnosis):
        assert cell(said) in markdown(full)


def test_cells_of_markdown() -> None:
    assert cell("a|b\nc") == r"a\|b c"
    assert cell("`x` <b> *y* [z](u)") == r"\`x\` &lt;b&gt; \*y\* \[z\](u)"
    assert cell("- a") == r"\- a"
    assert cell("1. a") == r"1\. a"
    assert cell("0.116 and +0.2") == "0.116 and +0.2"
    assert cell("+0.2 to −0.1") == "+0.2 to −0.1"
    assert cell("nDCG@10") == "nDCG@10"
    for linked in ("@someone", "https://example.org", "www.example.org", "see #12", "a@example.org"):
        assert "\u200b" in cell(linked)
    assert len(cell("word " * 100)) <= 160


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


def test_the_curve_is_told() -> None:
    verdict = VERDICTS["full"]
    first, point = verdict.first, verdict.curve[0]

    def told(*values: float) -> str:
        curve = tuple(replace(point, depth=10 * (i + 1), value=first + value) for i, value in enumerate(values))
        return depths(replace(verdict, curve=curve))

    assert told() == ""
    assert "full depth of 20" in told(0.1, 0.2)
    assert "highest at depth 10" in told(0.2, 0.1)
    assert "turns down from there: −0.100 at 20" in told(0.2, 0.1)
    assert "deeper gains nothing" in told(0.2, 0.2)
    assert "No depth gains anything" in told(-0.2, -0.1)
    assert told(0.1).startswith("Reranked to depth 10")


def test_every_view_reads_as_each_word() -> None:
    for decision in Decision:
        verdict = replace(VERDICTS["full"], decision=decision)
        page = html(verdict)
        assert parsed(page).findtext(".//h1") == decision.value
        assert f"body.{decision.value.lower().replace(' ', '-')}" in page  # it has a colour of its own
        assert decision.value in shown(verdict)
        assert decision.value in markdown(verdict)


def test_wording() -> None:
    assert [roughly(n) for n in (0, 7, 42, 100, 101, 1264, 98_765)] == ["0", "7", "42", "100", "110", "1,300", "99,000"]
    assert [signed(x) for x in (0.0, -0.0001, 0.0126, -0.5)] == ["0.000", "0.000", "+0.013", "−0.500"]
    assert counted(1, "query", "queries") == "1 query"
    assert counted(1200, "document") == "1,200 documents"
    assert clean("a\x1b[2J\n\tb\u202e") == "a [2J b"
    amounts = [money(amount, "EUR") for amount in (0.0, 0.0000312, 0.034, 0.5, 12.345, 1234.5)]
    assert amounts == ["0.00 EUR", "0.000031 EUR", "0.034 EUR", "0.50 EUR", "12.35 EUR", "1,234 EUR"]
    assert [p_value(p) for p in (None, 0.00001, 0.0004, 0.0213, 1.0)] == [
        "unknown", "below 0.0001", "0.0004", "0.021", "1",
    ]  # fmt: skip
