"""What an audit of run files takes as trec_eval does and says so, and what it refuses with file and line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Done, Run

QUERIES = [f"q{n}" for n in range(30)]
BEFORE = {query: ["x", "r", "y", "z"] for query in QUERIES}
AFTER = {query: ["r", "z", "x", "y"] for query in QUERIES}
JUDGED = "".join(f"{query} 0 r 1\n{query} 0 y 0\n" for query in QUERIES)

Audit = Callable[..., Done]


def lines(run: dict[str, list[str]]) -> list[str]:
    return [f"{query} Q0 {doc} {rank} {-rank} t" for query, ids in run.items() for rank, doc in enumerate(ids, 1)]


@pytest.fixture
def audit(run: Run, tmp_path: Path) -> Audit:
    """The audit of BEFORE, AFTER and JUDGED, of which tests give other contents; four documents deep."""

    def call(before: object = None, after: object = None, qrels: object = None, *more: object) -> Done:
        contents = (before or lines(BEFORE), after or lines(AFTER), qrels if qrels is not None else JUDGED)
        for name, content in zip(("a.trec", "b.trec", "q.txt"), contents, strict=True):
            text = "\n".join(content) + "\n" if isinstance(content, list) else content
            assert isinstance(text, str | bytes)
            (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        files = ("--baseline", "a.trec", "--reranked", "b.trec", "--qrels", "q.txt")
        return run("audit", *files, "--depth", 4, *more)

    return call


def found(done: Done) -> dict[str, Any]:
    assert done.code == 0, done.err
    data: dict[str, Any] = json.loads(done.out)
    return data


def numbers(data: dict[str, Any]) -> list[Any]:
    return [data[key] for key in ("decision", "queries", "first", "best", "reranked", "interval", "p_value", "depth")]


@pytest.fixture
def plain(audit: Audit) -> dict[str, Any]:
    return found(audit(None, None, None, "--json"))


def changed(run: dict[str, list[str]], at: int, line: str | None) -> list[str]:
    """The run's lines with this one in place of line `at`, counted from 1 (None: without it)."""
    before = lines(run)
    return before[: at - 1] + ([] if line is None else [line]) + before[at:]


def test_other_forms_of_the_same_files_give_the_same_verdict(audit: Audit, plain: dict[str, Any]) -> None:
    text = "\n".join(lines(AFTER)) + "\n"
    forms: dict[str, object] = {
        "CRLF": text.replace("\n", "\r\n"),
        "gzip": gzip.compress(text.encode()),
        "a byte order mark": "\N{BYTE ORDER MARK}" + text,
        "tabs": text.replace(" ", "\t"),
        "runs of blanks": "  " + text.replace(" ", " \t "),
        "blank lines": "\n" + text.replace("\n", "\n \n"),
        "no end of line at the end": text.rstrip("\n"),
        "lines scattered over the file": sorted(lines(AFTER), key=lambda line: line.split()[2]),
    }
    for name, form in forms.items():
        again = found(audit(None, form, None, "--json"))
        assert numbers(again) == numbers(plain), name
        assert again["notes"] == plain["notes"], name
    judged = JUDGED.replace("\n", "\r\n").encode()
    for form in (judged, b"\xef\xbb\xbf" + judged, gzip.compress(judged)):
        assert numbers(found(audit(None, None, form, "--json"))) == numbers(plain)


SAID: dict[str, tuple[dict[str, object], str]] = {
    "a query of the runs that nobody judged": (
        {"after": [*lines(AFTER), "new Q0 r 1 1 t"]},
        "1 query of the runs without judgments left out",
    ),
    "a judged query without results": (
        {"qrels": JUDGED + "other 0 r 1\n"},
        "1 judged query without results in b, counted as 0",
    ),
    "a judged query without anything relevant": (
        {"qrels": JUDGED + "q0x 0 r 0\n"},
        "1 judged query without a relevant document",
    ),
    "a rank twice": (
        {"after": changed(AFTER, 2, "q0 Q0 z 1 -2 t")},
        "b.trec: 1 query whose rank column differs from the order by score",
    ),
    "ranks against the scores": (
        {"after": changed(AFTER, 2, "q0 Q0 z 9 -2 t")},
        "b.trec: 1 query whose rank column differs from the order by score",
    ),
    "a rank that is none": (
        {"before": changed(BEFORE, 2, "q0 Q0 r - -2 t")},
        "a.trec: 1 query whose rank column differs from the order by score",
    ),
    "a tie": (
        {"after": changed(AFTER, 2, "q0 Q0 z 2 -1 t")},
        "b.trec: 1 query with tied scores; ties are ordered by document id, descending, as trec_eval does",
    ),
    "infinity": (
        {"after": changed(AFTER, 1, "q0 Q0 r 1 inf t")},
        "b.trec: 1 query with infinite scores, which rank above or below every number, as for trec_eval",
    ),
    "scores that single precision ties": (
        {"after": changed(AFTER, 2, "q0 Q0 z 2 -1.000000001 t")},
        "b.trec: 1 query with scores so close that trec_eval, in single precision, takes them as tied",
    ),
    "a judgment twice": (
        {"qrels": JUDGED + "q0 0 r 1\n"},
        "1 judgment given more than once (with the same grade), counted once",
    ),
    "a document that the pool lacks": (
        {"after": changed(AFTER, 4, "q0 Q0 foreign 4 -4 t")},
        "b has documents from outside the pool in 1 query",
    ),
}


