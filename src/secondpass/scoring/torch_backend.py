"""The BERT classifier in torch, on packed tokens: for GPUs, and for comparing with on a CPU.

Knows: torch, devices, precisions, the arithmetic of graph.py written out once more. Refuses to know: texts,
rankings, transformers; the weights are read as plain tensors. Importing this module needs the extra `torch`.

Padding is dropped before the first layer: everything but attention sees only real tokens. Attention is torch's
`varlen_attn` (torch >= 2.10, an NVIDIA GPU from Ampere on, half precision), which takes rows of any length side by
side; elsewhere rows are padded for attention alone. Which it was, and why, is in the engine's `why`.

    profile   CUDA                        MPS    CPU
    exact     fp32                        fp32   fp32
    default   bf16, before Ampere fp16    fp16   bf16 where the CPU has it, else fp32
    fast      fp16                        fp16   as default

bf16 and fp16 run at one speed on a GPU. bf16 has fp32's range, so no checkpoint overflows in it; fp16 rounds eight
times finer and ends at 65,504. Softmax and LayerNorm sum up in fp32 inside torch's kernels; pooler and classifier are
computed in fp32, since neighbours in a ranking are closer than bf16 can tell apart.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import ModelError
from secondpass.extras import require
from secondpass.scoring.batching import Batch
from secondpass.scoring.checkpoint import Checkpoint
from secondpass.scoring.engines import PROFILES, Engine

if TYPE_CHECKING:
    import torch
else:
    torch = require("torch", extra="torch", purpose="scoring with torch")

__all__ = ["open_torch"]

F = torch.nn.functional

_BATCH_TOKENS = 32_768  # enough that a GPU computes rather than starts kernels
_PIECE = 128  # texts tokenized while the GPU works on those before
_GRAPHS, _GRAPH_TOKENS = 16, 16_384  # CUDA graphs at most, and the largest batch that gets one


@dataclass(frozen=True, slots=True)
class _Packed:
    """A batch without its padding: T tokens of R rows, one row after the other.

    `ids`, `types`, `positions` (in the row) and `slots` (in the padded array [R, width], flattened) are int64 [T];
    `starts` is int32 [R + 1], where each row begins, and T. A row may be empty, and tokens may follow the last row.
    """

    ids: torch.Tensor
    types: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    starts: torch.Tensor
    width: int


# query [Tq, heads, width], key and value [T, heads, width], whether there is one query a row -> [Tq, heads · width]
_Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, _Packed, bool], torch.Tensor]


def _arrays(batch: Batch, tokens: int, rows: int) -> NDArray[np.int64]:
    """All that a _Packed holds in one array, for one copy to the device; filled up with zeros and empty rows."""
    flat = np.flatnonzero(batch.mask)
    ends = np.cumsum(batch.mask.sum(axis=1))
    out = np.zeros(4 * tokens + rows + 1, dtype=np.int64)
    columns = (batch.ids.reshape(-1)[flat], batch.types.reshape(-1)[flat], flat % batch.ids.shape[1], flat)
    for k, column in enumerate(columns):
        out[k * tokens : k * tokens + len(flat)] = column
    out[4 * tokens + 1 :] = len(flat)
    out[4 * tokens + 1 : 4 * tokens + 1 + len(ends)] = ends
    return out


def _packed(arrays: torch.Tensor, tokens: int, width: int) -> _Packed:
    ids, types, positions, slots, starts = arrays.split([tokens] * 4 + [len(arrays) - 4 * tokens])
    return _Packed(ids, types, positions, slots, starts.to(torch.int32), width)


def _varlen_attention(query: Any, key: Any, value: Any, packed: _Packed, single: bool) -> Any:
    """Rows side by side, in one kernel that knows where each begins."""
    from torch.nn.attention.varlen import varlen_attn

    starts, longest = packed.starts, packed.width
    if single:
        starts, longest = torch.arange(len(starts), dtype=torch.int32, device=starts.device), 1
    return varlen_attn(query, key, value, starts, packed.starts, longest, packed.width).flatten(1)


def _padded_attention(query: Any, key: Any, value: Any, packed: _Packed, single: bool) -> Any:
    """Rows padded to the longest, for attention alone."""
    rows, width = len(packed.starts) - 1, packed.width

    def padded(x: torch.Tensor) -> torch.Tensor:  # [T, heads, width] -> [R, heads, tokens, width]
        out = x.new_zeros(rows * width, *x.shape[1:])
        out[packed.slots] = x
        return out.unflatten(0, (rows, width)).transpose(1, 2)

    real = torch.zeros(rows * width, dtype=torch.bool, device=query.device)
    real[packed.slots] = True
    asked = query.unsqueeze(2) if single else padded(query)
    mask = real.view(rows, 1, 1, width)
    mixed = F.scaled_dot_product_attention(asked, padded(key), padded(value), attn_mask=mask)
    joined = mixed.transpose(1, 2).flatten(2).flatten(0, 1)  # [R · tokens, heads · width]
    return joined if single else joined[packed.slots]


class _Model:
    """The weights on their device, and the forward over packed tokens."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, attend: _Attention) -> None:
        weights, self._encoder, self._attend = checkpoint.weights(), checkpoint.encoder, attend

        def tensor(*names: str, dtype: torch.dtype = dtype) -> torch.Tensor:
            joined = np.concatenate([weights[name] for name in names]) if len(names) > 1 else weights[names[0]]
            return torch.from_numpy(np.ascontiguousarray(joined)).to(device=device, dtype=dtype, copy=True)

        def pair(*names: str, dtype: torch.dtype = dtype) -> tuple[torch.Tensor, torch.Tensor]:
            parts = ("weight", "bias")
            weight, bias = (tensor(*(f"{name}.{part}" for name in names), dtype=dtype) for part in parts)
            return weight, bias

        tables = ("word_embeddings", "token_type_embeddings", "position_embeddings")
        self._tables = [tensor(f"embeddings.{name}.weight") for name in tables]
        self._norm = pair("embeddings.LayerNorm")
        self._layers = []
        for i in range(self._encoder.layers):
            at = f"encoder.layer.{i}"
            mixing = pair(*(f"{at}.attention.self.{part}" for part in ("query", "key", "value")))
            joining = ("attention.output.dense", "attention.output.LayerNorm")
            feeding = ("intermediate.dense", "output.dense", "output.LayerNorm")
            self._layers.append((mixing, *(pair(f"{at}.{name}") for name in joining + feeding)))
        self._pooler = pair("pooler.dense", dtype=torch.float32)
        self._classifier = pair("classifier", dtype=torch.float32)

    def __call__(self, packed: _Packed) -> torch.Tensor:
        """Logits in fp32, [R]."""
        encoder = self._encoder
        hidden, split = encoder.hidden, (encoder.heads, encoder.hidden // encoder.heads)
        activated = F.relu if encoder.activation == "relu" else F.gelu

        def normalised(x: torch.Tensor, norm: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            return F.layer_norm(x, (hidden,), *norm, encoder.epsilon)

        words, types, positions = self._tables
        x = F.embedding(packed.ids, words) + F.embedding(packed.types, types) + F.embedding(packed.positions, positions)
        x = normalised(x, self._norm)
        for i, (mixing, joining, join_norm, inner, outer, out_norm) in enumerate(self._layers):
            # what comes out of the last layer is needed for [CLS] alone
            last = i == encoder.layers - 1
            if last:
                weight, bias = mixing
                rows = x.index_select(0, packed.starts[:-1].clamp(max=len(x) - 1))
                query = F.linear(rows, weight[:hidden], bias[:hidden]).unflatten(1, split)
                key, value = F.linear(x, weight[hidden:], bias[hidden:]).unflatten(1, (2, *split)).unbind(1)
            else:
                rows = x
                query, key, value = F.linear(x, *mixing).unflatten(1, (3, *split)).unbind(1)
            rows = normalised(F.linear(self._attend(query, key, value, packed, last), *joining) + rows, join_norm)
            x = normalised(F.linear(activated(F.linear(rows, *inner)), *outer) + rows, out_norm)
        return F.linear(torch.tanh(F.linear(x.float(), *self._pooler)), *self._classifier).flatten()


class _Graphs:
    """CUDA graphs of the forward, one for each rounded size, captured at the second batch of that size.

    One launch then stands for some hundred; it pays where a batch is so small that starting its kernels takes longer
    than running them. Not thread-safe: the caller holds a lock.
    """

    def __init__(self, model: _Model) -> None:
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
        arrays = torch.from_numpy(_arrays(batch, tokens, size[1])).pin_memory()
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
            self._model(_packed(fixed, tokens, width))
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads may wait for their batches meanwhile
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            logits = self._model(_packed(fixed, tokens, width))
        return graph, fixed, logits


def _rounded(count: int, least: int) -> int:
    """Up to a quarter of a power of two: few sizes, and a quarter more than asked for at most."""
    step = max(1 << max(count.bit_length() - 3, 0), least)
    return -(-count // step) * step


def _device(name: str) -> torch.device:
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


def _precision(device: torch.device, profile: str) -> tuple[str, str]:
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


def _attention(checkpoint: Checkpoint, device: torch.device, precision: str) -> tuple[_Attention, str]:
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
            return _varlen_attention, "packed attention (varlen_attn)"
    return _padded_attention, f"padded attention ({why})"


def open_torch(checkpoint: Checkpoint, *, device: str, profile: str, graphs: bool = False) -> Engine:
    """The checkpoint on a device that torch knows: "cpu", "cuda", "cuda:1", "mps".

    `graphs` replays small batches as CUDA graphs, on CUDA with packed attention only. No global state of torch is
    changed, its number of CPU threads neither. Raises ModelError where device or profile cannot be had.
    """
    if profile not in PROFILES:
        raise ModelError(f"profile {profile!r} is not known; choose one of {', '.join(PROFILES)}")
    if checkpoint.encoder.apart is not None:
        raise ModelError(f"{checkpoint.name} is a split encoder, which engine 'torch' does not read; use device='cpu'")
    place = _device(device)
    precision, chosen = _precision(place, profile)
    attend, attending = _attention(checkpoint, place, precision)
    if graphs and attend is not _varlen_attention:
        raise ModelError(f"CUDA graphs need packed attention; here it is {attending}")
    cuda = place.type == "cuda"
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    turn = threading.Lock()  # one caller at a time hands work to the device; the waiting is done outside of it

    def on_device() -> Any:  # the current device belongs to the thread, so each call sets it
        return torch.cuda.device(place) if cuda else nullcontext()

    with torch.inference_mode(), on_device():
        model = _Model(checkpoint, place, dtype, attend)
        replay = _Graphs(model) if graphs else None

    def logits_of(batch: Batch) -> torch.Tensor:
        replayed = replay(batch) if replay is not None else None
        if replayed is not None:
            return replayed
        tokens = int(batch.mask.sum())
        arrays = torch.from_numpy(_arrays(batch, tokens, len(batch.mask)))
        arrays = arrays.pin_memory().to(place, non_blocking=True) if cuda else arrays.to(place)
        return model(_packed(arrays, tokens, batch.ids.shape[1]))

    def infer(batch: Batch) -> NDArray[np.float32]:
        with torch.inference_mode(), on_device():
            with turn:
                logits = logits_of(batch)
                if not cuda:
                    return np.array(logits.cpu().numpy(), dtype=np.float32)
                # into pinned memory, so that waiting for this batch is not waiting for the next one too
                host = torch.empty(logits.shape, dtype=torch.float32, pin_memory=True)
                host.copy_(logits, non_blocking=True)
                ready = torch.cuda.current_stream().record_event()
            ready.synchronize()
            return np.array(host.numpy(), dtype=np.float32)

    named = torch.cuda.get_device_name(place) if cuda else place.type
    gpu = place.type != "cpu"
    return Engine(
        "torch",
        precision,
        workers=2 if cuda else 1,  # one tokenizes while the other waits for the GPU
        why="; ".join((chosen, attending, *(["CUDA graphs"] if graphs else []), named)),
        infer=infer,
        variant=place.type,
        piece=_PIECE if gpu else None,
        batch_tokens=_BATCH_TOKENS if gpu else 512,
        packed=True,
    )
