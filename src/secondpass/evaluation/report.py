"""Two views of a Verdict: a terminal of 80 columns, and one self-contained HTML page.

Knows: layout. Refuses to know: how anything was computed, files, networks (the page loads nothing and
runs nothing).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from math import isfinite

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from secondpass.evaluation import story
from secondpass.evaluation.audit import Decision, Outcome, Shown, Verdict
from secondpass.evaluation.metrics import parse_metric
from secondpass.evaluation.wording import clean, signed

__all__ = ["comparison", "html", "terminal"]

_COLOURS = {
    Decision.HARMFUL: "red",
    Decision.NOT_WORTH_IT: "yellow",
    Decision.INCONCLUSIVE: "cyan",
    Decision.TOO_SLOW: "magenta",
    Decision.WORTH_IT: "green",
}
_FILLS = {  # kind of part -> block and colour: they must be told apart without colour, too
    "kept": ("█", "blue"),
    "gained": ("▓", "green"),
    "lost": ("▓", "red"),
    "left": ("░", "bright_black"),
    "missing": ("╳", "yellow"),
}


def comparison(verdicts: Sequence[Verdict]) -> Table:
    """One line a first stage: what its pool holds, what that allows, and what reranking makes of it."""
    label = parse_metric(verdicts[0].metric).label
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("first\nstage", no_wrap=True)
    for name in (f"recall\n@{verdicts[0].depth}", "best\norder", f"{label}\nas it is → reranked"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("change, 95%\ninterval", no_wrap=True)
    table.add_column("\nverdict", no_wrap=True)
    for verdict in verdicts:
        low, high = (signed(end) if isfinite(end) else "?" for end in verdict.interval)
        pool = (f"{number:.3f}" for number in (verdict.recall, verdict.best))
        change = f"{verdict.first:.3f} → {verdict.reranked:.3f}"
        word = Text(verdict.decision.value, _COLOURS[verdict.decision])
        table.add_row(clean(verdict.names[0]), *pool, change, f"{low} … {high}", word)
    return table


def terminal(verdict: Verdict, console: Console) -> None:
    """Print the verdict to `console`: the word, the sentences, the numbers, the queries, the notes."""
    colour = _COLOURS[verdict.decision]
    width = min(console.width, 100)
    words = Text.assemble((verdict.decision.value, f"bold {colour}"), "\n", clean(verdict.reason))
    console.print(Panel(words, box=ROUNDED, border_style=colour, padding=(0, 1), width=width))
    console.print(Text(f"  {clean(story.headline(verdict))}", style="dim"), width=width)
    console.print()
    for sentence in story.loss_and_gain(verdict):
        console.print(Padding(Text(clean(sentence)), (0, 2)), width=width)
    console.print()
    console.print(Padding(_bar(verdict, width - 4), (0, 2)), width=width)
    console.print(Padding(_numbers(verdict), (1, 2, 0, 2)), width=width)
    examples = False
    for title, outcomes in (("Hurt most", verdict.most_hurt()), ("Helped most", verdict.most_helped())):
        if outcomes:
            console.print(Padding(_queries(title, outcomes), (1, 2, 0, 2)), width=width)
            examples = True
    if examples:
        console.print(Padding(Text("* of the first relevant document, before → after", style="dim"), (0, 2)))
    if verdict.notes:
        console.print()
        console.print(Padding(Text("Notes", style="bold"), (0, 2)))
        for note in verdict.notes:
            line = Table.grid(padding=(0, 1))
            line.add_row("•", Text(clean(note)))
            console.print(Padding(line, (0, 2)), width=width)
    console.print()


def _bar(verdict: Verdict, width: int) -> Table:
    """The decomposition as a bar of text with its legend."""
    parts = story.decomposition(verdict)
    bar, legend, done, end = Text(no_wrap=True), Table.grid(padding=(0, 1)), 0, 0.0
    for part in parts:
        end += part.value
        cells = round(end * width) - done  # rounding the ends, not the lengths, keeps the bar as long as it should be
        done += cells
        block, colour = _FILLS[part.kind]
        bar.append(block * cells, style=colour)
        legend.add_row(Text(block * 2, style=colour), f"{part.value:.3f}", Text(clean(part.label)))
    both = Table.grid()
    both.add_row(Text(f"{parse_metric(verdict.metric).label} from 0 to 1", style="bold"))
    both.add_row(bar)
    both.add_row(legend)
    return both


def _numbers(verdict: Verdict) -> Table:
    change = f"{verdict.first:.3f} → {verdict.reranked:.3f}  ({signed(verdict.difference)})"
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column(Text(parse_metric(verdict.metric).label))
    table.add_column(Text(change), justify="right")
    for title, rows in story.statistics(verdict):
        table.add_row(Text(title, style="bold"))
        for name, value in rows:
            table.add_row(Text(f"  {name}"), Text(value))
    return table


def _queries(title: str, outcomes: Iterable[Outcome]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), show_edge=False, expand=True)
    table.add_column("change", justify="right", no_wrap=True)
    table.add_column("rank*", justify="center", no_wrap=True)
    table.add_column(title, ratio=1, no_wrap=True, overflow="ellipsis")
    for outcome in outcomes:
        query = Text(clean(outcome.query) or clean(outcome.query_id))
        on_top = Text(f"now on top: {_document(outcome.top_after)}", style="dim")
        table.add_row(signed(outcome.difference), story.ranks(outcome), query.append("\n").append_text(on_top))
    return table


def _document(shown: Shown | None) -> str:
    if shown is None:
        return "nothing"
    grade = "unjudged" if shown.grade is None else f"grade {shown.grade}"
    return f"({grade}) {clean(shown.label) or shown.id}"


def html(verdict: Verdict) -> str:
    """The verdict as one HTML page that needs nothing else: no network, no script; light, dark and print."""
    css = files("secondpass.evaluation").joinpath("report.css").read_text("utf-8")
    word = verdict.decision.value
    examples = "".join(
        _query_table(title, outcomes)
        for title, outcomes in (("Hurt most", verdict.most_hurt()), ("Helped most", verdict.most_helped()))
        if outcomes
    )
    groups = "".join(
        f'<table class="numbers"><caption>{_text(title)}</caption><tbody>'
        + "".join(f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>' for name, value in rows)
        + "</tbody></table>"
        for title, rows in story.statistics(verdict)
    )
    notes = "".join(f"<li>{_text(note)}</li>" for note in verdict.notes)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(word)}: {_text(" → ".join(verdict.names))}</title>
<style>
{css}</style>
</head>
<body class="{word.lower().replace(" ", "-")}">
<header>
<p class="kicker">secondpass audit</p>
<h1>{_text(word)}</h1>
<p class="reason">{_text(verdict.reason)}</p>
<p class="meta">{_text(story.headline(verdict))}</p>
</header>
<main>
<section>
<h2>What was lost, what could be gained, what was</h2>
{_decomposition(verdict)}
{"".join(f"<p>{_text(sentence)}</p>" for sentence in story.loss_and_gain(verdict))}
</section>
<section>
<h2>Is the change real, and is it enough?</h2>
{_interval(verdict)}
<div class="groups">{groups}</div>
</section>
<section>
<h2>Query by query</h2>
{_differences(verdict)}
{examples}
{"<p><small>Rank: of the first relevant document, before → after.</small></p>" if examples else ""}
</section>
{f'<section><h2>Notes</h2><ul class="notes">{notes}</ul></section>' if notes else ""}
</main>
<footer><p>{_text(_METHOD)}</p></footer>
</body>
</html>
"""


