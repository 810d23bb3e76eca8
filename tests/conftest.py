"""For every test: no network, and no quiet skips where everything is installed."""

from __future__ import annotations

import locale
import os
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tiny import tiny_checkpoint


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections leave this machine only in tests marked `live`."""
    if "live" not in request.keywords:
        real = socket.socket.connect

        def connect(self: socket.socket, address: Any) -> None:
            if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
                raise AssertionError(f"this test reached for the network: {address}")
            real(self, address)

        monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(autouse=True)
def _same_locale() -> Generator[None, Any, Any]:
    """A native library that sets the whole process to the locale "C" does so for its own test only."""
    before = locale.setlocale(locale.LC_CTYPE)
    yield
    locale.setlocale(locale.LC_CTYPE, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """With SECONDPASS_ALL=1 (as in CI) only tests marked gpu, live or peers may skip."""
    report = yield
    allowed = {"gpu", "live", "peers"} & {mark.name for mark in item.iter_markers()}
    if report.skipped and os.environ.get("SECONDPASS_ALL") and not allowed and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where everything is installed: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random cross-encoder folder, shared and read-only."""
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for built graphs, apart from the user's."""
    return tmp_path_factory.mktemp("cache")
