"""The rerank APIs that clients already speak: what each reads of a body, and what it answers.

Knows: the formats of Cohere (v1, v2), Voyage, Mixedbread, ZeroEntropy, Jina, text-embeddings-inference and vLLM.
Refuses to know: HTTP, models, scheduling. All are read into one `Asked` and written from one `Answer`.

One body answers all but two of them: it has Cohere's `results` and Voyage's `data` beside each other, and clients
ignore what they do not know. Unknown fields of a request are ignored as well, so that newer clients still work.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from secondpass.errors import InputError
from secondpass.types import Document, Hit, Ranking, StageTrace, Status

__all__ = ["FORMATS", "Answer", "Asked", "Format", "GoOn", "are_relevances", "failure", "read", "relevances", "step"]

Count = Annotated[int, msgspec.Meta(ge=1)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0.0)]
GoOn = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]
Documents = list[Any]  # a text or an object each; anything else costs that document its score, and nobody else


class _Asks(msgspec.Struct):
    """What every format may carry beside its own fields: `deadline_ms`, after which the best ranking there is by then
    is the answer."""

    deadline_ms: Milliseconds | None = None


class CohereV2(_Asks, kw_only=True):
    """Cohere's `POST /v2/rerank`. Its priority is checked and not followed: every key has its share."""

    query: str
    documents: Documents
    model: str | None = None
    top_n: Count | None = None
    max_tokens_per_doc: Count | None = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=999)] = 0
    return_documents: bool = False
    rank_fields: list[str] | None = None


class Rerank(_Asks, kw_only=True):
    """`POST /v1/rerank` of Cohere v1, Jina, vLLM and Infinity, and of Voyage (`top_k`); also `/rerank`. Our own is
    `go_on`: which share of the documents passes the upper layers of a model that can stop early."""

    query: str
    documents: Documents
    model: str | None = None
    top_n: Count | None = None
    top_k: Count | None = None
    return_documents: bool | None = None
    rank_fields: list[str] | None = None
    max_chunks_per_doc: Count | None = None
    max_tokens_per_doc: Count | None = None
    truncation: bool | None = None
    go_on: GoOn | None = None


class Mixedbread(_Asks, kw_only=True):
    """Mixedbread's `POST /v1/reranking`."""

    query: str
    input: Documents
    model: str | None = None
    rank_fields: list[str] | None = None
    top_k: Count | None = None
    return_input: bool | None = None


class ZeroEntropy(_Asks, kw_only=True):
    """ZeroEntropy's `POST /v1/models/rerank`."""

    query: str
    documents: Documents
    model: str | None = None
    top_n: Count | None = None
    latency: str | None = None


class TextEmbeddingsInference(_Asks, kw_only=True):
    """text-embeddings-inference's `POST /rerank`. Texts are always cut to what the model reads."""

    query: str
    texts: Documents
    truncate: bool | None = None
    truncation_direction: str | None = None
    raw_scores: bool = False
    return_text: bool = False


class VLLMScore(_Asks, kw_only=True):
    """vLLM's `POST /score`: one text against one or several others, or as many against as many."""

    text_1: str | list[str] | None = None
    text_2: str | list[str] | None = None
    queries: str | list[str] | None = None
    documents: str | list[str] | None = None
    model: str | None = None
    truncate_prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for, whatever its format. `documents` have their positions for ids.

    top: how many results are wanted (None: all). echo: whether texts go back. raw: logits in place of relevance.
    """

    query: str
    documents: tuple[Document, ...]
    model: str | None = None
    top: int | None = None
    deadline_ms: float | None = None
    echo: bool = False
    raw: bool = False
    go_on: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request: its ranking, its id, the model's name, the seconds it took in all."""

    ranking: Ranking
    id: str
    model: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Format:
    """One API: its name, what its bodies are decoded to, how that is read, and how an answer is written."""

    name: str
    body: type[msgspec.Struct]
    asked: Callable[[Any], Asked]
    written: Callable[[Asked, Answer, Any], Any]


def documents_of(items: Sequence[Any], fields: Sequence[str] | None = None) -> tuple[Document, ...]:
    """Documents with their positions for ids. Of an object `text` and `title` are read, or the fields named, a line
    each; what is neither text nor object stays as it is, and gets the status of that."""

    def one(i: int, item: Any) -> Document:
        if not isinstance(item, dict):
            return Document(str(i), item)
        if fields:
            text = "\n".join(str(item[name]) for name in fields if item.get(name) is not None)
            return Document(str(i), text, metadata=_named(item))
        title = item.get("title")
        return Document(str(i), item.get("text", ""), title if isinstance(title, str) else "", _named(item))

    return tuple(one(i, item) for i, item in enumerate(items))


def _named(item: Mapping[str, Any]) -> dict[str, str]:
    """The id that a client gave a document, for the log of requests."""
    return {"id": str(item["id"])} if isinstance(item.get("id"), str | int) else {}


