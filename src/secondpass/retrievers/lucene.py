"""Elasticsearch and OpenSearch: words, vectors, or both in one request, over an index that people have or one of ours.

Knows: their requests and answers, and where the two differ. Refuses to know: how a text becomes a vector, and how two
rankings are fused (fusion.py): what the servers offer for that is not in every licence and version.

    mine = Elasticsearch("https://localhost:9200", index="articles", text="body", api_key="…")
    ours = OpenSearch("https://localhost:9200", encoder=open_encoder(), user="me", password="…")
    ours.fill(documents)

Scores are the server's own, higher better: BM25 over title and text, (1 + cosine) / 2, or in `hybrid` the reciprocal
ranks of the two. Every search is one request to `_msearch`, and texts come with it.
"""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, get_args

from secondpass.embedding import Encoder
from secondpass.errors import InputError, RetrieverError
from secondpass.extras import require
from secondpass.fusion import reciprocal_rank
from secondpass.retrievers.dense import Vectors
from secondpass.retrievers.filling import Filled, Vector, fill
from secondpass.retrievers.ranked import check_question
from secondpass.retrievers.rows import DIGEST, REST, Found, Row, at, host_of, plain, ranking_of
from secondpass.types import Document, Ranking

__all__ = ["Elasticsearch", "Mode", "OpenSearch"]

Mode = Literal["words", "vectors", "hybrid"]

_FILLING = 120.0  # seconds that a batch may take
_MOST = 10_000  # hits of a request: the servers' index.max_result_window
_LONGEST_ID = 512  # bytes
_VECTOR = "secondpass_vector"  # the field of ours


