"""judge: single keys on a real terminal, lines from a pipe, and no judgment lost however it ends."""

from __future__ import annotations

import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cli.conftest import QUERIES, TEXTS, Run
from secondpass.cli.judging_screen import help_sheet, in_full, on_screen, sheet
from secondpass.evaluation.judging import Judgments
from secondpass.evaluation.pool import draw_pool, write_pool
from secondpass.evaluation.trec import Run as Results
from secondpass.evaluation.trec import read_qrels
from secondpass.types import Document

DOCUMENTS = {f"d{n}": Document(f"d{n}", text) for n, text in enumerate(TEXTS, 1)}


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    def found(step: int) -> Results:
        return {q: [(f"d{(i * step + n) % 20 + 1}", -float(i)) for i in range(3)] for n, q in enumerate(QUERIES)}

    write_pool(draw_pool(QUERIES, {"a": found(3), "b": found(7)}, DOCUMENTS, sample=2, depth=3), tmp_path / "pool")
    return tmp_path / "pool"


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


# From a pipe


def test_lines_from_a_pipe(run: Run, pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "3\nnonsense\n?\n0\nu\nn not sure\n1\ns\n2\nq\n")
    done = run("judge", pool, "--judge", "ann")
    assert done.code == 0
    assert done.out == ""
    pairs = Judgments.open(pool).pool.pairs
    judged = Judgments.open(pool)
    assert judged.of_judge("ann") == {pairs[0]: 3, pairs[1]: 1, pairs[3]: 2}
    assert judged.note(*pairs[1], "ann") == "not sure"
    assert "'nonsense' is no answer: 0 to 3, u, s, n NOTE, q or ?" in done.err
    assert "Judge the document as it stands" in done.err
    assert f"3 of {len(pairs)} documents judged, 0 of 2 queries complete" in done.err
    assert max(map(len, done.err.splitlines())) <= 80


def test_it_goes_on_where_it_stopped_and_names_what_was_skipped(
    run: Run, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = Judgments.open(pool).pool.pairs
    typed(monkeypatch, "2\ns\n1\n")
    run("judge", pool, "--judge", "ann")
    typed(monkeypatch, "0\n" + "s\n" * len(pairs))
    done = run("judge", pool, "--judge", "ann")
    assert Judgments.open(pool).of_judge("ann") == {pairs[0]: 2, pairs[2]: 1, pairs[1]: 0}
    assert f"{len(pairs) - 3} documents skipped; they come again next time" in done.err
    typed(monkeypatch, "u\n3\n")
    run("judge", pool, "--judge", "ann")  # an undo reaches back into an earlier session
    assert Judgments.open(pool).of_judge("ann")[pairs[1]] == 3
    typed(monkeypatch, "1\n" * 99)
    done = run("judge", pool, "--judge", "ann")
    assert "--export judged.tsv" in done.err
    assert len(Judgments.open(pool).of_judge("ann")) == len(pairs)
    typed(monkeypatch, "u\n2\nu\n3\n")  # also the last of all can be taken back
    run("judge", pool, "--judge", "ann")
    assert list(Judgments.open(pool).of_judge("ann").items())[-1] == (pairs[-1], 3)


def test_nothing_that_tells_the_ranker_is_shown(run: Run, pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "s\n" * 99)
    done = run("judge", pool, "--judge", "ann")
    assert not re.search(r"\bd\d+\b|score|rank", done.err)


def test_status_export_and_agreement(run: Run, pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = Judgments.open(pool).pool.pairs
    done = run("judge", pool, "--export", "judged.tsv")
    assert done.code == 1
    assert "no query is judged completely" in done.err
    for judge, grades in (("ann", "0\n2\n" * 99), ("bob", "0\n2\n0\n1\n" * 99)):
        typed(monkeypatch, grades)
        run("judge", pool, "--judge", judge)
    done = run("judge", pool, "--status")
    assert f"ann: {len(pairs)} of {len(pairs)} documents judged, 2 of 2 queries complete" in done.out
    assert f"ann and bob: {len(pairs)} documents judged by both" in done.out
    data = json.loads(run("judge", pool, "--status", "--json").out)
    same = sum(number % 4 != 3 for number in range(len(pairs))) / len(pairs)
    assert data["agreement"][0]["same"] == pytest.approx(same)
    assert data["judges"]["bob"]["complete"] == data["together"]["queries"] == 2
    for name in ("judged.tsv", "judged.qrels"):
        assert run("judge", pool, "--export", name, "--judge", "ann").code == 0
        qrels = read_qrels(name)
        assert [qrels[query][doc] for query, doc in pairs] == [number % 2 * 2 for number in range(len(pairs))]


def test_binary_judgments(run: Run, pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "2\n1\n0\n")
    done = run("judge", pool, "--judge", "ann", "--binary")
    assert "'2' is no answer: 0 to 1" in done.err
    assert list(Judgments.open(pool).of_judge("ann").values()) == [1, 0]
    typed(monkeypatch, "1\n")
    assert "fully answers" not in run("judge", pool, "--judge", "bob").err  # the folder knows its scale


def test_errors_say_what_to_do(run: Run, pool: Path, tmp_path: Path) -> None:
    done = run("judge", tmp_path / "nowhere")
    assert done.code == 1
    assert "draw one with `secondpass audit --sample 50`" in done.err
    with (pool / "judgments.jsonl").open("w") as stream:
        stream.write('{"query_id": "q1", "doc')
    assert "set aside in judgments.damaged" in run("judge", pool, "--status").err
    assert (pool / "judgments.damaged").read_text() == '{"query_id": "q1", "doc\n'


# What the screen shows


def lines_of(shown: Any, width: int = 80, height: int = 24, start: int = 0) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=False)
    text, _, _ = on_screen(shown, console, start)
    console.print(text, end="")
    printed: str = console.file.getvalue()  # type: ignore[attr-defined]
    return printed.split("\n")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 18), (200, 60)])