_METHOD = (
    "Metrics as trec_eval computes them, by position. The interval is a BCa bootstrap over queries at 95%; p is from "
    "a two-sided paired randomisation test. The verdict goes by the interval: below 0 harmful; below the smallest "
    "effect that matters not worth it; across it inconclusive; above it worth it, unless the added p99 exceeds the "
    "budget. The best order of the pool (N*) is the ideal order of what the first stage found; nothing it missed is "
    "ever added."
)


def _text(text: str) -> str:
    return escape(clean(text))


def _decomposition(verdict: Verdict) -> str:
    parts = story.decomposition(verdict)
    bars, legend, start = [], [], 0.0
    for part in parts:
        bars.append(f'<rect class="{part.kind}" x="{1000 * start:.2f}" width="{1000 * part.value:.2f}" height="40"/>')
        legend.append(f'<li><i class="{part.kind}"></i><b>{part.value:.3f}</b> {_text(part.label)}</li>')
        start += part.value
    label = parse_metric(verdict.metric).label
    spoken = ", ".join(f"{part.label} {part.value:.3f}" for part in parts)
    return f"""<figure>
<figcaption>{_text(label)} from 0 to 1</figcaption>
<svg class="bar" viewBox="0 0 1000 40" preserveAspectRatio="none" role="img" aria-label="{_text(spoken)}">
{"".join(bars)}
</svg>
<ul class="legend">{"".join(legend)}</ul>
</figure>"""


