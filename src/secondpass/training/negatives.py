"""Groups for training and pools for choosing, from pairs.

Knows: BM25 over a set's own passages, and the base encoder as judge of false negatives.
Refuses to know: losses, and every passage outside the set. Hard negatives alone make deep
reranking worse, so random ones are mixed in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import bm25s
import numpy as np
import Stemmer
from numpy.typing import NDArray

from secondpass.embedding import open_encoder
from secondpass.errors import InputError
from secondpass.training.data import Group, Pair, PairSet
from secondpass.training.recipe import Negatives

__all__ = ["Encode", "dev_pools", "mine"]

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts -> unit vectors, shape (n, dimensions)."""

_MINE_FROM = 40_000  # passages; beyond that an in-memory BM25 brings nothing but time


def _candidates(passages: Sequence[str], queries: Sequence[str], depth: int) -> list[dict[str, float]]:
    """BM25's first `depth` passages a query with their scores, best first."""
    stemmer = Stemmer.Stemmer("english")
    index = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
    index.index(
        bm25s.tokenize(list(passages), stopwords="en", stemmer=stemmer, show_progress=False), show_progress=False
    )
    asked = bm25s.tokenize(list(queries), stopwords="en", stemmer=stemmer, show_progress=False)
    k = min(depth, len(passages))
    found, scores = index.retrieve(asked, k=k, show_progress=False)
    return [
        {passages[int(i)]: round(float(score), 4) for i, score in zip(row, row_scores, strict=True) if score > 0}
        for row, row_scores in zip(found, scores, strict=True)
    ]


def _shortlist(
    pairs: Sequence[Pair], found: Sequence[Iterable[str]], count: int, draw: random.Random, near: _Near | None = None
) -> list[list[str]]:
    """Up to `count` candidates a pair, none of them a known positive of the same query or a copy of the pair's."""
    positives: dict[str, set[str]] = {}
    for pair in pairs:
        positives.setdefault(pair.query.lower(), set()).add(pair.passage)
    out = []
    for pair, candidates in zip(pairs, found, strict=True):
        known = positives[pair.query.lower()]
        own = [text for text in pair.negatives if text not in known]
        mined = [text for text in candidates if text not in known]
        if near is not None:
            mined = [text for text in mined if not near.copies(text, pair.passage)]
        draw.shuffle(own)
        draw.shuffle(mined)
        out.append((own + mined)[:count])
    return out


def mine(pairs: PairSet, settings: Negatives, encode: Encode | None, seed: int) -> list[Group]:
    """One group a training pair: positive, `mined` and `dense` hard negatives, then random ones.

    Where too few hard ones are left, random ones of the set fill up, so every group has
    1 + mined + dense + random passages. Without `encode`, or with a ceiling of 0, `cosines` are empty and the ceiling
    leaves nothing out.
    Raises InputError where the set holds fewer passages than one group needs.
    """
    hard_count = settings.mined + settings.dense
    width = 1 + hard_count + settings.random
    if not pairs.train:
        return []
    if len(pairs.passages) < 2 * width:
        raise InputError(f"set {pairs.name}: {len(pairs.passages)} passages are too few for groups of {width}")
    draw = random.Random(f"{seed}/{pairs.name}/negatives")
    positives = list(dict.fromkeys(pair.passage for pair in pairs.train))
    others = draw.sample(pairs.passages, len(pairs.passages))
    pool = list(dict.fromkeys([*positives, *others]))[:_MINE_FROM]
    queries = [pair.query for pair in pairs.train]
    near = _Near(pool, settings.copy) if settings.dense or settings.copy < 1 else None
    found = _candidates(pool, queries, settings.depth)
    # one more than needed, since the ceiling takes some out
    spare = 0 if encode is None or not settings.ceiling else 1
    hard = _shortlist(pairs.train, found, settings.mined + spare, draw, near)
    if settings.dense and near is not None:
        dense = _shortlist(pairs.train, near.candidates(queries, settings.depth), width, draw, near)
        hard = [list(dict.fromkeys([*one, *two]))[: hard_count + spare] for one, two in zip(hard, dense, strict=True)]
    # random ones come from other queries' positives where there are enough: those are encoded anyway
    easy_pool = positives if len(positives) > 2 * width else pool
    randoms = [[text for text in draw.sample(easy_pool, width + 1) if text != pair.passage] for pair in pairs.train]

    def groups(cosine: Callable[[str, str], float] | None) -> list[Group]:
        out = []
        for pair, mined, easy in zip(pairs.train, hard, randoms, strict=True):
            kept = mined
            if cosine is not None:
                bound = settings.ceiling * cosine(pair.query, pair.passage)
                kept = [text for text in mined if cosine(pair.query, text) <= bound]
            fill = [text for text in easy if text not in kept]
            kept = kept[:hard_count]
            passages = (pair.passage, *kept, *fill[: width - 1 - len(kept)])
            cosines = tuple(round(cosine(pair.query, text), 4) for text in passages) if cosine is not None else ()
            out.append(Group(pairs.name, pair.query, passages, cosines))
        return out

    if encode is None or not settings.ceiling:
        return groups(None)
    texts = list(
        dict.fromkeys(
            text
            for pair, mined, easy in zip(pairs.train, hard, randoms, strict=True)
            for text in (pair.query, pair.passage, *mined, *easy)
        )
    )
    vectors = dict(zip(texts, encode(texts), strict=True))
    return groups(lambda query, text: float(vectors[query] @ vectors[text]))


class _Near:
    """A set's passages as vectors of secondpass-static: dense candidates, and copies."""

    def __init__(self, passages: Sequence[str], copy: float) -> None:
        self._encoder = open_encoder()
        self._passages, self._copy = passages, copy
        self._place = {text: i for i, text in enumerate(passages)}
        self._vectors = self._encoder.encode(passages)

    def candidates(self, queries: Sequence[str], depth: int) -> list[list[str]]:
        """The `depth` passages nearest each query, best first."""
        out = []
        for vector in self._encoder.encode(queries, query=True):
            nearest = np.argsort(-(self._vectors @ vector), kind="stable")[:depth]
            out.append([self._passages[i] for i in nearest.tolist()])
        return out

    def copies(self, text: str, passage: str) -> bool:
        """Whether one is nearly the other; a passage outside the set is nobody's copy."""
        if text not in self._place or passage not in self._place:
            return False
        return float(self._vectors[self._place[text]] @ self._vectors[self._place[passage]]) > self._copy


def dev_pools(pairs: PairSet, depth: int, encode: Encode | None) -> list[Group]:
    """BM25's first `depth` for every dev query, in BM25's order and with its scores; `positive` is that one's place.

    A query whose positive BM25 misses is left out: no reranker could find it, so it
    cannot help to choose between rerankers.
    """
    if not pairs.dev:
        return []
    found = _candidates(pairs.passages[:_MINE_FROM], [pair.query for pair in pairs.dev], depth)
    pools = [
        Group(
            pairs.name,
            pair.query,
            tuple(candidates),
            positive=list(candidates).index(pair.passage),
            first_scores=tuple(candidates.values()),
        )
        for pair, candidates in zip(pairs.dev, found, strict=True)
        if pair.passage in candidates
    ]
    if encode is None:
        return pools
    texts = list(dict.fromkeys(text for pool in pools for text in (pool.query, *pool.passages)))
    vectors = dict(zip(texts, encode(texts), strict=True))
    return [
        replace(pool, cosines=tuple(round(float(vectors[pool.query] @ vectors[text]), 4) for text in pool.passages))
        for pool in pools
    ]
