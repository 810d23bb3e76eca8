"""`secondpass serve` under load, beside the same engine behind a plain FastAPI route: python bench/serve.py
[--data FOLDER] [--model secondpass-mini] [--documents 100] [--minutes 10] [--rounds 5] [--quick]

Three measurements, the server in a process of its own, the client in this one:
- throughput: as many requests at once as it takes, in rounds that alternate with the engine offline in this process;
- overload: requests at random times (Poisson, twice the capacity, whatever became of others), each with a deadline,
  one in ten of them short; how late answers are, counted from when the request was due, what is shed and how soon, the
  server's memory, and how far answers are from the offline scores;
- the same arrivals at the plain route, which knows no deadline and refuses nobody.
Needs fastapi for the last (pip install fastapi); left out without it. The texts are passages of training sets.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import math
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from common import arguments, target, training_texts, write
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.types import as_ranking

SETS = ["nq-qed", "lfrqa"]
POOL = 40  # different requests
SHORT = 5  # documents of a short request, one in ten
AT_ONCE = 6  # requests, where throughput is measured
TIMES = 4.0  # the deadline, in times of what one request takes alone
talk = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request: its number in the pool, whether it is short, its body."""

    number: int
    short: bool
    body: bytes


@dataclass(frozen=True, slots=True)
class Got:
    """What became of one: status (0: the connection broke), seconds since it was due, and the body."""

    ask: Ask
    status: int
    seconds: float
    body: bytes


def pool(data: Path, documents: int) -> list[tuple[str, list[str]]]:
    """Queries with texts, drawn by a seed."""
    passages, queries = training_texts(data, SETS)
    draw = random.Random(7)
    return [(draw.choice(queries), draw.sample(passages, documents)) for _ in range(POOL)]


def asks(requests: Sequence[tuple[str, list[str]]], deadline_ms: float | None) -> list[Ask]:
    """The pool as bodies, the long ones first, then the short ones."""
    found = []
    for short in (False, True):
        for number, (query, texts) in enumerate(requests):
            body: dict[str, Any] = {"query": query, "documents": texts[:SHORT] if short else texts}
            if deadline_ms is not None:
                body["deadline_ms"] = deadline_ms
            found.append(Ask(number, short, json.dumps(body).encode()))
    return found