def relevances(hits: Sequence[Hit], *, raw: bool = False, given: bool = False) -> list[float]:
    """A number for each hit of a ranking, never rising: P(relevant) where there is one, else the sigmoid of the score;
    or the score itself, where that is wanted (`raw`), or where it is one already (`given`; within 0 and 1). What was
    not scored follows below the lowest that was, further down each."""
    scored = [hit.status is Status.SCORED for hit in hits]
    values: list[float] = []
    for hit, known in zip(hits, scored, strict=True):
        if known:
            values.append(_score_of(hit) if raw else min(max(_score_of(hit), 0.0), 1.0) if given else _relevance(hit))
    left = len(hits) - len(values)
    lowest = min(values, default=0.0 if raw else 1e-6)
    step = 1.0 if raw else lowest / (left + 1)
    found = iter(values)
    below = iter([lowest - (k + 1) * step for k in range(left)])
    return [next(found if known else below) for known in scored]


def are_relevances(trace: StageTrace) -> bool:
    """Whether the scores of the stage are relevances, as those of services are where nothing was added to them."""
    added = trace.detail.get("fused", {}).get("weight")
    return trace.detail.get("scores") == "relevance" and not added


def _relevances(ranking: Ranking, *, raw: bool = False) -> list[float]:
    return relevances(ranking.hits, raw=raw, given=are_relevances(ranking.trace[-1]))


def _relevance(hit: Hit) -> float:
    if hit.probability is not None:
        return float(hit.probability)
    return 1.0 / (1.0 + math.exp(-min(max(_score_of(hit), -700.0), 700.0)))


def _score_of(hit: Hit) -> float:
    if hit.score is None:
        raise ValueError(f"document {hit.document.id} is said to be scored and has no score")
    return float(hit.score)


def _cohere_v2(body: CohereV2) -> Asked:
    return Asked(
        body.query,
        documents_of(body.documents, body.rank_fields),
        model=body.model,
        top=body.top_n,
        deadline_ms=body.deadline_ms,
        echo=body.return_documents,
    )


def _rerank(body: Rerank) -> Asked:
    return Asked(
        body.query,
        documents_of(body.documents, body.rank_fields),
        model=body.model,
        top=body.top_n or body.top_k,
        deadline_ms=body.deadline_ms,
        echo=bool(body.return_documents),
        go_on=body.go_on,
    )


def _mixedbread(body: Mixedbread) -> Asked:
    return Asked(
        body.query,
        documents_of(body.input, body.rank_fields),
        model=body.model,
        top=body.top_k,
        deadline_ms=body.deadline_ms,
        echo=bool(body.return_input),
    )


def _zeroentropy(body: ZeroEntropy) -> Asked:
    return Asked(
        body.query, documents_of(body.documents), model=body.model, top=body.top_n, deadline_ms=body.deadline_ms
    )


def _tei(body: TextEmbeddingsInference) -> Asked:
    if not body.texts:
        raise InputError("texts is empty; give at least one")
    return Asked(
        body.query, documents_of(body.texts), deadline_ms=body.deadline_ms, echo=body.return_text, raw=body.raw_scores
    )


def _report(answer: Answer) -> dict[str, Any]:
    """What is told of the request beside its scores; clients that do not know it skip it."""
    hits, trace = answer.ranking.hits, answer.ranking.trace[-1]
    left = {hit.document.id: str(hit.status) for hit in hits if hit.status is not Status.SCORED}
    return {
        "scored": len(hits) - len(left),
        "not_scored": left,
        "because": trace.skipped_because,
        "truncated": trace.truncated,
        "digest": trace.detail.get("digest"),
        "seconds": round(answer.seconds, 6),
        "trace": [step(one, answer.model) for one in answer.ranking.trace[-1:]],
    }


def step(trace: StageTrace, name: str) -> dict[str, Any]:
    """What one stage did, for an answer, by the name that requests know it by. `parts`: seconds by what they went into,
    of workers added up; so they may be more than `seconds`."""
    detail = trace.detail
    cost = detail.get("cost", {})
    parts = {"wait": "waited_s", "tokenize": "tokenize_s", "inference": "measured_s"}
    return {
        "name": name,
        "seconds": trace.seconds,
        "scored": trace.pairs_scored,
        "skipped": {str(status): count for status, count in trace.skipped.items() if count},
        "because": trace.skipped_because,
        "truncated": trace.truncated,
        "tokens": trace.tokens,
        "parts": {name: cost[key] for name, key in parts.items() if key in cost},
        "engine": str(detail.get("engine", "")),
        "precision": str(detail.get("precision", "")),
        "exits": dict(detail.get("exits", {})),
        "removed": detail.get("removed", {}),
    }


