"""CrossEncoder: the reranker that most people mean by the word.

Knows: rankings, and a PairScorer to ask. Refuses to know: tokens, engines, batches.
`predict` and `rank` behave as sentence-transformers' do, so that it drops in there.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import platformdirs
from numpy.typing import NDArray

from secondpass.cascade import reorder
from secondpass.errors import InputError, ModelError
from secondpass.rerankers.adaptive import AdaptiveDepth
from secondpass.rerankers.both_stages import BothStages
from secondpass.rerankers.fields import DEFAULT_TEMPLATE, renderer
from secondpass.scoring.cache import Cached, Store, open_store
from secondpass.scoring.checkpoint import open_checkpoint
from secondpass.scoring.copies import Uncopied
from secondpass.scoring.language import language_detail, noted
from secondpass.scoring.pair_scorer import PairScorer, open_scorer
from secondpass.scoring.probability import read_calibration
from secondpass.scoring.tokens import KEEP_BYTES
from secondpass.scoring.windows import Pooling, Windowed
from secondpass.types import NEVER, Deadline, Document, Ranking, Scorer, Scores, Status

__all__ = ["CrossEncoder"]


class CrossEncoder:
    """A cross-encoder, on the CPU without torch, on a GPU with it.

    Args:
        model: a shipped name, a folder, or a Hugging Face hub name (with `@revision` where it is to be pinned).
        family: how a pair is laid out and a score read off, by its name in the catalog, where a folder does not say:
            a yes/no language model ranks only by the prompt it was trained with.
        instruction: what such a prompt asks, in place of the published words.
        allow: what is refused otherwise: "licence" (of a hub model whose licence is not known to allow commercial use),
            "pickle" (weights in a format that could run code; only tensors are read), "remote-code".
        device: "cpu", or with the extra `torch` "cuda", "cuda:1", "mps".
        profile: "default" (bf16 where the CPU has it, else fp32), "exact" (fp32), or "fast" (int8).
        engine: "auto", "openvino", or "onnxruntime" (the portable fallback), or "torch", which is
            what runs on all devices but the CPU.
        threads: cores to use; None: all that this process may run on.
        max_length: tokens of the whole pair; None: what the checkpoint says. The query may take three
            quarters of it and is never cut.
        template: what of a document is scored, see `rerankers.fields`.
        batch_tokens: padded tokens a batch at most; None: what suits the engine.
        keep_tokens: bytes of memory for the tokens of documents seen before, so that none is tokenized twice; 0: none.
        keep_documents: for a split encoder on the CPU: bytes of memory for what its lower layers made of documents seen
            before, so that no query has them read again, see `read`; 0: none. Some 770 bytes a token. A document is
            then read as far as fits beside a query of 32 tokens, so scores of longer ones differ a little.
        cache_dir: where built graphs are kept; None: the user's cache folder.
        cache: where scores are kept: bytes of memory, "redis://…" (extra `redis`), or a `scoring.cache.Store`;
            None: nowhere.
        windows: score long documents by at most so many windows, picked by the query's words, see
            `scoring.windows`; None: by their beginning, as much as fits into `max_length`.
        overlap: what neighbouring windows share, as a share of their tokens.
        pooling: a document's score from its windows': "max", "mean", or "first" (the beginning alone).
        discount_copies: give a text that holds the query word for word (of four words or more) the lower score of the
            text with and without it, see `scoring.copies`.
        go_on: for a split encoder: the share of a ranking's documents (at least 20), the best by the head after its
            lower layers and by their first rank, that pass the upper ones in `rerank`; the others follow. 1: all.
        patience: `rerank` scores so many candidates at a time, in the ranking's order, and once so many in a row
            brought none into the top 10 it leaves the rest, which keeps its order (status `beyond_depth`); None: never.
        sure: `rerank` scores nothing and changes no order where the first candidate's first-stage score leads all
            others' by at least so many standard deviations of these scores; None: never. See `rerankers.adaptive`.
        fuse: whether `rerank` goes by the logit and the first stage's score together where the hits bring one:
            True (as the model folder's calibration weighs them, if it has one), False, or the weight itself, in logits
            per standard deviation of the first stage's scores. See `rerankers.both_stages`.

    Raises ModelError with the reason where the checkpoint must not be used, GoldenError where its
    scores come out wrong on this machine.
    """

    def __init__(
        self,
        model: str | Path = "secondpass-mini",
        *,
        family: str | None = None,
        instruction: str | None = None,
        allow: Collection[str] = (),
        device: str = "cpu",
        profile: str = "default",
        engine: str = "auto",
        threads: int | None = None,
        max_length: int | None = None,
        template: str = DEFAULT_TEMPLATE,
        batch_tokens: int | None = None,
        keep_tokens: int = KEEP_BYTES,
        keep_documents: int = 0,
        cache_dir: str | Path | None = None,
        cache: int | str | Store | None = None,
        windows: int | None = None,
        overlap: float = 0.25,
        pooling: Pooling = "max",
        discount_copies: bool = False,
        fuse: bool | float = True,
        go_on: float = 1.0,
        patience: int | None = None,
        sure: float | None = None,
    ) -> None:
        if windows is None and pooling == "mean":
            raise InputError("pooling='mean' is of windows; say how many with windows=, or leave pooling out")
        if go_on != 1 and (cache is not None or windows is not None or discount_copies):
            raise InputError(
                "with go_on a document's score depends on the others of its ranking, so it goes with neither cache nor "
                "windows nor discount_copies; leave one of them out"
            )
        if keep_documents and windows is not None:
            raise InputError(
                "windows are cut to fit beside their query, and keep_documents cuts documents alike for all queries; "
                "leave one of them out"
            )
        self._adaptive = AdaptiveDepth(patience, sure)
        if go_on != 1 and not self._adaptive.off:
            raise InputError(
                "go_on chooses from all candidates at once, so it goes with neither patience nor sure; leave one out"
            )
        self._render = renderer(template)
        store = None if cache is None else open_store(cache)  # before the model: a mistake is told at once
        folder = Path(cache_dir) if cache_dir is not None else Path(platformdirs.user_cache_dir("secondpass"))
        checkpoint = open_checkpoint(model, family=family, instruction=instruction, allow=allow)
        self._languages = checkpoint.languages
        self._both_stages = BothStages(read_calibration(checkpoint), fuse)
        self.scorer = open_scorer(
            checkpoint,
            device=device,
            engine=engine,
            profile=profile,
            threads=threads,
            max_length=max_length,
            batch_tokens=batch_tokens,
            keep_tokens=keep_tokens,
            keep_documents=keep_documents,
            cache=folder,
        )
        self.go_on = go_on
        if go_on != 1:
            self.scorer.score("", [], go_on=go_on)  # a mistake is told at once
        self._asked: Scorer = self.scorer if store is None else Cached(self.scorer, store, _identity(self.scorer))
        if windows is not None:
            tokens, frame = self.scorer.tokens, checkpoint.frame
            self._asked = Windowed(self._asked, tokens, frame, windows=windows, overlap=overlap, pooling=pooling)
        if discount_copies:
            self._asked = Uncopied(self._asked)

    def __repr__(self) -> str:
        return f"CrossEncoder({self.name!r})"

    def __reduce__(self) -> NoReturn:
        raise ModelError(
            f"{self!r} is a loaded model and cannot be pickled; give the other process the model's name or folder, "
            "and open it there"
        )

    @property
    def name(self) -> str:
        """The name the model was opened by."""
        return self.scorer.checkpoint.name

    def text_of(self, document: Document) -> object:
        """What of a document is scored, as the template says."""
        return self._render(document)

    @property
    def tolerance(self) -> float:
        """How far a score may be from the fp32 one, and from itself among other batch mates."""
        return self.scorer.tolerance

    def score(self, query: str, texts: Sequence[str], *, deadline: Deadline = NEVER) -> Scores:
        """Logits for plain texts: the Scorer protocol."""
        told = language_detail(self._languages, query, texts)
        return noted(self._asked.score(query, texts, deadline=deadline), told)

    def read(self, documents: Iterable[Document | str]) -> None:
        """Read documents before any query comes, as far as `keep_documents` has room for them.

        Raises ModelError where nothing is kept of documents.
        """
        self.scorer.read([one if isinstance(one, str) else self.text_of(one) for one in documents])

    @property
    def exits(self) -> bool:
        """Whether `rerank` takes a `go_on` below 1: a split encoder, with nothing set beside it that goes by whole
        scores."""
        return self.scorer.exits and self._asked is self.scorer and self._adaptive.off

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER, go_on: float | None = None) -> Ranking:
        """The ranking in the order of this model's logits, fused with the first stage's scores as `fuse` says.

        What was not scored keeps its order behind. A hit's probability is that of being relevant, where the model
        folder has a calibration. `go_on` is for this ranking in place of the one set (None: as set).

        Raises InputError for a `go_on` below 1 where this model does not stop early (see `exits`).
        """
        share = self.go_on if go_on is None else go_on
        if share != 1 and not self.exits:
            raise InputError(f"{self.name} does not stop early as it is set here; leave go_on out")
        texts = [self._render(hit.document) for hit in ranking.hits]
        told = language_detail(self._languages, ranking.query, texts)  # first, so that the deadline pays for it
        if share != 1:
            scores = self.scorer.score(ranking.query, texts, deadline=deadline, go_on=share)
        elif self._adaptive.off:
            scores = self._asked.score(ranking.query, texts, deadline=deadline)  # type: ignore[arg-type]
        else:
            scores = self._adaptive(
                lambda some: self._asked.score(ranking.query, some, deadline=deadline),  # type: ignore[arg-type]
                texts,
                [hit.first_score for hit in ranking.hits],
                lambda so_far: self._both_stages(ranking, so_far)[0],
            )
        scores, probabilities = self._both_stages(ranking, scores)
        hits = reorder(ranking, scores, probabilities)
        return Ranking(ranking.query, hits, (*ranking.trace, noted(scores, told).trace), ranking.query_id)

    def rerank_many(self, rankings: Iterable[Ranking], *, deadline_ms: float | None = None) -> Iterator[Ranking]:
        """Each ranking reranked, one after the other, in constant memory; the deadline is for each."""
        for ranking in rankings:
            yield self.rerank(ranking, deadline=Deadline.after_ms(deadline_ms))

    def predict(
        self,
        sentences: Sequence[Sequence[str]] | Sequence[str],
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
        convert_to_numpy: bool = True,
        **unsupported: Any,
    ) -> Any:
        """Scores of (query, text) pairs as sentence-transformers' `CrossEncoder.predict` gives them.

        One pair gives one number, a list of pairs an array of float32, shape [pairs]; without
        `convert_to_numpy` a list of floats. The activation is the checkpoint's own (a sigmoid where it
        states none) unless `activation_fn` is given. `batch_size` and `show_progress_bar` are accepted and
        have no effect: batches follow the token budget; what else that library takes may be None or False. A pair
        that cannot be scored is NaN, with a warning.
        """
        wanted = sorted(name for name, value in unsupported.items() if value is not None and value is not False)
        if wanted:
            raise InputError(f"predict: {', '.join(wanted)} is not supported here; see the docstring")
        single = len(sentences) == 2 and all(isinstance(part, str) for part in sentences)
        pairs: list[Sequence[str]] = [sentences] if single else list(sentences)  # type: ignore[list-item]
        logits = np.full(len(pairs), np.nan, dtype=np.float32)
        by_query: dict[str, list[int]] = {}
        for i, pair in enumerate(pairs):
            if isinstance(pair, str) or len(pair) != 2:
                raise InputError(f"predict: item {i} is not a pair; give [query, text] pairs")
            by_query.setdefault(pair[0], []).append(i)
        left: dict[Status, int] = {}
        # two queries at a time, so that no core waits while the last batch of one is computed
        with ThreadPoolExecutor(2, thread_name_prefix="secondpass-query") as pool:
            answers = pool.map(lambda one: self._asked.score(one[0], [pairs[i][1] for i in one[1]]), by_query.items())
            scored = list(answers)
        for rows, scores in zip(by_query.values(), scored, strict=True):
            for i, value, status in zip(rows, scores.values, scores.statuses, strict=True):
                if value is None:
                    left[status] = left.get(status, 0) + 1
                else:
                    logits[i] = value
        if left:
            reasons = ", ".join(f"{count} {status}" for status, count in left.items())
            warnings.warn(
                f"{sum(left.values())} of {len(pairs)} pairs could not be scored and are NaN: {reasons}", stacklevel=2
            )
        if activation_fn is not None:
            out = activation_fn(logits)
        elif self.scorer.checkpoint.activation == "sigmoid":
            out = (1.0 / (1.0 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
        else:
            out = logits
        if single:
            return out[0]
        return out if convert_to_numpy else out.tolist()

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
        **unsupported: Any,
    ) -> list[dict[str, Any]]:
        """As sentence-transformers' `CrossEncoder.rank`: dicts of corpus_id, score and, if asked for, text, best first.

        Documents that cannot be scored come last with the score NaN.
        """
        if not documents:
            return []
        scores = self.predict([(query, text) for text in documents], activation_fn=activation_fn, **unsupported)
        order = sorted(range(len(documents)), key=lambda i: (bool(np.isnan(scores[i])), -scores[i]))
        results: list[dict[str, Any]] = [{"corpus_id": i, "score": float(scores[i])} for i in order[:top_k]]
        if return_documents:
            for row in results:
                row["text"] = documents[row["corpus_id"]]
        return results


def _identity(scorer: PairScorer) -> bytes:
    """All that a logit depends on beside the query and the text: what tells one score cache's entries apart."""
    detail, engine = scorer.detail, scorer.engine
    parts = [engine.variant, *(detail[name] for name in ("digest", "template", "engine", "precision", "max_length"))]
    return json.dumps(parts).encode()
