"""Groups that a tiny model learns from in few steps."""

from __future__ import annotations

import numpy as np

from secondpass.training.data import Group

WORDS = ["list", "sort", "file", "date", "string", "river", "bank", "python"]


def word_groups(count: int, seed: int = 0) -> list[Group]:
    """The passage that speaks of a snake answers every query: little to learn, so few steps suffice."""
    draw = np.random.default_rng(seed)
    groups = []
    for _ in range(count):
        query, *wrong = draw.permutation(WORDS)[:4].tolist()
        groups.append(Group("words", query, tuple(f"the {word} of {query}" for word in ("snake", *wrong))))
    return groups


def quiet(*_: object) -> None:
    """Progress that nobody watches."""
