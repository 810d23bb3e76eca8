"""What `import secondpass` promises: these names, and nothing loaded before one is asked for."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import secondpass
from secondpass import api
from secondpass.errors import InputError
from secondpass.types import Document, DocumentLike, Ranking, Status, as_ranking

NAMES = {
    "BM25",
    "Cascade",
    "CrossEncoder",
    "Deadline",
    "Dense",
    "Document",
    "Hit",
    "Hybrid",
    "Index",
    "Ranking",
    "SecondpassError",
    "Stage",
    "StageTrace",
    "Status",
    "Verdict",
    "__version__",
    "audit",
    "convex",
    "reciprocal_rank",
    "rerank",
    "rerank_many",
}
HEAVY = ("numpy", "onnx", "onnxruntime", "openvino", "tokenizers", "torch", "bm25s", "rich", "typer", "msgspec")
PROBE = """
import os, sys, threading
class Watched(dict):
    reads = []
    def __getitem__(self, key): Watched.reads.append(key); return dict.__getitem__(self, key)
    def get(self, key, default=None): Watched.reads.append(key); return dict.get(self, key, default)
os.environ = Watched(os.environ)
before = set(sys.modules)
import secondpass
loaded = sorted(set(sys.modules) - before)
import json
print(json.dumps([loaded, threading.active_count(), Watched.reads]))
"""


def test_the_exported_names_are_these() -> None:
    assert set(secondpass.__all__) == NAMES
    assert set(dir(secondpass)) >= NAMES
    for name in NAMES:
        assert getattr(secondpass, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'rerankk'"):
        _ = secondpass.rerankk


def test_the_version_is_the_package_s() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert secondpass.__version__ == project["version"]


def test_importing_loads_nothing_heavy_and_reads_no_environment() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    loaded, threads, reads = json.loads(done.stdout)
    assert [name for name in loaded if name.split(".")[0] in HEAVY] == []
    assert "secondpass" in loaded  # the probe saw the import
    assert threads == 1
    assert reads == []


def test_types_come_without_engines() -> None:
    code = f"import sys; from secondpass import Cascade, Document; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


DOCUMENTS: list[DocumentLike] = [
    "sort a list in place",
    "",
    {"id": "bank", "text": "the bank of a river", "page": 3},
    Document("d", "a file"),
]


@pytest.fixture
def model(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(api, "_opened", {})
    return str(tiny)


def test_rerank_takes_texts_mappings_and_documents(model: str) -> None:
    ranking = secondpass.rerank("sort list", DOCUMENTS, model=model, query_id="q", top_k=None)
    assert sorted(ranking.ids) == ["0", "1", "bank", "d"]
    assert ranking.query_id == "q"
    assert ranking.hits[-1].status is Status.EMPTY
    scores = [hit.score for hit in ranking.hits[:-1]]
    assert scores == sorted(scores, key=lambda score: -(score or 0.0))
    assert next(hit for hit in ranking.hits if hit.document.id == "bank").document.metadata == {"page": 3}
    assert secondpass.rerank("sort list", DOCUMENTS, model=model, top_k=2).ids == ranking.ids[:2]
    at_once = secondpass.rerank("sort list", DOCUMENTS, model=model, top_k=None, deadline_ms=0)
    assert at_once.ids == ("0", "1", "bank", "d")


@pytest.mark.parametrize("top_k", [0, -1, 2.5, True])
def test_a_wrong_top_k_is_said_before_a_model_is_opened(top_k: int) -> None:
    with pytest.raises(InputError, match="top_k"):
        secondpass.rerank("q", ["a"], top_k=top_k, model="no such model")
    with pytest.raises(InputError, match="top_k"):
        secondpass.rerank_many([], top_k=top_k, model="no such model")


def test_a_model_is_opened_once_however_many_ask(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    class Counted(secondpass.CrossEncoder):
        def __init__(self, name: str) -> None:
            opened.append(name)
            super().__init__(name)

    monkeypatch.setattr(api, "CrossEncoder", Counted)
    found: list[Ranking] = []
    threads = [
        threading.Thread(target=lambda: found.append(secondpass.rerank("list", ["a list", "a file"], model=model)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == [model]
    assert len({ranking.ids for ranking in found}) == 1


def test_rerank_many_streams_and_names_the_bad_request(model: str) -> None:
    read: list[int] = []

    def requests() -> Iterator[Any]:
        for position in range(1000):
            read.append(position)
            yield ("list", ["a list", "a file"]) if position % 2 else as_ranking("file", ["a list"], str(position))
        yield "no pair"

    answers = secondpass.rerank_many(requests(), model=model, top_k=1)
    for position in range(20):
        answer = next(answers)
        assert len(answer) == 1
        assert len(read) == position + 1  # nothing is read ahead
    assert answer.query == "list"
    with pytest.raises(InputError, match="request 0 is no"):
        next(secondpass.rerank_many(["nothing"], model=model))  # type: ignore[list-item]
    with pytest.raises(InputError, match="request 0: documents 0 and 1 share the id"):
        next(secondpass.rerank_many([("q", [Document("a", ""), Document("a", "")])], model=model))
