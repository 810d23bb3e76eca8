"""The promises of rerankers, retrievers and selectors, as checks that a plug-in's tests can call.

Knows: what is promised (types.py says the shapes), and test doubles that keep it.
Refuses to know: any particular reranker, any test runner.

    from secondpass.testing import check_pointwise, check_reranker

    def test_my_reranker():
        check_reranker(MyReranker)    # every reranker
        check_pointwise(MyReranker)   # those that score each document on its own

A broken promise raises AssertionError with a sentence that says which one and where. Each
check takes a factory rather than an object, so that what one object remembers can be told
from what the model computes.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from types import MappingProxyType

from secondpass.cascade import Stage, reorder
from secondpass.types import (
    NEVER,
    Deadline,
    Document,
    DocumentLike,
    Hit,
    Ranking,
    Reranker,
    Retriever,
    Scores,
    Selector,
    StageTrace,
    Status,
    as_ranking,
)

__all__ = [
    "ListRetriever",
    "ManualClock",
    "OverlapReranker",
    "check_pointwise",
    "check_reranker",
    "check_retrieval",
    "check_retriever",
    "check_selector",
]


# What the checks are made on

_QUERY = "how do bees find the way back to their hive"
_TEXTS = (
    "The hive is kept at 35 degrees all year round.",
    "Bees find the way back to their hive by the sun, by landmarks and by scent.",
    "A short text.",
    "Foragers learn the look of the hive on their first flights; back home they dance to tell where food is. " * 4,
    "Bees find the way back to their hive by the sun, by landmarks and by scent.",  # the same again: a tie
    "Interest rates rose by a quarter point, and the markets did not mind.",
    "The way of the bee",
    "Ein Text in einer anderen Sprache, ohne jedes Wort der Frage: Wohin, woher, warum?",
    "Honey never spoils. " * 60,
)
_BAD: Mapping[str, object] = MappingProxyType(
    {
        "empty": "",
        "blank": " \t\r\n\u00a0\u3000",
        "none": None,
        "number": 42,
        "bytes": b"raw bytes",
        "list": ["a", "list", "of", "words"],
        "huge": "bees and hives " * 70_000,  # about 1 MB
        "one huge word": "x" * 1_000_000,
        "lone surrogate": "a hive \ud800 cut in half",
        "control characters": "a \x00 hive \x07 \x1b[31m of \x7f bees",
        "right to left": "\u202enekops si eno siht\u202c \u05d3\u05d1\u05d5\u05e8\u05d4",
        "zero width": "b\u200be\u200de\u2060s \ufeff",
        "combining": "e" + "\u0301" * 5_000,
        "emoji": "\U0001f469\u200d\U0001f469\u200d\U0001f467\U0001f41d",
    }
)
_HOSTILE = (
    *("'", '"', "`", "\\", "\\'", '"unbalanced', "''", '""', "%", "%s", "%(id)s", "{", "{}", "${id}", "$1", "?"),
    *(":id", ";", "--", "/*", "AND", "bees AND", "OR OR", "NOT", "bees NOT hive", "NEAR(bees hive)", "bees NEAR/2"),
    *("text:bees", "-bees", "+", "^bees", "bee*", "*", "(", ")", "(bees", "[* TO *]", "[a TO", "/bees/", "bees~2"),
    *("bees^2", "!bees", "a & b |", "<->", "a <2> b", "bees:*", "'; DROP TABLE documents; --", '") OR 1 = 1 --'),
    *('{"match_all": {}}', "\x00", "bees \x00 hive", "\ud800 bees", "\n\t", "bees\\"),
)
"""What is syntax somewhere: in SQL, FTS5, tsquery, Lucene, JSON, templates."""
_HOSTILE_IDS = ("'", '"; --', "a b", "a/b?c#d", "%s", "{}", "Größe", "\u202e", "🐝", "..", "_x", "1", "01", "null")
# A cascade's later stage may be cut off, or see less, on the order of an earlier one: so not DEADLINE, BEYOND_DEPTH.
_UNSCORABLE = frozenset({Status.EMPTY, Status.NOT_TEXT, Status.BAD_SCORE, Status.QUERY_TOO_LONG})
_NOT_TEXT = frozenset(name for name, text in _BAD.items() if not isinstance(text, str))


def _documents(texts: Iterable[str] = _TEXTS) -> list[Document]:
    return [Document(f"d{number}", text, metadata={"page": [number]}) for number, text in enumerate(texts)]


def _bad_documents() -> list[Document]:
    return [Document(name, text, metadata={"bad": True}) for name, text in _BAD.items()]  # type: ignore[arg-type]


def _ranking(documents: Sequence[Document], query: str = _QUERY) -> Ranking:
    """A first-stage ranking with falling scores, and an earlier entry in the trace."""
    hits = (
        Hit(document, 50.0 - rank, Status.RETRIEVED, 50.0 - rank, rank) for rank, document in enumerate(documents, 1)
    )
    return Ranking(query, tuple(hits), (StageTrace("first stage", 0.5),), "q1")


# Every reranker


def check_reranker(make: Callable[[], Reranker]) -> None:
    """Check the promises that every reranker makes.

    - The result is a permutation: no document lost, doubled, invented or changed; the query,
      `first_score` and `first_rank` stay; what was handed in is not mutated.
    - A hit has a finite float as score exactly where its status is `scored`; what cannot be scored
      keeps its order among itself.
    - The trace is continued: earlier entries stay, a new one follows.
    - An empty ranking and a single document are accepted.
    - A deadline of zero gives the first-stage order, nothing scored, and the trace says why; one that
      passes in the middle gives a valid result.
    - A bad document (empty, not text, 1 MB, odd Unicode) gets a status and a place; the
      others keep the status they have without it.
    - A query too long to fit leaves every document unscored and in its place.

    Raises AssertionError naming the promise that is broken.
    """
    reranker = make()
    _keeps_the_basics(reranker, _documents, "an ordinary ranking")
    _keeps_the_basics(reranker, lambda: _documents(_TEXTS[:1]), "a single document")
    _keeps_the_basics(reranker, list, "an empty ranking")
    _stops_at_the_deadline(reranker)
    _bears_bad_documents(reranker)
    _never_cuts_the_order_of_a_long_query(reranker)


def _keeps_the_basics(
    reranker: Reranker,
    documents: Callable[[], list[Document]],
    where: str,
    query: str = _QUERY,
    deadline: Callable[[], Deadline] = lambda: NEVER,
) -> Ranking:
    """What holds for any input; gives back the result for more checks."""
    given, untouched = _ranking(documents(), query), _ranking(documents(), query)
    try:
        result = reranker.rerank(given, deadline=deadline())
    except Exception as error:
        raise AssertionError(f"{where}: the reranker failed with {type(error).__name__}: {error}") from error
    _promise(isinstance(result, Ranking), f"{where}: the result is a {type(result).__name__}, not a Ranking")
    _promise(given == untouched, f"{where}: the ranking that was handed in has been mutated")
    _promise(
        result.query == query and result.query_id == untouched.query_id, f"{where}: the query or its id has changed"
    )
    before, after = untouched.ids, result.ids
    _promise(not (lost := set(before) - set(after)), f"{where}: documents were lost: {_some(lost)}")
    _promise(not (new := set(after) - set(before)), f"{where}: documents were invented: {_some(new)}")
    _promise(len(after) == len(before), f"{where}: documents were doubled: {len(before)} in, {len(after)} out")
    originals = {hit.document.id: hit for hit in untouched.hits}
    for hit in result.hits:
        original, name = originals[hit.document.id], repr(hit.document.id)
        _promise(hit.document == original.document, f"{where}: document {name} came back changed")
        _promise(
            (hit.first_score, hit.first_rank) == (original.first_score, original.first_rank),
            f"{where}: first_score or first_rank of {name} has changed; they are the first stage's for ever",
        )
        _check_hit(hit, f"{where}: document {name}")
    _keep_order(before, [hit.document.id for hit in result.hits if hit.status in _UNSCORABLE], where)
    kept = len(untouched.trace)
    _promise(result.trace[:kept] == untouched.trace, f"{where}: earlier entries of the trace were lost or changed")
    if before:
        _promise(len(result.trace) > kept, f"{where}: the trace has no new entry; it must say what happened")
    return result


def _keep_order(before: Sequence[str], unscored: Sequence[str], where: str) -> None:
    _promise(
        list(unscored) == [name for name in before if name in set(unscored)],
        f"{where}: documents without a score did not keep their order among themselves: {_some(unscored)}",
    )


def _check_hit(hit: Hit, where: str) -> None:
    _promise(isinstance(hit.status, Status), f"{where}: the status {hit.status!r} is not a Status")
    if hit.status is Status.SCORED:
        good = isinstance(hit.score, float) and math.isfinite(hit.score)
        _promise(good, f"{where}: the status is scored, but the score is {hit.score!r}, not a finite float")
    else:
        _promise(hit.score is None, f"{where}: the status is {hit.status}, yet there is a score ({hit.score!r})")
    if hit.probability is not None:
        _promise(0 <= hit.probability <= 1, f"{where}: the probability is {hit.probability!r}, outside 0..1")
    if hit.span is not None:
        start, end = hit.span
        _promise(0 <= start <= end, f"{where}: the span is {hit.span!r}, not a (start, end) slice")


def _stops_at_the_deadline(reranker: Reranker) -> None:
    where = "a deadline of zero"
    result = _keeps_the_basics(reranker, _documents, where, deadline=lambda: Deadline.after_ms(0))
    scored = [hit.document.id for hit in result.hits if hit.status is Status.SCORED]
    _promise(not scored, f"{where}: documents were scored all the same: {_some(scored)}")
    _promise(result.ids == _ranking(_documents()).ids, f"{where}: the first-stage order was not kept")
    _promise(
        any(entry.skipped_because or any(entry.skipped.values()) for entry in result.trace[1:]),
        f"{where}: the trace does not say what was skipped (skipped, skipped_because)",
    )
    for readings in (1, 2, 3, 5, 8, 13):
        clock = ManualClock(tick=1.0)
        _keeps_the_basics(
            reranker,
            _documents,
            f"a deadline that passes at reading {readings} of its clock",
            deadline=lambda clock=clock, readings=readings: Deadline(clock.now + readings, clock),  # type: ignore[misc]
        )


def _bears_bad_documents(reranker: Reranker) -> None:
    alone = reranker.rerank(_ranking(_documents()), deadline=NEVER)
    statuses = {hit.document.id: hit.status for hit in alone.hits}

    def mixed() -> list[Document]:  # one bad document before each good one, and the rest behind
        good, bad = _documents(), _bad_documents()
        pairs = [document for pair in zip(bad, good, strict=False) for document in pair]
        return pairs + bad[len(good) :] + good[len(bad) :]

    result = _keeps_the_basics(reranker, mixed, "bad documents among good ones")
    for hit in result.hits:
        name = hit.document.id
        if Status.BEYOND_DEPTH in (hit.status, statuses.get(name)):
            continue  # a cascade does not look that far down
        if name in _NOT_TEXT:
            _promise(
                hit.status is Status.NOT_TEXT,
                f"bad documents: {name!r} holds {type(hit.document.text).__name__}, yet its status is {hit.status}",
            )
        elif name == "empty":
            _promise(hit.status is Status.EMPTY, f"bad documents: an empty text got the status {hit.status}")
        elif name in statuses:
            _promise(
                hit.status is statuses[name],
                f"bad documents: {name!r} is {statuses[name]} without bad documents beside it, {hit.status} with them",
            )
    for document in _bad_documents():
        _keeps_the_basics(reranker, lambda document=document: [document], f"only a bad document ({document.id})")  # type: ignore[misc]


def _never_cuts_the_order_of_a_long_query(reranker: Reranker) -> None:
    where = "a query of 40,000 words"
    result = _keeps_the_basics(reranker, _documents, where, query=_long_query())
    too_long = [hit.document.id for hit in result.hits if hit.status is Status.QUERY_TOO_LONG]
    if too_long:
        scored = [hit.document.id for hit in result.hits if hit.status is Status.SCORED]
        _promise(not scored, f"{where} is too long, yet documents were scored: {_some(scored)}")
        _promise(result.ids == _ranking(_documents()).ids, f"{where} is too long, yet the order changed")


def _long_query(end: str = "") -> str:
    return "and where is it then " * 8_000 + end


# Rerankers that score each document on its own


def check_pointwise(make: Callable[[], Reranker], tolerance: float = 1e-4) -> None:
    """Check the promises of a reranker that scores each document on its own.

    - Without a deadline everything is scored, best score first, ties in the order given; what is not
      scored follows in the order given; a deadline in the far future changes nothing.
    - Reranking at depth m gives exactly the scores of the first m; the rest stays behind.
    - A deadline that passes in the middle changes which documents are scored, never a score.
    - Batch mates, bad ones among them, the order of documents, and what was scored before do not
      change a score by more than `tolerance` (absolute; 1e-4 is the promise in fp32).
    - A long query is never truncated: it is scored whole, or it is too long.

    Raises AssertionError naming the promise that is broken.
    """
    reranker = make()
    documents = _documents()
    full = _scores(reranker, documents, "an ordinary ranking")
    _promise(len(full) == len(documents), "without a deadline some documents stayed unscored")
    _same(full, _scores(reranker, documents, "far", deadline=Deadline.after_ms(1e12)), tolerance, "a far deadline")
    for m in (1, len(documents) // 2, len(documents), len(documents) + 5):
        result = Stage(reranker, depth=m).run(_ranking(documents))
        tail = [hit.document.id for hit in result.hits[m:] if hit.status is Status.BEYOND_DEPTH]
        _promise(tail == [document.id for document in documents[m:]], f"depth {m}: what lies beyond did not stay there")
        first = {name: score for name, score in full.items() if name not in tail}
        _same(first, _scored(result), tolerance, f"depth {m}")
    for readings in range(1, 12):
        clock = ManualClock(tick=1.0)
        partial = _scores(reranker, documents, "a deadline in the middle", deadline=Deadline(float(readings), clock))
        _same({name: full[name] for name in partial}, partial, tolerance, "a deadline in the middle")
    _same(full, _scores(reranker, documents[::-1], "reversed"), tolerance, "the reversed order of documents")
    mixed = _scores(reranker, [*_bad_documents(), *documents], "bad batch mates")
    _same(full, {name: score for name, score in mixed.items() if name in full}, tolerance, "bad batch mates")
    for document in documents:
        alone = _scores(reranker, [document], "alone")
        _same({document.id: full[document.id]}, alone, tolerance, "a document alone instead of in a batch")
    _same(full, _scores(make(), documents, "fresh"), tolerance, "a fresh reranker instead of one used before")
    one = _scores(reranker, documents, "a long query", query=_long_query())
    if one:
        other = _scores(reranker, documents, "a long query", query=_long_query(_TEXTS[1]))
        _promise(
            one != other,
            "a query of 40,000 words gives the same scores whatever its end says: it was truncated; "
            "a query that does not fit gets the status query_too_long",
        )


def _scores(
    reranker: Reranker, documents: Sequence[Document], where: str, query: str = _QUERY, deadline: Deadline = NEVER
) -> dict[str, float]:
    """Score per id of what was scored, after checking that it comes first, best first, ties in order."""
    given = _ranking(documents, query)
    result = reranker.rerank(given, deadline=deadline)
    scored = _scored(result)
    _keep_order(given.ids, [hit.document.id for hit in result.hits if hit.score is None], where)
    _promise(list(scored) == list(result.ids[: len(scored)]), f"{where}: unscored documents stand before scored ones")
    rank = {name: position for position, name in enumerate(given.ids)}
    expected = sorted(scored, key=lambda name: (-scored[name], rank[name]))
    _promise(list(scored) == expected, f"{where}: not by falling score with ties in the order given: {scored}")
    return scored


def _scored(ranking: Ranking) -> dict[str, float]:
    return {hit.document.id: hit.score for hit in ranking.hits if hit.score is not None}


def _same(one: Mapping[str, float], other: Mapping[str, float], tolerance: float, what: str) -> None:
    """The same documents are scored, and the same within the tolerance."""
    differ = sorted(one.keys() ^ other.keys())
    _promise(not differ, f"{what} changes which documents are scored: {_some(differ)}")
    for name, score in one.items():
        change = abs(score - other[name])
        _promise(
            change <= tolerance,
            f"{what} changes the score of {name!r} from {score:.7g} to {other[name]:.7g}, "
            f"by {change:.2g}, more than the tolerance of {tolerance:.2g}",
        )


# Retrievers


def check_retriever(make_from_documents: Callable[[Sequence[Document]], Retriever]) -> None:
    """Check the promises that every retriever makes, on a retriever over the documents it is given.

    - At most k hits, each a document of the collection as it was indexed (metadata too), none twice.
    - Best first: scores never rise; `first_score` is the score, `first_rank` counts from 1,
      the status is `retrieved`; the ranking carries the query as it was asked.
    - k beyond the collection, an empty query, unknown words, odd Unicode are no failures, nor is what is syntax
      somewhere: quotes, operators, statements of SQL.
    - The same question has the same answer.
    - The document that a query quotes in full is found; ids come back as they were, whatever they look like.
    - Bad documents (empty, not text, 1 MB, odd Unicode) neither fail the collection nor hide the others.
    - The documents that are handed in are not mutated.

    For queries of your own, such as those that hypothesis draws, there is `check_retrieval`.

    Raises AssertionError naming the promise that is broken.
    """
    odd = [text for text in _BAD.values() if isinstance(text, str) and len(text) < 10_000]
    collections = {"one document": _documents(_TEXTS[:1]), "an ordinary collection": _documents()}
    named = [Document(id, f"bees of the hive {number}") for number, id in enumerate(_HOSTILE_IDS)]
    collections["a collection with odd ids"] = named
    collections["a collection with bad documents"] = [*_bad_documents(), *_documents()]
    for where, documents in collections.items():
        given = deepcopy([(one.id, one.text, one.title, dict(one.metadata)) for one in documents])
        try:
            retriever = make_from_documents(documents)
        except Exception as error:
            raise AssertionError(f"{where}: it cannot be made ({type(error).__name__}: {error})") from error
        for query in (_QUERY, "zzyzx qwrtz", *_TEXTS, *odd):
            for k in (1, 3, 10 * len(documents)):
                check_retrieval(retriever, documents, query, k, where)
        for query in _HOSTILE:
            check_retrieval(retriever, documents, query, 3, where)
        kept = [(one.id, one.text, one.title, dict(one.metadata)) for one in documents]
        _promise(kept == given, f"{where}: the documents that were handed in have been mutated")
        if documents is named:
            found = retriever.retrieve("bees of the hive", len(named)).ids
            _promise(sorted(found) == sorted(_HOSTILE_IDS), f"{where}: not all ids come back, or not as they were")
    found = retriever.retrieve(_TEXTS[5], len(documents)).ids
    _promise("d5" in found, "a document is not found by its own full text")


def check_retrieval(
    retriever: Retriever, documents: Sequence[Document], query: str, k: int, where: str = "the collection"
) -> None:
    """Check one answer of a retriever over `documents`: see check_retriever. `where` begins what is said of it.

    Raises AssertionError naming the promise that is broken.
    """
    where = f"{where}, query {query[:40]!r}, k = {k}"
    try:
        result = retriever.retrieve(query, k)
        again = retriever.retrieve(query, k) if k == 3 else result
    except Exception as error:
        raise AssertionError(f"{where}: retrieval failed with {type(error).__name__}: {error}") from error
    _promise(isinstance(result, Ranking), f"{where}: the result is a {type(result).__name__}, not a Ranking")
    _promise(result.hits == again.hits, f"{where}: asked twice, it gave two answers")
    _promise(result.query == query, f"{where}: the ranking does not carry the query as it was asked")
    _promise(len(result) <= k, f"{where}: {len(result)} hits, more than k")
    _promise(len(set(result.ids)) == len(result), f"{where}: a document was found twice")
    originals = {document.id: document for document in documents}
    last = math.inf
    for rank, hit in enumerate(result.hits, 1):
        name = repr(hit.document.id)
        _promise(hit.document == originals.get(hit.document.id), f"{where}: document {name} is not as it was indexed")
        _promise(hit.status is Status.RETRIEVED, f"{where}: the status of {name} is {hit.status}, not retrieved")
        _promise(hit.first_rank == rank, f"{where}: the first_rank of {name} is {hit.first_rank}, its place is {rank}")
        _promise(hit.first_score == hit.score, f"{where}: first_score and score of {name} differ")
        if hit.score is not None:
            _promise(math.isfinite(hit.score) and hit.score <= last, f"{where}: the scores rise at rank {rank}")
            last = hit.score


# Selectors


def check_selector(make: Callable[[], Selector]) -> None:
    """Check the promises that every selector makes.

    - What it keeps are hits that it was given, unchanged and none twice, in any order; the query stays;
      what was handed in is not mutated.
    - The trace is continued: earlier entries stay, new ones follow. `detail["removed"]` of the new ones
      gives, by id, a reason for each hit that is gone and for no other; `detail["kept"]` of the last
      counts those that stay. No pair is scored.
    - An empty ranking, a single document, documents without scores, probabilities or texts, and odd ones
      (1 MB, odd Unicode, not text) are no failures.
    - The same ranking has the same answer.
    - A deadline removes nothing that would stay without one; where it makes less go, the trace says why.

    Raises AssertionError naming the promise that is broken.
    """
    selector = make()
    cases: dict[str, Callable[[], list[Document]]] = {
        "an ordinary ranking": _chunks,
        "a single document": lambda: _chunks()[:1],
        "an empty ranking": list,
        "bad documents among good ones": lambda: [*_bad_documents()[:7], *_chunks(), *_bad_documents()[7:]],
    }
    for bad in _bad_documents():
        cases[f"only a bad document ({bad.id})"] = lambda bad=bad: [bad]  # type: ignore[misc]
    for where, documents in cases.items():
        for kind, ranked in (("found", _ranking), ("scored", _in_part_scored)):
            _check_selection(selector, lambda: ranked(documents()), f"{where}, {kind}")  # noqa: B023 - used at once


def _chunks() -> list[Document]:
    """The ordinary documents as chunks of three longer ones, their places in these turned round."""
    documents = enumerate(_documents())
    return [replace(one, metadata={**one.metadata, "parent_id": n % 3, "place": -n}) for n, one in documents]


def _in_part_scored(documents: Sequence[Document]) -> Ranking:
    """As a calibrated reranker leaves it that was stopped by a deadline: a third of the hits has no score."""
    ranking = _ranking(documents)
    count = len(documents) - len(documents) // 3
    hits = [
        replace(hit, score=4.0 - rank, status=Status.SCORED, probability=1 / (1 + math.exp(rank - 4.0)))
        if rank < count
        else replace(hit, score=None, status=Status.DEADLINE)
        for rank, hit in enumerate(ranking.hits)
    ]
    told = StageTrace("second stage", 0.5, detail={"model": "a model", "digest": "0" * 32})
    return replace(ranking, hits=tuple(hits), trace=(*ranking.trace, told))


def _check_selection(selector: Selector, ranking: Callable[[], Ranking], where: str) -> None:
    left = _selection(selector, ranking, where).ids
    _promise(left == _selection(selector, ranking, where).ids, f"{where}: asked twice, it gave two answers")
    clocks = [Deadline.after_ms(0), *(Deadline(float(n), ManualClock(tick=1.0)) for n in (1, 2, 3, 5, 8, 13))]
    for deadline in clocks:
        late = _selection(selector, ranking, f"{where}, under a deadline", deadline)
        less, more = set(left) - set(late.ids), set(late.ids) - set(left)
        _promise(not less, f"{where}: a deadline removes what stays without one: {_some(less)}")
        _promise(
            not more or any(entry.skipped_because for entry in late.trace[len(ranking().trace) :]),
            f"{where}: a deadline makes less go, and the trace does not say so (skipped_because)",
        )


def _selection(selector: Selector, given: Callable[[], Ranking], where: str, deadline: Deadline = NEVER) -> Ranking:
    """What the selector leaves, after checking what holds for any input."""
    ranking, untouched = given(), given()
    try:
        result = selector.select(ranking, deadline=deadline)
    except Exception as error:
        raise AssertionError(f"{where}: the selector failed with {type(error).__name__}: {error}") from error
    _promise(isinstance(result, Ranking), f"{where}: the result is a {type(result).__name__}, not a Ranking")
    _promise(ranking == untouched, f"{where}: the ranking that was handed in has been mutated")
    _promise(
        (result.query, result.query_id) == (ranking.query, ranking.query_id),
        f"{where}: the query or its id has changed",
    )
    before, after = set(ranking.ids), set(result.ids)
    _promise(after <= before, f"{where}: documents were invented: {_some(after - before)}")
    _promise(len(after) == len(result), f"{where}: documents were doubled")
    originals = {hit.document.id: hit for hit in ranking.hits}
    changed = [hit.document.id for hit in result.hits if hit != originals[hit.document.id]]
    _promise(not changed, f"{where}: hits came back changed: {_some(changed)}")
    kept = len(ranking.trace)
    _promise(result.trace[:kept] == ranking.trace, f"{where}: earlier entries of the trace were lost or changed")
    _promise(len(result.trace) > kept, f"{where}: the trace has no new entry; it must say what was removed")
    removed: dict[str, object] = {}
    for entry in result.trace[kept:]:
        _promise(not entry.pairs_scored, f"{where}: the trace tells of scored pairs; selecting is not scoring")
        _promise(
            isinstance(entry.detail.get("removed"), Mapping),
            f"{where}: detail['removed'] of {entry.name!r} is no mapping from ids to reasons",
        )
        removed |= entry.detail["removed"]
    gone = frozenset(before - after)
    _promise(not (silent := gone - removed.keys()), f"{where}: removed without a word: {_some(silent)}")
    _promise(not (there := removed.keys() - gone), f"{where}: said to be removed, and not gone: {_some(there)}")
    empty = [name for name, reason in removed.items() if not (isinstance(reason, str) and reason.strip())]
    _promise(not empty, f"{where}: removed without a reason: {_some(empty)}")
    _promise(
        result.trace[-1].detail.get("kept") == len(result),
        f"{where}: detail['kept'] is {result.trace[-1].detail.get('kept')!r}, but {len(result)} stay",
    )
    return result


def _promise(kept: bool, broken: str) -> None:
    if not kept:  # not `assert`, which -O strips
        raise AssertionError(broken)


def _some(ids: Iterable[str]) -> str:
    listed = sorted(ids)
    return ", ".join(map(repr, listed[:5])) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")


# Test doubles


class ManualClock:
    """A clock that moves only when told to, or by `tick` seconds each time it is read."""

    def __init__(self, now: float = 0.0, tick: float = 0.0) -> None:
        self.now = now
        self.tick = tick

    def __call__(self) -> float:
        reading = self.now
        self.now += self.tick
        return reading

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`."""
        self.now += seconds


