"""The demo collection: real documents under the names users write, made without running the library."""

from __future__ import annotations

import re
import sys
from collections import Counter as Count
from pathlib import Path

import pytest

import secondpass.demo.questions as questions
import secondpass.demo.stdlib_docs as stdlib_docs
from secondpass.demo.questions import demo_collection, demo_questions
from secondpass.demo.senses import sense_pairs
from secondpass.demo.stdlib_docs import stdlib_documents
from secondpass.errors import CollectionError
from secondpass.evaluation.collections import Collection, read_beir, write_beir
from secondpass.evaluation.trec import read_qrels
from secondpass.types import Document

QRELS = Path(stdlib_docs.__file__).with_name("qrels.tsv")


@pytest.fixture(scope="module")
def progress() -> list[tuple[int, int]]:
    return []


@pytest.fixture(scope="module")
def documents(progress: list[tuple[int, int]]) -> dict[str, Document]:
    found = stdlib_documents(lambda done, total: progress.append((done, total)))
    by_id = {document.id: document for document in found}
    assert len(by_id) == len(found), "ids are unique"
    return by_id


@pytest.fixture(scope="module")
def collection() -> Collection:
    return demo_collection()


def folder_with(root: Path, files: dict[str, str]) -> Path:
    """A stand-in for the library's folder."""
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return root


def test_about_five_thousand_documents_of_every_kind(documents: dict[str, Document]) -> None:
    assert 4_000 <= len(documents) <= 7_000
    kinds = Count(document.metadata["kind"] for document in documents.values())
    assert set(kinds) == {"module", "class", "function", "method"}
    assert min(kinds.values()) >= 150


def test_documents_are_complete_and_in_a_stable_order(documents: dict[str, Document], collection: Collection) -> None:
    assert list(documents) == sorted(documents)
    for document in documents.values():
        assert document.text.strip(), document.id
        assert document.title.startswith(document.id)
        module = document.metadata["module"]
        assert module == "builtins" or document.id.startswith(module), document.id
        assert not any(part.startswith("_") and part != "__future__" for part in document.id.split(".")), document.id
    assert list(collection.documents.values()) == list(documents.values()), "twice the same"


@pytest.mark.parametrize(
    ("identifier", "kind", "words"),
    [
        ("datetime", "module", "date"),  # docstring imported from a private module since 3.12
        ("datetime.date.fromisoformat", "method", "ISO 8601"),  # in _pydatetime since 3.12
        ("datetime.datetime.strptime", "method", "parsed from a string"),
        ("os.path.join", "function", "Join"),  # posixpath or ntpath
        ("os.path.exists", "function", "exists"),  # genericpath
        ("os.path.splitext", "function", "extension"),  # its docstring is another function's
        ("os.listdir", "function", "names of the files"),  # posix or nt
        ("collections.Counter.most_common", "method", "most common"),
        ("collections.deque", "class", "list-like"),  # compiled
        ("collections.abc.Mapping", "class", "Mapping"),  # _collections_abc
        ("str.split", "method", "separator"),
        ("len", "function", "number of items"),
        ("open", "function", "stream"),  # io.open is the same object
        ("math.isclose", "function", "close"),
        ("itertools.chain.from_iterable", "method", "chain"),
        ("random.choice", "function", "random element"),  # a bound method of a hidden instance
        ("tarfile.open", "function", "tar archive"),  # a method of a public class
        ("getpass.getpass", "function", "echo"),  # bound to one of several
        ("socket.socket.connect", "method", "remote address"),  # of a compiled private base
        ("pathlib.PurePath.suffix", "method", "final component"),
        ("concurrent.futures.Executor.map", "method", "iterator"),  # bound lazily or in a private module
        ("asyncio.wait_for", "function", "timeout"),  # a package's __all__ made of its submodules'
        ("unittest.TestCase.assertAlmostEqual", "method", "decimal places"),
        ("json.JSONDecoder", "class", "JSON"),
        ("threading.Lock", None, "lock"),  # a class since 3.13
        ("hashlib", "module", "hash functions"),  # __doc__ assigned
        ("ValueError", "class", "value"),
    ],
)
def test_names_are_those_that_users_write(
    documents: dict[str, Document], identifier: str, kind: str | None, words: str
) -> None:
    document = documents[identifier]
    assert words.lower() in document.text.lower()
    assert kind is None or document.metadata["kind"] == kind


