"""Why single queries lost: what retrieval missed, what the reranker demoted, what the judgments cannot see.

Knows: rankings of ids, judgments, and texts where they are given. Refuses to know: models, statistics, the verdict.

A finding is a pattern beside a loss, not its proven cause; one query can show several, so their shares do not add up.
A kind whose inputs are missing for a query (texts, queries, what was cut) is unchecked there, which is not the same as
absent. Definitions, for one query, with k the metric's cutoff (10 where it has none):

missed by retrieval     The pool lacks a relevant document, and its best order therefore stays below the best order of
                        all judged documents (N* below the ideal; the ideal is 1 for nDCG, MRR and MAP).
demoted by the          The metric fell, and a relevant document that stood within the metric's cutoff (anywhere, where
reranker                it has none) stands lower now, or nowhere.
cut by truncation       A relevant document of the pool was cut to the model's length and did not move up, and the order
                        is not the best that the pool allows (NC < N*).
unjudged on top         The metric fell or is 0, and documents without a judgment are among the first k after reranking:
                        if they are relevant, the loss is smaller or none.
near-duplicate          NC < 1, and a document among the first k after reranking that is not judged relevant has nearly
                        the text of one that is (`is_copy`). The judgments may have missed a copy.
lexical trap            The first document after reranking is not judged relevant, and of the weight of the query's
                        words it holds at least .1 more than any relevant document of the pool does. A word w weighs
                        ln(1 + (N − n_w + ½) / (n_w + ½)) with n_w of the pool's first N ≤ 100 documents holding it, and
                        words that none of them holds weigh nothing.

"Not judged relevant" is a grade of 0 or less, or none. Words are lower-cased runs of letters and digits, so languages
written without spaces are compared badly. A query without a relevant document has nothing to miss, demote, copy or
trap: only "unjudged on top" is checked there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import islice
from math import log
from typing import Any

from secondpass.evaluation.headroom import Headroom, QueryHeadroom
from secondpass.evaluation.metrics import SAME, Metric, judged, parse_metric
from secondpass.evaluation.trec import Qrels
from secondpass.evaluation.wording import counted
from secondpass.shingles import CONTAINMENT, RESEMBLANCE, Shingles, repeats, shingles, words_of
from secondpass.types import Document

__all__ = [
    "MEANING",
    "Count",
    "Diagnosis",
    "Evidence",
    "Finding",
    "Kind",
    "Placed",
    "SideBySide",
    "diagnose",
    "is_copy",
    "label",
    "sentences",
]

ON_TOP = 10  # the k of a metric without a cutoff
SHOWN = 5  # documents of one kind that a finding names, and of one ranking that a side-by-side shows
MARGIN = 0.1  # of the weight of the query's words: more than a stop word weighs
POOL_WORDS = 100  # documents that word weights are counted over: keeps a deep pool cheap
MOST_TEXT = 40_000  # characters compared: about 6,000 words


class Kind(StrEnum):
    """A pattern on one query; the module docstring defines each."""

    MISSED = "missed by retrieval"
    DEMOTED = "demoted by the reranker"
    CUT = "cut by truncation"
    UNJUDGED = "unjudged on top"
    COPY = "near-duplicate"
    TRAP = "lexical trap"


MEANING: Mapping[Kind, str] = {
    Kind.MISSED: "The pool lacks relevant documents; no reranker can bring them back. Improve retrieval or go deeper.",
    Kind.DEMOTED: "The reranker put a relevant document lower than it stood. Read these queries: is the model at home "
    "in this language and subject?",
    Kind.CUT: "A relevant document was cut to the model's length and did not move up. Try windows, or a longer limit.",
    Kind.UNJUDGED: "The order now shows documents that nobody judged; the loss may be smaller. Judge them first.",
    Kind.COPY: "A document on top repeats one that is judged relevant, and gets no credit. Remove copies, or judge "
    "them alike.",
    Kind.TRAP: "The first document has more of the query's words than the relevant ones, but not what was asked. "
    "Such documents make hard negatives for fine-tuning.",
}
"""What each kind means and what to do about it, in two sentences for a report."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A document that shows a kind: its 1-based ranks before and after (None: not there).

    `beside` is the other document: the judged one that a copy repeats, the relevant one below a trap that holds most
    of the query's words.
    """

    kind: Kind
    document: str
    before: int | None
    after: int | None
    beside: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What one query shows. `evidence` names up to 5 documents of each kind; none: no kind holds.

    `first`, `best` and `reranked` are N0, N* and NC. Of the `relevant` documents the pool lacks `missed`.
    `judged_before` and `judged_after` are the judged shares of the first k (None: no results).
    """

    query_id: str
    first: float
    best: float
    reranked: float
    relevant: int
    missed: int
    judged_before: float | None
    judged_after: float | None
    evidence: tuple[Evidence, ...]
    unchecked: tuple[Kind, ...]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds that hold, in their order."""
        return tuple(dict.fromkeys(evidence.kind for evidence in self.evidence))

    @property
    def difference(self) -> float:
        """NC − N0."""
        return self.reranked - self.first

    @property
    def loss(self) -> float:
        """1 − NC."""
        return 1.0 - self.reranked

    @property
    def fall(self) -> float:
        """N0 − NC where the metric fell, else 0."""
        return max(-self.difference, 0.0)


@dataclass(frozen=True, slots=True)
class Count:
    """A kind over all queries: it holds on `queries` of the `checked` ones.

    `loss_share` is the share of the total loss Σ(1 − NC) of all judged queries that those queries carry, `fall_share`
    that of what was lost where the metric fell; None where nothing was checked or lost.
    """

    kind: Kind
    queries: int
    checked: int
    loss_share: float | None
    fall_share: float | None


@dataclass(frozen=True, slots=True)
class Placed:
    """A document in a side-by-side: its title or first words ("" where unknown), grade (None: unjudged) and ranks."""

    id: str
    label: str
    grade: int | None
    before: int | None
    after: int | None


@dataclass(frozen=True, slots=True)
class SideBySide:
    """The first documents of one query before and after, best first, with the kinds that hold on it."""

    query_id: str
    query: str
    first: float
    reranked: float
    kinds: tuple[Kind, ...]
    before: tuple[Placed, ...]
    after: tuple[Placed, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The findings of every judged query, in the order of the headroom, counted per kind.

    `cutoff` is the k of "on top". `unexplained` queries lost (NC < 1) without any kind: mostly a relevant document that
    the reranker left too low; `unexplained_share` is theirs of the total loss. `worst` and `best` are up to ten queries
    that lost and gained most, none that did not.
    """

    cutoff: int
    findings: tuple[Finding, ...]
    counts: tuple[Count, ...]
    unexplained: int
    unexplained_share: float | None
    worst: tuple[SideBySide, ...]
    best: tuple[SideBySide, ...]

    @property
    def missed_all(self) -> int:
        """Queries whose pool has none of their relevant documents."""
        return sum(0 < finding.relevant == finding.missed for finding in self.findings)

    def of(self, kind: Kind) -> tuple[Finding, ...]:
        """The findings of the queries on which a kind holds, the largest loss first."""
        return tuple(sorted((one for one in self.findings if kind in one.kinds), key=lambda one: -one.loss))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready. Findings without evidence are left out; `queries` is how many there were in all."""
        return {
            "queries": len(self.findings),
            "cutoff": self.cutoff,
            "missed_all": self.missed_all,
            "unexplained": self.unexplained,
            "unexplained_share": self.unexplained_share,
            "counts": [asdict(count) | {"meaning": MEANING[count.kind]} for count in self.counts],
            "findings": [
                asdict(one) | {"kinds": list(one.kinds), "difference": one.difference}
                for one in self.findings
                if one.evidence
            ],
            "worst": [asdict(one) for one in self.worst],
            "best": [asdict(one) for one in self.best],
        }


def sentences(diagnosis: Diagnosis) -> tuple[str, ...]:
    """One short sentence per kind, such as "Missed by retrieval: 65 of 809 queries, with 42% of the loss.", and a last
    one on what no kind explains. Kinds overlap, so the shares do not add up.
    """
    said = [_sentence(count, diagnosis) for count in diagnosis.counts]
    if diagnosis.unexplained and diagnosis.unexplained_share is not None:
        said.append(
            f"None of these: {counted(diagnosis.unexplained, 'query', 'queries')} with "
            f"{diagnosis.unexplained_share:.0%} of the loss; the relevant documents did not rise far enough."
        )
    return tuple(said)


def diagnose(
    headroom: Headroom,
    before: Mapping[str, Sequence[str]],
    after: Mapping[str, Sequence[str]],
    qrels: Qrels,
    *,
    metric: str | Metric,
    documents: Mapping[str, Document] | None = None,
    queries: Mapping[str, str] | None = None,
    truncated: Mapping[str, Collection[str]] | None = None,
    most: int = 10,
) -> Diagnosis:
    """What each query of `headroom` shows, and the `most` queries that lost and gained most.

    `before` (the pool) and `after` are document ids, best first, both cut to the depth that `headroom` was made with.
    `documents` and `queries` are texts by id; without them near-duplicates and lexical traps are unchecked.
    `truncated` has the ids of the documents that were cut to the model's length, by query id; a query that it lacks is
    unchecked, one with an empty collection had nothing cut.
    """
    compute = parse_metric(metric)
    documents, queries = documents or {}, queries or {}
    findings = tuple(
        _finding(
            query,
            before.get(query.query_id, ()),
            after.get(query.query_id, ()),
            qrels.get(query.query_id, {}),
            compute,
            documents,
            queries.get(query.query_id, ""),
            (truncated or {}).get(query.query_id),
        )
        for query in headroom.queries
    )
    loss, fall = sum(one.loss for one in findings), sum(one.fall for one in findings)
    unexplained = [one.loss for one in findings if one.loss > SAME and not one.evidence]

    def side_by_side(finding: Finding) -> SideBySide:
        key = finding.query_id
        return _side_by_side(
            finding, queries.get(key, ""), before.get(key, ()), after.get(key, ()), qrels.get(key, {}), documents
        )

    ordered = sorted(findings, key=lambda one: (one.difference, one.query_id))
    return Diagnosis(
        cutoff=compute.cutoff or ON_TOP,
        findings=findings,
        counts=tuple(_count(kind, findings, loss, fall) for kind in Kind),
        unexplained=len(unexplained),
        unexplained_share=sum(unexplained) / loss if loss > SAME else None,
        worst=tuple(side_by_side(one) for one in ordered[:most] if one.difference < -SAME),
        best=tuple(side_by_side(one) for one in ordered[::-1][:most] if one.difference > SAME),
    )


def is_copy(text: str, of: str) -> bool:
    """Whether `text` repeats the text `of`, by three-word shingles (Broder 1997).

    Their resemblance (Jaccard) is at least .8; or `text` contains at least .9 of the shingles of the other, when that
    has at least 8. A part of the other text is no copy: it may lack what was asked for.
    """
    return _repeats(shingles(_words(text)), shingles(_words(of)))


def label(document: Document, most: int = 120) -> str:
    """The title, or the first words where there is none, in at most `most` characters."""
    words = " ".join(str(document.title or document.text)[: 4 * most].split())
    return words if len(words) <= most else words[: most - 1].rstrip() + "…"


def _finding(
    query: QueryHeadroom,
    pool: Sequence[str],
    order: Sequence[str],
    grades: Mapping[str, int],
    metric: Metric,
    documents: Mapping[str, Document],
    text: str,
    cut: Collection[str] | None,
) -> Finding:
    old, new = _ranks(pool), _ranks(order)
    relevant = sorted((one for one, grade in grades.items() if grade > 0), key=lambda one: (-grades[one], one))
    cut = None if cut is None else frozenset(cut)
    known = sorted((doc_id for doc_id in relevant if doc_id in old), key=old.__getitem__)  # those that the pool has
    k = metric.cutoff or ON_TOP
    on_top = order[:k]
    fell = query.reranked < query.first - SAME
    evidence: list[Evidence] = []
    unchecked: list[Kind] = [] if relevant else [kind for kind in Kind if kind is not Kind.UNJUDGED]

    def show(kind: Kind, doc_ids: Iterable[str], beside: Mapping[str, str] | None = None) -> None:
        for doc_id in islice(doc_ids, SHOWN):
            evidence.append(Evidence(kind, doc_id, old.get(doc_id), new.get(doc_id), (beside or {}).get(doc_id)))

    def not_moved_up(doc_id: str) -> bool:
        return doc_id not in new or new[doc_id] >= old[doc_id]

    if len(known) < len(relevant) and query.best < _ideal(grades, metric) - SAME:
        show(Kind.MISSED, [doc_id for doc_id in relevant if doc_id not in old])
    if fell:
        within = [doc_id for doc_id in known if metric.cutoff is None or old[doc_id] <= metric.cutoff]
        show(Kind.DEMOTED, [doc_id for doc_id in within if doc_id not in new or new[doc_id] > old[doc_id]])
    if cut and query.reranked < query.best - SAME:
        show(Kind.CUT, [doc_id for doc_id in known if doc_id in cut and not_moved_up(doc_id)])
    if fell or query.reranked <= SAME:
        show(Kind.UNJUDGED, [doc_id for doc_id in on_top if doc_id not in grades])
    if relevant:
        if cut is None:
            unchecked.append(Kind.CUT)
        copies = _copies(on_top, grades, relevant, documents) if query.reranked < 1.0 - SAME else {}
        trap = _trap(text, pool, order, known, documents)
        for kind, found in ((Kind.COPY, copies), (Kind.TRAP, trap)):
            if found is None:
                unchecked.append(kind)
            else:
                show(kind, found, found)
    return Finding(
        query_id=query.query_id,
        first=query.first,
        best=query.best,
        reranked=query.reranked,
        relevant=len(relevant),
        missed=len(relevant) - len(known),
        judged_before=judged(pool, grades, k) if pool else None,
        judged_after=judged(order, grades, k) if order else None,
        evidence=tuple(evidence),
        unchecked=tuple(unchecked),
    )


def _copies(
    on_top: Sequence[str], grades: Mapping[str, int], relevant: Sequence[str], documents: Mapping[str, Document]
) -> dict[str, str] | None:
    """Copy -> the judged relevant document that it repeats; None: unchecked (texts are missing and none was found).

    One relevant document with a text is enough to check against: those that the pool lacks often come without.
    """
    suspects = [doc_id for doc_id in on_top if grades.get(doc_id, 0) <= 0]
    if not suspects:
        return {}
    originals = {doc_id: shingles(_words(_body(documents[doc_id]))) for doc_id in relevant if doc_id in documents}
    found: dict[str, str] = {}
    for doc_id in suspects if originals else ():
        own = shingles(_words(_body(documents.get(doc_id))))
        match = next((one for one, original in originals.items() if _repeats(own, original)), None)
        if match is not None:
            found[doc_id] = match
    known = originals and all(doc_id in documents for doc_id in suspects)
    return found if found or known else None


def _trap(
    query: str, pool: Sequence[str], order: Sequence[str], known: Sequence[str], documents: Mapping[str, Document]
) -> dict[str, str] | None:
    """The first document, if it is a trap -> the relevant one with most of the query's words; None: unchecked."""
    asked = set(_words(query))
    if not (asked and known and order):
        return None
    if order[0] in known:
        return {}

    def shared(doc_id: str) -> set[str]:
        document = documents.get(doc_id)
        text = f"{document.title} {document.text}"[:MOST_TEXT].lower() if document else ""
        return {word for word in asked if _holds(text, word)}

    if order[0] not in documents or not any(doc_id in documents for doc_id in known):
        return None
    trap, right = shared(order[0]), {doc_id: shared(doc_id) for doc_id in known}
    if any(trap <= words for words in right.values()):
        return {}  # whatever the words weigh
    sample = [doc_id for doc_id in pool[:POOL_WORDS] if doc_id in documents]
    holding = Counter(word for doc_id in sample for word in shared(doc_id))
    weights = {word: log(1.0 + (len(sample) - n + 0.5) / (n + 0.5)) for word, n in holding.items()}

    def weight(words: Collection[str]) -> float:
        return sum(weights.get(word, 0.0) for word in sorted(words))  # sorted: sums do not hang on a set's order

    most = max(right, key=lambda doc_id: weight(right[doc_id]))
    return {order[0]: most} if weight(trap) - weight(right[most]) >= MARGIN * weight(weights) > 0.0 else {}


