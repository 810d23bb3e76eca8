"""Write the tables of README.md, docs/ and the model cards from bench/results: python bench/tables.py [--check].

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`; what is between is replaced. With --check nothing is
written, and the exit code says whether all tables are as they should be.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from claims_page import detail, summary
from secondpass.scoring.catalog import catalog
from secondpass.scoring.workload import multiply_adds

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "src" / "secondpass" / "models").glob("*/README.md")),
    ROOT / "weights" / "plain" / "README.md",
]


YARDSTICK = "cross-encoder/ms-marco-MiniLM-L6-v2"  # of the size of what ships


def _where(result: dict[str, Any], of: str = "") -> str:
    """Machine, day and commit; `of` names the commits where parts were measured at several."""
    machine = result["machine"]
    return f"{machine['cores']} cores {machine['cpu']}, {result['date']}, commit {of or result['commit']}"


def _change(row: dict[str, Any]) -> str:
    """A difference with its interval."""
    low, high = row["interval"]
    return f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"


def _quality(result: dict[str, Any], *, clean: bool) -> str:
    """One row a collection and first stage; with `clean`, also without the queries that training has seen."""
    head = "collection | first stage | queries | recall@100 | best order | nDCG@10 | base's cosine | cosine, fused"
    head += " | model alone | reranked | Δ, 95 % interval | helped / hurt | verdict at δ = .01"
    rows = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    for row in result["rows"]:
        for stage in row["stages"]:
            parts = [(row["collection"], stage)]
            if clean and "without_training_positives" in stage:
                parts.append((f"{row['collection']}, without training positives", stage["without_training_positives"]))
            for name, part in parts:
                low, high = part["interval"]
                orders = ("cosine", "cosine, fused", "alone", "reranked")
                found = [f"{part[one]['ndcg@10']:.3f}" if one in part else "–" for one in orders]
                rows.append(
                    f"| {name} | {stage['first_stage']} | {part['queries']:,} | {part['first']['recall@100']:.3f} "
                    f"| {part['best_possible']:.3f} | {part['first']['ndcg@10']:.3f} "
                    f"| {' | '.join(found)} "
                    f"| {part['difference']:+.3f} [{low:+.3f}, {high:+.3f}] "
                    f"| {part['helped']} / {part['hurt']} | {part['decision']} |"
                )
    model = result["model"]
    name = f"{model['model']} (digest {model['digest'][:8]}, {model['precision']} on {model['engine']})"
    if "weights" in result:
        name += ", its logits and the first stage's scores together"
    samples = [row for row in result["rows"] if row["stages"][0]["queries"] < row["queries_there"]]
    drawn = "".join(
        f"Of {row['collection']}'s {row['queries_there']:,} queries a sample, by a seed. " for row in samples
    )
    rows += [
        "",
        f"The first {result['depth']} of each first stage reranked by {name}; "
        "test queries, used for nothing else. "
        f"{drawn}{_where(result)}; `bench/quality.py`.",
    ]
    return "\n".join(rows)


def quality(result: dict[str, Any]) -> str:
    """Every first stage with and without reranking, on every collection."""
    return _quality(result, clean=False)


def quality_clean(result: dict[str, Any]) -> str:
    """The same, with rows for the queries whose relevant texts are no training positives."""
    return _quality(result, clean=True)


def senses(result: dict[str, Any]) -> str:
    """Accuracy on the sense pairs, one column a ranker."""
    found = result["senses"]
    names = list(found["accuracy"])
    return "\n".join(
        [
            "| pairs | chance | " + " | ".join(names) + " |",
            "|" + "---|" * (len(names) + 2),
            f"| {found['pairs']} | 50 % | " + " | ".join(f"{found['accuracy'][name]:.0%}" for name in names) + " |",
            "",
            f"{_where(result)}; `bench/quality.py`.",
        ]
    )


def retrievers(result: dict[str, Any]) -> str:
    """What indexing and answering take, one row a measurement."""
    build, *answers = result["rows"]
    documents = f"{build['documents']:,} passages of {build['mean_words']:.0f} words on average"
    indexed = f"Index of {documents}, words and vectors: {build['seconds']:.0f} s, {build['folder_mb']:.0f} MB on disk"
    rows = [
        f"{indexed}, peak resident set {build['peak_mb']:,.0f} MB (of it {build['peak_mb_before']:,.0f} MB the texts).",
        "",
        "| | median ms | p99 ms | peak resident set, MB |",
        "|---|---|---|---|",
    ]
    for row in answers:
        times = [(row["what"], row["median_ms"], row["p99_ms"])] if "median_ms" in row else []
        for threads in (1, 2):
            if f"median_ms_{threads}_threads" in row:
                name = f"{row['what']}, {threads} thread{'s' * (threads > 1)}"
                times.append((name, row[f"median_ms_{threads}_threads"], row[f"p99_ms_{threads}_threads"]))
        rows += [f"| {what} | {median} | {p99} | {row['peak_mb']:,.0f} |" for what, median, p99 in times]
    return "\n".join([*rows, "", f"{_where(result)}; `bench/retrievers.py`."])


def agreement(result: dict[str, Any]) -> str:
    """How far two passes of judging agree."""
    (row,) = result["rows"]
    lines = [
        "| second pass → | 0 | 1 | 2 | 3 |",
        "|---|---|---|---|---|",
        *(f"| first pass {grade} | " + " | ".join(map(str, line)) + " |" for grade, line in enumerate(row["table"])),
        "",
        f"{row['documents']:,} documents of {row['questions']} questions: the same grade for {row['same_grade']:.1%}, "
        f"at most one apart for {row['within_one']:.1%}; κ {row['kappa']:.2f}, weighted κ {row['weighted_kappa']:.2f}, "
        f"κ of useful (2 or 3) against not {row['kappa_useful']:.2f}.",
        "",
        "| nDCG@10 of | by the first pass | by the second |",
        "|---|---|---|",
        *(
            f"| {name} | {one:.3f} | {two:.3f} |"
            for name, (one, two) in row["ndcg@10_by_first_and_second_pass"].items()
        ),
        "",
        f"On these questions, {_where(result)}; `bench/agreement.py`.",
    ]
    return "\n".join(lines)


def deadlines(result: dict[str, Any]) -> str:
    """How late answers came, and what a deadline costs in quality."""
    rows = [
        "| workload | deadline, ms | requests | missed | latest answer, ms late | scored of 100, then under load |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        scored = f"{row['scored_median']:.0f}, then {row['scored_median_loaded']:.0f}"
        rows.append(
            f"| {row['workload']} | {row['deadline_ms']} | {row['requests']} | {row['misses']} "
            f"| {row['late_ms_max']:+.1f} | {scored} |"
        )
    curve = ", ".join(
        f"{'no deadline' if row['deadline_ms'] is None else str(row['deadline_ms']) + ' ms'} {row['ndcg@10']:.3f}"
        for row in result["quality"]
    )
    return "\n".join([*rows, "", f"nDCG@10 on dev queries: {curve}. {_where(result)}; `bench/deadline.py`."])


def _seconds(row: dict[str, Any] | None) -> str:
    if row is None:
        return "—"
    low, high = row["seconds"]["interval"]
    return f"{row['seconds']['median']:.3f} [{low:.3f}, {high:.3f}]"


def _times(row: dict[str, Any] | None) -> str:
    ratio = (row or {}).get("times_sentence_transformers")
    return "—" if ratio is None else f"{ratio['median']:.2f}"


def peers(result: dict[str, Any]) -> str:
    """Seconds of every engine on the three workloads, and what was promised and not reached."""
    found = {(row["workload"], row["engine"]): row for row in result["rows"] if "error" not in row}
    engines = dict.fromkeys(engine for _, engine in found)
    head = "engine | precision | W1, s | × | share of the limit | W2, s | × | W3, pairs/s | × | peak MB, W1"
    rows = ["**A trial of the script, no result: few rounds or passages, on a busy machine.**", ""] * result["trial"]
    rows += [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    for engine in engines:
        w1, w2, w3 = (found.get((workload, engine)) for workload in ("W1", "W2", "W3"))
        some = w1 or w2 or w3 or {}
        share = (w1 or {}).get("share_of_limit")
        cells = [
            engine,
            some["precision"],
            *(_seconds(w1), _times(w1), "—" if share is None else f"{share['median']:.0%}"),
            *(_seconds(w2), _times(w2)),
            *("—" if w3 is None else f"{w3['pairs_per_second']:.0f}", _times(w3)),
            "—" if w1 is None else f"{w1['peak_mb']:,.0f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    failed = dict.fromkeys(f"{row['engine']} did not run ({row['error']})" for row in result["rows"] if "error" in row)
    missed = [
        f"{one['name']} {'not measured' if one['value'] is None else format(one['value'], 'g')} ({one['goal']})"
        for one in result["targets"]
        if not one["holds"]
    ]
    held = len(result["targets"]) - len(missed)
    rounds = {workload: str(row["rounds"]) for (workload, engine), row in found.items() if engine in list(engines)[:1]}
    used = result["workloads"]
    what = ", ".join(
        f"{name} {count} of {used[name]['pairs']} pairs (median {used[name]['pair_tokens']['median']:g} tokens)"
        for name, count in rounds.items()
    )
    of = ", ".join(dict.fromkeys(f"{row['commit']} ({row['workload']})" for row in found.values()))
    rows += [
        "",
        f"×: times as fast as sentence-transformers with its defaults, by round, the median. Rounds: {what}. "
        f"In brackets 95 % intervals. {result['threads']} threads. {_where(result, of)}; `bench/peers.py`.",
        *("", *(f"{one}." for one in failed)) * bool(failed),
        "",
        f"Of what was promised {held} of {len(result['targets'])} hold."
        + (" Missed: " + "; ".join(missed) + "." if missed else ""),
    ]
    return "\n".join(rows)


def profiles(result: dict[str, Any]) -> str:
    """What the profiles do to rankings, and where their time goes."""
    lines: list[str] = []
    if result["agreement"]:
        lines += [
            "| collection | profile | queries | nDCG@10 | against exact (queries changed) | overlap@10 "
            "| largest difference of a logit |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in result["agreement"]["rows"]:
            compared = (
                f"{row['difference']:+.4f} ({row['queries_changed']}) | {row['overlap@10']:.3f} "
                f"| {row['largest_difference']:.3f}"
                if "difference" in row
                else "— | — | —"
            )
            lines.append(
                f"| {row['collection']} | {row['profile']} | {row['queries']} | {row['ndcg@10']:.4f} | {compared} |"
            )
        lines.append("")
    for workload in ("W1", "W2"):
        for row in (result["where"] or {}).get(workload, []):
            if "error" in row:
                continue
            whole = row["seconds"]
            engine = row["engine_seconds_all_workers"] / row["workers"] / whole
            kinds = row.get("openvino", {}).get("shares", {})
            nodes = ", ".join(f"{kind} {share:.0%}" for kind, share in list(kinds.items())[:5])
            lines.append(
                f"- {workload}, {row['profile']}: the engine {engine:.0%} of {whole:.3f} s, tokenizing "
                f"{row['tokenizing_seconds'] / whole:.1%}, stacking {row['stacking_seconds'] / whole:.1%}, "
                f"padding {row['padded_share']:.1%} of the tokens"
                + (f"; of the engine's time {nodes}" if nodes else "")
            )
    of = ", ".join(f"{result[part]['commit']} ({part})" for part in ("agreement", "where") if result[part])
    return "\n".join([*lines, "", f"{_where(result, of)}; `bench/peers.py`."])


def memory(result: dict[str, Any]) -> str:
    """Cold start and peak memory by engine, and what many calls add."""
    by = {kind: [row for row in result["rows"] if row["bench"] == kind] for kind in ("cold start", "peak", "flat")}
    rows = [
        "| engine | precision | s to import | s to open | s to the first score | peak MB, 1,000 of W1 | of W2 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in by["cold start"]:
        seconds = row["seconds"]
        peaks = {one["workload"]: one["peak_mb"] for one in by["peak"] if one["setting"] == row["setting"]}
        rows.append(
            f"| {row['engine']} | {row['precision']} | {seconds['import']:.2f} | {seconds['open']:.2f} "
            f"| {seconds['first score']:.2f} | {peaks['W1']:.0f} | {peaks['W2']:.0f} |"
        )
    grown = [
        f"{row['growth_mb']:+.1f} MB with {row['kept']} kept (of it {row['kept_growth_mb']:.1f} MB tokens)"
        for row in by["flat"]
    ]
    first = by["flat"][0]
    return "\n".join(
        [
            *rows,
            "",
            f"From call {first['from_call']:,} to {first['calls']:,} of ten candidates each: {'; '.join(grown)}. "
            f"Seconds from asking for a process, the interpreter's start included. {_where(result)}; "
            "`bench/memory.py`.",
        ]
    )


def claims(result: dict[str, Any]) -> str:
    """The ten claims and the word on each."""
    return f"{summary(result)} {_where(result)}; `bench/claims.py`."


def verdicts(result: dict[str, Any]) -> str:
    """How often a confident word is wrong, and how often harm is found, with 95 % bounds."""

    def share(part: dict[str, Any], end: str) -> str:
        return f"{part['share']:.1%} of {part['of']:,} ({'at most' if end == 'upper' else 'at least'} {part[end]:.1%})"

    names = {"all": "all audits", "confident words": "of the confident words alone"}
    rows = ["| simulated audits | confident and wrong (95 % bound) |", "|---|---|"]
    for row in result["rows"]:
        name = names.get(row["of"])
        if row["of"] == "queries":
            name = f"{row['queries']:,} judged queries"
        elif row["of"] == "true effect" and row["effect"] != "anywhere":
            name = f"true effect {row['effect']}"
        if name:
            rows.append(f"| {name} | {share(row['wrong'], 'upper')} |")
    for row in result["harmful_found"]:
        if row["of"] == "harm" and row["queries"] is None:
            rows.append(
                f"| harm beyond the minimum detectable effect called HARMFUL | {share(row['harmful'], 'lower')} |"
            )
    rows += [
        "",
        f"{result['pairs']:,} simulated pairs of a retriever and a reranker; `bench/verdicts.py`, {_where(result)}.",
    ]
    return "\n".join(rows)


def audit_speed(result: dict[str, Any]) -> str:
    """Seconds and memory of an audit from run files, and of reading a long run."""
    rows = ["| job | size | seconds | of processor | peak MB |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        size = f"{row['lines']:,} lines" if "lines" in row else f"2 × {row['queries']:,} queries × {row['depth']:,}"
        rows.append(
            f"| {row['job']} | {size} | {row['seconds']:.1f} | {row['processor_seconds']:.1f} | {row['peak_mb']:,.0f} |"
        )
    rows += [
        "",
        f"Whole commands, medians, 10,000 permutations and resamples; `bench/audit_speed.py`, {_where(result)}.",
    ]
    return "\n".join(rows)


def families(result: dict[str, Any]) -> str:
    """Milliseconds a candidate and seconds a million tokens of each published architecture."""
    head = "as large as | architecture | parameters, M | engine | ms a candidate | of the slowest round"
    head += " | seconds a million tokens | by multiply-adds | plain transformers takes"
    rows = [f"| {head} |", "|---|---|" + "---:|---|" + "---:|" * 5]
    known = catalog()

    def work(name: str) -> float:
        return multiply_adds(known[name].kind, known[name].sizes, known[name].parameters)

    (yardstick,) = [row for row in result["rows"] if row["model"] == YARDSTICK]
    for row in result["rows"]:
        estimate = yardstick["seconds_per_million_tokens"] * work(row["model"]) / work(YARDSTICK)
        plain = "—" if row["times_plain"] is None else f"{row['times_plain']:.1f} ×"
        slowest = row["slowest_ms"] / row["candidates"]
        rows.append(
            f"| {row['model']} | {row['kind']} | {row['parameters_m']:,.1f} | {row['engine']} {row['precision']} "
            f"| {row['ms_per_candidate']:,.2f} | {slowest:,.2f} | {row['seconds_per_million_tokens']:,.0f} "
            f"| {estimate:,.0f} | {plain} |"
        )
    counts = sorted({row["candidates"] for row in result["rows"]})
    rows += [
        "",
        f"Random weights at the published size, {' or '.join(map(str, counts))} candidates of some 100 tokens in one "
        f"request, medians of {result['rounds']} rounds. By multiply-adds: what `secondpass models` would "
        f"estimate from {YARDSTICK} here. Plain transformers: fp32 in batches of 32, up to 300 M "
        f"parameters. Not measured: {len(result['left_out'])} larger ones and ones with code of their own. "
        f"{_where(result)}; `bench/families.py`.",
    ]
    return "\n".join(rows)


def static_dev(lineage: dict[str, Any]) -> str:
    """Dev queries of the static model, before and after fitting."""
    rows = [
        "| dev set | queries | passages | nDCG@10 distilled | fitted | recall@100 distilled | fitted |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in lineage["dev"]:
        cells = [f"{row[when][name]:.3f}" for name in ("ndcg@10", "recall@100") for when in ("distilled", "fitted")]
        rows.append(f"| {row['set']} | {row['queries']} | {row['passages']:,} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def static_sets(lineage: dict[str, Any]) -> str:
    """What the static model was fitted to."""
    rows = ["| training set | pairs | licence |", "|---|---|---|"]
    rows += [f"| {row['name']} | {row['pairs']:,} | {row['licence']} |" for row in lineage["sets"] if row["pairs"]]
    return "\n".join(rows)


def dev(result: dict[str, Any]) -> str:
    """nDCG@10 on dev queries, from the lineage of the shipped model."""
    order = "BM25's order"
    columns = {"bm25": order, "first": order, "cosine": "cosine of the base", "model": "this model"}
    columns["fused"] = "with BM25"
    columns = {key: title for key, title in columns.items() if result["dev"][0].get(key) is not None}
    rows = ["| dev set | queries | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 2) + "|"]
    means = {key: statistics.fmean(row[key] for row in result["dev"]) for key in columns}
    every = {"set": "mean over sets", "queries": sum(row["queries"] for row in result["dev"]), **means}
    for row in [*result["dev"], every]:
        cells = " | ".join(f"{row[key]:.3f}" for key in columns)
        rows.append(f"| {row['set']} | {row['queries']:,} | {cells} |")
    return "\n".join(rows)


def calibration(result: dict[str, Any]) -> str:
    """How well P(relevant) holds, in domain and out of it, from the lineage of the shipped model."""
    names = {"alone": "logit", "with_first": "logit and BM25"}
    head = "| where | P from | queries | pairs | relevant | ECE | Brier | of the base rate |"
    rows = [head, "|---" * (head.count("|") - 1) + "|"]
    rows += [
        f"| {row['where']} | {names[row['map']]} | {row['queries']} | {row['pairs']:,} | {row['relevant']:.3f} "
        f"| {row['ece']:.3f} | {row['brier']:.4f} | {row['brier_of_base_rate']:.4f} |"
        for row in result["calibration"]["measured"]
    ]
    return "\n".join(rows)


def explain(result: dict[str, Any]) -> str:
    """How many explanations beat the median random order, what they take, and the surrogate's r."""
    head = "collection | pairs | beat the median random order | of 100 orders beaten, mean | words | parts"
    head += " | seconds, median / slowest | to verify | r of words alone | within queries"
    rows = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    for row in result["rows"]:
        surrogate = row["surrogate"]
        rows.append(
            f"| {row['collection']} | {row['pairs']} | {row['faithful'] / row['pairs']:.0%} "
            f"| {100 * row['beaten']:.1f} | {row['words']:.0f} | {row['units']:.0f} "
            f"| {row['seconds']:.2f} / {row['slowest']:.2f} "
            f"| {row['verifying']:.1f} / {row['verifying_slowest']:.1f} "
            f"| {surrogate['r']:.2f} | {surrogate['r_within']:.2f} |"
        )
    model = result["model"]
    rows += [
        "",
        f"The document on top of BM25's first {result['depth']} of each query, reranked by {model['model']} "
        f"({model['precision']} on {model['engine']}). Seconds are the processor's by the number of cores, other work "
        f"beside. {_where(result)}; `bench/explain.py`.",
    ]
    return "\n".join(rows)