@pytest.mark.parametrize(
    "identifier",
    [
        *("io.open", "builtins.len", "random.Random.choice", "json.decoder.JSONDecoder", "asyncio.tasks.wait_for"),
        *("posix.listdir", "posixpath.join", "ntpath.join", "os.Mapping", "datetime.datetime.weekday"),
    ],
)
def test_one_object_stands_once_under_its_best_name(documents: dict[str, Document], identifier: str) -> None:
    assert identifier not in documents


@pytest.mark.parametrize("name", ["cgi", "telnetlib", "distutils", "tkinter", "idlelib", "test"])
def test_what_is_no_library_everywhere_is_left_out(documents: dict[str, Document], name: str) -> None:
    assert not [identifier for identifier in documents if identifier.split(".")[0] == name]


def test_signatures_are_in_the_title(documents: dict[str, Document]) -> None:
    assert documents["textwrap.wrap"].title == "textwrap.wrap(text, width=70, **kwargs)"
    assert documents["str.split"].title == "str.split(sep=None, maxsplit=-1)"
    assert documents["datetime.date.fromisoformat"].title == "datetime.date.fromisoformat(date_string)"
    assert documents["pathlib.PurePath.suffix"].title == "pathlib.PurePath.suffix"


def test_source_is_read_and_never_run(tmp_path: Path) -> None:
    trap = f"open({str(tmp_path / 'ran')!r}, 'w').write('ran')\nraise SystemExit('the library was run')\n"
    wrap = 'def wrap(text, width: int = 70) -> str:\n    """Break a text."""\n'
    tool = 'def pretty():\n    """Print nicely."""\ndef _hidden():\n    """No."""\ndef bare(): ...\n'
    root = folder_with(
        tmp_path / "lib",
        {
            "textwrap.py": f'"""Wraps."""\n{trap}{wrap}',
            "json/__init__.py": f'{trap}from .tool import pretty\nfrom json import missing\n__all__ = ["pretty"]\n',
            "json/tool.py": trap + tool,
            "json/_inner.py": f'{trap}def inner():\n    """No."""\n',
            "json/__main__.py": f'"""No."""\n{trap}',
            "json/test/case.py": f'"""No."""\n{trap}',
            "notstdlib.py": f'"""No."""\n{trap}',
        },
    )
    before = set(sys.modules)
    found = {document.id: document for document in stdlib_documents(root=root)}
    assert not (tmp_path / "ran").exists()
    assert not {"json.tool", "notstdlib"} & (set(sys.modules) - before)
    assert found["textwrap"].text == "Wraps."
    assert found["textwrap.wrap"].title == "textwrap.wrap(text, width=70)"
    assert found["json.pretty"].text == "Print nicely."
    assert {identifier for identifier in found if identifier.startswith("json")} == {"json.pretty"}
    assert "notstdlib" not in found


QUEUE = """
try:
    from _nowhere import get
except ImportError:
    def get():
        '''The source.'''
if False:
    def put(): ...
else:
    def put(item):
        '''Put it.'''
class Box:
    def get(self):
        '''Its own.'''
    @property
    def size(self):
        '''How many.'''
    def __len__(self):
        '''No dunders.'''
class Sub(Box): ...
also_put = put
"""


def test_a_definition_in_any_branch_counts_and_the_first_documented_wins(tmp_path: Path) -> None:
    root = folder_with(tmp_path, {"queue.py": QUEUE})
    found = {d.id: d for d in stdlib_documents(root=root) if d.metadata["module"] == "queue"}
    assert set(found) == {"queue.get", "queue.put", "queue.Box.get", "queue.Box.size"}
    assert found["queue.put"].title == "queue.put(item)"
    assert found["queue.Box.size"].title == "queue.Box.size"


def test_imports_in_a_circle_come_to_an_end(tmp_path: Path) -> None:
    held = "def held():\n    '''Held.'''\n"
    root = folder_with(
        tmp_path,
        {
            "_weakrefset.py": "from weakref import *\nfrom weakref import ring\n",
            "weakref.py": f"from _weakrefset import *\nfrom _weakrefset import ring\n{held}",
        },
    )
    found = [d.id for d in stdlib_documents(root=root) if d.metadata["module"] == "weakref"]
    assert found == ["weakref.held"]


