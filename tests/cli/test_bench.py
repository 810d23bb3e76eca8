"""bench: what is told follows from what was measured, no text is seen twice, and an early end keeps what is whole."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import sys
from collections.abc import Sequence
from itertools import accumulate, count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cli.conftest import TEXTS, Run
from secondpass import registry
from secondpass.cli import bench, bench_views
from secondpass.cli.bench_texts import FreshTexts
from secondpass.errors import InputError, MissingExtraError
from secondpass.evaluation.cost import median_interval
from secondpass.rerankers import cross_encoder
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.checkpoint import open_checkpoint
from secondpass.types import NEVER, Deadline, Ranking

SMALL = ("--candidates", "2,4,8", "--tokens", "16,24,32,48", "--rounds", "3")
drawing = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib (extra plot)")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Ranking]:
    """Every ranking that the reranker is given, in order; it does its work all the same."""
    seen: list[Ranking] = []
    real = CrossEncoder.rerank

    def rerank(self: CrossEncoder, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        seen.append(ranking)
        return real(self, ranking, deadline=deadline)

    monkeypatch.setattr(CrossEncoder, "rerank", rerank)
    return seen


def document(run: Run, *arguments: object) -> dict[str, Any]:
    done = run("bench", *arguments, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def rows_of(data: dict[str, Any], sweep: str) -> list[dict[str, Any]]:
    return [row for row in data["measurements"] if row["sweep"] == sweep]


def test_both_sweeps_are_measured_as_asked(run: Run, tiny: Path) -> None:
    data = document(run, "--model", tiny, *SMALL, "--profile", "exact", "--threads", 1, "--max-length", 64)
    counts, lengths = rows_of(data, "candidates"), rows_of(data, "tokens")
    assert [(row["candidates"], row["tokens"]) for row in counts] == [(2, 28.0), (4, 28.0), (8, 28.0)]
    assert [(row["candidates"], row["tokens"]) for row in lengths] == [(4, 16.0), (4, 24.0), (4, 32.0), (4, 48.0)]
    for row in data["measurements"]:
        assert len(row["ms"]) == 3
        assert row["median_ms"] == pytest.approx(np.median(row["ms"]))
        assert tuple(row["interval_ms"]) == median_interval(row["ms"])
        assert row["pairs_per_s"] == pytest.approx(1000 * row["candidates"] / row["median_ms"], rel=1e-2)
    model = data["model"]
    assert (model["precision"], model["workers"], model["max_length"]) == ("fp32", 1, 64)
    assert (data["texts"], data["rounds"]) == ("generated", 3)


def test_fits_and_depths_follow_from_the_measurements(run: Run, tiny: Path) -> None:
    data = document(run, "--model", tiny, *SMALL, "--budget-ms", "5")
    for sweep in ("candidates", "tokens"):
        rows, fit = rows_of(data, sweep), data["fits"][sweep]
        x, t = np.array([row[sweep] for row in rows]), np.array([row["median_ms"] for row in rows])
        fitted = fit["a_ms"] + fit["b_ms"] * x + fit["c_ms"] * x**2
        assert fit["largest_error"] == pytest.approx(np.max(np.abs(fitted - t) / t), abs=1e-4)
        assert fit["r2"] == pytest.approx(1 - np.sum((fitted - t) ** 2) / np.sum((t - t.mean()) ** 2), abs=1e-3)
        assert fit["exponent"] == pytest.approx(np.polyfit(np.log(x), np.log(t), 1)[0], abs=1e-4)
    budget, fit = data["budget"], data["fits"]["candidates"]
    line = [fit["a_ms"] + fit["b_ms"] * n for n in range(10)]
    ratios = [time / line[row["candidates"]] for row in rows_of(data, "candidates") for time in row["ms"]]
    assert budget["margin"] == pytest.approx(max(1.0, *ratios), rel=1e-4)  # nine requests: their largest
    assert budget["held_share"] == pytest.approx(0.9)
    for name, factor in (("median", 1.0), ("held", budget["margin"])):
        depth = budget[name]["depth"]
        assert budget[name]["expected_ms"] == pytest.approx(factor * line[depth], rel=1e-4)
        assert depth == 0 or factor * line[depth] <= 5.0
        assert depth == 8 or factor * line[depth + 1] > 5.0
        assert budget[name]["at_least"] == (factor * line[9] <= 5.0)
        checked = budget[name]["checked"]
        assert (checked["candidates"], checked["requests"]) == (max(depth, 1), 3)


def test_the_table_says_what_the_data_says(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, Any]] = []

    def show(data: dict[str, Any]) -> None:
        shown.append(data)
        bench_views.show(data)

    monkeypatch.setattr(bench, "show", show)
    done = run("bench", "--model", tiny, *SMALL, "--budget-ms", "100000")
    assert done.code == 0
    (data,) = shown
    assert max(map(len, done.out.splitlines())) <= 80
    for row in data["measurements"]:
        assert re.search(rf"^ +{row['candidates']} +{row['tokens']:.0f} +[\d.,]+ +[\d.,]+ … ", done.out, re.M)
    said = " ".join(done.out.split())
    for fit in data["fits"].values():
        assert f"R² {fit['r2']:.4f}, off by {fit['largest_error']:.1%} at most" in said
        assert f"^{fit['exponent']:.2f} on the whole" in said
    assert "largest depth for 100000 ms: at least 8 candidates of 28 tokens (median; at least 8 to hold it" in said
    assert "8 is the most that was measured" in said


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        (
            "0",
            ["largest depth for 0 ms: none; one candidate of 28 tokens takes", "1 candidate took", "0 of 3 requests"],
        ),
        ("100000", ["8 is the most that was measured", "8 candidates took", "3 of 3 requests in time"]),
    ],
)
def test_budgets_at_both_ends(run: Run, tiny: Path, budget: str, says: list[str]) -> None:
    said = " ".join(run("bench", "--model", tiny, *SMALL, "--budget-ms", budget).out.split())
    assert [one for one in says if one not in said] == []


def test_no_text_and_no_query_is_seen_twice(run: Run, tiny: Path, asked: list[Ranking]) -> None:
    document(run, "--model", tiny, *SMALL, "--budget-ms", "100000")
    texts = [one.text for ranking in asked for one in ranking.documents]
    assert len(asked) == 7 * 4 + 1 * 4  # 7 kinds of requests and a depth to check, three rounds and one to warm up
    assert len(set(texts)) == len(texts)
    assert len({ranking.query for ranking in asked}) == len(asked)


def test_rounds_are_interleaved(run: Run, tiny: Path, asked: list[Ranking]) -> None:
    document(run, "--model", tiny, *SMALL, "--budget-ms", "0")
    counts = [list(map(len, asked[start : start + 7])) for start in range(0, 28, 7)]
    assert [sorted(found) for found in counts] == [sorted([2, 4, 8, 4, 4, 4, 4])] * 4
    assert len({tuple(found) for found in counts}) > 1


def test_a_cache_of_scores_is_off_and_that_is_said(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_encoder, "Cached", None)  # calling it would fail
    tables = f'[[stages]]\nmodel = "{tiny}"\ncache = 1000000\n', f'[[stages]]\nmodel = "{tiny}"\n'
    for text, said in zip(tables, (True, False), strict=True):
        (tmp_path / "c.toml").write_text(text)
        done = run("bench", "--config", "c.toml", *SMALL, "--json")
        assert ("cache of scores is off" in done.err) == said
        assert any("cache of scores" in note for note in json.loads(done.out)["notes"]) == said


@pytest.mark.parametrize(("name", "title"), [("own.txt", []), ("corpus.jsonl", ["Bees"])])
def test_own_texts_keep_their_lengths(
    run: Run, tiny: Path, tmp_path: Path, asked: list[Ranking], name: str, title: list[str]
) -> None:
    """Each is one of the texts, begun at some word and gone round; the sweep of lengths has the lengths asked for."""
    (tmp_path / "own.txt").write_text("\n".join(TEXTS))
    corpus = [json.dumps({"_id": str(n), "title": "Bees", "text": text}) for n, text in enumerate(TEXTS)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(corpus))
    own = [[*title, *text.split()] for text in TEXTS if text or title]
    data = document(run, "--model", tiny, *SMALL, "--texts", name, "--budget-ms", 0)
    assert data["texts"] == f"{len(own)} texts of {name}"
    first = [hit.document.text.split() for ranking in asked if len(ranking) in (2, 8) for hit in ranking.hits]
    assert first
    for words in first:
        assert any(words[start:] + words[:start] in own for start in range(len(words)))
    assert [row["tokens"] for row in rows_of(data, "tokens")] == [16.0, 24.0, 32.0, 48.0]
    assert all(row["tokens"] > 28 for row in rows_of(data, "candidates"))  # the middle of those, without own texts


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--candidates", "10,x"], 2, "'10,x' is not a list of whole numbers"),
        (["--candidates", "0,10,20"], 2, "0 is too small; give 1 or more"),
        (["--candidates", "10,10,20"], 2, "give 3 different numbers or more"),
        (["--tokens", "16,32,64"], 2, "give 4 different numbers or more"),
        (["--tokens", "8,16,32,64"], 2, "8 is too small; give 16 or more"),
        (["--tokens", "16,32,64,129"], 2, "129 is too long; a pair may have 128 tokens here"),
        (["--max-length", "32"], 2, "--tokens"),
        (["--rounds", "0"], 2, "--rounds"),
        (["--plot", "cost.gif"], 2, "cost.gif must end in .svg, .png, .pdf"),
        (["--plot", "nowhere/cost.svg"], 2, "there is no folder nowhere"),
        (["--texts", "nowhere.txt"], 1, "error: nowhere.txt: cannot be opened"),
        (["--texts", "empty.txt"], 1, "error: empty.txt: holds no texts"),
        (["--texts", "few.txt"], 1, "error: few.txt: 3,080 different texts are needed"),
        (["--profile", "quick"], 1, "quick"),
        (["--config", "two.toml"], 1, "two.toml: has 2 stages"),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(
    run: Run, tiny: Path, tmp_path: Path, asked: list[Ranking], arguments: list[str], code: int, says: str
) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "few.txt").write_text("the river bank\n")
    (tmp_path / "two.toml").write_text("[[stages]]\n[[stages]]\n")
    model = [] if "--config" in arguments else ["--model", tiny]
    done = run("bench", *model, *arguments)
    assert (done.code, done.out) == (code, "")
    assert says in " ".join(re.sub("[│╭╮╰╯─]", "", done.err).split())
    assert asked == []


def test_another_reranker_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._BUILT_IN["reranker"], "overlap", "secondpass.testing:OverlapReranker")
    (tmp_path / "other.toml").write_text('[[stages]]\nreranker = "overlap"\n')
    done = run("bench", "--config", "other.toml")
    assert done.code == 1
    assert "error: other.toml: stages[0].reranker is 'overlap'; bench measures a cross-encoder" in done.err


def interrupt_after(monkeypatch: pytest.MonkeyPatch, requests: int) -> None:
    real, left = CrossEncoder.rerank, [requests]

    def rerank(self: CrossEncoder, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(self, ranking, deadline=deadline)

    monkeypatch.setattr(CrossEncoder, "rerank", rerank)


@pytest.mark.parametrize(("requests", "rounds"), [(14, 1), (27, 2), (28, 3), (31, 3)])
def test_an_interrupt_keeps_the_rounds_that_are_whole(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch, requests: int, rounds: int
) -> None:
    """Seven requests a round, one round to warm up; from the 29th on the depth is checked."""
    interrupt_after(monkeypatch, requests)
    done = run("bench", "--model", tiny, *SMALL, "--budget-ms", "100000", "--json")
    assert done.code == 130
    data = json.loads(done.out)
    assert data["rounds"] == rounds
    assert {len(row["ms"]) for row in data["measurements"]} == {rounds}
    assert ("interrupted after" in done.err) == (rounds < 3)
    checked = data["budget"]["median"].get("checked", {"requests": 0})["requests"]
    assert checked == {28: 0, 31: 2}.get(requests, 0)


def test_an_interrupt_before_that_leaves_nothing(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_after(monkeypatch, 13)
    done = run("bench", "--model", tiny, *SMALL, "--json")
    assert (done.code, done.out) == (130, "")
    assert "Traceback" not in done.err


@pytest.mark.parametrize(("slowest", "said"), [(30.0, True), (1.0, False)])
def test_a_fit_that_does_not_describe_the_times_is_called_so(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch, slowest: float, said: bool
) -> None:
    """By bench's own clock every request takes a second, or anything from one to thirty."""
    draw = random.Random(1)
    ticks = accumulate(draw.uniform(1.0, slowest) for _ in count())
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    done = run("bench", "--model", tiny, *SMALL, "--budget-ms", "0", "--json")
    assert ("do not rely on it" in done.err) == said
    assert any("do not rely on it" in note for note in json.loads(done.out)["notes"]) == said


