"""An encoder without a model: a text is the sum of its words' random directions."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class BagOfWords:
    """Rows of length 1; of a text without words it knows nothing. `seed` makes another encoder of the same name."""

    name = "bag-of-words"

    def __init__(self, dimensions: int = 64, seed: int = 0) -> None:
        self.dimensions = dimensions
        self.digest = f"{seed:064x}"
        self._seed = seed
        self._known: dict[str, NDArray[np.float32]] = {}

    def encode(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        rows = np.zeros((len(texts), self.dimensions), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                row += self._direction(word)
            row /= np.linalg.norm(row) or 1
        return rows

    def _direction(self, word: str) -> NDArray[np.float32]:
        if word not in self._known:
            seed = zlib.crc32(word.encode("utf-8", "surrogatepass")), self._seed
            self._known[word] = np.random.default_rng(seed).standard_normal(self.dimensions, np.float32)
        return self._known[word]
