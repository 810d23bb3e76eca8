"""The int8 scales that a model folder brings: reading and writing them.

Knows: one file and the names in it. Refuses to know: how scales are found (`calibration`) and used (`graph`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from secondpass.errors import ModelError
from secondpass.scoring.checkpoint import Checkpoint, Encoder

__all__ = ["SCALES", "places_of", "read_scales", "write_scales"]

SCALES = "int8.safetensors"


def places_of(encoder: Encoder) -> list[str]:
    """The inputs of linear layers that are integers, in the order of the graph.

    A classifier's last attention is not among them: it computes for one token, see `graph`.
    """
    names = ("attention.self", "attention.output", "intermediate", "output")
    every = [f"encoder.layer.{i}.{name}" for i in range(encoder.layers) for name in names]
    if encoder.apart is not None:
        return every
    return [place for place in every if place != f"encoder.layer.{encoder.layers - 1}.attention.self"]


def write_scales(checkpoint: Checkpoint, scales: Mapping[str, NDArray[Any]]) -> None:
    """Keep scales in the model's folder, with the digest of the model that they belong to."""
    from safetensors.numpy import save

    # not save_file, which lets nobody else read the file
    (checkpoint.folder / SCALES).write_bytes(save(dict(scales), metadata={"model": checkpoint.digest}))


def read_scales(checkpoint: Checkpoint) -> dict[str, NDArray[Any]]:
    """The scales that the model folder brings. Raises ModelError where it has none, or damaged ones."""
    from safetensors import SafetensorError, safe_open

    path = checkpoint.folder / SCALES
    if not path.is_file():
        raise ModelError(
            f"{checkpoint.name} has no int8 scales ({SCALES}), which profile 'fast' needs; make them from sample pairs "
            "with secondpass.scoring.calibration.calibrate and scales.write_scales, or use profile 'default'"
        )
    try:
        with safe_open(path, "np") as file:
            made_for = (file.metadata() or {}).get("model")
            scales: dict[str, NDArray[Any]] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(f"{path}: damaged ({error}); copy it again or calibrate again") from error
    if made_for != checkpoint.digest:
        raise ModelError(f"{path}: these scales were made for another model than the folder's: calibrate again")
    wanted = {f"{place}.range" for place in places_of(checkpoint.encoder)}
    if missing := sorted(wanted - scales.keys()):
        raise ModelError(f"{path}: {missing[0]!r} is missing; these are another model's scales: calibrate again")
    return scales
