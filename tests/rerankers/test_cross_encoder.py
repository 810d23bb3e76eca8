from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from secondpass.errors import InputError, ModelError
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.rerankers.fields import renderer
from secondpass.testing import check_pointwise, check_reranker
from secondpass.types import Deadline, Document, Status, as_ranking
from tiny import tiny_checkpoint, tiny_split

TEXTS = ["sort a list in place", "a snake on the river bank", "file date", "the python language"]


@pytest.fixture(scope="module", params=[("onnxruntime", "exact"), ("auto", "default")], ids="-".join)
def encoder(request: pytest.FixtureRequest, tiny: Path, cache: Path) -> CrossEncoder:
    engine, profile = request.param
    return CrossEncoder(tiny, engine=engine, profile=profile, cache_dir=cache)


def test_it_keeps_the_promises_of_every_reranker(encoder: CrossEncoder) -> None:
    check_reranker(lambda: encoder)


def test_it_keeps_the_promises_of_pointwise_rerankers(encoder: CrossEncoder) -> None:
    check_pointwise(lambda: encoder, tolerance=1e-4 if encoder.scorer.engine.precision == "fp32" else encoder.tolerance)


def test_a_ranking_comes_back_with_its_trace(encoder: CrossEncoder) -> None:
    ranking = encoder.rerank(as_ranking("sort", TEXTS, query_id="q7"))
    assert ranking.query_id == "q7"
    scores = [hit.score for hit in ranking.hits]
    assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
    assert [hit.probability for hit in ranking.hits] == [None] * 4
    assert {hit.span for hit in ranking.hits} == {(0, len(text)) for text in TEXTS}
    assert ranking.trace[-1].pairs_scored == 4


def test_rerank_many_streams(encoder: CrossEncoder) -> None:
    asked = (as_ranking(query, TEXTS) for query in ("sort", "snake"))
    answers = encoder.rerank_many(asked)
    assert next(answers).ids == encoder.rerank(as_ranking("sort", TEXTS)).ids
    assert [ranking.query for ranking in answers] == ["snake"]
    (late,) = encoder.rerank_many([as_ranking("sort", TEXTS)], deadline_ms=0)
    assert late.ids == ("0", "1", "2", "3")
    assert {hit.status for hit in late.hits} == {Status.DEADLINE}


def test_predict_over_many_queries_is_each_alone(encoder: CrossEncoder) -> None:
    pairs = [
        (f"{word} number {i}", text) for i in range(7) for word, text in zip(("sort", "snake"), TEXTS, strict=False)
    ]
    pairs = pairs[::2] + pairs[1::2]  # a query's pairs need not stand together
    alone = np.array([encoder.predict(pair) for pair in pairs])
    np.testing.assert_allclose(encoder.predict(pairs), alone, atol=encoder.tolerance)


def test_predict_takes_what_sentence_transformers_takes(encoder: CrossEncoder) -> None:
    pairs = [("sort", text) for text in TEXTS]
    array = encoder.predict(pairs, batch_size=2, show_progress_bar=False)
    assert array.shape == (4,)
    assert array.dtype == np.float32
    assert ((array > 0) & (array < 1)).all()  # a sigmoid, since the folder states no activation
    assert encoder.predict(pairs[1]) == pytest.approx(array[1], abs=encoder.tolerance)
    assert isinstance(encoder.predict(pairs, convert_to_numpy=False), list)
    logits = encoder.predict(pairs, activation_fn=lambda x: x)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), array, atol=1e-2)
    assert encoder.predict([]).shape == (0,)
    with pytest.raises(InputError, match="item 1 is not a pair"):
        encoder.predict([("a", "b"), "c"])
    with pytest.raises(InputError, match="convert_to_tensor"):
        encoder.predict(pairs, convert_to_tensor=True)
    encoder.predict(pairs, prompt_name=None, convert_to_tensor=False)  # as its own evaluators do


def test_pairs_without_a_score_are_nan_and_said(encoder: CrossEncoder) -> None:
    with pytest.warns(UserWarning, match="1 of 2 pairs could not be scored.*1 empty"):
        scores = encoder.predict([("sort", "list"), ("sort", "")])
    assert np.isnan(scores).tolist() == [False, True]


def test_rank_answers_as_sentence_transformers_does(encoder: CrossEncoder) -> None:
    rows = encoder.rank("sort", TEXTS, top_k=3, return_documents=True)
    assert len(rows) == 3
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert all(TEXTS[row["corpus_id"]] == row["text"] for row in rows)
    assert encoder.rank("sort", []) == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert encoder.rank("sort", ["", "list"])[-1]["corpus_id"] == 0


