"""The ModernBERT classifier as an ONNX graph, built straight from the weights.

Knows: what differs from BERT: norms come first and have no bias, positions are rotations, two layers of three look at
their neighbours only, and the feed-forward is gated. Refuses to know: files, engines, tokens. What an exporter would
not do: where the first row alone is read, the last layer computes for it alone; query, key and value, and the two
halves of the gate, are matrices of their own, so that nothing is cut apart afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import ModelError
from secondpass.scoring.graph_parts import MASKED, Parts, Tensors, classifier

__all__ = ["modernbert_classifier"]

_FULL, _LOCAL = "full_attention", "sliding_attention"
_THETAS = {_FULL: ("global_rope_theta", 160_000.0), _LOCAL: ("local_rope_theta", 10_000.0)}  # key before transformers 5
_BIASES = {  # what config.json says of them, and one of each
    "attention_bias": "layers.0.attn.Wqkv.bias",
    "mlp_bias": "layers.0.mlp.Wi.bias",
    "norm_bias": "final_norm.bias",
    "classifier_bias": "head.dense.bias",
}
_END = 2**31 - 1  # beyond every length; 2⁶³ − 1 was seen to come back from OpenVINO's cache as −1


def modernbert_classifier(config: Mapping[str, Any], weights: Tensors) -> Any:
    """An onnx.ModelProto with inputs ids, mask (int64 [batch, tokens]) and output logits (float32 [batch]).

    `config` is config.json, of transformers 4 or 5; `weights` holds fp32 tensors under Hugging Face's names without the
    `model.` prefix. Raises ModelError for an option that is not supported.
    """
    if (pooling := config.get("classifier_pooling", "cls")) not in ("cls", "mean"):
        raise ModelError(f"classifier_pooling {pooling!r} is not supported, only 'cls' and 'mean'")
    for key, name in _BIASES.items():
        if bool(config.get(key, False)) != (name in weights):
            raise ModelError(f"config.json says {key} = {config.get(key, False)}, and the weights differ: see {name!r}")
    model, first = _ModernBert(config, weights), pooling == "cls"
    g = model.g
    x = model.embedded()
    last = len(model.layers) - 1
    for i in range(last):
        x = model.layer(x, i)
    x = model.normalised(model.layer(x, last, only_first=first), "final_norm")
    g.name(model.scored(x if first else model.mean(x)), "logits")
    return classifier(g, ["ids", "mask"], "modernbert")


def _layers(config: Mapping[str, Any]) -> list[str]:
    """What each layer attends to."""
    every = int(config.get("global_attn_every_n_layers", 3))
    count = int(config["num_hidden_layers"])
    layers = config.get("layer_types") or [_LOCAL if i % every else _FULL for i in range(count)]
    if len(layers) != count or not set(layers) <= {_FULL, _LOCAL}:
        raise ModelError(f"layer_types is {layers}; {count} of {_FULL!r} and {_LOCAL!r} are expected")
    return list(layers)


def _theta(config: Mapping[str, Any], kind: str) -> float:
    """The base of the rotations in layers of that kind."""
    stated = {**((config.get("rope_parameters") or {}).get(kind) or {}), **(config.get("rope_scaling") or {})}
    if (how := stated.get("rope_type", stated.get("type", "default"))) != "default":
        raise ModelError(f"rotary positions of type {how!r} are not supported, only 'default'")
    key, default = _THETAS[kind]
    theta = stated.get("rope_theta") or config.get(key, default)
    return _theta(config, _FULL) if theta is None else float(theta)  # as transformers 4 reads a local one of null


def _rotations(theta: float, positions: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines and sines, each [1, 1, positions, width]; the angles in fp32 as the model was trained with them."""
    frequencies = 1 / np.float32(theta) ** (np.arange(0, width, 2, dtype=np.float32) / np.float32(width))
    angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies
    angles = np.tile(angles, 2)[None, None]
    return np.cos(angles), np.sin(angles)


