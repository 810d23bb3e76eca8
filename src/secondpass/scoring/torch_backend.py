"""Classifiers and split encoders in torch, on packed tokens: for GPUs, and for comparing with on a CPU.

Knows: torch's devices, precisions and CUDA graphs. Refuses to know: texts, rankings, what the layers compute (see
`torch_layers` and `torch_split`). Importing this module needs the extra `torch`.

Attention is torch's `varlen_attn` (torch >= 2.10, an NVIDIA GPU from Ampere on, half precision), which takes rows of
any length side by side; elsewhere rows are padded for attention alone. Which it was, and why, is in the engine's `why`.

    profile   CUDA                        MPS    CPU
    exact     fp32                        fp32   fp32
    default   bf16, before Ampere fp16    fp16   bf16 where the CPU has it, else fp32
    fast      fp16                        fp16   as default

bf16 and fp16 run at one speed on a GPU. bf16 has fp32's range, so no checkpoint overflows in it; fp16 rounds eight
times finer and ends at 65,504.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import ModelError
from secondpass.extras import require
from secondpass.scoring.batching import Batch
from secondpass.scoring.checkpoint import Checkpoint
from secondpass.scoring.engines import PROFILES, Begun, Engine, Logits
from secondpass.scoring.torch_layers import (
    Attention,
    Classifier,
    Packed,
    Weights,
    arrays_of,
    pack,
    packed_attention,
    padded,
    padded_attention,
)
from secondpass.scoring.torch_split import Sides, SplitModel, joined, tokens_of

if TYPE_CHECKING:
    import torch
else:
    torch = require("torch", extra="torch", purpose="scoring with torch")

__all__ = ["BATCH_TOKENS", "DTYPES", "PIECE", "Place", "device_of", "open_torch", "precision_of"]

F = torch.nn.functional

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BATCH_TOKENS = 32_768  # enough that a GPU computes rather than starts kernels
PIECE = 128  # texts tokenized while the GPU works on those before
_GRAPHS, _GRAPH_TOKENS = 16, 16_384  # CUDA graphs at most, and the largest batch that gets one


class _Graphs:
    """CUDA graphs of the forward, one for each rounded size, captured at the second batch of that size.

    One launch then stands for some hundred; it pays where a batch is so small that starting its kernels takes longer
    than running them. Not thread-safe: the caller holds a lock.
    """

    def __init__(self, model: Classifier) -> None:
        self._model = model
        self._graphs: dict[tuple[int, int, int], tuple[Any, torch.Tensor, torch.Tensor]] = {}
        self._seen: set[tuple[int, int, int]] = set()
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()

    def __call__(self, batch: Batch) -> torch.Tensor | None:
        """Logits [R], valid until the next call; None where there is no graph for a batch like this."""
        rows, width = batch.ids.shape
        size = (_rounded(int(batch.mask.sum()), 512), _rounded(rows, 8), _rounded(width, 128))
        tokens, full = size[0], len(self._graphs) == _GRAPHS
        if size not in self._graphs and (full or tokens > _GRAPH_TOKENS or size not in self._seen):
            self._seen.add(size)
            return None
        arrays = torch.from_numpy(arrays_of(batch, tokens, size[1])).pin_memory()
        if size not in self._graphs:
            self._graphs[size] = self._capture(arrays, tokens, size[2])
        graph, fixed, logits = self._graphs[size]
        fixed.copy_(arrays, non_blocking=True)
        graph.replay()
        return logits[:rows]

    def _capture(self, arrays: torch.Tensor, tokens: int, width: int) -> tuple[Any, torch.Tensor, torch.Tensor]:
        fixed = arrays.to("cuda")
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):  # what libraries set up at first use must not be captured
            self._model(pack(fixed, tokens, width))
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads may wait for their batches meanwhile
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            logits = self._model(pack(fixed, tokens, width))
        return graph, fixed, logits


def _rounded(count: int, least: int) -> int:
    """Up to a quarter of a power of two: few sizes, and a quarter more than asked for at most."""
    step = max(1 << max(count.bit_length() - 3, 0), least)
    return -(-count // step) * step


def device_of(name: str) -> torch.device:
    """Raises ModelError where it is not there, saying what is."""
    mps = torch.backends.mps.is_available()
    found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *(["mps"] if mps else [])]
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in found:
        hint = "; see https://pytorch.org/get-started/locally for a torch with CUDA" if wanted[:4] == "cuda" else ""
        raise ModelError(
            f"device {name!r} is not available; torch {torch.__version__} has {', '.join(found)} here{hint}"
        )
    return torch.device(wanted)


def _rounds(device: torch.device) -> bool:
    """Whether fp32 products are rounded to TF32 or bf16 here, asked by computing one: torch's own answers have changed
    from version to version, and it is the process's setting, not ours to change."""
    x = torch.full((256, 256), 1 + 2.0**-13, device=device)  # one bit more than TF32 has
    return bool((x @ torch.eye(256, device=device) != x).any())