def exits(result: dict[str, Any]) -> str:
    """nDCG@10 and the share of the processor time by the share of candidates that passes all layers."""
    shares = list(dict.fromkeys(row["go_on"] for row in result["rows"]))
    kinds = {"dev": "dev queries", "test": "test queries"}
    rows = ["| queries | set | " + " | ".join(f"{share:.0%}" for share in shares) + " |"]
    rows.append("|---" * (len(shares) + 2) + "|")
    for kind, name in dict.fromkeys((row["kind"], row["set"]) for row in result["rows"]):
        found = {row["go_on"]: row for row in result["rows"] if (row["kind"], row["set"]) == (kind, name)}
        cells = " | ".join(f"{found[share]['ndcg@10']:.3f} ({found[share]['time']:.2f})" for share in shares)
        rows.append(f"| {kinds[kind]} | {name} | {cells} |")
    count = max(row["queries"] for row in result["rows"])
    told = f"nDCG@10 over BM25's first 100, the model alone, up to {count} queries each; in brackets the processor time"
    return "\n".join([*rows, "", f"{told}, of all candidates' as 1. {_where(result)}; `bench/exits.py`."])


def precision(result: dict[str, Any]) -> str:
    """nDCG@10 of each precision, and how far its logits are from fp32's."""
    head = (
        "collection | queries | fp32 | bf16 | change | int8 | change | logits of bf16, int8: largest difference | mean"
    )
    rows = [f"| {head} | × processor time |", "|---" * 10 + "|"]
    for row in result["rows"]:
        plain, fast = row["default"], row["fast"]
        rows.append(
            f"| {row['collection']} | {row['queries']} | {row['exact']['ndcg@10']:.3f} | {plain['ndcg@10']:.3f} "
            f"| {_change(plain)} | {fast['ndcg@10']:.3f} | {_change(fast)} "
            f"| {plain['logit_most']:.2f}, {fast['logit_most']:.2f} "
            f"| {plain['logit_mean']:.3f}, {fast['logit_mean']:.3f} "
            f"| {plain['times_cpu']:.2f}, {fast['times_cpu']:.2f} |"
        )
    told = f"BM25's first {result['depth']}; processor time against fp32's, in turns."
    return "\n".join([*rows, "", f"{told} {_where(result)}; `bench/precision.py`."])


