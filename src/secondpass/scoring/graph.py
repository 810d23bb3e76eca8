"""The BERT classifier as one ONNX graph, built straight from the weights.

Knows: the operators and their order. Refuses to know: files, engines, tokens. Every engine
reads the same graph, so they can be compared. Two things an exporter would not do: the last
layer computes query, output and feed-forward for the [CLS] row only (exact, and it saves
most of that layer), and LayerNormalization stays apart from its Add (the fused form is slow on CPUs).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from secondpass.scoring.checkpoint import Encoder

__all__ = ["VERSION", "bert_classifier"]

VERSION = 1  # part of the cache key: raise it with every change of the graph
_MASKED = -10_000.0  # large enough to vanish in a softmax, small enough for bf16


class _Builder:
    """Nodes and constants of one graph; every method returns the name of what it added."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def constant(self, value: NDArray[Any], name: str) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, dtype=np.int64), "i_" + "_".join(map(str, values)))

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name


def bert_classifier(encoder: Encoder, weights: Mapping[str, NDArray[np.float32]]) -> Any:
    """An onnx.ModelProto with inputs ids, mask, types (int64 [batch, tokens]) and output logits (float32 [batch]).

    `weights` holds fp32 tensors under Hugging Face's names without the `bert.` prefix.
    """
    g = _Builder()
    heads, width = encoder.heads, encoder.hidden // encoder.heads

    def weight(name: str) -> str:
        return g.constant(weights[name], name)

    def linear(x: str, name: str, scale: float = 1.0) -> str:
        matrix = g.constant(weights[f"{name}.weight"].T * np.float32(scale), f"{name}.weight")
        bias = g.constant(weights[f"{name}.bias"] * np.float32(scale), f"{name}.bias")
        return g.add("Add", g.add("MatMul", x, matrix), bias)

    def normalised(x: str, name: str) -> str:
        return g.add("LayerNormalization", x, weight(f"{name}.weight"), weight(f"{name}.bias"), epsilon=encoder.epsilon)

    def activated(x: str) -> str:
        if encoder.activation == "relu":
            return g.add("Relu", x)
        # x · ½ · (1 + erf(x / √2)), written so that both engines recognise it and fuse it
        half, one = g.constant(np.array(0.5, np.float32), "half"), g.constant(np.array(1.0, np.float32), "one")
        root = g.constant(np.array(np.sqrt(2.0), np.float32), "sqrt2")
        erf = g.add("Erf", g.add("Div", x, root))
        return g.add("Mul", g.add("Mul", x, g.add("Add", erf, one)), half)

    def split(x: str) -> str:  # [batch, tokens, hidden] -> [batch, heads, tokens, width]
        return g.add("Transpose", g.add("Reshape", x, g.ints(0, -1, heads, width)), perm=[0, 2, 1, 3])

    length = g.add("Slice", g.add("Shape", "ids"), g.ints(1), g.ints(2), g.ints(0))
    positions = g.add("Slice", weight("embeddings.position_embeddings.weight"), g.ints(0), length, g.ints(0))
    words = g.add("Gather", weight("embeddings.word_embeddings.weight"), "ids")
    kinds = g.add("Gather", weight("embeddings.token_type_embeddings.weight"), "types")
    x = normalised(g.add("Add", g.add("Add", words, kinds), positions), "embeddings.LayerNorm")

    # mask 1 -> 0, mask 0 -> _MASKED, shaped [batch, 1, 1, tokens]
    real = g.add("Unsqueeze", g.add("Cast", "mask", to=TensorProto.FLOAT), g.ints(1, 2))
    bias = g.add(
        "Mul",
        g.add("Sub", g.constant(np.array(1.0, np.float32), "one"), real),
        g.constant(np.array(_MASKED, np.float32), "masked"),
    )

    for i in range(encoder.layers):
        at = f"encoder.layer.{i}"
        # what comes out of the last layer is needed for [CLS] alone
        rows = g.add("Slice", x, g.ints(0), g.ints(1), g.ints(1)) if i == encoder.layers - 1 else x
        query = split(linear(rows, f"{at}.attention.self.query", scale=1.0 / float(np.sqrt(width))))
        key = split(linear(x, f"{at}.attention.self.key"))
        value = split(linear(x, f"{at}.attention.self.value"))
        scores = g.add("Add", g.add("MatMul", query, g.add("Transpose", key, perm=[0, 1, 3, 2])), bias)
        mixed = g.add("MatMul", g.add("Softmax", scores, axis=-1), value)
        joined = g.add("Reshape", g.add("Transpose", mixed, perm=[0, 2, 1, 3]), g.ints(0, -1, encoder.hidden))
        rows = normalised(
            g.add("Add", linear(joined, f"{at}.attention.output.dense"), rows), f"{at}.attention.output.LayerNorm"
        )
        inner = activated(linear(rows, f"{at}.intermediate.dense"))
        x = normalised(g.add("Add", linear(inner, f"{at}.output.dense"), rows), f"{at}.output.LayerNorm")

    pooled = g.add("Tanh", linear(g.add("Reshape", x, g.ints(-1, encoder.hidden)), "pooler.dense"))
    logits = g.add("Reshape", linear(pooled, "classifier"), g.ints(-1))
    g.nodes.append(helper.make_node("Identity", [logits], ["logits"], name="logits"))

    shape = ["batch", "tokens"]
    graph = helper.make_graph(
        g.nodes,
        "bert_classifier",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("ids", "mask", "types")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch"])],
        list(g.constants.values()),
    )
    # opset 17 is the first with LayerNormalization; ir_version 8 keeps older runtimes able to read it
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model
