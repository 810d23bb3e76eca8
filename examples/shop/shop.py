"""A made-up shop: items with texts and numbers, and customers who buy by taste, price and what is popular.

Everything is drawn by a seed. Nobody's data is in it, and it proves nothing about a real shop: the rules by which
people buy here are the few lines of `worth`.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from secondpass import Document

KINDS = {
    "kettle": ("boils water for tea", "kitchen"),
    "pan": ("fries eggs and fish", "kitchen"),
    "knife": ("cuts bread and roots", "kitchen"),
    "spade": ("turns heavy soil", "garden"),
    "rake": ("gathers fallen leaves", "garden"),
    "lantern": ("lights the path at night", "garden"),
    "tent": ("sleeps two in the rain", "outdoors"),
    "stove": ("cooks where there is no kitchen", "outdoors"),
    "rope": ("holds a load on a roof", "outdoors"),
    "lamp": ("lights a desk without glare", "study"),
    "notebook": ("takes ink on both sides", "study"),
    "chair": ("keeps a back straight", "study"),
}
STYLES = {
    "oak": "made of oiled oak",
    "steel": "made of brushed steel",
    "copper": "with a copper rim",
    "canvas": "wrapped in waxed canvas",
    "folding": "folds flat in a bag",
    "tiny": "small enough for a pocket",
}
PRICES = {"kitchen": 30.0, "garden": 25.0, "outdoors": 60.0, "study": 40.0}
BOUGHT, NEXT = 6, 3  # what is known of a customer, and what is to be found


@dataclass(frozen=True)
class Customer:
    """What somebody bought, oldest first, and what they bought next."""

    id: str
    history: tuple[Document, ...]
    next: tuple[Document, ...]


def items(count: int, seed: int) -> list[Document]:
    """Items with a text, a price and a popularity."""
    rng = random.Random(f"items/{seed}")
    made = []
    for number in range(count):
        kind, style = rng.choice(sorted(KINDS)), rng.choice(sorted(STYLES))
        does, room = KINDS[kind]
        price = round(PRICES[room] * math.exp(rng.gauss(0, 0.5)), 2)
        numbers = {"price": price, "popularity": round(rng.paretovariate(1.2), 3), "room": room, "style": style}
        text = f"A {style} {kind} for the {room}: it {does}, and is {STYLES[style]}."
        made.append(Document(f"item{number}", text, f"{style} {kind} no. {number}", numbers))
    return made


def customers(count: int, shop: list[Document], seed: int) -> list[Customer]:
    """Customers with two rooms and one style that they like, and a purse of their own."""
    rng = random.Random(f"customers/{seed}")
    made = []
    for number in range(count):
        rooms, style = rng.sample(sorted(PRICES), 2), rng.choice(sorted(STYLES))
        purse, crowd = math.exp(rng.gauss(0, 0.5)), rng.uniform(0, 2)

        def worth(item: Document) -> float:
            about = item.metadata
            taste = 3.0 * (about["room"] in rooms) + 3.0 * (about["style"] == style)  # noqa: B023 - drawn at once
            dear = abs(math.log(about["price"] / (PRICES[about["room"]] * purse)))  # noqa: B023
            return taste - 3.0 * dear + crowd * math.log(about["popularity"])  # noqa: B023

        # the best by worth plus a Gumbel's noise: drawn without replacement, by the exponential of the worth
        best = sorted(shop, key=lambda item: worth(item) - math.log(-math.log(rng.random())), reverse=True)
        bought = best[: BOUGHT + NEXT]
        rng.shuffle(bought)
        made.append(Customer(f"customer{number}", tuple(bought[:BOUGHT]), tuple(bought[BOUGHT:])))
    return made
