"""Features: each as its definition says, computed the slow way here; none depends on the other candidates."""

from __future__ import annotations

import math
import sys
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass.embedding import StaticEncoder
from secondpass.errors import InputError
from secondpass.rerankers.features import FIRST_STAGE, OF_A_FIELD, Features, FeatureSpec
from secondpass.rerankers.term_statistics import TermStatistics
from secondpass.retrievers.bm25 import BM25
from secondpass.types import Document, Hit, Ranking, Status
from secondpass.words import words

WORDS = ("bee", "hive", "sun", "flower", "dance", "honey", "the", "of")  # two of them stop words
SPEC = FeatureSpec(metadata=("popularity",), language=None)
COLLECTION = [
    Document("a", "bee hive sun the flower", "dance of the bee"),
    Document("b", "honey honey hive", ""),
    Document("c", "the sun", "sun flower"),
]

texts = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
numbers = st.one_of(st.none(), st.just("many"), st.booleans(), st.floats(allow_infinity=True), st.integers(-5, 5))
Row = tuple[str, str, object, float | None]
candidates = st.lists(
    st.tuples(texts, texts, numbers, st.one_of(st.none(), st.integers(-500, 500).map(lambda n: n / 10))),
    min_size=1,
    max_size=8,
)


def ranking_of(query: str, rows: list[Row]) -> Ranking:
    made = (
        Hit(Document(f"d{n}", text, title, {"popularity": number}), score, Status.RETRIEVED, score, n + 1)
        for n, (title, text, number, score) in enumerate(rows)
    )
    return Ranking(query, tuple(made))


def terms_of(text: str, language: str | None) -> list[str]:
    assert language is None
    return words(text)


def slowly(spec: FeatureSpec, collection: list[Document], ranking: Ranking) -> list[dict[str, float]]:
    """What the module's docstring says, one document and one feature after the other."""
    query = terms_of(ranking.query, spec.language)
    distinct = set(query)
    scores = [hit.first_score for hit in ranking.hits if hit.first_score is not None]
    out = []
    for hit in ranking.hits:
        row: dict[str, float] = {}
        for name in spec.fields:
            fields = [terms_of(getattr(document, name), spec.language) for document in collection]
            own = terms_of(getattr(hit.document, name), spec.language)
            mean = sum(map(len, fields)) / len(fields) or 1.0
            counts = Counter(own)

            def idf(term: str, fields: list[list[str]] = fields) -> float:
                df = sum(term in one for one in fields)
                return math.log(1 + (len(fields) - df + 0.5) / (df + 0.5))

            met = {term for term in distinct if counts[term]}
            norm = spec.k1 * (1 - spec.b + spec.b * len(own) / mean)
            row[f"{name}_bm25"] = sum(idf(term) * counts[term] / (counts[term] + norm) for term in query if term in met)
            row[f"{name}_coverage"] = len(met) / len(distinct) if query else math.nan
            row[f"{name}_idf_coverage"] = sum(map(idf, met)) / sum(map(idf, distinct)) if query else math.nan
            pairs = set(pairwise(query))
            row[f"{name}_phrase"] = len(pairs & set(pairwise(own))) / len(pairs) if pairs else math.nan
            stretches = [own[i : i + len(query)] for i in range(len(own) - len(query) + 1)]
            row[f"{name}_exact"] = float(bool(query) and query in stretches)
            row[f"{name}_window"] = row[f"{name}_pair"] = math.nan
            if len(met) > 1:
                spans = [(i, j) for i, j in product(range(len(own)), repeat=2) if i <= j and met <= set(own[i : j + 1])]
                row[f"{name}_window"] = len(met) / min(j - i + 1 for i, j in spans)
                places = [i for i, term in enumerate(own) if term in met]
                row[f"{name}_pair"] = min(j - i for i, j in product(places, repeat=2) if i < j and own[i] != own[j])
            row[f"{name}_length"] = len(own)
        row["query_terms"] = len(distinct)
        row["first_rank"] = math.nan if hit.first_rank is None else hit.first_rank
        row["first_score"] = row["first_z"] = math.nan
        if hit.first_score is not None:
            row["first_score"] = hit.first_score
            spread = float(np.std(scores))
            if len(scores) > 2 and len(set(scores)) > 1:
                row["first_z"] = (hit.first_score - float(np.mean(scores))) / spread
        value = hit.document.metadata["popularity"]
        fits = isinstance(value, int | float) and math.isfinite(value)
        row["popularity"] = float(value) if fits else math.nan
        out.append(row)
    return out


def features(spec: FeatureSpec = SPEC, keep_bytes: int = 0) -> Features:
    statistics = TermStatistics.of(COLLECTION, spec.fields, spec.language) if spec.fields else None
    return Features(spec, statistics, StaticEncoder() if spec.encoder else None, keep_bytes=keep_bytes)


