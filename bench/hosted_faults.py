"""What goes wrong with a hosted reranker, and what becomes of it: a service on loopback that breaks, the real client.

    python bench/hosted_faults.py [--rounds 10] [--only slow,huge,…]

Each round is a new client with a timeout of 600 ms, asked to rerank 60 documents in three requests within a deadline of
a second. A row passes where no document was lost, the outcome is the promised one in every round, and the answer came
no later than 100 ms after the timeout (or the deadline, where that is sooner).
"""

from __future__ import annotations

import math
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from broken_service import Action, Service, answered, cut, drip, hang, pour, reply, scored, slow
from common import arguments, target, write
from secondpass.rerankers.fallback import Fallback
from secondpass.rerankers.hosted import Hosted
from secondpass.testing import OverlapReranker
from secondpass.types import Deadline, Ranking, Reranker, as_ranking

QUERY = "how do bees find the way back to their hive"
TEXTS = [f"{'bees ' * (n % 7)}and hives, number {n}" for n in range(60)]
PER_REQUEST = 20
TIMEOUT_S, DEADLINE_S, LATE_S = 0.6, 1.0, 0.1
KEY = "a-very-secret-key"


@dataclass(frozen=True)
class Fault:
    """What the service does, by request; how many documents have a score then; the status of the others, and what the
    trace says. `deadline_s`: of the request; `after`: a reranker behind it."""

    name: str
    how: str
    actions: tuple[Action, ...]
    scored: int
    status: str = ""
    said: str = ""
    deadline_s: float = DEADLINE_S
    after: Reranker | None = None


Rows = list[dict[str, Any]]


def changed(change: Callable[[Rows], Rows]) -> Action:
    """Results that are not right, in every answer."""
    return answered(lambda rows: {"results": change(rows)})


def first(**fields: object) -> Action:
    """The first result of every answer with other fields."""
    return changed(lambda rows: [rows[0] | fields, *rows[1:]])


HEAD = b"HTTP/1.1 200 OK\r\n"
FAULTS = (
    Fault("none", "answers", (scored,), 60),
    Fault("429 briefly", "429 with `retry-after-ms: 150`, once", (reply(429, retry_after_ms="150"), scored), 60),
    Fault(
        "429 for long", "429 with `Retry-After: 30`", (reply(429, retry_after="30"),), 0, "failed", "asks to wait 30 s"
    ),
    Fault("503 once", "503, once; then answers", (reply(503), scored), 60),
    Fault("503", "503, always", (reply(503),), 0, "failed", "status 503"),
    Fault("401", "401", (reply(401, {"message": f"the key {KEY} is wrong"}),), 0, "failed", "the key *** is wrong"),
    Fault("slow", "answers after 2 s", (slow(2),), 0, "failed", "no answer within 0.6 s"),
    Fault(
        "slow once", "the first request takes 2 s, others answer", (slow(2), scored), 40, "failed", "no answer within"
    ),
    Fault("hangs", "takes requests and never answers", (hang,), 0, "failed", "no answer within 0.6 s"),
    Fault(
        "hangs beyond the deadline", "the same, deadline of 200 ms", (hang,), 0, "deadline", "before the deadline", 0.2
    ),
    Fault("drips", "a header, a byte each 50 ms", (drip(HEAD + b"X-A: ", 0.05, 10),), 0, "failed", "no answer within"),
    Fault(
        "drips a body",
        "a body, a byte each 50 ms",
        (drip(HEAD + b"Content-Length: 99999\r\n\r\n", 0.05, 10),),
        0,
        "failed",
        "no answer within",
    ),
    Fault("cut once", "closes in the middle of a body, once", (cut(120), scored), 60),
    Fault("cut", "closes in the middle of every body", (cut(120),), 0, "failed", "RemoteProtocolError"),
    Fault("closed", "takes requests and closes", (cut(0),), 0, "failed", "RemoteProtocolError"),
    Fault("nobody there", "no such port", (), 0, "failed", "ConnectError"),
    Fault("a page", "200 with a page of HTML", (reply(200, b"<html></html>"),), 0, "failed", "not JSON"),
    Fault(
        "half of it", "200 with the half of a JSON body", (reply(200, b'{"results": [{"in'),), 0, "failed", "not JSON"
    ),
    Fault(
        "another body", '200 with `{"scores": []}`', (reply(200, {"scores": []}),), 0, "failed", "no list of results"
    ),
    Fault(
        "missing",
        "leaves out the first result of each answer",
        (changed(lambda rows: rows[1:]),),
        57,
        "failed",
        "missing",
    ),
    Fault(
        "NaN",
        "NaN for the first document of each request",
        (first(relevance_score=math.nan),),
        57,
        "bad_score",
        "a number",
    ),
    Fault("text", "text in place of that number", (first(relevance_score="high"),), 57, "bad_score", "a number"),
    Fault("foreign index", "an index that is nobody's", (first(index=99),), 57, "failed", "of no document"),
    Fault(
        "contradicts itself",
        "scores the first document twice, differently",
        (changed(lambda rows: [*rows, rows[0] | {"relevance_score": 0.5}]),),
        57,
        "bad_score",
        "scored twice",
    ),
    Fault("endless", "a body without end", (pour,), 0, "failed", "longer than 16,000,000 bytes"),
    Fault(
        "redirect",
        "302 to another host",
        (reply(302, b"", location="https://elsewhere.example/"),),
        0,
        "failed",
        "elsewhere.example",
    ),
    Fault("one of three", "400 for the second request", (scored, reply(400), scored), 40, "failed", "status 400"),
    Fault(
        "hangs before another",
        "never answers; `Fallback` has another reranker, deadline of 2 s",
        (hang,),
        60,
        said="no answer within 0.6 s",
        deadline_s=2.0,
        after=OverlapReranker(),
    ),
)