def _interval(verdict: Verdict) -> str:
    """Δ and its interval on an axis that shows 0 and δ, the two points the verdict goes by."""
    low, high = verdict.interval
    label = parse_metric(verdict.metric).label
    delta = verdict.smallest_effect
    if not (isfinite(low) and isfinite(high)):
        return ""
    points = (low, high, 0.0, delta)
    span = max(max(points) - min(points), 1e-6)
    start, end = min(points) - 0.2 * span, max(points) + 0.2 * span

    def x(value: float) -> float:
        return round(1000 * (value - start) / (end - start), 2)

    # 0 and δ can be close together: their labels lean away from each other
    return f"""<figure>
<figcaption>{_text(label)} {verdict.first:.3f} → {verdict.reranked:.3f}: the change and its 95% interval</figcaption>
<svg class="interval" viewBox="0 0 1000 120" role="img" aria-label="{_text(verdict.reason)}">
<rect class="worse" x="0" y="0" width="{x(0.0)}" height="84"/>
<rect class="small" x="{x(0.0)}" y="0" width="{x(delta) - x(0.0):.2f}" height="84"/>
<rect class="enough" x="{x(delta)}" y="0" width="{1000 - x(delta):.2f}" height="84"/>
<line class="zero" x1="{x(0.0)}" x2="{x(0.0)}" y1="0" y2="92"/>
<line class="delta" x1="{x(delta)}" x2="{x(delta)}" y1="0" y2="92"/>
<line class="whisker" x1="{x(low)}" x2="{x(high)}" y1="51" y2="51"/>
<line class="whisker" x1="{x(low)}" x2="{x(low)}" y1="40" y2="60"/>
<line class="whisker" x1="{x(high)}" x2="{x(high)}" y1="40" y2="60"/>
<circle class="mean" cx="{x(verdict.difference)}" cy="51" r="9"/>
<text x="{x(low) - 12:.2f}" y="57" text-anchor="end">{signed(low)}</text>
<text x="{x(high) + 12:.2f}" y="57" text-anchor="start">{signed(high)}</text>
<text x="{x(0.0) + 4:.2f}" y="112" text-anchor="end">0</text>
<text x="{x(delta) - 4:.2f}" y="112" text-anchor="start">{delta:g} matters</text>
</svg>
</figure>"""


def _differences(verdict: Verdict) -> str:
    """Every query's difference as a bar, best first."""
    ordered = sorted(verdict.outcomes, key=lambda outcome: -outcome.difference)
    width = 1000 / len(ordered)
    up = max(max(outcome.difference for outcome in ordered), 0.0)
    down = max(max(-outcome.difference for outcome in ordered), 0.0)
    scale = 200 / (up + down) if up + down else 0.0
    zero = up * scale
    bars = []
    for position, outcome in enumerate(ordered):
        size = abs(outcome.difference) * scale
        if size < 0.01:
            continue  # unchanged: nothing to draw, and often most of the queries
        kind, top = ("gained", zero - size) if outcome.difference > 0 else ("lost", zero)
        about = f"{outcome.query or outcome.query_id}: {signed(outcome.difference)}"
        bars.append(
            f'<rect class="{kind}" x="{position * width:.2f}" y="{top:.2f}" width="{width:.2f}" height="{size:.2f}">'
            f"<title>{_text(about)}</title></rect>"
        )
    counts = f"{verdict.helped:,} helped, {verdict.unchanged:,} unchanged, {verdict.hurt:,} hurt"
    return f"""<figure>
<figcaption>Change per query, sorted: {counts}</figcaption>
<svg class="differences" viewBox="0 0 1000 200" preserveAspectRatio="none" role="img" aria-label="{counts}">
{"".join(bars)}
<line class="zero" x1="0" x2="1000" y1="{zero:.2f}" y2="{zero:.2f}"/>
</svg>
</figure>"""


def _query_table(title: str, outcomes: Iterable[Outcome]) -> str:
    rows = "".join(
        f"<tr><td>{_text(outcome.query or outcome.query_id)} <small>{_text(outcome.query_id if outcome.query else '')}"
        f'</small></td><td class="number">{signed(outcome.difference)}</td>'
        f'<td class="number">{story.ranks(outcome)}</td><td>{_text(_document(outcome.top_before))}</td>'
        f"<td>{_text(_document(outcome.top_after))}</td></tr>"
        for outcome in outcomes
    )
    return f"""<h3>{_text(title)}</h3>
<table class="queries">
<thead><tr><th scope="col">query</th><th scope="col">change</th><th scope="col">rank</th>
<th scope="col">was on top</th><th scope="col">now on top</th></tr></thead>
<tbody>{rows}</tbody>
</table>"""
