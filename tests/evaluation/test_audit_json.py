"""docs/audit-json.md names every key that the JSON of an audit has, with the type it has, and none that it has not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secondpass.evaluation.diagnosis import Kind
from secondpass.evaluation.difference import diff
from secondpass.evaluation.segments import Effect
from secondpass.evaluation.verdict import Decision
from toy_verdicts import full_verdict, verdict_of

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "audit-json.md").read_text(encoding="utf-8")
SCALARS: dict[str, Any] = {"text": str, "integer": int, "number": (int, float), "boolean": bool}


def objects() -> dict[str, dict[str, str]]:
    """Object -> key -> type, as the page has them."""
    found: dict[str, dict[str, str]] = {}
    for section in re.split(r"^### ", PAGE, flags=re.M)[1:]:
        rows = re.findall(r"^\| `(\w+)` \| (.*?) \| \S.* \|$", section, re.M)
        assert rows, f"no table under {section.splitlines()[0]!r}"
        assert len(dict(rows)) == len(rows)
        found[section.splitlines()[0].strip()] = dict(rows)
    return found


OBJECTS = objects()


def disagreements(value: Any, kind: str, at: str, reached: set[tuple[str, str]]) -> Iterator[str]:
    """Where a value is not of the kind that the page says; `reached` collects the keys that held something."""
    if kind.endswith(" or null"):
        if value is None:
            return
        kind = kind.removesuffix(" or null")
    if kind.startswith("list of "):
        if not isinstance(value, list):
            yield f"{at} is no list"
            return
        for one in value:
            yield from disagreements(one, kind.removeprefix("list of "), f"{at}[]", reached)
    elif kind == "interval":
        if not (isinstance(value, list) and len(value) == 2 and all(x is None or isinstance(x, float) for x in value)):
            yield f"{at} is no interval: {value!r}"
    elif linked := re.fullmatch(r"\[(.+)\]\(#(.+)\)", kind):
        assert linked[1].replace(" ", "-") == linked[2]
        keys = OBJECTS[linked[1]]
        if not isinstance(value, dict):
            yield f"{at} is no object"
            return
        yield from (f"{at}.{key} is not on the page" for key in value.keys() - keys.keys())
        yield from (f"{at}.{key} is on the page only" for key in keys.keys() - value.keys())
        for key in keys.keys() & value.keys():
            if value[key] not in (None, [], {}):
                reached.add((linked[1], key))
            yield from disagreements(value[key], keys[key], f"{at}.{key}", reached)
    elif not isinstance(value, SCALARS[kind]) or (isinstance(value, bool) and kind != "boolean"):
        yield f"{at} is {value!r}, which is no {kind}"


def stored(data: dict[str, Any]) -> Any:
    return json.loads(json.dumps(data, allow_nan=False))


FULL = full_verdict()
UNSURE = verdict_of(12, 11)
SINGLE = verdict_of(1, 0, missed=0)


def test_the_page_and_the_data_have_the_same_keys_and_types() -> None:
    reached: set[tuple[str, str]] = set()
    for verdict in (FULL, UNSURE, SINGLE):
        assert list(disagreements(stored(verdict.to_dict()), "[verdict](#verdict)", "verdict", reached)) == []
    other = replace(FULL, outcomes=tuple(replace(one, reranked=1.0 - one.reranked) for one in FULL.outcomes))
    for pair in ((FULL, other), (FULL, verdict_of(60, 12, 2, metric="ndcg@10")), (SINGLE, SINGLE)):
        found = diff(*(stored(one.to_dict()) for one in pair), permutations=100)
        assert list(disagreements(stored(found.to_dict()), "[difference](#difference)", "difference", reached)) == []
    # every key held something at least once, so that every type was seen
    assert {(name, key) for name, keys in OBJECTS.items() for key in keys} - reached == set()


def test_the_check_itself_finds_what_is_wrong() -> None:
    good = stored(FULL.to_dict())
    for change, words in (
        ({"invented": 1}, "verdict.invented is not on the page"),
        ({"p_value": "small"}, "verdict.p_value is 'small'"),
        ({"queries": True}, "verdict.queries is True"),
        ({"interval": [0.1]}, "verdict.interval is no interval"),
        ({"fits": {}}, "verdict.fits.depth is on the page only"),
        ({"reason": None}, "verdict.reason is None"),
    ):
        said = list(disagreements(good | change, "[verdict](#verdict)", "verdict", set()))
        assert any(words in one for one in said), said


@pytest.mark.parametrize("word", [*Decision])
def test_every_word_is_on_the_page(word: str) -> None:
    assert f"`{word}`" in PAGE


def test_the_page_names_patterns_and_effects() -> None:
    for name in (*Kind, *Effect):
        assert f"`{name}`" in PAGE