@contextmanager
def started(command: Sequence[str], port: int, within: float = 120) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, once it answers; seconds for that, and for its end."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        try:
            until = time.monotonic() + within
            while asyncio.run(sent(port, "GET", "/ready", b""))[0] != 200:
                if process.poll() is not None or time.monotonic() > until:
                    said.seek(0)
                    raise SystemExit(f"serve: the server did not start: {said.read().decode()}")
                time.sleep(0.2)
            yield process
        finally:
            process.terminate()
            process.wait(within)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def sent(port: int, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    """One request over a connection of its own: the status (0 where it broke) and the body."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        await writer.drain()
        answer = await reader.read(-1)
        writer.close()
    except OSError:
        return 0, b""
    head_line, _, rest = answer.partition(b"\r\n\r\n")
    parts = head_line.split(b" ", 2)
    return (int(parts[1]) if len(parts) > 1 else 0), rest


async def at_once(port: int, some: Sequence[Ask], count: int) -> float:
    """Seconds for so many requests, some of them at once all the time."""
    left = iter(range(count))

    async def ask() -> None:
        for k in left:
            status, _ = await sent(port, "POST", "/v1/rerank", some[k % POOL].body)
            if status != 200:
                raise SystemExit(f"serve: a request without a deadline was answered with {status}")

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
    return time.perf_counter() - began


async def by_chance(port: int, some: Sequence[Ask], rate: float, seconds: float, watch: Any) -> list[Got]:
    """Requests at random times, `rate` a second, for so long; each goes off when it is due."""
    draw, loop = random.Random(11), asyncio.get_running_loop()
    due, due_times = 0.0, []
    while due < seconds:
        due_times.append(due)
        due += draw.expovariate(rate)
    began, got = loop.time() + 0.5, list[Got]()

    async def one(at: float) -> None:
        await asyncio.sleep(began + at - loop.time())
        ask = some[draw.randrange(POOL) + (POOL if draw.random() < 0.1 else 0)]
        status, body = await sent(port, "POST", "/v1/rerank", ask.body)
        got.append(Got(ask, status, loop.time() - began - at, body))

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(one(at) for at in due_times))
    watching.cancel()
    return got


def memory(pid: int) -> float:
    """Resident megabytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return math.nan


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile in milliseconds."""
    if not values:
        return {"count": 0}
    return {
        "count": len(values),
        "p50_ms": round(1000 * float(np.quantile(values, 0.5)), 1),
        "p99_ms": round(1000 * float(np.quantile(values, 0.99)), 1),
        "max_ms": round(1000 * max(values), 1),
    }


def offline(model: CrossEncoder, requests: Sequence[tuple[str, list[str]]], count: int) -> float:
    """Seconds for so many requests in this process, two at a time, so that no core waits for the end of one."""
    rankings = [as_ranking(*requests[k % POOL]) for k in range(count)]
    began = time.perf_counter()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(model.rerank, rankings))
    return time.perf_counter() - began


def deviations(model: CrossEncoder, requests: Sequence[tuple[str, list[str]]], got: Sequence[Got]) -> list[float]:
    """How far each scored document of each answer is from its offline score, in logits."""
    known: dict[int, dict[int, float]] = {}
    far = []
    for one in got:
        if one.status != 200:
            continue
        if one.ask.number not in known:
            hits = model.rerank(as_ranking(*requests[one.ask.number])).hits
            known[one.ask.number] = {int(hit.document.id): float(hit.score or 0.0) for hit in hits}
            first, last = hits[0], hits[-1]
            slope = (_logit(first.probability) - _logit(last.probability)) / (first.score - last.score)  # type: ignore[operator]
            shift = _logit(first.probability) - slope * first.score  # type: ignore[operator]
        expected = known[one.ask.number]
        for result in json.loads(one.body)["results"]:
            if result.get("scored", True):
                logit = (_logit(result["relevance_score"]) - shift) / slope
                far.append(abs(logit - expected[result["index"]]))
    return far


def _logit(probability: float | None) -> float:
    return math.log(probability) - math.log1p(-probability) if probability else -math.inf


def summary(got: Sequence[Got], deadline: float) -> dict[str, Any]:
    """Answers and refusals of one run."""
    answered = [one for one in got if one.status == 200]
    refused = [one.seconds for one in got if one.status == 429]
    scored = [json.loads(one.body)["report"]["scored"] for one in answered if b'"report"' in one.body]
    return {
        "requests": len(got),
        "answered": quantiles([one.seconds for one in answered if not one.ask.short]),
        "answered, short": quantiles([one.seconds for one in answered if one.ask.short]),
        "in_time": round(sum(one.seconds <= deadline for one in answered) / max(len(got), 1), 4),
        "refused": quantiles(refused),
        "other": sum(one.status not in (200, 429) for one in got),
        "scored_documents": round(statistics.fmean(scored), 1) if scored else None,
    }


def main() -> None:
    """Measure, print, and write bench/results/serve.json."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="secondpass-mini")
    parser.add_argument("--documents", type=int, default=100, help="of a request")
    parser.add_argument("--minutes", type=float, default=10.0, help="of overload")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--each", type=int, default=12, help="requests of a round")
    parser.add_argument("--dry", action="store_true", help="write no result")
    parser.add_argument("--plain", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        plain(options.model, options.plain)
        return
    requests = pool(options.data, options.documents)
    model = CrossEncoder(options.model)
    without = asks(requests, None)
    port, command = free_port(), [sys.executable, "-m", "secondpass", "serve", "--model", options.model]
    rows: list[dict[str, Any]] = []
    with started([*command, "--port", str(port)], port) as process:
        offline(model, requests, options.each)
        asyncio.run(at_once(port, without, options.each))
        pairs = []
        for _ in track(range(options.rounds), "throughput", console=talk):
            ours = asyncio.run(at_once(port, without, options.each))
            pairs.append((offline(model, requests, options.each), ours))
        share = statistics.median(off / served for off, served in pairs)
        capacity = options.each / statistics.median(served for _, served in pairs)
        deadline = TIMES / capacity
        rows.append(
            {
                "what": "throughput",
                "requests_per_s": round(capacity, 3),
                "documents_per_s": round(capacity * options.documents, 1),
                "of_offline": round(share, 3),
                "rounds": [[round(a, 2), round(b, 2)] for a, b in pairs],
            }
        )
        talk.print(rows[-1])
        kept: list[tuple[float, float]] = []

        async def watch() -> None:
            since = time.perf_counter()
            while True:
                kept.append((time.perf_counter() - since, memory(process.pid)))
                await asyncio.sleep(2)

        hurried = asks(requests, 1000 * deadline)
        seconds = 60 * options.minutes
        talk.print(f"overload: {2 * capacity:.2f} requests a second for {options.minutes:g} minutes")
        got = asyncio.run(by_chance(port, hurried, 2 * capacity, seconds, watch))
        far = deviations(model, requests, got)
        half = [size for at, size in kept if at >= seconds / 2]
        before = [size for at, size in kept if seconds / 5 <= at < seconds / 2]
        growth = statistics.median(half) - statistics.median(before) if half and before else math.nan
        row = {"what": "overload", "rate": "2 × capacity", "deadline_ms": round(1000 * deadline, 1)}
        row |= summary(got, deadline) | {"memory_mb": round(max(size for _, size in kept), 1)}
        row |= {"memory_growth_mb": round(growth, 1), "largest_deviation": round(max(far), 4)}
        rows.append(row | {"tolerance": round(model.tolerance, 4), "minutes": options.minutes})
        talk.print(rows[-1])
    if importlib.util.find_spec("fastapi") is None:
        talk.print("fastapi is not installed: the plain route is left out")
    else:
        port = free_port()
        file = [sys.executable, os.path.abspath(__file__), "--plain", str(port), "--model", options.model]
        with started(file, port) as process:

            async def nothing() -> None:
                await asyncio.sleep(3600)

            asyncio.run(at_once(port, without, options.each))
            alone = options.each / asyncio.run(at_once(port, without, options.each))
            got = asyncio.run(by_chance(port, without, 2 * capacity, min(seconds, 120.0), nothing))
            row = {"what": "plain route, overload", "rate": "2 × capacity", "deadline_ms": round(1000 * deadline, 1)}
            rows.append(row | summary(got, deadline) | {"requests_per_s": round(alone, 3)})
            talk.print(rows[-1])
    over = rows[1]
    late = max(over["answered"].get("p99_ms", math.inf), over["answered, short"].get("p99_ms", 0.0))
    shed = over["refused"].get("p99_ms", 0.0)
    targets = [
        target("throughput served / offline", share, "≥ 0.90", share >= 0.9),
        target(
            "overload: p99 of answers / deadline", round(late / (1000 * deadline), 3), "≤ 1", late <= 1000 * deadline
        ),
        target("overload: answers other than 200 and 429", over["other"], "0", over["other"] == 0),
        target("overload: p99 of refusals, ms", shed, "≤ 100", shed <= 100),
        target("overload: growth of memory in the second half, MB", over["memory_growth_mb"], "≤ 10", growth <= 10),
        target(
            "overload: largest deviation of a score",
            over["largest_deviation"],
            f"≤ {model.tolerance:.3g}",
            max(far) <= model.tolerance,
        ),
    ]
    print(json.dumps({"rows": rows, "targets": targets}, indent=1))
    if not options.dry:
        print(write("serve", rows, targets))


def plain(model_name: str, port: int) -> None:
    """What people write first: a route that reranks, on the server's own threads."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import create_model

    model, app = CrossEncoder(model_name), FastAPI()

    body_type: Any = create_model("Body", query=(str, ...), documents=(list[str], ...))

    def ready() -> dict[str, str]:
        return {"status": "ready"}

    def rerank(body: Any) -> dict[str, Any]:
        found = model.rank(body.query, body.documents)
        return {"results": [{"index": one["corpus_id"], "relevance_score": one["score"]} for one in found]}

    rerank.__annotations__["body"] = body_type
    app.get("/ready")(ready)
    app.post("/v1/rerank")(rerank)
    uvicorn.run(app, port=port, log_level="error")


if __name__ == "__main__":
    main()
