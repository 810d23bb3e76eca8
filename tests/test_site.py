"""The documentation as a site: every page is on it, all its links lead somewhere, and the tutorial's commands run."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def assembled(tmp_path: Path) -> Path:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "site.py"), str(tmp_path / "site")], capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return tmp_path / "site"


def test_every_page_of_docs_is_in_the_navigation(assembled: Path) -> None:
    navigation = (assembled / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    named = set(re.findall(r": ([\w./-]+\.md)$", navigation, flags=re.M))
    assert named == {path.relative_to(assembled / "docs").as_posix() for path in (assembled / "docs").rglob("*.md")}


def test_no_link_leaves_the_site_but_to_the_web(assembled: Path) -> None:
    for page in (assembled / "docs").rglob("*.md"):
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.skipif(importlib.util.find_spec("zensical") is None, reason="needs the extra docs")
def test_the_site_builds_without_a_warning(assembled: Path) -> None:
    settings = str(assembled / "mkdocs.yml")
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", settings],
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (assembled / "site" / "reference" / "types" / "index.html").read_text(encoding="utf-8")
    assert "Position is the order of a ranking" in page
    assert "googleapis" not in page
    for source in (ROOT / "docs").glob("*.md"):  # a block that does not open swallows what follows
        html = (assembled / "site" / source.stem / "index.html").read_text(encoding="utf-8")
        text = re.sub(r"^```.*?^```", "", source.read_text(encoding="utf-8"), flags=re.S | re.M)
        assert html.count("<h2 ") == len(re.findall(r"^## ", text, flags=re.M)), source.name


def test_the_tutorial_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", page, flags=re.S | re.M)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    bash = shutil.which("bash")
    assert bash is not None
    said = []
    for block in blocks:
        done = subprocess.run(
            [bash, "-e", "-c", block],
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "COLUMNS": "100"},
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        said.append(done.stdout)
    _, _, searched, audited, cured, _ = said
    assert "brake-bleed" not in searched  # what the page says of it
    assert "hold 50.0% of the relevant documents" in audited
    assert "INCONCLUSIVE" in audited
    assert "hold 100.0% of the relevant documents" in cured
    assert "brake-bleed" in cured
