"""The int8 scales that a model folder brings: reading and writing them.

Knows: one file and the names in it. Refuses to know: how scales are found (`calibration`) and used (`graph`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from secondpass.errors import ModelError
from secondpass.scoring.checkpoint import Checkpoint

__all__ = ["SCALES", "read_scales", "write_scales"]

SCALES = "int8.safetensors"


def write_scales(folder: Path, scales: Mapping[str, NDArray[Any]]) -> None:
    """Keep scales in a model folder."""
    from safetensors.numpy import save_file

    save_file(dict(scales), folder / SCALES)


def read_scales(checkpoint: Checkpoint) -> dict[str, NDArray[Any]]:
    """The scales that the model folder brings. Raises ModelError where it has none, or damaged ones."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = checkpoint.folder / SCALES
    if not path.is_file():
        raise ModelError(
            f"{checkpoint.name} has no int8 scales ({SCALES}), which profile 'fast' needs; make them from sample pairs "
            "with secondpass.scoring.calibration.calibrate and scales.write_scales, or use profile 'default'"
        )
    try:
        scales: dict[str, NDArray[Any]] = load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{path}: damaged ({error}); copy it again or calibrate again") from error
    places = ("attention.self", "attention.output", "intermediate", "output")
    wanted = {f"encoder.layer.{i}.{place}.range" for i in range(checkpoint.encoder.layers) for place in places}
    if missing := sorted(wanted - scales.keys()):
        raise ModelError(f"{path}: {missing[0]!r} is missing; these are another model's scales: calibrate again")
    return scales
