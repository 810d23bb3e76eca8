"""secondpass.toml: strict, relative to its own folder, and the one way a pipeline is put together."""

from __future__ import annotations

import re
import shutil
import typing
from pathlib import Path

import msgspec
import pytest

from secondpass import config as settings
from secondpass.cli.measured import uncached
from secondpass.cli.settings_text import settings_text
from secondpass.config import Config, build_cascade, build_retriever, build_stages, find_config, open_collection
from secondpass.errors import CollectionError, ConfigError, SecondpassError
from secondpass.retrievers.dense import Dense
from secondpass.retrievers.hybrid import Hybrid
from secondpass.scoring.engines import ENGINES, PROFILES
from secondpass.types import Document, as_ranking
from secondpass.weights import SHIPPED

TABLES: dict[str, type[msgspec.Struct]] = {
    "collection": settings.CollectionTable,
    "retriever": settings.RetrieverTable,
    "stages": settings.StageTable,
    "select": settings.SelectTable,
    "budget": settings.BudgetTable,
    "price": settings.PriceTable,
    "systems": settings.SystemTable,
    "serve": settings.ServeTable,
    "serve.models": settings.ServedTable,
    "serve.keys": settings.KeyTable,
    "serve.shadow": settings.ShadowTable,
    "request_log": settings.RequestLogTable,
    "watch": settings.WatchTable,
    "ray": settings.RayTable,
}
DOCUMENTS = [Document("a", "a list of words"), Document("b", "the bank of a river"), Document("c", "a sorted list")]


def read(folder: Path, text: str) -> Config:
    path = folder / "secondpass.toml"
    path.write_text(text, encoding="utf-8")
    return settings.read_config(path)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("stage = 1", "stage: unknown key; did you mean 'stages'"),
        ("[colection]\npath = 'x'", "colection: unknown key; did you mean 'collection'"),
        ("[collection]\nfolder = 'x'", "collection.folder: unknown key; known are: path, split"),
        ("[[stages]]\n[[stages]]\ndepht = 3", r"stages\[1\].depht: unknown key; did you mean 'depth'"),
        ("[[stages]]\ndepth = '3'", r"stages\[0\].depth: expected `int`, got `str`"),
        ("[[stages]]\ndepth = 0", r"stages\[0\].depth: expected `int` >= 1"),
        ("[[stages]]\nbudget_ms = -1", r"stages\[0\].budget_ms: expected .* >= 0"),
        ("[[stages]]\nprofile = 'int9'", r"stages\[0\].profile: invalid enum value 'int9'"),
        ("[[stages]]\nfuse = -1", r"stages\[0\].fuse: expected .* >= 0"),
        ("[[stages]]\nfuse = 'yes'", r"stages\[0\].fuse: expected"),
        ("[[stages]]\ncache = 64", r"stages\[0\].cache: expected `int` >= 65536"),
        ("[[stages]]\ncache = 'localhost'", r"stages\[0\].cache: expected `str` matching regex"),
        ("[stages]\ndepth = 3", "stages: expected `array`"),
        ("[[select]]\nmost = 3", r"select\[0\]: object missing required field `selector`"),
        (
            "[[select]]\nselector = 'mmr'\nrelevence = 1",
            r"select\[0\].relevence: unknown key; did you mean 'relevance'",
        ),
        ("[[select]]\nselector = 'threshold'\nprobability = 2", r"select\[0\].probability: expected `float` <= 1"),
        ("[[select]]\nselector = 'token-budget'\ntokens = 0", r"select\[0\].tokens: expected `int` >= 1"),
        ("[retriever]\nweights = [1]", "retriever.weights: expected `array` of length >= 2"),
        ("[retriever]\nfusion = 'sum'", "retriever.fusion: invalid enum value 'sum'"),
        ("[retriever]\nb = 1.5", "retriever.b: expected `float` <= 1"),
        ("[budget]\ndelta = 0", "budget.delta: expected `float` > 0"),
        ("[budget]\nmetric = 'ndgc@10'", "budget.metric: unknown metric 'ndgc@10'"),
        ("[ray]\nreplicas = [3, 2]", r"ray.replicas: \[3, 2\]; give the fewest first"),
        ("[ray]\ncpus = 0", "ray.cpus: expected `float` > 0"),
        ("file = 'x'", "file: unknown key"),
        ("a = ", "not TOML"),
    ],
)
def test_what_cannot_be_meant_names_file_and_key(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(tmp_path))}.secondpass\.toml: {key}"):
        read(tmp_path, text)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"other\.toml: cannot be read \(No such file"):
        find_config(tmp_path / "other.toml")