def _sentence(count: Count, diagnosis: Diagnosis) -> str:
    name = count.kind.value.capitalize()
    if not count.checked:
        return f"{name}: not checked."
    found = f"{name}: {count.queries:,} of {counted(count.checked, 'query', 'queries')}"
    if not count.queries or count.loss_share is None:
        return f"{found}."
    parts = [f"{count.loss_share:.0%} of the loss"]
    if count.fall_share and count.kind is not Kind.DEMOTED:  # where the metric fell, something was demoted
        parts.append(f"{count.fall_share:.0%} of what reranking lost")
    missed_all = diagnosis.missed_all if count.kind is Kind.MISSED else 0
    nothing = f"; in {missed_all:,} the pool has nothing relevant at all" if missed_all else ""
    return f"{found}, with {' and '.join(parts)}{nothing}."


def _count(kind: Kind, findings: Sequence[Finding], loss: float, fall: float) -> Count:
    holding = [finding for finding in findings if kind in finding.kinds]
    checked = sum(kind not in finding.unchecked for finding in findings)

    def share(value: Callable[[Finding], float], whole: float) -> float | None:
        return sum(map(value, holding)) / whole if checked and whole > SAME else None

    return Count(kind, len(holding), checked, share(lambda one: one.loss, loss), share(lambda one: one.fall, fall))


