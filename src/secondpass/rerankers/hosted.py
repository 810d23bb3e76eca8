"""Hosted: a reranker that runs on somebody else's machine, or on one's own server.

Knows: what is sent to a rerank service, how its answers are read, what becomes of documents where they fail. Refuses to
know: connections and time (`remote`), how services differ (`services`).

    Hosted("cohere", key="…")                                   # rerank-v4.0-fast
    Hosted("tei", url="http://localhost:8080")                  # one's own server

A service that fails costs documents their scores, never their places: the ranking keeps its order, the hits have the
status `failed`, and the trace says why in detail["failed"].
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from secondpass.cascade import reorder
from secondpass.errors import InputError, RemoteError
from secondpass.rerankers.both_stages import BothStages
from secondpass.rerankers.fields import DEFAULT_TEMPLATE, obstacle, renderer
from secondpass.rerankers.remote import Remote, Reply
from secondpass.rerankers.services import Price, Service, as_price, service_named, services
from secondpass.scoring.cache import Cached, Store, open_store
from secondpass.types import NEVER, Deadline, Ranking, Scorer, Scores, StageTrace, Status

__all__ = ["Hosted", "ServiceScorer"]

_BESIDE = 150  # bytes that each document is charged for beside its text and the query's
_BYTES_A_TOKEN = 4  # about; for limits of tokens a minute, before a service has counted them
_SEARCH = 100  # documents of one search, as searches are charged


class Hosted:
    """A reranker behind an HTTP API, see docs/hosted.md. Needs the extra `hosted`.

    Args:
        service: "cohere", "voyage", "jina", "mixedbread", "zeroentropy"; or what runs at `url`: "tei", "vllm",
            "infinity", or "compatible" for whatever answers as Cohere does.
        model: its name there; None: the service's usual one.
        key: the API key. It is sent, and shown nowhere.
        url: another address than the service's own.
        path: another path behind it.
        template: what of a document is sent, see `rerankers.fields`.
        cache: where scores are kept, as for a `CrossEncoder`.
        fuse: how much the first stage's standardised score counts beside the service's, which is 0 to 1 as a rule;
            False: nothing.
        price: what it costs, in place of the table's: a `Price` or its fields.
        timeout_s: seconds for all requests of one call, retries included. Shorter than the caller's deadline, it
            leaves time for another reranker.
        retries, concurrency, per_minute, tokens_per_minute: as for `remote.Remote`; tokens are estimated.
        per_request: documents of a request at most; None: as many as the service takes.
        query_bytes: bytes of a query at most; None: as many as certainly fit, for services that would cut a longer
            one. Longer ones are not sent, and the order stays.
        max_chars: of a document that are sent.

    A probability is never given: what services call relevance is calibrated by nobody.

    Raises InputError for a service, key or number that cannot be meant, MissingExtraError without httpx.
    """

    def __init__(
        self,
        service: str,
        model: str | None = None,
        *,
        key: str | None = None,
        url: str | None = None,
        path: str | None = None,
        template: str = DEFAULT_TEMPLATE,
        cache: int | str | Store | None = None,
        fuse: float = False,
        price: Price | Mapping[str, Any] | None = None,
        timeout_s: float = 10.0,
        retries: int = 2,
        concurrency: int = 4,
        per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        per_request: int | None = None,
        query_bytes: int | None = None,
        max_chars: int = 100_000,
    ) -> None:
        table = service_named(service)
        model = model or table.model
        if not (url or table.url):
            raise InputError(f"{service} runs where you run it; say where with url='http://localhost:8080'")
        if table.key and not (key or url):
            raise InputError(f"{service} wants a key; give it by key=, or to a command in {table.key}")
        if path is not None and not path.startswith("/"):
            raise InputError(f"path is {path!r}; give one that begins with a slash, as '/v1/rerank'")
        if fuse is True:
            raise InputError("a service has no calibration that could weigh the first stage; give a number for fuse")
        if cache is not None and model in table.listwise:
            raise InputError(
                f"the scores of {model} depend on the documents beside, so they cannot be kept; leave cache out"
            )
        for name, value in (("per_request", per_request), ("query_bytes", query_bytes), ("max_chars", max_chars)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"{name} is {value!r}; give a whole number from 1 up")
        own = None if price is None else as_price(price)
        if own is not None and own.unit != table.unit:
            counts = f"counts in units of a {table.unit}" if table.unit else "does not tell what it has used"
            raise InputError(f"price is for a {own.unit}, but {service} {counts}")
        self._render = renderer(template)
        self._both_stages = BothStages(None, fuse)
        store = None if cache is None else open_store(cache)
        self.service, self.model = service, model
        self.scorer = ServiceScorer(
            service,
            table,
            Remote(
                url or table.url,
                key=key,
                timeout_s=timeout_s,
                retries=retries,
                concurrency=concurrency,
                per_minute=per_minute,
                tokens_per_minute=tokens_per_minute,
            ),
            path=table.path if path is None else path,
            model=model,
            price=own or table.price_of(model),
            per_request=per_request or table.per_request,
            query_bytes=query_bytes or table.query_bytes,
            max_chars=max_chars,
        )
        self._asked: Scorer = self.scorer if store is None else Cached(self.scorer, store, self.scorer.identity)

    def __repr__(self) -> str:
        parts = [repr(self.service), *([repr(self.model)] if self.model else [])]
        if self.scorer.remote.url != services()[self.service].url:
            parts.append(f"url={self.scorer.remote.url!r}")
        return f"Hosted({', '.join(parts)})"

    @staticmethod
    def key_variable(options: Mapping[str, Any]) -> str:
        """The environment variable that the key for these options is usually kept in; "" where none is to be sent:
        a service's key goes to its own address, and elsewhere only if it is named."""
        table = services().get(str(options.get("service")))
        return "" if table is None or options.get("url") else table.key

    def score(self, query: str, texts: Sequence[str], *, deadline: Deadline = NEVER) -> Scores:
        """The service's scores for plain texts: the Scorer protocol."""
        return self._asked.score(query, texts, deadline=deadline)

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        """The ranking in the order of the service's scores; what has none keeps its order behind.

        Where no hit got a score and detail["failed"] of the last trace is not empty, the service has failed.
        """
        texts = [self._render(hit.document) for hit in ranking.hits]
        scores = self._asked.score(ranking.query, texts, deadline=deadline)  # type: ignore[arg-type]
        scores, _ = self._both_stages(ranking, scores)
        return Ranking(ranking.query, reorder(ranking, scores), (*ranking.trace, scores.trace), ranking.query_id)

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        self.scorer.remote.close()