def test_a_long_document_is_read_page_by_page(width: int, height: int) -> None:
    words = [f"word{n}" for n in range(200)]
    shown = sheet("what is it " * 40, Document("d", "\n".join(words), "A title"), best=3, where="here")
    seen: list[str] = []
    console = Console(width=width, height=height, file=io.StringIO())
    start, page = 0, 1
    for turn in range(300):
        lines = lines_of(shown, width, height, start)
        assert len(lines) == height
        assert max(map(len, lines)) <= width
        assert any("fully answers" in line for line in lines)
        seen += [word for line in lines for word in re.findall(r"word\d+", line)]
        _, at, page = on_screen(shown, console, start)
        if at < start:
            break
        start = at + page
        assert turn < 200
    assert list(dict.fromkeys(seen)) == words
    assert page > 1


def test_nothing_a_terminal_would_obey_reaches_it() -> None:
    nasty = "\x1b[2J\x1b]0;title\x07a\x9b31mb\u202ec\r\nd\x00\te\ud800"
    shown = sheet(nasty, Document("d", nasty, nasty), best=3, where=nasty, note=nasty)
    for text in (in_full(shown).plain, *lines_of(shown), in_full(help_sheet(nasty, 1)).plain):
        assert all(char.isprintable() or char == "\n" for char in text)
    assert (
        sheet("q", Document("d", "def f():\n\n\treturn 1"), best=3, where="").body.plain == "def f():\n\n    return 1"
    )


def test_the_words_of_the_query_are_set_off_in_any_form() -> None:
    body = sheet(
        "how do bees find a hive", Document("d", "Bee hives; the findings. How they do."), best=3, where=""
    ).body
    assert [body.plain[span.start : span.end] for span in body.spans] == ["Bee", "hives", "findings"]


# On a terminal

pty = pytest.importorskip("pty", reason="a terminal as POSIX has it")