def precision_of(device: torch.device, profile: str) -> tuple[str, str]:
    """fp32, bf16 or fp16, and why."""
    if profile == "exact":
        if _rounds(device):
            raise ModelError(
                "profile 'exact' needs products in full fp32, and this process has torch round them; "
                "call torch.set_float32_matmul_precision('highest'), or take profile='default'"
            )
        return "fp32", "profile exact"
    if device.type == "cpu":
        # an older torch cannot be asked; fp32 is right everywhere
        abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        bf16 = any(abilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
        return ("bf16", "the CPU has bf16") if bf16 else ("fp32", "torch knows of no bf16 in this CPU")
    if device.type == "mps":
        return "fp16", "what MPS is fastest in"
    if profile == "fast":
        return "fp16", "profile fast"
    major, minor = torch.cuda.get_device_capability(device)
    if major >= 8:
        return "bf16", f"the GPU has bf16 (compute capability {major}.{minor})"
    return "fp16", f"the GPU has no bf16 (compute capability {major}.{minor})"


@dataclass(frozen=True, slots=True)
class Place:
    """A device that several threads hand work to, one at a time; they wait for what it computes outside of that."""

    device: torch.device
    turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def cuda(self) -> bool:
        return bool(self.device.type == "cuda")

    @property
    def name(self) -> str:
        return str(torch.cuda.get_device_name(self.device) if self.cuda else self.device.type)

    @property
    def workers(self) -> int:
        return 2 if self.cuda else 1  # one tokenizes while the other waits for the GPU

    def current(self) -> Any:
        """A context in which the device is the current one; that belongs to the thread, so each call sets it."""
        return torch.cuda.device(self.device) if self.cuda else nullcontext()

    def sent(self, array: NDArray[Any]) -> torch.Tensor:
        """The array, on the device."""
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.cuda else tensor.to(self.device)

    def computed(self, work: Callable[[], Sequence[torch.Tensor]]) -> list[NDArray[np.float32]]:
        """What `work` gives, brought from the device. Two works never run at once."""
        with torch.inference_mode(), self.current():
            with self.turn:
                made = work()
                if not self.cuda:
                    return [np.array(one.float().cpu().numpy()) for one in made]
                # into pinned memory, so that waiting for this batch is not waiting for the next one too
                hosts = [torch.empty(one.shape, dtype=torch.float32, pin_memory=True) for one in made]
                for host, one in zip(hosts, made, strict=True):
                    host.copy_(one, non_blocking=True)
                ready = torch.cuda.current_stream().record_event()
            ready.synchronize()
            return [np.array(host.numpy()) for host in hosts]


def _attention(checkpoint: Checkpoint, device: torch.device, precision: str) -> tuple[Attention, str]:
    """How rows of different length attend, and why."""
    width = checkpoint.encoder.hidden // checkpoint.encoder.heads
    if device.type != "cuda":
        why = "varlen_attn is for CUDA"
    elif torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] < 8:
        why = "varlen_attn needs an NVIDIA GPU from Ampere on"
    elif precision == "fp32":
        why = "varlen_attn has no fp32"
    elif width % 8 or width > 256:
        why = f"varlen_attn takes heads of 8, 16 … 256, not {width}"
    else:
        try:
            from torch.nn.attention import varlen  # noqa: F401 - only whether it is there
        except ImportError:
            why = f"torch {torch.__version__} has no varlen_attn; 2.10 does"
        else:
            return packed_attention, "packed attention (varlen_attn)"
    return padded_attention, f"padded attention ({why})"


_Sent = Callable[[NDArray[Any]], torch.Tensor]
"""An array -> it on the device."""
_Computed = Callable[[Callable[[], Sequence[torch.Tensor]]], list[NDArray[np.float32]]]
"""What computes there -> what it gave, back from there."""


