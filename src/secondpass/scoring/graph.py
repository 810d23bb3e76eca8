"""The BERT classifier as ONNX graphs, built straight from the weights.

Knows: the operators and their order. Refuses to know: files, engines, tokens. Every engine
reads the same graph, so they can be compared. What an exporter would not do: the last layer computes for the [CLS]
row only, keys and values included (exact, and it saves that layer nearly whole); LayerNormalization stays apart from
its Add (the fused form is slow on CPUs); the layers can be cut into blocks, run one after the other; and with
scales (see `calibration`) the linear layers compute on 8-bit integers, with the same result whatever else is in the
batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.scoring.checkpoint import Encoder

__all__ = ["MASKED", "VERSION", "Bert", "Tensors", "bert_block", "bert_classifier", "finished"]

VERSION = 3  # part of the cache key: raise it with every change of the graph
MASKED = -10_000.0  # large enough to vanish in a softmax, small enough for bf16

Tensors = Mapping[str, NDArray[Any]]


class _Builder:
    """Nodes and constants of one graph; every method returns the name of what it added."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def constant(self, value: NDArray[Any], name: str) -> str:
        from onnx import numpy_helper

        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def number(self, value: float) -> str:
        return self.constant(np.array(value, dtype=np.float32), f"f_{value}")

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, dtype=np.int64), "i_" + "_".join(map(str, values)))

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def name(self, what: str, name: str) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node("Identity", [what], [name], name=name))


class _Linears:
    """x · W + b, in fp32, or on integers where `scales` has the range of x; `where` says which x it is."""

    def __init__(self, g: _Builder, weights: Tensors, scales: Tensors, probes: list[str] | None) -> None:
        self._g, self._weights, self._scales, self._probes = g, weights, scales, probes
        self._quantized: dict[tuple[str, str], str] = {}

    def __call__(self, x: str, name: str, where: str = "", *, scale: float = 1.0, after: str = "") -> str:
        """`scale` multiplies the output; `after` names the place where it is read next and is smoothed for that."""
        matrix, bias = self.weights(name, after)
        return self.of(x, name, where, matrix * np.float32(scale), bias * np.float32(scale))

    def weights(self, name: str, after: str = "") -> tuple[NDArray[Any], NDArray[Any]]:
        """W, [in, out], and b."""
        matrix, bias = self._weights[f"{name}.weight"].T, self._weights[f"{name}.bias"]
        smooth = self._scales.get(f"{after}.smooth")
        return (matrix, bias) if smooth is None else (matrix / smooth, bias / smooth)

    def of(self, x: str, name: str, where: str, matrix: NDArray[Any], bias: NDArray[Any] | None) -> str:
        g = self._g
        if self._probes is not None and where and where not in self._probes:
            self._probes.append(where)
            g.name(x, where)
        if f"{where}.range" in self._scales:
            y = g.add("MatMul", self._activations(x, where), self._integers(name, where, matrix))
        else:
            y = g.add("MatMul", x, g.constant(matrix, f"{name}.weight"))
        return y if bias is None else g.add("Add", y, g.constant(bias, f"{name}.bias"))

    def _activations(self, x: str, where: str) -> str:
        """x as 8-bit integers: zero falls on one, because softmax and gelu make much of it."""
        g = self._g
        if (x, where) not in self._quantized:
            low, high = (float(value) for value in self._scales[f"{where}.range"])
            step = (high - low) / 255
            scale = g.constant(np.array(step, np.float32), f"{where}.step")
            zero = g.constant(np.array(min(max(round(-low / step), 0), 255), np.uint8), f"{where}.zero")
            smooth = self._scales.get(f"{where}.smooth")
            y = x
            if smooth is not None and not where.endswith("attention.output"):  # there the values were divided already
                y = g.add("Mul", x, g.constant((1 / smooth).astype(np.float32), f"{where}.smooth"))
            y = g.add("QuantizeLinear", y, scale, zero)
            self._quantized[x, where] = g.add("DequantizeLinear", y, scale, zero)
        return self._quantized[x, where]

    def _integers(self, name: str, where: str, matrix: NDArray[Any]) -> str:
        """The matrix in int8, one scale a column."""
        g = self._g
        if (smooth := self._scales.get(f"{where}.smooth")) is not None:
            matrix = matrix * smooth[:, None]
        steps = np.maximum(np.abs(matrix).max(axis=0) / 127, 1e-8).astype(np.float32)
        integers = np.clip(np.round(matrix / steps), -127, 127).astype(np.int8)
        zeros = g.constant(np.zeros(len(steps), np.int8), f"{name}.zeros")
        scale = g.constant(steps, f"{name}.steps")
        return g.add("DequantizeLinear", g.constant(integers, f"{name}.integers"), scale, zeros, axis=1)


