"""sentence-transformers: a CrossEncoder that is in memory already, as a reranker and a Scorer.

Knows: how such an object is asked, and what it would cut. Refuses to know: how it computes. Nothing is imported: who
has the object has the library. The other way round, `secondpass.CrossEncoder` has its `predict` and `rank`.

    Cascade(BM25.open("index"), Stage(LiveCrossEncoder(model), depth=50, budget_ms=500))

A folder is better opened by `secondpass.CrossEncoder(folder)`: the same scores, deadlines held within a batch, no
torch. This is for what is not a folder: a model in training, one changed by hand, one of no family that we know.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from secondpass.cascade import reorder, stage_name
from secondpass.errors import InputError
from secondpass.rerankers.fields import DEFAULT_TEMPLATE, obstacle, renderer
from secondpass.scoring.pair_scorer import because
from secondpass.types import NEVER, Deadline, Ranking, Scores, StageTrace, Status

__all__ = ["LiveCrossEncoder"]

_LONGEST = 1 << 20  # tokens of a pair, for tokenizers that state no limit
_PROBE = ("which pair is this", "one of a query and a text, to see how they are laid out")


class _Read(NamedTuple):
    """What of a pair the model reads: its tokens, how many did not fit, and how far in characters the text is read."""

    tokens: int
    cut: int
    end: int


class LiveCrossEncoder:
    """A reranker on a sentence-transformers CrossEncoder.

    Args:
        model: the CrossEncoder, with one label.
        template: what of a document is scored, see `rerankers.fields`.
        batch_size: pairs that are computed at once; a deadline is looked at between batches.

    Scores are logits, before the model's activation. A pair that is too long loses the end of its text, which the trace
    counts. The library shortens whichever side is longer, so a query of more than half of the model's length could be
    cut, too: it gets the status `query_too_long` instead. One thread computes at a time, the others wait.

    Raises InputError for an object that is no such model, or one that lays a pair out by a prompt of its own.
    """

    def __init__(self, model: Any, *, template: str = DEFAULT_TEMPLATE, batch_size: int = 32) -> None:
        if not (callable(getattr(model, "predict", None)) and callable(getattr(model, "preprocess", None))):
            raise InputError(
                f"model is a {type(model).__name__}; give a CrossEncoder of sentence-transformers 6 or later"
            )
        if model.num_labels != 1:
            raise InputError(f"the model has {model.num_labels} labels; a reranker has one, the score")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"batch_size is {batch_size!r}; give a whole number of pairs from 1 up")
        tokenizer = model.tokenizer
        if not getattr(tokenizer, "is_fast", False):
            raise InputError("the model's tokenizer does not tell where tokens stand in a text; a fast one is needed")
        length = min(model.max_seq_length or _LONGEST, _LONGEST)
        long = (_PROBE[0], f"{_PROBE[1]} " * min(length, 1000))
        expected = tokenizer(*long, truncation="longest_first", max_length=length, verbose=False)["input_ids"]
        laid_out = model.preprocess([list(long)])["input_ids"][0].tolist()
        if model.default_prompt_name is not None or laid_out != expected:
            raise InputError(
                "the model lays a pair out in a way of its own, so what it would cut cannot be told; open its folder "
                "by secondpass.CrossEncoder instead"
            )
        self.model = model
        self.batch_size = batch_size
        self.max_length = length
        self.query_limit = (length - tokenizer.num_special_tokens_to_add(pair=True)) // 2
        self._render = renderer(template)
        self._computing = threading.Lock()  # the library's tokenizers fail where two threads use one

    def __repr__(self) -> str:
        return f"LiveCrossEncoder({self._name!r})"

    def score(self, query: str, texts: Sequence[str], *, deadline: Deadline = NEVER) -> Scores:
        """Logits for plain texts: the Scorer protocol. Under a deadline the texts are taken in their order."""
        began = time.perf_counter()
        statuses = [obstacle(text) or Status.DEADLINE for text in texts]
        rows = [i for i, status in enumerate(statuses) if status is Status.DEADLINE]
        scored: Mapping[int, tuple[float, _Read]] = {}
        seconds = deadline.remaining()
        if rows and self._computing.acquire(timeout=-1 if seconds == math.inf else min(seconds, threading.TIMEOUT_MAX)):
            try:
                if self._tokens(query) <= self.query_limit:
                    scored = self._computed(query, {i: texts[i] for i in rows}, deadline)
                else:
                    statuses = [Status.QUERY_TOO_LONG if i in rows else status for i, status in enumerate(statuses)]
            finally:
                self._computing.release()
        for i, (logit, _) in scored.items():
            statuses[i] = Status.SCORED if math.isfinite(logit) else Status.BAD_SCORE
        good = {i: row for i, row in scored.items() if statuses[i] is Status.SCORED}
        skipped = Counter(str(status) for status in statuses if status is not Status.SCORED)
        reads = [read for _, read in scored.values()]
        trace = StageTrace(
            name=stage_name(self),
            seconds=time.perf_counter() - began,
            pairs_scored=len(good),
            tokens=sum(read.tokens for read in reads),
            truncated=sum(read.cut > 0 for read in reads),
            cut_tokens=sum(read.cut for read in reads),
            skipped=dict(skipped),
            skipped_because=because(skipped, self.query_limit),
            detail={
                "model": self._name,
                "engine": "sentence-transformers",
                "device": str(self.model.device),
                "max_length": self.max_length,
                "query_limit": self.query_limit,
            },
        )
        values = tuple(good[i][0] if i in good else None for i in range(len(texts)))
        spans = tuple((0, good[i][1].end) if i in good else None for i in range(len(texts)))
        return Scores(values, tuple(statuses), spans, trace)

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        """The ranking in the order of the model's logits; what was not scored keeps its order behind."""
        texts = [self._render(hit.document) for hit in ranking.hits]
        scores = self.score(ranking.query, texts, deadline=deadline)  # type: ignore[arg-type]
        return Ranking(ranking.query, reorder(ranking, scores), (*ranking.trace, scores.trace), ranking.query_id)

    @property
    def _name(self) -> str:
        return str(getattr(self.model.model.config, "_name_or_path", "") or type(self.model).__name__)

    def _tokens(self, query: str) -> int:
        return len(self.model.tokenizer(_encodable(query), add_special_tokens=False, verbose=False)["input_ids"])

    def _computed(self, query: str, texts: Mapping[int, str], deadline: Deadline) -> dict[int, tuple[float, _Read]]:
        """Of each text the logit and what was read of it, as far as the deadline allows."""
        done: dict[int, tuple[float, _Read]] = {}
        asked, rows = _encodable(query), list(texts)
        # without a deadline all at once: the library sorts them by length, which saves padding
        size = self.batch_size if deadline.at is not None or deadline.caller is not None else len(rows)
        for start in range(0, len(rows), size):
            if deadline.passed:
                break
            batch = rows[start : start + size]
            pairs = [[asked, _encodable(texts[i])] for i in batch]
            reads = self._reads(asked, [text for _, text in pairs])
            logits = self.model.predict(
                pairs, batch_size=self.batch_size, activation_fn=_as_they_are, show_progress_bar=False
            )
            done |= dict(zip(batch, zip(logits.tolist(), reads, strict=True), strict=True))
        return done

    def _reads(self, query: str, texts: Sequence[str]) -> list[_Read]:
        tokenizer = self.model.tokenizer.backend_tokenizer  # without the lists that the other one makes of each text
        tokenizer.no_truncation()  # the library sets what it needs before each use
        tokenizer.no_padding()
        reads = []
        for text, pair in zip(texts, tokenizer.encode_batch([(query, text) for text in texts]), strict=True):
            cut, end = max(len(pair) - self.max_length, 0), len(text)
            if cut:
                sides = pair.sequence_ids
                end = pair.offsets[sides.index(1) + sides.count(1) - cut - 1][
                    1
                ]  # of the text's last token that is read
            reads.append(_Read(len(pair) - cut, cut, end))
        return reads


def _as_they_are(scores: Any) -> Any:
    return scores


def _encodable(text: str) -> str:
    """The text, with the replacement character for each lone surrogate, which no tokenizer takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