def test_found_here_or_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config() == Config()
    (stage,) = Config().stages
    assert (Config().retriever.name, stage.reranker, stage.depth, Config().depth) == ("bm25", "cross-encoder", 100, 100)
    read(tmp_path, "[[stages]]\ndepth = 7\n[[stages]]\ndepth = 3")
    assert find_config().depth == 7
    assert find_config(tmp_path / "secondpass.toml").file == str(tmp_path / "secondpass.toml")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    text = """
    [collection]
    path = "corpus"
    [retriever]
    index = "idx"
    [[stages]]
    model = "models/mine"
    [[stages]]
    model = "owner/on-the-hub"
    """
    found = read(tmp_path, text)
    assert found.collection.path == str(tmp_path / "corpus")
    assert found.retriever.index == str(tmp_path / "idx")
    assert [stage.model for stage in found.stages] == [str(tmp_path / "models" / "mine"), "owner/on-the-hub"]
    assert read(tmp_path, "[collection]\npath = 'ir_datasets:x/y'").collection.path == "ir_datasets:x/y"
    assert read(tmp_path, f"[collection]\npath = '{tmp_path / 'z'}'").collection.path == str(tmp_path / "z")


def test_a_whole_pipeline(tmp_path: Path, tiny: Path) -> None:
    found = read(
        tmp_path,
        f"""
        [retriever]
        candidates = 5
        language = "none"
        [[stages]]
        model = "{tiny}"
        depth = 2
        budget_ms = 60000
        profile = "exact"
        engine = "onnxruntime"
        threads = 1
        max_length = 64
        template = "{{text}}"
        cache = 1_000_000
        options = {{ batch_tokens = 128, cache_dir = "{tmp_path / "cache"}" }}
        """,
    )
    cascade = build_cascade(found, DOCUMENTS)
    assert repr(cascade) == f"BM25(3 documents) @ 5 >> CrossEncoder('{tiny}') @ 2 within 60000 ms"
    ranking = cascade.search("list", top_k=3)
    assert sorted(ranking.ids) == ["a", "c"]
    detail = ranking.trace[-1].detail
    assert detail["cache"]["misses"] == 2
    assert (detail["engine"], detail["precision"], detail["workers"], detail["max_length"]) == (
        "onnxruntime",
        "fp32",
        1,
        64,
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [("true", "no calibration"), ("false", "fuse=False"), ("2", 2.0), ("0.5", 0.5)],
)
def test_whether_and_how_much_the_first_stage_counts(tmp_path: Path, tiny: Path, value: str, said: object) -> None:
    options = f"engine = 'onnxruntime'\nthreads = 1\noptions = {{ cache_dir = '{tmp_path}' }}"
    found = read(tmp_path, f"[[stages]]\nmodel = '{tiny}'\nfuse = {value}\n{options}")
    ((stage,), ranking) = build_stages(found), as_ranking("list", [{"text": f"a {n}", "score": n} for n in range(3)])
    fused = stage.run(ranking).trace[-1].detail["fused"]
    assert said in fused.get("why", "") if isinstance(said, str) else fused["weight"] == said