def bert_classifier(
    encoder: Encoder, weights: Tensors, scales: Tensors | None = None, *, probes: list[str] | None = None
) -> Any:
    """An onnx.ModelProto with inputs ids, mask, types (int64 [batch, tokens]) and output logits (float32 [batch]).

    `weights` holds fp32 tensors under Hugging Face's names without the `bert.` prefix, `scales` what
    `calibration.calibrate` gives. With a list of `probes`, what goes into the linear layers becomes outputs whose names
    are appended to it.
    """
    return bert_block(encoder, weights, 0, encoder.layers, scales, probes=probes)


def bert_block(
    encoder: Encoder,
    weights: Tensors,
    first: int,
    last: int,
    scales: Tensors | None = None,
    *,
    probes: list[str] | None = None,
) -> Any:
    """The layers from `first` up to, not including, `last`; blocks that follow one another are the classifier.

    The first block takes ids, mask and types, later ones hidden (float32 [batch, tokens, hidden]) and mask;
    the last gives logits, those before it hidden.
    """
    bert = Bert(encoder, weights, scales, probes)
    g, inputs = bert.g, ["ids", "mask", "types"] if first == 0 else ["hidden_in", "mask"]
    bias = bert.masked("mask")
    x = bert.embedded() if first == 0 else "hidden_in"
    for i in range(first, min(last, encoder.layers - 1)):
        x = bert.layer(x, i, lambda x, at: bert.attended(x, bias, at))
    if last < encoder.layers:
        g.name(x, "hidden")
        return finished(bert, inputs, {"hidden": ["batch", "tokens", encoder.hidden]})
    if last > first:  # what comes out of the last layer is needed for [CLS] alone
        whole, x = x, g.add("Slice", x, g.ints(0), g.ints(1), g.ints(1))
        x = bert.layer(x, encoder.layers - 1, lambda x, at: bert.attended_by_first(whole, x, bias, at))
    g.name(bert.classified(x), "logits")
    return finished(bert, inputs, {"logits": ["batch"]})