class OverlapReranker:
    """A reranker without a model: the share of the query's words that a document has.

    It keeps every promise of a pointwise reranker. `max_query_words` is the longest query it takes;
    with a `clock`, each pair costs `seconds_per_pair` on that clock, so that a test decides
    how far a deadline lets it come.
    """

    def __init__(
        self, *, max_query_words: int = 512, clock: ManualClock | None = None, seconds_per_pair: float = 0.0
    ) -> None:
        self.max_query_words = max_query_words
        self.clock = clock
        self.seconds_per_pair = seconds_per_pair

    def rerank(self, ranking: Ranking, *, deadline: Deadline = NEVER) -> Ranking:
        begun = time.perf_counter()
        asked = _word_list(ranking.query)
        values: list[float | None] = []
        statuses: list[Status] = []
        spans: list[tuple[int, int] | None] = []
        for hit in ranking.hits:
            value, status, span = None, self._obstacle(hit.document, asked, deadline), None
            if status is Status.SCORED:
                value, span = _overlap(set(asked), hit.document), (0, len(hit.document.text))
                if self.clock is not None:
                    self.clock.advance(self.seconds_per_pair)
            values.append(value)
            statuses.append(status)
            spans.append(span)
        skipped = {status.value: statuses.count(status) for status in statuses if status is not Status.SCORED}
        trace = StageTrace(
            "overlap-reranker",
            time.perf_counter() - begun,
            pairs_scored=statuses.count(Status.SCORED),
            skipped=skipped,
            skipped_because="time was up" if Status.DEADLINE in statuses else "",
        )
        hits = reorder(ranking, Scores(tuple(values), tuple(statuses), tuple(spans), trace))
        return Ranking(ranking.query, hits, (*ranking.trace, trace), ranking.query_id)

    def _obstacle(self, document: Document, asked: Sequence[str], deadline: Deadline) -> Status:
        """Why a document cannot be scored; SCORED where nothing is in the way."""
        if len(asked) > self.max_query_words:
            return Status.QUERY_TOO_LONG
        if not isinstance(document.text, str):
            return Status.NOT_TEXT
        if not document.text.strip():
            return Status.EMPTY
        return Status.DEADLINE if deadline.passed else Status.SCORED

    def __repr__(self) -> str:
        return "OverlapReranker()"


class ListRetriever:
    """A retriever over fixed lists: query text -> its documents, best first; no other query finds any."""

    def __init__(self, lists: Mapping[str, Sequence[DocumentLike]]) -> None:
        self._rankings = {query: as_ranking(query, documents) for query, documents in lists.items()}

    def retrieve(self, query: str, k: int) -> Ranking:
        return self._rankings.get(query, Ranking(query)).top(k)

    def __repr__(self) -> str:
        return f"ListRetriever({len(self._rankings)} queries)"


def _word_list(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _overlap(asked: set[str], document: Document) -> float:
    words = set(_word_list(f"{document.title} {document.text}"))
    return len(asked & words) / max(len(asked), 1)