def selection(result: dict[str, Any]) -> str:
    """What a guaranteed threshold costs and saves, beside a fixed top k of its size; what becomes of it elsewhere."""
    rows = [
        "| collection | α | calibrated on | relevant removed, mean (90 % of the halves) | top k as long removes "
        "| of 100 candidates stay | of their tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        low, high = row["risk_90"]
        rows.append(
            f"| {row['collection']} | {row['alpha']:g} | {row['calibrated_on']} queries | {row['risk']:.3f} "
            f"({low:.3f} to {high:.3f}) | {row['risk_of_top_k']:.3f} | {row['documents']:.0f} | {row['tokens']:.0%} |"
        )
    elsewhere = "; ".join(f"{one['from']} → {one['to']} {one['risk']:.3f}" for one in result["across"])
    names = list(dict.fromkeys(row["selector"] for row in result["times"]))
    spans = []
    for name in names:
        taken = [row["ms"] for row in result["times"] if row["selector"] == name]
        spans.append(f"{name} {min(taken):g} to {max(taken):g}")
    model = result["model"]
    rows += [
        "",
        f"Elsewhere nothing is promised. Calibrated at α = {result['across'][0]['alpha']:g} on one collection and "
        f"tried on another, the share of relevant candidates removed is: {elsewhere}.",
        "",
        f"Milliseconds of processor time for 100 candidates, by collection: {'; '.join(spans)}.",
        "",
        f"BM25's first 100 reranked by {model['model']} (digest {model['digest'][:8]}, {model['precision']} on "
        f"{model['engine']}); queries with a relevant candidate, {result['splits']:,} times half to calibrate and half "
        f"to try. {_where(result)}; `bench/selection.py`.",
    ]
    return "\n".join(rows)


def robustness(result: dict[str, Any]) -> str:
    """The means over all sets: what enters the top 10, what is lost, what is leant on; the model beside BM25."""
    measures = {
        ("clean", "ndcg"): "nDCG@10, texts unchanged",
        ("attack", "entered"): "share of changed documents that enter the top 10",
        ("hidden", "drop"): "nDCG@10 lost, odd characters in the answers",
        ("noise", "drop"): "nDCG@10 lost, queries mistyped",
        ("bias", "rho"): "rank correlation of scores with",
        ("position", "fall"): "ranks lost by sentences from elsewhere",
        ("pairs", "right"): "minimal pairs won",
    }
    rankers = {"model": "model", "uncopied": "with `discount_copies`", "bm25": "BM25"}
    rankers = {name: title for name, title in rankers.items() if any(name in row for row in result["rows"])}
    rows = ["| probe | change | " + " | ".join(rankers.values()) + " |", "|---" * (len(rankers) + 2) + "|"]
    for (probe, measure), title in measures.items():
        for row in result["rows"]:
            if row["probe"] == probe and row["set"] == "all":
                cells = []
                for ranker in rankers:
                    found = row.get(ranker, {}).get(measure)
                    ends = ""
                    if found and found["interval"]:
                        low, high = found["interval"]
                        share = measure in ("entered", "right", "ndcg")  # its interval knows no bounds
                        ends = f" [{max(low, 0.0) if share else low:.3f}, {min(high, 1.0) if share else high:.3f}]"
                    cells.append(f"{found['mean']:.3f}{ends}" if found else "–")
                rows.append(f"| {title} | {row['name']} | " + " | ".join(cells) + " |")
    model = result["model"]
    rows += ["", f"{model['model']} (digest {model['digest'][:8]}). {_where(result)}; `bench/robustness.py`."]
    return "\n".join(rows)


def serve(result: dict[str, Any]) -> str:
    """The server at twice its capacity, beside a plain route."""
    throughput, *loads = result["rows"]
    head = "| at twice the capacity | answered | p50, ms | p99, ms | short ones: p99, ms | refused | p99, ms "
    head += "| of all in time | largest memory, MB |"
    rows = [head, "|---" * (head.count("|") - 1) + "|"]
    for row in loads:
        long, short, refused = row["answered"], row["answered, short"], row["refused"]
        cells = [
            row["what"].removesuffix(", overload").replace("overload", "secondpass serve"),
            long["count"] + short["count"],
        ]
        cells += [f"{part.get(name, 0):,.0f}" for part, name in ((long, "p50_ms"), (long, "p99_ms"), (short, "p99_ms"))]
        cells += [refused["count"], f"{refused['p99_ms']:.0f}" if refused["count"] else "–"]
        cells += [f"{row['in_time']:.0%}", f"{row['memory_mb']:,.0f}" if "memory_mb" in row else "–"]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    ours = loads[0]
    told = f"{throughput['requests_per_s']:.2f} requests of 100 documents a second, {throughput['of_offline']:.0%} of "
    told += "what the engine does offline. At twice that, at random times"
    told += f" for {ours['minutes']:g} minutes (the plain route: 2), each with {ours['deadline_ms'] / 1000:.1f} s: "
    told += (
        f"{ours['scored_documents']:.0f} documents of an answer are scored on average, none differs from its offline "
    )
    told += (
        f"score by more than {ours['largest_deviation']:.3f} (allowed: {ours['tolerance']:.3f}), and memory grows by "
    )
    told += f"{ours['memory_growth_mb']:.1f} MB in the second half."
    return "\n".join([*rows, "", f"{told} {_where(result)}; `bench/serve.py`."])


def sizes(result: dict[str, Any]) -> str:
    """What the models that ship take for the same requests."""
    rows = ["| model | computed in | ms | of secondpass-mini |", "|---|---|---|---|"]
    rows += [
        f"| {row['setting']} | {row['precision']} | {row['ms']:.0f} | {row['of_mini']:.2f} |" for row in result["rows"]
    ]
    told = (
        f"100 passages of {result['tokens_a_pair']:.0f} tokens with their query, all cores; ratios by round, medians."
    )
    return "\n".join([*rows, "", f"{told} {_where(result)}; `bench/sizes.py`."])


def short_requests(result: dict[str, Any]) -> str:
    """Documents a second by the number of documents a request."""
    first = result["rows"][0]["documents"]
    rows = [
        f"| documents a request | engine, documents/s | of {first}'s | served, documents/s | of {first}'s |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        cells = [row["documents"], row["offline_per_s"], row["offline_of_first"]]
        cells += [row["served_per_s"], row["served_of_first"]]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    told = (
        "Passages of two training sets; rounds alternate, medians. Client and server share the machine; each request "
    )
    told += "opens a connection of its own."
    return "\n".join([*rows, "", f"{told} {_where(result)}; `bench/short_requests.py`."])


def faults(result: dict[str, Any]) -> str:
    """What was done to a server, and what became of it."""
    head = "| fault | what was done | what clients saw | what the server said | right again after, s |"
    rows = [head, "|---" * (head.count("|") - 1) + "|"]
    for row in result["rows"]:
        back = "never" if row["recovered_s"] is None else f"{row['recovered_s']:.2f}"
        cells = [row["fault"], row["how"], row["client_saw"], row["server_said"] or "–", back]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " **!**" * (not row["ok"]) + " |")
    held = sum(row["ok"] for row in result["rows"])
    told = f"{held} of {len(result['rows'])} as promised, others are marked **!**."
    told += f" Not run: {', '.join(result['missing'])}." * bool(result["missing"])
    of = ", ".join(dict.fromkeys(row["commit"] for row in result["rows"]))
    return "\n".join([*rows, "", f"{told} {_where(result, of)}; `bench/faults.py`."])


def hosted_faults(result: dict[str, Any]) -> str:
    """What a service did to the client, and what became of it."""
    head = (
        "| fault | what the service does | requests seen | scored | lost | answered after, ms | of "
        "| what the trace says |"
    )
    rows = [head, "|---" * (head.count("|") - 1) + "|"]
    for row in result["rows"]:
        cells = [
            row["fault"],
            row["how"],
            str(row["requests"]),
            f"{row['scored']} of {row['documents']}",
            str(row["lost"]),
            f"{1000 * row['slowest_s']:.0f}",
            f"{1000 * row['limit_s']:.0f}",
            row["said"] or "–",
        ]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " **!**" * (not row["ok"]) + " |")
    held = sum(row["ok"] for row in result["rows"])
    told = (
        f"{result['rows'][0]['documents']} documents in requests of {result['per_request']}, two at once; times are "
        f"those of the slowest of {result['rounds']} rounds, beside the shorter of timeout and deadline. {held} of "
        f"{len(result['rows'])} as promised, others are marked **!**."
    )
    return "\n".join([*rows, "", f"{told} {_where(result)}; `bench/hosted_faults.py`."])


