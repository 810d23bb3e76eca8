"""The claims about what reranking gains (1 to 3, 6 and 7).

Knows: values by collection and first stage, and the thresholds that words follow from. Refuses to know: how they were
measured, pages. The thresholds, here as in claims_cost.py and claims_systems.py, come from the claims' own words and
were set before this measurement ran; results of quality.py and cost.py on the same collections were known by then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from math import inf, isnan
from typing import Any

import numpy as np

from claims_cells import Cells, gain_and_headroom, pooled, pooled_apart, stages_of, thinned_cells, unseen
from claims_measure import TRAINED, Pools
from claims_numbers import (
    CONDITIONS,
    DOES_NOT,
    HOLDS,
    SURE,
    UNKNOWN,
    Finding,
    Floats,
    Values,
    block_p,
    ends,
    estimated,
    leave_one_out,
    mean,
    ratio,
    said_as,
    side,
    spearman,
    threshold,
    untold,
    word,
)
from secondpass.evaluation.significance import holm

SAME = 1e-9  # sums of the same terms in another order
DELETED = (0.0, 0.25, 0.5, 0.75, 0.9)
IN_PROPORTION = 0.1  # κ may change by so much and the gain still counts as following the headroom
FIVE, FIFTEEN = 0.05, 0.15
BETTER_RETRIEVAL = "hybrid"


def cannot_restore(cells: Cells) -> Finding:
    """1: NC ≤ N*, and nothing from nothing."""
    rows: list[dict[str, Any]] = []
    for stage in stages_of(cells):
        values = [of_stage[stage] for of_stage in cells.values()]
        empty = [one.recall == 0.0 for one in values]
        rows.append(
            {
                "first stage": stage,
                "reranked orders": sum(len(one.first) for one in values),
                "above the best possible": sum(int((one.reranked > one.best + SAME).sum()) for one in values),
                "pools with nothing relevant": sum(int(some.sum()) for some in empty),
                "of them changed": sum(
                    int((one.gain[some] != 0.0).sum()) for one, some in zip(values, empty, strict=True)
                ),
            }
        )
    orders, above, nothing, changed = (sum(row[name] for row in rows) for name in list(rows[0])[1:])
    said = DOES_NOT if above or changed else HOLDS if nothing else UNKNOWN
    return Finding(
        1,
        "A reranker cannot restore documents the pool lacks",
        said,
        f"Of {orders:,} reranked orders {above} are above the best order of their pool; of {nothing:,} pools without "
        f"anything relevant {changed} gained or lost.",
        "Holds: no query's nDCG@10 after reranking is above that of the best order of its pool, and every query whose "
        "pool holds nothing relevant gains exactly 0. Does not hold: one breaks either. Cannot tell: there is no such "
        "pool.",
        {"above the best possible": above, "rows": rows},
    )


def needs_a_pool(collections: Sequence[Pools], cells: Cells) -> Finding:
    """2: gain by what the pool holds, as found and with relevant documents taken out."""
    rows: list[dict[str, Any]] = []
    for name, low, high in (
        ("0", -inf, 0.0),
        ("above 0, to .5", 0.0, 0.5),
        ("above .5, below 1", 0.5, 1 - SAME),
        ("1", 1 - SAME, inf),
    ):
        columns, strata = pooled(cells, partial(_of_recall, low=low, high=high))
        gain = estimated(columns[:, [0, 2]], ratio, strata=strata, cells=4)
        capture = estimated(columns[:, [0, 1]], ratio, strata=strata, cells=4)
        rows.append(
            {
                "recall of the pool": name,
                "queries × first stages": int(columns[:, 2].sum()),
                "gain": gain.value,
                "interval": ends(gain),
                "κ": capture.value,
                "κ, interval": ends(capture),
            }
        )
    deleted = {share: thinned_cells(collections, share) for share in DELETED}
    columns = np.concatenate([pooled(deleted[share], gain_and_headroom)[0] for share in DELETED], axis=1)
    strata = pooled(cells, gain_and_headroom)[1]
    for at, share in enumerate(DELETED):
        gain = estimated(columns[:, [3 * at, 3 * at + 2]], ratio, strata=strata, cells=len(DELETED))
        capture = estimated(columns[:, [3 * at, 3 * at + 1]], ratio, strata=strata, cells=len(DELETED))
        rows.append(
            {
                "recall of the pool": f"as found, less {share:.0%} of what is relevant",
                "queries × first stages": int(columns[:, 2].sum()),
                "gain": gain.value,
                "interval": ends(gain),
                "κ": capture.value,
                "κ, interval": ends(capture),
            }
        )
    last = 3 * (len(DELETED) - 1)
    change = estimated(
        columns, lambda sums: sums[..., last] / sums[..., last + 1] - sums[..., 0] / sums[..., 1], strata=strata
    )
    sides = []
    for name, of_stage in cells.items():
        gains = [
            np.mean([values.gain for values in of_stages.values()], axis=0)
            for of_stages in (of_stage, deleted[DELETED[-1]][name])
        ]
        sides.append(side(mean(gains[0] - gains[1], cells=len(cells))))
    first, least = rows[4], rows[-1]
    proportion = {True: "in proportion to", False: "not in proportion to", None: "perhaps in proportion to"}[
        side(change, -IN_PROPORTION, IN_PROPORTION)
    ]
    return Finding(
        2,
        "Its gain needs a reasonable pool",
        word(sides),
        f"With {DELETED[-1]:.0%} of the relevant documents taken out of the pools the mean gain goes "
        f"from {first['gain']:+.3f} to {least['gain']:+.3f}, {proportion} the headroom N* − N0 (κ changes by "
        f"{said_as(change)}); "
        f"the fall is certain on {sides.count(True)} of {len(sides)} collections, a rise on {sides.count(False)}.",
        f"By collection, relevant documents taken out of the pools with probability {DELETED[-1]}: the fall of the "
        "mean gain has its whole interval above 0 (yes) or below (no: a reranker that harms does so less with a "
        "poor pool). Holds or does not: at least half are decided, all the same way. Under conditions: some each way. "
        f"In proportion: the interval of κ's change is within ±{IN_PROPORTION}.",
        {"change of κ": change, "falls": sides.count(True), "rises": sides.count(False), "rows": rows},
    )


def recall_first(cells: Cells) -> Finding:
    """3: does what the pool lacks say whether better retrieval or reranking brings more?"""
    stages = [stage for stage in stages_of(cells) if stage != BETTER_RETRIEVAL]
    rows: list[dict[str, Any]] = []
    for name, of_stage in cells.items():
        better = of_stage[BETTER_RETRIEVAL]
        for stage in stages:
            own = of_stage[stage]
            lead = mean(better.first - own.reranked, cells=len(cells) * len(stages))
            lost = 1.0 - float(own.first.mean())
            rows.append(
                {
                    "collection": name,
                    "first stage": stage,
                    "ρ": (1.0 - float(own.best.mean())) / lost if lost > SAME else 0.0,
                    "recall@100": float(own.recall.mean()),
                    "gain of hybrid": float((better.first - own.first).mean()),
                    "gain of reranking": float(own.gain.mean()),
                    "hybrid's lead": lead.value,
                    "interval": ends(lead),
                    "gain of both": float((better.reranked - own.first).mean()),
                }
            )
    if len(cells) < 2 or not stages:
        return untold(3, "Recall first predicts the better investment", "Fewer than two collections.", rows)
    blocks = [rows[at : at + len(stages)] for at in range(0, len(rows), len(stages))]
    leads = [[row["hybrid's lead"] for row in block] for block in blocks]
    flat = [lead for block in leads for lead in block]
    numbers: dict[str, Any] = {}
    raw, strengths, chosen = [], [], []
    for name, sign in (("ρ", 1.0), ("recall@100", -1.0)):
        predictor = [[sign * row[name] for row in block] for block in blocks]
        p, orders = block_p(predictor, leads)
        raw.append(p)
        strengths.append(spearman([value for block in predictor for value in block], flat))
        chosen.append(leave_one_out(predictor, leads))
        t = threshold([value for block in predictor for value in block], flat)
        numbers |= {f"correlation with {name}": sign * strengths[-1], f"threshold on {name}, all data": sign * t}
    always = leave_one_out([[0.0] * len(stages)] * len(blocks), leads)
    corrected = holm(raw)
    real = [p < SURE and strength > 0 for p, strength in zip(corrected, strengths, strict=True)]
    wrong = any(p < SURE and strength < 0 for p, strength in zip(corrected, strengths, strict=True))
    useful = any(ok and one.lost < always.lost for ok, one in zip(real, chosen, strict=True))
    said = DOES_NOT if wrong else HOLDS if useful else CONDITIONS if any(real) else UNKNOWN
    numbers |= {"p with ρ, corrected": corrected[0], "p with recall@100, corrected": corrected[1], "orders": orders}
    for name, one in (
        ("threshold on ρ", chosen[0]),
        ("threshold on recall@100", chosen[1]),
        ("always the same", always),
    ):
        numbers |= {f"{name}: right": one.right, f"{name}: mean lost": one.lost}
    return Finding(
        3,
        "Recall first predicts the better investment",
        said,
        f"Over {len(rows)} pairs of collection and first stage (of {len(blocks)} collections) the lead of switching to "
        f"hybrid over reranking correlates with the unfixable share by {numbers['correlation with ρ']:+.2f} (corrected "
        f"p {corrected[0]:.3f}), with recall@100 by {numbers['correlation with recall@100']:+.2f} (p "
        f"{corrected[1]:.3f}); on collections left out a threshold on ρ chooses right {chosen[0].right} of "
        f"{chosen[0].of} times, one on recall {chosen[1].right}, always the same {always.right}.",
        "Spearman's correlation of ρ, and of recall@100, with (nDCG@10 of hybrid − that of reranking); p from "
        f"exchanging whole collections ({orders:,} orders), corrected after Holm. Does not hold: p below {SURE} with "
        "the wrong sign. Holds: p below it with the right sign, and a threshold chosen without a collection loses "
        "less on it than always doing what is better on the others. Under conditions: the correlation alone. "
        "Else it cannot be told.",
        {**numbers, "rows": rows},
    )


def five_to_fifteen(cells: Cells) -> Finding:
    """6: relative change of nDCG@10 by collection and first stage."""
    columns, strata = pooled_apart(cells)
    count = columns.shape[1] // 2
    rows: list[dict[str, Any]] = []
    sides = []
    names = [(name, stage) for name, of_stage in cells.items() for stage in of_stage]
    for at, (name, stage) in enumerate(names):
        own = columns[np.array(strata) == list(cells).index(name)]
        change = estimated(own[:, [2 * at, 2 * at + 1]], ratio, cells=count)
        sides.append(side(change, FIVE, FIFTEEN))
        values = cells[name][stage]
        rows.append(
            {
                "collection": name,
                "first stage": stage,
                "nDCG@10": float(values.first.mean()),
                "reranked": float(values.reranked.mean()),
                "change": change.value,
                "interval": ends(change),
            }
        )
    average = estimated(columns, lambda sums: (sums[..., ::2] / sums[..., 1::2]).mean(axis=-1), strata=strata)
    changes = [row["change"] for row in rows]
    inside = sum(FIVE <= one <= FIFTEEN for one in changes)
    above, negative = sum(one > FIFTEEN for one in changes), sum(one < 0 for one in changes)
    return Finding(
        6,
        "It brings 5–15 %",
        word(sides),
        f"From {min(changes):+.0%} to {max(changes):+.0%}, on average {said_as(average, '+.1%')}: of {count} pairs of "
        f"collection and first stage {inside} lie within 5 to 15 %, {above} above, "
        f"{count - inside - above - negative} from 0 to 5 %, {negative} below 0; by interval {sides.count(True)} are "
        f"certainly within and {sides.count(False)} certainly not.",
        f"Relative change of the mean nDCG@10; a pair counts as yes where its interval is within {FIVE:.0%} to "
        f"{FIFTEEN:.0%}, as no where it is outside. Holds or does not: at least half are decided, all the same way. "
        "Under conditions: some each way. The intervals hold together.",
        {"average": average, "within": inside, "above": above, "negative": negative, "rows": rows},
    )


def drift(collections: Sequence[Pools], cells: Cells) -> Finding:
    """7: κ where the domain was in training, and where not; queries that training has seen are left out."""
    clean = {pools.name: unseen(pools, cells[pools.name]) for pools in collections}
    trained = {name: name in TRAINED for name in clean}
    rows: list[dict[str, Any]] = []
    captures = {}
    for name, of_stage in clean.items():
        columns, _ = pooled({name: of_stage}, gain_and_headroom)
        capture = estimated(columns[:, [0, 1]], ratio, cells=len(clean))
        captures[name] = capture.value
        rows.append(
            {
                "collection": name,
                "domain in training": "yes" if trained[name] else "no",
                "queries": len(columns),
                "gain": float(columns[:, 0].sum() / columns[:, 2].sum()),
                "κ": capture.value,
                "interval": ends(capture),
            }
        )
    title = "Models trained on one domain drift on another"
    if len(set(trained.values())) < 2 or any(map(isnan, captures.values())):
        return untold(7, title, "There are not collections of both kinds.", rows)
    sides, differences = [], {}
    for stage in stages_of(clean):
        columns, strata = pooled(
            {name: {stage: of_stage[stage]} for name, of_stage in clean.items()}, gain_and_headroom
        )
        inside = np.array([trained[list(clean)[at]] for at in strata])[:, None]
        both = np.concatenate([columns[:, :2] * inside, columns[:, :2] * ~inside], axis=1)
        found = estimated(
            both, lambda sums: sums[..., 0] / sums[..., 1] - sums[..., 2] / sums[..., 3], strata=strata, cells=3
        )
        differences[stage] = found
        sides.append(side(found))
    p = _group_p(captures, trained)
    said = word(sides)
    if said == HOLDS and p >= SURE:
        said = CONDITIONS
    means = [float(np.mean([captures[name] for name in clean if trained[name] is kind])) for kind in (True, False)]
    return Finding(
        7,
        title,
        said,
        f"κ is {means[0]:.2f} on average on the {sum(trained.values())} collections whose domain was in training and "
        f"{means[1]:.2f} on the {len(trained) - sum(trained.values())} others; by first stage the difference is "
        + ", ".join(f"{said_as(found)} over {stage}" for stage, found in differences.items())
        + f". So few collections cannot tell a domain from a collection's other properties (p {p:.2f}).",
        "κ of all queries of either kind (those left out that have a positive of the training set), their difference "
        "by first stage: yes where its interval is above 0, no where it is below. Holds or does not: at least half are "
        "decided, all the same way; but a holds counts under conditions where the exact one-sided p of exchanging "
        f"collections between the kinds is {SURE} or more.",
        {"differences": differences, "p over collections": p, "rows": rows},
    )


def _of_recall(values: Values, *, low: float, high: float) -> Floats:
    return gain_and_headroom(values) * ((values.recall > low) & (values.recall <= high))[:, None]


def _group_p(values: Mapping[str, float], trained: Mapping[str, bool]) -> float:
    """The share of ways to pick as many collections whose mean leads that of the others at least as much."""

    def lead(chosen: Sequence[str]) -> float:
        others = [value for name, value in values.items() if name not in chosen]
        return float(np.mean([values[name] for name in chosen]) - np.mean(others))

    observed = lead([name for name in values if trained[name]]) - SAME
    every = list(combinations(values, sum(trained.values())))
    return sum(lead(chosen) >= observed for chosen in every) / len(every)
