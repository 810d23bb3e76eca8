"""One checkpoint in the layout that each peer reads. `bench/peers.py` runs it in the peers' environments.

    python convert.py onnx FOLDER        transformers' graph by torch.onnx in fp32, and that quantised dynamically
    python convert.py openvino FOLDER    what sentence-transformers' OpenVINO backend exports

FOLDER/checkpoint is read. What is there already is left alone.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

# FlashRank knows its models by name, and each name's file by another
FLASHRANK = {
    "fp32": ("ms-marco-TinyBERT-L-2-v2", "flashrank-TinyBERT-L-2-v2.onnx"),
    "int8": ("ms-marco-MiniLM-L-12-v2", "flashrank-MiniLM-L-12-v2_Q.onnx"),
}
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
SPECIAL = {"cls_token": "[CLS]", "mask_token": "[MASK]", "pad_token": "[PAD]", "sep_token": "[SEP]"}


def onnx(folder: Path) -> None:
    """FOLDER/onnx-fp32, FOLDER/onnx-int8, and both once more under FlashRank's names."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import AutoModelForSequenceClassification

    whole = folder / "onnx-fp32" / "model.onnx"
    if not whole.is_file():
        whole.parent.mkdir(parents=True, exist_ok=True)
        model = AutoModelForSequenceClassification.from_pretrained(folder / "checkpoint", dtype=torch.float32).eval()
        ids = torch.ones(2, 16, dtype=torch.int64)
        torch.onnx.export(
            model,
            (ids, ids, torch.zeros_like(ids)),
            str(whole.with_suffix(".part")),
            input_names=list(INPUTS),
            output_names=["logits"],
            dynamic_axes={**{name: {0: "batch", 1: "tokens"} for name in INPUTS}, "logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
        whole.with_suffix(".part").replace(whole)
    small = folder / "onnx-int8" / "model.onnx"
    if not small.is_file():
        small.parent.mkdir(parents=True, exist_ok=True)
        quantize_dynamic(whole, small.with_suffix(".part"), weight_type=QuantType.QInt8)
        small.with_suffix(".part").replace(small)
    for precision, (name, file) in FLASHRANK.items():
        source, there = folder / f"onnx-{precision}", folder / "flashrank" / name
        there.mkdir(parents=True, exist_ok=True)
        for place in (source, there):
            for needed in ("config.json", "tokenizer.json", "tokenizer_config.json"):
                shutil.copyfile(folder / "checkpoint" / needed, place / needed)
            (place / "special_tokens_map.json").write_text(json.dumps(SPECIAL), encoding="utf-8")
        if not (there / file).exists():
            (there / file).hardlink_to(source / "model.onnx")


def openvino(folder: Path) -> None:
    """FOLDER/openvino."""
    from sentence_transformers import CrossEncoder

    target = folder / "openvino"
    if not (target / "openvino").is_dir():
        model = CrossEncoder(
            str(folder / "checkpoint"), backend="openvino", device="cpu", model_kwargs={"export": True}
        )
        model.save_pretrained(str(target))


if __name__ == "__main__":
    {"onnx": onnx, "openvino": openvino}[sys.argv[1]](Path(sys.argv[2]).resolve())