class _Lucene(ABC):
    """What both have in common. See Elasticsearch and OpenSearch."""

    paths = ("ca_certs",)  # what settings give from their own folder on
    _library = ""  # the module of the client
    _extra = ""  # that brings it; and what it is called in traces

    def __init__(
        self,
        url: str | None = None,
        *,
        index: str = "secondpass_documents",
        encoder: Encoder | None = None,
        mode: Mode | None = None,
        id: str | None = None,
        title: str | None = "title",
        text: str = "text",
        metadata: Sequence[str] = (),
        vector: str | None = None,
        language: str = "english",
        depth: int = 100,
        weights: Sequence[float] = (1.0, 1.0),
        rrf_k: float = 60,
        timeout_s: float = 5.0,
        client: Any = None,
        **connection: Any,
    ) -> None:
        self._module: Any = require(self._library, extra=self._extra, purpose=f"a first stage in {type(self).__name__}")
        self.mode: Mode = mode or ("words" if encoder is None else "hybrid")
        if self.mode not in get_args(Mode):
            raise InputError(f"mode is {mode!r}; known are {', '.join(get_args(Mode))}")
        if self.mode != "words" and encoder is None:
            raise InputError(f"mode {self.mode!r} needs an encoder, which makes the query a vector")
        if (url is None) == (client is None):
            raise InputError("give a url or a client: where the index is")
        if not isinstance(depth, int) or depth < 1:
            raise InputError(f"depth is {depth!r}; give the number of candidates of each ranking, from 1 up")
        if not 0 < timeout_s < math.inf:
            raise InputError(f"timeout_s is {timeout_s!r}; give seconds above 0")
        self.index, self.metadata, self.depth, self.timeout_s = index, tuple(metadata), depth, timeout_s
        self.where = "a client of yours" if url is None else host_of(url)
        self._weights, self._rrf_k = tuple(weights), rrf_k
        reciprocal_rank([Ranking("")] * 2, weights=self._weights, k=rrf_k)  # what cannot be meant is said now
        self._encoder, self._vector, self._language = encoder, vector, language
        self._id, self._title, self._text = id, title, text
        self._layout: tuple[bool, Vectors | None] | None = None  # known once the index was looked at
        self._client = client or self._connected(url, timeout_s, connection)
        self._filling = client or self._connected(url, _FILLING, connection)

    # Where they differ

    @abstractmethod
    def _connected(self, url: str | None, timeout_s: float, connection: Mapping[str, Any]) -> Any:
        """A client with this timeout; a lost connection is tried once more, a timeout is not."""

    @abstractmethod
    def _made_for(self, dimensions: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The settings of an index with vectors, and the mapping of their field."""

    @abstractmethod
    def _nearest(self, field: str, row: Sequence[float], count: int) -> dict[str, Any]:
        """The part of a search that finds the nearest."""

    # What they have in common

    @staticmethod
    def wants_encoder(options: Mapping[str, Any]) -> bool:
        """Whether settings with these options need one."""
        return options.get("mode") != "words"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.where!r}, {self.index!r}, {self.mode})"

    def close(self) -> None:
        """Close the clients; there are no queries after it."""
        self._client.close()
        self._filling.close()

    def retrieve(self, query: str, k: int) -> Ranking:
        """The k best (10,000 at most), or all that share a word with the query (`words`) or have a vector (`vectors`).

        Raises InputError for a query that is no string, a k below 1, or an index that has not what the mode needs;
        IndexFolderError where an index that was made here has vectors of another encoder; RetrieverError where there is
        no connection, no such index, no answer in time, or one of only a part of the index.
        """
        check_question(query, k)
        begun = time.perf_counter()
        if self._layout is None:
            kept = self._kept(self._client)
            self._layout = kept is not None, None if self.mode == "words" else self._vectors(kept)
        ours, vectors = self._layout
        count = min(max(k, self.depth) if self.mode == "hybrid" else k, _MOST)
        searches = [] if self.mode == "vectors" else [self._by_words(query, ours)]
        unknown = False
        if vectors is not None:
            (row,) = vectors.encode([query], query=True).tolist()
            unknown = not any(row)
            field = _VECTOR if ours else self._vector or _VECTOR
            searches += [] if unknown else [self._nearest(field, row, count)]
        answers = self._search(searches, count, ours) if searches else []
        detail = {"index": self.index, "mode": self.mode, "unknown_query": unknown}
        rankings = [
            ranking_of(self._extra, query, [self._found(hit, ours) for hit in hits], begun, detail) for hits in answers
        ]
        rankings += [Ranking(query)] * (2 - len(rankings))
        if self.mode != "hybrid":
            return rankings[0] if answers else ranking_of(self._extra, query, (), begun, detail)
        first, second = rankings
        fused = reciprocal_rank([first, replace(second, trace=())], weights=self._weights, k=self._rrf_k)
        return fused.top(k)

    def fill(
        self, documents: Iterable[Document], *, batch: int = 256, on_progress: Callable[[int], None] | None = None
    ) -> Filled:
        """Put `documents` into the index, which is made where there is none: see `filling.fill`. What is there of
        another id stays. Without an encoder it has no vectors.

        Raises InputError as `filling.fill` does, for an id that is empty or longer than 512 bytes and for an index that
        was not made here; IndexFolderError for one with vectors of another encoder; RetrieverError as `retrieve` does.
        """
        client = self._filling
        with self._reached():
            if not client.indices.exists(index=self.index):
                client.indices.create(index=self.index, body=self._new())
        kept = self._kept(client)
        if kept is None:
            raise InputError(
                f"{self.where} has an index {self.index!r} that was not made here, so nothing is written into it; name "
                "another one"
            )

        vectors = self._vectors(kept)

        def known(ids: Sequence[str]) -> dict[str, str]:
            for id in ids:
                if not 0 < len(id.encode()) <= _LONGEST_ID:
                    raise InputError(f"the document id {id[:60]!r} is empty or longer than {_LONGEST_ID} bytes")
            with self._reached():
                asked = [{"_id": id, "_source": [DIGEST]} for id in ids]
                there = client.mget(index=self.index, body={"docs": asked})
            return {one["_id"]: one["_source"][DIGEST] for one in there["docs"] if one.get("found")}

        def write(rows: Sequence[tuple[Row, Vector | None]]) -> None:
            lines: list[dict[str, Any]] = []
            for row, vector in rows:
                kept = {"title": row.title, "text": row.text, REST: row.rest, DIGEST: row.digest}
                lines += [{"index": {"_id": row.id}}, kept if vector is None else {**kept, _VECTOR: vector}]
            with self._reached():
                done = client.bulk(index=self.index, body=lines)
            if done["errors"]:
                failed = [one["index"]["error"] for one in done["items"] if "error" in one["index"]]
                raise self._refused(f"{len(failed)} of {len(rows)} documents were not taken: {_reason(failed[0])}")

        filled = fill(documents, known, write, vectors=vectors, batch=batch, on_progress=on_progress)
        with self._reached():
            client.indices.refresh(index=self.index)  # from now on searches find them
        return filled

    def _by_words(self, query: str, ours: bool) -> dict[str, Any]:
        fields = ["title", "text"] if ours else [one for one in (self._title, self._text) if one is not None]
        asked = {"query": plain(query), "fields": fields, "type": "most_fields"}  # text, and never syntax
        return {"query": {"multi_match": asked}}

    def _search(self, searches: Sequence[Mapping[str, Any]], count: int, ours: bool) -> list[list[dict[str, Any]]]:
        """The hits of each search, in one request."""
        own = (self._id, self._title, self._text, *self.metadata)
        wanted = ["title", "text", REST] if ours else [one for one in own if one is not None]
        every = {"size": count, "_source": wanted, "timeout": f"{math.ceil(1000 * self.timeout_s)}ms"}
        lines = [line for search in searches for line in ({}, {**search, **every})]
        with self._reached():
            answers = self._client.msearch(index=self.index, body=lines)["responses"]
        for answer in answers:
            if "error" in answer:
                raise self._refused(_reason(answer["error"]))
            if answer["timed_out"]:
                raise self._late()
            if failed := answer["_shards"]["failed"]:
                raise self._refused(f"{failed} of {answer['_shards']['total']} shards failed")
        return [answer["hits"]["hits"] for answer in answers]

    def _found(self, hit: Mapping[str, Any], ours: bool) -> Found:
        source = hit.get("_source", {})
        if ours:
            return Found(hit["_id"], source["title"], source["text"], source[REST], {}, hit["_score"])
        id = hit["_id"] if self._id is None else at(source, self._id)
        title = None if self._title is None else at(source, self._title)
        metadata = {name: at(source, name) for name in self.metadata}
        return Found(id, title, at(source, self._text), None, metadata, hit["_score"])

    def _kept(self, client: Any) -> dict[str, Any] | None:
        """What was kept with an index that was made here; None for people's own."""
        with self._reached():
            (mapping, *_) = client.indices.get_mapping(index=self.index).values()
        kept: dict[str, Any] | None = mapping["mappings"].get("_meta", {}).get("secondpass")
        return kept

    def _vectors(self, kept: Mapping[str, Any] | None) -> Vectors | None:
        """What encodes for an index, of which this was kept where it is ours; None where it has no vectors."""
        if kept is None:
            return None if self._encoder is None else Vectors(self._encoder)
        if "digest" not in kept and self.mode != "words":
            raise InputError(
                f"the index {self.index!r} was made without an encoder, so mode {self.mode!r} finds nothing; fill "
                "another one with an encoder, or take the mode 'words'"
            )
        if "digest" not in kept:
            return None
        if self._encoder is None:
            raise InputError(f"the index {self.index!r} has vectors; fill it with the encoder {kept['encoder']!r}")
        vectors = Vectors.from_settings(kept)
        vectors.use(self._encoder)
        return vectors

    def _new(self) -> dict[str, Any]:
        """The index of ours: settings and mapping."""
        searched = {"type": "text", "analyzer": self._language}
        aside = {"type": "keyword", "index": False, "doc_values": False}
        fields: dict[str, Any] = {"title": searched, "text": searched, REST: aside, DIGEST: aside}
        kept: dict[str, Any] = {"language": self._language}
        settings: dict[str, Any] = {}
        if self._encoder is not None:
            kept |= Vectors(self._encoder).settings()
            settings, fields[_VECTOR] = self._made_for(kept["dimensions"])
        return {
            "settings": settings,
            "mappings": {"dynamic": False, "_meta": {"secondpass": kept}, "properties": fields},
        }

    def _late(self) -> RetrieverError:
        return RetrieverError(
            f"the first stage in {self.where} gave no answer within {self.timeout_s:g} s", kind="timeout"
        )

    def _refused(self, why: str) -> RetrieverError:
        return RetrieverError(f"the first stage in {self.where} does not do what it is asked: {why}", kind="refused")

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except self._module.ConnectionTimeout as error:
            raise self._late() from error
        except self._module.ConnectionError as error:
            why = str(error).partition("\n")[0][:300]
            raise RetrieverError(f"the first stage in {self.where} is not reached: {why}", kind="connection") from error
        except (getattr(self._module, "ApiError", self._module.TransportError), self._module.TransportError) as error:
            raise self._refused(str(error)[:300]) from error


class Elasticsearch(_Lucene):
    """Finds in `index` at `url`, or with a `client` of yours (which then brings its own timeout). Elasticsearch 8 or
    newer; the client's version has to be the server's.

    `mode` is words, vectors or hybrid (None: hybrid with an `encoder`, else words). `id` (None: the server's `_id`),
    `title` (None: there is none), `text`, those of `metadata` and `vector` are fields. In an index that was made here
    they are known, and its encoder is kept with it. `language` is the analyzer of an index that `fill` makes. Of
    hybrid's two rankings the first `depth` (or k) count, with `weights` for words and vectors and the constant `rrf_k`.

    `timeout_s` is the longest that the server may be silent. To connect: `api_key`, or `user` and `password`;
    `ca_certs`, a file; `verify_certs`.

    Raises InputError for settings that do not fit each other, MissingExtraError without the extra `elasticsearch`.
    """

    _library = _extra = "elasticsearch"

    def _connected(self, url: str | None, timeout_s: float, connection: Mapping[str, Any]) -> Any:
        given = _login(connection, ("api_key", "user", "password", "ca_certs", "verify_certs"), "basic_auth")
        return self._module.Elasticsearch(
            url, request_timeout=timeout_s, max_retries=1, retry_on_timeout=False, **given
        )

    def _made_for(self, dimensions: int) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {"type": "dense_vector", "dims": dimensions, "index": True, "similarity": "cosine"}

    def _nearest(self, field: str, row: Sequence[float], count: int) -> dict[str, Any]:
        wide = min(max(2 * count, 100), _MOST)
        return {"knn": {"field": field, "query_vector": list(row), "k": count, "num_candidates": wide}}


class OpenSearch(_Lucene):
    """Finds in `index` at `url`, or with a `client` of yours (which then brings its own timeout). OpenSearch from 2 on.

    All as for Elasticsearch, but that one connects by `user` and `password` only, or by a client.

    Raises InputError for settings that do not fit each other, MissingExtraError without the extra `opensearch`.
    """

    _library, _extra = "opensearchpy", "opensearch"

    def _connected(self, url: str | None, timeout_s: float, connection: Mapping[str, Any]) -> Any:
        given = _login(connection, ("user", "password", "ca_certs", "verify_certs"), "http_auth")
        return self._module.OpenSearch(url, timeout=timeout_s, max_retries=1, retry_on_timeout=False, **given)

    def _made_for(self, dimensions: int) -> tuple[dict[str, Any], dict[str, Any]]:
        method = {"name": "hnsw", "space_type": "cosinesimil", "engine": "lucene"}
        return {"index": {"knn": True}}, {"type": "knn_vector", "dimension": dimensions, "method": method}

    def _nearest(self, field: str, row: Sequence[float], count: int) -> dict[str, Any]:
        return {"query": {"knn": {field: {"vector": list(row), "k": count}}}}


def _login(connection: Mapping[str, Any], known: Sequence[str], login: str) -> dict[str, Any]:
    """What a client takes: user and password go together. Raises InputError for what is not known."""
    if unknown := connection.keys() - set(known):
        raise InputError(f"{min(unknown)!r} is not known; to connect there are {', '.join(known)}")
    given = {name: value for name, value in connection.items() if name not in ("user", "password")}
    user, password = connection.get("user"), connection.get("password")
    if (user is None) != (password is None):
        raise InputError("user and password go together; give both or none")
    return given if user is None else {**given, login: (user, password)}


def _reason(error: Any) -> str:
    """What a server says of an error, without what was asked."""
    if not isinstance(error, Mapping):
        return str(error)[:300]
    return f"{error.get('type')}: {str(error.get('reason') or json.dumps(error))[:300]}"
