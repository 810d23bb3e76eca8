"""Listwise: a language model reads many passages at once and names their order.

Knows: what becomes of each document, and what the trace says. Refuses to know: the prompt (`listwise_prompt`), which
passages are shown together (`listwise_windows`), connections (`remote`), and whose model it is (`chat`).

    Listwise("gpt-4.1-mini", key="…")
    Listwise("qwen", url="http://localhost:8000/v1", method="top-down")
"""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from secondpass.cascade import unscored
from secondpass.errors import InputError, RemoteError
from secondpass.rerankers import chat
from secondpass.rerankers.fields import DEFAULT_TEMPLATE, obstacle, renderer
from secondpass.rerankers.listwise_prompt import Passage, messages, passage, read_answer
from secondpass.rerankers.listwise_windows import sliding, sliding_calls, top_down
from secondpass.rerankers.remote import Remote, Reply
from secondpass.types import NEVER, Deadline, Ranking, StageTrace, Status

__all__ = ["Listwise", "Method"]

Method = Literal["sliding", "top-down"]
_OPTIONAL = ("temperature", "max_tokens")
_TOKENS = (16, 64)  # that an answer may have: for each passage, and beside them
_LETTERS_A_TOKEN = 4  # about; for limits of tokens a minute, before the service has counted them


