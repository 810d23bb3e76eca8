"""Qdrant: the nearest vectors of a collection that people have, or of one that is filled here.

Knows: qdrant-client, on a server or in its local mode. Refuses to know: how a text becomes a vector, and words (put a
retriever by words beside it in a Hybrid).

    mine = Qdrant("http://localhost:6333", collection="articles", encoder=encoder, text="body")
    ours = Qdrant(path="birds", encoder=open_encoder())
    ours.fill(documents)

A hit's score is Qdrant's own, higher better: the cosine, or the inner product; of collections by distance minus that.
Texts come with the search, as payload.
"""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from secondpass.embedding import Encoder
from secondpass.errors import InputError, RetrieverError
from secondpass.extras import require
from secondpass.retrievers.dense import Vectors
from secondpass.retrievers.filling import Filled, Vector, fill
from secondpass.retrievers.ranked import check_question
from secondpass.retrievers.rows import DIGEST, REST, Found, Row, at, host_of, ranking_of
from secondpass.types import Document, Ranking

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = ["Qdrant"]

_VECTOR = "secondpass_vector"  # of collections of ours: named, since a point without a vector has to be possible
_POINTS = uuid.UUID("5ec0df57-0000-4000-8000-000000000000")  # the namespace that ids of documents become points in
_T = TypeVar("_T")


