"""The file of int8 scales: what is written is read, and what must not be used is refused with what to do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secondpass.errors import ModelError
from secondpass.scoring.calibration import calibrate
from secondpass.scoring.checkpoint import Checkpoint, open_checkpoint
from secondpass.scoring.scales import SCALES, read_scales, write_scales
from tiny import LAYERS, tiny_checkpoint

PAIRS = [("sort a list", ["list sort in place", "a snake of the river bank"]), ("q", ["file"])]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(tiny_checkpoint(tmp_path / "m"))


@pytest.fixture(scope="module")
def scales(tiny: Path) -> dict[str, NDArray[Any]]:
    return calibrate(open_checkpoint(tiny), PAIRS)


def test_what_is_written_is_read(checkpoint: Checkpoint, scales: dict[str, NDArray[Any]]) -> None:
    scales = {**scales, "encoder.layer.0.units": np.array([], np.int64)}  # a layer may have none
    before = checkpoint.digest
    write_scales(checkpoint, scales)
    read = read_scales(checkpoint)
    assert read.keys() == scales.keys()
    for name, tensor in scales.items():
        assert read[name].dtype == tensor.dtype
        np.testing.assert_array_equal(read[name], tensor)
    assert open_checkpoint(checkpoint.folder).digest == before  # the model is the same


def test_a_folder_without_scales_says_how_to_make_them(checkpoint: Checkpoint) -> None:
    with pytest.raises(ModelError, match=rf"no int8 scales \({SCALES}\).*calibrat.*or use profile 'default'"):
        read_scales(checkpoint)


@pytest.mark.parametrize("length", [0, 5, 200, -1])
def test_a_damaged_file_is_refused(checkpoint: Checkpoint, scales: dict[str, NDArray[Any]], length: int) -> None:
    write_scales(checkpoint, scales)
    path = checkpoint.folder / SCALES
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelError, match=rf"{SCALES}: damaged.*calibrate again"):
        read_scales(checkpoint)


def test_a_smaller_models_scales_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    other = open_checkpoint(tiny_checkpoint(tmp_path / "other", layers=LAYERS - 1))
    write_scales(checkpoint, calibrate(other, PAIRS))
    with pytest.raises(ModelError, match=r"encoder.layer.*another model's scales: calibrate again"):
        read_scales(checkpoint)


@pytest.mark.parametrize("change", [{"layers": LAYERS + 1}, {"seed": 1}])
def test_a_file_copied_from_another_model_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, change: dict[str, Any]
) -> None:
    other = open_checkpoint(tiny_checkpoint(tmp_path / "other", **change))
    write_scales(other, calibrate(other, PAIRS))
    shutil.copy(other.folder / SCALES, checkpoint.folder / SCALES)
    with pytest.raises(ModelError, match=r"another model.*calibrate again"):
        read_scales(checkpoint)
