"""Where the time of secondpass goes on one draw of a workload. `bench/peers.py` starts it, one profile a process.

    python where.py PROFILE FOLDER WORKLOAD.json THREADS

Prints one line of JSON: seconds of a pass (wall), of its batches in the engine (summed over workers), of
tokenizing alone, of stacking alone; and OpenVINO's time by kind of node over the same batches, from a graph compiled
anew with its counters on.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.batching import Batch, plan, stack
from secondpass.scoring.prepare import Prepared, prepare

PASSES = 5


def median_seconds(run: Any) -> float:
    """Median over the passes."""
    spent = []
    for _ in range(PASSES):
        began = time.perf_counter()
        run()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def by_node(graph: Path, precision: str, batches: list[Batch]) -> dict[str, Any]:
    """Share of OpenVINO's time by kind of node, and the kernels that the products ran in; one stream, one thread."""
    import openvino

    core = openvino.Core()
    lower = precision != "fp32" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16" if lower else "f32", "PERF_COUNT": True}
    options |= {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": 1}
    request = core.compile_model(core.read_model(graph), "CPU", options).create_infer_request()
    spent: Counter[str] = Counter()
    kernels: dict[str, Counter[str]] = {}
    for counted in (False, True):  # the first pass sets up the shapes
        for batch in batches:
            request.infer({"ids": batch.ids, "mask": batch.mask, "types": batch.types})
            for node in request.profiling_info if counted else ():
                seconds = node.real_time.total_seconds()
                spent[node.node_type] += seconds
                kernels.setdefault(node.node_type, Counter())[node.exec_type] += seconds
    total = sum(spent.values())
    return {
        "seconds": round(total, 4),
        "shares": {kind: round(seconds / total, 4) for kind, seconds in spent.most_common() if seconds > 0.002 * total},
        "kernels": {kind: kernels[kind].most_common(1)[0][0] for kind, _ in spent.most_common(4)},
    }


def main() -> None:
    """Measure one profile."""
    profile, place, workload, threads = sys.argv[1:]
    folder = Path(place).resolve()
    graphs = folder / "graphs" / profile
    model = CrossEncoder(folder / "checkpoint", profile=profile, threads=int(threads), cache_dir=graphs)
    scorer = model.scorer
    ((query, texts),) = json.loads(Path(workload).read_text(encoding="utf-8"))["draws"][0]
    model.score(query, texts)
    traces = []
    for _ in range(PASSES):
        scorer.tokens.clear()
        traces.append(model.score(query, texts).trace)
    middle = sorted(traces, key=lambda trace: trace.seconds)[PASSES // 2]

    def prepared() -> Prepared:
        scorer.tokens.clear()
        return prepare(scorer.checkpoint, query, texts, scorer.tokens)

    rows = [row for row in prepared().rows if row is not None]
    planned = list(plan([len(row.ids) for row in rows], scorer.batch_tokens, scorer.engine.workers))
    pad = scorer.checkpoint.pad

    def stacked() -> list[Batch]:
        return [stack(one, [rows[i] for i in one], pad, scorer.max_length) for one in planned]

    result: dict[str, Any] = {
        "profile": profile,
        "precision": scorer.engine.precision,
        "seconds": round(middle.seconds, 4),
        "workers": scorer.engine.workers,
        "engine_seconds_all_workers": round(middle.detail["cost"]["measured_s"], 4),
        "tokenizing_seconds": round(median_seconds(prepared), 5),
        "stacking_seconds": round(median_seconds(stacked), 5),
        "padded_share": round(1 - middle.tokens / middle.padded_tokens, 4),
        "batches": len(planned),
    }
    model.scorer.close()
    found = sorted(graphs.glob("*/graph.xml"), key=lambda path: path.stat().st_mtime)
    if scorer.engine.name == "openvino" and found:
        result["openvino"] = by_node(found[-1], scorer.engine.precision, stacked())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
