"""What requests of few documents cost: python bench/short_requests.py [--data FOLDER] [--model secondpass-mini]
[--documents 100,20,10,5,2,1] [--rounds 5]

A batch holds documents of one request alone, since the model reads its query once a batch. So the fewer documents a
request has, the more of its time is not spent on them. Measured here: documents a second, by the number of documents a
request, of the engine in this process and of the server in one of its own, in rounds that alternate. Each round reranks
the same texts with as many different queries as there are requests.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from typing import Any

from rich.console import Console
from rich.progress import track

from common import arguments, write
from secondpass.rerankers.cross_encoder import CrossEncoder
from serve import POOL, asks, at_once, free_port, offline, pool, started

ROUND = 400  # documents
talk = Console(stderr=True)


def main() -> None:
    """Measure, print, and write bench/results/short_requests.json."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="secondpass-mini")
    parser.add_argument("--documents", default="100,20,10,5,2,1", help="of a request, with commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="write no result")
    options = parser.parse_args()
    sizes = [int(size) for size in options.documents.split(",")]
    requests = pool(options.data, max(sizes))
    model = CrossEncoder(options.model)
    port = free_port()
    command = [sys.executable, "-m", "secondpass", "serve", "--model", options.model, "--port", str(port)]
    seconds: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
    with started(command, port):
        for turn in track(range(options.rounds + 1), "rounds", console=talk):
            for size in sizes:
                some = [(query, texts[:size]) for query, texts in requests]
                count = max(ROUND // size, 4)
                both = (
                    offline(model, some, count) / (count * size),
                    asyncio.run(at_once(port, asks(some, None)[:POOL], count)) / (count * size),
                )
                if turn:  # the first one warms both up
                    seconds[size].append(both)
    rows: list[dict[str, Any]] = []
    first = seconds[sizes[0]]
    for size, times in seconds.items():
        rows.append(
            {
                "documents": size,
                "offline_per_s": round(1 / statistics.median(one for one, _ in times), 1),
                "served_per_s": round(1 / statistics.median(one for _, one in times), 1),
                "offline_of_first": round(statistics.median(a[0] / b[0] for a, b in zip(first, times, strict=True)), 3),
                "served_of_first": round(statistics.median(a[1] / b[1] for a, b in zip(first, times, strict=True)), 3),
                "served_of_offline": round(statistics.median(off / served for off, served in times), 3),
            }
        )
    print(json.dumps(rows, indent=1))
    if not options.dry:
        print(write("short_requests", rows, []), file=sys.stderr)


if __name__ == "__main__":
    main()
