"""BM25 over bm25s: the first stage that ships, and the folder it is kept in.

Knows: words, the sparse index, the folder's format. Refuses to know: what becomes of the
candidates.

    index = BM25.build(documents)
    index.save("my-index")
    BM25.open("my-index").retrieve("who wrote it", k=100)

Words are runs of two or more letters, digits or underscores, NFKC-normalised, lower-cased, less stop
words, stemmed (Snowball). Languages written without spaces need another retriever.

Score of a document for a query (Lucene's variant: Kamphuis et al., "Which BM25 Do You Mean?",
ECIR 2020), summed over the query's words, a word asked twice counting twice:
ln(1 + (N − df + .5) / (df + .5)) · tf / (tf + k1 · (1 − b + b · length / mean length))
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import secrets
import shutil
import time
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from secondpass.errors import IndexFolderError, InputError
from secondpass.types import Document, Hit, Ranking, StageTrace, Status

__all__ = ["BM25"]

_FORMAT = "secondpass-bm25"
_VERSION = 1
_MANIFEST = "manifest.json"
_DOCUMENTS = "documents.jsonl"
_OFFSETS = "offsets.npy"
_ENGINE = (
    "data.csc.index.npy",
    "indices.csc.index.npy",
    "indptr.csc.index.npy",
    "vocab.index.json",
    "params.index.json",
)  # as bm25s names them
_FILES = (_DOCUMENTS, _OFFSETS, *_ENGINE)
_AGAIN = "build the index again (secondpass index)"

_find_words = re.compile(r"\w\w+").findall


class BM25:
    """A BM25 index and its documents. Make one with `build` or `open`."""

    def __init__(self, engine: Any, documents: Sequence[Document], language: str | None, fields: tuple[str, ...]):
        self._engine = engine  # a bm25s.BM25
        self._documents = documents
        self._stem, self._stop_words = _language(language)
        self.language = language
        self.fields = fields

    @classmethod
    def build(
        cls,
        documents: Iterable[Document],
        *,
        k1: float = 0.9,
        b: float = 0.4,
        language: str | None = "english",
        fields: Sequence[str] = ("title", "text"),
        on_progress: Callable[[int], None] | None = None,
    ) -> BM25:
        """Index `documents` in memory.

        `fields` are `title`, `text` and names of metadata, put together with a space between;
        what is not a string adds no words, but its document stays. `language` is one that
        PyStemmer knows, None for neither stemming nor stop words. `on_progress` is called now
        and then with the number of documents read so far.

        Raises InputError for no documents, an id that occurs twice or is no string, an unknown
        language, a metadata field no document has, k1 < 0, or b outside 0..1.
        """
        import bm25s
        import numpy as np

        if not (k1 >= 0 and 0 <= b <= 1 and k1 < float("inf")):
            raise InputError(f"k1 is {k1} and b is {b}; BM25 needs a k1 from 0 up and a b between 0 and 1")
        if isinstance(fields, str) or not fields:
            raise InputError(f"fields is {fields!r}; give a list such as ['title', 'text']")
        stem, stop_words = _language(language)
        kept: list[Document] = []
        seen: set[str] = set()
        fields_met = {"title", "text"}
        vocabulary: dict[str, int] = {}  # stem -> term number
        terms: dict[str, int] = {}  # word -> term number, −1 for a stop word: most words come again
        postings: list[array[int]] = []  # per document, its term numbers in order
        for document in documents:
            if not isinstance(document, Document) or not isinstance(document.id, str):
                raise InputError(
                    f"document {len(kept)} is {type(document).__name__} with id {getattr(document, 'id', None)!r}; "
                    "give Documents with a str as id (secondpass.types.as_document makes them)"
                )
            if document.id in seen:
                raise InputError(f"two documents have the id {document.id!r} (the second is number {len(kept)})")
            seen.add(document.id)
            kept.append(document)
            numbers = array("i")
            for word in _words(_text(document, fields, fields_met)):
                term = terms.get(word)
                if term is None:
                    term = -1 if word in stop_words else vocabulary.setdefault(stem(word), len(vocabulary))
                    terms[word] = term
                if term >= 0:
                    numbers.append(term)
            postings.append(numbers)
            if on_progress is not None and len(kept) % 256 == 0:
                on_progress(len(kept))
        if not kept:
            raise InputError("there are no documents to index; give at least one")
        if missing := [name for name in fields if name not in fields_met]:
            raise InputError(f"no document has the field {missing[0]!r}; give title, text or a key of the metadata")
        engine = bm25s.BM25(method="lucene", k1=k1, b=b, dtype="float32", int_dtype="int32", backend="numpy")
        if vocabulary:
            engine.index((postings, vocabulary), create_empty_token=False, show_progress=False)
        else:  # not one word in the whole collection, where bm25s would divide by a mean length of 0
            engine.vocab_dict, engine.nonoccurrence_array = {}, None
            engine.scores = {
                "data": np.zeros(0, "float32"),
                "indices": np.zeros(0, "int32"),
                "indptr": np.zeros(1, "int64"),
                "num_docs": len(kept),
            }
        if on_progress is not None:
            on_progress(len(kept))
        return cls(engine, kept, language, tuple(fields))

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, verify: bool = True) -> BM25:
        """Open an index folder; postings and documents stay on disk, memory-mapped.

        The manifest, its own digest, and every file's presence and size are always checked.
        `verify` also reads every file once against its digest, which costs some seconds per gigabyte;
        set it to False for a large index on a disk you trust.

        Raises IndexFolderError for a folder that is missing, foreign, damaged, or written by a
        newer version of the format.
        """
        import bm25s
        import numpy as np

        path = Path(folder)
        manifest = _read_manifest(path)
        _check_files(path, manifest["files"], verify)
        settings = manifest["settings"]
        try:
            engine = bm25s.BM25.load(str(path), mmap=True, load_corpus=False, show_progress=False, backend="numpy")
            documents = _StoredDocuments(path)
            scores, count = engine.scores, len(documents)
            whole = (
                count == settings["documents"] == scores["num_docs"]
                and len(scores["indptr"]) == len(engine.vocab_dict) + 1
                and int(scores["indptr"][-1]) == len(scores["data"]) == len(scores["indices"])
            )
            language, fields = settings["language"], tuple(settings["fields"])
        except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError) as error:
            raise IndexFolderError(f"{path} cannot be read as an index ({error}); {_AGAIN}") from error
        if not whole:
            raise IndexFolderError(f"{path} is damaged: its files do not belong together; {_AGAIN}")
        # plain views of the memory maps: np.memmap slices an order slower
        engine.scores = {key: np.asarray(value) for key, value in scores.items() if key != "num_docs"}
        engine.scores["num_docs"] = count
        return cls(engine, documents, language, fields)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the index to `folder`, whole or not at all; an index already there is replaced.

        Everything is written and synced to a folder beside it, which then takes its name. (Replacing takes
        two renames: a crash between them leaves the old index beside, under a name that ends in `.old`.)
        Text and metadata are kept as JSON: tuples come back as lists, keys as strings.

        Raises IndexFolderError where `folder` holds something that is no index, InputError
        for a document that JSON cannot hold.
        """
        import numpy as np

        path = Path(folder).resolve()  # a link stays a link; what it points to is replaced
        if path.exists() and not (path.is_dir() and (_is_index(path) or not any(path.iterdir()))):
            raise IndexFolderError(f"{path} exists and is not a secondpass index; remove it or give another folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
        fresh.mkdir()
        try:
            offsets = array("q", [0])
            with open(fresh / _DOCUMENTS, "wb") as file:
                for document in self._documents:
                    offsets.append(offsets[-1] + file.write(_encode(document)))
            np.save(fresh / _OFFSETS, np.frombuffer(offsets, dtype="int64"))
            self._engine.save(str(fresh), show_progress=False)
            settings = {
                "documents": len(self),
                "fields": list(self.fields),
                "language": self.language,
                "k1": self._engine.k1,
                "b": self._engine.b,
            }
            _write_manifest(fresh, settings)
            _swap(fresh, path)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def retrieve(self, query: str, k: int) -> Ranking:
        """The at most `k` best documents that share a word with `query`.

        Best first; equal scores in the order the documents were indexed. A document without
        any of the query's words is no hit, so a query without known words finds nothing.

        Raises InputError for a query that is no string or a k below 1.
        """
        if not isinstance(query, str):
            raise InputError(f"the query is a {type(query).__name__}; give a str")
        if not isinstance(k, int) or k < 1:
            raise InputError(f"k is {k!r}; give the number of documents to find, from 1 up")
        begun = time.perf_counter()
        words = [word for word in _words(query) if word not in self._stop_words]
        vocabulary = self._engine.vocab_dict
        terms = [vocabulary[stem] for stem in map(self._stem, words) if stem in vocabulary]
        hits = tuple(
            Hit(self._documents[position], score, Status.RETRIEVED, score, rank)
            for rank, (position, score) in enumerate(self._best(terms, k), start=1)
        )
        detail = {"documents": len(self), "query_words": len(words), "unknown_words": len(words) - len(terms)}
        trace = StageTrace("bm25", time.perf_counter() - begun, detail=detail)
        return Ranking(query, hits, (trace,))

    def retrieve_many(self, queries: Mapping[str, str], k: int) -> Iterator[Ranking]:
        """One ranking per query, in order; `queries` maps query ids to texts."""
        for query_id, query in queries.items():
            found = self.retrieve(query, k)
            yield Ranking(query, found.hits, found.trace, query_id)

    def _best(self, terms: list[int], k: int) -> list[tuple[int, float]]:
        """(position, score) of the k best documents with a score above 0; ties by position."""
        if not terms:
            return []
        import numpy as np

        scores = self._engine.get_scores_from_ids(terms)  # float32[documents]
        found = np.flatnonzero(scores > 0)  # ascending positions
        values = scores[found]
        if len(found) > k:
            worst = np.partition(values, len(values) - k)[len(values) - k]  # the k-th best score
            above, ties = np.flatnonzero(values > worst), np.flatnonzero(values == worst)
            keep = np.concatenate([above, ties[: k - len(above)]])
            found, values = found[keep], values[keep]
        order = np.lexsort((found, -values))
        return list(zip(found[order].tolist(), values[order].tolist(), strict=True))

    def __len__(self) -> int:
        return len(self._documents)

    def __repr__(self) -> str:
        return f"BM25({len(self)} documents)"


# Words


def _words(text: str) -> list[str]:
    return _find_words(unicodedata.normalize("NFKC", text).lower())


def _text(document: Document, fields: Sequence[str], met: set[str]) -> str:
    """The indexed text of a document; adds the metadata fields it has to `met`."""
    parts: list[str] = []
    for name in fields:
        if name in ("title", "text"):
            value: Any = getattr(document, name)
        else:
            value = document.metadata.get(name)
            if value is not None:
                met.add(name)
        if isinstance(value, str):
            parts.append(value)
    return " ".join(parts)


def _language(language: str | None) -> tuple[Callable[[str], str], frozenset[str]]:
    """The stemmer and the stop words of a language; bm25s has stop words for some of them only."""
    if language is None:
        return str, frozenset()
    import Stemmer
    from bm25s import stopwords

    if language not in Stemmer.algorithms():
        raise InputError(f"language {language!r} is not known; known are: {', '.join(Stemmer.algorithms())} and None")
    name = "EN" if language in ("english", "porter") else language.upper()
    return Stemmer.Stemmer(language).stemWord, frozenset(getattr(stopwords, f"STOPWORDS_{name}", ()))


# The documents on disk: one JSON line each, found by its offset


class _StoredDocuments(Sequence[Document]):
    """The documents of a folder, read one by one when asked for."""

    def __init__(self, folder: Path) -> None:
        import numpy as np

        self._offsets = np.load(folder / _OFFSETS, mmap_mode="r")
        with open(folder / _DOCUMENTS, "rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self._offsets.dtype != np.int64 or self._offsets[0] != 0 or self._offsets[-1] != len(self._bytes):
            raise ValueError(f"{_OFFSETS} does not fit {_DOCUMENTS}")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, position: Any) -> Any:  # an int; slices are not needed
        if not 0 <= position < len(self):
            raise IndexError(position)
        line = self._bytes[int(self._offsets[position]) : int(self._offsets[position + 1])]
        identity, text, title, metadata = json.loads(line.decode("utf-8", "surrogatepass"))
        return Document(identity, text, title, MappingProxyType(metadata))


def _encode(document: Document) -> bytes:
    row = [document.id, document.text, document.title, dict(document.metadata)]
    try:
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"document {document.id!r} cannot be saved ({error}); text and metadata must be what JSON can hold"
        ) from error
    return line.encode("utf-8", "surrogatepass") + b"\n"  # lone surrogates do occur in crawled text


