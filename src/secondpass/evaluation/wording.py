"""How this room writes numbers and foreign text in messages, notes and reports."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, floor, log10

__all__ = ["clean", "counted", "money", "roughly", "signed", "some"]


def counted(n: int, one: str, many: str = "") -> str:
    """The number with its noun, such as "1 query" or "1,200 queries"."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def money(amount: float | None, currency: str) -> str:
    """Two digits at least, never as a power of ten, such as "0.0031 USD"."""
    if amount is None:
        return "unknown"
    places = 2 if amount == 0.0 or abs(amount) >= 1.0 else 1 - floor(log10(abs(amount)))
    return f"{amount:,.{0 if abs(amount) >= 1000.0 else min(places, 9)}f} {currency}".rstrip().replace("-", "−")


def roughly(n: int) -> str:
    """Two digits of a count that is an estimate, rounded up, such as "1,300"."""
    step = 10 ** max(len(str(n)) - 2, 0)
    return f"{ceil(n / step) * step:,}"


def signed(value: float) -> str:
    """Three decimals with a sign, and a real minus; what rounds to nothing has no sign."""
    text = f"{value:+.3f}"
    return "0.000" if text in ("+0.000", "-0.000") else text.replace("-", "−")


def some(names: Iterable[str], most: int = 5) -> str:
    """The first few names."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (", …" if len(names) > most else "") if names else "none"


def clean(text: str) -> str:
    """One line without control characters, which a terminal would obey."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
