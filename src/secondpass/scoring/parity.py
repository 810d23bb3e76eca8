"""How far an exported graph's logits are from its checkpoint's in fp32, and the file that says so.

Knows: the numbers, `parity.json`, and the table for people. Refuses to know: how they are measured (`exporting`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import ModelError
from secondpass.weights import graph_files

__all__ = ["PARITY", "Parity", "read_parity", "swapped"]

PARITY = "parity.json"

Float = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Parity:
    """An exported graph against the portable engine in fp32 on the checkpoint it was made from.

    `largest` and `mean` are absolute deviations of logits over `pairs` pairs, of which `cut` were as long as the model
    reads; `largest_logit` is the largest absolute one in fp32. `swapped` is the share of neighbours in a query's fp32
    order that change places, `tolerance` the largest deviation allowed. Bytes are those of weights before and of the
    graph after; digests those of the folders.
    """

    source: str
    source_digest: str
    digest: str
    format: str
    precision: str
    engine: str
    engine_version: str
    pairs: int
    cut: int
    largest_logit: float
    largest: float
    mean: float
    swapped: float
    tolerance: float
    bytes_before: int
    bytes_after: int
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether no pair deviates by more than the tolerance; one that is no number does."""
        return self.largest <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "notes": list(self.notes), "holds": self.holds}

    def table(self) -> list[tuple[str, str]]:
        """What it is of and what was measured, in words."""
        shrunk = f"{self.bytes_before / 1e6:,.1f} MB of weights became {self.bytes_after / 1e6:,.1f} MB"
        return [
            ("made from", f"{self.source}, digest {self.source_digest}"),
            ("graph", f"{self.format}, {self.precision}; {shrunk}"),
            ("measured", f"{self.pairs:,} pairs on {self.engine} {self.engine_version}, {self.cut} cut at full length"),
            (
                "deviation",
                f"{self.largest:.3g} at most, {self.mean:.3g} on average, of logits up to {self.largest_logit:.3g}",
            ),
            ("allowed", f"{self.tolerance:.3g}: {'it holds' if self.holds else 'it does NOT hold'}"),
            ("order", f"{self.swapped:.2%} of neighbours change places"),
        ]


def swapped(groups: Sequence[tuple[Float, Float]]) -> float:
    """The share of neighbours, in the order of the first scores of each group, whose second scores say the opposite.

    Neighbours of equal first scores have no order to lose; 0 where there are no others.
    """
    count = lost = 0
    for first, second in groups:
        order = np.argsort(-first, kind="stable")
        apart = np.diff(first[order]) < 0
        count += int(apart.sum())
        lost += int((apart & (np.diff(second[order]) > 0)).sum())
    return lost / count if count else 0.0


def read_parity(folder: Path, digest: str) -> Parity | None:
    """What was measured of the graph that a folder, of this digest, holds in place of weights; None where it has none.

    Raises ModelError for a graph of which nothing was measured, and for one that is not the one measured: what it
    computes cannot be told from its weights, so nobody would notice that it scores wrongly.
    """
    files, path = graph_files(folder), folder / PARITY
    if not files:
        return None
    if not path.is_file():
        raise ModelError(
            f"{files[0]}: a graph without {PARITY}, which says how near it is to its model; "
            "export the model's own folder with `secondpass export`, or open that"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        del values["holds"]
        parity = Parity(**{**values, "notes": tuple(values["notes"])})
        measured = parity.digest, parity.holds
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: damaged ({error}); copy it again, or export the model again") from error
    if measured != (digest, True):
        raise ModelError(
            f"{path}: was measured on another graph, tokenizer or configuration than the folder's; export it again"
        )
    return parity