def ltr(result: dict[str, Any]) -> str:
    """The three ways at one processor time, by collection and together."""
    head = "| collection | way | the last stage gets | processor time, s | × | relevant among them | nDCG@10 "
    head += "| change, 95 % interval |"
    rows = [head, "|---" * (head.count("|") - 1) + "|"]

    for row in result["rows"]:
        for way in row["ways"]:
            cells = [f"{row['collection']}, {row['queries']} queries", way["way"], way["depth"], f"{way['cpu_s']:.2f}"]
            cells += [f"{way['of_the_first']:.2f}", f"{way['recall']:.3f}", f"{way['ndcg@10']:.3f}"]
            rows.append("| " + " | ".join(map(str, [*cells, _change(way) if "interval" in way else "–"])) + " |")
    for way in result["together"]:
        cells = [f"all, {way['queries']} queries", way["way"], "–", "–", f"{way['of_the_first']:.2f}", "–", "–"]
        cells.append(_change(way))
        rows.append("| " + " | ".join(cells) + " |")
    rows += ["", "| 1,000 candidates | first seen, ms | seen before, ms | of it the trees, ms |", "|---|---|---|---|"]
    for kind, name in (("words", "words"), ("cosine", "words and cosine")):
        fresh, kept = (one for one in result["overhead"] if one["features"] == kind)
        of_trees = f"{kept['trees_ms']:.2f} ({kept['trees']} trees)"
        rows.append(f"| {name} | {fresh['cpu_ms']:.0f} | {kept['cpu_ms']:.1f} | {of_trees} |")
    cutoffs = [name for name in result["example"][0] if name != "trained_by"]
    head = "| LightGBM's example, trained by | " + " | ".join(name.replace("ndcg", "nDCG") for name in cutoffs) + " |"
    rows += ["", head, "|---" * (len(cutoffs) + 1) + "|"]
    rows += [
        f"| {one['trained_by']} | " + " | ".join(f"{one[name]:.3f}" for name in cutoffs) + " |"
        for one in result["example"]
    ]
    model = result["model"]
    told = f"Model: {model['model']} (digest {model['digest'][:8]}, {model['precision']} on {model['engine']}). "
    told += "Test queries, a sample by a seed, used for nothing else; how many the last stage gets was found on others."
    return "\n".join([*rows, "", f"{told} {_where(result)}; `bench/ltr.py`."])


