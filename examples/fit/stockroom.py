"""Two judged collections of an invented stockroom, as BEIR folders: what fitters ask for, and what everybody does.

    python stockroom.py FOLDER

The parts are described as in a catalogue. In `fitters` they are asked for by nicknames that no text holds and no model
has ever seen, so that there is something to learn; in `plain` by the catalogue's own words, so that one can see
whether something is forgotten. Splits: train, dev and test of the first, test of the second. The same every time.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

NICKNAMES = {
    "flap valve": "duckbill",
    "headless set screw": "grub",
    "flanged bushing": "top hat",
    "retaining ring": "snapper",
    "threaded reducer": "squeezer",
    "ball joint": "knuckle",
    "hose barb": "pine tree",
    "drain plug": "tear stopper",
    "wave washer": "crisp",
    "taper pin": "carrot",
    "pipe elbow": "banana",
    "coupling sleeve": "handshake",
}
USES = {
    "flap valve": "lets water out and nothing back in",
    "headless set screw": "holds a pulley on its shaft and disappears in the hub",
    "flanged bushing": "guides a shaft and keeps it from wandering sideways",
    "retaining ring": "snaps into a groove and holds a bearing",
    "threaded reducer": "joins a wide pipe to a narrow one",
    "ball joint": "swivels in all directions under load",
    "hose barb": "grips a rubber tube without a clamp",
    "drain plug": "closes the lowest point of a sump",
    "wave washer": "keeps a light spring load on a stack",
    "taper pin": "locates two plates and is driven out with a punch",
    "pipe elbow": "turns a line by a right angle",
    "coupling sleeve": "joins two bars end to end",
}
METALS = {"brass": "yellow", "stainless steel": "shiny", "bronze": "sea"}
SIZES = ("M4", "M5", "M6", "M8", "M10", "M12")
PARTS = [*itertools.product(NICKNAMES, METALS, SIZES)]
ASKED = {"train": 136, "dev": 30, "test": 50}  # of 216 parts, each asked for once


Part = tuple[str, str, str]
"""Name, metal and size."""


def described(part: Part) -> dict[str, str]:
    """A part as the catalogue has it."""
    name, metal, size = part
    text = f"{name.capitalize()}, {metal}, {size}. It {USES[name]}."
    return {"_id": identity(part), "title": f"{name} {size}", "text": text}


def identity(part: Part) -> str:
    """The document id of a part."""
    return "/".join(part).replace(" ", "-")


def write(folder: Path, queries: Mapping[str, Mapping[Part, str]]) -> None:
    """A BEIR folder of all parts; `queries` are texts by split and the part that they ask for."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    write_lines(folder / "corpus.jsonl", [described(part) for part in PARTS])
    texts = []
    for split, asked in queries.items():
        judgments = ["query-id\tcorpus-id\tscore"]
        for number, (part, text) in enumerate(asked.items()):
            texts.append({"_id": f"{split}-{number}", "text": text})
            judgments.append(f"{split}-{number}\t{identity(part)}\t1")
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(judgments) + "\n", encoding="utf-8")
    write_lines(folder / "queries.jsonl", texts)


def write_lines(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """JSON, a line each."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main(folder: Path) -> None:
    """Write both collections."""
    random.seed(7)
    drawn = random.sample(PARTS, len(PARTS))
    fitters: dict[str, dict[Part, str]] = {}
    for split, many in ASKED.items():
        asked, drawn = drawn[:many], drawn[many:]
        fitters[split] = {part: by_nickname(part) for part in asked}
    write(folder / "fitters", fitters)
    plain = {(name, metal, size): f"a {size} {name} made of {metal}" for name, metal, size in random.sample(PARTS, 50)}
    write(folder / "plain", {"test": plain})


def by_nickname(part: Part) -> str:
    """How a fitter asks for it."""
    nickname, look, size = NICKNAMES[part[0]], METALS[part[1]], part[2]
    return random.choice(
        (f"{look} {nickname} {size}", f"{nickname} {size}, the {look} one", f"any {size} {nickname}s left? {look}")
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python stockroom.py FOLDER")
    main(Path(sys.argv[1]))
