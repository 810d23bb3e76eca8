"""The routes as OpenAPI 3.1 describes them: what each reads, what it answers, how it fails.

Knows: the shapes of bodies, as JSON Schema of the types that read them. Refuses to know: what any of it means. The
tests hold every answer of a running server against it.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from secondpass import __version__
from secondpass.explanation.account import Explained
from secondpass.serving.explaining import Explain
from secondpass.serving.judging import Judged, Undone
from secondpass.serving.reranking import PATHS
from secondpass.serving.searching import Clicked, Search
from secondpass.serving.wire import FORMATS, Format, Rerank

__all__ = ["document"]


class Echo(msgspec.Struct):
    """A document's text, where it was asked for."""

    text: str


class Unscored(msgspec.Struct, kw_only=True):
    """What a document has that was not scored: `scored` is false, `status` says why."""

    scored: bool = True
    status: str = ""


class Result(Unscored, kw_only=True):
    """A document by its place in the request."""

    index: int
    relevance_score: float
    document: Echo | None = None


class Datum(Unscored, kw_only=True):
    """The same for clients that read `data`."""

    index: int
    relevance_score: float
    score: float
    object: Literal["rank_result"]
    document: str | None = None
    input: str | None = None


class Usage(msgspec.Struct):
    """Tokens that were scored."""

    prompt_tokens: int
    total_tokens: int


class Step(msgspec.Struct):
    """What one stage did. `skipped`: documents that it did not score, by status; `parts`: seconds by what they went
    into, of workers added up; `exits`: of a model that stopped early, how many documents each exit answered for;
    `removed`: why a selector took documents out, by id."""

    name: str
    seconds: float
    scored: int
    skipped: dict[str, int]
    because: str
    truncated: int
    tokens: int
    parts: dict[str, float]
    engine: str
    precision: str
    exits: dict[str, int]
    removed: dict[str, str]


class Report(msgspec.Struct):
    """What became of the documents: how many were scored, why the others were not, by index; how many were cut."""

    scored: int
    not_scored: dict[str, str]
    because: str
    truncated: int
    digest: str | None
    seconds: float
    trace: list[Step]


class Reranked(msgspec.Struct, kw_only=True):
    """The answer of all rerank routes but text-embeddings-inference's, best first."""

    id: str
    object: str
    model: str
    results: list[Result]
    data: list[Datum]
    usage: Usage
    meta: dict[str, Any]
    report: Report


class RerankedByMixedbread(Reranked, kw_only=True):
    """With what Mixedbread's client reads."""

    top_k: int
    return_input: bool


class RerankedByZeroEntropy(Reranked, kw_only=True):
    """With what ZeroEntropy's client reads. Times in seconds."""

    actual_latency_mode: str
    e2e_latency: float
    inference_latency: float
    total_bytes: int
    total_tokens: int


class Rank(msgspec.Struct):
    """A text by its place in the request, as text-embeddings-inference answers."""

    index: int
    score: float
    text: str | None = None


class ScoreOf(msgspec.Struct):
    """A text's score."""

    index: int
    object: Literal["score"]
    score: float


class ScoresOf(msgspec.Struct):
    """Scores in the order of the texts."""

    id: str
    object: str
    created: int
    model: str
    data: list[ScoreOf]
    usage: Usage


class FoundDocument(msgspec.Struct):
    """A document of the index. `score` is the last stage's that scored it, `first_*` the first stage's."""

    id: str
    relevance_score: float
    status: str
    score: float | None
    first_rank: int | None
    first_score: float | None
    title: str = ""
    text: str = ""


class Searched(msgspec.Struct):
    """The best documents, and the stages on the way to them."""

    id: str
    object: str
    results: list[FoundDocument]
    trace: list[Step]


class Accounted(msgspec.Struct):
    """What of one or two documents carries their scores. Of two `difference` is how far the first is ahead, and
    `logits_apart` what the texts have of it; the rest is the first stage's."""

    id: str
    object: Literal["explanation"]
    model: str
    query: str
    documents: list[Explained]
    difference: float | None
    logits_apart: float | None


class ClickKept(msgspec.Struct):
    """What became of a click: recorded, not_sampled; with other statuses unknown_request, not_shown, too_many."""

    outcome: str


class Progress(msgspec.Struct):
    """Judged documents and completely judged queries, out of how many."""

    judged: int
    documents: int
    complete: int
    queries: int


class JudgmentKept(msgspec.Struct):
    """What was judged or taken back, null where there was nothing to take back, and how far this judge is."""

    object: Literal["judgment"]
    query_id: str | None
    document_id: str | None
    grade: int | None
    progress: Progress


class Fault(msgspec.Struct):
    """Why there is no answer, three times over, since every client looks elsewhere."""

    message: str
    detail: str
    error: str
    error_type: str


