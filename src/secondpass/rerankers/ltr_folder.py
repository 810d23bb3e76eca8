"""The folder of a learned ranker: trees, what their features are, and proof that all of it belongs together.

Knows: the files and their digests. Refuses to know: how trees were grown, what is ranked.

    model.txt             the trees, as LightGBM writes them
    arrays.safetensors    statistics of terms, and golden rows with the scores that the trees gave them
    features.json         the features by name, and all that decides what they mean; written last
    lineage.json          what it was made from, for people
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from secondpass.embedding import Encoder, open_encoder
from secondpass.errors import InputError, ModelError
from secondpass.rerankers.features import FeatureSpec
from secondpass.rerankers.term_statistics import TermStatistics
from secondpass.weights import file_digest

__all__ = ["Contents", "read_folder", "write_folder"]

TREES, ARRAYS, SCHEMA, LINEAGE = "model.txt", "arrays.safetensors", "features.json", "lineage.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """What a folder holds. `golden` are rows float64[n, features] and their scores float64[n]; `digest` stands for the
    trees, the features and the statistics."""

    spec: FeatureSpec
    trees: str
    statistics: TermStatistics | None
    encoder: Encoder | None
    golden: tuple[NDArray[np.float64], NDArray[np.float64]]
    digest: str = ""


def write_folder(folder: str | Path, contents: Contents, lineage: Mapping[str, Any]) -> None:
    """Write a model folder; one that is there is written over, and does not open before all of it is there."""
    from safetensors.numpy import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SCHEMA).unlink(missing_ok=True)
    (folder / TREES).write_text(contents.trees, encoding="utf-8", newline="\n")
    rows, scores = contents.golden
    arrays = {"golden_rows": rows, "golden_scores": scores}
    save_file({**arrays, **(contents.statistics.arrays() if contents.statistics else {})}, folder / ARRAYS)
    (folder / LINEAGE).write_text(json.dumps(lineage, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    schema = {
        "format": _FORMAT,
        "features": contents.spec.names,
        "spec": asdict(contents.spec),
        "encoder_digest": contents.encoder.digest if contents.encoder else "",
        "digests": {name: file_digest(folder / name) for name in (TREES, ARRAYS)},
    }
    (folder / SCHEMA).write_text(json.dumps(schema, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_folder(folder: str | Path) -> Contents:
    """What a model folder holds.

    Raises ModelError for a folder that is none, is damaged, was written by a newer version, or whose features this
    version or this encoder computes otherwise.
    """
    folder = Path(folder).expanduser()
    path = folder / SCHEMA
    if not path.is_file():
        raise ModelError(f"{folder}: no learned ranker, for it has no {SCHEMA}; make one with `secondpass train --ltr`")
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
        number, names, digests = schema["format"], tuple(schema["features"]), dict(schema["digests"])
    except (ValueError, LookupError, TypeError) as error:
        raise ModelError(f"{path}: damaged ({error}); copy the folder again") from error
    if number != _FORMAT:
        raise ModelError(f"{path}: format {number!r}, and this version reads {_FORMAT}; upgrade secondpass, or retrain")
    for name in (TREES, ARRAYS):
        if not (folder / name).is_file() or file_digest(folder / name) != digests.get(name):
            raise ModelError(f"{folder / name}: missing, damaged or another model's; copy the whole folder again")
    try:
        spec = msgspec.convert(schema["spec"], FeatureSpec)
        arrays = _arrays(folder / ARRAYS)
        golden = arrays["golden_rows"], arrays["golden_scores"]
        statistics = TermStatistics.from_arrays(arrays) if "terms" in arrays else None
    except (msgspec.ValidationError, InputError, ValueError, LookupError) as error:
        raise ModelError(f"{path}: damaged ({error}); copy the folder again") from error
    if names != spec.names:
        differ = sorted(set(names) ^ set(spec.names)) or ["their order"]
        raise ModelError(
            f"{path}: this version's features are others than the model's ({', '.join(differ)}); train it again"
        )
    encoder = open_encoder(spec.encoder) if spec.encoder else None
    if encoder is not None and encoder.digest != schema.get("encoder_digest"):
        raise ModelError(
            f"{path}: the encoder {spec.encoder!r} is another one than the model learnt from; put that one back, or "
            "train again"
        )
    trees = (folder / TREES).read_text(encoding="utf-8")
    return Contents(spec, trees, statistics, encoder, golden, file_digest(path))


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    from safetensors.numpy import load_file

    found: dict[str, NDArray[Any]] = load_file(path)
    return found
