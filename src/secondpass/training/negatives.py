"""Groups for training and pools for choosing, from pairs.

Knows: BM25 over a set's own passages, and the base encoder as judge of false negatives.
Refuses to know: losses, and every passage outside the set. Hard negatives alone make deep
reranking worse, so random ones are mixed in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import bm25s
import numpy as np
import Stemmer
from numpy.typing import NDArray

from secondpass.errors import InputError
from secondpass.training.data import Group, Pair, PairSet
from secondpass.training.recipe import Negatives

__all__ = ["Encode", "dev_pools", "mine"]

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts -> unit vectors, shape (n, dimensions)."""

_MINE_FROM = 40_000  # passages; beyond that an in-memory BM25 brings nothing but time


def _candidates(passages: Sequence[str], queries: Sequence[str], depth: int) -> list[list[str]]:
    """BM25's first `depth` passages a query, best first."""
    stemmer = Stemmer.Stemmer("english")
    index = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
    index.index(
        bm25s.tokenize(list(passages), stopwords="en", stemmer=stemmer, show_progress=False), show_progress=False
    )
    asked = bm25s.tokenize(list(queries), stopwords="en", stemmer=stemmer, show_progress=False)
    k = min(depth, len(passages))
    found, scores = index.retrieve(asked, k=k, show_progress=False)
    return [
        [passages[int(i)] for i, score in zip(row, row_scores, strict=True) if score > 0]
        for row, row_scores in zip(found, scores, strict=True)
    ]


def _shortlist(pairs: Sequence[Pair], found: Sequence[list[str]], count: int, draw: random.Random) -> list[list[str]]:
    """Up to `count` mined candidates a pair, none of them a known positive of the same query."""
    positives: dict[str, set[str]] = {}
    for pair in pairs:
        positives.setdefault(pair.query.lower(), set()).add(pair.passage)
    out = []
    for pair, candidates in zip(pairs, found, strict=True):
        known = positives[pair.query.lower()]
        own = [text for text in pair.negatives if text not in known]
        mined = [text for text in candidates if text not in known]
        draw.shuffle(own)
        draw.shuffle(mined)
        out.append((own + mined)[:count])
    return out


def mine(pairs: PairSet, settings: Negatives, encode: Encode | None, seed: int) -> list[Group]:
    """One group a training pair: positive, `mined` hard negatives, then random ones.

    Where too few mined ones pass the filter, random ones of the set fill up, so every group
    has 1 + mined + random passages. Without `encode` nothing is filtered and `cosines` are empty.
    Raises InputError where the set holds fewer passages than one group needs.
    """
    width = 1 + settings.mined + settings.random
    if not pairs.train:
        return []
    if len(pairs.passages) < 2 * width:
        raise InputError(f"set {pairs.name}: {len(pairs.passages)} passages are too few for groups of {width}")
    draw = random.Random(f"{seed}/{pairs.name}/negatives")
    positives = list(dict.fromkeys(pair.passage for pair in pairs.train))
    others = draw.sample(pairs.passages, len(pairs.passages))
    pool = list(dict.fromkeys([*positives, *others]))[:_MINE_FROM]
    found = _candidates(pool, [pair.query for pair in pairs.train], settings.depth)
    # one more than needed, since the filter takes some out
    mined = _shortlist(pairs.train, found, settings.mined + 1, draw)
    # random ones come from other queries' positives where there are enough: those are encoded anyway
    easy_pool = positives if len(positives) > 2 * width else pool
    randoms = [[text for text in draw.sample(easy_pool, width + 1) if text != pair.passage] for pair in pairs.train]

    def groups(cosine: Callable[[str, str], float] | None) -> list[Group]:
        out = []
        for pair, hard, easy in zip(pairs.train, mined, randoms, strict=True):
            kept = hard
            if cosine is not None:
                bound = settings.ceiling * cosine(pair.query, pair.passage)
                kept = [text for text in hard if cosine(pair.query, text) <= bound]
            fill = [text for text in easy if text not in kept]
            kept = kept[: settings.mined]
            passages = (pair.passage, *kept, *fill[: width - 1 - len(kept)])
            cosines = tuple(round(cosine(pair.query, text), 4) for text in passages) if cosine is not None else ()
            out.append(Group(pairs.name, pair.query, passages, cosines))
        return out

    if encode is None:
        return groups(None)
    texts = list(
        dict.fromkeys(
            text
            for pair, hard, easy in zip(pairs.train, mined, randoms, strict=True)
            for text in (pair.query, pair.passage, *hard, *easy)
        )
    )
    vectors = dict(zip(texts, encode(texts), strict=True))
    return groups(lambda query, text: float(vectors[query] @ vectors[text]))


def dev_pools(pairs: PairSet, depth: int, encode: Encode | None) -> list[Group]:
    """BM25's first `depth` for every dev query in BM25's order; `positive` says where the positive stands.

    A query whose positive BM25 misses is left out: no reranker could find it, so it
    cannot help to choose between rerankers.
    """
    if not pairs.dev:
        return []
    found = _candidates(pairs.passages[:_MINE_FROM], [pair.query for pair in pairs.dev], depth)
    pools = [
        Group(pairs.name, pair.query, tuple(candidates), positive=candidates.index(pair.passage))
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
