"""First stages that people have, by the settings: filled, searched, reranked, audited, and asked by a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Run
from secondpass.config import Config, build_engine, build_retriever, read_config
from secondpass.embedding import open_encoder
from secondpass.errors import ConfigError
from secondpass.retrievers.fallback import Fallback
from secondpass.retrievers.hybrid import Hybrid
from secondpass.retrievers.sqlite import SQLite
from secondpass.serving.built import build_server

SETTINGS = """
[collection]
path = "{beir}"

[retriever]
name = "sqlite"
options = {{ path = "birds.db" }}
"""


def settings(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings" / "secondpass.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_fill_search_audit_serve(run: Run, beir: Path, tmp_path: Path) -> None:
    file = settings(tmp_path, SETTINGS.format(beir=beir))
    refused = run("index", "--config", file, "--out", "x")
    assert refused.code == 1
    assert "give --into sqlite to fill it" in " ".join(refused.err.split())
    done = run("index", "--config", file, "--into", "sqlite")
    assert (done.code, done.out) == (0, "")
    assert "20 added, 0 replaced, 0 were there" in " ".join(done.err.split())
    assert (tmp_path / "settings" / "birds.db").exists()  # the path is the settings' own
    again = run("index", beir, "--config", file, "--into", "sqlite")
    assert "0 added, 0 replaced, 20 were there" in " ".join(again.err.split())
    found = run("search", "swarm of locusts", "--config", file, "--no-rerank", "--json")
    assert found.code == 0
    assert json.loads(found.out)["hits"][0]["id"] == "d19"
    assert run("search", "swarm of locusts", "--config", file, "--top-k", "2").code == 0
    audited = run("audit", "--config", file, "--json", "--depth", "5")
    assert audited.code in (0, 3), audited.err
    assert "sqlite" in audited.out
    server = build_server(read_config(file))
    assert server.search is not None
    assert server.search.first_stage("locusts", 3).ids == ("d19",)


def test_what_into_cannot_mean(run: Run, beir: Path, tmp_path: Path) -> None:
    file = settings(tmp_path, SETTINGS.format(beir=beir))
    assert run("index", "--config", file, "--into", "sqlite", "--out", "x").code == 2
    wrong = run("index", "--config", file, "--into", "postgres")
    assert wrong.code == 1
    assert "has 0 first stages called 'postgres', not one; there are: sqlite" in " ".join(wrong.err.split())
    ours = run("index", beir, "--into", "bm25")
    assert ours.code == 1
    assert "'bm25' takes no documents" in " ".join(ours.err.split())


NESTED = """
[retriever]
name = "fallback"
options = { budget_ms = 500 }

[[retriever.retrievers]]
name = "hybrid"
weights = [1, 2]

[[retriever.retrievers.retrievers]]
name = "sqlite"
options = { path = "a.db" }

[[retriever.retrievers.retrievers]]
name = "sqlite"
options = { path = "b.db" }

[[retriever.retrievers]]
name = "bm25"
index = "idx"
"""


def test_made_of_others(run: Run, beir: Path, tmp_path: Path) -> None:
    file = settings(tmp_path, NESTED)
    run("index", beir, "--out", file.parent / "idx")
    config = read_config(file)
    made = build_retriever(config)
    assert isinstance(made, Fallback)
    first, _ = made.retrievers
    assert isinstance(first, Hybrid)
    assert [part.path for part in first.retrievers if isinstance(part, SQLite)] == [
        file.parent / "a.db",
        file.parent / "b.db",
    ]
    found = made.retrieve("locusts", 3)  # neither file is there
    assert found.ids == ("d19",)
    assert "no file" in found.trace[0].detail["failed"]
    with pytest.raises(ConfigError, match="2 first stages called 'sqlite'"):
        build_engine(config, "sqlite")
    done = run("search", "locusts", "--no-rerank", "--config", file)
    assert (done.code, "d19" in done.out) == (0, True)
    assert "failed (there is no file" in " ".join(done.err.split())


def test_secrets_come_from_the_environment_and_are_not_shown(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="needs the extra 'postgres' (psycopg)")
    text = '[retriever]\nname = "postgres"\noptions = { dsn = "$BIRDS", timeout_s = 2 }\n'
    variables = {"BIRDS": "postgresql://me:secret@localhost/birds"}
    config: Any = read_config(settings(tmp_path, text))
    with pytest.raises(ConfigError, match=r"retriever\.options\.dsn: the environment has no BIRDS"):
        build_retriever(config)
    known = Config(retriever=config.retriever, variable=variables.get)
    made: Any = build_retriever(known)
    assert repr(made) == "Postgres('me@localhost/birds', 'secondpass_documents', hybrid)"
    assert made._encoder.digest == open_encoder().digest  # the one that [retriever] names
    bad = Config(retriever=config.retriever, variable={"BIRDS": "secret without a meaning"}.get)
    with pytest.raises(ConfigError, match="dsn cannot be read") as unread:
        build_retriever(bad)
    assert "secret" not in str(unread.value)
    words = settings(tmp_path, text.replace("timeout_s = 2", 'mode = "words"'))
    only: Any = build_retriever(Config(retriever=read_config(words).retriever, variable=variables.get))
    assert only._encoder is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "sqlite"', r"retriever: SQLite missing a required argument: 'path'"),
        (
            'name = "sqlite"\noptions = { path = "x", nosuch = 1 }',
            r"retriever: SQLite .*'nosuch'; it takes: path, table",
        ),
        ('name = "sqlite"\noptions = { path = "x", timeout_s = 0 }', r"retriever: timeout_s is 0"),
        (
            'name = "fallback"\n[[retriever.retrievers]]\nname = "sqlit"',
            r"retriever\.retrievers\[0\]\.name: .*did you mean 'sqlite'",
        ),
        ('name = "fallback"\n[[retriever.retrievers]]\nname = "bm25"', r"retriever\.retrievers\[0\]\.index is not set"),
        (
            'name = "fallback"\n[[retriever.retrievers]]\nnam = "bm25"',
            r"retriever\.retrievers\[0\]\.nam: unknown key; did you mean 'name'",
        ),
        ('name = "fallback"', r"as \[\[retriever\.retrievers\]\]"),
    ],
)
def test_what_cannot_be_meant(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_retriever(read_config(settings(tmp_path, f"[retriever]\n{text}\n")))
