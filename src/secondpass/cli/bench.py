"""secondpass bench: what reranking costs on this machine, and how deep a time budget reaches."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from secondpass.cli.bench_texts import FreshTexts
from secondpass.cli.bench_views import show
from secondpass.cli.measured import uncached
from secondpass.cli.options import (
    AllowOption,
    ConfigOption,
    FamilyOption,
    JsonOption,
    ModelOption,
    configured,
)
from secondpass.cli.terminal import Update, bar, print_json, say
from secondpass.config import Config, StageTable, build_stages
from secondpass.errors import ConfigError, InputError
from secondpass.evaluation.collections import read_corpus
from secondpass.evaluation.cost import CostFit, fit_candidates, fit_tokens, largest_depth, margin, median_interval
from secondpass.evaluation.lines import numbered, opened
from secondpass.evaluation.wording import counted
from secondpass.types import Document, as_ranking

if TYPE_CHECKING:
    from secondpass.rerankers.cross_encoder import CrossEncoder

CANDIDATES, TOKENS = "10,25,50,100,200", "32,64,96,160,256"
QUERY_TOKENS, SPECIAL_TOKENS = 8, 3
SHORTEST = 16  # tokens of a pair: query, special tokens, and enough of a document to be told from others
HELD = 0.95  # the share of requests that the careful depth is for
MOST_TEXTS = 10_000  # of the user's own; more would not be more typical
UNRELIABLE = 0.2  # a fit that is off by more at any size does not describe the times
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Point:
    """One kind of request: so many candidates, each with so many tokens in its pair (None: the user's own texts)."""

    candidates: int
    tokens: int | None


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it went: seconds end to end, and mean tokens of its pairs as the model saw them."""

    seconds: float
    tokens: float


Measured = dict[Point, list[Request]]


def command(
    model: ModelOption = None,
    family: FamilyOption = None,
    allow: AllowOption = None,
    config: ConfigOption = None,
    profile: Annotated[
        str | None, typer.Option("--profile", metavar="NAME", help="default, exact or fast. Without it: default.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", min=1, help="Without it: all cores there are.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", metavar="N", min=1, help="Tokens of a pair, at most.")
    ] = None,
    candidates: Annotated[
        str, typer.Option("--candidates", metavar="N,N,…", help="How many a request has, in turn.")
    ] = CANDIDATES,
    tokens: Annotated[
        str | None,
        typer.Option("--tokens", metavar="N,N,…", help=f"How many a pair has, in turn. Without it: {TOKENS}."),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option("--texts", metavar="FILE", help="Your own: lines of a .txt, a corpus.jsonl or a BEIR folder."),
    ] = None,
    budget_ms: Annotated[
        float, typer.Option("--budget-ms", metavar="MS", min=0, help="Find the largest depth for it.")
    ] = 100.0,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="Requests of each kind.")] = 7,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw it: .svg, .png or .pdf (extra: plot).")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure what reranking costs on this machine, and how deep a budget reaches.

    Whole requests are timed, texts in and a ranking out, no two with the same
    texts. Candidates vary at a middle length, lengths at a middle number of
    candidates, in rounds, so that a busy minute hits all alike.

    Examples:

    $ secondpass bench --budget-ms 50
    $ secondpass bench --model my-model --texts corpus.jsonl --plot cost.svg
    """
    counts = _numbers(candidates, "--candidates", least=1, different=3)
    if plot is not None:
        from secondpass.cli.bench_plot import check

        check(plot)  # said now, not after a minute of measuring
    own = _own_texts(texts) if texts is not None else []
    notes: list[str] = []
    asked = configured(config, model=model, family=family, allow=allow)
    settings = _one_stage(asked, notes, profile, threads, max_length)
    reranker = _cross_encoder(settings)
    longest = reranker.scorer.max_length
    lengths = _lengths(tokens, longest)
    middle = Point(int(statistics.median(counts)), None if own else int(statistics.median(lengths)))
    by_count = [Point(count, middle.tokens) for count in counts]
    by_length = [Point(middle.candidates, length) for length in lengths]
    fresh = FreshTexts(reranker.scorer.checkpoint.tokenizer, own)
    needed = (rounds + 1) * sum(counts)
    if own and fresh.capacity < needed:
        raise InputError(
            f"{texts}: {needed:,} different texts are needed, and its {len(own):,} of {fresh.capacity:,} words give "
            "too few; give more texts, or fewer --rounds and --candidates"
        )
    measured, done = _measure(reranker, fresh, [*by_count, *by_length], rounds, "measuring")
    if not done:
        raise KeyboardInterrupt  # nothing to tell yet
    if done < rounds:
        notes.append(f"interrupted after {done} of {rounds} rounds; nothing was checked")
    data: dict[str, Any] = {
        "model": reranker.scorer.detail,
        "texts": f"{counted(len(own), 'text')} of {texts}" if own else "generated",
        "rounds": done,
        "measurements": [
            *(_row("candidates", point, measured[point]) for point in by_count),
            *(_row("tokens", point, measured[point]) for point in by_length),
        ],
    }
    fit = fit_candidates(*_medians(data, "candidates"))
    data["fits"] = {"candidates": _fit_row(fit), "tokens": _fit_row(fit_tokens(*_medians(data, "tokens")))}
    data["budget"] = _budget(fit, data["measurements"][: len(by_count)], budget_ms)
    for name, row in data["fits"].items():
        if row["largest_error"] > UNRELIABLE:
            notes.append(
                f"time against {name}: the fit is off by up to {row['largest_error']:.0%}, so do not rely on it; "
                "is the machine busy? Try again, with more --rounds"
            )
    whole = done == rounds and _check(data["budget"], reranker, fresh, middle.tokens, rounds)
    data["notes"] = notes
    if plot is not None:
        from secondpass.cli.bench_plot import figure, save

        save(figure(data), plot)
        say(f"drawn to {plot}")
    if json:
        print_json(data)
    else:
        show(data)
    for note in notes:
        say(note)
    if not whole:
        raise typer.Exit(INTERRUPTED)


def _numbers(given: str, option: str, *, least: int, different: int) -> list[int]:
    try:
        found = sorted({int(part) for part in given.split(",")})
    except ValueError:
        raise typer.BadParameter(
            f"{given!r} is not a list of whole numbers, such as 10,50", param_hint=option
        ) from None
    if found[0] < least:
        raise typer.BadParameter(f"{found[0]} is too small; give {least} or more", param_hint=option)
    if len(found) < different:
        raise typer.BadParameter(
            f"give {different} different numbers or more, so that the fit can be seen to fail", param_hint=option
        )
    return found


def _lengths(given: str | None, longest: int) -> list[int]:
    """Those asked for, or the usual ones as far as the model takes them."""
    if given is None:
        found = sorted({min(int(part), longest) for part in TOKENS.split(",")})
        given = ",".join(map(str, found))
    found = _numbers(given, "--tokens", least=SHORTEST, different=4)
    if found[-1] > longest:
        raise typer.BadParameter(
            f"{found[-1]} is too long; a pair may have {longest} tokens here", param_hint="--tokens"
        )
    return found


def _own_texts(place: Path) -> list[str]:
    if place.name.removesuffix(".gz").endswith(".txt"):
        with opened(place) as lines:
            found = [line for _, line in islice(numbered(lines, place), MOST_TEXTS)]
    else:
        documents = islice(read_corpus(place), MOST_TEXTS)
        found = [text for document in documents if (text := f"{document.title} {document.text}".strip())]
    if not found:
        raise InputError(f"{place}: holds no texts; give one a line, or a corpus.jsonl")
    return found


def _one_stage(
    settings: Config, notes: list[str], profile: str | None, threads: int | None, max_length: int | None
) -> Config:
    """The settings with what the command line says of the one stage, and without a cache of scores."""
    replace: Any = msgspec.structs.replace
    if len(settings.stages) != 1:
        raise ConfigError(
            f"{settings.file}: has {len(settings.stages)} stages; bench measures one, give it a file of one"
        )
    stage: StageTable = settings.stages[0]
    given = {"profile": profile, "threads": threads, "max_length": max_length}
    stage = replace(stage, **{name: value for name, value in given.items() if value is not None})
    return uncached(replace(settings, stages=(stage,)), notes)


def _cross_encoder(settings: Config) -> CrossEncoder:
    from secondpass.rerankers.cross_encoder import CrossEncoder

    (stage,) = build_stages(settings)
    if not isinstance(stage.reranker, CrossEncoder):
        raise ConfigError(
            f"{settings.file}: stages[0].reranker is {settings.stages[0].reranker!r}; bench measures a cross-encoder"
        )
    return stage.reranker


def _measure(
    reranker: CrossEncoder, fresh: FreshTexts, points: Sequence[Point], rounds: int, what: str
) -> tuple[Measured, int]:
    """Every point once a round, in an order of its own, after a round that is not counted; and the rounds finished.

    Ctrl-C ends it early, with the rounds that are whole.
    """
    measured: Measured = {point: [] for point in points}
    order, shuffle = list(measured), random.Random(0)
    done = 0
    with bar(what, (rounds + 1) * len(order)) as update:
        try:
            for number in range(rounds + 1):
                shuffle.shuffle(order)
                found = _round(reranker, fresh, order, update, number * len(order))
                if number:
                    done = number
                    for point, request in found.items():
                        measured[point].append(request)
        except KeyboardInterrupt:
            pass  # told by the number of rounds
    return measured, done


def _round(
    reranker: CrossEncoder, fresh: FreshTexts, points: Sequence[Point], update: Update, before: int
) -> dict[Point, Request]:
    found: dict[Point, Request] = {}
    for place, point in enumerate(points, before + 1):
        (query,) = fresh.of_length(1, QUERY_TOKENS)
        if point.tokens is None:
            texts = fresh.own(point.candidates)
        else:
            texts = fresh.of_length(point.candidates, point.tokens - QUERY_TOKENS - SPECIAL_TOKENS)
        ranking = as_ranking(query, [Document(str(number), text) for number, text in enumerate(texts)])
        began = time.perf_counter()
        trace = reranker.rerank(ranking).trace[-1]
        seconds = time.perf_counter() - began
        if trace.pairs_scored != point.candidates:
            raise InputError(
                f"{trace.pairs_scored} of {point.candidates} texts were scored ({trace.skipped_because}); "
                "a measurement needs all of them"
            )
        found[point] = Request(seconds, trace.tokens / trace.pairs_scored)
        update(place, note=f"{point.candidates} × {round(found[point].tokens)} tokens")
    return found


def _row(sweep: str, point: Point, requests: Sequence[Request]) -> dict[str, Any]:
    """One line of the table; times in milliseconds, in the order they were measured."""
    times = [round(1000 * request.seconds, 3) for request in requests]
    median = statistics.median(times)
    return {
        "sweep": sweep,
        "candidates": point.candidates,
        "tokens": round(statistics.fmean(request.tokens for request in requests), 1),
        "median_ms": median,
        "interval_ms": median_interval(times),
        "pairs_per_s": round(1000 * point.candidates / median, 1),
        "ms": times,
    }


def _medians(data: dict[str, Any], sweep: str) -> tuple[list[float], list[float]]:
    rows = [row for row in data["measurements"] if row["sweep"] == sweep]
    return [row[sweep] for row in rows], [row["median_ms"] / 1000 for row in rows]


def _fit_row(fit: CostFit) -> dict[str, Any]:
    """Coefficients in milliseconds, the rest as in CostFit."""
    row = asdict(fit)
    coefficients = {f"{name}_ms": _short(1000 * row.pop(name)) for name in ("a", "b", "c")}
    return coefficients | {name: _short(value) for name, value in row.items()} | {"crossover": _short(fit.crossover)}


def _short(value: float | None) -> float | None:
    """Six digits are more than any time is good for."""
    return None if value is None else float(f"{value:.6g}")


def _budget(fit: CostFit, rows: Sequence[dict[str, Any]], budget_ms: float) -> dict[str, Any]:
    """The depth for half of the requests ("median") and for nearly all ("held"), from the sweep of candidates."""
    requests = [(row["candidates"], time_ms / 1000) for row in rows for time_ms in row["ms"]]
    wide = margin(fit, [count for count, _ in requests], [seconds for _, seconds in requests], HELD)
    budget: dict[str, Any] = {
        "budget_ms": budget_ms,
        "tokens": round(statistics.fmean(row["tokens"] for row in rows), 1),
        "margin": _short(wide.factor),
        "held_share": _short(wide.share),
        "most_measured": int(fit.largest),
        "one_ms": _short(1000 * fit.seconds(1)),
    }
    for name, factor in (("median", 1.0), ("held", wide.factor)):
        depth = largest_depth(fit, budget_ms / 1000, factor)
        budget[name] = {
            "depth": depth.candidates,
            "expected_ms": _short(1000 * depth.seconds),
            "at_least": depth.at_least,
            "by_fit_alone": depth.by_fit_alone,
        }
    return budget


def _check(budget: dict[str, Any], reranker: CrossEncoder, fresh: FreshTexts, tokens: int | None, rounds: int) -> bool:
    """Run requests of just these depths (at least 1), and add to each what they took and how many kept the budget.

    False where Ctrl-C came early; what was not run once has nothing added.
    """
    points = {name: Point(max(budget[name]["depth"], 1), tokens) for name in ("median", "held")}
    measured, done = _measure(reranker, fresh, list(points.values()), rounds, "checking")
    for name, point in points.items() if done else ():
        times = [1000 * request.seconds for request in measured[point]]
        budget[name]["checked"] = {
            "candidates": point.candidates,
            "median_ms": round(statistics.median(times), 3),
            "interval_ms": [round(end, 3) for end in median_interval(times)],
            "within": sum(value <= budget["budget_ms"] for value in times),
            "requests": len(times),
        }
    return done == rounds
