"""The terminal's view of a verdict: one screen of 80 columns, details left to the page.

Knows: how many lines are worth it, and how to break them. Refuses to know: how anything was computed, HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from secondpass.evaluation.diagnosis import Diagnosis
from secondpass.evaluation.metrics import parse_metric
from secondpass.evaluation.report import story
from secondpass.evaluation.segments import sentences as segment_sentences
from secondpass.evaluation.verdict import Control, Decision, DepthPoint, Outcome, Verdict
from secondpass.evaluation.wording import clean, signed

__all__ = ["COLOURS", "Page", "comparison", "terminal"]

COLOURS = {
    Decision.HARMFUL: "red",
    Decision.NOT_WORTH_IT: "yellow",
    Decision.INCONCLUSIVE: "cyan",
    Decision.FIX_RETRIEVAL_FIRST: "blue",
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
_EXAMPLES = 3
_SEGMENTS = 4


class Page:
    """Lines on a console, two columns in from the left, never wider than 100 columns."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.width = min(console.width, 100)

    def panel(self, word: str, reason: str, colour: str) -> None:
        """The word on top, with its reason."""
        words = Text.assemble((word, f"bold {colour}"), "\n", clean(reason))
        self.console.print(Panel(words, box=ROUNDED, border_style=colour, padding=(0, 1), width=self.width))

    def put(self, what: RenderableType, *, gap: bool = True) -> None:
        """`what`, with an empty line above it."""
        self.console.print(Padding(what, (int(gap), 2, 0, 2)), width=self.width)

    def notes(self, notes: Sequence[str]) -> None:
        """A list under the title Notes; nothing for none."""
        if notes:
            self.put(Text("Notes", style="bold"))
            lines = Table.grid(padding=(0, 1))
            for note in notes:
                lines.add_row("•", Text(clean(note)))
            self.put(lines, gap=False)
        self.console.print()


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
        word = Text(verdict.decision.value, COLOURS[verdict.decision])
        table.add_row(clean(verdict.names[0]), *pool, change, f"{low} … {high}", word)
    return table


def terminal(verdict: Verdict, console: Console) -> None:
    """Print the verdict to `console`: the word, the sentences, the numbers, the curve, the queries, the notes."""
    page = Page(console)
    page.panel(verdict.decision.value, verdict.reason, COLOURS[verdict.decision])
    page.put(Text(clean(story.headline(verdict)), style="dim"), gap=False)
    page.put(Text(clean(" ".join(story.loss_and_gain(verdict)))))
    page.put(_bar(verdict, page.width - 4))
    page.put(_facts(verdict, page.width - 4))
    if verdict.curve:
        page.put(_curve(verdict, page.width - 4))
        page.put(Text(clean(story.depths(verdict))), gap=False)
    if verdict.controls:
        page.put(_controls(verdict.controls))
    if verdict.sweeps:
        page.put(_sweeps(verdict, page.width - 4))
    page.put(_diagnosis(verdict.diagnosis))
    if said := segment_sentences(verdict.segments):
        page.put(Text("Where it helps, where it hurts", style="bold"))
        for sentence in said[:_SEGMENTS]:
            page.put(Text(story.short(sentence, 150)), gap=False)
        if len(said) > _SEGMENTS:
            page.put(Text(f"and {len(said) - _SEGMENTS} more, on the page and in the data", style="dim"), gap=False)
    examples = [
        (title, outcomes)
        for title, outcomes in (
            ("Hurt most", verdict.most_hurt(_EXAMPLES)),
            ("Helped most", verdict.most_helped(_EXAMPLES)),
        )
        if outcomes
    ]
    if examples:
        page.put(_queries(examples))
    page.notes(verdict.notes)


def _bar(verdict: Verdict, width: int) -> Table:
    """The decomposition as a bar of text with its legend, two entries a line."""
    parts = story.decomposition(verdict)
    bar, entries, done, end = Text(no_wrap=True), [], 0, 0.0
    for part in parts:
        end += part.value
        cells = round(end * width) - done  # rounding the ends, not the lengths, keeps the bar as long as it should be
        done += cells
        block, colour = _FILLS[part.kind]
        bar.append(block * cells, style=colour)
        entries.append(Text.assemble((block * 2, colour), f" {part.value:.3f} {clean(part.label)}"))
    legend = Table.grid(padding=(0, 2), expand=True)
    for _ in range(2):
        legend.add_column(ratio=1)
    for left, right in zip(entries[::2], entries[1::2], strict=True):
        legend.add_row(left, right)
    both = Table.grid(expand=True)
    both.add_row(Text(f"{parse_metric(verdict.metric).label} from 0 to 1", style="bold"))
    both.add_row(bar)
    both.add_row(legend)
    return both


