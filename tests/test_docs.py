"""The code blocks of the README and of docs/ run, and every link inside the repository leads somewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]
NEEDS = {  # page: what its code imports beside the package
    "haystack.md": "haystack",
    "langchain.md": "langchain_classic",
    "llama-index.md": "llama_index.core",
    "pandas.md": "pandas",
    "pyterrier.md": "pyterrier",
    "sentence-transformers.md": "sentence_transformers",
}


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page in one namespace, in order, in a folder with nothing but "my-model": as a reader would type
    them."""
    if page.name in NEEDS:
        pytest.importorskip(NEEDS[page.name], reason=f"needs {NEEDS[page.name]}")
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    shutil.copytree(tiny, tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, block in enumerate(blocks(page), 1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_shows_the_api_in_five_lines() -> None:
    first = blocks(ROOT / "README.md")[0]
    assert len([line for line in first.splitlines() if line.strip()]) == 5


def test_the_tables_are_what_the_result_files_say() -> None:
    done = subprocess.run([sys.executable, "bench/tables.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def check_plots(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "bench/plots.py", "--check"], cwd=root, capture_output=True, text=True)


def test_the_plots_are_of_the_result_files() -> None:
    done = check_plots(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_plot_of_another_result_is_found(tmp_path: Path) -> None:
    for folder in ("bench/results", "docs/img"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "bench" / "plots.py", tmp_path / "bench")
    lineage = Path("src/secondpass/models/mini/lineage.json")  # one plot is drawn from it
    (tmp_path / lineage).parent.mkdir(parents=True)
    shutil.copy(ROOT / lineage, tmp_path / lineage)
    result = tmp_path / "bench" / "results" / "deadline.json"
    changed = json.loads(result.read_text(encoding="utf-8"))
    changed["rows"][0]["misses"] += 1
    result.write_text(json.dumps(changed), encoding="utf-8")
    done = check_plots(tmp_path)
    assert (done.returncode, done.stdout) == (1, "stale: deadline\n")
    result.unlink()
    done = check_plots(tmp_path)
    assert done.returncode == 1
    assert "without a result: deadline.svg" in done.stdout


def test_plots_are_small() -> None:
    for image in (ROOT / "docs" / "img").glob("*.svg"):
        assert image.stat().st_size < 60_000, image.name