_Outcome = tuple[float | None, Status]


@dataclass(slots=True)
class _Told:
    """What the answers of one call have told beside scores."""

    failures: Counter[str] = field(default_factory=Counter)  # why requests gave no score, and how many did not
    odd: Counter[str] = field(default_factory=Counter)  # what was wrong with single results
    attempts: int = 0
    waited_s: float = 0.0
    tokens: int = 0
    units: int = 0
    counted: bool = True  # the service has said what it charges for, in each answer


class ServiceScorer:
    """A service as a Scorer: texts are sent in as many requests as it takes, and what comes back is put together."""

    def __init__(
        self,
        name: str,
        table: Service,
        remote: Remote,
        *,
        path: str,
        model: str | None,
        price: Price | None,
        per_request: int,
        query_bytes: int | None,
        max_chars: int,
    ) -> None:
        self.name, self.remote, self.price = name, remote, price
        self._table, self._path, self._model = table, path, model
        self._per_request, self._query_bytes, self._max_chars = per_request, query_bytes, max_chars

    @property
    def identity(self) -> bytes:
        """All that a score depends on beside the query and the text."""
        return json.dumps([self.name, self.remote.url, self._path, self._model, self._max_chars]).encode()

    def score(self, query: str, texts: Sequence[object], *, deadline: Deadline = NEVER) -> Scores:
        """A score or a reason for each text. What is empty or no text is not sent, and does not fail the others."""
        began, told = time.perf_counter(), _Told()
        asked = _size(query)
        outcomes: list[_Outcome] = [(None, _obstacle(text)) for text in texts]
        whole = self._obstacle_of(query, asked, deadline)
        rows = [i for i, (_, status) in enumerate(outcomes) if status is Status.SCORED]
        if whole is not None:
            for i in rows:
                outcomes[i] = (None, whole)
            rows = []
        sent = {i: str(texts[i])[: self._max_chars] for i in rows}
        batches = self._batches(asked or 0, sent)
        if whole is Status.FAILED:
            told.failures["the query has a lone surrogate, which no JSON carries"] += 1
        bodies = [self._body(query, [sent[i] for i in batch]) for batch in batches]
        tokens = [self._weight(asked or 0, [sent[i] for i in batch]) / _BYTES_A_TOKEN for batch in batches]
        replies = self.remote.post_all(self._path, bodies, deadline=deadline, tokens=tokens) if bodies else []
        for batch, reply in zip(batches, replies, strict=True):
            for i, outcome in zip(batch, self._outcomes(reply, len(batch), told), strict=True):
                outcomes[i] = outcome
        return Scores(
            tuple(value for value, _ in outcomes),
            tuple(status for _, status in outcomes),
            tuple((0, len(sent[i])) if status is Status.SCORED else None for i, (_, status) in enumerate(outcomes)),
            self._trace(began, outcomes, batches, told, sum(len(str(texts[i])) > len(sent[i]) for i in sent)),
        )

    def _obstacle_of(self, query: str, size: int | None, deadline: Deadline) -> Status | None:
        """Why nothing can be scored for this query, if so."""
        if size is None:
            return Status.FAILED
        if self._query_bytes is not None and len(query.encode("utf-8")) > self._query_bytes:
            return Status.QUERY_TOO_LONG
        return Status.DEADLINE if deadline.passed else None

    def _batches(self, asked: int, sent: Mapping[int, str]) -> list[list[int]]:
        """Texts by request, in their order; one that is too large for any has its own."""
        batches: list[list[int]] = []
        room = 0
        for i, text in sent.items():
            weight = self._weight(asked, [text])
            if not batches or len(batches[-1]) == self._per_request or weight > room:
                batches.append([])
                room = self._table.request_bytes
            batches[-1].append(i)
            room -= weight
        return batches

    def _weight(self, asked: int, texts: Sequence[str]) -> int:
        return sum(asked + _BESIDE + (_size(text) or 0) for text in texts)

    def _body(self, query: str, texts: list[str]) -> dict[str, Any]:
        table = self._table
        body: dict[str, Any] = {"query": query, table.documents: texts, **table.extra}
        if table.send_model and self._model:
            body["model"] = self._model
        if table.top:
            body[table.top] = len(texts)
        return body

    def _outcomes(self, reply: Reply | RemoteError, count: int, told: _Told) -> list[_Outcome]:
        """What became of each of a request's documents."""
        told.attempts += reply.attempts
        told.waited_s += reply.waited_s
        if isinstance(reply, RemoteError):
            told.failures[str(reply)] += 1
            return [(None, Status.DEADLINE if reply.kind == "deadline" else Status.FAILED)] * count
        self._count(reply.json, count, told)
        results = _results(reply.json, self._table.results)
        if results is None:
            told.failures[f"{self.name}: the answer has no list of results"] += 1
            return [(None, Status.FAILED)] * count
        found, odd = _read(results, self._table.score, count)
        told.odd += odd
        if not any(status in (Status.SCORED, *_THEIRS) for _, status in found):
            reasons = ", ".join(f"{number} {what}" for what, number in odd.items())
            told.failures[f"{self.name}: the answer scores none of {count} documents ({reasons})"] += 1
        return found

    def _count(self, answer: object, count: int, told: _Told) -> None:
        """What an answer says that it has used."""
        tokens, units = _number(answer, self._table.tokens), _number(answer, self._table.billed)
        told.tokens += tokens or 0
        if self._table.unit == "token":
            told.units += tokens or 0
            told.counted &= tokens is not None
        elif self._table.unit == "search":
            told.units += math.ceil(count / _SEARCH) if units is None else units
            told.counted &= units is not None

    def _trace(
        self, began: float, outcomes: Sequence[_Outcome], batches: Sequence[object], told: _Told, truncated: int
    ) -> StageTrace:
        skipped = Counter(str(status) for _, status in outcomes if status is not Status.SCORED)
        failed = "; ".join(why if number == 1 else f"{number}×: {why}" for why, number in told.failures.most_common(3))
        detail: dict[str, Any] = {
            "service": self.name,
            "model": self._model or "",
            "scores": "relevance",
            "requests": len(batches),
            "attempts": told.attempts,
            "waited_s": float(f"{told.waited_s:.4g}"),
            "failed_requests": sum(told.failures.values()),
        }
        detail |= {"licence": f"terms of {self.name}"} if self._table.key else {}
        detail |= {"failed": failed} if failed else {}
        detail |= {"odd": dict(told.odd)} if told.odd else {}
        detail |= {"billed": self._billed(told)} if self._table.unit else {}
        return StageTrace(
            self.name,
            time.perf_counter() - began,
            pairs_scored=len(outcomes) - sum(skipped.values()),
            tokens=told.tokens,
            padded_tokens=told.tokens,
            truncated=truncated,
            skipped=dict(skipped),
            skipped_because=self._because(skipped, failed),
            detail=detail,
        )

    def _billed(self, told: _Told) -> dict[str, Any]:
        """What this has used, and what that costs where there is a price; `told`: the service itself said how much."""
        used: dict[str, Any] = {"units": told.units, "unit": self._table.unit, "told": told.counted}
        price = self.price
        if price is None or not (told.counted or price.unit == "search"):  # nobody has counted tokens
            return used
        amount = float(f"{told.units * price.amount / price.per:.6g}")
        return used | {"amount": amount, "currency": price.currency, "as_of": price.as_of}

    def _because(self, skipped: Mapping[str, int], failed: str) -> str:
        reasons = {
            str(Status.DEADLINE): "time was up",
            str(Status.QUERY_TOO_LONG): f"the query may be longer than the service takes ({self._query_bytes} bytes)",
            str(Status.EMPTY): "nothing to score in the document",
            str(Status.NOT_TEXT): "the document is not text",
            str(Status.BAD_SCORE): "the service gave no finite number",
            str(Status.FAILED): failed or "the service left them out",
        }
        return "; ".join(f"{count}: {reasons[status]}" for status, count in sorted(skipped.items()))


