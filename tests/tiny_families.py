"""Tiny random checkpoints of each family of the catalog, in the family's own layout, tokenizer and all.

Tokenizers are made on the spot with the family's own algorithm, normalisation and special tokens; weights are random
and large enough that scores spread. Needs the extra `torch`, which brings transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
}
TEXTS = [
    "How do I sort a list? Query: what is a file? Document: the bank of a river\nRelevant: true false yes no Yes 1 0",
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided: the answer is",
    "You are a search relevance expert who evaluates how well documents match search queries. analyze the semantic",
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by a prediction",
    "system user assistant <Instruct>: <Query>: <Document>: query: document: instruction: A: B: 'Yes' or 'No'. ▁yes",
    "The snake, called python, speaks no language; dates & strings: 2026-11-21, 'quoted' and “curly”. Größe, 東京.",
] * 3
# Qwen's: words with the space before them, punctuation with the newlines behind it, digits one by one
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _byte_level(special: list[str], regex: str | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    steps: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex is None)]
    if regex is not None:
        tokenizer.normalizer = normalizers.NFC()
        steps.insert(0, pre_tokenizers.Split(Regex(regex), "isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS, *["yes no Yes 1 0 ?\n\n yes\n no\n"] * 30], trainer)
    tokenizer.add_tokens([one for one in ("yes", "no", "Yes") if tokenizer.token_to_id(one) is None])
    return tokenizer


def _unigram(special: list[str], unknown: str) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=260, special_tokens=special, unk_token=unknown, show_progress=False, shrinking_factor=0.9
    )
    tokenizer.train_from_iterator([*TEXTS, *["true false yes no sim não"] * 60], trainer)
    words = [one for one in ("▁true", "▁false", "▁yes", "▁no", "▁sim", "▁não") if tokenizer.token_to_id(one) is None]
    tokenizer.add_tokens(words)
    return tokenizer


def _gemma() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([*(one.replace(" ", "▁") for one in TEXTS), *["Yes", "Yes\n"] * 30], trainer)
    return tokenizer


def _pairs(tokenizer: Tokenizer, single: str, pair: str, special: list[str]) -> Tokenizer:
    ids = [(one, tokenizer.token_to_id(one)) for one in special]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
    return tokenizer


def _xlm_roberta() -> Tokenizer:
    tokenizer = _unigram(["<s>", "<pad>", "</s>", "<unk>"], "<unk>")
    return _pairs(tokenizer, "<s> $A </s>", "<s> $A </s> </s> $B </s>", ["<s>", "</s>"])


def _deberta() -> Tokenizer:
    tokenizer = _unigram(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"], "[UNK]")
    return _pairs(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ["[CLS]", "[SEP]"])


def _modernbert() -> Tokenizer:
    tokenizer = _byte_level(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"])
    return _pairs(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", ["[CLS]", "[SEP]"])


def _roberta() -> Tokenizer:
    tokenizer = _byte_level(["<s>", "<pad>", "</s>", "<unk>"])
    ids = {one: int(tokenizer.token_to_id(one) or 0) for one in ("<s>", "</s>")}
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"]))
    return tokenizer


def _electra() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(special_tokens=special, show_progress=False))
    sides = [int(tokenizer.token_to_id(one) or 0) for one in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", sides[0]), ("[CLS]", sides[1]))
    return tokenizer


def _qwen() -> Tokenizer:
    tokenizer = _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], QWEN)
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    return tokenizer


def _t5() -> Tokenizer:
    tokenizer = _unigram(["<pad>", "</s>", "<unk>"], "<unk>")
    return _pairs(tokenizer, "$A </s>", "$A </s> $B </s>", ["</s>"])


KV = {"num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
DEBERTA: dict[str, Any] = {"relative_attention": True, "position_biased_input": False, "position_buckets": 16}
DEBERTA |= {"type_vocab_size": 0, "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"]}
XLM = {"type_vocab_size": 1, "max_position_embeddings": 514}

# kind of checkpoint -> its class, its configuration, its tokenizer, the family to read it by
KINDS: dict[str, tuple[str, dict[str, Any], Callable[[], Tokenizer], str | None]] = {
    "electra": ("Electra", {**SIZES, "embedding_size": 16}, _electra, None),
    # two types in the table, and a tokenizer that gives only the first
    "roberta": ("Roberta", {**SIZES, **XLM, "type_vocab_size": 2}, _roberta, None),
    "xlm-roberta": ("XLMRoberta", {**SIZES, **XLM}, _xlm_roberta, None),
    "deberta-v2": ("DebertaV2", {**SIZES, **DEBERTA}, _deberta, None),
    "modernbert": ("ModernBert", {**SIZES, "local_attention": 16}, _modernbert, None),
    "qwen3-reranker": ("Qwen3", {**SIZES, **KV}, _qwen, "qwen3-reranker"),
    "zerank": ("Qwen3", {**SIZES, **KV}, _qwen, "zerank"),
    "mxbai-rerank-v2": ("Qwen2", {**SIZES, **KV}, _qwen, "mxbai-rerank-v2"),
    "bge-reranker-gemma": ("Gemma", {**SIZES, **KV, "num_key_value_heads": 1}, _gemma, "bge-reranker-gemma"),
    "monot5": ("T5", {**T5, "tie_word_embeddings": True}, _t5, "monot5"),
    "mt5-yes-no": ("MT5", {**T5, "feed_forward_proj": "gated-gelu"}, _t5, "mt5-yes-no"),
}
CLASSIFIERS = [name for name, row in KINDS.items() if row[3] is None]
PROMPTS = [name for name, row in KINDS.items() if row[3] is not None]
_ENDS = {"T5": "ForConditionalGeneration", "MT5": "ForConditionalGeneration"}


def build(name: str, folder: Path, *, seed: int = 0, overrides: Mapping[str, Any] | None = None) -> Path:
    """Write a checkpoint of a kind and return its folder."""
    import torch
    import transformers

    prefix, sizes, tokenizer_of, family = KINDS[name]
    tokenizer = tokenizer_of()
    special = {key: tokenizer.token_to_id(one) for key, one in _special(tokenizer).items()}
    config = getattr(transformers, f"{prefix}Config")(
        vocab_size=tokenizer.get_vocab_size(), **special, **sizes, **(overrides or {})
    )
    end = _ENDS.get(prefix, "ForCausalLM") if family else "ForSequenceClassification"
    if not family:
        config.num_labels = 1
    torch.manual_seed(seed)
    model = getattr(transformers, prefix + end)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4 if family else 6)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        if not family:
            list(model.parameters())[-2].mul_(20)  # the head's matrix: scores that spread
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {key.removesuffix("_id"): one for key, one in _special(tokenizer).items()}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def _special(tokenizer: Tokenizer) -> dict[str, str]:
    """pad_token_id and the like -> the token of it that this tokenizer has."""
    choices = {
        "pad_token_id": ("[PAD]", "<pad>", "<|endoftext|>"),
        "bos_token_id": ("<s>", "<bos>", "[CLS]", "<|endoftext|>"),
        "eos_token_id": ("</s>", "<eos>", "[SEP]", "<|im_end|>"),
        "cls_token_id": ("[CLS]", "<s>"),
        "sep_token_id": ("[SEP]", "</s>"),
    }
    found = {key: [one for one in tokens if tokenizer.token_to_id(one) is not None] for key, tokens in choices.items()}
    return {key: tokens[0] for key, tokens in found.items() if tokens}