@dataclass(frozen=True)
class Round:
    """What became of one try."""

    requests: int
    ranking: Ranking
    seconds: float
    late: float


def tried(fault: Fault) -> Round:
    """One try with a client of its own."""
    with Service(*fault.actions) as service:
        url = service.url if fault.actions else f"http://127.0.0.1:{_nobody()}"
        client = Hosted("compatible", url=url, key=KEY, timeout_s=TIMEOUT_S, per_request=PER_REQUEST, concurrency=2)
        with closing(client):
            reranker: Reranker = client if fault.after is None else Fallback(client, fault.after)
            began = time.perf_counter()
            ranking = reranker.rerank(as_ranking(QUERY, TEXTS), deadline=Deadline.after_ms(1000 * fault.deadline_s))
            seconds = time.perf_counter() - began
    return Round(len(service.asked), ranking, seconds, seconds - min(TIMEOUT_S, fault.deadline_s))


def _nobody() -> int:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def told(ranking: Ranking) -> str:
    """Everything that the traces say of failures."""
    said = [str(step.detail[name]) for step in ranking.trace for name in ("failed", "odd") if step.detail.get(name)]
    return "; ".join(dict.fromkeys(said))


def row(fault: Fault, rounds: int) -> dict[str, Any]:
    """What became of a fault in all rounds."""
    done = [tried(fault) for _ in range(rounds)]
    ok, lost, statuses = True, 0, Counter[str]()
    for one in done:
        counts = Counter(str(hit.status) for hit in one.ranking.hits)
        lost += len(set(as_ranking(QUERY, TEXTS).ids) - set(one.ranking.ids))
        scores = counts.pop("scored", 0)
        ok &= scores == fault.scored and set(counts) <= {fault.status} and len(one.ranking) == len(TEXTS)
        ok &= fault.said in told(one.ranking) and KEY not in repr(one.ranking.trace) and one.late < LATE_S
        statuses.update(counts)
    last = done[-1]
    port = "127.0.0.1:"
    said = told(last.ranking)
    return {
        "fault": fault.name,
        "how": fault.how,
        "requests": last.requests,
        "documents": len(TEXTS),
        "scored": sum(hit.score is not None for hit in last.ranking.hits),
        "statuses": dict(statuses),
        "lost": lost,
        "slowest_s": round(max(one.seconds for one in done), 4),
        "limit_s": min(TIMEOUT_S, fault.deadline_s),
        "said": " ".join(word for word in said.split() if not word.startswith(port)),
        "ok": ok and not lost,
    }


def main() -> None:
    """Try all, print, and write bench/results/hosted_faults.json."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", help="these faults alone, with commas; nothing is written then")
    options = parser.parse_args()
    rows = []
    for fault in FAULTS:
        if options.only and fault.name not in options.only.split(","):
            continue
        rows.append(found := row(fault, options.rounds))
        print(
            "ok " if found["ok"] else "NOT", {key: found[key] for key in found if key not in ("how", "ok")}, flush=True
        )
    if not options.only:
        held = sum(one["ok"] for one in rows)
        goals = [
            target("documents lost", sum(one["lost"] for one in rows), "0", not any(one["lost"] for one in rows)),
            target("faults with the outcome that is promised", held, f"all {len(rows)}", held == len(rows)),
        ]
        print(write("hosted_faults", rows, goals, rounds=options.rounds, per_request=PER_REQUEST), file=sys.stderr)


if __name__ == "__main__":
    main()