class Terminal:
    """`secondpass judge` on a terminal of 80 by 24."""

    def __init__(self, *arguments: object) -> None:
        import fcntl
        import struct
        import termios

        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "secondpass", "judge", *map(str, arguments)],
            stdin=self.slave,
            stdout=subprocess.PIPE,
            stderr=self.slave,
            start_new_session=True,
            # what a shell starts in the background, tests among it, has Ctrl-C ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            env={**os.environ, "TERM": "xterm"},
        )

    def wait(self, text: str) -> str:
        """Until the terminal was sent `text`; all that it was sent since the last time."""
        until = time.monotonic() + 30
        while text not in (plain := self.plain()):
            assert time.monotonic() < until, f"{text!r} did not come; there is: {plain}"
            if select.select([self.master], [], [], 0.2)[0]:
                self.seen += os.read(self.master, 65536)
        self.seen = b""
        return plain

    def plain(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.seen.decode("utf-8", "replace"))

    def press(self, key: str) -> None:
        os.write(self.master, key.encode())

    def end(self) -> int:
        """The exit code, once the process is gone; what it still sends is taken."""
        until = time.monotonic() + 30
        while self.process.poll() is None:
            assert time.monotonic() < until
            if select.select([self.master], [], [], 0.05)[0]:
                self.seen += os.read(self.master, 65536)
        while select.select([self.master], [], [], 0)[0]:
            self.seen += os.read(self.master, 65536)
        return self.process.returncode

    def is_restored(self) -> bool:
        import termios

        return bool(termios.tcgetattr(self.slave) == self.before)


@pytest.fixture
def terminal(pool: Path) -> Iterator[Terminal]:
    opened = Terminal(pool, "--judge", "ann")
    yield opened
    if opened.process.poll() is None:
        opened.process.kill()
        opened.process.wait()
    assert opened.process.stdout is not None
    opened.process.stdout.close()
    os.close(opened.master)
    os.close(opened.slave)


def test_single_keys_and_a_terminal_as_it_was(terminal: Terminal, pool: Path) -> None:
    pairs = Judgments.open(pool).pool.pairs
    first = terminal.wait("? help")
    assert "0 of" in first
    assert not terminal.is_restored()
    terminal.press("2")
    terminal.wait("? help")
    assert Judgments.open(pool).of_judge("ann") == {pairs[0]: 2}
    terminal.press("\x1b[3~")  # the delete key sends a 3, which is no grade
    terminal.wait("? help")
    terminal.press("9")
    terminal.wait("? help")
    assert Judgments.open(pool).of_judge("ann") == {pairs[0]: 2}
    terminal.press("?")
    terminal.wait("any other key goes back")
    terminal.press("2")  # goes back, and grades nothing
    terminal.wait("? help")
    terminal.press("n")
    terminal.wait("note: ")
    terminal.press("rather 1 than 2\n")
    assert "rather 1 than 2" in terminal.wait("? help")
    terminal.press("s")
    assert "skipped" in terminal.wait("? help")
    terminal.press("0")
    terminal.wait("? help")
    terminal.press("u")
    assert "taken back" in terminal.wait("? help")
    terminal.press("3")
    terminal.wait("? help")
    terminal.press("q")
    assert terminal.end() == 0
    assert terminal.is_restored()
    assert "2 of" in terminal.plain()
    judgments = Judgments.open(pool)
    assert judgments.of_judge("ann") == {pairs[0]: 2, pairs[2]: 3}
    assert judgments.note(*pairs[1], "ann") == "rather 1 than 2"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_however_it_is_ended_the_terminal_is_as_it_was(
    terminal: Terminal, pool: Path, number: signal.Signals, code: int
) -> None:
    terminal.wait("? help")
    terminal.press("1")
    terminal.wait("? help")
    os.kill(terminal.process.pid, number)
    assert terminal.end() == code
    assert terminal.is_restored()
    assert b"\x1b[?1049l" in terminal.seen  # the screen of before
    assert "Traceback" not in terminal.plain()
    assert len(Judgments.open(pool).of_judge("ann")) == 1


def test_a_kill_between_two_judgments_loses_none(terminal: Terminal, pool: Path) -> None:
    pairs = Judgments.open(pool).pool.pairs
    terminal.wait("? help")
    for grade in "3102":
        terminal.press(grade)
        terminal.wait("? help")
    for left in range(len(pairs) - 5, -1, -1):
        terminal.press("1")
        shown = terminal.wait("? help" if left else "any other key: leave")
    assert "All of it is judged" in shown
    for _ in pairs[4:]:
        terminal.press("u")
        terminal.wait("? help")
    terminal.process.kill()
    assert terminal.end() == -signal.SIGKILL
    assert list(Judgments.open(pool).of_judge("ann").items()) == list(zip(pairs, (3, 1, 0, 2), strict=False))
