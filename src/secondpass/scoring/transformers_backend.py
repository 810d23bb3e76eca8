"""Rerankers on transformers' own models: every family that has no graph of ours, and any on a device without one.

Knows: how transformers loads a model, how a score is read off it, and a prefix's keys and values. Refuses to know:
texts, templates, rankings. Importing this module needs the extra `torch`.

    head         computed                                     score, always in fp32
    classifier   the whole sequence                           its one label
    causal       prefix once a query, then the documents      (yes − no) / scale at the last token
    seq2seq      encoder, and one step of the decoder         (yes − no) / scale at that step

Of a vocabulary's head two rows are kept, so no vocabulary is ever computed; what a causal model does to its logits
(Gemma 2's soft cap) it does to these two. Rows are padded on the right: causal attention never sees what is behind
a token, and what it does see has the positions that it would have alone.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from secondpass.errors import ModelError
from secondpass.extras import require
from secondpass.scoring.batching import Batch
from secondpass.scoring.checkpoint import Checkpoint
from secondpass.scoring.engines import PROFILES, Engine, Logits
from secondpass.scoring.torch_backend import BATCH_TOKENS, DTYPES, PIECE, Place, device_of, precision_of
from secondpass.weights import weight_files

if TYPE_CHECKING:
    import torch
    import transformers
    from transformers import cache_utils
    from transformers.utils import logging as library_logging
else:
    torch = require("torch", extra="torch", purpose="scoring with torch")
    transformers = require("transformers", extra="torch", purpose="this family of models")
    cache_utils = require("transformers.cache_utils", extra="torch")
    library_logging = require("transformers.utils.logging", extra="torch")

__all__ = ["open_transformers"]

_PREFIXES, _PREFIX_BYTES = 8, 512 << 20  # what is kept of prefixes; the latest one always
_ATTENTION_BYTES = 4 << 30  # a GPU's largest batch may take this much for the attention of one layer
_CPU_BATCH_TOKENS = {"classifier": 512, "causal": 1024, "seq2seq": 1024}
_CLASSES = {
    "classifier": "AutoModelForSequenceClassification",
    "causal": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
}
_loading = threading.Lock()  # transformers sets torch's default dtype while it loads

_Sent = Callable[[NDArray[Any]], torch.Tensor]
"""An array -> it on the device."""
_Read = Callable[[Batch], torch.Tensor]
"""A batch of whole sequences -> their logits on the device, float32 [rows]."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Drops the progress bars and the warnings that transformers prints in this thread; other threads keep theirs."""
    mine = threading.get_ident()

    def kept(record: logging.LogRecord) -> bool:
        return record.thread != mine

    def bar(factory: Any, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() == mine:
            return library_logging.EmptyTqdm(*args, **kwargs)
        return factory(*args, **kwargs) if before is None else before(factory, args, kwargs)

    handlers = tuple(logging.getLogger("transformers").handlers)
    before = library_logging.set_tqdm_hook(bar)
    for handler in handlers:
        handler.addFilter(kept)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(kept)
        library_logging.set_tqdm_hook(before)


def _loaded(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """The model in `dtype` on the CPU. Raises ModelError where it cannot be loaded, or not all of it is in the files:
    transformers would go on with random numbers."""
    name = _CLASSES[checkpoint.head.kind]
    with _loading, _quiet():
        try:
            model, found = getattr(transformers, name).from_pretrained(
                checkpoint.folder,
                local_files_only=True,
                trust_remote_code=checkpoint.remote_code,
                use_safetensors=None if checkpoint.pickled else True,
                dtype=dtype,
                output_loading_info=True,
            )
        except Exception as error:  # errors of many types
            why = str(error).strip().partition("\n")[0]
            raise ModelError(
                f"{checkpoint.folder}: transformers {transformers.__version__} cannot load it as {name} "
                f"({type(error).__name__}: {why})"
            ) from error
    missing = sorted(found["missing_keys"])
    head = model.get_output_embeddings()
    if checkpoint.config.get("tie_word_embeddings") is False and head is not None:
        # T5's is tied all the same by some versions, which takes the input's embeddings for a head that is missing
        tied = head.weight is model.get_input_embeddings().weight
        missing += ["lm_head.weight"] if tied and "lm_head.weight" not in _stored(checkpoint.folder) else []
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelError(
            f"{checkpoint.folder}: the weights lack {', '.join(missing[:3])}{more}, so the scores would be random; "
            "this folder is no trained reranker of this kind, or its files are not complete"
        )
    return model.eval()


def _stored(folder: Path) -> set[str]:
    """The names of the tensors in a folder's files."""
    names: set[str] = set()
    for path in weight_files(folder):
        if path.suffix == ".bin":
            names.update(torch.load(path, map_location="meta", weights_only=True))
        else:
            with safe_open(path, "np") as tensors:
                names.update(tensors.keys())
    return names


def _upcast(module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A hook: what goes into a module, in fp32."""

    def one(value: Any) -> Any:
        return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    return tuple(one(value) for value in args), {name: one(value) for name, value in named.items()}


def _in_fp32(module: Any) -> None:
    """From now on the module computes in fp32: neighbours in a ranking are closer than bf16 can tell apart."""
    module.float().register_forward_pre_hook(_upcast, with_kwargs=True)


def _classifying(model: Any, checkpoint: Checkpoint, sent: _Sent) -> _Read:
    """The one label of a classifier."""
    config = model.config.get_text_config()
    if config.pad_token_id is None:
        config.pad_token_id = checkpoint.pad
    if model.base_model is not model:
        for part in model.children():
            if part is not model.base_model:
                _in_fp32(part)
    takes = "token_type_ids" in inspect.signature(model.forward).parameters
    typed = takes and getattr(config, "type_vocab_size", 0) > 1

    def read(batch: Batch) -> torch.Tensor:
        # a decoder's classifier finds the last token as the last one that is not its own pad
        ids = np.where(batch.mask == 1, batch.ids, config.pad_token_id)
        types = {"token_type_ids": sent(batch.types)} if typed else {}
        return model(input_ids=sent(ids), attention_mask=sent(batch.mask), **types).logits[:, 0].float()

    return read


def _keep_two_rows(model: Any, checkpoint: Checkpoint) -> None:
    """Puts in the place of the vocabulary's head the rows that are compared, in fp32."""
    head, whole = checkpoint.head, model.get_output_embeddings()
    if whole is None:
        raise ModelError(f"{checkpoint.folder}: {type(model).__name__} has no head over a vocabulary")
    rows = [head.positive] if head.negative is None else [head.positive, head.negative]
    if not all(0 <= row < len(whole.weight) for row in rows):
        raise ModelError(
            f"{checkpoint.folder}: the model's vocabulary has {len(whole.weight)} tokens, and scores are read off the "
            f"tokens {rows}; the tokenizer is not this model's"
        )
    biased = getattr(whole, "bias", None) is not None
    # on the device without numbers, where no random ones are drawn for it
    few = torch.nn.Linear(whole.weight.shape[1], len(rows), bias=biased, device="meta")
    few.weight = torch.nn.Parameter(whole.weight[rows].detach(), requires_grad=False)
    if biased:
        few.bias = torch.nn.Parameter(whole.bias[rows].detach(), requires_grad=False)
    _in_fp32(few)
    model.set_output_embeddings(few)


def _compared(logits: torch.Tensor, scale: float) -> torch.Tensor:
    """[rows, 1 or 2] -> [rows]."""
    return (logits[:, 0] if logits.shape[1] == 1 else logits[:, 0] - logits[:, 1]) / scale


def _at_last(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[rows, tokens, n] -> [rows, n], at each row's last token."""
    return logits[torch.arange(len(mask), device=mask.device), mask.sum(1) - 1]


def _causal(model: Any, checkpoint: Checkpoint, sent: _Sent) -> _Read:
    """The logits that follow the last token."""

    def read(batch: Batch) -> torch.Tensor:
        mask = sent(batch.mask)
        logits = model(input_ids=sent(batch.ids), attention_mask=mask, use_cache=False).logits
        return _compared(_at_last(logits, mask), checkpoint.head.scale)

    return read


def _seq2seq(model: Any, checkpoint: Checkpoint, sent: _Sent) -> _Read:
    """The logits of the decoder's first step."""
    start, config = model.config.decoder_start_token_id, checkpoint.config
    if start is None:
        raise ModelError(f"{checkpoint.folder}: config.json lacks decoder_start_token_id, where decoding starts")
    encoder, decoder, head = model.get_encoder(), model.get_decoder(), model.get_output_embeddings()
    # T5, whose head is its embeddings, scales what goes into it; T5 1.1 and mT5 do not. transformers' own forward has
    # not always gone by what the folder says
    tied = config.get("scale_decoder_outputs", config.get("tie_word_embeddings", True))
    scale = checkpoint.head.scale * (checkpoint.encoder.hidden**0.5 if checkpoint.kind == "t5" and tied else 1.0)

    def read(batch: Batch) -> torch.Tensor:
        mask, first = sent(batch.mask), sent(np.full((len(batch.ids), 1), start, np.int64))
        seen = encoder(input_ids=sent(batch.ids), attention_mask=mask).last_hidden_state
        sides = {"encoder_hidden_states": seen, "encoder_attention_mask": mask}
        hidden = decoder(input_ids=first, **sides, use_cache=False).last_hidden_state
        return _compared(head(hidden[:, 0]), scale)

    return read


class _KeptLayer(cache_utils.DynamicLayer):  # type: ignore[misc]
    """A prefix's keys and values in one layer, [1, heads, tokens, width]. Any rows may follow it; none are added."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """What rows attend to: the prefix and themselves."""
        return _followed(self.keys, key_states), _followed(self.values, value_states)


def _followed(kept: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    return torch.cat((kept.expand(len(own), -1, -1, -1), own), dim=-2)


class _Prefixes:
    """The keys and values of the prefixes met last. Not thread-safe: the caller holds a lock."""

    def __init__(self, model: Any, sent: _Sent) -> None:
        self._model, self._sent = model, sent
        self._kept: OrderedDict[bytes, tuple[Any, int]] = OrderedDict()

    def of(self, ids: NDArray[np.int64]) -> Any:
        """A cache that holds the prefix and that no forward changes; `ids` is int64 [tokens]."""
        key = ids.tobytes()
        if key not in self._kept:
            self._kept[key] = self._computed(ids)
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and (len(self._kept) > _PREFIXES or self.size > _PREFIX_BYTES):
            self._kept.popitem(last=False)
        return self._kept[key][0]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(size for _, size in self._kept.values())

    def _computed(self, ids: NDArray[np.int64]) -> tuple[Any, int]:
        cache = cache_utils.DynamicCache(config=self._model.config)
        sides = {"input_ids": self._sent(ids[None]), "attention_mask": self._sent(np.ones((1, len(ids)), np.int64))}
        self._model(**sides, past_key_values=cache, use_cache=True)
        layers = [_KeptLayer(layer.keys, layer.values) for layer in cache.layers]
        return cache_utils.Cache(layers=layers), sum(one.keys.nbytes + one.values.nbytes for one in layers)


def _sharing(model: Any, checkpoint: Checkpoint, sent: _Sent) -> tuple[_Read | None, str]:
    """What reads a batch whose rows share a prefix that is computed once, and how that is; None where it cannot be."""
    if checkpoint.head.kind != "causal":
        return None, ""
    layers = cache_utils.DynamicCache(config=model.config).layers
    others = sorted({type(layer).__name__ for layer in layers if type(layer) is not cache_utils.DynamicLayer})
    if others or not layers:
        why = f"its cache is made of {', '.join(others)}" if others else "its cache cannot be told"
        return None, f"prefix computed for each document ({why})"
    prefixes = _Prefixes(model, sent)

    def read(batch: Batch) -> torch.Tensor:
        ids = _prefix(batch)
        past, own = prefixes.of(ids), sent(batch.mask)
        mask = torch.cat((own.new_ones(len(own), len(ids)), own), dim=1)
        # positions are those that follow the prefix, without being told
        logits = model(input_ids=sent(batch.ids), attention_mask=mask, past_key_values=past, use_cache=True).logits
        return _compared(_at_last(logits, own), checkpoint.head.scale)

    return read, "prefix computed once a query"


def _prefix(batch: Batch) -> NDArray[np.int64]:
    """The prefix that a batch's rows share, without padding, int64 [tokens]."""
    query, query_mask = batch.shared()
    return np.ascontiguousarray(query[0, query_mask[0] == 1])


def _whole(batch: Batch) -> Batch:
    """The batch with the prefix in every row."""
    if batch.query is None:
        return batch
    prefix = _prefix(batch)[None].repeat(len(batch.ids), axis=0)
    before = (prefix, np.ones_like(prefix), np.zeros_like(prefix))
    sides = zip(before, (batch.ids, batch.mask, batch.types), strict=True)
    return Batch(batch.rows, *(np.concatenate(pair, axis=1) for pair in sides))


def _one_by_one(batch: Batch) -> Iterator[Batch]:
    """The rows of a batch, each alone and without padding."""
    whole = _whole(batch)
    for k, row in enumerate(batch.rows):
        count = int(whole.mask[k].sum())
        yield Batch((row,), *(side[k : k + 1, :count] for side in (whole.ids, whole.mask, whole.types)))


def _batch_tokens(checkpoint: Checkpoint, gpu: bool) -> int:
    """Padded tokens of a batch; on a GPU no more than leaves room for attention over the longest rows."""
    if not gpu:
        return _CPU_BATCH_TOKENS[checkpoint.head.kind]
    longest = checkpoint.max_length
    return max(longest, min(BATCH_TOKENS, _ATTENTION_BYTES // (4 * checkpoint.encoder.heads * longest)))


def open_transformers(checkpoint: Checkpoint, *, device: str, profile: str) -> Engine:
    """The checkpoint as transformers' own model on a device that torch knows: "cpu", "cuda", "cuda:1", "mps".

    Batches may hold whole sequences or, of a causal model, documents and the prefix that they share; the engine's
    `alone` takes both apart and computes each row by itself. No global state of torch or transformers stays changed.
    Raises ModelError where device or profile cannot be had, and for a checkpoint whose head or trunk is not all there.
    """
    if profile not in PROFILES:
        raise ModelError(f"profile {profile!r} is not known; choose one of {', '.join(PROFILES)}")
    place = Place(device_of(device))
    precision, chosen = precision_of(place.device, profile)
    model, kind = _loaded(checkpoint, DTYPES[precision]), checkpoint.head.kind
    if kind != "classifier":
        _keep_two_rows(model, checkpoint)
    model.to(place.device)
    read = {"classifier": _classifying, "causal": _causal, "seq2seq": _seq2seq}[kind](model, checkpoint, place.sent)
    shared, sharing = _sharing(model, checkpoint, place.sent)

    def infer(batch: Batch) -> Logits:
        if shared is None or batch.query is None:
            return place.computed(lambda: (read(_whole(batch)),))[0]
        return place.computed(lambda: (shared(batch),))[0]

    def alone(batch: Batch) -> Logits:
        def work() -> Sequence[torch.Tensor]:
            return [read(one) for one in _one_by_one(batch)]

        return np.concatenate(place.computed(work))

    gpu = place.device.type != "cpu"
    attention = f"transformers {transformers.__version__} ({model.config._attn_implementation} attention)"
    return Engine(
        "transformers",
        precision,
        workers=place.workers,
        why="; ".join(part for part in (chosen, attention, sharing, place.name) if part),
        infer=infer,
        variant=place.device.type,
        batch_tokens=_batch_tokens(checkpoint, gpu),
        piece=PIECE if gpu else None,
        alone=alone,
    )
