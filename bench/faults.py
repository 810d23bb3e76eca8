"""What goes wrong around a server, and what becomes of it: `secondpass serve` as a process, broken on purpose.

    python bench/faults.py [--model FOLDER] [--only kill,redis,…] [--hold 30]

A row passes where its fault did what docs/reliability.md says and a normal request right after it had the right scores:
those that the library gives without a server. Linux; the full disk (a tmpfs of its own) and peers that vanish without
a word need root, Redis the extra `redis` and a redis-server.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faults_wire
from common import RESULTS, arguments, commit, target, write
from faults_running import (
    QUERY,
    TEXTS,
    Place,
    Row,
    Serving,
    counted,
    free_port,
    load,
    right_scores,
    seconds,
    waited,
)
from secondpass.monitoring.request_log import RequestLog

MANY = [f"{text} {k}" for k in range(10) for text in TEXTS]
BROKEN = str(Path(__file__).with_name("faults_broken.py"))
CROWD = 10_000


def kill(place: Place) -> Iterator[Row]:
    """kill -9 in the middle of requests."""
    log = place.folder / "killed.db"
    with Serving(place, log=log) as server:
        with load(server, 8, MANY) as seen:
            waited(lambda: seen.count("200") >= 20, time.monotonic(), 60)
            time.sleep(1)
            server.kill()
            time.sleep(0.5)
            held = _listens(server.port)  # by a child that it has left behind
        answered, at = seen.count("200"), server.mark()
        since = time.monotonic()
        ready = server.start()
        back = server.recovered(since)
        with contextlib.closing(sqlite3.connect(log)) as database:
            whole = database.execute("PRAGMA integrity_check").fetchone()[0]
        kept = sum(len(one.shown) == len(MANY) for one in RequestLog(f"sqlite:///{log}").requests())
        said = f"ready {seconds(ready)} after it was started; request log: {whole}, {kept} of {answered} answers in it"
        yield Row(
            "kill -9",
            "8 clients ask without a pause; the server is killed and started again on its port",
            f"{counted(seen)} until it was there again",
            "; ".join(filter(None, [said, server.said(at)])),
            back,
            back is not None and whole == "ok" and kept > 0 and not held,
        )


def engine(place: Place) -> Iterator[Row]:
    """An engine call that raises, and a scorer's thread that ends."""
    with Serving(place, program=BROKEN) as server:
        at = server.mark()
        server.tell("raise")
        answers = [server.send({"query": QUERY, "documents": TEXTS}) for _ in range(5)]
        late = server.send({"query": QUERY, "documents": TEXTS, "deadline_ms": 500})
        unready = waited(lambda: server.status("/ready") == 503, time.monotonic(), 60)
        healthy = server.status("/health")
        server.tell("work")
        since = time.monotonic()
        back = server.recovered(since)
        ready = waited(lambda: server.status("/ready") == 200, since, 60)
        yield Row(
            "the engine fails",
            "every call of the engine raises, for some seconds",
            f"{counted([str(one.status) for one in [*answers, late]])}: {answers[0].body['message']}; "
            f"/ready 503 after {seconds(unready)}, /health {healthy}, /ready 200 again after {seconds(ready)}",
            server.said(at),
            back,
            {one.status for one in answers} == {500} and None not in (unready, ready, back) and healthy == 200,
        )
    with Serving(place, program=BROKEN) as server:
        at = server.mark()
        server.tell("die")
        time.sleep(0.2)
        since = time.monotonic()
        unready = waited(lambda: server.status("/ready") == 503, since, 60)
        seen = [_within(server, 2.0) for _ in range(3)]
        limited = server.send({"query": QUERY, "documents": TEXTS, "deadline_ms": 500})
        dead = waited(lambda: server.status("/health") == 503, since, 120)
        stopped = _stopped(server)
        restart = server.start()
        yield Row(
            "a scorer's thread ends",
            "SystemExit is raised within one of the scorer's threads",
            f"without a deadline: {counted(seen)}; with one of 500 ms: {limited.status} in {seconds(limited.seconds)}; "
            f"/ready 503 after {seconds(unready)}, /health 503 after {seconds(dead)} (probes each 2 s here, 10 by "
            f"default); ended {seconds(stopped)} after SIGTERM; ready again {seconds(restart)} after a restart",
            server.said(at),
            server.recovered(time.monotonic()),
            dead is not None and unready is not None and limited.seconds < 2 and stopped is not None and server.right(),
        )