def _facts(verdict: Verdict, width: int) -> Table:
    change = f"{verdict.first:.3f} → {verdict.reranked:.3f} ({signed(verdict.difference)})"
    groups = []
    for title, facts in story.statistics(verdict)[:-1]:  # the other tests are on the page
        if title == story.LICENCE:  # it has room on the first line
            change += "".join(f" · {fact.short} {fact.value}" for fact in facts)
        else:
            groups.append((title.removeprefix("The ").removesuffix(" per query").capitalize(), facts))
    label = parse_metric(verdict.metric).label
    left = max(len(label), *(len(title) for title, _ in groups)) + 2
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row(Text(label), Text(change))
    for title, facts in groups:
        table.add_row(Text(title), Text(_packed([f"{fact.short} {fact.value}" for fact in facts], width - left)))
    return table


def _packed(parts: Sequence[str], width: int) -> str:
    """The parts on lines of at most `width`, with no break inside one that fits, so that a number keeps its name."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(part) + 3 <= width:
            lines[-1] += f" · {part}"
        else:
            lines.append(part)
    return "\n".join(lines)


def _curve(verdict: Verdict, width: int) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    points = _spread(verdict.curve, verdict.peak, max((width - 11) // 8, 2))
    for _ in points:
        table.add_column(justify="right", no_wrap=True)
    peak = verdict.peak
    rows = (
        ("Depth", [f"{point.depth:,}" for point in points]),
        (parse_metric(verdict.metric).label, [f"{point.value:.3f}" for point in points]),
        ("Change", [signed(point.difference) for point in points]),
    )
    for name, cells in rows:
        styled = (Text(cell, "bold" if point is peak else "") for cell, point in zip(cells, points, strict=True))
        table.add_row(Text(name), *styled)
    return table


def _spread(points: Sequence[DepthPoint], peak: DepthPoint | None, most: int) -> list[DepthPoint]:
    """At most `most` points: first, last and peak always, the others evenly."""
    if len(points) <= most:
        return list(points)
    kept = {round(i * (len(points) - 1) / (most - 1)) for i in range(most)}
    at = next((i for i, point in enumerate(points) if point is peak), 0)
    if at not in kept and most > 2:
        kept.discard(min(kept - {0, len(points) - 1}, key=lambda one: abs(one - at)))
        kept.add(at)
    return [points[i] for i in sorted(kept)]


def _controls(controls: Sequence[Control]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=20)
    table.add_column()
    table.add_row(Text("Instead of it", style="bold"), Text("the first stage replaced, and nothing reranked", "dim"))
    for control in controls:
        said = (
            f"{control.value:.3f} ({signed(control.gain)}, {story.between(control.gain_interval)}), "
            f"{signed(control.lead)} against reranking: {story.control_word(control)}"
        )
        table.add_row(Text(clean(control.name)), Text(said))
    return table


def _sweeps(verdict: Verdict, width: int) -> Table:
    left = min(max(len(clean(sweep.key)) for sweep in verdict.sweeps), 20)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True, overflow="ellipsis", width=left)
    table.add_column()
    for sweep in verdict.sweeps:
        points = [
            f"{story.short(point.setting, 28)} {point.value:.3f}"
            + (f" ({story.milliseconds(point.latency.p99_ms)})" if point.latency else "")
            for point in sweep.points
        ]
        table.add_row(Text(clean(sweep.key)), Text(_packed(points, width - left - 2)))
    table.add_row("", Text("setting, its metric, and the p99 that it adds", style="dim"))
    return table


def _diagnosis(diagnosis: Diagnosis) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    for _ in range(2):
        table.add_column(justify="right", no_wrap=True)
    table.add_row(*(Text(name, style="bold") for name in ("Where it was lost", "queries", "of the loss")))
    holding = [count for count in diagnosis.counts if count.queries]
    for count in holding:
        share = "" if count.loss_share is None else f"{count.loss_share:.0%}"
        table.add_row(count.kind.value, f"{count.queries:,} of {count.checked:,}", share)
    share = "" if diagnosis.unexplained_share is None else f"{diagnosis.unexplained_share:.0%}"
    table.add_row("none of these", f"{diagnosis.unexplained:,} of {len(diagnosis.findings):,}", share)
    unchecked = ", ".join(count.kind.value for count in diagnosis.counts if not count.checked)
    lines = Table.grid()
    lines.add_row(table)
    if unchecked:
        lines.add_row(Text(f"not checked: {unchecked}", style="dim"))
    return lines


def _queries(examples: Iterable[tuple[str, Sequence[Outcome]]]) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="center", no_wrap=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for title, outcomes in examples:
        about = Text.assemble((title, "bold"), ("  rank: of the first relevant document", "dim"))
        table.add_row(Text("change", "dim"), Text("rank", "dim"), about)
        for outcome in outcomes:
            query = Text(clean(outcome.query) or clean(outcome.query_id))
            table.add_row(signed(outcome.difference), story.ranks(outcome), query)
    return table
