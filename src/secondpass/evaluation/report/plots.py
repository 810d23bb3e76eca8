"""The plots of an audit's page.

Knows: what of a verdict is plotted, and how it is labelled. Refuses to know: how the numbers came about, the page
around.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10

from secondpass.evaluation.metrics import parse_metric
from secondpass.evaluation.report import story
from secondpass.evaluation.report.drawing import LEFT, RIGHT, Frame, caption, dot, figure, line_points, ticks
from secondpass.evaluation.report.markup import text
from secondpass.evaluation.verdict import Sweep, SweepPoint, Verdict
from secondpass.evaluation.wording import signed

__all__ = ["PATTERNS", "decomposition", "depth_curve", "differences", "interval", "pareto", "sweep_curve"]

PATTERNS = """<svg class="patterns" width="0" height="0" aria-hidden="true"><defs>
<pattern id="hatch" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<rect class="lost-ground" x="0" width="8" height="8"/><rect class="lost-line" x="0" width="3" height="8"/></pattern>
<pattern id="thin" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(-45)">
<rect class="missing-ground" x="0" width="8" height="8"/><rect class="missing-line" x="0" width="2" height="8"/>
</pattern>
</defs></svg>"""
"""What is lost and what is missing is hatched, to be told from the rest without colours. Once a page."""


def decomposition(verdict: Verdict) -> str:
    """The metric from 0 to 1, in its parts."""
    bars, legend, start = [], [], 0.0
    for part in story.decomposition(verdict):
        bars.append(f'<rect class="{part.kind}" x="{1000 * start:.2f}" width="{1000 * part.value:.2f}" height="40"/>')
        swatch = f'<rect class="{part.kind}" x="0" width="16" height="16"/>'
        swatch = f'<svg viewBox="0 0 16 16" aria-hidden="true">{swatch}</svg>'
        legend.append(f"<li>{swatch}<b>{part.value:.3f}</b> {text(part.label)}</li>")
        start += part.value
    spoken = ", ".join(f"{part.label} {part.value:.3f}" for part in story.decomposition(verdict))
    return f"""<figure>
<figcaption>{text(_label(verdict))} from 0 to 1</figcaption>
<svg class="bar" viewBox="0 0 1000 40" preserveAspectRatio="none" role="img" aria-label="{text(spoken)}">
{"".join(bars)}
</svg>
<ul class="legend">{"".join(legend)}</ul>
</figure>"""


def interval(verdict: Verdict) -> str:
    """Δ and its interval on an axis that shows 0 and δ, the two points the verdict goes by."""
    low, high = verdict.interval
    delta = verdict.smallest_effect
    if not (isfinite(low) and isfinite(high)):
        return ""
    points = (low, high, 0.0, delta)
    span = max(max(points) - min(points), 1e-6)
    start, end = min(points) - 0.2 * span, max(points) + 0.2 * span

    def x(value: float) -> float:
        return round(1000 * (value - start) / (end - start), 2)

    title = f"{_label(verdict)} {verdict.first:.3f} → {verdict.reranked:.3f}: the change and its 95% interval"
    # 0 and δ can be close together: their labels lean away from each other
    return f"""<figure>
<figcaption>{text(title)}</figcaption>
<svg class="interval" viewBox="0 0 1000 120" role="img" aria-label="{text(verdict.reason)}">
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
<text x="{x(0.0) - 4:.2f}" y="112" text-anchor="end">0</text>
<text x="{x(delta) + 4:.2f}" y="112" text-anchor="start">{delta:g} matters</text>
</svg>
</figure>"""


def differences(verdict: Verdict) -> str:
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
        about = f"{story.short(outcome.query or outcome.query_id, 80)}: {signed(outcome.difference)}"
        bars.append(
            f'<rect class="{kind}" x="{position * width:.2f}" y="{top:.2f}" width="{width:.2f}" height="{size:.2f}">'
            f"<title>{text(about)}</title></rect>\n"
        )
    counts = f"{verdict.helped:,} helped, {verdict.unchanged:,} unchanged, {verdict.hurt:,} hurt"
    return f"""<figure>