class Listwise:
    """A reranker over any chat endpoint in the shape of OpenAI's, see docs/listwise.md. Needs the extra `hosted`.

    Args:
        model: its name there.
        url: where the endpoint is, up to `/chat/completions`; without it OpenAI's.
        key: the API key. It is sent, and shown nowhere.
        method: "sliding" (from the back to the front), or "top-down"; see `listwise_windows`.
        window, stride: passages that are shown at once, and how far a sliding window moves.
        words: of a passage that are shown.
        template: what of a document is shown, see `rerankers.fields`.
        price: what a million tokens cost, a `chat.ChatPrice` or its fields; without it what the table has.
        extra: more fields of the requests, or other values for ours.
        without: which of ours are left out, of "temperature" (0) and "max_tokens"; some models refuse them.
        timeout_s: seconds for the requests that are under way at the same time, retries included.
        retries, concurrency, per_minute, tokens_per_minute: as for `remote.Remote`; tokens are estimated.

    A model names places, and nothing that could be compared: the score of a hit is minus its place, and there is no
    probability. A score is given to what was in a window that the model has ordered, even where time was up before all
    were: the order so far is kept, and what the model never saw has the status `deadline` at the place that it had.

    Raises InputError for what cannot be meant, MissingExtraError without httpx.
    """

    def __init__(
        self,
        model: str,
        *,
        url: str = chat.OPENAI,
        key: str | None = None,
        method: Method = "sliding",
        window: int = 20,
        stride: int = 10,
        words: int = 300,
        template: str = DEFAULT_TEMPLATE,
        price: chat.ChatPrice | Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        without: Sequence[str] = (),
        timeout_s: float = 60.0,
        retries: int = 2,
        concurrency: int = 4,
        per_minute: float | None = None,
        tokens_per_minute: float | None = None,
    ) -> None:
        self.remote = Remote(
            url,
            key=key,
            timeout_s=timeout_s,
            retries=retries,
            concurrency=concurrency,
            per_minute=per_minute,
            tokens_per_minute=tokens_per_minute,
        )
        if not isinstance(model, str) or not model:
            raise InputError(f"model is {model!r}; give the name of a model that the endpoint has")
        if self.remote.url == chat.OPENAI and not key:
            raise InputError("OpenAI wants a key; give it by key=, or give the url= of another endpoint")
        if method not in get_args(Method):
            raise InputError(f"method is {method!r}; known are {' and '.join(map(repr, get_args(Method)))}")
        for name, value, least in (("window", window, 2), ("stride", stride, 1), ("words", words, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name} is {value!r}; give a whole number from {least} up")
        if method == "sliding" and stride >= window:
            raise InputError(f"stride is {stride} and window {window}; a window has to overlap the one before it")
        if isinstance(without, str) or not set(without) <= set(_OPTIONAL):
            raise InputError(f"without is {without!r}; name any of {', '.join(map(repr, _OPTIONAL))}, in a list")
        if extra and not extra.keys().isdisjoint(("model", "messages", "stream")):
            raise InputError("extra holds model, messages or stream, which are not to be set; leave them out")
        try:
            json.dumps(extra, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"extra is no JSON ({error}); it goes into the requests as it is") from error
        self._render = renderer(template)
        self.model, self.method, self.window, self.stride, self.words = model, method, window, stride, words
        self.price = chat.price_of(self.remote.url, model) if price is None else chat.as_chat_price(price)
        self._fields: dict[str, Any] = {"extra": dict(extra or {}), "without": tuple(without)}
        self._concurrency = concurrency

    def __repr__(self) -> str:
        where = "" if self.remote.url == chat.OPENAI else f", url={self.remote.url!r}"
        return f"Listwise({self.model!r}{where})"

    @staticmethod
    def key_variable(options: Mapping[str, Any]) -> str:
        """The environment variable that the key for these options is usually kept in; "" where none is to be sent."""
        return "" if options.get("url") else "OPENAI_API_KEY"

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        """The ranking in the order that the model names. What it was not shown, because it is empty or no text, keeps
        its order behind."""
        began = time.perf_counter()
        texts = [self._render(hit.document) for hit in ranking.hits]
        statuses = [obstacle(text) for text in texts]
        shown = {i: passage(str(texts[i]), self.words) for i, status in enumerate(statuses) if status is None}
        asking = _Asking(self, ranking.query, shown, deadline)
        order = list(shown)
        if len(order) > 1:
            size = {"window": self.window, "stride": self.stride}
            with suppress(_Ended):
                if self.method == "sliding":
                    sliding(order, asking, **size)
                else:  # twice what sliding costs, whatever the model says
                    top_down(order, asking, window=self.window, most=2 * sliding_calls(len(order), **size))
        elif not deadline.passed:
            asking.ordered.update(order)  # one alone is in order
        else:
            asking.ended = Status.DEADLINE
        hits = []
        for place, i in enumerate([*order, *(i for i, status in enumerate(statuses) if status is not None)], 1):
            status = statuses[i] or asking.status(i)
            hit = unscored(ranking.hits[i], status)
            if status is Status.SCORED:
                hit = replace(hit, score=-float(place), span=shown[i].span)
            hits.append(hit)
        skipped = Counter(str(hit.status) for hit in hits if hit.status is not Status.SCORED)
        trace = asking.trace(time.perf_counter() - began, skipped)
        return Ranking(ranking.query, tuple(hits), (*ranking.trace, trace), ranking.query_id)

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        self.remote.close()


class _Ended(Exception):
    """No more windows are asked for."""


@dataclass(slots=True)
class _Asking:
    """The windows of one request: they are asked for here, and what came of them is kept."""

    listwise: Listwise
    query: str
    shown: Mapping[int, Passage]
    deadline: Deadline
    ended: Status | None = None  # why no more is asked: DEADLINE or FAILED
    ordered: set[int] = field(default_factory=set)  # what was in a window that the model has ordered
    lost: set[int] = field(default_factory=set)  # what was in one that came to nothing
    calls: int = 0
    attempts: int = 0
    waited_s: float = 0.0
    tokens: list[int] = field(default_factory=lambda: [0, 0])  # of prompts, and of answers
    told: bool = True  # every call has said what it used
    mended: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def __call__(self, windows: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """Each window in the order that the model names, or as it was. Raises _Ended once no more is to be asked."""
        if self.ended is not None:
            raise _Ended
        found: list[Sequence[int]] = []
        step = self.listwise._concurrency
        for at in range(0, len(windows), step):
            found += self._some(windows[at : at + step])
        return found

    def _some(self, windows: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        """The same for windows that are asked for at the same time."""
        if self.ended is None and self.deadline.passed:
            self.ended = Status.DEADLINE
        if self.ended is not None:
            return windows
        asked = [self._body(window) for window in windows]
        tokens = [sum(len(one["content"]) for one in body["messages"]) / _LETTERS_A_TOKEN for body in asked]
        replies = self.listwise.remote.post_all(chat.PATH, asked, deadline=self.deadline, tokens=tokens)
        return [self._order(window, reply) for window, reply in zip(windows, replies, strict=True)]

    def _body(self, window: Sequence[int]) -> dict[str, Any]:
        lines = [self.shown[i].line for i in window]
        each, more = _TOKENS
        return chat.body(
            self.listwise.model,
            messages(self.query, lines, secrets.token_hex(8)),
            most_tokens=each * len(window) + more,
            **self.listwise._fields,
        )

    def _order(self, window: Sequence[int], reply: Reply | RemoteError) -> Sequence[int]:
        self.calls += 1
        self.attempts += reply.attempts
        self.waited_s += reply.waited_s
        if isinstance(reply, RemoteError):
            self.told = False
            late = reply.kind == "deadline"
            self.ended = self.ended or (Status.DEADLINE if late else Status.FAILED)
            if not late:
                self.failures[str(reply)] += 1
                self.lost.update(window)
            return window
        said = chat.said(reply.json)
        for position, count in enumerate((said.prompt_tokens, said.completion_tokens)):
            self.tokens[position] += count or 0
            self.told &= count is not None
        answer = None if said.text is None else read_answer(said.text, len(window))
        if answer is None:
            why = "has no text" if said.text is None else "names none of the passages"
            self.failures[f"{self.listwise.model}: the answer {why}"] += 1
            self.lost.update(window)
            return window
        self.ordered.update(window)
        self.mended.update(missing=answer.missing, doubled=answer.doubled, unknown=answer.unknown, loose=answer.loose)
        return [window[place] for place in answer.order]

    def status(self, i: int) -> Status:
        """What became of a document that could be shown."""
        if i in self.ordered:
            return Status.SCORED
        if i in self.lost:
            return Status.FAILED
        return self.ended or Status.BEYOND_DEPTH  # more windows than top_down may ask for

    def trace(self, seconds: float, skipped: Mapping[str, int]) -> StageTrace:
        failed = "; ".join(why if n == 1 else f"{n}×: {why}" for why, n in self.failures.most_common(3))
        reasons = {
            Status.DEADLINE: "time was up",
            Status.EMPTY: "nothing to show of the document",
            Status.NOT_TEXT: "the document is not text",
            Status.FAILED: failed,
            Status.BEYOND_DEPTH: "more windows than may be asked for",
        }
        listwise = self.listwise
        detail: dict[str, Any] = {
            "model": listwise.model,
            "method": listwise.method,
            "words": listwise.words,
            "calls": self.calls,
            "attempts": self.attempts,
            "waited_s": float(f"{self.waited_s:.4g}"),
            "billed": self._billed(),
        }
        detail |= {"failed": failed} if failed else {}
        detail |= {"mended": mended} if (mended := {name: n for name, n in self.mended.items() if n}) else {}
        return StageTrace(
            "listwise",
            seconds,
            pairs_scored=len(self.ordered),
            tokens=self.tokens[0],
            padded_tokens=self.tokens[0],
            truncated=sum(self.shown[i].cut for i in self.ordered),
            skipped=skipped,
            skipped_because="; ".join(f"{n}: {reasons[Status(status)]}" for status, n in sorted(skipped.items())),
            detail=detail,
        )

    def _billed(self) -> dict[str, Any]:
        """The tokens that the answers have told, and what they cost where there is a price."""
        prompt, completion = self.tokens
        used: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion, "told": self.told}
        if (price := self.listwise.price) is None:
            return used
        amount = float(f"{(prompt * price.prompt + completion * price.completion) / 1e6:.6g}")
        return used | {"amount": amount, "currency": price.currency, "as_of": price.as_of}