@pytest.mark.parametrize("what", SAID)
def test_taken_as_trec_eval_does_and_said(audit: Audit, plain: dict[str, Any], what: str) -> None:
    contents, note = SAID[what]
    files = [contents.get(name) for name in ("before", "after", "qrels")]
    assert not any(note in one for one in plain["notes"])
    assert any(note in one for one in found(audit(*files, "--json"))["notes"])
    assert " ".join(note.split()[:4]) in " ".join(audit(*files).out.split())  # people read it, too


def test_a_tie_is_ordered_by_id_descending(audit: Audit) -> None:
    tied = found(audit(None, [line.replace(line.split()[4], "0") for line in lines(AFTER)], None, "--json"))
    assert tied["outcomes"][0]["rank_after"] == 4  # z, y, x, r


def test_nothing_judged_in_the_results_is_no_error(audit: Audit) -> None:
    data = found(audit(None, None, "".join(f"{query} 0 elsewhere 1\n" for query in QUERIES), "--json"))
    assert (data["first"], data["best"], data["reranked"], data["difference"]) == (0, 0, 0, 0)
    assert data["judged_at_10"] == [0, 0]


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "a document twice": ({"after": changed(AFTER, 7, "q1 Q0 r 3 -3 t")}, "b.trec:7: document 'r' occurs twice"),
    "no rank": ({"after": changed(AFTER, 7, "q1 Q0 x -3 t")}, "b.trec:7: 5 columns, expected 6"),
    "seven columns": ({"before": changed(BEFORE, 7, "q1 Q0 x 3 -3 t t")}, "a.trec:7: 7 columns, expected 6"),
    "NaN": ({"after": changed(AFTER, 7, "q1 Q0 x 3 nan t")}, "b.trec:7: score 'nan' is not a number"),
    "no score": ({"after": changed(AFTER, 7, "q1 Q0 x 3 none t")}, "b.trec:7: score 'none' is not a number"),
    "not UTF-8": ({"after": "\n".join(changed(AFTER, 7, "q1 Q0 ä 3 -3 t")).encode("latin-1")}, "b.trec:7: not UTF-8"),
    "half a gzip": ({"after": gzip.compress("\n".join(lines(AFTER)).encode())[:-9]}, "b.trec:120: broken gzip"),
    "a line without an end": ({"after": "q1 Q0 x 3 -3 t\n" + 300_000 * "x"}, "b.trec:2: a line of more than 128 KiB"),
    "nothing": ({"after": "\n"}, "b.trec: holds no results"),
    "judgments without a grade": ({"qrels": JUDGED + "q0 0 d\n"}, "q.txt:61: 3 columns, expected 4"),
    "judgments that contradict": ({"qrels": JUDGED + "q0 0 r 0\n"}, "q.txt:61: query 'q0', document 'r' has grade 0"),
    "a grade that is none": ({"qrels": JUDGED + "q0 0 d 0.5\n"}, "q.txt:61: grade '0.5' is not a whole number"),
    "no judgments": ({"qrels": "\n"}, "q.txt: holds no judgments"),
    "judgments of other queries": ({"qrels": "other 0 r 1\n"}, "runs and judgments share no query id"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_file_and_line(audit: Audit, what: str) -> None:
    contents, says = REFUSED[what]
    done = audit(*(contents.get(name) for name in ("before", "after", "qrels")))
    assert (done.code, done.out) == (1, "")
    assert says in " ".join(done.err.split())
    assert "Traceback" not in done.err
