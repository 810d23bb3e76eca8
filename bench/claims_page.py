"""bench/results/claims.json as the tables of docs/claims.md, which bench/tables.py puts there.

Knows: findings as JSON, Markdown. Refuses to know: how anything was measured or judged.
"""

from __future__ import annotations

from typing import Any


def summary(result: dict[str, Any]) -> str:
    """One row a claim, and what all of it rests on."""
    rows = ["| | claim | | what was measured |", "|---|---|---|---|"]
    for row in result["rows"]:
        rows.append(f"| {row['number']} | {row['claim']} | **{row['word']}** | {row['conditions']} |")
    parts = ", ".join(
        f"{one['collection']} {one['queries']:,} of {one['queries_there']:,} over {one['documents']:,} documents"
        for one in result["collections"]
    )
    model = result["model"]
    return "\n".join(
        [
            *rows,
            "",
            f"Test queries, drawn by a seed: {parts}. First stages bm25, dense and hybrid at depth {result['depth']}; "
            f"reranked by {model['model']} alone (digest {model['digest'][:8]}, {model['precision']} on "
            f"{model['engine']}, up to {model['max_length']} tokens).",
        ]
    )


def detail(result: dict[str, Any], number: int) -> str:
    """The word, the sentence, the rule and the numbers of one claim."""
    (row,) = (row for row in result["rows"] if row["number"] == number)
    lines = [f"**{row['word'].capitalize()}.** {row['conditions']}", "", f"Rule: {row['rule']}"]
    alone = {name: value for name, value in row["numbers"].items() if name != "rows"}
    if alone:
        lines += ["", "; ".join(_named(name, value) for name, value in alone.items()) + "."]
    if table := row["numbers"]["rows"]:
        head = list(table[0])
        lines += ["", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        lines += [f"| {' | '.join(cell(one[name]) for name in head)} |" for one in table]
    return "\n".join(lines)


def _named(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"{name}: " + ", ".join(f"{key} {cell(one)}" for key, one in value.items())
    return f"{name}: {cell(value)}"


def cell(value: Any) -> str:
    """A number with as many digits as it is good for, an interval in brackets, nothing known as a dash.

    A list of three is a number and its interval.
    """
    if value is None:
        return "—"
    if isinstance(value, list):
        if len(value) == 3:
            return f"{cell(value[0])} {cell(value[1:])}"
        return f"[{', '.join(map(cell, value))}]"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        size = abs(value)
        return f"{value:,.0f}" if size >= 1000 else f"{value:.1f}" if size >= 10 else f"{value:.3f}"
    return str(value).rstrip(".")
