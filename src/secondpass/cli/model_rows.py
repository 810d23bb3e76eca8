"""The models that ship and that the catalog knows, and what each is on this machine: licence, files, seconds.

Knows: where models lie, what is there without a network, how a model is timed for about a second. Refuses to know:
arguments, how a table looks. Nothing is ever fetched.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from secondpass.cli.bench_texts import FreshTexts
from secondpass.errors import SecondpassError
from secondpass.scoring.architecture import GRAPHS
from secondpass.scoring.catalog import Known, catalog, permits_commerce
from secondpass.scoring.checkpoint import Checkpoint, open_checkpoint, stated_licence
from secondpass.scoring.pair_scorer import PairScorer, open_scorer
from secondpass.scoring.workload import multiply_adds
from secondpass.weights import SHIPPED, weight_files

__all__ = ["Listed", "cached", "listed", "parameters", "seconds_per_million", "timed"]

YARDSTICK = "secondpass-mini"  # what ships and can be timed everywhere
# millions of parameters: a larger one takes minutes to open, and more memory than many machines have
_MOST_TIMED = 700.0
_QUERY, _DOCUMENT = 8, 117  # tokens: with three of a template a pair has 128
_MOST_TEXTS = 64
_SECONDS = 1.0  # that timing a model may take


@dataclass(frozen=True, slots=True)
class Listed:
    """A line of the list.

    here: "ships", "cached" (in the hub client's cache), "needs torch" (cached, and its engine is not installed) or
    "not here". needs: what has to be allowed to open it. parameters in millions, lengths in tokens of a pair (None:
    whole texts). seconds: of a million tokens on this machine, "measured" or "estimated" as `how` says.
    """

    name: str
    kind: str
    family: str
    parameters: float
    max_length: int | None
    longest: int | None
    languages: tuple[str, ...]
    licence: str
    needs: tuple[str, ...]
    here: Literal["ships", "cached", "needs torch", "not here"]
    seconds: float | None = None
    how: Literal["measured", "estimated", ""] = ""
    verified: bool = False
    note: str = ""

    @property
    def offline(self) -> bool:
        """Whether it runs here without a network."""
        return self.here in ("ships", "cached")

    def to_dict(self, machine_hour: float | None, currency: str) -> dict[str, Any]:
        """JSON-ready, with the price of a million tokens (None: unknown) where a machine's hour has one."""
        row = asdict(self)
        seconds, how = row.pop("seconds"), row.pop("how")
        return row | {
            "offline": self.offline,
            "seconds_per_million_tokens": None if seconds is None else float(f"{seconds:.4g}"),
            "seconds_are": how or None,
            "price_per_million_tokens": self.price(machine_hour),
            "currency": None if machine_hour is None else currency,
        }

    def price(self, machine_hour: float | None) -> float | None:
        """What a million tokens cost: seconds · machine hour / 3,600."""
        return None if machine_hour is None or self.seconds is None else self.seconds * machine_hour / 3600.0


def listed() -> list[Listed]:
    """What ships, then the catalog; nothing is timed yet."""
    return [*map(_shipped, SHIPPED), *map(_known, catalog().values())]


def _shipped(name: str) -> Listed:
    from secondpass.embedding import is_static

    folder = SHIPPED[name]
    licence, millions = stated_licence(folder), parameters(folder)
    if is_static(folder):
        return Listed(name, "static embeddings", "", millions, None, None, ("en",), licence, (), "ships", verified=True)
    one = open_checkpoint(name)
    lengths = (one.max_length, one.longest)
    return Listed(
        name, "reranker", one.family, millions, *lengths, one.languages, one.licence, (), "ships", verified=True
    )


def _known(known: Known) -> Listed:
    needs = [] if permits_commerce(known.licence) else ["licence"]
    needs += ["remote-code"] if known.remote_code else []
    return Listed(
        name=known.name,
        kind="reranker",
        family=known.family,
        parameters=known.parameters,
        max_length=known.max_length,
        longest=known.longest,
        languages=known.languages,
        licence=known.licence,
        needs=tuple(needs),
        here=_here(known),
        verified=known.verified,
        note=known.note,
    )


def _here(known: Known) -> Literal["cached", "needs torch", "not here"]:
    if cached(known.name) is None:
        return "not here"
    ours = known.kind in GRAPHS and known.family == "pair"
    return "cached" if ours or importlib.util.find_spec("torch") else "needs torch"


def cached(name: str) -> Path | None:
    """The folder of a hub name in the hub client's cache, with its configuration and all of its weights; else None."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    if not isinstance(config, str):
        return None
    weights = weight_files(Path(config).parent)
    return Path(config).parent if weights and all(file.is_file() for file in weights) else None


def parameters(folder: Path) -> float:
    """Millions of numbers in a folder's safetensors."""
    from safetensors import safe_open

    total = 0
    for path in weight_files(folder):
        with safe_open(path, "np") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return round(total / 1e6, 1)


def timed(rows: Iterable[Listed], *, cache: Path | None) -> Iterator[Listed]:
    """The rows with their seconds, one by one.

    What is here, opens without a question and has at most 700 million parameters is measured. The others' are
    estimated: the seconds of secondpass-mini times the ratio of `multiply_adds`. So they are what a model would take if
    it used this machine as well as mini does, at its length of 128 tokens; bench/families.py measures how far that
    holds.
    """
    checkpoint = open_checkpoint(YARDSTICK)
    yardstick = _measured(checkpoint, cache)
    own = _multiply_adds(checkpoint)
    known = catalog()
    for row in rows:
        if row.name == YARDSTICK:
            yield replace(row, seconds=yardstick, how="measured" if yardstick else "")
            continue
        if row.name not in known:
            ours = _measured(open_checkpoint(row.name), cache) if row.kind == "reranker" else None
            yield replace(row, seconds=ours, how="measured") if ours else row  # of embeddings nothing is a token's
            continue
        one, seconds = known[row.name], None
        if row.offline and not row.needs and row.parameters <= _MOST_TIMED:
            seconds = _measured_in_cache(one, cache)
        if seconds is not None:
            yield replace(row, seconds=seconds, how="measured")
        elif yardstick is not None:
            ratio = multiply_adds(one.kind, one.sizes, one.parameters) / own
            yield replace(row, seconds=yardstick * ratio, how="estimated")
        else:
            yield row


def _multiply_adds(checkpoint: Checkpoint) -> float:
    sizes = {key: getattr(checkpoint.encoder, key) for key in ("layers", "hidden", "heads", "intermediate")}
    return multiply_adds(checkpoint.kind, sizes)


def _measured_in_cache(known: Known, cache: Path | None) -> float | None:
    """None where its folder does not open or score: then it is estimated as if it were not here."""
    folder = cached(known.name)
    if folder is None:
        return None
    try:
        return _measured(open_checkpoint(folder, family=known.family), cache)
    except SecondpassError:
        return None


def _measured(checkpoint: Checkpoint, cache: Path | None) -> float | None:
    scorer = open_scorer(checkpoint, cache=cache)
    try:
        return seconds_per_million(scorer, _SECONDS)
    finally:
        scorer.close()


def seconds_per_million(scorer: PairScorer, seconds: float) -> float:
    """Seconds for a million tokens of pairs, from about so many seconds of scoring texts that were never seen.

    Whole calls are timed, tokenizing included, over pairs of 128 tokens (or the model's length, where that is less;
    more, where its prompt is longer). Tokens are those of the pairs, prompt included; the median of the calls counts,
    after one that does not.
    """
    fresh = FreshTexts(scorer.checkpoint.tokenizer)
    room = scorer.max_length - scorer.checkpoint.frame.tokens - 2 * _QUERY
    length = max(min(_DOCUMENT, room), _QUERY)
    (query,) = fresh.of_length(1, _QUERY)
    scorer.score(query, fresh.of_length(2, length))  # an engine sets up its shapes
    count, spent, found = 2, 0.0, list[float]()
    while spent < seconds or len(found) < 3:
        trace = scorer.score(query, fresh.of_length(count, length)).trace
        spent += trace.seconds
        found.append(trace.seconds / trace.tokens)
        count = max(2, min(_MOST_TEXTS, int(count * seconds / 8 / trace.seconds)))
        if spent > 10 * seconds:
            break
    return 1e6 * statistics.median(found[1:] or found)