# The folder


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _seal(manifest: Mapping[str, Any]) -> str:
    """The digest of a manifest's own content, all but the seal."""
    content = {key: value for key, value in manifest.items() if key != "seal"}
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write_manifest(folder: Path, settings: Mapping[str, Any]) -> None:
    import bm25s

    files = {name: {"bytes": (folder / name).stat().st_size, "blake2b": _digest(folder / name)} for name in _FILES}
    manifest: dict[str, Any] = {
        "format": _FORMAT,
        "version": _VERSION,
        "bm25s": bm25s.__version__,
        "settings": dict(settings),
        "files": files,
    }
    manifest["seal"] = _seal(manifest)
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _read_manifest(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise IndexFolderError(f"{folder} {what}; give a folder that `secondpass index` or BM25.save wrote")
    path = folder / _MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise IndexFolderError(f"{folder} is not a secondpass index (it has no {_MANIFEST})") from None
    except (OSError, ValueError) as error:
        raise IndexFolderError(f"{path} is damaged ({error}); {_AGAIN}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise IndexFolderError(f"{folder} is not a BM25 index of secondpass (its {_MANIFEST} does not say {_FORMAT!r})")
    version = manifest.get("version")
    if isinstance(version, int) and version > _VERSION:
        raise IndexFolderError(
            f"{folder} has format {version}, this secondpass reads up to {_VERSION}; upgrade secondpass or {_AGAIN}"
        )
    files = manifest.get("files")
    if version != _VERSION or manifest.get("seal") != _seal(manifest) or set(files or ()) != set(_FILES):
        raise IndexFolderError(f"{path} is damaged: its content does not match its own digest; {_AGAIN}")
    return manifest


def _check_files(folder: Path, files: Mapping[str, Mapping[str, Any]], verify: bool) -> None:
    for name, expected in files.items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != expected["bytes"]:
                raise IndexFolderError(f"{path} is damaged: {size} bytes, not {expected['bytes']}; {_AGAIN}")
            if verify and _digest(path) != expected["blake2b"]:
                raise IndexFolderError(f"{path} is damaged: its content does not match its digest; {_AGAIN}")
        except OSError as error:
            raise IndexFolderError(f"{path} cannot be read ({error.strerror}); {_AGAIN}") from error


def _is_index(folder: Path) -> bool:
    """Whether this is an index of any state and version, so that it may be replaced."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == _FORMAT


def _swap(fresh: Path, target: Path) -> None:
    """Give `fresh` the name `target`, synced to disk first; what was there before goes away."""
    for path in (*fresh.iterdir(), fresh):
        _sync(path)
    old = fresh.with_suffix(".old")
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(fresh, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder to sync it
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