def unlabelled(result: dict[str, Any]) -> str:
    """What came of each way of making queries, a row a collection."""
    head = "queries from | kept of | collection | queries | base | fine-tuned | Δ, 95 % interval | p | helped / hurt"
    rows = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    for row in result["rows"]:
        kept = sum(row["kept"].values())
        tried = ({**reasons, "not drawn": 0} for reasons in row["dropped"].values())
        gone = sum(sum(reasons.values()) for reasons in tried)
        for name, found in row["on"].items():
            one = found["reranked"]
            low, high = one["interval"]
            rows.append(
                f"| {row['way']} | {kept:,} of {kept + gone:,} | {name} | {found['queries']:,} | {one['before']:.3f} "
                f"| {one['after']:.3f} | {one['difference']:+.3f} [{low:+.3f}, {high:+.3f}] | {one['p']:.2g} "
                f"| {one['helped']} / {one['hurt']} |"
            )
    minutes = " and ".join(f"{row['minutes']:.0f}" for row in result["rows"])
    told = (
        f"nDCG@10 on test queries, BM25's first {result['depth']} reranked, both stages' scores fused, after "
        f"{result['steps']} steps: {minutes} minutes beside "
        "other work on the machine."
    )
    return "\n".join([*rows, "", f"{told} {_where(result)}; `bench/unlabelled.py`."])


RESULTS = ROOT / "bench" / "results"


def alternatives(result: dict[str, Any]) -> str:
    """One row a system of the leaderboard, with its time beside the quickest of the first stages'."""
    board = result["board"]
    rows = [
        "| rank | system | nDCG@10, 95 % interval | p50 / p95 ms | licence |",
        "|---|---|---|---|---|",
    ]
    for row in board["rows"]:
        low, high = row["interval"]
        time, star = row["latency"], " *" if row["fastest"] else ""
        rows.append(
            f"| {row['rank']} | {row['name']} | {row['mean']:.3f} [{low:.3f}, {high:.3f}] "
            f"| {time['p50_ms']:,.0f} / {time['p95_ms']:,.0f}{star} | {row['licence'] or '–'} |"
        )
    told = (
        f"{board['queries']} questions of the demo collection, depth {result['depth']}. Rank: 1 + how many are "
        "significantly better (Holm over all pairs). \\*: none is at least as good and quicker. The trees learnt from "
        f"{result['learnt_on']} queries. Other work ran on the machine: compare times with each other only."
    )
    return "\n".join([*rows, "", f"{told} {_where(result)}; `bench/alternatives.py`."])


