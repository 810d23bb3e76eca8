"""The package of examples/plugin: really installed, found by its name, and held to the shipped contract suites."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "plugin"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pip") is None or importlib.util.find_spec("hatchling") is None,
    reason="needs pip and hatchling",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example installed into it, as pip would into an environment."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, folder / "source")  # what a build leaves behind is not left in the repository
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--target", "site", "./source"]
    done = subprocess.run([*install, *offline], cwd=folder, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return folder


def run(place: Path, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Python with the installed package on its path, in the package's folder."""
    path = os.pathsep.join(filter(None, (str(place / "site"), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=place / "source",
        env=environment,
        input=given,
        capture_output=True,
        encoding="utf-8",
    )


def test_its_own_tests_pass(place: Path) -> None:
    done = run(place, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^5 passed", done.stdout, flags=re.M)


def test_the_settings_name_it(place: Path) -> None:
    request = {"query": "the way of the bee", "documents": ["a hive", "on the way of the bee"], "query_id": "q"}
    done = run(place, "-m", "secondpass", "rerank", "--config", "secondpass.toml", "--trace", given=json.dumps(request))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [(hit["id"], hit["score"]) for hit in answer["hits"]] == [("1", 1.0), ("0", 0.0)]
    assert answer["trace"][-1]["name"] == "longest-run"


def test_the_code_of_its_readme_runs(place: Path) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", (EXAMPLE / "README.md").read_text(encoding="utf-8"), re.S | re.M)
    done = run(place, "-c", block)
    assert done.returncode == 0, done.stderr


def test_a_wrong_option_says_what_it_takes(place: Path) -> None:
    (place / "source" / "wrong.toml").write_text('[[stages]]\nreranker = "longest-run"\noptions = { words = 3 }\n')
    done = run(place, "-m", "secondpass", "rerank", "--config", "wrong.toml")
    assert done.returncode == 1
    assert "stages[0]: LongestRun got an unexpected keyword argument 'words'; it takes: max_query_words" in " ".join(
        done.stderr.split()
    )


def test_it_is_not_known_without_the_package() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "secondpass", "rerank", "--config", "secondpass.toml"],
        cwd=EXAMPLE,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 1
    assert "there is no reranker called 'longest-run'" in " ".join(done.stderr.split())
