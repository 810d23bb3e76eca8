"""What the ONNX graphs of all encoders are made of: nodes, linear layers, attention's common parts.

Knows: operators, and in which form both engines fuse them. Refuses to know: architectures, files, engines, tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import ModelError

__all__ = ["ACTIVATIONS", "MASKED", "Builder", "Parts", "Tensors", "checked", "classifier", "fits_memory", "saved"]

MASKED = -10_000.0  # large enough to vanish in a softmax, small enough for bf16
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "tanh")  # as transformers names them

_LARGEST = 2**31 - 2**22  # bytes of constants: an ONNX file may have 2 GB, and the nodes need some

Tensors = Mapping[str, NDArray[Any]]


class Builder:
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

    def activated(self, x: str, kind: str) -> str:
        """One of ACTIVATIONS; gelu in the form that both engines recognise and fuse, gelu by tanh in OpenVINO's."""
        if kind in ("relu", "tanh"):
            return self.add(kind.capitalize(), x)
        if kind == "gelu":  # x · ½ · (1 + erf(x / √2))
            erf = self.add("Erf", self.add("Div", x, self.constant(np.array(np.sqrt(2.0), np.float32), "sqrt2")))
            return self.add("Mul", self.add("Mul", x, self.add("Add", erf, self.number(1.0))), self.number(0.5))
        if kind not in ACTIVATIONS:
            raise ModelError(f"the activation {kind!r} is not supported; supported are {', '.join(ACTIVATIONS)}")
        # x · ½ · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))
        cube = self.add("Mul", self.add("Pow", x, self.number(3.0)), self.number(0.044715))
        root = self.constant(np.array(np.sqrt(2 / np.pi), np.float32), "sqrt2overpi")
        tanh = self.add("Tanh", self.add("Mul", self.add("Add", x, cube), root))
        return self.add("Mul", self.add("Mul", x, self.number(0.5)), self.add("Add", tanh, self.number(1.0)))

    def name(self, what: str, name: str) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node("Identity", [what], [name], name=name))


class _Linears:
    """x · W + b, in fp32, or on integers where `scales` has the range of x; `where` says which x it is."""

    def __init__(self, g: Builder, weights: Tensors, scales: Tensors, probes: list[str] | None) -> None:
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