class _ModernBert(Parts):
    """The parts of a ModernBERT. Every method gives the name of what it added."""

    def __init__(self, config: Mapping[str, Any], weights: Tensors) -> None:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        epsilon, biased = float(config.get("norm_eps", 1e-5)), bool(config.get("norm_bias", False))
        super().__init__(weights, hidden=hidden, heads=heads, epsilon=epsilon, norm_bias=biased)
        self.layers = _layers(config)
        self._activation = str(config.get("hidden_activation", "gelu"))
        self._head_activation = str(config.get("classifier_activation", "gelu"))
        g, positions = self.g, int(config["max_position_embeddings"])
        self._length = g.add("Slice", g.add("Shape", "ids"), g.ints(1), g.ints(2), g.ints(0))
        self._cosines, self._sines, self._bias = {}, {}, {_FULL: self.masked("mask")}
        for kind in sorted(set(self.layers)):
            tables = _rotations(_theta(config, kind), positions, self.width)
            self._cosines[kind], self._sines[kind] = (
                g.add("Slice", g.constant(table, f"{name}.{kind}"), g.ints(0), self._length, g.ints(2))
                for table, name in zip(tables, ("cos", "sin"), strict=True)
            )
        if _LOCAL in self.layers:
            reach = int(config.get("local_attention", 128)) // 2
            self._bias[_LOCAL] = g.add("Add", self._bias[_FULL], self._far(reach))

    def _far(self, reach: int) -> str:
        """0 for tokens up to `reach` apart, else MASKED, [tokens, tokens]."""
        g = self.g
        zero, one = (g.constant(np.array(value), name) for value, name in ((0, "zero"), (1, "one")))
        places = g.add("Range", zero, g.add("Squeeze", self._length), one)
        apart = g.add("Abs", g.add("Sub", g.add("Unsqueeze", places, g.ints(1)), places))
        far = g.add("Greater", apart, g.constant(np.array(reach), "reach"))
        return g.add("Mul", g.add("Cast", far, to=1), g.number(MASKED))  # 1: float32

    def _dense(self, x: str, name: str, rows: slice = slice(None), part: str = "", scale: float = 1.0) -> str:
        """x through these rows of a matrix, and of its bias where there is one."""
        matrix, bias = self._rows(name, rows, scale)
        return self.linear.of(x, f"{name}{part}", "", matrix, bias)

    def _rows(self, name: str, rows: slice, scale: float = 1.0) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """W, [in, out], and b."""
        bias = self.weights.get(f"{name}.bias")
        factor = np.float32(scale)
        return self.weights[f"{name}.weight"][rows].T * factor, None if bias is None else bias[rows] * factor

    def embedded(self) -> str:
        words = self.g.add("Gather", self.weight("embeddings.tok_embeddings.weight"), "ids")
        return self.normalised(words, "embeddings.norm")

    def _rotated(self, x: str, kind: str) -> str:
        """x [batch, heads, tokens, width], each token's halves turned against each other by its position.

        In just this form, tables of four dimensions included, OpenVINO makes one node of it and the transpose before.
        """
        g, half = self.g, self.width // 2
        left = g.add("Slice", x, g.ints(0), g.ints(half), g.ints(3))
        right = g.add("Slice", x, g.ints(half), g.ints(_END), g.ints(3))
        turned = g.add("Concat", g.add("Mul", right, g.number(-1.0)), left, axis=-1)
        straight = g.add("Mul", x, self._cosines[kind])
        return g.add("Add", straight, g.add("Mul", turned, self._sines[kind]))

    def layer(self, x: str, i: int, *, only_first: bool = False) -> str:
        """Layer i; with `only_first` what comes out of it for the first row alone, [batch, 1, hidden]."""
        g, at = self.g, f"layers.{i}"
        seen = self.normalised(x, f"{at}.attn_norm") if i else x
        mixed = self._attended_by_first(seen, i) if only_first else self._attended(seen, i)
        x = g.add("Add", self.first(x) if only_first else x, self._dense(mixed, f"{at}.attn.Wo"))
        return g.add("Add", x, self._fed_forward(self.normalised(x, f"{at}.mlp_norm"), at))

    def _query(self, x: str, name: str) -> str:
        """Query, divided by the root of its width."""
        return self.split(self._dense(x, name, slice(0, self.hidden), ".query", 1.0 / float(np.sqrt(self.width))))

    def _key(self, x: str, name: str, kind: str) -> str:
        return self._rotated(self.split(self._dense(x, name, slice(self.hidden, 2 * self.hidden), ".key")), kind)

    def _attended(self, x: str, i: int) -> str:
        name, kind = f"layers.{i}.attn.Wqkv", self.layers[i]
        query, key = self._rotated(self._query(x, name), kind), self._key(x, name, kind)
        value = self.split(self._dense(x, name, slice(2 * self.hidden, None), ".value"))
        return self.merged(self.mixed(query, key, value, self._bias[kind]))

    def _attended_by_first(self, x: str, i: int) -> str:
        """What the first token alone sees; its query needs no rotation."""
        g, name, kind = self.g, f"layers.{i}.attn.Wqkv", self.layers[i]
        query, key = self._query(self.first(x), name), self._key(x, name, kind)
        bias = self._bias[kind]
        if kind == _LOCAL:
            bias = g.add("Slice", bias, g.ints(0), g.ints(1), g.ints(2))
        scores = g.add("Add", g.add("MatMul", query, g.add("Transpose", key, perm=[0, 1, 3, 2])), bias)
        return self.read_by_first(scores, x, f"{name}.value", *self._rows(name, slice(2 * self.hidden, None)))

    def _fed_forward(self, x: str, at: str) -> str:
        g, name = self.g, f"{at}.mlp.Wi"
        half = len(self.weights[f"{name}.weight"]) // 2
        inner = g.activated(self._dense(x, name, slice(0, half), ".inner"), self._activation)
        return self._dense(g.add("Mul", inner, self._dense(x, name, slice(half, None), ".gate")), f"{at}.mlp.Wo")

    def mean(self, x: str) -> str:
        """The mean of the real tokens, [batch, 1, hidden]."""
        g = self.g
        real = g.add("Cast", "mask", to=1)  # 1: float32
        total = g.add("MatMul", g.add("Unsqueeze", real, g.ints(1)), x)
        count = g.add("ReduceSum", real, g.ints(1))
        return g.add("Div", total, g.add("Unsqueeze", count, g.ints(2)))

    def scored(self, x: str) -> str:
        """Logits, [batch], from [batch, 1, hidden]: dense layer, its activation, norm, classifier."""
        g = self.g
        inner = self._dense(g.add("Reshape", x, g.ints(-1, self.hidden)), "head.dense")
        pooled = self.normalised(g.activated(inner, self._head_activation), "head.norm")
        return g.add("Reshape", self._dense(pooled, "classifier"), g.ints(-1))
