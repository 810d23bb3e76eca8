"""A browser that is installed, and pages of a workbench."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, headless; never one that playwright would download.

    No longer than a module: an event loop runs in this thread as long as playwright does.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, which .ci/run installs")
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("needs chromium, which .ci/run installs")
    alone = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with playwright.sync_playwright() as started:
        runs = started.chromium.launch(executable_path=found, args=alone)
        yield runs
        runs.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A fresh page; a script that fails, or a policy that is broken, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    yield opened
    context.close()
    assert not wrong