def test_an_index_is_opened_and_its_absence_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"retriever\.index is not set; build one with `secondpass index`"):
        build_retriever(Config())
    build_retriever(Config(), DOCUMENTS).save(tmp_path / "idx")  # type: ignore[attr-defined]
    opened = build_retriever(read(tmp_path, "[retriever]\nindex = 'idx'"))
    assert opened.retrieve("river", 3).ids == ("b",)


def test_dense_and_hybrid_are_built_as_the_file_says(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED["secondpass-static"], tmp_path / "vectors")
    text = "[retriever]\nname = '{}'\nencoder = 'vectors'\nfields = ['text']\n"
    dense = build_retriever(read(tmp_path, text.format("dense")), DOCUMENTS)
    assert isinstance(dense, Dense)
    assert dense.vectors.encoder.name == str((tmp_path / "vectors").resolve())
    assert dense.retrieve("ordering words", 1).ids in (("a",), ("c",))
    file = read(tmp_path, text.format("hybrid") + "fusion = 'convex'\nweights = [1, 3]")
    hybrid = build_retriever(file, DOCUMENTS)
    assert isinstance(hybrid, Hybrid)
    assert hybrid.retrieve("river", 3).trace[-1].detail["weights"] == (0.25, 0.75)
    hybrid.save(tmp_path / "idx")
    opened = build_retriever(read(tmp_path, "[retriever]\nname = 'hybrid'\nindex = 'idx'"))
    assert opened.retrieve("river", 3).ids[0] == "b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[[stages]]\nreranker = 'cross-encodr'",
            r"stages\[0\]\.reranker: there is no reranker called .* did you mean",
        ),
        ("[[stages]]\noptions = {colour = 1}", r"stages\[0\]: CrossEncoder .*'colour'; it takes: model, .*cache_dir"),
        (
            "[[stages]]\nmodel = 'm'\noptions = {model = 'n'}",
            r"stages\[0\]\.options\.model is also set as stages\[0\]\.model",
        ),
        (
            "[[select]]\nselector = 'mrm'",
            r"select\[0\]\.selector: there is no selector called 'mrm'; did you mean 'mmr'",
        ),
        (
            "[[select]]\nselector = 'threshold'",
            r"select\[0\]: Threshold missing .*'probability'; it takes: probability",
        ),
        (
            "[[select]]\nselector = 'mmr'\n[[select]]\nselector = 'mmr'\ntokens = 3",
            r"select\[1\]: MMR .*'tokens'; it takes: relevance, most, encoder",
        ),
        ("[[select]]\nselector = 'mmr'\nmost = 1\noptions = {most = 2}", r"select\[0\]\.options\.most is also set as"),
        (
            "[[select]]\nselector = 'token-budget'\ntokens = 9\ntemplate = 'none'",
            r"select\[0\]: template 'none': name at least one field",
        ),
        ("[[select]]\nselector = 'risk-control'\nguarantee = 'g.json'", r"select\[0\]: .*g\.json: cannot be read"),
        ("[retriever]\nname = 'bm26'", r"retriever\.name: there is no retriever called 'bm26'; did you mean 'bm25'"),
        ("[retriever]\noptions = {k = 1}", r"retriever\.options is for other retrievers"),
    ],
)
def test_what_cannot_be_built_names_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"secondpass\.toml: {message}"):
        build_cascade(read(tmp_path, text), DOCUMENTS)


class Reversed:
    """A reranker of another package: its options come from the file."""

    def __init__(self, *, strength: int, model: str = "") -> None:
        self.strength, self.model = strength, model

    def rerank(self, ranking: object, **_: object) -> object:
        return ranking


