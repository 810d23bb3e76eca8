"""A folder's weights as fp32 arrays, by the names that graphs are built with.

Knows: safetensors, whole or in shards, in any precision (in 8 bits with a scale for each row), and pickled ones.
Refuses to know: what the tensors are for, and whether they may be read: a pickled file is read as tensors alone, once
the caller has allowed it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import ModelError
from secondpass.extras import require
from secondpass.scoring.architecture import renamed
from secondpass.weights import weight_files

__all__ = ["SCALE", "read_tensors"]

SCALE = "scale"
"""Beside `x.weight` in 8-bit integers lies `x.scale`, which its rows are to be multiplied by."""


def read_tensors(folder: Path, kind: str) -> dict[str, NDArray[np.float32]]:
    """All tensors of a model of this `model_type`. Asked for one that is not there, what is given raises ModelError."""
    tensors = _Weights(folder)
    for path in weight_files(folder):
        tensors |= {renamed(kind, name): tensor for name, tensor in _tensors(path).items()}
    return tensors


class _Weights(dict[str, NDArray[np.float32]]):
    """Tensors by name; one that is asked for and not there is said to be missing."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def __missing__(self, name: str) -> NDArray[np.float32]:
        raise ModelError(f"{self._folder}: the tensor {name!r} is missing; without it the scores would be random")


def _tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    if path.suffix == ".bin":
        torch: Any = require("torch", extra="torch", purpose="reading pickled weights")
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor.float().numpy() for name, tensor in loaded.items() if hasattr(tensor, "numpy")}
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        names = list(file.keys())
        if not any(file.get_slice(name).get_dtype() == "BF16" for name in names):
            small = {name for name in names if file.get_slice(name).get_dtype() == "I8"}
            tensors = {name: file.get_tensor(name).astype(np.float32) for name in names}
            return {name: _in_full(tensors, name) if name in small else tensor for name, tensor in tensors.items()}
    return _bf16(path)


def _in_full(tensors: dict[str, NDArray[np.float32]], name: str) -> NDArray[np.float32]:
    scale = tensors.get(f"{name.removesuffix('weight')}{SCALE}")
    if scale is None:
        raise ModelError(f"the tensor {name!r} is in 8-bit integers and nothing says by what to multiply them")
    return np.asarray(tensors[name] * scale, np.float32)


def _bf16(path: Path) -> dict[str, NDArray[np.float32]]:
    """Tensors of a file with bfloat16 in it, which numpy has no type for: the upper half of a float32."""
    from safetensors import deserialize

    types: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64}
    types |= {"I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_}
    read: Any = deserialize
    out = {}
    for name, one in read(path.read_bytes()):
        if one["dtype"] == "BF16":
            values = (np.frombuffer(one["data"], np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(one["data"], types[one["dtype"]]).astype(np.float32)
        out[name] = values.reshape(one["shape"])
    return out
