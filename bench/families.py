"""How fast each published architecture is on this machine, so that a user can plan before downloading anything.

    python bench/families.py [--largest 600] [--rounds 5] [--only NAME,…]

Every architecture of the catalog up to --largest million parameters is built at its published size with random weights
(speed does not depend on what they are), stored in half precision and opened as a user opens it: our graphs on the
CPU's engine for classifiers, transformers on torch for the others. A query of 8 words goes against 32 candidates of
100 words, one token each (language models: 16 candidates, and their prompt on top). Each runs in a process of its own;
--rounds rounds after a warm-up, the median and the slowest told. Classifiers are also computed by plain transformers in
fp32 on as many threads, in turns with ours, batches of 32 sorted by nothing: the ratio is ours to that.
Needs the extra `torch`.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from common import arguments, target, write
from secondpass.scoring.catalog import Known, catalog, families

WORDS = 3_000  # of the vocabulary that texts are drawn from
CANDIDATES, LM_CANDIDATES, WORDS_EACH = 32, 16, 100
PLAIN_LARGEST = 300  # million parameters up to which plain transformers is measured beside

_CLASSES = {
    "bert": "Bert",
    "electra": "Electra",
    "xlm-roberta": "XLMRoberta",
    "deberta-v2": "DebertaV2",
    "modernbert": "ModernBert",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
    "t5": "T5",
    "mt5": "MT5",
}
_ENDS = {"classifier": "ForSequenceClassification", "causal": "ForCausalLM", "seq2seq": "ForConditionalGeneration"}


def architectures(largest: float) -> tuple[dict[str, Known], list[dict[str, Any]]]:
    """One model of each shape, smallest first, and those that are left out, with the reason."""
    shapes: dict[str, Known] = {}
    left: list[dict[str, Any]] = []
    for known in sorted(catalog().values(), key=lambda one: one.parameters):
        shape = json.dumps([known.kind, known.sizes], sort_keys=True)
        if known.kind not in _CLASSES:
            left.append({"model": known.name, "why": "its own remote code"})
        elif known.parameters > largest:
            left.append({"model": known.name, "why": f"{known.parameters:,.0f} M parameters, above --largest"})
        else:
            shapes.setdefault(shape, known)
    return {known.name: known for known in shapes.values()}, left


def build(known: Known, folder: Path) -> None:
    """A random checkpoint of the published shape, with a tokenizer of one token a word."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    family = families()[known.family]
    sizes = dict(known.sizes)
    size = {
        "vocab_size": sizes.pop("vocabulary"),
        "hidden_size": sizes.pop("hidden"),
        "num_hidden_layers": sizes.pop("layers"),
        "num_attention_heads": sizes.pop("heads"),
        "intermediate_size": sizes.pop("intermediate"),
        "max_position_embeddings": known.longest,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if known.kind in ("t5", "mt5"):
        size |= {"d_model": size.pop("hidden_size"), "num_layers": size.pop("num_hidden_layers")}
        size |= {"num_heads": size.pop("num_attention_heads"), "d_ff": size.pop("intermediate_size")}
        size |= {"decoder_start_token_id": 0}
    if known.kind == "xlm-roberta":
        size |= {"pad_token_id": 1, "type_vocab_size": 1, "max_position_embeddings": known.longest + 2}
    if known.kind == "deberta-v2":
        size |= {"relative_attention": True, "position_biased_input": False, "position_buckets": 256}
        size |= {
            "type_vocab_size": 0,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
        }
    if "kv_heads" in sizes:
        size |= {"num_key_value_heads": sizes.pop("kv_heads"), "head_dim": sizes.pop("head_width")}
        size |= {"tie_word_embeddings": True}
    assert not sizes, f"{known.name}: bench/families.py does not know {sizes}"
    config = getattr(transformers, f"{_CLASSES[known.kind]}Config")(**size)
    if family.head == "classifier":
        config.num_labels = 1
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = getattr(transformers, _CLASSES[known.kind] + _ENDS[family.head])(config)
    torch.set_default_dtype(torch.float32)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)

    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *family.special, family.positive, family.negative]
    words = list(dict.fromkeys([one for one in special if one] + [f"w{i}" for i in range(WORDS)]))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([one for one in special if one])
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": known.longest}))