<figcaption>Change per query, sorted: {counts}</figcaption>
<svg class="differences" viewBox="0 0 1000 200" preserveAspectRatio="none" role="img" aria-label="{counts}">
{"".join(bars)}
<line class="zero" x1="0" x2="1000" y1="{zero:.2f}" y2="{zero:.2f}"/>
</svg>
</figure>"""


def depth_curve(verdict: Verdict) -> str:
    """The metric against depth, with its interval, the best order of as many, and the peak; "" for fewer than two."""
    points, peak = verdict.curve, verdict.peak
    if len(points) < 2 or peak is None:
        return ""
    band = [_ends(verdict, point.interval) for point in points]
    scale = Frame(
        [point.value for point in points]
        + [point.best for point in points]
        + [end for ends in band if ends for end in ends]
        + [verdict.first],
        320.0,
    )
    x = _log_axis([float(point.depth) for point in points])
    places = [x(float(point.depth)) for point in points]
    labels = [(place, f"{point.depth:,}") for place, point in zip(places, points, strict=True)]
    marks = [scale.grid(), ticks(labels, scale)]
    known = [(place, ends) for place, ends in zip(places, band, strict=True) if ends]
    if len(known) > 1:
        around = [(place, ends[1]) for place, ends in known] + [(place, ends[0]) for place, ends in reversed(known)]
        marks.append(f'<polygon class="band" points="{line_points(around, scale)}"/>')
    best = [(place, point.best) for place, point in zip(places, points, strict=True)]
    value = [(place, point.value) for place, point in zip(places, points, strict=True)]
    marks.append(f'<polyline class="best" points="{line_points(best, scale)}"/>')
    marks.append(scale.level(verdict.first))
    marks.append(f'<polyline class="curve" points="{line_points(value, scale)}"/>')
    for (place, height), point in zip(value, points, strict=True):
        change = f"{signed(point.difference)}, {story.between(point.interval)}"
        marks.append(dot(place, scale.y(height), f"depth {point.depth:,}: {point.value:.3f} ({change})"))
    at, top = x(float(peak.depth)), scale.y(peak.value)
    marks.append(f'<circle class="peak" cx="{at:.2f}" cy="{top:.2f}" r="12"/>')
    crowded = scale.y(peak.best) > top - 70.0  # the line of N* runs where the label would be
    marks.append(caption(at, top + 36 if crowded else top - 20, f"peak {peak.value:.3f} at {peak.depth:,}"))
    marks.append(caption(RIGHT, scale.y(points[-1].best) - 10, f"best order N* {points[-1].best:.3f}"))
    marks.append(caption(LEFT + 6, scale.y(verdict.first) + 24, f"without reranking {verdict.first:.3f}"))
    title = f"{_label(verdict)} by depth, and the 95% interval of its change"
    return figure(title, story.depths(verdict), scale, marks)


def sweep_curve(verdict: Verdict, sweep: Sweep) -> str:
    """One key's settings in their order, with the 95% interval of each."""
    points = sweep.points
    if not points:
        return ""
    band = [_ends(verdict, point.interval) for point in points]
    ends = [end for pair in band if pair for end in pair]
    scale = Frame([point.value for point in points] + ends + [verdict.first], 240.0)
    step = (RIGHT - LEFT) / len(points)
    places = [LEFT + step * (i + 0.5) for i in range(len(points))]
    fits = max(int(step / 12), 4)  # characters of a label that do not run into the next one
    marks = [scale.grid(), scale.level(verdict.first)]
    labels = [(place, story.short(point.setting, fits)) for place, point in zip(places, points, strict=True)]
    marks.append(ticks(labels, scale))
    value = [(place, point.value) for place, point in zip(places, points, strict=True)]
    marks.append(f'<polyline class="curve" points="{line_points(value, scale)}"/>')
    for place, point, pair in zip(places, points, band, strict=True):
        if pair:
            low, high = (f"{scale.y(end):.2f}" for end in pair)
            marks.append(f'<line class="thin" x1="{place:.2f}" x2="{place:.2f}" y1="{low}" y2="{high}"/>')
        marks.append(dot(place, scale.y(point.value), _about(sweep, point)))
    spoken = ", ".join(f"{point.setting} {point.value:.3f}" for point in points)
    return figure(f"{_label(verdict)} by {sweep.key}; the line across is without reranking", spoken, scale, marks)


