"""One process beside Ray: python bench/ray_scale.py [--data FOLDER] [--model secondpass-mini] [--documents 50]
[--requests 8 40] [--rounds 3] [--asks 200] [--dry]

(Not bench/ray.py: a script's own folder is searched first, so `import ray` would find the bench.)

Two measurements, both with one core for whoever computes:
- jobs: `secondpass rerank` over the same file in one process (with one thread, and with two), and with --ray and one or
  two workers, each in processes of its own. Each is run over a short and a long file: what the long one takes more is
  throughput, what remains is the start. Rounds alternate, medians. The outputs are compared.
- requests: `secondpass serve` beside `serve --ray` with one replica, one small request after the other, by turns; what
  the median takes more is Ray's way there and back.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from common import arguments, target, write
from serve import free_port, pool, sent, started

talk = Console(stderr=True)
JOBS = {
    "one process, 1 thread": (1, None),
    "one process, 2 threads": (2, None),
    "Ray, 1 worker": (1, 1),
    "Ray, 2 workers": (1, 2),
}
"""Threads, and workers on Ray."""


def settings(folder: Path, model: str, threads: int, workers: int | None = None, port: int = 0) -> Path:
    """Settings, as a file."""
    path = folder / f"{threads}-{workers}-{port}.toml"
    # a cluster of its own; shards of a few requests, so that two workers end at about the same time
    ray = '[ray]\naddress = "local"\ndocuments = 100\n' + (f"workers = {workers}\n" if workers else "")
    stage = f'[[stages]]\nmodel = "{model}"\nthreads = {threads}\n'
    path.write_text(f"{stage}[serve]\nport = {port or 8000}\n{ray}")
    return path


def requests(folder: Path, pooled: Sequence[tuple[str, list[str]]], count: int) -> Path:
    """So many requests, as a file."""
    path = folder / f"{count}.jsonl"
    lines = (json.dumps(dict(zip(("query", "documents"), pooled[n % len(pooled)], strict=True))) for n in range(count))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def job(folder: Path, file: Path, config: Path, ray: bool) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of a job from its start to its end, and its answers."""
    out = folder / "out.jsonl"
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "secondpass", "rerank", str(file), "--config", str(config), "--out", str(out)]
    began = time.perf_counter()
    done = subprocess.run([*command, "--ray"] if ray else command, capture_output=True, text=True, cwd=folder)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"ray_scale: {done.stderr}")
    return seconds, [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def compared(one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> tuple[bool, float, int]:
    """Whether all orders are the same, how far scores are apart at most, and documents that are not in both."""
    same, far, lost = [a["query_id"] for a in one] == [b["query_id"] for b in other], 0.0, 0
    for a, b in zip(one, other, strict=True):
        scores = [{hit["id"]: hit["score"] for hit in answer["hits"]} for answer in (a, b)]
        same &= [hit["id"] for hit in a["hits"]] == [hit["id"] for hit in b["hits"]]
        lost += len(scores[0].keys() ^ scores[1].keys())
        far = max([far, *(abs(scores[0][name] - scores[1][name]) for name in scores[0].keys() & scores[1].keys())])
    return same, far, lost


def jobs(folder: Path, model: str, pooled: Sequence[tuple[str, list[str]]], counts: Sequence[int], rounds: int) -> Any:
    """One row for each way, and what the outputs differ by."""
    files = [requests(folder, pooled, count) for count in counts]
    documents = len(pooled[0][1])
    seconds: dict[str, list[list[float]]] = {name: [] for name in JOBS}
    found: dict[str, list[dict[str, Any]]] = {}
    for number in range(rounds):
        for name, (threads, workers) in JOBS.items():
            config = settings(folder, model, threads, workers)
            took = []
            for file in files:
                spent, found[name] = job(folder, file, config, workers is not None)
                took.append(spent)
            seconds[name].append(took)
            talk.print(f"round {number + 1}, {name}: {', '.join(f'{one:.1f} s' for one in took)}")
    rows = []
    for name, rounds_of in seconds.items():
        rates = [documents * (counts[1] - counts[0]) / (long - short) for short, long in rounds_of]
        rate = statistics.median(rates)
        starts = [short - documents * counts[0] / rate for short, _ in rounds_of]
        rows.append(
            {
                "what": name,
                "documents_per_s": round(rate, 2),
                "start_s": round(statistics.median(starts), 2),
                "rounds": [[round(one, 2) for one in took] for took in rounds_of],
            }
        )
    plain = found["one process, 1 thread"]
    against = [compared(plain, found[name]) for name in ("Ray, 1 worker", "Ray, 2 workers")]
    return rows, (all(same for same, _, _ in against), max(far for _, far, _ in against), sum(n for *_, n in against))


def asking(folder: Path, model: str, query: str, texts: Sequence[str], count: int) -> list[dict[str, Any]]:
    """One row for each server: the median of one small request after the other, by turns."""
    body = json.dumps({"query": query, "documents": list(texts)}).encode()
    ports = {"one server": free_port(), "Ray, 1 replica": free_port()}
    commands = {
        name: [sys.executable, "-m", "secondpass", "serve", "--config", str(settings(folder, model, 1, None, port))]
        for name, port in ports.items()
    }
    took: dict[str, list[float]] = {name: [] for name in ports}
    with (
        started(commands["one server"], ports["one server"]),
        started([*commands["Ray, 1 replica"], "--ray"], ports["Ray, 1 replica"], within=600),
    ):
        for number in range(count + 10):
            for name, port in ports.items():
                began = time.perf_counter()
                status, _ = asyncio.run(sent(port, "POST", "/v1/rerank", body))
                if status != 200:
                    raise SystemExit(f"ray_scale: {name} answered {status}")
                if number >= 10:
                    took[name].append(1000 * (time.perf_counter() - began))
    return [
        {
            "what": name,
            "p50_ms": round(statistics.median(times), 2),
            "p90_ms": round(sorted(times)[int(0.9 * count)], 2),
        }
        for name, times in took.items()
    ]


def main() -> None:
    """Measure, print, and write bench/results/ray_scale.json."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="secondpass-mini")
    parser.add_argument("--documents", type=int, default=50, help="of a request")
    parser.add_argument("--requests", type=int, nargs=2, default=[8, 40], help="of the short and of the long file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--asks", type=int, default=200, help="small requests to each server")
    parser.add_argument("--dry", action="store_true", help="write no result")
    options = parser.parse_args()
    model = str(Path(options.model).resolve()) if Path(options.model).is_dir() else options.model
    pooled = pool(options.data, options.documents)
    with tempfile.TemporaryDirectory() as name:
        rows, (same, far, lost) = jobs(Path(name), model, pooled, options.requests, options.rounds)
        query, texts = pooled[0]
        servers = asking(Path(name), model, query, texts[:2], options.asks)
    rate = {row["what"]: row["documents_per_s"] for row in rows}
    one, two = rate["Ray, 1 worker"], rate["Ray, 2 workers"]
    more = servers[1]["p50_ms"] - servers[0]["p50_ms"]
    of_one = round(one / rate["one process, 1 thread"], 3)
    targets = [
        target("one worker / one process with one thread", of_one, "≥ 0.9", of_one >= 0.9),
        target("two workers / one", round(two / one, 3), "≥ 1.7", two / one >= 1.7),
        target("documents lost or doubled", lost, "0", not lost),
        target("the same order as one process", float(same), "all", same),
        target("Ray's part of a request, median ms", round(more, 2), "≤ 20", more <= 20),
    ]
    for row in [*rows, *servers, *targets]:
        talk.print(row)
    if not options.dry:
        more_of_it = {"servers": servers, "model": options.model, "documents": options.documents}
        write("ray_scale", rows, targets, **more_of_it, largest_difference=far, rounds=options.rounds)


if __name__ == "__main__":
    main()
