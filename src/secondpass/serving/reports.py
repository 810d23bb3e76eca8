"""The routes of audit reports and comparisons: which lie in the folder that the settings name, and each of them.

Knows: how a verdict and a leaderboard are told apart, what of them a list shows. Refuses to know: how any was computed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from starlette.responses import Response

from secondpass.serving.asking import Asker, Failure, told
from secondpass.serving.server import Server
from secondpass.serving.workbench import REPORT_POLICY

__all__ = ["report", "reports"]

_T = TypeVar("_T")
_MOST = 500  # files of a list, the newest ones
_LARGEST = 64_000_000  # bytes of a file that is read
_AUDIT = ("decision", "names", "metric", "queries", "difference", "interval")
_BOARD = ("metric", "depth", "queries")


async def reports(server: Server, path: str, asker: Asker) -> Response:
    """The reports of the folder, the newest first, each with what it says in short."""
    folder = _folder(server)
    return told({"object": "list", "folder": folder.name, "data": await _read(server, partial(_listed, folder))})


async def report(server: Server, path: str, asker: Asker) -> Response:
    """One of them: the JSON, or the page, which runs apart from everything else."""
    folder, name = _folder(server), asker.request.query_params.get("name", "")
    # a name of the list, and nothing else, is opened
    one = await _read(server, lambda: {file.name: file for file in _files(folder)}.get(name))
    if one is None:
        raise Failure(404, f"no report {name!r} in {folder.name}")
    content = await _read(server, partial(_content, one))
    if content is None:
        raise Failure(404, f"{name} has more than {_LARGEST:,} bytes")
    if one.suffix == ".json":
        return Response(content, media_type="application/json")
    headers = {"Content-Security-Policy": REPORT_POLICY, "X-Content-Type-Options": "nosniff"}
    return Response(content, media_type="text/html", headers=headers)


def _folder(server: Server) -> Path:
    folder = None if server.workbench is None else server.workbench.reports
    if folder is None:
        raise Failure(404, "this server has no reports; set serve.reports and start it again")
    if not folder.is_dir():
        raise Failure(404, f"{folder.name}: no such folder; serve.reports names it")
    return folder


async def _read(server: Server, work: Callable[[], _T]) -> _T:
    """`work`, in a thread, since it waits for the disk. Raises Failure, 503, where that cannot be read."""
    try:
        return await asyncio.get_running_loop().run_in_executor(server.threads, work)
    except OSError as error:
        raise Failure(503, f"the reports cannot be read ({error.strerror})", "Unhealthy") from error


def _files(folder: Path) -> list[Path]:
    """The newest first."""
    found = [one for one in folder.iterdir() if one.suffix in (".json", ".html") and one.is_file()]
    return sorted(found, key=lambda one: (-one.stat().st_mtime, one.name))[:_MOST]


def _listed(folder: Path) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "at": one.stat().st_mtime, "bytes": one.stat().st_size, **_said(one)}
        for one in _files(folder)
    ]


def _content(file: Path) -> bytes | None:
    """None where there is too much of it."""
    return file.read_bytes() if file.stat().st_size <= _LARGEST else None


def _said(file: Path) -> dict[str, Any]:
    """What kind of file it is, and of those that we know the main things."""
    if file.suffix == ".html":
        return {"kind": "page"}
    content = _content(file)
    if content is None:
        return {"kind": "unknown", "why": f"more than {_LARGEST:,} bytes"}
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return {"kind": "unknown", "why": f"not JSON ({error})"}
    if isinstance(found, dict) and found.get("schema") == 1:
        if "decision" in found and "outcomes" in found:
            return {"kind": "audit", **{key: found.get(key) for key in _AUDIT}}
        rows = found.get("rows")
        if "pairs" in found and isinstance(rows, list):
            systems = [row.get("name") for row in rows if isinstance(row, dict)]
            return {"kind": "comparison", "systems": systems, **{key: found.get(key) for key in _BOARD}}
    return {"kind": "unknown", "why": "neither an audit nor a comparison"}