class Bert:
    """The parts of a BERT encoder, added to one graph `g`. Every method gives the name of what it added."""

    def __init__(self, encoder: Encoder, weights: Tensors, scales: Tensors | None, probes: list[str] | None) -> None:
        self.encoder, self.weights, self.scales, self.probes = encoder, weights, scales or {}, probes
        self.g = _Builder()
        self.linear = _Linears(self.g, weights, self.scales, probes)
        self.width = encoder.hidden // encoder.heads

    def weight(self, name: str) -> str:
        return self.g.constant(self.weights[name], name)

    def masked(self, mask: str) -> str:
        """Mask 1 -> 0, mask 0 -> MASKED, shaped [batch, 1, 1, tokens]."""
        g = self.g
        real = g.add("Unsqueeze", g.add("Cast", mask, to=1), g.ints(1, 2))  # 1: float32
        return g.add("Mul", g.add("Sub", g.number(1.0), real), g.number(MASKED))

    def normalised(self, x: str, name: str) -> str:
        weight, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.g.add("LayerNormalization", x, weight, bias, epsilon=self.encoder.epsilon)

    def activated(self, x: str) -> str:
        g = self.g
        if self.encoder.activation == "relu":
            return g.add("Relu", x)
        # x · ½ · (1 + erf(x / √2)), written so that both engines recognise it and fuse it
        erf = g.add("Erf", g.add("Div", x, g.constant(np.array(np.sqrt(2.0), np.float32), "sqrt2")))
        return g.add("Mul", g.add("Mul", x, g.add("Add", erf, g.number(1.0))), g.number(0.5))

    def embedded(self, *, types: bool = True) -> str:
        g = self.g
        length = g.add("Slice", g.add("Shape", "ids"), g.ints(1), g.ints(2), g.ints(0))
        table = self.weight("embeddings.position_embeddings.weight")
        positions = g.add("Slice", table, g.ints(0), length, g.ints(0))
        words = g.add("Gather", self.weight("embeddings.word_embeddings.weight"), "ids")
        if types:
            kinds = g.add("Gather", self.weight("embeddings.token_type_embeddings.weight"), "types")
        else:  # all of the first kind
            kinds = g.constant(self.weights["embeddings.token_type_embeddings.weight"][:1], "embeddings.kind")
        return self.normalised(g.add("Add", g.add("Add", words, kinds), positions), "embeddings.LayerNorm")

    def split(self, x: str) -> str:
        """[batch, tokens, hidden] -> [batch, heads, tokens, width]."""
        g = self.g
        return g.add("Transpose", g.add("Reshape", x, g.ints(0, -1, self.encoder.heads, self.width)), perm=[0, 2, 1, 3])

    def merged(self, x: str) -> str:
        """[batch, heads, tokens, width] -> [batch, tokens, hidden]."""
        return self.g.add(
            "Reshape", self.g.add("Transpose", x, perm=[0, 2, 1, 3]), self.g.ints(0, -1, self.encoder.hidden)
        )

    def projected(self, x: str, at: str) -> tuple[str, str, str]:
        """Query (divided by the root of its width), key and value of every token."""
        linear = self.linear
        query = self.split(linear(x, f"{at}.self.query", f"{at}.self", scale=1.0 / float(np.sqrt(self.width))))
        key = self.split(linear(x, f"{at}.self.key", f"{at}.self"))
        return query, key, self.split(linear(x, f"{at}.self.value", f"{at}.self", after=f"{at}.output"))

    def mixed(self, query: str, key: str, value: str, bias: str) -> str:
        g = self.g
        scores = g.add("Add", g.add("MatMul", query, g.add("Transpose", key, perm=[0, 1, 3, 2])), bias)
        return g.add("MatMul", g.add("Softmax", scores, axis=-1), value)

    def attended(self, x: str, bias: str, at: str) -> str:
        return self.merged(self.mixed(*self.projected(x, at), bias))

    def attended_by_first(self, x: str, first: str, bias: str, at: str) -> str:
        """What the first token alone sees: its query and its mixture go through the matrices, not all keys and values.

        q·(x W + b) = (q Wᵀ)·x + q·b, where q·b is the same for all tokens and falls out of the softmax;
        Σ pₗ (xₗ W + b) = (Σ pₗ xₗ) W + b, since the pₗ add up to 1.
        """
        g, linear, width = self.g, self.linear, self.width
        heads, hidden = self.encoder.heads, self.encoder.hidden
        key, _ = linear.weights(f"{at}.self.key")
        value, after = linear.weights(f"{at}.self.value", f"{at}.output")
        backwards = g.constant(key.reshape(-1, heads, width).transpose(1, 2, 0), f"{at}.self.key.backwards")
        forwards = g.constant(value.reshape(-1, heads, width).transpose(1, 0, 2), f"{at}.self.value.forwards")
        query = self.split(linear(first, f"{at}.self.query", scale=1.0 / float(np.sqrt(width))))
        # [batch, heads, hidden] by [batch, hidden, tokens], then [batch, heads, tokens] by [batch, tokens, hidden]
        asked = g.add("Reshape", g.add("MatMul", query, backwards), g.ints(0, heads, hidden))
        seen = g.add("MatMul", asked, g.add("Transpose", x, perm=[0, 2, 1]))
        shares = g.add("Softmax", g.add("Add", seen, g.add("Squeeze", bias, g.ints(1))), axis=-1)
        mixed = g.add("Reshape", g.add("MatMul", shares, x), g.ints(0, heads, 1, hidden))
        joined = g.add("Reshape", g.add("MatMul", mixed, forwards), g.ints(0, 1, hidden))
        return g.add("Add", joined, g.constant(after, f"{at}.self.value.bias"))

    def fed_forward(self, rows: str, at: str) -> str:
        g, linear = self.g, self.linear
        inward, outward = (f"{at}.{name}.dense" for name in ("intermediate", "output"))
        up, down = self.weights[f"{inward}.weight"].T, self.weights[f"{outward}.weight"].T
        rest, residual = self.weights[f"{inward}.bias"], rows
        if len(units := self.scales.get(f"{at}.units", ())):
            # units far outside the others' range compute in fp32 beside the integers, and are zero among them
            few = linear.of(rows, f"{inward}.units", "", up[:, units], rest[units])
            residual = g.add("Add", rows, linear.of(self.activated(few), f"{outward}.units", "", down[units], None))
            up, down, rest = up.copy(), down.copy(), rest.copy()
            up[:, units], down[units], rest[units] = 0, 0, 0
        inner = self.activated(linear.of(rows, inward, f"{at}.intermediate", up, rest))
        out = linear.of(inner, outward, f"{at}.output", down, self.weights[f"{outward}.bias"])
        return self.normalised(g.add("Add", out, residual), f"{at}.output.LayerNorm")

    def layer(self, x: str, i: int, attention: Callable[[str, str], str]) -> str:
        """One layer; `attention` gives, from its rows and its name, what they attend to."""
        at = f"encoder.layer.{i}"
        mixed = attention(x, f"{at}.attention")
        out = self.linear(mixed, f"{at}.attention.output.dense", f"{at}.attention.output")
        return self.fed_forward(self.normalised(self.g.add("Add", out, x), f"{at}.attention.output.LayerNorm"), at)

    def classified(self, x: str) -> str:
        g = self.g
        pooled = g.add("Tanh", self.linear(g.add("Reshape", x, g.ints(-1, self.encoder.hidden)), "pooler.dense"))
        return g.add("Reshape", self.linear(pooled, "classifier"), g.ints(-1))


