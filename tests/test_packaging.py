"""What is published: a wheel that works offline and alone, and an sdist that the same wheel can be built from."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "secondpass"
PYPI_LIMIT = 100_000_000  # bytes a file: https://docs.pypi.org/project-management/storage-limits/

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pip") is None or importlib.util.find_spec("hatchling") is None,
    reason="needs pip and hatchling",
)

OFFLINE = """
import json, socket, sys

def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError(f"reached for the network: {event} {args}")

sys.addaudithook(refuse)
import secondpass
light = "torch" not in sys.modules and "numpy" not in sys.modules
from secondpass import Document, rerank
from secondpass.retrievers.hybrid import Hybrid

texts = ["A faucet drips.", "Goethe wrote Faust in two parts.", "Faust is a city in Alberta."]
hybrid = Hybrid.build(Document(str(place), text) for place, text in enumerate(texts))
print(json.dumps({
    "file": secondpass.__file__,
    "light": light,
    "first": hybrid.retrieve("who wrote Faust", 1).ids,
    "mini": rerank("who wrote Faust", texts).ids,
    "nano": rerank("who wrote Faust", texts, model="secondpass-nano").ids,
}))
"""


def build(kind: str, source: Path, out: Path) -> Path:
    """The file that hatchling makes of a source tree."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as pip builds it where there is no wheel: from the sdist, and nothing beside it."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(["tar", "-xzf", str(sdist), "-C", str(folder)], check=True)
    (unpacked,) = folder.iterdir()
    return build("wheel", unpacked, folder / "dist")


def tracked(under: Path) -> set[str]:
    """Paths below `under` that belong to the source."""
    return {
        path.relative_to(under).as_posix()
        for path in under.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_is_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    package = {name.removeprefix("secondpass/") for name in names if name.startswith("secondpass/")}
    assert package == tracked(SOURCE)
    assert {"py.typed", "models/mini/model.safetensors", "models/nano/model.safetensors"} <= package
    others = {name.split("/")[0] for name in names} - {"secondpass"}
    assert len(others) == 1
    assert others.pop().endswith(".dist-info")


def test_both_fit_the_index(wheel: Path, sdist: Path) -> None:
    assert wheel.stat().st_size < PYPI_LIMIT
    assert sdist.stat().st_size < PYPI_LIMIT


def test_the_metadata_name_licence_extras_and_pythons(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    lines = archive.read(name).decode().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "License-Expression: Apache-2.0" in lines
    assert f"Requires-Python: {project['requires-python']}" in lines
    extras = {line.removeprefix("Provides-Extra: ") for line in lines if line.startswith("Provides-Extra: ")}
    assert extras == set(project["optional-dependencies"])
    assert {name for name in archive.namelist() if "/licenses/" in name and name.endswith(("LICENSE", "NOTICE"))}


def test_it_installs_and_runs_without_a_network(wheel: Path, tmp_path: Path) -> None:
    """Both rerankers and the dense encoder come out of the wheel, and no name is looked up."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    site = tmp_path / "site"
    done = subprocess.run(
        [*install, "--no-index", "--no-deps", "--target", str(site), str(wheel)], capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    environment = {**os.environ, "PYTHONPATH": str(site), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE], cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert Path(said.pop("file")).is_relative_to(site)
    assert said.pop("light")
    assert {name: ids[0] for name, ids in said.items()} == {"first": "1", "mini": "1", "nano": "1"}
    done = subprocess.run(
        [str(site / "bin" / "secondpass"), "--version"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