def hang(place: Place) -> Iterator[Row]:
    """Engine calls that do not return: all of them, and one."""
    with Serving(place, program=BROKEN) as server:
        at = server.mark()
        server.tell("hang")
        since = time.monotonic()
        unready = waited(lambda: server.status("/ready") == 503, since, 60)
        limited = server.send({"query": QUERY, "documents": TEXTS, "deadline_ms": 500})
        statuses = {one.get("status", "scored") for one in limited.body["results"]}
        unlimited = [_within(server, 2.0) for _ in range(3)]
        dead = waited(lambda: server.status("/health") == 503, since, 120)
        flight = server.metric("secondpass_requests_in_flight")
        server.tell("work")
        since = time.monotonic()
        back = server.recovered(since)
        ready = waited(lambda: server.status("/ready") == 200, since, 30)
        left = server.metric("secondpass_requests_in_flight")
        yield Row(
            "the scorer hangs",
            "no call of the engine returns, for some seconds; then all do",
            f"deadline of 500 ms: {limited.status} in {seconds(limited.seconds)}, all documents {', '.join(statuses)}; "
            f"without a deadline: {counted(unlimited)} after 2 s; /ready 503 after {seconds(unready)}, /health 503 "
            f"after {seconds(dead)} (probes each 2 s here, 10 by default); of the 3 that had left {flight:.0f} in "
            f"flight, {left:.0f} once it worked again; /ready 200 after {seconds(ready)}",
            server.said(at),
            back,
            limited.seconds < 2 and statuses == {"deadline"} and None not in (unready, dead, ready, back) and left == 0,
        )
        at = server.mark()
        waited(lambda: server.status("/health") == 200, time.monotonic(), 60)
        server.tell("hang")
        waited(lambda: server.status("/health") == 503, time.monotonic(), 120)
        stopped = _stopped(server)
        restart = server.start()
        yield Row(
            "the scorer hangs, and is stopped",
            "SIGTERM while no call of the engine returns (5 s to drain)",
            f"ended after {seconds(stopped)}; ready again {seconds(restart)} after a restart",
            server.said(at),
            server.recovered(time.monotonic()),
            stopped is not None and server.right(),
        )
    with Serving(place, program=BROKEN) as server:
        at = server.mark()
        server.tell("one")
        since = time.monotonic()
        first = _within(server, 2.0, MANY)
        others = [_within(server, 5.0) for _ in range(5)]
        told = _statuses(server, "/ready", 5)
        server.tell("work")
        yield Row(
            "one batch hangs",
            "a single call of the engine does not return; the others do",
            f"whose batch it is: {first} after 2 s without a deadline; next requests: {counted(others)}; /ready in the "
            f"next 5 s: {counted(told)}",
            server.said(at),
            server.recovered(time.monotonic()),
            set(others) == {"200"},
        )


def disk(place: Place) -> Iterator[Row]:
    """No space left where the request log lies."""
    with _small_disk(place) as (folder, how, fill):
        log = folder / "log.db"
        with Serving(place, log=log) as server:
            server.right()
            at = server.mark()
            free = fill(server)
            seen = [_within(server, 10.0, MANY) for _ in range(30)]
            failed = waited(lambda: server.metric("secondpass_log_failures_total") > 0, time.monotonic(), 20)
            waiting = server.metric("secondpass_log_waiting")
            free()
            since = time.monotonic()
            back = server.recovered(since)
            written = waited(lambda: _written(server) >= 32, since, 60)
            with contextlib.closing(sqlite3.connect(log)) as database:
                whole = database.execute("PRAGMA integrity_check").fetchone()[0]
            yield Row(
                "full disk under the request log",
                how,
                f"{counted(seen)}; {waiting:.0f} waited to be written, all were {seconds(written)} after there was "
                f"space; integrity: {whole}",
                server.said(at),
                back,
                set(seen) == {"200"} and None not in (failed, written, back) and whole == "ok",
            )