def finetune(result: dict[str, Any]) -> str:
    """The learning curve of each domain, and what became of other collections."""
    head = "collection | queries learnt from | minutes | base | fine-tuned | Δ, 95 % interval | p | helped / hurt"
    rows = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]

    def line(name: str, size: str, minutes: str, found: dict[str, Any]) -> str:
        gain = found["reranked"]
        return (
            f"| {name} | {size} | {minutes} | {gain['before']:.3f} | {gain['after']:.3f} "
            f"| {_change(gain)} | {gain['p']:.2g} "
            f"| {gain['helped']} / {gain['hurt']} |"
        )

    for row in result["rows"]:
        rows.append(line(row["collection"], str(row["size"]), f"{row['minutes']:.0f}", row))
        rows += [
            line(f"{other}, after {row['collection']}", str(row["size"]), "", found)
            for other, found in row.get("elsewhere", {}).items()
        ]
    told = (
        f"nDCG@10 on test queries, BM25's first {result['depth']} reranked, both stages' scores fused. "
        "Minutes beside other work on the machine."
    )
    return "\n".join([*rows, "", f"{told} {_where(result)}; `bench/finetune.py`."])


def drift(result: dict[str, Any]) -> str:
    """What the watch finds, how soon, and how often it is wrong."""
    cases: dict[str, list[dict[str, Any]]] = {}
    for row in result["rows"]:
        cases.setdefault(row["case"], []).append(row)
    rows = ["| traffic of nq-qed | runs | found | sooner or later |", "|---|---:|---|---|"]
    for row in cases["switch"]:
        named = ", ".join(f"`{name}`" for name in list(row["named"])[:3])
        rows.append(
            f"| becomes {row['to']}'s at once | {row['runs']} | {row['within_100']:.1%} within 100 queries; "
            f"{row['named_that_moved']:.0%} of the signals named did move; most often {named} | "
            f"median {row['queries_median']:.0f}, at most {row['queries_most']} queries |"
        )
    for row in cases["segment"]:
        rows.append(
            f"| one of two callers becomes {row['to']}'s | {row['runs']} | {row['named_the_caller_alone']:.1%} name "
            "that caller and not the other | "
            f"median {row['queries_median']:.0f}, 95 % within {row['queries_p95']:.0f} queries |"
        )
    for row in cases["slow mix"]:
        rows.append(
            f"| {row['to']}'s share grows by 1 % every {result['window']} queries | {row['runs']} | "
            f"{row['before_30']:.1%} before it is 30 % | "
            f"median {row['share_median']:.0%}, at most {row['share_most']:.0%} |"
        )
    (still,) = cases["stationary"]
    rows.append(
        f"| stays as it is | {still['streams']} | {still['alarms']} alarms in {still['queries']:,} queries | "
        f"{still['alarms_per_10000']:.2f} in 10,000 |"
    )
    (cost,) = cases["signals of 100 documents"]
    told = (
        f"Profiles of {result['queries']['nq-qed'] // 2} queries, a half of nq-qed's drawn anew for each run; traffic "
        "is drawn from the other half with replacement, so it differs from the profile a little, always. Signals of "
        f"{result['model']}, the first {result['depth']}. The signals of a request of 100 documents take "
        f"{cost['microseconds']} µs."
    )
    for row in cases.get("large log", ()):
        told += (
            f" A log of {row['requests']:,} requests ({row['megabytes_of_log']:,} MB) is read in "
            f"{row['seconds']:.0f} s; the process holds {row['peak_megabytes']} MB at most."
        )
    return "\n".join([*rows, "", f"{told} {_where(result)}; `bench/drift.py`."])


def interleaving(result: dict[str, Any]) -> str:
    """How soon and how often two rerankers are told apart, and how often wrongly."""
    rows = [
        "| | difference | runs | decided | requests until then, median / 90 % | a usual test |",
        "|---|---|---:|---|---|---|",
    ]
    for row in result["rows"]:
        until = "" if row["requests_median"] is None else f"{row['requests_median']:,.0f} / {row['requests_p90']:,.0f}"
        usual = f"errs in {row['peeking_at_a_usual_test']:.0%}" if "peeking_at_a_usual_test" in row else ""
        rows.append(
            f"| {row['kind']} | {row['difference']} | {row['runs']} | {row['decided']:.1%} within {row['requests']:,} "
            f"requests | {until} | {usual} |"
        )
    told = (
        f"Clicks simulated over the judgments of {result['queries']} queries of nq-qed, {result['model']} over the "
        f"first {result['depth']}; looked at after each request and stopped at p < .05. Where there is no difference "
        "every decision is wrong. The usual test (binomial, or z for two shares) is looked at after every tenth."
    )
    return "\n".join([*rows, "", f"{told} {_where(result)}; `bench/interleaving.py`."])


def cascades(result: dict[str, Any]) -> str:
    """What stands against the full cross-encoder at less than a third of its time, by collection."""
    head = "| collection | test queries | BM25 | full | cascade | nDCG@10 | change, 95 % interval | × less time |"
    rows = [head, "|---" * (head.count("|") - 1) + "|"]

    for row in result["rows"]:
        first = [row["collection"], row["queries"]["test"], f"{row['bm25']:.3f}", f"{row['full']:.3f}"]
        names = ("own", ""), ("one for all", "one for all: "), ("as it ships", "as it ships: ")
        for key, name in (*names, ("full, weight chosen", "all: ")):
            way, timed = row[key], row["timed"].get(key)
            cells = [*first, f"{name}{way['reads']}", f"{way['ndcg@10']:.3f}", _change(way)]
            rows.append("| " + " | ".join(map(str, [*cells, f"{timed['times']:.1f}" if timed else "–"])) + " |")
            first = [""] * len(first)
    queries = sorted({row["queries"]["dev"] for row in result["rows"]})
    off = max(one["off_replay"] for row in result["rows"] for one in row["timed"].values())
    told = (
        f"Chosen among {result['tried']:,} cascades on {'/'.join(map(str, queries))} dev queries a collection, at most "
        f"{result['share']:g} of the full time by estimate. Processor time in turns with the full cross-encoder, the "
        f"median of ratios; run, no query's nDCG@10 was farther than {off:.3f} from its replay."
    )
    return "\n".join([*rows, "", f"{told} {_where(result)}; `bench/cascades.py`."])


def cascades_w1(result: dict[str, Any]) -> str:
    """The curve of W1: milliseconds against the loss, the mean over collections."""
    names = [row["collection"] for row in result["rows"]]
    head = "| cascade | p95, ms | p95 by processor time, ms | change of nDCG@10, mean | " + " | ".join(names) + " |"
    rows = [head, "|---" * (head.count("|") - 1) + "|"]
    for row in sorted(result["w1"], key=lambda row: row["p95_ms"]):
        cells = [row["reads"], f"{row['p95_ms']:.0f}", f"{row['cpu_p95_ms']:.0f}", f"{row['difference']:+.3f}"]
        cells += [f"{row['of'][name]['difference']:+.3f}" for name in names]
        rows.append("| " + " | ".join(cells) + " |")
    told = (
        f"{result['w1_requests']} requests each, in turns. By processor time: as if all cores were the request's own "
        f"and at work throughout. Load average {result['load']:.1f}."
    )
    return "\n".join([*rows, "", f"{told} {_where(result)}; `bench/cascades.py`."])


