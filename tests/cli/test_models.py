"""models: what there is, what a model is here, and whether its scores hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file, save_file

from cli.conftest import Run
from secondpass.cli import model_rows
from secondpass.cli.model_rows import Listed
from secondpass.cli.models_views import show_list
from secondpass.errors import GoldenError
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.catalog import catalog, permits_commerce
from secondpass.scoring.checkpoint import open_checkpoint
from secondpass.scoring.workload import multiply_adds
from secondpass.weights import SHIPPED
from tiny import tiny_checkpoint

CACHED = "cross-encoder/ms-marco-TinyBERT-L2-v2"


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, cache: Path, _apart: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache of the hub client, no network, next to no time for timing, and graphs built once for all."""
    place = tmp_path / "hub"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    fetched: list[str] = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: fetched.append(name))
    monkeypatch.setattr(model_rows, "_SECONDS", 0.02)
    yield place
    assert fetched == []


def put_in_cache(hub: Path, name: str, folder: Path) -> Path:
    """The folder as the hub client keeps it."""
    place = hub / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("c0ffee")
    return shutil.copytree(folder, place / "snapshots" / "c0ffee")


@pytest.fixture
def tiny_yardstick(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What estimates go by is tiny: for tests of anything but the numbers."""
    monkeypatch.setattr(model_rows, "YARDSTICK", str(tiny))


@pytest.fixture(scope="module")
def rows() -> list[Listed]:
    """The whole list, with seconds that are made up."""
    found = model_rows.listed()
    return [replace(row, seconds=0.4 * 3**n % 90_000, how="estimated") for n, row in enumerate(found)]


def listing(run: Run, *options: object) -> dict[str, dict[str, Any]]:
    done = run("models", *options, "--json")
    assert done.code == 0
    return {row["name"]: row for row in json.loads(done.out)}


def test_a_model_is_described_as_it_is(run: Run, tiny: Path) -> None:
    (row,) = json.loads(run("models", tiny, "--json").out)
    checkpoint = open_checkpoint(tiny)
    assert row["name"] == str(tiny)
    assert row["bytes"] == sum(file.stat().st_size for file in tiny.iterdir())
    assert (row["layers"], row["max_length"], row["digest"]) == (2, 128, checkpoint.digest)
    assert (row["family"], row["template"], row["licence"]) == ("pair", checkpoint.frame.digest, "unstated")
    assert (row["activation"], row["precision"] in ("bf16", "fp32")) == ("sigmoid", True)
    text = run("models", tiny).out
    for words in (row["digest"], row["template"], f"{row['precision']} on {row['engine']}", "sigmoid", "unstated"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 80
    assert json.loads(run("models", "show", tiny, "--json").out) == json.loads(run("models", "--json", tiny).out)


def test_the_embedding_model_is_described_too(run: Run) -> None:
    (row,) = json.loads(run("models", "secondpass-static", "--json").out)
    assert (row["kind"], row["languages"], row["licence"]) == ("static embeddings", ["en"], "Apache-2.0")
    assert "whole texts are read" in run("models", "secondpass-static").out


def test_what_ships_was_run_where_it_was_written(run: Run) -> None:
    for name in ("secondpass-mini", "secondpass-nano"):
        assert json.loads(run("models", name, "--json").out)[0]["verified"] is True


def test_what_ships_and_what_the_catalog_knows_is_listed(run: Run) -> None:
    rows = listing(run, "--machine-hour", 0.5)
    assert list(rows) == [*SHIPPED, *catalog()]
    for name, row in rows.items():
        assert row["offline"] is (name in SHIPPED)
        seconds, price = row["seconds_per_million_tokens"], row["price_per_million_tokens"]
        if name != "secondpass-static":
            assert seconds > 0
            assert price == pytest.approx(seconds * 0.5 / 3600, rel=1e-3)
            assert row["seconds_are"] == ("measured" if name in SHIPPED else "estimated")
        if name in catalog():
            assert ("licence" in row["needs"]) is not permits_commerce(catalog()[name].licence)
            assert row["licence"] == catalog()[name].licence
    mini, base = (rows[name]["seconds_per_million_tokens"] for name in ("secondpass-mini", "BAAI/bge-reranker-base"))
    assert base == pytest.approx(8 * mini, rel=1e-3)  # twice the layers, twice the width in both directions
    assert rows["zeroentropy/zerank-2"]["note"].startswith("its output scale changed")


def test_filters_and_the_price_of_the_settings(run: Run, tmp_path: Path, tiny_yardstick: None) -> None:
    (tmp_path / "secondpass.toml").write_text('[price]\nmachine_hour = 2.0\ncurrency = "EUR"\n')
    rows = listing(run, "--offline")
    assert list(rows) == list(SHIPPED)
    assert rows["secondpass-mini"]["currency"] == "EUR"
    allowed = listing(run, "--licence", "commercial")
    assert list(allowed) == [*SHIPPED, *(name for name, one in catalog().items() if permits_commerce(one.licence))]
    assert len(catalog()) - len(allowed) + len(SHIPPED) > 0
    done = run("models", "--licence", "free")
    assert (done.code, "neither commercial nor any" in done.err) == (2, True)


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("price", [None, 0.4])
def test_the_table_fits_and_names_can_be_read(
    rows: list[Listed], columns: int, price: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    show_list(rows, price, "USD", Console(width=columns))
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert max(map(len, lines)) <= columns
    assert "…" not in text
    left = lines[0].index("param.")  # where the names' column ends
    names = ""
    for line in lines[3:]:
        names += ("" if line.startswith("  ") else "\n") + line[:left].strip()
    assert set(names.split("\n")) >= {row.name for row in rows}
    assert "CC-BY-NC-4.0!" in text
    assert "Apache-2.0†" in text
    assert "allow=['licence']" in text.replace("\n", " ")
    assert ("USD" in text) is bool(price)
    assert ("languages:" in text) is (columns == 80 and bool(price))


def test_the_command_prints_the_table(run: Run) -> None:
    text = run("models", "--offline", "--machine-hour", 1).out
    assert [line.split()[0] for line in text.splitlines()[3:]] == list(SHIPPED)
    assert "USD" in text


def test_what_lies_in_the_hubs_cache_is_timed_from_there(run: Run, hub: Path, tiny: Path, tiny_yardstick: None) -> None:
    folder = put_in_cache(hub, CACHED, tiny)
    put_in_cache(hub, "cross-encoder/ms-marco-MiniLM-L4-v2", tiny).joinpath("model.safetensors").unlink()
    asked_for = "jinaai/jina-reranker-v2-base-multilingual"
    put_in_cache(hub, asked_for, tiny)
    sharded = put_in_cache(hub, "BAAI/bge-reranker-base", tiny)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    (sharded / "model.safetensors").rename(sharded / "model-1.safetensors")
    rows = listing(run, "--offline", "--licence", "commercial")
    assert list(rows) == [*SHIPPED, CACHED]  # two lack weights, one a licence
    assert (rows[CACHED]["here"], rows[CACHED]["seconds_are"]) == ("cached", "measured")
    assert listing(run)[asked_for]["seconds_are"] == "estimated"  # nobody has allowed it
    (folder / "config.json").write_text("{}")  # there, and does not open: no reason to fail
    assert listing(run, "--offline")[CACHED]["seconds_are"] == "estimated"
    assert "cached" in run("models", "--offline").out


def test_a_model_that_torch_must_run_says_so(run: Run, hub: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_cache(hub, "Qwen/Qwen3-Reranker-0.6B", tiny)
    for there, here in ((None, "needs torch"), (object(), "cached")):
        monkeypatch.setattr("secondpass.cli.model_rows.importlib.util.find_spec", lambda _, there=there: there)
        row = next(one for one in model_rows.listed() if one.name == "Qwen/Qwen3-Reranker-0.6B")
        assert (row.here, row.offline) == (here, there is not None)


def test_the_multiply_adds_of_a_token_are_those_of_the_published_sizes() -> None:
    """A trunk's matrices are nearly all of its parameters, so the published number of those checks the sizes."""
    for known in catalog().values():
        sizes = known.sizes
        computed = multiply_adds(known.kind, sizes, known.parameters) / 1e6
        inner = sizes["heads"] * sizes.get("head_width", sizes["hidden"] // sizes["heads"])
        embedded = sizes["vocabulary"] * sizes["hidden"] / 1e6
        other = 0.0
        if known.kind in ("t5", "mt5"):  # the decoder, but for the keys and values that are counted
            matrices = 3 if known.kind == "mt5" else 2
            layer = 6 * sizes["hidden"] * inner + matrices * sizes["hidden"] * sizes["intermediate"]
            other = sizes["layers"] * layer / 1e6
        tables = (1, 2)  # one for the input, and another for the output where they are not the same
        assert any(computed + n * embedded + other == pytest.approx(known.parameters, rel=0.025) for n in tables), (
            known.name
        )


def test_a_good_model_passes_and_its_logits_can_be_kept(run: Run, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "mine")
    (folder / "golden.json").write_text('{"licence": "MIT", "languages": ["en"]}')
    done = run("models", "check", folder, "--write", "--json")
    assert done.code == 0
    data = json.loads(done.out)
    assert data["passed"]
    assert {row["name"] for row in data["checks"]} >= {"opened", "special tokens", "cut", "batch mates", "order"}
    kept = json.loads((folder / "golden.json").read_text())
    assert (kept["licence"], kept["languages"], kept["family"]) == ("MIT", ["en"], "pair")
    exact = CrossEncoder(folder, profile="exact")
    for pair in kept["pairs"]:
        (value,) = exact.score(pair["query"], [pair["document"]]).values
        assert value == pytest.approx(pair["logit"], abs=1e-4)
    text = run("models", "check", folder).out
    assert "golden pairs" in text
    assert max(map(len, text.splitlines())) <= 80
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.bias"] = tensors["classifier.bias"] + np.float32(3)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(GoldenError):
        CrossEncoder(folder)
    done = run("models", "check", folder, "--json")
    assert done.code == 1
    failed = {row["name"]: row for row in json.loads(done.out)["checks"] if row["state"] == "failed"}
    assert failed.keys() == {"golden pairs"}  # the engine computes rightly what the folder now holds
    assert failed["golden pairs"]["value"] == pytest.approx(3, abs=0.3)


def test_logits_are_written_into_ones_own_folders_alone(run: Run, hub: Path, tmp_path: Path, tiny: Path) -> None:
    cached = put_in_cache(hub, CACHED, tiny)
    mine = shutil.copytree(tiny, tmp_path / "mine")
    assert run("models", "check", mine, "--write").code == 0
    for model, says in (
        ("secondpass-mini", "a folder of your own"),
        (SHIPPED["secondpass-mini"], "a folder of your own"),
        (cached, "the hub client's cache"),
        (mine, "golden pairs already"),
    ):
        done = run("models", "check", model, "--write")
        assert (done.code, says in done.err) == (1, True), done.err
    assert not (cached / "golden.json").exists()
    done = run("models", "check", mine, "--write", "--instruction", "find it")
    assert (done.code, "instruction" in done.err) == (2, True)


def test_what_is_refused_is_a_failed_check_with_the_reason(run: Run, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "two", id2label={"0": "a", "1": "b"})
    done = run("models", "check", folder, "--json")
    assert done.code == 1
    (row,) = json.loads(done.out)["checks"]
    assert (row["name"], row["state"], "the head has 2 labels" in row["said"]) == ("opened", "failed", True)
    for done in (run("models", "check", "zeroentropy/zerank-2"), run("models", "zeroentropy/zerank-2@main")):
        text = " ".join((done.out + done.err).split())
        assert done.code == 1
        assert "its licence is CC-BY-NC-4.0, which is not known to allow commercial use" in text
        assert "allow=['licence']" in text
    done = run("models", "check", folder, "--write")
    assert (done.code, "1 of 1 failed" in done.out, "nothing was written" in done.err) == (1, True, True)
    assert not (folder / "golden.json").exists()
    done = run("models", "check", tiny_checkpoint(tmp_path / "good"), "--allow", "everything")
    assert (done.code, "allow is 'everything'" in done.out) == (1, True)


def test_another_model_comes_without_the_family_of_the_settings_own(run: Run, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"query": "q", "documents": ["d"]}\n')
    (tmp_path / "secondpass.toml").write_text(
        '[[stages]]\nmodel = "elsewhere"\nfamily = "zerank"\nallow = ["licence"]\n'
    )
    assert run("rerank", "in.jsonl", "--model", tiny).code == 0
    (tmp_path / "secondpass.toml").write_text(f'[[stages]]\nmodel = "{tiny}"\nfamily = "zerank"\n')
    assert "family 'zerank' is read off a causal" in run("rerank", "in.jsonl").err
    assert run("rerank", "in.jsonl", "--family", "pair").code == 0


def test_a_family_that_is_no_such_thing_is_named(run: Run, tiny: Path, beir: Path, tmp_path: Path) -> None:
    """--family and --allow reach the model from every command that opens one."""
    (tmp_path / "in.jsonl").write_text('{"query": "q", "documents": ["d"]}\n')
    assert run("index", beir, "--out", "idx").code == 0
    for words in (
        ["rerank", "in.jsonl"],
        ["search", "idx", "bees"],
        ["audit", "--collection", beir],
        ["compare", "--collection", beir],
        ["bench"],
        ["models", "show"],
    ):
        model = [tiny] if words[0] == "models" else ["--model", tiny]
        done = run(*words, *model, "--family", "qwen3-rerank")
        assert (done.code, "did you mean 'qwen3-reranker'?" in done.err) == (1, True), (words, done.err)
        done = run(*words, *model, "--allow", "all")
        assert (done.code, "allow is 'all'" in done.err) == (1, True), (words, done.err)
