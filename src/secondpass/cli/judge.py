"""secondpass judge: one document after the other, judged by hand."""

from __future__ import annotations

import getpass
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.control import Control

from secondpass.cli.judging_screen import Sheet, end_sheet, help_sheet, in_full, on_screen, sheet
from secondpass.cli.keys import single_keys
from secondpass.cli.options import JsonOption
from secondpass.cli.terminal import print_json, results, say, talk
from secondpass.errors import InputError
from secondpass.evaluation.judging import Judgments, Progress, export_qrels
from secondpass.evaluation.pool import Pair
from secondpass.evaluation.wording import clean, counted


def command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `secondpass audit --sample` wrote.")],
    judge: Annotated[
        str | None, typer.Option("--judge", metavar="NAME", help="Who judges. Without it: your login name.")
    ] = None,
    binary: Annotated[bool, typer.Option("--binary", help="Only relevant or not, in place of 0 to 3.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Say how much is judged, and how judges agree.")] = False,
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="FILE", help="Write the judgments: .tsv as BEIR, else as TREC."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Judge documents by hand: one key for each, on disk before the next one.

    It goes on where it stopped. Who ranked a document is not shown. Several
    people can judge the same folder, each by a name. --export takes all of
    them, or only --judge NAME; where they differ, the lower median counts.

    Examples:

    $ secondpass judge pool
    $ secondpass judge pool --export judged.tsv
    """
    judgments = Judgments.open(folder, best=1 if binary else None)
    for note in (*judgments.pool.notes, *judgments.notes):
        say(f"note: {note}")
    if export is not None:
        notes: list[str] = []
        qrels = judgments.qrels(judge, notes=notes)
        export_qrels(qrels, export)
        for note in notes:
            say(f"note: {note}")
        say(f"judgments of {counted(len(qrels), 'query', 'queries')} written to {export}")
    elif not status:
        _judge(judgments, clean(judge or _login()))
    if json:
        print_json(_status(judgments))
    elif status:
        _show_status(judgments)


def _judge(judgments: Judgments, name: str) -> None:
    session = _Session(judgments, name)
    try:
        if sys.stdin.isatty() and talk.is_terminal and not talk.is_dumb_terminal:
            _by_keys(session)
        else:
            _by_lines(session)
    finally:  # also after Ctrl-C: what was judged stays
        done = judgments.progress(judgments.of_judge(name))
        say(f"{clean(name)}: {_said(done)}", style="")
        if done.judged == done.documents:
            say(f"next: secondpass judge {judgments.folder} --export judged.tsv")


class _Session:
    """Where a judge stands: `at` is the pair to judge now, None where nothing or only skipped ones are left."""

    def __init__(self, judgments: Judgments, judge: str) -> None:
        self.judgments = judgments
        self.judge = judge
        self.skipped: set[Pair] = set()
        self._places = {
            (query.query_id, document.id): (query, document, f"query {number} of {len(judgments.pool.queries)}", place)
            for number, query in enumerate(judgments.pool.queries, 1)
            for place, document in enumerate(query.documents, 1)
        }
        self.at = self._next()

    def _next(self) -> Pair | None:
        done = self.judgments.of_judge(self.judge).keys() | self.skipped
        return next((pair for pair in self._places if pair not in done), None)

    def do(self, word: str) -> str | None:
        """Obey a grade, "u", "s" or "n" with a note; what to tell of it, or None where the word means nothing."""
        if word == "u":
            undone = self.judgments.undo(self.judge)
            if undone is None:
                return "there is no judgment of yours to take back"
            self.at = (undone.query_id, undone.doc_id)
            return "taken back; judge it again"
        if self.at is None:
            return None
        if word == "s":
            self.skipped.add(self.at)
            self.at = self._next()
            return "skipped"
        if word[:2] == "n ":
            self.judgments.add(*self.at, None, self.judge, note=clean(word[2:]))
            return "noted"
        if word.isascii() and word.isdigit() and int(word) <= self.judgments.best:
            self.judgments.add(*self.at, int(word), self.judge)
            self.at = self._next()
            return ""
        return None

    def sheet(self, at: Pair, told: str = "") -> Sheet:
        """A document to judge, and where that is."""
        query, document, number, place = self._places[at]
        done = self.judgments.progress(self.judgments.of_judge(self.judge))
        where = f"{number}, document {place} of {len(query.documents)} · {done.judged:,} of {done.documents:,} judged"
        return sheet(
            query.query,
            document,
            best=self.judgments.best,
            where=f"{self.judge} · {where}{f' · {told}' if told else ''}",
            note=self.judgments.note(*at, self.judge),
        )

    def help(self, at: Pair) -> Sheet:
        """The help, with the query in full."""
        return help_sheet(self._places[at][0].query, self.judgments.best)


def _by_keys(session: _Session) -> None:
    """Until nothing is left or the judge leaves: a screen, a key."""
    with single_keys() as keyboard, talk.screen(hide_cursor=False):

        def read(shown: Sheet) -> str:
            """The first key that does not turn pages."""
            start = 0
            while True:
                screen, start, page = on_screen(shown, talk, start)
                with talk:  # in one go, so that it does not flicker
                    talk.control(Control.home(), Control.clear())
                    talk.print(screen, end="")
                key = keyboard.key()
                turn = {" ": page, "page down": page, "b": -page, "page up": -page, "down": 1, "up": -1, "": 0}
                if key not in turn:
                    return key
                start += turn[key]

        told = ""
        while True:
            keyboard.forget()
            if session.at is None:
                if read(end_sheet(len(session.skipped))).lower() != "u":
                    return
                told = session.do("u") or ""
                continue
            word = read(session.sheet(session.at, told)).lower()
            if word == "q":
                return
            if word == "?":
                read(session.help(session.at))
                told = ""
                continue
            if word == "n":
                note = keyboard.line(lambda: talk.input("\nnote: "))
                word = f"n {note}" if note.strip() else ""
            told = session.do(word) or ""


def _by_lines(session: _Session) -> None:
    """The same from a pipe, or for a terminal that draws no screens: a line for a key."""
    shown: Pair | None = None
    while True:
        if session.at is None:
            talk.print(in_full(end_sheet(len(session.skipped))))
        elif session.at != shown:
            talk.print(in_full(session.sheet(session.at)))
        shown = session.at
        line = sys.stdin.readline()
        word = line.strip()
        if not line or word == "q" or (session.at is None and word != "u"):
            return
        if word == "?" and session.at is not None:
            talk.print(in_full(session.help(session.at)))
            continue
        told = session.do(word)
        if told is None:
            say(f"{clean(word)!r} is no answer: 0 to {session.judgments.best}, u, s, n NOTE, q or ?", style="yellow")
        elif told:
            say(told)


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError) as error:  # which of them depends on system and version
        raise InputError("the system does not say who you are; give --judge NAME") from error


def _said(done: Progress) -> str:
    return (
        f"{done.judged:,} of {counted(done.documents, 'document')} judged, "
        f"{done.complete:,} of {counted(done.queries, 'query', 'queries')} complete"
    )


def _status(judgments: Judgments) -> dict[str, Any]:
    everyone = {judge: judgments.progress(judgments.of_judge(judge)) for judge in judgments.judges}
    return {
        "folder": str(judgments.folder),
        "scale": [0, judgments.best],
        "judges": {judge: asdict(progress) for judge, progress in everyone.items()},
        "together": asdict(judgments.progress(judgments.settled())),
        "agreement": [asdict(one) for one in judgments.agreements()],
        "notes": [*judgments.pool.notes, *judgments.notes],
    }


def _show_status(judgments: Judgments) -> None:
    pool = judgments.pool
    results.print(
        f"{counted(len(pool.queries), 'query', 'queries')} drawn from {pool.drawn_from:,}, the first {pool.depth} of "
        f"{', '.join(map(clean, pool.runs))}; grades from 0 to {judgments.best}"
    )
    for judge in judgments.judges:
        results.print(f"{clean(judge)}: {_said(judgments.progress(judgments.of_judge(judge)))}")
    results.print(f"together: {_said(judgments.progress(judgments.settled()))}")
    for one in judgments.agreements():
        results.print(
            f"{' and '.join(map(clean, one.judges))}: {counted(one.documents, 'document')} judged by both, "
            f"{one.same:.0%} alike, κ {_kappa(one.kappa)}, κ with squared distances {_kappa(one.weighted)}"
        )


def _kappa(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}".replace("-", "−")