def clicks_bias(result: dict[str, Any]) -> str:
    """What each estimator finds of the bias that was put in."""
    head = "places | estimator | worst error of a place, in each log | intervals that hold the truth"
    rows = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    for row in result["rows"]:
        name = f"**{row['estimator']}**" if row["own_assumptions"] else row["estimator"]
        logs = ", ".join(f"{error:.1%}" for error in row["worst_error_of_logs"])
        held = f"{row['intervals_hold']} of {row['intervals']}" if row["intervals"] else "–"
        kind = "trusted" if row["trusted_places"] else "looked at"
        rows.append(f"| {kind} | {name} | {logs} | {held} |")
    told = (
        f"{result['logs']} logs of {result['sessions']:,} simulated sessions each, three rankers, ten places, α of "
        "each against the true one. Bold: the log keeps what the estimator takes for granted."
    )
    return "\n".join([*rows, "", f"{told} {_where(result)}; `bench/clicks.py`."])


def clicks_trained(result: dict[str, Any]) -> str:
    """What trees learn from clicks as they are, debiased, and from judgments, by judged test queries."""
    head = "collection | queries in the log | test queries | BM25 | from click rates | from debiased clicks"
    head += " | from judgments | debiased − rates, 95 % interval | p"
    rows = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    for row in result["trained"]:
        found = row["ndcg@10"]
        ways = ("BM25", "clicks, by their rate", "clicks, debiased", "judgments")
        against = row["debiased_against"]["clicks, by their rate"]
        low, high = against["interval"]
        rows.append(
            f"| {row['collection']} | {row['queries']:,} | {row['test_queries']:,} "
            f"| {' | '.join(f'{found[way]:.3f}' for way in ways)} "
            f"| {against['difference']:+.3f} [{low:+.3f}, {high:+.3f}] | {against['p']:.2g} |"
        )
    told = (
        f"nDCG@10 of LambdaMART on test queries that are in no log. The {result['sessions']:,} sessions of each log "
        "were simulated over other judged queries, and shown by rankers that also go by a popularity that has nothing "
        "to do with relevance."
    )
    return "\n".join([*rows, "", f"{told} {_where(result)}; `bench/clicks.py`."])


def install(result: dict[str, Any]) -> str:
    """What an installation weighs and how long an import takes, beside others."""
    rows = ["| library | version | packages | installed | import | to the first score |", "|---" * 6 + "|"]
    for row in result["rows"]:
        first = "–" if row["first_score_s"] is None else f"{row['first_score_s']:.1f} s"
        rows.append(
            f"| {row['library']} | {row['version']} | {row['packages']} | {row['bytes'] / 1e6:,.0f} MB "
            f"| {row['import_s'] * 1000:,.0f} ms | {first} |"
        )
    told = (
        f"Of secondpass {result['models_bytes'] / 1e6:.0f} MB are its models, the wheel has "
        f"{result['wheel_bytes'] / 1e6:.0f} MB; what the others download at first use is not counted. torch is a CPU "
        "build. Import: what a process takes longer than one that imports nothing; first score: of one pair by the "
        "same checkpoint, from the start of the process; medians, in turns."
    )
    return "\n".join([*rows, "", f"{told} {_where(result)}; `bench/install.py`."])


def extras(result: dict[str, Any]) -> str:
    """What each extra adds, and for which Pythons everything has a wheel."""
    rows = ["| extra | brings | adds | Pythons |", "|---" * 4 + "|"]
    for row in result["extras"]:
        needs = ", ".join(re.split(r"[>=<;\[]", need)[0] for need in row["needs"])
        adds = f"{row['packages']} packages, {row['bytes'] / 1e6:,.0f} MB" if row["extra"] else ""
        name = f"`{row['extra']}`" if row["extra"] else "none"
        rows.append(f"| {name} | {needs} | {adds} | {', '.join(row['pythons']) or 'none by wheels alone'} |")
    told = (
        "Beyond the plain package; what two extras share counts for both. Pythons: everything has a wheel there, by "
        f"pip's resolver on {result['machine']['system']}."
    )
    return "\n".join([*rows, "", f"{told} {_where(result)}; `bench/install.py`."])


def pythons(result: dict[str, Any]) -> str:
    """Whether the tests pass on other Pythons."""
    rows = ["| Python | passed | skipped | failed |", "|---" * 4 + "|"]
    for row in result["rows"]:
        rows.append(f"| {row['python']} | {row['passed']:,} | {row['skipped']:,} | {row['failed'] + row['error']:,} |")
    told = f"The whole suite with the extras `{result['extras']}`; skipped is what needs others."
    return "\n".join([*rows, "", f"{told} {_where(result)}; `bench/pythons.py`."])


def scale_model(result: dict[str, Any]) -> str:
    """What many replicas hold, and the arithmetic."""
    one, busy, documents = result["one"], result["busy"], result["documents"]
    head = f"replicas | requests/s at most | at {busy:.0%} | a day | network, MB/s | answered by a cache of its own"
    head += " | keys/s of a shared one | rows/s of the log | memory, GB | machine hours a month"
    rows = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    for row in result["rows"]:
        cells = [f"{row['replicas']:,}", f"{row['requests_per_s']:,.1f}", f"{row['kept_up_per_s']:,.1f}"]
        cells += [f"{row['kept_up_per_day'] / 1e6:,.2f} M", f"{row['megabytes_per_s']:,.2f}"]
        cells += [f"{row['cache_of_its_own']:.1%}", f"{row['looked_up_per_s']:,.0f}", f"{row['log_rows_per_s']:,.0f}"]
        cells += [f"{row['memory_gb']:,.1f}", f"{row['machine_hours_a_month']:,}"]
        rows.append(f"| {' | '.join(cells)} |")
    more = ", ".join(f"{each['depth']}: × {each['more']:.1f}" for each in result["depths"])
    return "\n".join(
        [
            *rows,
            "",
            f"- **A replica** is {one['cores']} cores. It answers {one['requests_per_s']:.3f} requests of {documents} "
            f"documents a second (`bench/serve.py`), one in {one['seconds']:.2f} s, with {one['memory_mb']:,.0f} MB.",
            f"- **Many** answer so many times as much, since no replica asks another. At {busy:.0%} of it, requests at "
            f"random, all of one size, wait {result['wait']:.2f} times their own time on average, "
            f"{busy:g} / (2 · {1 - busy:.1f}), where a replica has a queue of its own (M/D/1).",
            f"- **Other depths**, by the cost model of `bench/cost.py` (a + b · n): requests of {more} as many.",
            f"- **Network**: requests/s × {one['bytes'] / 1e3:.1f} kB, the mean body of `bench/serve.py`'s requests; "
            "from the proxy to a replica the same once more.",
            f"- **Cache**: a query that comes {result['repeats']} times, to a replica at random, is computed once by "
            f"each that it comes to, N · (1 − (1 − 1/N)^{result['repeats']}) times. A shared cache is asked for "
            f"{documents} keys a request.",
            f"- **Log**: a row for the request and one for each document shown, {1 + documents}.",
            f"- **Money**: a million requests take {one['hours_per_million']:,.0f} machine hours at {busy:.0%}. "
            + " ".join(
                f"What {each['service']} takes for them ({each['model']}, {each['amount']:g} USD for {each['per']:,}, "
                f"as of {each['as_of']}) pays for machines at {each['an_hour']:.2f} USD an hour."
                for each in result["searches"]
            ),
            "",
            f"Computed from results of {result['machine']['cores']} cores {result['machine']['cpu']} at commits "
            f"{', '.join(f'{commit} ({name})' for name, commit in result['measured'].items())}; "
            "`bench/scale_model.py`.",
        ]
    )