class Qdrant:
    """Finds in `collection` at `url`, in the folder at `path` in the client's local mode, or with a `client` of yours.

    `id` is the payload's key with the document's id (None: the point's own id), `title` (None: there is none), `text`
    and those of `metadata` are keys, too; "a.b" is b inside of a. `vector` is the name of the vector (None: it has
    none). In a collection that was made here all but `metadata` is known, and its encoder is kept with it.

    `timeout_s` is for a query, in whole seconds, rounded up; the local mode has none. `api_key` is sent to the `url`.

    Raises InputError for none or several of url, path and client, or a timeout that is none; MissingExtraError without
    the extra `qdrant`.
    """

    paths = ("path",)  # what settings give from their own folder on

    def __init__(
        self,
        url: str | None = None,
        *,
        encoder: Encoder,
        path: str | None = None,
        client: QdrantClient | None = None,
        collection: str = "secondpass_documents",
        api_key: str | None = None,
        id: str | None = "id",
        title: str | None = "title",
        text: str = "text",
        metadata: Sequence[str] = (),
        vector: str | None = None,
        timeout_s: float = 5.0,
    ) -> None:
        library = require("qdrant_client", extra="qdrant", purpose="a first stage in Qdrant")
        self._models: Any = library.models
        self._exceptions: Any = require("qdrant_client.http.exceptions", extra="qdrant")
        if sum(one is not None for one in (url, path, client)) != 1:
            raise InputError("give one of url, path and client: where the collection is")
        if not 0 < timeout_s < math.inf:
            raise InputError(f"timeout_s is {timeout_s!r}; give seconds above 0")
        self.where = path or ("a client of yours" if url is None else host_of(url))
        self.timeout_s = math.ceil(timeout_s)
        how = {"api_key": api_key, "timeout": self.timeout_s, "check_compatibility": False}
        self._client: QdrantClient = client or (
            library.QdrantClient(path=path, force_disable_check_same_thread=True)
            if path is not None
            else library.QdrantClient(url=url, **how)
        )
        local: Any = require("qdrant_client.local.qdrant_local", extra="qdrant")
        # the local mode is not made for threads
        self._one_at_a_time = threading.Lock() if isinstance(self._client._client, local.QdrantLocal) else nullcontext()
        self.collection, self.metadata = collection, tuple(metadata)
        self._encoder, self._vector = encoder, vector
        self._id, self._title, self._text = id, title, text
        self._layout: tuple[Vectors, bool, float] | None = None  # known once the collection was looked at

    @staticmethod
    def wants_encoder(options: Mapping[str, Any]) -> bool:
        """Whether settings with these options need one."""
        return True

    def __repr__(self) -> str:
        return f"Qdrant({self.where!r}, {self.collection!r})"

    def close(self) -> None:
        """Close the client; there are no queries after it."""
        self._client.close()

    def retrieve(self, query: str, k: int) -> Ranking:
        """The k nearest, of those that have a vector. Nothing where the encoder knows nothing of the query.

        Raises InputError for a query that is no string or a k below 1; IndexFolderError where a collection that was
        made here has vectors of another encoder; RetrieverError where there is no connection, no such collection, or
        no answer in time.
        """
        check_question(query, k)
        begun = time.perf_counter()
        if self._layout is None:
            self._layout = self._look()
        vectors, ours, sign = self._layout
        (row,) = vectors.encode([query], query=True).tolist()
        known, found = any(row), list[Found]()
        if known:
            keys = self._keys(ours)
            wanted = [key for key in (*keys, *self.metadata) if key is not None]
            using = _VECTOR if ours else self._vector
            answer = self._call(
                lambda client: client.query_points(
                    self.collection,
                    query=row,
                    using=using,
                    limit=min(k, 2**31),
                    with_payload=wanted,
                    timeout=self.timeout_s,
                )
            )
            for point in answer.points:
                payload = point.payload or {}
                id, title, text, rest = (None if key is None else at(payload, key) for key in keys)
                metadata = {key: at(payload, key) for key in self.metadata}
                kept = rest if ours else None
                found.append(
                    Found(point.id if keys[0] is None else id, title, text, kept, metadata, sign * point.score)
                )
        detail = {"collection": self.collection, "unknown_query": not known}
        return ranking_of("qdrant", query, found, begun, detail)

    def fill(
        self, documents: Iterable[Document], *, batch: int = 256, on_progress: Callable[[int], None] | None = None
    ) -> Filled:
        """Put `documents` into the collection, which is made where there is none: see `filling.fill`. What is there of
        another id stays.

        Raises InputError as `filling.fill` does and for a collection that was not made here, IndexFolderError for one
        with vectors of another encoder, RetrieverError as `retrieve` does.
        """
        if not self._call(lambda client: client.collection_exists(self.collection)):
            self._make()
        vectors, ours, _ = self._look()
        if not ours:
            raise InputError(
                f"{self.where} has a collection {self.collection!r} that was not made here (or by a Qdrant before "
                "1.16, which keeps nothing with it), so nothing is written into it; name another one"
            )

        def known(ids: Sequence[str]) -> dict[str, str]:
            there = self._call(
                lambda client: client.retrieve(self.collection, [_point(id) for id in ids], with_payload=["id", DIGEST])
            )
            return {str(one.payload["id"]): str(one.payload[DIGEST]) for one in there if one.payload}

        def write(rows: Sequence[tuple[Row, Vector | None]]) -> None:
            points = [
                self._models.PointStruct(
                    id=_point(row.id),
                    vector={} if vector is None else {_VECTOR: vector},
                    payload={"id": row.id, "title": row.title, "text": row.text, REST: row.rest, DIGEST: row.digest},
                )
                for row, vector in rows
            ]
            self._call(lambda client: client.upsert(self.collection, points, wait=True))

        return fill(documents, known, write, vectors=vectors, batch=batch, on_progress=on_progress)

    def _keys(self, ours: bool) -> tuple[str | None, str | None, str, str | None]:
        """Where id, title, text and the rest are."""
        return ("id", "title", "text", REST) if ours else (self._id, self._title, self._text, None)

    def _look(self) -> tuple[Vectors, bool, float]:
        """What encodes for the collection, whether it is ours, and the sign that makes more of its scores better."""
        config = self._call(lambda client: client.get_collection(self.collection)).config
        kept = (config.metadata or {}).get("secondpass")
        vectors = Vectors(self._encoder) if kept is None else Vectors.from_settings(kept)
        vectors.use(self._encoder)
        spaces = config.params.vectors
        name = self._vector if kept is None else _VECTOR
        space = spaces.get(name) if isinstance(spaces, Mapping) else spaces
        if space is None or (isinstance(spaces, Mapping) and name is None):
            raise InputError(
                f"the collection {self.collection!r} has vectors {', '.join(spaces or ()) or 'of no kind'}; name one"
            )
        far = space.distance in (self._models.Distance.EUCLID, self._models.Distance.MANHATTAN)
        return vectors, kept is not None, -1.0 if far else 1.0

    def _make(self) -> None:
        models, encoder = self._models, Vectors(self._encoder).settings()
        space = models.VectorParams(size=encoder["dimensions"], distance=models.Distance.COSINE)
        self._call(
            lambda client: client.create_collection(
                self.collection, vectors_config={_VECTOR: space}, metadata={"secondpass": encoder}
            )
        )

    def _call(self, work: Callable[[QdrantClient], _T]) -> _T:
        """What the client gives; where a connection was lost it is asked once more."""
        with self._reached():
            try:
                return self._done(work)
            except self._exceptions.ResponseHandlingException as error:
                if _is_late(error):
                    raise
            return self._done(work)

    def _done(self, work: Callable[[QdrantClient], _T]) -> _T:
        with self._one_at_a_time:
            return work(self._client)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        where = f"the first stage in {self.where}"
        try:
            yield
        except self._exceptions.ResponseHandlingException as error:
            if _is_late(error):
                raise RetrieverError(f"{where} gave no answer within {self.timeout_s} s", kind="timeout") from error
            raise RetrieverError(f"{where} is not reached: {error}", kind="connection") from error
        except self._exceptions.UnexpectedResponse as error:
            said = bytes(error.content or b"")[:300].decode(errors="replace")
            what = f"status {error.status_code}: {said}"
            raise RetrieverError(f"{where} does not do what it is asked: {what}", kind="refused") from error
        except (ValueError, RuntimeError) as error:  # the local mode's
            if isinstance(error, InputError):
                raise
            raise RetrieverError(f"{where} does not do what it is asked: {error}", kind="refused") from error


def _is_late(error: Any) -> bool:
    """Whether a response was waited for in vain. The client hands on what httpx has raised."""
    return "Timeout" in type(getattr(error, "source", error)).__name__


def _point(id: str) -> str:
    return str(uuid.uuid5(_POINTS, id))