@given(texts, candidates)
@settings(max_examples=300, deadline=None)
def test_every_feature_is_what_its_definition_says(query: str, rows: list[Row]) -> None:
    ranking = ranking_of(query, rows)
    found = features().of(ranking)
    assert found.shape == (len(rows), len(SPEC.names))
    for got, row in zip(found.tolist(), slowly(SPEC, COLLECTION, ranking), strict=True):
        assert row.keys() == set(SPEC.names)
        for name, value in zip(SPEC.names, got, strict=True):
            assert value == pytest.approx(row[name], abs=1e-9, nan_ok=True), name


@given(texts, candidates, st.randoms())
@settings(max_examples=100, deadline=None)
def test_a_row_does_not_depend_on_the_others_nor_on_their_order(query: str, rows: list[Row], random: object) -> None:
    ranking = ranking_of(query, rows)
    of_all = features().of(ranking)
    places = list(range(len(rows)))
    random.shuffle(places)  # type: ignore[attr-defined]
    shuffled = features().of(replace(ranking, hits=tuple(ranking.hits[place] for place in places)))
    np.testing.assert_allclose(shuffled, of_all[places], rtol=0, atol=1e-9)  # z is a sum over all
    of_itself = [name != "first_z" for name in SPEC.names]
    assert np.array_equal(shuffled[:, of_itself], of_all[places][:, of_itself], equal_nan=True)
    for place, hit in enumerate(ranking.hits):
        alone = features().of(replace(ranking, hits=(hit,)))
        assert np.array_equal(alone[0, of_itself], of_all[place, of_itself], equal_nan=True)
    asked = features().asked(ranking)
    assert np.array_equal(asked.rows(places), of_all[places], equal_nan=True)  # z too: it is of all hits, however asked


def test_a_cosine_is_of_the_fields_together_and_of_one_document() -> None:
    spec = FeatureSpec(encoder="secondpass-static")
    ranking = ranking_of("how bees dance", [(f"title {n}", f"bees and {n} flowers", None, None) for n in range(9)])
    encoder = StaticEncoder()
    of_all = features(spec).of(ranking)
    column = spec.names.index("cosine")
    for place, hit in enumerate(ranking.hits):
        one, other = encoder.encode([ranking.query, f"{hit.document.title} {hit.document.text}"])
        assert of_all[place, column] == pytest.approx(float(one @ other), abs=1e-6)
        alone = features(spec).of(replace(ranking, hits=(hit,)))
        assert np.array_equal(alone[0], of_all[place], equal_nan=True)


def test_what_is_kept_changes_nothing() -> None:
    spec = FeatureSpec(metadata=("popularity",), encoder="secondpass-static")
    ranking = ranking_of("bee dance", [("", "", 1, 2.0), ("bee", "dance of the bee", 2, 1.0), ("bee", "", 3, 0.5)])
    keeping = features(spec, keep_bytes=1_000_000)
    plain = features(spec).of(ranking)
    for _ in range(2):
        assert np.array_equal(keeping.of(ranking), plain, equal_nan=True)
    # the same words, parted otherwise
    moved = ranking_of(
        "bee dance", [("bee dance", "hive", 1, 2.0), ("bee", "dance hive", 1, 2.0), ("", "bee dance hive", 1, 2.0)]
    )
    assert np.array_equal(keeping.of(moved), features(spec).of(moved), equal_nan=True)


def test_bm25_of_one_field_is_the_retriever_s() -> None:
    documents = [
        Document(str(n), " ".join(WORDS[(n * k) % 8] for k in range(1, 3 + n % 9)) + "s") for n in range(1, 60)
    ]
    stage = BM25.build(documents, fields=("text",), k1=1.2, b=0.75)
    spec = FeatureSpec(("text",), k1=1.2, b=0.75)
    computed = Features(spec, TermStatistics.of(stage.index, spec.fields, spec.language))
    for query in ("bees in the hive", "honey honey sun", "dances"):
        ranking = stage.retrieve(query, 50)
        assert len(ranking) > 5
        expected = np.array([hit.first_score for hit in ranking.hits], np.float64)
        np.testing.assert_allclose(computed.of(ranking)[:, spec.names.index("text_bm25")], expected, rtol=1e-5)


def test_the_statistics_of_an_index_are_those_of_its_documents() -> None:
    stage = BM25.build(COLLECTION)
    one, other = (TermStatistics.of(source, ("title", "text"), "english") for source in (stage.index, COLLECTION))
    read = TermStatistics.from_arrays(one.arrays())
    for statistics in (other, read):
        assert (one.documents, one.mean_lengths) == (statistics.documents, statistics.mean_lengths)
        assert np.array_equal(one.idf(["bee", "sun", "nowhere"]), statistics.idf(["bee", "sun", "nowhere"]))
    stage.index.delete(["c"])
    assert TermStatistics.of(stage.index, ("title", "text"), "english").documents == 2