class Parts:
    """What encoders have in common, added to one graph `g`. Every method gives the name of what it added."""

    def __init__(
        self,
        weights: Tensors,
        *,
        hidden: int,
        heads: int,
        epsilon: float,
        norm_bias: bool = True,
        scales: Tensors | None = None,
        probes: list[str] | None = None,
    ) -> None:
        self.weights, self.hidden, self.heads, self.epsilon = weights, hidden, heads, epsilon
        self.scales, self.probes = scales or {}, probes
        self._of_norm = ("weight", "bias") if norm_bias else ("weight",)
        self.g = Builder()
        self.linear = _Linears(self.g, weights, self.scales, probes)
        self.width = hidden // heads

    def weight(self, name: str) -> str:
        return self.g.constant(self.weights[name], name)

    def masked(self, mask: str) -> str:
        """Mask 1 -> 0, mask 0 -> MASKED, shaped [batch, 1, 1, tokens]."""
        g = self.g
        real = g.add("Unsqueeze", g.add("Cast", mask, to=1), g.ints(1, 2))  # 1: float32
        return g.add("Mul", g.add("Sub", g.number(1.0), real), g.number(MASKED))

    def normalised(self, x: str, name: str) -> str:
        of_norm = [self.weight(f"{name}.{part}") for part in self._of_norm]
        return self.g.add("LayerNormalization", x, *of_norm, epsilon=self.epsilon)

    def first(self, x: str) -> str:
        """[batch, tokens, hidden] -> [batch, 1, hidden]."""
        g = self.g
        return g.add("Slice", x, g.ints(0), g.ints(1), g.ints(1))

    def split(self, x: str) -> str:
        """[batch, tokens, hidden] -> [batch, heads, tokens, width]."""
        g = self.g
        return g.add("Transpose", g.add("Reshape", x, g.ints(0, -1, self.heads, self.width)), perm=[0, 2, 1, 3])

    def merged(self, x: str) -> str:
        """[batch, heads, tokens, width] -> [batch, tokens, hidden]."""
        return self.g.add("Reshape", self.g.add("Transpose", x, perm=[0, 2, 1, 3]), self.g.ints(0, -1, self.hidden))

    def mixed(self, query: str, key: str, value: str, bias: str) -> str:
        g = self.g
        scores = g.add("Add", g.add("MatMul", query, g.add("Transpose", key, perm=[0, 1, 3, 2])), bias)
        return g.add("MatMul", g.add("Softmax", scores, axis=-1), value)

    def forwards(self, matrix: NDArray[Any], name: str) -> str:
        """The values' matrix, [in, hidden], head by head, as `mixed_by_first` takes it."""
        return self.g.constant(matrix.reshape(-1, self.heads, self.width).transpose(1, 0, 2), f"{name}.forwards")

    def mixed_by_first(self, shares: str, x: str, forwards: str) -> str:
        """What one row makes of all values, [batch, 1, hidden], from its shares, [batch, heads, tokens], of x.

        Σ pₗ (xₗ W + b) = (Σ pₗ xₗ) W + b, since the pₗ add up to 1: a mixture goes through W instead of every token.
        """
        g = self.g
        mixed = g.add("Reshape", g.add("MatMul", shares, x), g.ints(0, self.heads, 1, self.hidden))
        return g.add("Reshape", g.add("MatMul", mixed, forwards), g.ints(0, 1, self.hidden))

    def read_by_first(self, scores: str, x: str, name: str, matrix: NDArray[Any], bias: NDArray[Any] | None) -> str:
        """What one row with these scores, [batch, heads, 1, tokens], reads of x through the values' matrix and bias."""
        g = self.g
        shares = g.add("Squeeze", g.add("Softmax", scores, axis=-1), g.ints(2))
        mixed = self.mixed_by_first(shares, x, self.forwards(matrix, name))
        return mixed if bias is None else g.add("Add", mixed, g.constant(bias, f"{name}.bias"))

    def classified(self, x: str, activation: str) -> str:
        """Logits, [batch], from [batch, 1, hidden]: pooler, its activation, classifier."""
        g = self.g
        pooled = g.activated(self.linear(g.add("Reshape", x, g.ints(-1, self.hidden)), "pooler.dense"), activation)
        return g.add("Reshape", self.linear(pooled, "classifier"), g.ints(-1))


def checked(g: Builder, inputs: Sequence[Any], outputs: Sequence[Any], name: str) -> Any:
    """An onnx.ModelProto of what `g` holds; inputs and outputs are onnx.ValueInfoProto."""
    import onnx
    from onnx import helper

    def model(given: list[Any], held: list[Any]) -> Any:
        graph = helper.make_graph(g.nodes, name, given, list(outputs), held)
        # opset 17 is the first with LayerNormalization; ir_version 8 keeps older runtimes able to read it
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    constants = list(g.constants.values())
    of_constants = [helper.make_tensor_value_info(one.name, one.data_type, one.dims) for one in constants]
    onnx.checker.check_model(
        model([*inputs, *of_constants], [])
    )  # it takes no more than 2 GB, and some models are more
    return model(list(inputs), constants)


def saved(model: Any, folder: Path) -> Path:
    """Write graph.onnx and return its path; the constants of one too large for a file lie in graph.data beside it.

    The model is spent by it: its constants have moved to the file.
    """
    import onnx

    path = folder / "graph.onnx"
    onnx.save_model(model, path, save_as_external_data=not fits_memory(model), location="graph.data")
    return path


def fits_memory(model: Any) -> bool:
    """Whether it can be one message of bytes."""
    # what the message says of its own size ends at 2 GB too
    return sum(len(one.raw_data) for one in model.graph.initializer) <= _LARGEST


def classifier(g: Builder, inputs: Sequence[str], name: str) -> Any:
    """The graph of a classifier: `inputs`, int64 [batch, tokens], to logits, float32 [batch]."""
    from onnx import TensorProto, helper

    given = [helper.make_tensor_value_info(one, TensorProto.INT64, ["batch", "tokens"]) for one in inputs]
    return checked(g, given, [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch"])], name)
