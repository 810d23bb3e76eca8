"""Pairs that every engine is compared on: short, long, odd, and of several kinds.

Written for this purpose. Knows: nothing but texts.
"""

from __future__ import annotations

__all__ = ["PROBES"]

_VACCINE = "A vaccine trains the immune system to recognise a germ without causing the disease it protects from."
_LONG = (
    "The lighthouse on the northern cape was finished in the spring after three years of work. "
    "Its lamp burned oil at first, and a keeper wound the clockwork by hand every four hours. "
    "When electricity came, the keeper stayed to log the ships. "
)

PROBES: tuple[tuple[str, str], ...] = (
    ("how do vaccines work", _VACCINE),
    ("how do vaccines work", "The recipe needs two eggs, a cup of flour and a pinch of salt."),
    ("capital of australia", "Canberra is the capital city of Australia; Sydney is its largest city."),
    ("capital of australia", "Vienna"),
    ("sort a list in place", "list.sort(): sort the list in ascending order and return None. " * 12),
    ("when was the lighthouse electrified", _LONG * 3),
    ("who wound the clockwork of the lamp", _LONG),
    (
        "def read_lines(path)",
        "def read_lines(path):\n    with open(path) as f:\n        return [line.rstrip() for line in f]",
    ),
    (
        "Moderate exercise lowers resting blood pressure.",
        "In a trial of 212 adults, walking lowered systolic pressure by 4 mmHg.",
    ),
    (
        "Moderate exercise lowers resting blood pressure.",
        "We describe the genome of a soil bacterium that fixes nitrogen.",
    ),
    ("café naïve 漢字", "Zoë ordered a café crème — naïve, they said. 漢字 and kana differ."),
    ("x", "?"),
)
