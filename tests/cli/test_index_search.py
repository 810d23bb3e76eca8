"""index and search: from a folder of texts to a ranking that people and machines can read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from cli.conftest import QUERIES, TEXTS, Run
from secondpass.evaluation.trec import read_run
from secondpass.retrievers.bm25 import BM25


def test_an_index_needs_no_judgments(run: Run, beir: Path, tmp_path: Path) -> None:
    packed = tmp_path / "corpus.jsonl.gz"
    packed.write_bytes(gzip.compress((beir / "corpus.jsonl").read_bytes()))
    for source in (beir, beir / "corpus.jsonl", packed):
        target = tmp_path / f"idx-{source.name}"
        done = run("index", source, "--out", target)
        assert (done.code, done.out) == (0, "")
        assert f"20 documents in {target}, for bm25, dense, hybrid" in " ".join(done.err.split())
        assert BM25.open(target).retrieve("locusts", 3).ids == ("d19",)


def write_corpus(path: Path, texts: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps({"_id": name, "text": text}) + "\n" for name, text in texts.items()))
    return path


def test_an_index_grows_and_shrinks(run: Run, beir: Path, tmp_path: Path) -> None:
    run("index", beir, "--out", "idx")
    more = write_corpus(tmp_path / "more.jsonl", {"d19": "nothing of the kind", "x/1": "lanterns and lighthouses"})
    done = run("index", more, "--out", "idx", "--update")
    assert (done.code, done.out) == (0, "")
    assert "21 documents in idx" in done.err
    assert BM25.open(tmp_path / "idx").retrieve("locusts lanterns", 3).ids == ("x/1",)
    (tmp_path / "gone.txt").write_text("x/1\n\nd1\nx/1\n")
    done = run("index", "--out", "idx", "--delete", "gone.txt")
    assert (done.code, "19 documents left in idx" in done.err) == (0, True)
    assert not BM25.open(tmp_path / "idx").retrieve("lanterns", 3).ids
    again = run("index", "--out", "idx", "--delete", "gone.txt")
    assert again.code == 1
    assert "is not in the index" in again.err
    both = run("index", more, "--out", "idx", "--update", "--delete", tmp_path / "gone2.txt")
    assert (both.code, "cannot be read" in both.err) == (1, True)
    assert run("index", more, "--out", "elsewhere", "--update").code == 1
    assert run("index", more, "--out", "idx", "--update", "--no-vectors").code == 2


def test_words_only_is_for_bm25_alone(run: Run, beir: Path, tmp_path: Path) -> None:
    done = run("index", beir, "--out", "idx", "--no-vectors")
    assert done.err.strip().endswith("for bm25")
    assert "d19" in run("search", "idx", "locusts", "--no-rerank").out
    for name in ("dense", "hybrid"):
        refused = run("search", "idx", "locusts", "--no-rerank", "--retriever", name)
        assert refused.code == 1
        assert "has no vectors" in " ".join(refused.err.split())


@pytest.mark.parametrize("name", ["bm25", "dense", "hybrid"])
def test_the_first_stage_has_a_name(run: Run, index: Path, tiny: Path, name: str) -> None:
    done = run("search", index, QUERIES["q1"], "--retriever", name, "--model", tiny, "--json", "--top-k", 3)
    data = json.loads(done.out)
    steps = [step["name"] for step in data["trace"]]
    assert steps == [*(["bm25", "dense", "fusion"] if name == "hybrid" else [name]), str(tiny)]
    assert len(data["hits"]) == 3
    unknown = run("search", index, "bees", "--retriever", "dens")
    assert unknown.code == 1
    assert "did you mean 'dense'" in " ".join(unknown.err.split())


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('{"_id": "a", "text": "x"}\n{"text": "y"}', ":2: no '_id'"),
        ('{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}', ":2: document id 'a' occurs twice"),
        ('{"_id": "a"}', ":1: "),
        ("[1]", ":1: a JSON list"),
        ("\n{", ":2: broken JSON"),
        ("", "no documents to index"),
    ],
)
def test_a_bad_corpus_names_the_line(run: Run, tmp_path: Path, lines: str, says: str) -> None:
    (tmp_path / "corpus.jsonl").write_text(lines, encoding="utf-8")
    done = run("index", "corpus.jsonl", "--out", "idx")
    assert done.code == 1
    assert says in done.err
    assert not (tmp_path / "idx").exists()


def test_settings_name_what_the_command_line_leaves_out(run: Run, beir: Path, tmp_path: Path) -> None:
    (tmp_path / "secondpass.toml").write_text(
        f'stages = []\n[collection]\npath = "{beir}"\n[retriever]\nindex = "idx"\nk1 = 1.2\nlanguage = "none"\n'
    )
    assert run("index").code == 0
    assert BM25.open(tmp_path / "idx").language is None
    assert "d19" in run("search", "locusts").out
    assert "nothing found" in run("search", "locust").err  # no stemmer: the setting was heard


def test_a_table_for_people(run: Run, index: Path, tiny: Path) -> None:
    done = run("search", index, QUERIES["q1"], "--model", tiny, "--top-k", 3)
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].split() == ["#", "was", "score", "document"]
    assert len(lines) == 7  # the header, then two lines a hit
    assert max(map(len, lines)) <= 80
    assert "bm25" in done.err
    assert "pairs" in done.err
    plain = run("search", index, QUERIES["q1"], "--no-rerank", "--top-k", 1)
    assert "was" not in plain.out
    assert "d1" in plain.out


def test_what_a_document_says_does_not_reach_the_terminal_raw(run: Run, tmp_path: Path) -> None:
    row = {"_id": "d[bold]", "title": "bees \x1b[2J", "text": "bees \x1b]0;title\x07 [/red] end"}
    (tmp_path / "corpus.jsonl").write_text(json.dumps(row))
    run("index", "corpus.jsonl", "--out", "idx")
    done = run("search", "idx", "bees", "--no-rerank")
    assert "\x1b" not in done.out
    assert "\x07" not in done.out
    assert "d[bold]" in done.out
    assert "[/red] end" in done.out


def test_json_has_it_all(run: Run, index: Path, tiny: Path) -> None:
    done = run("search", index, QUERIES["q1"], "--model", tiny, "--json", "--depth", 2, "--top-k", 4)
    data = json.loads(done.out)
    assert data["query"] == QUERIES["q1"]
    assert [hit["status"] for hit in data["hits"]] == ["scored", "scored", "beyond_depth", "beyond_depth"]
    assert sorted(hit["first_rank"] for hit in data["hits"]) == [1, 2, 3, 4]
    assert data["hits"][2]["score"] is None
    assert {hit["text"] for hit in data["hits"]} <= set(TEXTS)
    assert [step["name"] for step in data["trace"]] == ["bm25", str(tiny)]
    at_once = json.loads(run("search", index, QUERIES["q1"], "--model", tiny, "--json", "--deadline-ms", 0).out)
    assert [hit["first_rank"] for hit in at_once["hits"]] == list(range(1, len(at_once["hits"]) + 1))
    assert {hit["status"] for hit in at_once["hits"]} == {"deadline"}


def test_many_queries_make_a_run(run: Run, index: Path, beir: Path, tmp_path: Path, tiny: Path) -> None:
    done = run("search", index, "--queries", beir / "queries.jsonl", "--run", "bm25.trec", "--no-rerank")
    assert (done.code, done.out) == (0, "")
    first = read_run(tmp_path / "bm25.trec")
    opened = BM25.open(index)
    assert {query: [doc for doc, _ in hits] for query, hits in first.items()} == {
        query: list(opened.retrieve(text, 100).ids) for query, text in {**QUERIES, "q5": "locusts"}.items()
    }
    (tmp_path / "stdout.trec").write_text(run("search", index, "--queries", beir, "--model", tiny).out)
    reranked = read_run(tmp_path / "stdout.trec")
    assert {query: sorted(dict(hits)) for query, hits in reranked.items()} == {
        query: sorted(dict(hits)) for query, hits in first.items()
    }
    rows = run("search", index, "--queries", beir, "--model", tiny, "--json").out.splitlines()
    assert {(row := json.loads(line))["query_id"]: [hit["id"] for hit in row["hits"]] for line in rows} == {
        query: [doc for doc, _ in hits] for query, hits in reranked.items()
    }
