"""examples/shop runs, its trees learn the made-up shop's rules, and its files are what the commands take."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "shop"

pytest.importorskip("lightgbm", reason="the extra ltr is not installed")


@pytest.fixture(scope="module")
def shop() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shop", EXAMPLE / "shop.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_it_runs_and_learns_and_its_runs_can_be_compared(tmp_path: Path) -> None:
    small = ["--customers", "120", "--depth", "2", "--out", "out"]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "recommend.py"), *small],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\d\. (\S.*?) +ndcg@10 (\S+) ", done.stdout, flags=re.M)
    means = {name: float(mean) for name, mean in rows}
    assert set(means) == {"bm25", "trees", "cross-encoder", "trees, then both"}
    assert means["trees"] > means["bm25"] + 0.05
    assert "What the trees go by: " in done.stdout
    runs = {name: f"out/{name}.trec" for name in ("bm25", "trees", "cross-encoder", "trees-then-both")}
    compare = ["compare", "--qrels", "out/test.tsv", *(f"{name}={file}" for name, file in runs.items()), "--json"]
    told = subprocess.run(
        [sys.executable, "-m", "secondpass", *compare], cwd=tmp_path, capture_output=True, encoding="utf-8"
    )
    assert told.returncode == 0, told.stderr
    compared = {row["name"]: row["mean"] for row in json.loads(told.stdout)["rows"]}
    assert compared["trees"] == pytest.approx(means["trees"], abs=0.001)


def test_the_shop_is_the_same_each_time_and_nobody_is_told_what_they_buy_next(shop: ModuleType) -> None:
    one, other = shop.items(50, 1), shop.items(50, 1)
    assert one == other
    assert one != shop.items(50, 2)
    people = shop.customers(5, one, 1)
    assert people == shop.customers(5, one, 1)
    for person in people:
        known, following = ({item.id for item in items} for items in (person.history, person.next))
        assert (len(known), len(following), known & following) == (shop.BOUGHT, shop.NEXT, set())


def test_the_search_finds_the_bias_again_and_ranks_better_without_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "search.py"), "--sessions", "20000", "--depth", "5", "--out", "out"],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    places = re.findall(r"(\d\.\d\d)/(\d\.\d\d)", done.stdout)
    assert len(places) == 10
    assert all(float(found) == pytest.approx(float(true), abs=0.05) for found, true in places)
    means = {name: float(mean) for name, mean in re.findall(r"^\d\. (\S.*?) +ndcg@10 (\S+) ", done.stdout, flags=re.M)}
    assert set(means) == {"bm25", "trees, click rates", "trees, debiased", "cross-encoder", "trees, then both"}
    assert means["trees, debiased"] > means["trees, click rates"] + 0.02
    told = subprocess.run(
        [sys.executable, "-m", "secondpass", "clicks", "out/sessions.jsonl", "--json", "--resamples", "20"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
    )
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["sessions"] == 20_000