def _warnings(asked: Asked, answer: Answer) -> list[str]:
    trace = answer.ranking.trace[-1]
    told = [trace.skipped_because] if trace.skipped_because else []
    if asked.model not in (None, "", answer.model):
        told.append(f"there is no model of the name asked for here; {answer.model} answered")
    if trace.truncated:
        told.append(f"{trace.truncated} documents were longer than the model reads and are scored by their beginning")
    language = trace.detail.get("language")
    return [*told, str(language)] if language else told


def _body(asked: Asked, answer: Answer, request: Any) -> dict[str, Any]:
    """The one body for all that read `results` or `data`, best first."""
    hits = answer.ranking.hits
    tokens = answer.ranking.trace[-1].tokens
    results, data = [], []
    for hit, relevance in list(zip(hits, _relevances(answer.ranking), strict=True))[: asked.top]:
        index, text = int(hit.document.id), hit.document.text
        one: dict[str, Any] = {"index": index, "relevance_score": relevance}
        if hit.status is not Status.SCORED:
            one |= {"scored": False, "status": str(hit.status)}
        echo = asked.echo and isinstance(text, str)
        results.append(one | ({"document": {"text": text}} if echo else {}))
        data.append(
            one | {"score": relevance, "object": "rank_result"} | ({"document": text, "input": text} if echo else {})
        )
    warnings = _warnings(asked, answer)
    return {
        "id": answer.id,
        "object": "list",
        "model": answer.model,
        "results": results,
        "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"search_units": 1},
            **({"warnings": warnings} if warnings else {}),
        },
        "report": _report(answer),
    }


def _mixedbread_body(asked: Asked, answer: Answer, request: Mixedbread) -> dict[str, Any]:
    count = len(answer.ranking.hits)
    return _body(asked, answer, request) | {"top_k": asked.top or count, "return_input": asked.echo}


def _zeroentropy_body(asked: Asked, answer: Answer, request: ZeroEntropy) -> dict[str, Any]:
    size = sum(len(str(document.text).encode()) for document in asked.documents) + len(asked.query.encode())
    trace = answer.ranking.trace[-1]
    return _body(asked, answer, request) | {
        "actual_latency_mode": "fast",
        "e2e_latency": answer.seconds,
        "inference_latency": trace.seconds,
        "total_bytes": size,
        "total_tokens": trace.tokens,
    }


def _tei_body(asked: Asked, answer: Answer, request: TextEmbeddingsInference) -> list[dict[str, Any]]:
    hits = answer.ranking.hits
    return [
        {"index": int(hit.document.id), "score": score}
        | ({} if hit.status is Status.SCORED else {"scored": False, "status": str(hit.status)})
        | ({"text": hit.document.text} if asked.echo and isinstance(hit.document.text, str) else {})
        for hit, score in zip(hits, _relevances(answer.ranking, raw=asked.raw), strict=True)
    ]


def _score(body: VLLMScore) -> Asked:
    query, texts = body.text_1 or body.queries, body.text_2 or body.documents
    if isinstance(query, list) and len(query) == 1:
        query = query[0]
    if not isinstance(query, str) or texts is None:
        raise InputError("text_1 is one text, text_2 one or several; several with several are not answered here")
    return Asked(
        query,
        documents_of([texts] if isinstance(texts, str) else texts),
        model=body.model,
        deadline_ms=body.deadline_ms,
    )


def _score_body(asked: Asked, answer: Answer, request: VLLMScore) -> dict[str, Any]:
    hits, tokens = answer.ranking.hits, answer.ranking.trace[-1].tokens
    by_index = {int(hit.document.id): value for hit, value in zip(hits, _relevances(answer.ranking), strict=True)}
    return {
        "id": answer.id,
        "object": "list",
        "created": int(time.time()),
        "model": answer.model,
        "data": [{"index": i, "object": "score", "score": by_index[i]} for i in sorted(by_index)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


FORMATS = {
    "score": Format("score", VLLMScore, _score, _score_body),
    "cohere": Format("cohere", CohereV2, _cohere_v2, _body),
    "rerank": Format("rerank", Rerank, _rerank, _body),
    "mixedbread": Format("mixedbread", Mixedbread, _mixedbread, _mixedbread_body),
    "zeroentropy": Format("zeroentropy", ZeroEntropy, _zeroentropy, _zeroentropy_body),
    "tei": Format("tei", TextEmbeddingsInference, _tei, _tei_body),
}


def read(form: Format, raw: bytes) -> tuple[Asked, Any]:
    """What a body asks for, and the body as decoded. Raises InputError, saying where it cannot be meant."""
    try:
        body = msgspec.json.decode(raw, type=form.body)
    except msgspec.ValidationError as error:
        raise InputError(str(error)) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InputError(f"the body is not valid JSON: {error}") from error
    return form.asked(body), body


def failure(message: str, kind: str) -> dict[str, Any]:
    """The body of an error, as every client looks for it."""
    return {"message": message, "detail": message, "error": message, "error_type": kind}