def test_what_a_program_replaced_at_run_time_does_not_count(
    documents: dict[str, Document], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def injected() -> None:
        """Not of the library."""

    monkeypatch.setattr(sys, "displayhook", injected)
    monkeypatch.setattr("builtins.injected", injected, raising=False)
    found = {d.id: d for d in stdlib_documents(root=folder_with(tmp_path, {"queue.py": QUEUE}))}
    assert found["sys.displayhook"] == documents["sys.displayhook"]
    assert "injected" not in found


def test_a_folder_without_source_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="no Python source"):
        stdlib_documents(root=tmp_path)


def test_progress_counts_modules_to_the_end(documents: dict[str, Document], progress: list[tuple[int, int]]) -> None:
    assert [done for done, _ in progress] == list(range(1, len(progress) + 1))
    assert progress[-1][0] == progress[-1][1] > 150


def test_questions_and_judgments_belong_together(collection: Collection) -> None:
    asked = {one.id: one for one in demo_questions()}
    assert len(asked) == len({one.text for one in asked.values()}) == 175
    kinds = Count(one.kind for one in asked.values())
    assert kinds == {"easy": 71, "hard": 64, "ambiguous": 20, "unanswerable": 20}
    assert collection.name == "python-stdlib"
    assert collection.queries.keys() == collection.qrels.keys()
    assert collection.queries == {one.id: one.text for one in asked.values() if one.kind != "unanswerable"}
    assert "20 questions that the library does not answer are left out" in collection.notes
    for query, grades in read_qrels(QRELS).items():
        assert set(grades.values()) <= {0, 1, 2, 3}
        assert min(grades.values()) == 0, query  # what was read and found wanting is on record too
        assert max(grades.values()) <= 1 if asked[query].kind == "unanswerable" else max(grades.values()) >= 1, query
        assert len(grades) >= 15, query


def test_the_senses_cannot_be_told_by_the_word_or_by_a_favourite() -> None:
    pairs = sense_pairs()
    documents = {document.id: document.text for pair in pairs for document in (pair.right, pair.wrong)}
    assert len(pairs) == len(documents) == 104
    for side in (Count(pair.right.id for pair in pairs), Count(pair.wrong.id for pair in pairs)):
        assert side == dict.fromkeys(documents, 1)
    for pair in pairs:
        assert pair.word in pair.query
        found = [len(re.findall(rf"\b{pair.word}\b", text.text.lower())) for text in (pair.right, pair.wrong)]
        assert found == [2, 2], pair


def test_every_judged_document_is_there_or_named(collection: Collection) -> None:
    on_record = read_qrels(QRELS)
    judged = {document for query in collection.queries for document in on_record[query]}
    kept = {document for grades in collection.qrels.values() for document in grades}
    assert kept <= collection.documents.keys()
    lacking = judged - kept
    assert all(identifier in " ".join(collection.notes) for identifier in lacking)
    optional = ("curses", "dbm", "readline", "sqlite3", "ssl", "bz2", "lzma")  # a Python may be built without
    there = {one for one in lacking if not one.startswith("ctypes.macholib.")}  # Debian takes out what is for a Mac
    there = {identifier for identifier in there if identifier.split(".")[0] not in optional}
    # judged was 3.11's: later ones took out what they had deprecated; tarfile's filters, and some of asyncio's
    # docstrings, came with 3.11.4
    if sys.platform == "linux" and sys.version_info >= (3, 11, 4):
        assert len(there) <= (0 if sys.version_info < (3, 12) else 0.02 * len(judged)), sorted(there)


def test_judged_ids_that_are_lacking_are_left_out_and_named() -> None:
    qrels = {"q1": {"here": 3, "gone.one": 2}, "q2": {"gone.two": 1, "gone.one": 0}}
    kept, notes = questions._keep_present(qrels, {"here": Document("here", "text")})
    assert kept == {"q1": {"here": 3}, "q2": {}}
    assert len(notes) == 1
    assert notes[0].startswith("2 of 3 judged ids are not in this Python 3.")
    assert notes[0].endswith(": gone.one, gone.two")
    assert questions._keep_present({"q1": {"here": 3}}, {"here": Document("here", "text")})[1] == ()


def test_it_survives_being_written_and_read(collection: Collection, tmp_path: Path) -> None:
    write_beir(collection, tmp_path / "demo")
    again = read_beir(tmp_path / "demo")
    assert again.queries == collection.queries
    assert again.qrels == collection.qrels
    assert again.documents.keys() == collection.documents.keys()
    assert all(again.documents[key].text == document.text for key, document in collection.documents.items())
