"""How much a reranker computes for each token, from the sizes in its config.json alone.

Knows: the matrices of each architecture. Refuses to know: machines, engines, seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["multiply_adds"]

_GATED = ("modernbert", "qwen2", "qwen3", "gemma", "gemma2", "llama", "mt5")
_DECODED = ("t5", "mt5")


def multiply_adds(kind: str, sizes: Mapping[str, Any], parameters: float = 0.0) -> float:
    """Multiply-adds for one token of a pair.

    With hidden h, a heads of width w (h / a where `sizes` do not say) and k heads of keys and values (a where they do
    not say), a layer has

        attention     h·a·w (queries) + 2·h·k·w (keys, values) + a·w·h (output)
        feed-forward  2·h·intermediate, or 3·h·intermediate where it is gated
        decoder       2·h·a·w more in T5 and mT5: each decoder layer projects the keys and values of every token

    Left out is what depends on the length (attention's own products), what is done once a pair (heads, a decoder's one
    step), and looking up embeddings. Gated are ModernBERT, Qwen, Gemma, Llama and mT5; of a model with code of its own
    it is whichever comes nearer to `parameters`, its published number of them in millions.
    """
    h, heads, layers = int(sizes["hidden"]), int(sizes["heads"]), int(sizes["layers"])
    width = int(sizes.get("head_width", h // heads))
    pairs = int(sizes.get("kv_heads", heads))
    attention = 2 * h * heads * width + 2 * h * pairs * width
    if kind in _DECODED:
        attention += 2 * h * heads * width
    feeding = h * int(sizes["intermediate"])
    plain, gated = (float(layers * (attention + matrices * feeding)) for matrices in (2, 3))
    if kind != "remote":
        return gated if kind in _GATED else plain
    stated = 1e6 * parameters - h * int(sizes["vocabulary"])
    return min(plain, gated, key=lambda one: abs(one - stated))