def test_another_package_s_reranker_gets_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "resolve", lambda kind, name: Reversed)
    text = "[[stages]]\nreranker = 'reversed'\nmodel = 'm'\ndepth = 4\n[stages.options]\nstrength = 2"
    (stage,) = build_stages(read(tmp_path, text))
    assert isinstance(stage.reranker, Reversed)
    assert (stage.depth, stage.reranker.strength, stage.reranker.model) == (4, 2, "m")
    with pytest.raises(
        ConfigError, match=r"stages\[0\]: Reversed missing a required .*'strength'; it takes: strength, model"
    ):
        build_stages(read(tmp_path, "[[stages]]\nreranker = 'reversed'"))


WRAPPED = """
[[stages]]
reranker = "fallback"
depth = 7
options = { reserve_ms = 60, budget_ms = 100 }
[[stages.rerankers]]
reranker = "fused"
options = { method = "convex", weights = [1, 2] }
[[stages.rerankers.rerankers]]
model = "mine"
engine = "onnxruntime"
threads = 1
max_length = 32
[[stages.rerankers.rerankers]]
model = "mine"
engine = "onnxruntime"
threads = 1
max_length = 64
[[stages.rerankers]]
model = "mine"
engine = "onnxruntime"
threads = 1
"""


def test_rerankers_around_rerankers(tmp_path: Path, tiny: Path) -> None:
    shutil.copytree(tiny, tmp_path / "mine")
    found = read(tmp_path, WRAPPED)
    ((stage,), mine) = build_stages(found), f"CrossEncoder('{(tmp_path / 'mine').resolve()}')"
    assert repr(stage) == f"Fallback(Fused({mine}, {mine}), {mine}) @ 7"
    ranking = stage.run(as_ranking("list", ["a list", "a river"]))
    assert [entry.detail.get("max_length") for entry in ranking.trace] == [32, 64, None]
    assert [one["weight"] for one in ranking.trace[-1].detail["of"]] == [1 / 3, 2 / 3]
    again = tmp_path / "again"
    again.mkdir()
    assert read(again, settings_text(found)).stages == found.stages


def test_measuring_leaves_out_the_caches_of_rerankers_inside(tmp_path: Path) -> None:
    text = "[[stages]]\nreranker = 'fallback'\n[[stages.rerankers]]\ncache = 100_000\noptions = {cache = 1, x = 2}"
    notes: list[str] = []
    ((stage,), (note,)) = uncached(read(tmp_path, text), notes).stages, notes
    assert (stage.rerankers[0].cache, stage.rerankers[0].options) == (None, {"x": 2})
    assert "cache of scores is off" in note


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[stages.rerankers]]\ndepth = 3", r"stages\[0\]\.rerankers\[0\]\.depth: unknown key"),
        ("[[stages.rerankers]]\nmodle = 'm'", r"stages\[0\]\.rerankers\[0\]\.modle: .*did you mean 'model'"),
        (
            "[[stages.rerankers]]\n[[stages.rerankers.rerankers]]\n[[stages.rerankers.rerankers]]\nthreads = 0",
            r"stages\[0\]\.rerankers\[0\]\.rerankers\[1\]\.threads: expected `int` >= 1",
        ),
        (
            "[[stages.rerankers]]\n[[stages.rerankers.rerankers]]\nmodle = 'm'",
            r"stages\[0\]\.rerankers\[0\]\.rerankers\[0\]\.modle: .*did you mean 'model'",
        ),
        (
            "reranker = 'fallback'\n[[stages.rerankers]]\nreranker = 'nobody'",
            r"stages\[0\]\.rerankers\[0\]\.reranker: there is no reranker called 'nobody'",
        ),
        (
            "reranker = 'fallback'",
            r"stages\[0\]: Fallback missing .*'first'; it takes: .*\(other rerankers as \[\[stages\.rerankers\]\]\)",
        ),
        (
            "[[stages.rerankers]]\nreranker = 'fused'",
            r"stages\[0\]\.rerankers\[0\]: Fused missing .*as \[\[stages\.rerankers\.rerankers\]\]\)",
        ),
        (
            "[[stages.rerankers]]\nmodel = '{tiny}'",
            r"stages\[0\]\.rerankers: CrossEncoder is not made of others; leave them out",
        ),
        (
            "reranker = 'fallback'\noptions = {{ reserve_ms = 'x' }}\n[[stages.rerankers]]\nmodel = '{tiny}'",
            r"stages\[0\]: reserve_ms is 'x'; give milliseconds",
        ),
    ],
)
def test_what_cannot_be_nested_names_the_key(tmp_path: Path, tiny: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"secondpass\.toml: {message}"):
        build_stages(read(tmp_path, "[[stages]]\n" + text.format(tiny=tiny)))


