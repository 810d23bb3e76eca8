"""What stands around a query and a document in a model's input: the template, as tokens.

Knows: how a template's pieces become token ids, and the limits that follow. Refuses to know: where a template comes
from (see `catalog`), engines, rankings.

    before · query · between · opening · document · after

Only the document is ever cut, so what stands behind it survives. The template's own pieces may hold special tokens;
the query and the document of a prompt never do: what looks like one in them is read as plain text, so that no document
can close its own turn and open another.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from hashlib import blake2b
from pathlib import Path

from tokenizers import Tokenizer

from secondpass.errors import ModelError
from secondpass.scoring.catalog import Family

__all__ = ["Frame", "pair_frame", "prompt_frame", "query_limit"]


@dataclass(frozen=True, slots=True)
class Frame:
    """Token ids around a pair, and text that is tokenized together with it.

    `between` follows the query on its side, `opening` begins the document's: where the sides can be read apart, the
    first is shared by all documents. `asked` is the text before and behind the query, `lead` that before the
    document. `typed`: the document's side has token type 1.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    opening: tuple[int, ...] = ()
    asked: tuple[str, str] = ("", "")
    lead: str = ""
    typed: bool = True

    @property
    def tokens(self) -> int:
        """How many tokens the template takes beside the texts."""
        return len(self.before) + len(self.between) + len(self.opening) + len(self.after)

    @property
    def digest(self) -> str:
        """blake2b-64, in hex: two frames of one digest lay out every pair alike."""
        return blake2b(repr(astuple(self)).encode(), digest_size=8).hexdigest()

    def query_limit(self, max_length: int) -> int:
        """The most tokens that a query, with its text around it, may have."""
        return query_limit(max_length, self.tokens)

    @property
    def shortest(self) -> int:
        """The least `max_length` that leaves a query sixteen tokens; 16 at least."""
        return max(16, -(-(self.tokens + 16) * 4 // 3)) if self.tokens > 8 else 16


def query_limit(max_length: int, template: int = 3) -> int:
    """The most tokens that a query may have, so that a document has a quarter of the length: three quarters, less the
    template's tokens, which are three in `[CLS] query [SEP] document [SEP]`."""
    return max_length * 3 // 4 - template


def pair_frame(tokenizer: Tokenizer, folder: Path, *, split: bool = False) -> Frame:
    """The frame of the tokenizer's own pair, read off a pair that it encodes.

    With `split` both sides begin alike, as a split encoder reads them: the document's with what is before the query's.
    Raises ModelError where it adds no special tokens around a pair, or adds them elsewhere.
    """
    encoding = tokenizer.encode("a", "a")
    sides = encoding.sequence_ids  # of each token: 0 the query's, 1 the document's, None the template's
    places = {side: [i for i, one in enumerate(sides) if one == side] for side in (0, 1)}
    if not places[0] or not places[1]:
        raise ModelError(f"{folder}: the tokenizer gives no tokens for the letter a; its files are damaged")
    first, last = places[0][0], places[0][-1]
    start, end = places[1][0], places[1][-1]
    ids, types = encoding.ids, encoding.type_ids
    before, between, after = ids[:first], ids[last + 1 : start], ids[end + 1 :]
    if not (before and between):
        raise ModelError(
            f"{folder}: the tokenizer puts no special tokens around a pair, so a query would run into its document; "
            "its tokenizer.json lacks the post-processor that the model was trained with"
        )
    opening = tuple(before) if split else ()
    return Frame(tuple(before), tuple(between), tuple(after), opening, typed=types[start] == 1)


def prompt_frame(tokenizer: Tokenizer, family: Family, instruction: str | None, folder: Path) -> Frame:
    """The frame of a family's prompt. The tokenizer then reads special tokens in texts as plain text.

    Raises ModelError for a special token that the tokenizer lacks, and for an instruction where the prompt has no
    place for one.
    """
    for token in family.special:
        if tokenizer.token_to_id(token) is None:
            raise ModelError(
                f"{folder}: the tokenizer lacks the special token {token!r} of family {family.name!r}; "
                "the folder is of another family, or its tokenizer files are not the model's"
            )
    pattern = family.query
    if instruction is not None and "{instruction}" not in pattern:
        if not family.instructed:
            raise ModelError(f"family {family.name!r} takes no instruction; leave instruction= out")
        pattern = family.instructed
    asked = pattern.replace("{instruction}", instruction or family.instruction)
    head, _, behind = asked.partition("{query}")

    def ids(pieces: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(i for piece in pieces for i in tokenizer.encode(piece, add_special_tokens=False).ids)

    frame = Frame(
        ids(family.before),
        ids(family.between),
        ids(family.after),
        asked=(head, behind),
        lead=family.document.partition("{document}")[0],
        typed=False,
    )
    tokenizer.encode_special_tokens = True
    return frame