def database(place: Place) -> Iterator[Row]:
    """The request log's database locked, and deleted, while serving."""
    log = place.folder / "locked.db"
    with Serving(place, log=log) as server:
        server.right()
        waited(lambda: _written(server) >= 1, time.monotonic(), 10)
        at = server.mark()
        with contextlib.closing(sqlite3.connect(log, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            seen = [_within(server, 10.0) for _ in range(10)]
            began = time.monotonic()
            click = server.send({"request_id": "nobody", "index": 0}, "/v1/clicks")
            time.sleep(max(8 - (time.monotonic() - began), 0))
            other.execute("ROLLBACK")
        since = time.monotonic()
        written = waited(lambda: _written(server) >= 11, since, 60)
        yield Row(
            "request log locked",
            "another process holds an exclusive lock on the database for 8 s",
            f"{counted(seen)}; a click meanwhile: {click.status} in {seconds(click.seconds)}; all were written "
            f"{seconds(written)} after the lock was gone",
            server.said(at),
            server.recovered(since),
            set(seen) == {"200"} and written is not None and click.seconds < 15,
        )
        at, before = server.mark(), _written(server)
        for file in place.folder.glob("locked.db*"):
            file.unlink()
        seen = [_within(server, 10.0) for _ in range(10)]
        since = time.monotonic()
        again = waited(lambda: _written(server) >= before + 10, since, 40)
        there = len(list(RequestLog(f"sqlite:///{log}").requests())) if log.exists() else 0
        yield Row(
            "request log deleted",
            "its files are removed while the server runs",
            f"{counted(seen)}; all these requests were in a new database {seconds(again)} later",
            server.said(at),
            server.recovered(since),
            set(seen) == {"200"} and there >= 10,
        )


def redis(place: Place) -> Iterator[Row]:
    """The score cache gone, hanging, and back."""
    port = free_port()
    command = ["redis-server", "--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--port", str(port)]

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, cwd=place.folder, stdout=subprocess.DEVNULL)
        if waited(lambda: _listens(port), time.monotonic(), 20) is None:
            raise SystemExit("redis-server did not start")
        return process

    store = start()
    try:
        with Serving(place, stage=f'cache = "redis://127.0.0.1:{port}/0"') as server:

            def hits() -> float:
                return server.metric("secondpass_score_cache_documents_total", result="hit")

            def hit() -> bool:
                before = hits()
                return server.right() and hits() > before

            warm = waited(hit, time.monotonic(), 30) is not None
            for how in ("gone", "stopped"):
                at = server.mark()
                if how == "gone":
                    store.kill()
                    store.wait()
                else:
                    store.send_signal(signal.SIGSTOP)
                times = []
                seen = []
                for _ in range(10):
                    began = time.monotonic()
                    seen.append("right" if server.right() else "wrong")
                    times.append(time.monotonic() - began)
                failures = server.metric("secondpass_score_cache_failures_total")
                since = time.monotonic()
                if how == "gone":
                    store = start()
                else:
                    store.send_signal(signal.SIGCONT)
                used = waited(hit, since, 60)
                yield Row(
                    f"Redis {how}",
                    "the score cache's Redis is killed and started again"
                    if how == "gone"
                    else "the score cache's Redis stands still (SIGSTOP) and goes on",
                    f"{counted(seen)}, {seconds(max(times))} at most; the cache is used again {seconds(used)} after it "
                    "was back",
                    "; ".join(filter(None, [f"{failures:.0f} failures of the cache counted", server.said(at)])),
                    server.recovered(since),
                    set(seen) == {"right"} and warm and used is not None and max(times) < 5,
                )
    finally:
        store.send_signal(signal.SIGCONT)
        store.kill()
        store.wait()


def crowd(place: Place) -> Iterator[Row]:
    """10,000 connections at once, and more of them than the server may open files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * CROWD), hard))  # the server inherits it
    with Serving(place) as server, ExitStack() as stack:
        server.right()
        at, before, began, slowest = server.mark(), server.memory_mb(), time.monotonic(), 0.0
        clients = []
        for k in range(CROWD):
            clients.append(stack.enter_context(server.connect()))
            if k % 1000 == 999:
                slowest = max(slowest, server.recovered(time.monotonic()) or 99.0)
        took, grown = time.monotonic() - began, server.memory_mb() - before
        most = faults_wire.still_open(server)
        time.sleep(place.hold)
        kept = faults_wire.still_open(server)
        yield Row(
            "10,000 connections",
            f"{CROWD:,} connections that say nothing",
            f"opened in {took:.0f} s, {most:,} open at once, {kept:,} of them {place.hold:.0f} s later; others were "
            f"answered within {seconds(slowest)}; {1000 * grown / most:.0f} kB of memory each",
            server.said(at),
            server.recovered(time.monotonic()),
            most >= CROWD and slowest < faults_wire.SLOW,
        )
        stack.close()  # who says nothing is not kept long, so these are new ones
        at, clients, began = server.mark(), [], time.monotonic()
        for _ in range(CROWD):
            clients.append(stack.enter_context(server.connect()))
            clients[-1].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        answered = sum(client.recv(1000).startswith(b"HTTP/1.1 200") for client in clients)
        took, asked = time.monotonic() - began, time.monotonic()
        slowest = server.recovered(asked) or 99.0
        closed = waited(lambda: faults_wire.still_open(server) < 10, asked, 30, 0.5)
        grown = server.memory_mb() - before
        yield Row(
            "10,000 connections",
            "each of them asks for /health once, and stays",
            f"{answered:,} answered within {took:.0f} s; the next request within {seconds(slowest)}; the server closed "
            f"all {seconds(closed)} later; {grown:.0f} MB more memory than before the crowd came",
            server.said(at),
            server.recovered(time.monotonic()),
            answered == CROWD and closed is not None and slowest < faults_wire.SLOW,
        )
    with Serving(place) as server, ExitStack() as stack:
        server.right()
        at = server.mark()
        server.limit(resource.RLIMIT_NOFILE, 200)
        for _ in range(400):
            stack.enter_context(server.connect())
        new = _within(server, 5.0)
        used = _cpu_share(server, 3.0)
        stack.close()
        back = server.recovered(time.monotonic())
        yield Row(
            "no files left to open",
            "400 connections to a server that may open 200 files",
            f"a new client meanwhile: {new} within 5 s; the server used {used:.0%} of a core",
            server.said(at),
            back,
            back is not None,
        )


def wire(of: Callable[[Place, Serving], Iterator[Row]]) -> Callable[[Place], Iterator[Row]]:
    """A fault of faults_wire, with a server for it."""

    def rows(place: Place) -> Iterator[Row]:
        with Serving(place) as server:
            server.right()
            yield from of(place, server)

    return rows


FAULTS: dict[str, Callable[[Place], Iterator[Row]]] = {
    "kill": kill,
    "engine": engine,
    "hang": hang,
    "disk": disk,
    "database": database,
    "redis": redis,
    **{name: wire(of) for name, of in faults_wire.FAULTS.items()},
    "crowd": crowd,
}


def _within(server: Serving, patience: float, documents: Any = TEXTS) -> str:
    """A request without a deadline, whose client waits so long: the status, or 'no answer'."""
    try:
        return str(server.send({"query": QUERY, "documents": documents}, timeout=patience).status)
    except TimeoutError:
        return "no answer"
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__


def _statuses(server: Serving, path: str, times: int) -> list[str]:
    """A status each second."""
    found = []
    for _ in range(times):
        time.sleep(1)
        found.append(str(server.status(path)))
    return found


def _stopped(server: Serving) -> float | None:
    """Seconds from SIGTERM to the end of the process, None where it had to be killed after 30."""
    began = time.monotonic()
    server.process.terminate()
    try:
        server.process.wait(30)
    except subprocess.TimeoutExpired:
        server.kill()
        return None
    return time.monotonic() - began


def _written(server: Serving) -> float:
    return server.metric("secondpass_log_requests_total", outcome="written")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _cpu_share(server: Serving, over: float) -> float:
    """Of one core, by the process."""

    def used() -> float:
        parts = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")

    before = used()
    time.sleep(over)
    return (used() - before) / over


@contextmanager
def _small_disk(place: Place) -> Iterator[tuple[Path, str, Callable[[Serving], Callable[[], None]]]]:
    """A folder, what it is, and what fills it and gives what empties it: a tmpfs of 2 MB for root, else a limit on the
    size of the server's files."""
    folder = place.folder / "disk"
    folder.mkdir()
    if os.geteuid() != 0:

        def limited(server: Serving) -> Callable[[], None]:
            before = server.limit(resource.RLIMIT_FSIZE, 8192)

            def freed() -> None:
                server.limit(resource.RLIMIT_FSIZE, before[0])

            return freed

        yield folder, "no file of the server may grow (RLIMIT_FSIZE, for want of root); then it may again", limited
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)

    def filled(server: Serving) -> Callable[[], None]:
        filler = folder / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 4096)
        return filler.unlink

    try:
        yield folder, "the log's file system (a tmpfs of 2 MB) is filled to the last byte, then emptied", filled
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _rows(name: str, place: Place) -> Iterator[Row]:
    """The rows of a fault; where the bench itself cannot go on, that is its row, and the next fault's turn."""
    try:
        yield from FAULTS[name](place)
    except (Exception, SystemExit) as error:
        yield Row(name, "", f"the bench could not go on: {type(error).__name__}: {error}", "", None, False)