def scale_index(result: dict[str, Any]) -> str:
    """What an index in every replica costs."""
    index = result["index"]
    rows = [
        "| documents of the index | GB in each machine | a dense search, ms | of a request's reranking "
        "| requests/s of a replica that also searches |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| {row['millions']} M | {row['gigabytes']:,.1f} | {row['dense_ms']:,.0f} | {row['of_a_request']:.0%} "
        f"| {row['requests_per_s_of_one']:.2f} |"
        for row in result["indexes"]
    ]
    told = (
        f"{index['mb_per_million']:,.0f} MB and {index['scan_ms_per_million']:.1f} ms a million documents "
        f"(`bench/retrievers.py`), taken to grow in proportion. At {index['even_millions']:.0f} M a search takes as "
        "long as reranking."
    )
    return "\n".join([*rows, "", f"{told} Computed by `bench/scale_model.py`."])


def ray_scale(result: dict[str, Any]) -> str:
    """Jobs and requests with and without Ray."""
    rows = ["| rerank | documents/s | start, s |", "|---|---|---|"]
    rows += [f"| {row['what']} | {row['documents_per_s']:,.1f} | {row['start_s']:.1f} |" for row in result["rows"]]
    rows += ["", "| serve, a small request after the other | median ms |", "|---|---|"]
    rows += [f"| {row['what']} | {row['p50_ms']:.1f} |" for row in result["servers"]]
    held = [
        f"{one['name']} {one['value']:g} ({one['goal']}{'' if one['holds'] else ', missed'})"
        for one in result["targets"]
    ]
    told = (
        f"Requests of {result['documents']} passages, {result['model']}, {result['rounds']} rounds that alternate, "
        f"medians; scores differ by {result['largest_difference']:.2g} at most. {'; '.join(held)}."
    )
    return "\n".join([*rows, "", f"{told} {_where(result)}; `bench/ray_scale.py`."])


MODELS = ROOT / "src" / "secondpass" / "models"
TABLES: dict[str, tuple[Callable[[dict[str, Any]], str], Path]] = {
    "quality": (quality, RESULTS / "quality.json"),
    "quality_clean": (quality_clean, RESULTS / "quality.json"),
    "quality_plain": (quality_clean, RESULTS / "quality-plain.json"),
    "dev_plain": (dev, ROOT / "weights" / "plain" / "lineage.json"),
    "calibration_plain": (calibration, ROOT / "weights" / "plain" / "lineage.json"),
    "senses": (senses, RESULTS / "quality.json"),
    "retrievers": (retrievers, RESULTS / "retrievers.json"),
    "deadlines": (deadlines, RESULTS / "deadline.json"),
    "peers": (peers, RESULTS / "peers.json"),
    "profiles": (profiles, RESULTS / "peers.json"),
    "memory": (memory, RESULTS / "memory.json"),
    "agreement": (agreement, RESULTS / "agreement.json"),
    "verdicts": (verdicts, RESULTS / "verdicts.json"),
    "audit_speed": (audit_speed, RESULTS / "audit_speed.json"),
    "families": (families, RESULTS / "families.json"),
    "claims": (claims, RESULTS / "claims.json"),
    **{f"claim_{number}": (partial(detail, number=number), RESULTS / "claims.json") for number in range(1, 11)},
    "serve": (serve, RESULTS / "serve.json"),
    "short_requests": (short_requests, RESULTS / "short_requests.json"),
    "faults": (faults, RESULTS / "faults.json"),
    "hosted_faults": (hosted_faults, RESULTS / "hosted_faults.json"),
    "precision": (precision, RESULTS / "precision.json"),
    "selection": (selection, RESULTS / "selection.json"),
    "explain": (explain, RESULTS / "explain.json"),
    "ltr": (ltr, RESULTS / "ltr.json"),
    "clicks_bias": (clicks_bias, RESULTS / "clicks.json"),
    "clicks_trained": (clicks_trained, RESULTS / "clicks.json"),
    "alternatives": (alternatives, RESULTS / "alternatives.json"),
    "finetune": (finetune, RESULTS / "finetune.json"),
    "install": (install, RESULTS / "install.json"),
    "extras": (extras, RESULTS / "install.json"),
    "pythons": (pythons, RESULTS / "pythons.json"),
    "unlabelled": (unlabelled, RESULTS / "unlabelled.json"),
    "drift": (drift, RESULTS / "drift.json"),
    "interleaving": (interleaving, RESULTS / "interleaving.json"),
    "exits": (exits, RESULTS / "exits.json"),
    "cascades": (cascades, RESULTS / "cascades.json"),
    "cascades_w1": (cascades_w1, RESULTS / "cascades.json"),
    "robustness": (robustness, RESULTS / "robustness.json"),
    "robustness_plain": (robustness, RESULTS / "robustness-plain.json"),
    "sizes": (sizes, RESULTS / "sizes.json"),
    "scale_model": (scale_model, RESULTS / "scale_model.json"),
    "scale_index": (scale_index, RESULTS / "scale_model.json"),
    "ray_scale": (ray_scale, RESULTS / "ray_scale.json"),
    "quality_nano": (quality_clean, RESULTS / "quality-nano.json"),
    "dev_nano": (dev, MODELS / "nano" / "lineage.json"),
    "calibration_nano": (calibration, MODELS / "nano" / "lineage.json"),
    "calibration": (calibration, MODELS / "mini" / "lineage.json"),
    "dev": (dev, MODELS / "mini" / "lineage.json"),
    "static_dev": (static_dev, MODELS / "static" / "lineage.json"),
    "static_sets": (static_sets, MODELS / "static" / "lineage.json"),
}


def rewritten(text: str) -> str:
    """The page with every marked table as its result file has it."""

    def fill(match: re.Match[str]) -> str:
        render, path = TABLES[match[1]]
        table = f"Not measured yet: `bench/{path.stem}.py`."
        if path.exists():
            table = render(json.loads(path.read_text(encoding="utf-8")))
        return f"<!-- {match[1]} -->\n{table}\n<!-- /{match[1]} -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", fill, text, flags=re.S)


def main() -> None:
    """Rewrite the pages, or with --check say which are stale."""
    stale = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if rewritten(text) != text:
            stale.append(str(page.relative_to(ROOT)))
            if "--check" not in sys.argv[1:]:
                page.write_text(rewritten(text), encoding="utf-8")
    print(f"{'stale' if '--check' in sys.argv[1:] else 'rewritten'}: {', '.join(stale) or 'none'}")
    sys.exit(bool(stale) and "--check" in sys.argv[1:])


if __name__ == "__main__":
    main()