_ANSWERS: dict[str, Any] = {
    "mixedbread": RerankedByMixedbread,
    "zeroentropy": RerankedByZeroEntropy,
    "tei": list[Rank],
    "score": ScoresOf,
}
_FAULTS = {
    400: "the body cannot be meant",
    401: "no key that is known",
    408: "the body took too long",
    413: "the body is too large",
    415: "the body is not said to be JSON",
    422: "the body cannot be meant",
    429: "too much at once, or more than the key's rate; Retry-After says when to come back",
    500: "a fault of the server",
    503: "stopping, or a model that cannot be opened",
}
_DEADLINE = {
    "name": "x-deadline-ms",
    "in": "header",
    "required": False,
    "description": "Milliseconds after which the best ranking there is by then is the answer.",
    "schema": {"type": "number", "minimum": 0},
}


def document(
    *,
    keys: bool = False,
    search: bool = True,
    clicks: bool = True,
    watch: bool = True,
    judging: bool = True,
    reports: bool = True,
) -> dict[str, Any]:
    """The document. `keys`: whether one is needed; the others: whether there are such routes here."""
    posted: list[tuple[str, str, tuple[Any, ...], Any]] = []
    for path, name in PATHS.items():
        form: Format = FORMATS[name]
        bodies: tuple[Any, ...] = (form.body, Rerank) if path == "/rerank" else (form.body,)
        answers = _ANSWERS.get(name, Reranked)
        posted.append((path, f"Rerank as {name}", bodies, answers | Reranked if path == "/rerank" else answers))
    posted.append(("/v1/explain", "Explain the score and the place of a document", (Explain,), Accounted))
    if search:
        posted.append(("/v1/search", "Search the index and rerank what is found", (Search,), Searched))
    if clicks:
        posted.append(("/v1/clicks", "Report what was clicked", (Clicked,), ClickKept))
    if judging:
        posted.append(("/v1/judging", "Judge a document", (Judged,), JudgmentKept))
        posted.append(("/v1/judging/undo", "Take back the last judgment", (Undone,), JudgmentKept))
    kinds = [kind for _, _, bodies, answer in posted for kind in (*bodies, answer)]
    schemas, components = msgspec.json.schema_components([*kinds, Fault], ref_template="#/components/schemas/{name}")
    components = {name: _allowing(schema) for name, schema in components.items()}
    fault, given = schemas[-1], iter(schemas)
    paths: dict[str, Any] = {}
    for path, summary, bodies, _ in posted:
        read = [next(given) for _ in bodies]
        answer = next(given)
        paths[path] = {
            "post": {
                "summary": summary,
                "operationId": path.strip("/").replace("/", "_"),
                "parameters": [] if path in _QUICK else [_DEADLINE],
                "requestBody": {"required": True, "content": _json(read[0] if len(read) == 1 else {"anyOf": read})},
                "responses": {
                    "200": {"description": "The answer.", "content": _json(answer)},
                    "404": {"description": "Not here.", "content": _json({"anyOf": [answer, fault]})},
                    **{str(status): {"description": why, "content": _json(fault)} for status, why in _FAULTS.items()},
                },
            }
        }
    for path, summary in (
        _TOLD | ({"/v1/watch": "How the traffic compares with the profile"} if watch else {})
    ).items():
        answer = {"description": "The answer.", "content": _json({"type": "object"})}
        paths[path] = {"get": {"summary": summary, "responses": {"200": answer, "503": _fault("Not well.", fault)}}}
    for path, summary, names in (_JUDGING if judging else []) + (_REPORTS if reports else []):
        asked = [{"name": name, "in": "query", "required": False, "schema": {"type": "string"}} for name in names]
        answer = {"description": "The answer.", "content": _json({"type": "object"})}
        refused = {str(status): _fault(why, fault) for status, why in _FAULTS.items()}
        responses = {"200": answer, "404": _fault("Not here.", fault), **refused}
        operation = {"summary": summary, "parameters": asked, "responses": responses}
        paths.setdefault(path, {})["get"] = operation
    page = {"description": "The page.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    paths["/metrics"] = {"get": {"summary": "Counts, for Prometheus", "responses": {"200": page}}}
    for entry in paths.values():
        for operation in entry.values():
            operation["responses"].setdefault("401", _fault("No key that is known.", fault))
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "secondpass", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": components},
    }
    if keys:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
    return found


_QUICK = ("/v1/clicks", "/v1/judging", "/v1/judging/undo")
_JUDGING: list[tuple[str, str, tuple[str, ...]]] = [
    ("/v1/judging", "What there is to judge, and how much is judged", ("judge",)),
    ("/v1/judging/query", "The texts of a query's documents, with a judge's grades", ("judge", "query_id")),
]
_REPORTS: list[tuple[str, str, tuple[str, ...]]] = [
    ("/v1/reports", "The audit reports and comparisons there are", ()),
    ("/v1/report", "One of them", ("name",)),
]
_TOLD = {
    "/health": "Whether process and scorer are alive",
    "/ready": "Whether requests may be sent here",
    "/info": "The model, as text-embeddings-inference tells it",
    "/v1/models": "The models that requests may name",
    "/v1/status": "What this server is set up to do",
    "/openapi.json": "This document",
}


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _fault(why: str, schema: Any) -> dict[str, Any]:
    return {"description": why, "content": _json(schema)}


def _allowing(schema: dict[str, Any]) -> dict[str, Any]:
    """A struct's schema. Fields that it does not name are allowed, as they are when it is read."""
    return {key: value for key, value in schema.items() if key != "additionalProperties"}