def test_fields_of_one_s_own_and_numbers_that_are_not_there() -> None:
    spec = FeatureSpec(("abstract",), ("price", "year"), "", False, absent="zero")
    documents = [Document("a", "", metadata={"abstract": "bees dance", "price": 2}), Document("b", "bees", metadata={})]
    computed = Features(spec, TermStatistics.of(documents, spec.fields, spec.language))
    hits = tuple(Hit(document) for document in documents)
    found = dict(zip(spec.names, computed.of(Ranking("bees", hits)).T.tolist(), strict=True))
    assert found["abstract_coverage"] == [1.0, 0.0]
    assert (found["price"], found["year"]) == ([2.0, 0.0], [0.0, 0.0])
    assert [computed.has_something(document) for document in documents] == [True, False]
    assert not set(FIRST_STAGE) & set(spec.names)


@pytest.mark.parametrize("query", ["", "the", "of the", "zzz", "bee", "bee bee bee", "\ud800 bee"])
def test_odd_queries_and_texts_give_rows(query: str) -> None:
    spec = FeatureSpec(encoder="secondpass-static")
    odd = ["", "!!", "\ud800", "x" * 10_000, "e" + "\u0301" * 50, "bee " * 5000, "the of the"]
    ranking = ranking_of(query, [(text, text, None, None) for text in odd])
    found = features(spec).of(ranking)
    assert found.shape == (len(odd), len(spec.names))
    assert not np.isinf(found).any()


def test_words_that_nobody_asked_for_count_for_nothing_however_many_there_are() -> None:
    others = " ".join(f"w{n}" for n in range(30_000))
    found = dict(zip(SPEC.names, features().of(ranking_of("bee hive sun", [("", others, None, None)]))[0], strict=True))
    assert found["text_length"] == 30_000
    assert [found[f"text_{name}"] for name in ("bm25", "coverage", "phrase", "exact")] == [0.0] * 4


def test_no_candidates_give_no_rows() -> None:
    assert features().of(Ranking("bee")).shape == (0, len(SPEC.names))


def test_threads_may_share_one() -> None:
    spec = FeatureSpec(encoder="secondpass-static")
    shared = features(spec, keep_bytes=65_536)  # so little that something is always thrown out
    rankings = [
        ranking_of(f"bee{n % 7} dances", [(f"bee{k}", f"dancing bee{k} of hive{n}", k, 1.0 * k) for k in range(20)])
        for n in range(40)
    ]
    expected = [features(spec).of(ranking) for ranking in rankings]
    with ThreadPoolExecutor(8) as pool:
        for got, right in zip(pool.map(shared.of, rankings), expected, strict=True):
            assert np.array_equal(got, right, equal_nan=True)


def test_a_word_of_a_megabyte_is_not_kept() -> None:
    computed = features(SPEC)
    computed.of(ranking_of("bee", [("", "bee", None, None)]))
    tracemalloc.start()
    try:
        for n in range(5):
            computed.of(ranking_of("bee", [("", f"{n}" + "x" * 1_000_000, None, None)]))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000_000, sys.getsizeof(computed)


def test_the_names_are_in_order_and_unique() -> None:
    spec = FeatureSpec(metadata=("price", "year"), encoder="secondpass-static")
    assert spec.names == (
        *(f"title_{one}" for one in OF_A_FIELD),
        *(f"text_{one}" for one in OF_A_FIELD),
        "query_terms",
        "cosine",
        *FIRST_STAGE,
        "price",
        "year",
    )


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: FeatureSpec(()), "nothing to read"),
        (lambda: FeatureSpec((), ("price",), "secondpass-static"), "an encoder reads fields"),
        (lambda: FeatureSpec(metadata=("cosine",), encoder="secondpass-static"), "two features are called 'cosine'"),
        (lambda: FeatureSpec(metadata=("price in EUR",)), "cannot keep a feature called 'price in EUR'"),
        (lambda: FeatureSpec(k1=-1), "k1 is -1"),
        (lambda: FeatureSpec(b=1.5), "b is 1.5"),
        (lambda: Features(FeatureSpec()), "statistics are of 0 fields"),
        (lambda: Features(FeatureSpec((), ("price",)), None, StaticEncoder()), "encoder is ''"),
        (lambda: TermStatistics.of([], ("text",), "english"), "no documents"),
        (lambda: TermStatistics.of(COLLECTION, ("text",), "klingon"), "language 'klingon' is not known"),
    ],
)
def test_what_cannot_be_meant_is_said(made: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        made()  # type: ignore[operator]