_THEIRS = (Status.EMPTY, Status.NOT_TEXT, Status.QUERY_TOO_LONG, Status.DEADLINE)
"""What a server of this package says itself of a document; no failure."""


def _size(text: str) -> int | None:
    """Bytes of a text in a body; None for one that cannot stand in any."""
    try:
        return len(json.dumps(text, ensure_ascii=False).encode("utf-8")) - 2
    except UnicodeEncodeError:
        return None


def _obstacle(text: object) -> Status:
    """Why a text cannot be sent; SCORED where nothing is in the way."""
    return obstacle(text) or (Status.SCORED if _size(str(text)) is not None else Status.NOT_TEXT)


def _results(answer: object, names: Sequence[str]) -> list[object] | None:
    for name in names:
        found = answer.get(name) if name and isinstance(answer, dict) else answer
        if isinstance(found, list):
            return found
    return None


def _read(results: Sequence[object], name: str, count: int) -> tuple[list[_Outcome], Counter[str]]:
    """What an answer says of each of `count` documents, whatever is in it, and how often something was wrong."""
    found: dict[int, _Outcome] = {}
    odd: Counter[str] = Counter()
    for result in results:
        index = result.get("index") if isinstance(result, dict) else None
        if type(index) is not int or not 0 <= index < count:
            odd["of no document"] += 1
            continue
        assert isinstance(result, dict)
        outcome = _outcome(result, name)
        if outcome[1] is Status.BAD_SCORE:
            odd["without a number"] += 1
        if found.setdefault(index, outcome) != outcome:
            odd["scored twice"] += 1
            found[index] = (None, Status.BAD_SCORE)
    if len(found) < count:
        odd["missing"] = count - len(found)
    return [found.get(i, (None, Status.FAILED)) for i in range(count)], odd


def _outcome(result: Mapping[str, Any], name: str) -> _Outcome:
    if result.get("scored") is False:  # a server of this package gives all documents numbers, and says which are none
        status = result.get("status")
        return None, Status(status) if status in list(map(str, _THEIRS)) else Status.FAILED
    value = result.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number, Status.SCORED
    return None, Status.BAD_SCORE


def _number(answer: object, way: Sequence[str]) -> int | None:
    """The whole number at the end of the way, if there is one."""
    for name in way:
        answer = answer.get(name) if isinstance(answer, dict) else None
    if way and isinstance(answer, int | float) and not isinstance(answer, bool) and 0 <= answer < 2**53:
        return math.ceil(answer)
    return None
