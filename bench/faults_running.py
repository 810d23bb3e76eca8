"""A real `secondpass serve` in a process of its own, for bench/faults.py: started, asked, looked at, killed.

Knows: the process, its port, its lines, its memory, and which scores are right. Refuses to know: any fault.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.serving.wire import relevances
from secondpass.types import as_ranking

QUERY = "how is a list sorted in python"
TEXTS = (
    "sorted returns a new list, and list.sort sorts in place.",
    "The river bank was flooded in spring.",
    "A snake of the python family may grow to six metres.",
    "The date of a file is what its last change wrote.",
)
NEAR = 0.02  # between relevances of one pair in other batches, bf16
OPENING = 120.0  # seconds until a server must be ready


@dataclass(frozen=True, slots=True)
class Row:
    """A fault, and its outcome; `recovered_s` from its end to the first answer that is right, None where none was."""

    fault: str
    how: str
    client_saw: str
    server_said: str
    recovered_s: float | None
    ok: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where a fault happens: the model (None: the default one), a folder for its files, the right relevances, and for
    how long slow peers are watched."""

    model: Path | None
    folder: Path
    right: tuple[float, ...]
    hold: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and after how many seconds."""

    status: int
    body: Any
    headers: dict[str, str]
    seconds: float


def right_scores(model: Path | None) -> tuple[float, ...]:
    """The relevance of each of TEXTS as the library gives it, without a server."""
    encoder = CrossEncoder(model) if model else CrossEncoder()
    hits = encoder.rerank(as_ranking(QUERY, TEXTS)).hits
    found = {int(hit.document.id): value for hit, value in zip(hits, relevances(hits), strict=True)}
    encoder.scorer.close()
    return tuple(found[i] for i in range(len(TEXTS)))


class Serving:
    """The process. `settings` are further lines of secondpass.toml; `program` is run in place of `secondpass serve`,
    with the port and the model for arguments."""

    def __init__(
        self, place: Place, *, settings: str = "", stage: str = "", log: Path | None = None, program: str = ""
    ) -> None:
        self._right = place.right
        self.port = free_port()
        file = place.folder / f"{self.port}.toml"
        model = "" if place.model is None else f"model = {json.dumps(str(place.model.resolve()))}\n"
        kept = "" if log is None else f'[request_log]\nurl = "sqlite:///{log}"\n'
        file.write_text(f"[serve]\ndrain = 5\n{settings}\n[[stages]]\n{model}{stage}\n{kept}")
        served = [sys.executable, "-m", "secondpass", "serve", "--config", str(file), "--port", str(self.port)]
        self._command = [sys.executable, program, str(self.port), str(place.model or "")] if program else served
        self._lines = place.folder / f"{self.port}.log"
        self.process = self._started()

    def __enter__(self) -> Serving:
        self.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def _started(self) -> subprocess.Popen[bytes]:
        with self._lines.open("ab") as lines:
            return subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=lines)

    def tell(self, line: str) -> None:
        """A line to the program's standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def start(self) -> float:
        """Start it again, on the same port; seconds until it is ready."""
        began = time.monotonic()
        self.process = self._started()
        self.wait_ready()
        return time.monotonic() - began

    def kill(self) -> None:
        """As `kill -9`."""
        self.process.kill()
        self.process.wait()

    def wait_ready(self) -> None:
        until = time.monotonic() + OPENING
        while self.status("/ready") != 200:
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the server did not start:\n{self._lines.read_text()[-2000:]}")
            time.sleep(0.05)

    def connect(self, timeout: float | None = 20.0, **options: int) -> socket.socket:
        """A bare connection. `receive`: bytes of its receive buffer."""
        client = socket.socket()
        if "receive" in options:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options["receive"])
        client.settimeout(timeout)
        client.connect(("127.0.0.1", self.port))
        return client

    def send(self, body: Any, path: str = "/v1/rerank", timeout: float = 60.0, **headers: str) -> Answer:
        """POST what is there as it is (bytes), or as JSON. Raises OSError or HTTPException where no answer comes."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        began = time.monotonic()
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            line.request("POST", path, raw, {"Content-Type": "application/json", **headers})
            return _answer(line.getresponse(), began)
        finally:
            line.close()

    def get(self, path: str, timeout: float = 10.0) -> Answer:
        began = time.monotonic()
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            line.request("GET", path)
            return _answer(line.getresponse(), began)
        finally:
            line.close()

    def status(self, path: str) -> int:
        """The status, 0 where none came."""
        try:
            return self.get(path).status
        except (OSError, http.client.HTTPException):
            return 0

    def right(self) -> bool:
        """Whether a normal request is answered with the right scores."""
        try:
            answer = self.send({"query": QUERY, "documents": TEXTS}, timeout=10)
        except (OSError, http.client.HTTPException):
            return False
        return answer.status == 200 and self.is_right(answer.body)

    def is_right(self, body: Any) -> bool:
        """Whether the answer to TEXTS, and what may follow them, has the right scores."""
        found = {one["index"]: one["relevance_score"] for one in body["results"] if "status" not in one}
        return all(i in found and abs(found[i] - value) <= NEAR for i, value in enumerate(self._right))

    def recovered(self, since: float, within: float = 60.0) -> float | None:
        """Seconds from `since` (monotonic) to the first right answer."""
        return waited(self.right, since, within)

    def metric(self, name: str, **labels: str) -> float:
        """A number of /metrics, 0 where it is not there."""
        told = "".join(rf'(?=[^}}]*{key}="{value}")' for key, value in labels.items())
        page = self.get("/metrics").body
        found = re.findall(rf"^{name}(?:\{{{told}[^}}]*\}})? (\S+)$", page, flags=re.M)
        return sum(map(float, found))

    def memory_mb(self) -> float:
        """Resident set."""
        return _kilobytes(self.process.pid, "VmRSS") / 1000

    def peak_mb(self) -> float:
        """The largest resident set since `forget_peak`."""
        return _kilobytes(self.process.pid, "VmHWM") / 1000

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def limit(self, kind: int, most: int) -> tuple[int, int]:
        """Set a soft limit of the process; those it had."""
        before = resource.prlimit(self.process.pid, kind)
        resource.prlimit(self.process.pid, kind, (most, before[1]))
        return before

    def said(self, after: int = 0, most: int = 3) -> str:
        """What it wrote from byte `after` of its lines on, answers with 200 left out: the commonest, with counts."""
        with self._lines.open("rb") as lines:
            lines.seek(after)
            folder = f"{self._lines.parent}/".encode()
            told = Counter(filter(None, (_told(line.replace(folder, b"")) for line in lines)))
        return "; ".join(f"{line} ({count} ×)" if count > 1 else line for line, count in told.most_common(most))

    def mark(self) -> int:
        """Where its lines end now."""
        return self._lines.stat().st_size


@contextmanager
def load(server: Serving, clients: int, documents: Sequence[str]) -> Iterator[list[str]]:
    """So many clients that ask one request after another, until the block ends; what became of each request."""
    import threading

    seen: list[str] = []
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            try:
                seen.append(str(server.send({"query": QUERY, "documents": documents}, timeout=30).status))
            except (OSError, http.client.HTTPException) as error:
                seen.append(type(error).__name__)
                over.wait(0.05)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()


def waited(happened: Callable[[], bool], since: float, within: float, step: float = 0.05) -> float | None:
    """Seconds from `since` until it happened; None where it did not within so many from now."""
    until = time.monotonic() + within
    while not happened():
        if time.monotonic() > until:
            return None
        time.sleep(step)
    return time.monotonic() - since


def counted(seen: Sequence[str]) -> str:
    """'12 × 200, 3 × ConnectionResetError'."""
    return ", ".join(f"{count} × {what}" for what, count in Counter(seen).most_common())


def seconds(value: float | None) -> str:
    return "never" if value is None or value == math.inf else f"{value:.2f} s"


def free_port() -> int:
    """One below those that the system gives to clients: of these, a client that tries a server which is not up yet may
    be given the very port, and is then connected to itself."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _answer(response: http.client.HTTPResponse, began: float) -> Answer:
    raw = response.read()
    kind = response.headers.get("content-type", "")
    body = json.loads(raw) if "json" in kind else raw.decode()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, body, headers, time.monotonic() - began)


def _told(line: bytes) -> str:
    """One line in short; "" for what says nothing here."""
    try:
        found = json.loads(line)
    except ValueError:
        return ""
    if found["event"] != "request":
        return "" if found["level"] == "info" else str(found["event"])[:140]
    if found["status"] == 200:
        return ""
    return " ".join(str(found[key]) for key in ("status", "reason", "error") if key in found)


def _kilobytes(process: int, name: str) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])
