"""What the models that ship cost beside each other: python bench/sizes.py [--data FOLDER] [--rounds 15] [--dry]

Each round reranks the same requests of 100 passages with every setting, one after the other, on all cores. Times are
wall seconds; ratios are taken by round. How well they rank: bench/quality.py, bench/exits.py.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import track

from common import PLAIN, arguments, training_texts, write
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.types import as_ranking

SETS = ["nq-qed", "lfrqa"]
DEPTH, REQUESTS = 100, 4
SETTINGS: dict[str, dict[str, Any]] = {
    "secondpass-mini": {"model": "secondpass-mini"},
    "secondpass-mini, go_on = 0.2": {"model": "secondpass-mini", "go_on": 0.2},
    "secondpass-mini, fast": {"model": "secondpass-mini", "profile": "fast"},
    "secondpass-nano": {"model": "secondpass-nano"},
    "secondpass-nano, fast": {"model": "secondpass-nano", "profile": "fast"},
    "weights/plain": {"model": str(PLAIN)},
}


def main() -> None:
    """Measure, print, and write bench/results/sizes.json."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dry", action="store_true", help="print only, write nothing")
    options = parser.parse_args()
    passages, queries = training_texts(options.data, SETS)
    draw = random.Random(3)
    rankings = [as_ranking(draw.choice(queries), draw.sample(passages, DEPTH)) for _ in range(REQUESTS)]
    models = {name: CrossEncoder(**setting) for name, setting in SETTINGS.items()}
    for model in models.values():  # warm, and the tokens of all texts kept
        for ranking in rankings * 2:
            model.rerank(ranking)
    tokens = sum(models["secondpass-mini"].rerank(ranking).trace[-1].tokens for ranking in rankings)
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in track(range(options.rounds), "rounds", console=Console(stderr=True)):
        for name, model in models.items():
            began = time.perf_counter()
            for ranking in rankings:
                model.rerank(ranking)
            times[name].append((time.perf_counter() - began) / REQUESTS)
    whole = times["secondpass-mini"]
    rows = [
        {
            "setting": name,
            "ms": round(1000 * statistics.median(some), 1),
            "of_mini": round(statistics.median(one / all_of for one, all_of in zip(some, whole, strict=True)), 3),
            "precision": models[name].scorer.engine.precision,
            "rounds_ms": [round(1000 * one, 1) for one in some],
        }
        for name, some in times.items()
    ]
    mean = round(tokens / (REQUESTS * DEPTH), 1)
    print(json.dumps({"tokens_a_pair": mean, "rows": rows}, indent=1))
    if not options.dry:
        print(write("sizes", rows, [], tokens_a_pair=mean), file=sys.stderr)


if __name__ == "__main__":
    main()
