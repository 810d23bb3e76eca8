"""secondpass ui, as a process: the page over whatever a folder holds, until Ctrl-C."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.conftest import Run
from secondpass.evaluation.pool import draw_pool, write_pool
from secondpass.retrievers.bm25 import Postings
from secondpass.retrievers.index import Index
from secondpass.types import Document

pytest.importorskip("uvicorn", reason="needs the extra serve")


@contextmanager
def opened(folder: Path, *arguments: str) -> Iterator[tuple[str, Any]]:
    """The page's address and the process."""
    command = [sys.executable, "-m", "secondpass", "ui", *arguments]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.fullmatch(r"workbench: (http://127\.0\.0\.1:\d+)/ui/ .*\n", line)
        assert found, line + process.stderr.read()
        yield found[1], process
    finally:
        process.kill()
        process.wait(30)
        process.stderr.close()


def filled(folder: Path, tiny: Path) -> Path:
    """An index, a pool and a report, as other commands leave them."""
    Index.build([Document("1", "a list"), Document("2", "a river")], [Postings()], folder=folder / "index")
    write_pool(draw_pool({"q": "a"}, {"r": {"q": [("1", 1.0)]}}, {"1": Document("1", "a list")}), folder / "pool")
    (folder / "report.html").write_text("<p>", encoding="utf-8")
    return folder


def has(url: str) -> tuple[bool, bool, bool]:
    found = httpx.get(f"{url}/v1/status").json()
    return found["search"] is not None, found["judging"], found["reports"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_it_shows_what_a_folder_holds_and_ctrl_c_quits(tiny: Path, tmp_path: Path) -> None:
    with opened(filled(tmp_path, tiny), ".", "--model", str(tiny)) as (url, process):
        assert "<title>secondpass workbench" in httpx.get(f"{url}/ui/").text
        assert has(url) == (True, True, True)
        found = httpx.post(f"{url}/v1/search", json={"query": "list"}).json()
        assert [one["id"] for one in found["results"]] == ["1"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("index", (True, False, False)),
        ("pool", (False, True, False)),
        ("settings", (False, True, False)),
        ("settings/secondpass.toml", (False, True, False)),
        (None, (False, False, True)),
    ],
)
def test_each_kind_of_place(tiny: Path, tmp_path: Path, given: str | None, expected: tuple[bool, bool, bool]) -> None:
    from secondpass.cli.ui import _settings

    filled(tmp_path, tiny)
    if given is not None and given.startswith("settings"):
        (tmp_path / "settings").mkdir()
        (tmp_path / "settings" / "secondpass.toml").write_text('[serve]\npool = "../pool"\n', encoding="utf-8")
    place = tmp_path / given if given else tmp_path / "only"
    if not given:
        place.mkdir()
        (place / "a.json").write_text("{}", encoding="utf-8")
    found = _settings(place, None)
    assert (bool(found.retriever.index), bool(found.serve.pool), bool(found.serve.reports)) == expected


def test_what_cannot_be_opened_is_said_in_a_line(run: Run, tmp_path: Path) -> None:
    nowhere = run("ui", str(tmp_path / "nowhere"))
    assert (nowhere.code, "no such file or folder" in nowhere.err) == (1, True)
    empty = run("ui", str(tmp_path))
    assert (empty.code, "holds neither secondpass.toml nor an index" in empty.err) == (1, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = run("ui", "--port", str(taken.getsockname()[1]))
    assert (busy.code, "cannot be had" in busy.err) == (1, True)