def _packed(batch: Batch, sent: _Sent) -> Packed:
    tokens = int(batch.mask.sum())
    return pack(sent(arrays_of(batch, tokens, len(batch.mask))), tokens, batch.ids.shape[1])


def _classifying(model: Classifier, graphs: bool, sent: _Sent, computed: _Computed) -> Callable[[Batch], Logits]:
    """What an engine's `infer` is for a classifier."""
    replay = _Graphs(model) if graphs else None

    def infer(batch: Batch) -> Logits:
        def work() -> Sequence[torch.Tensor]:
            replayed = None if replay is None else replay(batch)
            return (model(_packed(batch, sent)) if replayed is None else replayed,)

        return computed(work)[0]

    return infer


def _split_passes(
    model: SplitModel, sent: _Sent, computed: _Computed
) -> tuple[
    Callable[[Batch], Logits],
    Callable[[Batch], Begun],
    Callable[[Batch, NDArray[np.float32], NDArray[np.float32]], Logits],
]:
    """What an engine's `infer`, `begin` and `finish` are for a split encoder."""

    def asked(batch: Batch) -> int:
        return int(batch.shared()[1].sum())

    def read(batch: Batch) -> Sides:
        return model.read(_packed(joined(batch), sent), asked(batch))

    def infer(batch: Batch) -> Logits:
        return computed(lambda: (model.compare(read(batch)),))[0]

    def begin(batch: Batch) -> Begun:
        query_width, width = batch.shared()[0].shape[1], batch.ids.shape[1]

        def work() -> Sequence[torch.Tensor]:
            sides = read(batch)
            query = F.pad(sides.query, (0, 0, 0, query_width - len(sides.query))).unsqueeze(0)
            # the rows read together are as wide as the longest of both sides
            return model.lower_logits(sides), query, padded(sides.documents, sides.rows)[:, :width]

        return Begun(*computed(work))

    def finish(batch: Batch, query: NDArray[np.float32], documents: NDArray[np.float32]) -> Logits:
        def work() -> Sequence[torch.Tensor]:
            x = sent(tokens_of(batch, query, documents)).to(model.dtype)
            return (model.compare(Sides.cut(x, _packed(joined(batch), sent).rows, asked(batch))),)

        return computed(work)[0]

    return infer, begin, finish


def open_torch(checkpoint: Checkpoint, *, device: str, profile: str, graphs: bool = False) -> Engine:
    """The checkpoint on a device that torch knows: "cpu", "cuda", "cuda:1", "mps".

    `graphs` replays a classifier's small batches as CUDA graphs, on CUDA with packed attention only. No global state of
    torch is changed, its number of CPU threads neither. Raises ModelError where device or profile cannot be had.
    """
    if profile not in PROFILES:
        raise ModelError(f"profile {profile!r} is not known; choose one of {', '.join(PROFILES)}")
    split = checkpoint.encoder.apart is not None
    if graphs and split:
        raise ModelError(f"CUDA graphs are for classifiers; {checkpoint.name} is a split encoder")
    place = Place(device_of(device))
    precision, chosen = precision_of(place.device, profile)
    attend, attending = _attention(checkpoint, place.device, precision)
    if graphs and attend is not packed_attention:
        raise ModelError(f"CUDA graphs need packed attention; here it is {attending}")
    sent, computed = place.sent, place.computed
    infer: Callable[[Batch], Logits]
    begin = finish = None
    with torch.inference_mode(), place.current():
        weights = Weights(checkpoint.weights(), place.device, DTYPES[precision])
        if split:
            infer, begin, finish = _split_passes(SplitModel(checkpoint.encoder, weights, attend), sent, computed)
        else:
            infer = _classifying(Classifier(checkpoint.encoder, weights, attend), graphs, sent, computed)
    stops = checkpoint.encoder.apart in checkpoint.encoder.exits

    gpu = place.device.type != "cpu"
    return Engine(
        "torch",
        precision,
        workers=place.workers,
        why="; ".join((chosen, attending, *(["CUDA graphs"] if graphs else []), place.name)),
        infer=infer,
        variant=place.device.type,
        piece=PIECE if gpu else None,
        batch_tokens=BATCH_TOKENS if gpu else 512,
        packed=True,
        begin=begin if stops else None,
        finish=finish if stops else None,
    )