def main() -> None:
    """Break it, print, and write bench/results/faults.json after each fault."""
    parser = arguments(__doc__)
    parser.add_argument("--model", type=Path, help="folder of another model, of which nothing is written")
    parser.add_argument("--only", help=f"these alone, with commas; other rows stay as they are: {','.join(FAULTS)}")
    parser.add_argument("--hold", type=float, default=30.0, help="seconds that slow peers are watched")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(FAULTS)
    right = right_scores(options.model)
    file = RESULTS / "faults.json"
    before = json.loads(file.read_text(encoding="utf-8"))["rows"] if options.only and file.exists() else []
    found = {name: [row for row in before if row["part"] == name] for name in FAULTS}
    with tempfile.TemporaryDirectory(prefix="secondpass-faults-") as folder:
        for name in names:
            place = Place(options.model, Path(folder) / name, right, options.hold)
            place.folder.mkdir()
            print(f"{name} …", file=sys.stderr, flush=True)
            found[name] = []
            for row in _rows(name, place):
                told = (row.fault, row.how, row.client_saw, row.server_said, seconds(row.recovered_s))
                print("ok " if row.ok else "NOT", " | ".join(told), flush=True)
                found[name].append({"part": name, **asdict(row), "commit": commit(), "hold": options.hold})
            if options.model is None:
                rows = [row for name in FAULTS for row in found[name]]
                held = sum(row["ok"] for row in rows)
                missing = [name for name in FAULTS if not found[name]]
                goal = target("faults with the outcome that is promised", held, f"all {len(rows)}", held == len(rows))
                print(write("faults", rows, [goal], root=os.geteuid() == 0, missing=missing), file=sys.stderr)


if __name__ == "__main__":
    main()