def pareto(verdict: Verdict, against: str) -> str:
    """Every setting that was run: worth against "time" (p99, ms) or "cost" (of 1,000 queries), the front joined.

    "" where fewer than two settings have the measure.
    """
    found = [
        (measure, sweep, at, point)
        for at, sweep in enumerate(verdict.sweeps)
        for point in sweep.points
        if (measure := _measure(point, against)) is not None and measure > 0.0
    ]
    if len(found) < 2:
        return ""
    scale = Frame([point.value for _, _, _, point in found] + [verdict.first], 340.0)
    x = _log_axis([measure for measure, _, _, _ in found])
    marks = [scale.grid(), scale.level(verdict.first)]
    least, most = (pick(measure for measure, _, _, _ in found) for pick in (min, max))
    marks.append(ticks([(x(tick), f"{tick:,g}") for tick in _round_numbers(least, most)], scale))
    front = sorted(
        (measure, point.value)
        for measure, _, _, point in found
        if (point.on_time_front if against == "time" else point.on_cost_front)
    )
    if len(front) > 1:
        joined = [(x(measure), worth) for measure, worth in front]
        marks.append(f'<polyline class="front" points="{line_points(joined, scale)}"/>')
    placed = [(x(measure), scale.y(point.value)) for measure, _, _, point in found]
    captions = _Captions([(place - 10, height - 10, place + 10, height + 10) for place, height in placed])
    for (place, height), (_, sweep, at, point) in zip(placed, found, strict=True):
        on_front = point.on_time_front if against == "time" else point.on_cost_front
        about = f"<title>{text(_about(sweep, point))}</title>"
        marks.append(_mark(at, place, height, "front-point" if on_front else "outdone", about))
        if on_front:
            marks.append(captions.beside(place, height, story.short(f"{sweep.key} {point.setting}", 28)))
    currency = f", {verdict.cost.currency}" if verdict.cost else ""
    unit = "the p99 that it adds, ms" if against == "time" else f"what it adds to the cost of 1,000 queries{currency}"
    legend = "".join(
        f'<li><svg viewBox="0 0 20 20" aria-hidden="true">{_mark(at, 10, 10, "front-point", "")}</svg>'
        f"{text(sweep.key)}</li>"
        for at, sweep in enumerate(verdict.sweeps)
    )
    spoken = ", ".join(f"{_about(sweep, point)}" for _, sweep, _, point in found)
    title = f"{_label(verdict)} against {unit}. Filled and joined: nothing else is worth as much for less"
    return figure(title, spoken, scale, marks, f'<ul class="legend">{legend}</ul>')


@dataclass(frozen=True, slots=True)
class _Captions:
    """Labels beside points, put where nothing is in `boxes` (left, top, right, bottom), which they join."""

    boxes: list[tuple[float, float, float, float]]

    def beside(self, x: float, y: float, words: str) -> str:
        """A label above or below the point; none where neither is free: the tables have them all."""
        half = 5.0 * len(words)
        middle = min(max(x, LEFT + half), RIGHT - half)
        for baseline in (y - 16.0, y + 32.0):
            box = (middle - half, baseline - 16.0, middle + half, baseline + 4.0)
            if all(box[2] < a or c < box[0] or box[3] < b or d < box[1] for a, b, c, d in self.boxes):
                self.boxes.append(box)
                return f'<text x="{middle:.2f}" y="{baseline:.2f}" text-anchor="middle">{text(words)}</text>'
        return ""


def _label(verdict: Verdict) -> str:
    return parse_metric(verdict.metric).label


def _ends(verdict: Verdict, ends: tuple[float, float]) -> tuple[float, float] | None:
    """The interval of a change as one of the metric itself; None where it is unknown."""
    low, high = ends
    return (verdict.first + low, verdict.first + high) if isfinite(low) and isfinite(high) else None


def _log_axis(values: Sequence[float]) -> Callable[[float], float]:
    low, high = log10(min(values)), log10(max(values))
    left, width = LEFT + 30.0, RIGHT - LEFT - 60.0
    if high <= low:
        return lambda value: left + width / 2
    return lambda value: left + width * (log10(value) - low) / (high - low)


def _mark(at: int, x: float, y: float, kind: str, inside: str) -> str:
    """A circle, square, triangle or diamond: sweeps are told apart by shape."""
    shape = at % 4
    if shape == 0:
        return f'<circle class="{kind}" cx="{x:.2f}" cy="{y:.2f}" r="8">{inside}</circle>'
    corners = {
        1: ((-7, -7), (7, -7), (7, 7), (-7, 7)),
        2: ((0, -9), (9, 7), (-9, 7)),
        3: ((0, -10), (10, 0), (0, 10), (-10, 0)),
    }[shape]
    points = " ".join(f"{x + dx:.2f},{y + dy:.2f}" for dx, dy in corners)
    return f'<polygon class="{kind}" points="{points}">{inside}</polygon>'


def _about(sweep: Sweep, point: SweepPoint) -> str:
    p99 = f", p99 {story.milliseconds(point.latency.p99_ms)}" if point.latency else ""
    return f"{sweep.key} {point.setting}: {point.value:.3f} ({signed(point.difference)}){p99}"


def _measure(point: SweepPoint, against: str) -> float | None:
    if against == "cost":
        return point.per_1000
    return point.latency.p99_ms if point.latency else None


def _round_numbers(least: float, most: float) -> list[float]:
    """1, 2 and 5 times powers of ten between the ends, or the ends where there are fewer than two."""
    powers = range(floor(log10(least)), floor(log10(most)) + 1)
    found = [
        tick for power in powers for factor in (1, 2, 5) if least <= (tick := round(factor * 10.0**power, 12)) <= most
    ]
    return found if len(found) > 1 else [least, most] if most > least else [least]
