"""Markdown for a pull request: what a reviewer has to know of a verdict, the rest folded away.

Knows: GitHub's Markdown, and how to keep foreign text from being taken for it. Refuses to know: how anything was
computed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from secondpass.evaluation import diagnosis
from secondpass.evaluation.metrics import parse_metric
from secondpass.evaluation.report import story
from secondpass.evaluation.segments import sentences as segment_sentences
from secondpass.evaluation.verdict import Decision, Verdict
from secondpass.evaluation.wording import money, signed

__all__ = ["SIGNS", "cell", "folded", "markdown", "table"]

SIGNS = {
    Decision.HARMFUL: "🔴",
    Decision.NOT_WORTH_IT: "🟠",
    Decision.INCONCLUSIVE: "⚪",
    Decision.FIX_RETRIEVAL_FIRST: "🔵",
    Decision.TOO_SLOW: "🟣",
    Decision.WORTH_IT: "🟢",
}
_SPECIAL = re.compile(r"([\\`*_\[\]#|~$]|^[-+=](?!\d))")
_NUMBERED = re.compile(r"^(\d+)([.)])(?=\s|$)")
_LINKED = re.compile(r"(?<!\w)@(?=\w)|@(?=[\w-]+\.\w)|#(?=\d)|(?<=http)(?=s?:)|(?<=www)(?=\.)", re.IGNORECASE)
_EXAMPLES = 3
_SEGMENTS = 4
_LONGEST = 160  # characters of foreign text in one cell


def markdown(verdict: Verdict) -> str:
    """The verdict as Markdown: word, reason, a table, a few lines, and details folded away. Ends with a newline."""
    label = parse_metric(verdict.metric).label
    blocks = [
        f"### {SIGNS[verdict.decision]} {verdict.decision.value}: {cell(' → '.join(verdict.names))}",
        cell(verdict.reason, most=2_000),
        table(("", "before", "after", "change", "95% interval", "p"), _rows(verdict)),
        "**Where the loss is:** "
        + " · ".join(f"{part.value:.3f} {cell(part.label)}" for part in story.decomposition(verdict)),
    ]
    if curve := story.depths(verdict):
        blocks.append(f"**Depth:** {cell(curve)}")
    if verdict.controls:
        blocks.append("**Instead of it:**")
        blocks.append(
            _bullets(
                f"{cell(control.name)}: {label} {control.value:.3f} ({signed(control.gain)}, "
                f"{story.between(control.gain_interval)}), {signed(control.lead)} against reranking: "
                f"{story.control_word(control)}"
                for control in verdict.controls
            )
        )
    if said := segment_sentences(verdict.segments):
        blocks += ["**Where it helps, where it hurts:**", _bullets(cell(one) for one in said[:_SEGMENTS])]
    if worst := verdict.most_hurt(_EXAMPLES):
        rows = [
            (
                cell(outcome.query or outcome.query_id),
                signed(outcome.difference),
                story.ranks(outcome),
                cell(story.document(outcome.top_after)),
            )
            for outcome in worst
        ]
        blocks.append(table(("hurt most", "change", "first relevant", "now on top"), rows))
    blocks.append(folded("Why queries lost", _bullets(map(cell, diagnosis.sentences(verdict.diagnosis)))))
    blocks.append(folded("All numbers", table(("", ""), _facts(verdict))))
    if verdict.notes:
        blocks.append(folded(f"Notes ({len(verdict.notes)})", _bullets(cell(one, most=2_000) for one in verdict.notes)))
    return "\n\n".join(blocks) + "\n"


def cell(text: str, *, most: int = _LONGEST) -> str:
    """Foreign text as text: on one line, cut to `most` characters, with nothing that Markdown or HTML would obey."""
    escaped = _SPECIAL.sub(
        r"\\\1", story.short(text, most).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    )
    escaped = _NUMBERED.sub(r"\1\\\2", escaped)
    # GitHub links names, numbers and addresses in what Markdown has made of the text: no escape helps there
    return _LINKED.sub(lambda found: f"{found[0]}\u200b", escaped)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def folded(summary: str, content: str) -> str:
    """Content that opens on a click."""
    return f"<details><summary>{summary}</summary>\n\n{content}\n\n</details>"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _rows(verdict: Verdict) -> list[tuple[str, ...]]:
    change = (signed(verdict.difference), story.between(verdict.interval), story.p_value(verdict.p_value))
    label = f"**{parse_metric(verdict.metric).label}**"
    rows: list[tuple[str, ...]] = [
        (label, f"{verdict.first:.3f}", f"{verdict.reranked:.3f}", f"**{change[0]}**", *change[1:]),
        (f"recall@{verdict.depth} (the pool)", f"{verdict.recall:.3f}", "", "", "", ""),
    ]
    first, added = verdict.first_latency, verdict.added_latency
    if added is not None:
        before = story.milliseconds(first.p99_ms) if first else ""
        rows.append(("p99 (first stage; added)", before, "", f"+{story.milliseconds(added.p99_ms)}", "", ""))
    if verdict.cost is not None:
        cost = verdict.cost
        added_money = money(cost.added_per_1000, cost.currency)
        rows.append(("1,000 queries cost", money(cost.first_per_1000, cost.currency), "", f"+{added_money}", "", ""))
    return rows


def _facts(verdict: Verdict) -> Iterable[tuple[str, str]]:
    for title, facts in story.statistics(verdict):
        yield f"**{title}**", ""
        for fact in facts:
            yield cell(fact.name), cell(fact.value)
