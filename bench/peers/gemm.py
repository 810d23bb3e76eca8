"""The most multiplications a second that this machine gives: the limit which engines are measured against.

    python gemm.py numpy WIDTH INNER THREADS      one line of JSON: the best rate of numpy in fp32
    python gemm.py serve WIDTH INNER THREADS      finds OpenVINO's best sizes, then measures anew for each line read

Chains of products of [tokens, WIDTH] × [WIDTH, INNER] and back, as in the feed-forward part of a layer, with nothing
between them but what int8 needs; one stream a thread or one for all, whichever is faster. Rates are in operations a
second, two (multiply and add) for each element.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

TOKENS = (64, 128, 256, 512, 1024, 2048)
CHAIN = 4  # pairs of products in one graph
SEARCH_SECONDS, TURN_SECONDS = 0.3, 0.5


def rate(runs: Sequence[Callable[[], Any]], operations: float, seconds: float) -> float:
    """Operations a second, with every run in a thread of its own again and again."""

    def repeat(run: Callable[[], Any]) -> float:
        run()
        count, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds:
            run()
            count += 1
        return count * operations / spent

    with ThreadPoolExecutor(len(runs)) as pool:
        return sum(pool.map(repeat, runs))


def numpy_fp32(width: int, inner: int) -> dict[str, Any]:
    """The best rate over the sizes, with numpy's own threads."""
    draw, best = np.random.default_rng(0), (0.0, 0)
    there = draw.standard_normal((width, inner), dtype=np.float32)
    back = draw.standard_normal((inner, width), dtype=np.float32)
    for tokens in TOKENS:
        x = draw.standard_normal((tokens, width), dtype=np.float32)
        middle, out = np.empty((tokens, inner), np.float32), np.empty((tokens, width), np.float32)

        def run(
            x: np.ndarray[Any, Any] = x,
            middle: np.ndarray[Any, Any] = middle,
            out: np.ndarray[Any, Any] = out,
        ) -> None:
            np.matmul(x, there, out=middle)
            np.matmul(middle, back, out=out)

        best = max(best, (rate([run], 4.0 * tokens * width * inner, SEARCH_SECONDS), tokens))
    return {"rate": best[0], "tokens": best[1]}


def graph(tokens: int, width: int, inner: int, precision: str) -> Any:
    """An OpenVINO model of the chain."""
    import openvino
    from openvino import opset13 as ops

    draw = np.random.default_rng(0)

    def number(value: float) -> Any:
        return ops.constant(np.array(value, dtype=np.float32))

    x = entry = ops.parameter([tokens, width], np.float32)
    for _ in range(CHAIN):
        for shape in ((width, inner), (inner, width)):
            weights = ops.constant((draw.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32))
            if precision == "int8":  # unsigned × signed, the fastest kind
                x = ops.fake_quantize(x, number(0.0), number(2.55), number(0.0), number(2.55), 256)
                ends = number(-1.27), number(1.27)
                weights = ops.fake_quantize(weights, *ends, *ends, 255)
            x = ops.matmul(x, weights, False, False)
    return openvino.Model([x], [entry], "chain")


def compiled(tokens: int, width: int, inner: int, precision: str, streams: int, threads: int) -> tuple[list[Any], str]:
    """One infer function a stream, and the precision that the products run in."""
    import openvino

    model = openvino.Core().compile_model(
        graph(tokens, width, inner, precision),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
            "NUM_STREAMS": str(streams),
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
        },
    )
    kinds = {
        node.get_rt_info()["runtimePrecision"].astype(str)
        for node in model.get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].astype(str) in ("FullyConnected", "MatMul")
    }
    x = np.random.default_rng(0).standard_normal((tokens, width), dtype=np.float32)
    requests = [model.create_infer_request() for _ in range(streams)]
    return [lambda request=request: request.infer([x]) for request in requests], "/".join(sorted(kinds))


def serve(width: int, inner: int, threads: int) -> None:
    """Search, say what was found, then answer every line with the rates of this moment."""
    import openvino

    abilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    precisions = ["fp32", *(["bf16"] if "BF16" in abilities else []), *(["int8"] if "INT8" in abilities else [])]
    operations = 4.0 * CHAIN * width * inner
    chosen: dict[str, tuple[list[Any], float]] = {}
    found: dict[str, Any] = {}
    for precision in precisions:
        best = 0.0
        for tokens in TOKENS:
            for streams in sorted({1, threads}):
                runs, kind = compiled(tokens, width, inner, precision, streams, threads)
                reached = rate(runs, operations * tokens, SEARCH_SECONDS)
                if reached > best:
                    best, chosen[precision] = reached, (runs, operations * tokens)
                    found[precision] = {"rate": reached, "tokens": tokens, "streams": streams, "kind": kind}
    print(json.dumps({"ready": found}), flush=True)
    for _ in sys.stdin:
        rates = {name: rate(runs, size, TURN_SECONDS) for name, (runs, size) in chosen.items()}
        print(json.dumps({"rates": rates}), flush=True)


if __name__ == "__main__":
    what, *sizes = sys.argv[1:]
    numbers = [int(size) for size in sizes]
    if what == "numpy":
        print(json.dumps(numpy_fp32(numbers[0], numbers[1])))
    else:
        serve(*numbers)
