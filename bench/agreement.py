"""How far two readings of the demo collection agree: the judgments that ship, and a second, blind pass on 20 %.

    python bench/agreement.py

The second pass (bench/judgments/second-pass.tsv) saw the same questions, pools and rules, not the first pass's
grades. κ is Cohen's (1960), weighted κ with squared distances (1968); the systems' nDCG@10 by either pass says
whether the disagreement would change a conclusion.
"""

from __future__ import annotations

import statistics
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import secondpass.demo
from common import arguments, target, write
from quality import first_stages
from secondpass.demo.questions import demo_collection
from secondpass.evaluation.metrics import evaluate
from secondpass.evaluation.trec import Qrels, read_qrels

GRADES = 4  # 0 to 3
SECOND = Path(__file__).resolve().parent / "judgments" / "second-pass.tsv"


def kappa(table: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """1 − observed / expected disagreement. `table` counts pairs of grades, `weights` say how bad each is."""
    share = table / table.sum()
    expected = np.outer(share.sum(axis=1), share.sum(axis=0))
    return float(1 - (weights * share).sum() / (weights * expected).sum())


def confusion(first: Qrels, second: Qrels) -> NDArray[np.float64]:
    """table[a, b]: how many documents the first pass gave a and the second b."""
    table = np.zeros((GRADES, GRADES))
    for query, grades in second.items():
        for document, grade in grades.items():
            table[first[query][document], grade] += 1
    return table


def main() -> None:
    """Compare, print, and write bench/results/agreement.json."""
    arguments(__doc__).parse_args()
    demo = Path(str(secondpass.demo.__file__)).parent
    second = read_qrels(SECOND)
    first = {query: read_qrels(demo / "qrels.tsv")[query] for query in second}
    table = confusion(first, second)
    distance = np.abs(np.subtract.outer(np.arange(GRADES), np.arange(GRADES))).astype(np.float64)
    useful = np.array([[table[:2, :2].sum(), table[:2, 2:].sum()], [table[2:, :2].sum(), table[2:, 2:].sum()]])
    collection = demo_collection()
    asked = {query: text for query, text in collection.queries.items() if query in second}
    systems = {}
    for name, stage in first_stages(list(collection.documents.values())).items():
        run = {
            query: [(found, -float(place)) for place, found in enumerate(stage.retrieve(text, 100).ids)]
            for query, text in asked.items()
        }
        means = [
            statistics.fmean(evaluate(run, {query: dict(qrels[query]) for query in asked}, "ndcg@10").values())
            for qrels in (first, second)
        ]
        systems[name] = [round(mean, 4) for mean in means]
    row = {
        "questions": len(second),
        "documents": int(table.sum()),
        "same_grade": round(float(np.trace(table) / table.sum()), 4),
        "within_one": round(float(table[distance <= 1].sum() / table.sum()), 4),
        "kappa": round(kappa(table, (distance > 0).astype(np.float64)), 4),
        "weighted_kappa": round(kappa(table, distance**2), 4),
        "kappa_useful": round(kappa(useful, 1 - np.eye(2)), 4),
        "table": table.astype(int).tolist(),
        "ndcg@10_by_first_and_second_pass": systems,
    }
    orders = [sorted(systems, key=lambda name: -systems[name][which]) for which in (0, 1)]
    counts = Counter(grade for grades in read_qrels(demo / "qrels.tsv").values() for grade in grades.values())
    print(row)
    targets = [
        target("two passes agree", row["weighted_kappa"], "weighted κ ≥ .6", row["weighted_kappa"] >= 0.6),
        target("either pass orders the first stages alike", None, "same order", orders[0] == orders[1]),
    ]
    grades = {str(grade): counts[grade] for grade in range(GRADES)}
    print(write("agreement", [row], targets, grades_of_the_first_pass=grades))


if __name__ == "__main__":
    main()
