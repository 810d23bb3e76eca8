"""Screenshots of the workbench, for docs/workbench.md: a real server over the demo collection, driven in a browser.

    python bench/workbench.py [--folder .workbench] [--out docs/img]

Knows: what the server is given (an index, an audit, a comparison, a pool, a profile and a log, all made by the commands
that users run), and what is shown. Refuses to know: how it should look; the tests do. Needs the extras serve and log,
playwright, and Chromium on the path. What FOLDER holds from a run before is used again.
"""

from __future__ import annotations

import argparse
import importlib
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from secondpass.config import Config, build_index
from secondpass.demo.questions import demo_collection
from secondpass.evaluation.collections import write_beir

ROOT = Path(__file__).resolve().parent.parent
QUERY = "split+a+path+into+folder+and+file+name&time=none"
LARGEST = 200_000  # bytes of a picture
# as the index's own queries are not: for the alarm
OTHER = (
    "red shoes size 42",
    "train to the coast on sunday",
    "soup with beans",
    "cheap tent for two",
    "who won the cup",
)
SETTINGS = """\
[retriever]
index = "index"

[[stages]]
depth = 30

[serve]
deadline_ms = 1500
pool = "pool"
reports = "reports"

[request_log]
url = "sqlite:///{folder}/requests.db"

[watch]
profile = "profile.json"
every = 100
"""


def secondpass(folder: Path, *arguments: str, out: str = "") -> None:
    """A command, in the folder; its stdout into a file there."""
    command = [sys.executable, "-m", "secondpass", *arguments]
    found = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE)
    if out:
        (folder / out).write_bytes(found.stdout)


def prepare(folder: Path) -> None:
    """All that the workbench shows."""
    if (folder / "secondpass.toml").is_file():
        return
    (folder / "reports").mkdir(parents=True, exist_ok=True)
    collection = demo_collection()
    write_beir(collection, folder / "collection")
    build_index(Config(), collection.documents.values(), folder=folder / "index")
    common = ("--collection", "collection", "--index", "index", "--depth", "20")
    page = ("--html", "reports/bm25.html", "--profile", "profile.json")
    secondpass(folder, "audit", *common, *page, "--json", out="reports/bm25.json")
    stages = ("--retriever", "bm25", "--retriever", "dense", "--model", "secondpass-mini")
    secondpass(folder, "compare", *common, *stages, "--queries", "60", "--json", out="reports/compare.json")
    secondpass(folder, "audit", *common, "--sample", "8", "--pool", "pool")
    (folder / "secondpass.toml").write_text(SETTINGS.format(folder=folder), encoding="utf-8")


@contextmanager
def workbench(folder: Path) -> Iterator[str]:
    """The address of `secondpass ui` over the folder."""
    command = [sys.executable, "-m", "secondpass", "ui", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = re.search(r"http://\S+(?=/ui/)", process.stderr.readline())
        assert found, process.stderr.read()
        while httpx.get(f"{found[0]}/ready").status_code != 200:
            time.sleep(0.2)
        yield found[0]
    finally:
        process.terminate()
        process.wait(30)


def drive(url: str, stop: threading.Event) -> None:
    """Traffic: first that of the collection, then another one."""
    usual = [query.lower() for query in demo_collection().queries.values()]
    with httpx.Client(base_url=url, timeout=30) as client:
        for number in range(1000):
            if stop.is_set():
                return
            query = usual[number % len(usual)] if number < 30 else f"{OTHER[number % len(OTHER)]} {number}"
            client.post("/v1/search", json={"query": query, "depth": 20 if number < 30 else 4, "top_k": 10})
            time.sleep(0.05)


def shoot(url: str, out: Path) -> None:
    """Drive the page, and keep what is seen."""
    chromium = shutil.which("chromium")
    assert chromium, "needs Chromium on the path"
    with importlib.import_module("playwright.sync_api").sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])

        def opened(path: str, ready: str, *, width: int = 1280, height: int = 860, scheme: str = "light") -> Any:
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            page = context.new_page()
            page.goto(f"{url}/ui/#/{path}")
            page.wait_for_selector(ready)
            return page

        def kept(page: Any, name: str) -> None:
            path = out / f"workbench-{name}.png"
            page.wait_for_timeout(400)
            page.screenshot(path=path)
            assert path.stat().st_size <= LARGEST, path
            page.context.close()
            print(path)

        result = ".after .row"
        kept(opened(f"search?q={QUERY}", result), "search")
        kept(opened(f"search?q={QUERY}", result, scheme="dark"), "search-dark")
        kept(opened(f"search?q={QUERY}", result, width=375, height=812), "phone")
        page = opened(f"search?q={QUERY}", result)
        page.locator(result).first.click()
        page.wait_for_selector("dialog .heat")
        page.get_by_text("Verify it").click()
        page.wait_for_selector("dialog .verdict:not(.not-verified)", timeout=120_000)
        kept(page, "heat")
        kept(opened("judge?judge=ada", ".grades"), "judge")
        page = opened("live", ".tiles", height=1100)
        stop = threading.Event()
        traffic = threading.Thread(target=drive, args=(url, stop))
        traffic.start()
        try:
            page.wait_for_selector(".alarm", timeout=180_000)
            page.wait_for_timeout(8000)
        finally:
            stop.set()
            traffic.join()
        kept(page, "live")
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".workbench"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "img")
    given = parser.parse_args()
    folder = given.folder.resolve()
    prepare(folder)
    with workbench(folder) as url:
        shoot(url, given.out)


if __name__ == "__main__":
    main()