def _side_by_side(
    finding: Finding,
    query: str,
    pool: Sequence[str],
    order: Sequence[str],
    grades: Mapping[str, int],
    documents: Mapping[str, Document],
) -> SideBySide:
    old, new = _ranks(pool), _ranks(order)

    def placed(ids: Sequence[str]) -> tuple[Placed, ...]:
        return tuple(
            Placed(
                doc_id,
                label(documents[doc_id]) if doc_id in documents else "",
                grades.get(doc_id),
                old.get(doc_id),
                new.get(doc_id),
            )
            for doc_id in ids[:SHOWN]
        )

    return SideBySide(
        finding.query_id, query, finding.first, finding.reranked, finding.kinds, placed(pool), placed(order)
    )


def _ideal(grades: Mapping[str, int], metric: Metric) -> float:
    """The metric of the best order of all judged documents; below 1 where the metric cannot reach it, as P@10 can."""
    return metric(sorted(grades, key=lambda doc_id: -grades[doc_id]), grades)


def _ranks(ids: Sequence[str]) -> dict[str, int]:
    return dict(zip(ids, range(1, len(ids) + 1), strict=True))


def _body(document: Document | None) -> str:
    return str(document.text or document.title) if document else ""


def _words(text: str) -> list[str]:
    return words_of(text[:MOST_TEXT])


def _holds(text: str, word: str) -> bool:
    """Whether `word` is one of the words of a lower-cased text, without splitting all of it."""
    at = text.find(word)
    while at >= 0:
        end = at + len(word)
        if not (at and _in_word(text[at - 1])) and not (end < len(text) and _in_word(text[end])):
            return True
        at = text.find(word, at + 1)
    return False


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _repeats(own: Shingles, original: Shingles) -> bool:
    # what cannot reach either share is not worth an intersection
    if not own or not original or len(own) < min(RESEMBLANCE, CONTAINMENT) * len(original):
        return False
    return repeats(len(own & original), len(own), len(original))
