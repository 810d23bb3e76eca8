"""The claims about time (4, 5 and 8): what rounds of timed requests say of them.

Knows: times by round, and the thresholds that words follow from. Refuses to know: how they were measured, rankings.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

import numpy as np

from claims_numbers import CONDITIONS, DOES_NOT, HOLDS, UNKNOWN, Finding, Floats, ends, over_rounds, said_as, side, word
from secondpass.evaluation.cost import CostFit, fit_candidates, fit_tokens

LINEAR_R2, LINEAR_ERROR = 0.99, 0.10
LINEAR = (0.9, 1.1)  # exponents that count as linear
STEEP = 1.5  # half-way between linear and quadratic
VISIBLE = 0.01  # share of the time that the quadratic part must have at the longest pairs to be seen at all
NOWHERE = 1e6  # tokens; a crossover beyond any length, as where there is no quadratic part
HUNDREDS, THOUSANDS = 100.0, 10_000.0

CLAIM_4 = "Latency is linear in candidates"
CLAIM_5 = "Latency is quadratic in tokens, only asymptotically"
CLAIM_8 = "A pair costs hundreds to thousands of times a dot product"


def linear(times: dict[str, Any]) -> Finding:
    """4: time against candidates."""
    sizes, seconds = _sweep(times, "candidates")
    fit = fit_candidates(sizes, np.median(seconds, axis=1).tolist())

    def exponents(medians: Floats) -> tuple[float, float]:
        found = fit_candidates(sizes, medians.tolist())
        return found.exponent, found.exponent_end

    overall, end = over_rounds(seconds, exponents, cells=2)
    fits = (fit.r2 or 0.0) >= LINEAR_R2 and fit.largest_error <= LINEAR_ERROR
    whole, large = side(overall, *LINEAR), side(end, *LINEAR)
    if not fits or large is False:
        said = DOES_NOT
    elif large is None or whole is None:
        said = UNKNOWN
    else:
        said = HOLDS if whole else CONDITIONS
    half = _start_of_end(sizes)
    return Finding(
        4,
        CLAIM_4,
        said,
        f"From {sizes[0]:g} to {sizes[-1]:g} candidates a straight line describes the medians with R² {fit.r2:.4f} "
        f"and errors up to {fit.largest_error:.1%}: {1000 * fit.a:.1f} ms and {1000 * fit.b:.2f} ms a candidate; the "
        f"exponent is {said_as(overall, '.2f')} over all, {said_as(end, '.2f')} from {half:g} on.",
        f"Does not hold: R² below {LINEAR_R2}, an error above {LINEAR_ERROR:.0%}, or the interval of the exponent over "
        f"the larger half outside {LINEAR[0]} to {LINEAR[1]}. Holds: both exponents' intervals inside. Under "
        "conditions: only that of the larger half, the fixed cost bends the rest. Else it cannot be told.",
        {
            "fixed ms": 1000 * fit.a,
            "ms per candidate": 1000 * fit.b,
            "r2": fit.r2,
            "largest error": fit.largest_error,
            "exponent": overall,
            "exponent of the larger half": end,
            "rows": _slopes("candidates", sizes, seconds, fit),
        },
    )


def quadratic(times: dict[str, Any]) -> Finding:
    """5: time against the tokens of a pair."""
    sizes, seconds = _sweep(times, "tokens")
    longest = sizes[-1]
    fit = fit_tokens(sizes, np.median(seconds, axis=1).tolist())

    def shape(medians: Floats) -> tuple[float, float, float]:
        found = fit_tokens(sizes, medians.tolist())
        share = found.c * longest**2 / found.seconds(longest)
        return found.exponent_end, share, min(found.crossover or NOWHERE, NOWHERE)

    end, part, cross = over_rounds(seconds, shape, cells=3)
    beyond, flat = cross.low > times["max_length"], side(end, -inf, STEEP)
    if flat is False:
        said = DOES_NOT
    elif flat is None or not beyond:
        said = UNKNOWN
    else:
        said = HOLDS if part.low >= VISIBLE else CONDITIONS
    seen = (
        f"the quadratic part is {said_as(part, '.1%')} of the time at {longest:g} tokens and would equal the linear "
        f"one at {_length(cross.value)} ({_length(cross.low)} to {_length(cross.high)}; by operations alone, "
        f"6 × width, at {6 * times['width']:,})"
    )
    return Finding(
        5,
        CLAIM_5,
        said,
        f"Up to the {times['max_length']:,} tokens that this model reads, time grows with the power "
        f"{said_as(end, '.2f')} of the length (larger half); {seen}.",
        f"Does not hold (quadratic already at these lengths): the interval of the exponent over the larger half is "
        f"above {STEEP}. Holds: it is below, the crossover's interval lies beyond the model's length, and the "
        f"quadratic part's share of the longest pairs is at least {VISIBLE:.0%} in its whole interval. Under "
        "conditions: the same, but no quadratic part can be seen. Else it cannot be told.",
        {
            "exponent of the larger half": end,
            "quadratic share at the longest": part,
            "crossover, tokens": [end if end < NOWHERE else None for end in cross],
            "crossover by operations, tokens": 6 * times["width"],
            "longest that the model reads": times["max_length"],
            "rows": _slopes("tokens", sizes, seconds, fit),
        },
    )


def dot_products(times: dict[str, Any]) -> Finding:
    """8: seconds per pair over seconds per dot product."""
    pairs = {kind: np.array(values) for kind, values in times["pairs"].items()}
    cells = len(times["products"]) * len(pairs)
    rows, ratios = [], []
    for product in times["products"]:
        row = {
            "documents": product["documents"],
            "dimensions": product["dimensions"],
            "ns per dot product": 1e9 * float(np.median(product["seconds"])),
        }
        for kind, name in (("raw", "raw text"), ("kept", "tokens kept")):
            both = np.stack([pairs[kind], np.array(product["seconds"])])
            (found,) = over_rounds(both, lambda medians: [float(medians[0] / medians[1])], cells=cells)
            ratios.append(found)
            row |= {f"× for a pair, {name}": found.value, f"interval, {name}": ends(found)}
        rows.append(row)
    values = [found.value for found in ratios]
    raw, kept = (1e6 * float(np.median(pairs[kind])) for kind in ("raw", "kept"))
    return Finding(
        8,
        CLAIM_8,
        word([side(found, HUNDREDS, THOUSANDS) for found in ratios]),
        f"A pair of {times['pair_tokens']} tokens takes {raw:,.0f} µs from raw text and {kept:,.0f} µs with its "
        f"document's tokens kept: {min(values):,.0f} to {max(values):,.0f} times a dot product, by number and size of "
        "the vectors.",
        f"A ratio counts as hundreds to thousands where its interval is within {HUNDREDS:,.0f} to {THOUSANDS:,.0f}, as "
        "something else where it is outside. Holds or does not: at least half are decided, all the same way. Under "
        "conditions: some each way.",
        {"µs per pair, raw text": raw, "µs per pair, tokens kept": kept, "rows": rows},
    )


def _sweep(times: dict[str, Any], name: str) -> tuple[list[float], Floats]:
    """Sizes, and seconds [sizes, rounds]."""
    rows = [row for row in times["bench"]["measurements"] if row["sweep"] == name]
    return [float(row[name]) for row in rows], np.array([row["ms"] for row in rows]) / 1000


def _slopes(name: str, sizes: Sequence[float], seconds: Floats, fit: CostFit) -> list[dict[str, Any]]:
    """One row a size: measured, fitted, and the exponent from the size before."""
    rows: list[dict[str, Any]] = []
    for at, size in enumerate(sizes):
        median = float(np.median(seconds[at]))
        rows.append({name: int(size), "ms": 1000 * median, "fitted ms": 1000 * fit.seconds(size)})
    rows[0] |= {"exponent since the row above": None, "interval": None}
    wide = np.diff(np.log(sizes))
    slopes = over_rounds(seconds, lambda medians: (np.diff(np.log(medians)) / wide).tolist(), cells=len(sizes) - 1)
    for row, slope in zip(rows[1:], slopes, strict=True):
        row |= {"exponent since the row above": slope.value, "interval": ends(slope)}
    return rows


def _start_of_end(sizes: Sequence[float]) -> float:
    return sizes[min(len(sizes) // 2, len(sizes) - 2)]  # as evaluation.cost takes the larger half


def _length(tokens: float) -> str:
    return f"{tokens:,.0f} tokens" if tokens < NOWHERE else "no length"