def test_sentence_transformers_itself_agrees(encoder: CrossEncoder, tiny: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra 'train' (sentence-transformers)")
    from sentence_transformers import CrossEncoder as Theirs

    theirs = Theirs(str(tiny))
    pairs = [("sort", text) for text in TEXTS]
    tolerance = 1e-4 if encoder.scorer.engine.precision == "fp32" else encoder.tolerance
    np.testing.assert_allclose(encoder.predict(pairs), theirs.predict(pairs), atol=tolerance)
    ours, other = (
        encoder.rank("sort", TEXTS, top_k=2, return_documents=True),
        theirs.rank("sort", TEXTS, top_k=2, return_documents=True),
    )
    assert [set(row) for row in ours] == [set(row) for row in other]
    assert [row["score"] for row in ours] == pytest.approx([row["score"] for row in other], abs=tolerance)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{title} {text}", "T body"),
        ("{text}", "body"),
        ("{title}: {author} ({missing}) {text}", "T: Ann () body"),
        ("{year}", "1984"),
        ("{{literal}} {id}", "{literal} d1"),
    ],
)
def test_what_is_scored_is_a_setting(template: str, text: str) -> None:
    assert renderer(template)(Document("d1", "body", "T", {"author": "Ann", "year": 1984})) == text


@pytest.mark.parametrize(
    "template", ["", "plain", "{}", "{text!r}", "{text:>9}", "{text.__class__}", "{text[0]}", "{text"]
)
def test_templates_that_name_no_plain_field_are_refused(template: str) -> None:
    with pytest.raises(InputError, match="template"):
        renderer(template)


def test_the_template_decides_what_is_read(tiny: Path, cache: Path) -> None:
    documents: list[dict[str, object]] = [
        {"id": "a", "text": "", "title": "sort a list"},
        {"id": "b", "text": None, "title": "x"},
    ]
    ranking = CrossEncoder(tiny, cache_dir=cache).rerank(as_ranking("sort", documents))
    assert {hit.document.id: hit.status for hit in ranking.hits} == {"a": Status.SCORED, "b": Status.NOT_TEXT}
    titles = CrossEncoder(tiny, cache_dir=cache, template="{title}").rerank(as_ranking("sort", documents))
    assert {hit.status for hit in titles.hits} == {Status.SCORED}


def test_deadline_of_zero_costs_nothing_and_changes_nothing(encoder: CrossEncoder) -> None:
    ranking = encoder.rerank(as_ranking("sort", TEXTS), deadline=Deadline.after_ms(0))
    assert ranking.ids == ("0", "1", "2", "3")
    assert ranking.trace[-1].pairs_scored == 0


def test_go_on_sends_the_best_through_all_layers(tmp_path: Path) -> None:
    folder = tiny_split(tmp_path / "split")
    ranking = as_ranking(
        "river", [f"the {word} of {letter}" for word in ("river", "list") for letter in "abcdefghijklmno"]
    )
    stopping = CrossEncoder(folder, profile="exact", threads=1, cache_dir=tmp_path, go_on=0.1).rerank(ranking)
    whole = CrossEncoder(folder, profile="exact", threads=1, cache_dir=tmp_path).rerank(ranking)
    assert stopping.trace[-1].detail["exits"] == {"layer 1": 10, "layer 3": 20}
    assert sorted(stopping.ids) == sorted(whole.ids)
    full = {hit.document.id: hit.score for hit in whole.hits}
    same = [hit for hit in stopping.hits if hit.score == pytest.approx(full[hit.document.id], abs=3e-3)]
    assert len(same) >= 20


def test_go_on_is_refused_where_it_cannot_be_kept(tmp_path: Path) -> None:
    split, plain = tiny_split(tmp_path / "split"), tiny_checkpoint(tmp_path / "plain")
    for options in ({"cache": 100_000}, {"windows": 2}):
        with pytest.raises(InputError, match="neither cache nor windows"):
            CrossEncoder(split, cache_dir=tmp_path, go_on=0.5, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="go_on is 2"):
        CrossEncoder(split, profile="exact", threads=1, cache_dir=tmp_path, go_on=2)
    with pytest.raises(ModelError, match="cannot stop early"):
        CrossEncoder(plain, profile="exact", threads=1, cache_dir=tmp_path, go_on=0.5)
