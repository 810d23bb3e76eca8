"""The picture of `secondpass bench --json`: time against candidates, and against tokens (extra `plot`).

Knows: that document, and how a figure is written so that the same one gives the same bytes. Refuses to know:
measuring, and any number that the document does not hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from secondpass.cli.bench_views import interval_name
from secondpass.extras import require

__all__ = ["STYLE", "check", "figure", "save"]

SUFFIXES = (".svg", ".png", ".pdf")
STYLE = {
    "svg.hashsalt": "secondpass",  # ids that do not change from run to run
    "svg.fonttype": "none",  # text stays text: a third of the bytes, and it can be found and read aloud
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
_MEASURED, _FITTED, _BUDGET = "#1f5fa8", "#7a7a7a", "#b3541e"


def check(path: Path) -> None:
    """Raise for a file that cannot be drawn to, and MissingExtraError without matplotlib."""
    if path.suffix.lower() not in SUFFIXES:
        raise typer.BadParameter(f"{path.name} must end in {', '.join(SUFFIXES)}", param_hint="--plot")
    if not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent}", param_hint="--plot")
    require("matplotlib", extra="plot", purpose="drawing")


def figure(data: dict[str, Any]) -> Any:
    """A matplotlib Figure of two panels."""
    matplotlib = require("matplotlib", extra="plot", purpose="drawing")
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(8.4, 3.4), layout="constrained", facecolor="white")
        left, right = drawn.subplots(1, 2)
        _sweep(left, data, "candidates")
        _sweep(right, data, "tokens")
        _budget_mark(left, data["budget"])
        model = data["model"]
        drawn.suptitle(
            f"{model['model']}: {model['precision']} on {model['engine']}, threads: {model['workers']}", fontsize=10
        )
    return drawn


def save(drawn: Any, path: Path, description: str = "") -> None:
    """Write by the suffix of `path`; an SVG carries the description and no date."""
    matplotlib = require("matplotlib", extra="plot", purpose="drawing")
    metadata = {"Date": None, "Description": description or None} if path.suffix.lower() == ".svg" else None
    with matplotlib.rc_context(STYLE):
        drawn.savefig(path, format=path.suffix[1:].lower(), dpi=150, metadata=metadata)


def _sweep(axes: Any, data: dict[str, Any], sweep: str) -> None:
    rows = [row for row in data["measurements"] if row["sweep"] == sweep]
    fit = data["fits"][sweep]
    sizes, times = [row[sweep] for row in rows], [row["median_ms"] for row in rows]
    ends = [
        [row["median_ms"] - row["interval_ms"][0] for row in rows],
        [row["interval_ms"][1] - row["median_ms"] for row in rows],
    ]
    steps = [fit["largest"] * step / 60 for step in range(61)]
    a, b, c = fit["a_ms"], fit["b_ms"], fit["c_ms"]
    r2 = "" if fit["r2"] is None else f", R² {fit['r2']:.4f}"
    axes.plot(steps, [a + b * x + c * x * x for x in steps], color=_FITTED, lw=1.2, label=f"fit{r2}")
    if c > 0.0:
        axes.plot(steps, [a + b * x for x in steps], color=_FITTED, lw=1, ls=":", label="its linear part")
    axes.errorbar(
        sizes,
        times,
        yerr=ends,
        fmt="o",
        ms=4,
        color=_MEASURED,
        capsize=2,
        lw=1,
        label=f"median, {interval_name(data['rounds'])}",
    )
    at = f"{rows[0]['tokens']:.0f} tokens each" if sweep == "candidates" else f"{rows[0]['candidates']} candidates"
    axes.set(title=f"ms a request, {at}", xlabel="candidates" if sweep == "candidates" else "tokens of a pair")
    axes.set_xlim(0, None)
    axes.set_ylim(0, None)
    axes.legend(loc="upper left", fontsize=8)


def _budget_mark(axes: Any, budget: dict[str, Any]) -> None:
    """The budget as a line, with the depth it allows; left out where it is far above all that was measured."""
    depth, limit = budget["median"]["depth"], budget["budget_ms"]
    if limit > 1.1 * axes.get_ylim()[1]:
        return
    axes.axhline(limit, color=_BUDGET, lw=0.8, ls="--")
    told = f"{limit:g} ms: depth {'≥ ' if budget['median']['at_least'] else ''}{depth}"
    at = (1, limit)
    axes.annotate(told, at, (0, 3), ("axes fraction", "data"), "offset points", ha="right", color=_BUDGET, fontsize=8)
