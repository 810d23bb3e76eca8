"""The routes of the judging screen: what there is to judge, its texts, and what was said, in the audit's own store.

Knows: their bodies and answers. Refuses to know: who asks (`asking`), files and locks (`evaluation.judging`). The store
is opened anew for each request, so that what others judge meanwhile, here or in a terminal, is seen at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, TypeVar

import msgspec
from starlette.responses import Response

from secondpass.errors import InputError
from secondpass.evaluation.judging import MEANINGS, RUBRICS, Judgments
from secondpass.serving.asking import Asker, Failure, body_of, told
from secondpass.serving.searching import decoded
from secondpass.serving.server import Server

__all__ = ["Judged", "Undone", "judge", "judging", "pooled", "undo"]

_SMALL = 65_536  # bytes of a judgment
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_T = TypeVar("_T")


class Judged(msgspec.Struct):
    """`POST /v1/judging`: a grade (null takes back what was said) and a note (null keeps what is noted)."""

    judge: Name
    query_id: str
    document_id: str
    grade: int | None
    note: Annotated[str, msgspec.Meta(max_length=10_000)] | None = None


class Undone(msgspec.Struct):
    """`POST /v1/judging/undo`: the judge's last grade that stands is taken back."""

    judge: Name


async def judging(server: Server, path: str, asker: Asker) -> Response:
    """What there is to judge, and how far `judge` and everybody are; without texts of documents."""
    name = asker.request.query_params.get("judge", "")

    def read(store: Judgments) -> dict[str, Any]:
        grades, pool = store.of_judge(name), store.pool
        queries = [
            {
                "query_id": one.query_id,
                "query": one.query,
                "documents": [{"id": doc.id, "grade": grades.get((one.query_id, doc.id))} for doc in one.documents],
            }
            for one in pool.queries
        ]
        scale = zip(RUBRICS[store.best], MEANINGS[store.best], strict=True)
        return {
            "object": "judging",
            "folder": store.folder.name,
            "scale": [{"grade": i, "name": word, "meaning": meaning} for i, (word, meaning) in enumerate(scale)],
            "depth": pool.depth,
            "drawn_from": pool.drawn_from,
            "queries": queries,
            "progress": {one: asdict(store.progress(store.of_judge(one))) for one in store.judges},
            "together": asdict(store.progress(store.settled())),
            "agreement": [asdict(one) for one in store.agreements()],
            "notes": [*pool.notes, *store.notes],
        }

    return told(await _of_store(server, read))


async def pooled(server: Server, path: str, asker: Asker) -> Response:
    """The texts of a query's documents, and what `judge` said of them."""
    name, query_id = (asker.request.query_params.get(key, "") for key in ("judge", "query_id"))

    def read(store: Judgments) -> dict[str, Any]:
        query = next((one for one in store.pool.queries if one.query_id == query_id), None)
        if query is None:
            raise InputError(f"the pool has no query {query_id!r}")
        grades = store.of_judge(name)
        documents = [
            {
                "id": one.id,
                "title": one.title,
                "text": one.text,
                "grade": grades.get((query_id, one.id)),
                "note": store.note(query_id, one.id, name),
            }
            for one in query.documents
        ]
        return {"object": "pooled", "query_id": query_id, "query": query.query, "documents": documents}

    return told(await _of_store(server, read))


async def judge(server: Server, path: str, asker: Asker) -> Response:
    """Keep a judgment; it is on disk when this is answered."""
    one = decoded(Judged, await _body(asker))

    def write(store: Judgments) -> dict[str, Any]:
        kept = store.add(one.query_id, one.document_id, one.grade, one.judge, note=one.note)
        return {"object": "judgment", **_kept(kept.query_id, kept.doc_id, kept.grade, store, one.judge)}

    return told(await _of_store(server, write))


async def undo(server: Server, path: str, asker: Asker) -> Response:
    """Take back the last grade, also one of an earlier session; of which document it was, or null where none was."""
    one = decoded(Undone, await _body(asker))

    def write(store: Judgments) -> dict[str, Any]:
        taken = store.undo(one.judge)
        query_id, document_id = (None, None) if taken is None else (taken.query_id, taken.doc_id)
        return {"object": "judgment", **_kept(query_id, document_id, None, store, one.judge)}

    return told(await _of_store(server, write))


def _kept(query_id: str | None, document_id: str | None, grade: int | None, store: Judgments, name: str) -> Any:
    done = asdict(store.progress(store.of_judge(name)))
    return {"query_id": query_id, "document_id": document_id, "grade": grade, "progress": done}


async def _body(asker: Asker) -> bytes:
    """The body of what changes the store. Another site's page can make a browser send any body, but not say that it is
    JSON, without being asked first, which is not answered here."""
    if asker.request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Failure(415, "send it as Content-Type: application/json")
    return await body_of(asker.request, _SMALL)


async def _of_store(server: Server, work: Callable[[Judgments], _T]) -> _T:
    """`work` on the store, in a thread, since it waits for a lock and the disk."""
    folder = None if server.workbench is None else server.workbench.pool
    if folder is None:
        raise Failure(404, "this server has nothing to judge; set serve.pool and start it again")
    store = partial(Judgments.open, folder)
    try:
        return await asyncio.get_running_loop().run_in_executor(server.threads, lambda: work(store()))
    except InputError as error:
        raise Failure(400, str(error)) from error
    except OSError as error:
        raise Failure(503, f"{folder.name} cannot be read or written ({error.strerror})", "Unhealthy") from error
