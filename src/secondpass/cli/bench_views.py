"""What `secondpass bench` found, for a terminal of 80 columns.

Knows: the document of `secondpass bench --json`, and layout. Refuses to know: how anything was measured or fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from secondpass.cli.terminal import results
from secondpass.evaluation.wording import clean, counted

__all__ = ["interval_name", "show"]


def show(data: dict[str, Any]) -> None:
    """Print what was run, both tables with their fits, and the depth for the budget."""
    model = data["model"]
    engine = f"{model['precision']} on {model['engine']}, {counted(model['workers'], 'thread')} ({model['why']})"
    results.print(Text.assemble((clean(model["model"]), "bold"), f", {clean(engine)}"))
    results.print(Text(f"texts: {clean(data['texts'])}; {counted(data['rounds'], 'round')}", "dim"))
    results.print()
    for sweep in ("candidates", "tokens"):
        rows = [row for row in data["measurements"] if row["sweep"] == sweep]
        results.print(_table(rows, interval_name(data["rounds"])))
        for line in _fit_lines(sweep, data["fits"][sweep]):
            results.print(Text(f"  {line}"))
        results.print()
    for sentence in _budget_lines(data["budget"]):
        results.print(sentence)


def interval_name(rounds: int) -> str:
    """What may be said of a median's interval: fewer than six values cannot give 95 %."""
    return "95 % interval" if rounds >= 6 else "least … most"


def _table(rows: Sequence[dict[str, Any]], interval: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("candidates", "tokens each", "median ms", interval, "pairs/s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    slowest = max(row["median_ms"] for row in rows)
    for row in rows:
        low, high = row["interval_ms"]
        cells = (f"{row['candidates']:,}", f"{row['tokens']:,.0f}", _ms(row["median_ms"]), f"{_ms(low)} … {_ms(high)}")
        table.add_row(*cells, f"{row['pairs_per_s']:,.0f}", Text("█" * round(16 * row["median_ms"] / slowest), "blue"))
    return table


def _fit_lines(sweep: str, fit: dict[str, Any]) -> list[str]:
    name = {"candidates": "n", "tokens": "L"}[sweep]
    formula = f"{_ms(fit['a_ms'])} + {fit['b_ms']:.3g}·{name}"
    if fit["c_ms"]:
        formula += f" + {fit['c_ms']:.3g}·{name}²"
    r2 = "not defined" if fit["r2"] is None else f"{fit['r2']:.4f}"
    lines = [
        f"ms = {formula}   R² {r2}, off by {fit['largest_error']:.1%} at most",
        f"grows like {name}^{fit['exponent']:.2f} on the whole, {name}^{fit['exponent_end']:.2f} at the upper end",
    ]
    if fit["crossover"]:
        far = " (beyond what was measured)" if fit["crossover"] > fit["largest"] else ""
        lines.append(f"the quadratic part is as large as the linear one at {fit['crossover']:,.0f} tokens{far}")
    elif sweep == "tokens" and not fit["c_ms"]:
        lines.append("no quadratic part can be seen at these lengths")
    return lines


def _budget_lines(budget: dict[str, Any]) -> list[Text]:
    median, held = budget["median"], budget["held"]
    what = f"largest depth for {budget['budget_ms']:g} ms: "
    if median["depth"]:
        found = f"{'at least ' if median['at_least'] else ''}{counted(median['depth'], 'candidate')}"
        careful = f"{'at least ' if held['at_least'] else ''}{held['depth'] or 'none'}"
        why = f"(median; {careful} to hold it {100 * budget['held_share']:.0f} % of the time)"
        lines = [Text.assemble(what, (found, "bold green"), f" of {budget['tokens']:.0f} tokens {why}")]
    else:
        one = f"one candidate of {budget['tokens']:.0f} tokens takes {_ms(budget['one_ms'])} ms by the fit"
        lines = [Text.assemble(what, ("none", "bold yellow"), f"; {one}")]
    if median["at_least"]:
        told = f"{budget['most_measured']:,} is the most that was measured; --candidates takes more"
        lines.append(Text(f"  {told}", "dim"))
    elif median["by_fit_alone"] or held["by_fit_alone"]:
        lines.append(Text("  by the fit, below the fewest measured; --candidates takes fewer", "dim"))
    checks = {kind["checked"]["candidates"]: kind["checked"] for kind in (median, held) if "checked" in kind}
    for candidates, checked in checks.items():
        told = f"{counted(candidates, 'candidate')} took {_ms(checked['median_ms'])} ms (median)"
        kept = f"{checked['within']} of {checked['requests']} requests in time"
        late = checked["median_ms"] > budget["budget_ms"]
        lines.append(Text(f"  checked: {told}, {kept}", "yellow" if late else "dim"))
    return lines


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