@drawing
@pytest.mark.parametrize("budget", ["5", "100000"])
@pytest.mark.parametrize(("suffix", "begins"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_a_plot_is_drawn(run: Run, tiny: Path, tmp_path: Path, suffix: str, begins: bytes, budget: str) -> None:
    done = run("bench", "--model", tiny, *SMALL, "--plot", f"cost.{suffix}", "--budget-ms", budget)
    assert done.code == 0
    assert f"drawn to cost.{suffix}" in done.err
    assert (tmp_path / f"cost.{suffix}").read_bytes().startswith(begins)


@drawing
def test_the_same_document_gives_the_same_svg(run: Run, tiny: Path, tmp_path: Path) -> None:
    from secondpass.cli.bench_plot import figure, save

    data = document(run, "--model", tiny, *SMALL)
    for name in ("one", "two"):
        save(figure(data), tmp_path / f"{name}.svg", "of this")
    drawn = (tmp_path / "one.svg").read_text()
    assert drawn == (tmp_path / "two.svg").read_text()
    assert "<dc:description>of this</dc:description>" in drawn
    assert "<dc:date>" not in drawn
    assert len(drawn) < 60_000
    assert f"R² {data['fits']['candidates']['r2']:.4f}" in drawn


def test_without_matplotlib_the_extra_is_named_before_anything_is_measured(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch, asked: list[Ranking]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run("bench", "--model", tiny, *SMALL, "--plot", "cost.svg")
    assert done.code == 1
    assert "pip install 'secondpass[plot]'" in done.err
    assert asked == []
    from secondpass.cli.bench_plot import figure

    with pytest.raises(MissingExtraError):
        figure({})


@pytest.mark.parametrize("own", [(), TEXTS])
def test_texts_have_the_tokens_asked_for(tiny: Path, own: Sequence[str]) -> None:
    tokenizer = open_checkpoint(tiny).tokenizer
    texts = FreshTexts(tokenizer, own)
    seen: set[str] = set()
    for tokens in (5, 8, 21, 100):
        made = texts.of_length(30, tokens)
        assert len(made) == 30
        for text in made:
            assert len(tokenizer.encode(text, add_special_tokens=False).ids) == tokens
            seen.add(text)
    assert len(seen) == 120
    assert FreshTexts(tokenizer, own).of_length(30, 5) == FreshTexts(tokenizer, own).of_length(30, 5)


class Chunks:
    """A tokenizer of four characters a token: what a text has is not what its words have."""

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool) -> list[SimpleNamespace]:
        return [SimpleNamespace(ids=[0] * -(-len(text) // 4)) for text in texts]


def test_lengths_are_mended_where_words_do_not_add_up() -> None:
    texts = FreshTexts(Chunks())
    for tokens in (8, 40, 200):
        assert {-(-len(text) // 4) for text in texts.of_length(50, tokens)} == {tokens}


def test_a_tokenizer_that_cannot_measure_out_is_told() -> None:
    class Bytes(Chunks):
        def encode_batch(self, texts: Sequence[str], add_special_tokens: bool) -> list[SimpleNamespace]:
            return [SimpleNamespace(ids=[0] * 2 * len(text)) for text in texts]

    with pytest.raises(InputError, match="no single token of a short word"):
        FreshTexts(Bytes())


def test_texts_that_there_are_not_enough_of(tiny: Path) -> None:
    texts = FreshTexts(open_checkpoint(tiny).tokenizer, ["one two", "one two", "three"])
    assert sorted(texts.own(3)) == ["one two", "three", "two one"]
    with pytest.raises(InputError, match="too few"):
        texts.own(1)
    with pytest.raises(InputError, match="too few different texts of 1 tokens"):
        texts.of_length(1000, 1)