def finished(bert: Bert, inputs: Sequence[str], outputs: Mapping[str, Sequence[str | int]]) -> Any:
    """An onnx.ModelProto with the inputs named, and what was probed as further outputs."""
    import onnx
    from onnx import TensorProto, helper

    hidden = bert.encoder.hidden
    shapes: dict[str, tuple[int, list[str | int]]] = {
        "ids": (TensorProto.INT64, ["batch", "tokens"]),
        "mask": (TensorProto.INT64, ["batch", "document tokens" if "query_mask" in inputs else "tokens"]),
        "types": (TensorProto.INT64, ["batch", "tokens"]),
        "query_mask": (TensorProto.INT64, [1, "query tokens"]),
        "hidden_in": (TensorProto.FLOAT, ["batch", "tokens", hidden]),
        "query": (TensorProto.FLOAT, ["queries", "query tokens", hidden]),
        "hidden": (TensorProto.FLOAT, ["batch", "document tokens", hidden]),
    }
    given = [helper.make_tensor_value_info(name, *shapes[name]) for name in inputs]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in outputs.items()]
    made += [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", None, None]) for n in bert.probes or ()]
    graph = helper.make_graph(bert.g.nodes, "bert", given, made, list(bert.g.constants.values()))
    # opset 17 is the first with LayerNormalization; ir_version 8 keeps older runtimes able to read it
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model