def test_selectors_come_after_the_stages_in_their_order(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED["secondpass-static"], tmp_path / "vectors")
    found = read(
        tmp_path,
        """
        stages = []
        [[select]]
        selector = "near-duplicates"
        resemblance = 0.5
        [[select]]
        selector = "mmr"
        most = 2
        encoder = "vectors"
        [[select]]
        selector = "parents"
        options = { parent = "doc", most = 1 }
        [[select]]
        selector = "token-budget"
        tokens = 6
        tokenizer = "vectors/tokenizer.json"
        """,
    )
    assert found.select[1].encoder == str(tmp_path / "vectors")
    cascade = build_cascade(found, DOCUMENTS)
    assert [type(one).__name__ for one in cascade.selectors] == ["NearDuplicates", "MMR", "Parents", "TokenBudget"]
    ranking = cascade.search("list of words")
    assert [step.detail["kept"] for step in ranking.trace[1:]] == [2, 2, 2, 1]
    assert found.select[3].tokenizer == str(tmp_path / "vectors" / "tokenizer.json")
    assert not build_cascade(Config(stages=()), DOCUMENTS).selectors


def test_the_collection_is_read_or_its_absence_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the built-in defaults: collection\.path is not set"):
        open_collection(Config())
    with pytest.raises(CollectionError, match="no such folder"):
        open_collection(read(tmp_path, "[collection]\npath = 'nowhere'"))
    assert issubclass(ConfigError, SecondpassError)


def test_the_choices_are_those_of_the_engines() -> None:
    hints = typing.get_type_hints(settings.StageTable)
    for name, known in (("profile", PROFILES), ("engine", ENGINES)):
        (literal, none) = typing.get_args(hints[name])
        assert none is type(None)
        assert typing.get_args(literal) == known


def test_every_key_is_in_the_docs_with_its_default() -> None:
    page = (Path(__file__).parents[1] / "docs" / "config.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z_.]+)\.([a-z0-9_]+)` \| ([^|]*) \|", page, flags=re.M)
    described = {(table, key): default.strip().strip("`") for table, key, default in rows}
    expected: dict[tuple[str, str], object] = {}
    shared = {field.name for field in msgspec.structs.fields(settings.RerankerTable)}  # described with the stages
    for table, struct in TABLES.items():
        for field in msgspec.structs.fields(struct):
            if struct is settings.ServedTable and field.name in shared:
                continue
            default = field.default
            if default is msgspec.NODEFAULT:
                required = field.default_factory is msgspec.NODEFAULT
                default = None if required else field.default_factory()
            expected[table, field.name] = default
    assert described.keys() == expected.keys()
    for key, default in expected.items():
        if default in (None, "", {}, ()):
            assert described[key] == "—", key
        else:
            plain = list(default) if isinstance(default, tuple) else default
            assert msgspec.toml.decode(f"x = {described[key]}") == {"x": plain}, key


def test_the_example_in_the_docs_is_a_valid_file(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "config.md").read_text(encoding="utf-8")
    first, nested = re.findall(r"```toml\n(.*?)```", page, flags=re.S)
    assert read(tmp_path, first).stages
    (stage,) = read(tmp_path, nested).stages
    assert [len(one.rerankers) for one in stage.rerankers] == [0, 2]