def texts_of(count: int) -> tuple[str, list[str]]:
    """A query and candidates of words drawn by a seed; lengths vary by half, as passages do."""
    draw = random.Random(7)

    def text(words: int) -> str:
        return " ".join(f"w{draw.randrange(WORDS)}" for _ in range(words))

    return text(8), [text(draw.randint(WORDS_EACH // 2, WORDS_EACH * 3 // 2)) for _ in range(count)]


def measure(known: Known, rounds: int) -> dict[str, Any]:
    """Seconds of each round, ours and plain transformers' in turns."""
    from secondpass.rerankers.cross_encoder import CrossEncoder

    family = families()[known.family]
    classifier = family.head == "classifier"
    query, texts = texts_of(CANDIDATES if classifier else LM_CANDIDATES)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        folder.mkdir()
        build(known, folder)
        began = time.perf_counter()
        model = CrossEncoder(folder, family=known.family, cache_dir=Path(place) / "cache", max_length=known.max_length)
        opened = time.perf_counter() - began
        plain = _plain(folder, query, texts) if classifier and known.parameters <= PLAIN_LARGEST else None
        ours: list[float] = []
        theirs: list[float] = []
        tokens = 0
        for number in range(rounds + 1):
            scores = model.score(query, texts)
            assert None not in scores.values
            tokens = scores.trace.tokens
            if number:  # the first round sets up shapes
                ours.append(scores.trace.seconds)
            if plain is not None:
                began = time.perf_counter()
                plain()
                if number:
                    theirs.append(time.perf_counter() - began)
        detail = scores.trace.detail
    seconds = median(ours)
    return {
        "model": known.name,
        "kind": known.kind,
        "family": known.family,
        "parameters_m": known.parameters,
        "engine": detail["engine"],
        "precision": detail["precision"],
        "candidates": len(texts),
        "tokens": tokens,
        "ms": round(seconds * 1000, 1),
        "slowest_ms": round(max(ours) * 1000, 1),
        "ms_per_candidate": round(seconds * 1000 / len(texts), 2),
        "seconds_per_million_tokens": round(seconds / tokens * 1e6, 1),
        "opened_s": round(opened, 1),
        "plain_ms": round(median(theirs) * 1000, 1) if theirs else None,
        "times_plain": round(median(t / o for t, o in zip(theirs, ours, strict=True)), 2) if theirs else None,
    }


def _plain(folder: Path, query: str, texts: list[str]) -> Any:
    """What a user of transformers writes."""
    import torch
    import transformers

    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    typed = model.config.to_dict().get("type_vocab_size", 0) > 1

    def score() -> None:
        for at in range(0, len(texts), 32):
            some = texts[at : at + 32]
            features = tokenizer([query] * len(some), some, padding=True, truncation="only_second", max_length=512,
                                 return_tensors="pt", return_token_type_ids=typed)  # fmt: skip
            with torch.inference_mode():
                model(**features)

    return score


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--largest", type=float, default=600, metavar="M", help="million parameters")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", metavar="NAME,…")
    parser.add_argument("--one", default="", help="measure this one and print it as JSON, for the process itself")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(catalog()[options.one], options.rounds)))
        return
    wanted, left = architectures(options.largest)
    chosen = options.only.split(",") if options.only else list(wanted)
    console, rows = Console(stderr=True), []
    for name in chosen:
        console.print(f"{name} …", style="dim")
        command = [sys.executable, __file__, "--one", name, "--rounds", str(options.rounds)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            console.print(ended.stderr[-2_000:], style="red")
            raise SystemExit(f"{name} could not be measured")
        rows.append(json.loads(ended.stdout.splitlines()[-1]))
        row = rows[-1]
        console.print(
            f"  {row['engine']} {row['precision']}: {row['ms_per_candidate']} ms a candidate, "
            f"{row['seconds_per_million_tokens']} s a million tokens, {row['times_plain'] or '—'} × plain transformers"
        )
    slowest = min((row["times_plain"] for row in rows if row["times_plain"]), default=None)
    goals = [
        target(
            "every classifier is faster than plain transformers", slowest, "> 1", slowest is not None and slowest > 1
        )
    ]
    if not options.only:
        print(write("families", rows, goals, left_out=left, rounds=options.rounds))


if __name__ == "__main__":
    main()
