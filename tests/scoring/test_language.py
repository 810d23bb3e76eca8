"""The guess at a request's language: right where it speaks, silent on odd English, cheap, never an error."""

from __future__ import annotations

import json
import random
import shutil
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondpass.errors import ModelError
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.checkpoint import open_checkpoint
from secondpass.scoring.function_words import FUNCTION_WORDS
from secondpass.scoring.language import KNOWN, foreign, language_detail, noted
from secondpass.types import Deadline, Scores, StageTrace, Status, as_ranking
from secondpass.weights import SHIPPED

ENGLISH = ("en",)

FOREIGN = {
    "German": [
        "wie kann ich eine Datei in Python lesen",
        "Warum ist der Himmel blau und nicht grün?",
        "was ist der Unterschied zwischen Wetter und Klima",
        "Die Schwalben kehren im April zu ihren Nestern zurück, wenn es wieder genug Insekten gibt.",
        "Der Vertrag wird durch eine schriftliche Kündigung beendet, die drei Monate vor Ablauf eingehen muss.",
        "koennen Katzen im Dunkeln sehen",
    ],
    "French": [
        "comment puis-je lire un fichier avec Python",
        "Pourquoi le ciel est-il bleu ?",
        "quelle est la différence entre le climat et la météo",
        "Les hirondelles reviennent en avril dans leurs nids, quand il y a de nouveau assez d'insectes.",
        "Ce médicament ne doit pas être pris avec de l'alcool, mais il peut l'être pendant les repas.",
    ],
    "Spanish": [
        "¿Cómo puedo leer un archivo en Python?",
        "por qué el cielo es azul",
        "cual es la diferencia entre clima y tiempo",
        "Las golondrinas vuelven en abril a sus nidos, cuando hay otra vez suficientes insectos para las crías.",
        "El contrato termina cuando una de las partes lo comunica por escrito, pero no antes de tres meses.",
    ],
    "Italian": [
        "come posso leggere un file in Python",
        "perché il cielo è blu",
        "qual è la differenza tra il clima e il tempo",
        "Le rondini tornano ad aprile nei loro nidi, quando ci sono di nuovo abbastanza insetti per i piccoli.",
    ],
    "Portuguese": [
        "como posso ler um arquivo com Python",
        "por que o céu é azul e não verde",
        "As andorinhas voltam em abril aos seus ninhos, quando há de novo insetos para os filhotes, mas não antes.",
    ],
    "Dutch": [
        "hoe kan ik een bestand in Python lezen",
        "waarom is de lucht blauw en niet groen",
        "De zwaluwen komen in april terug naar hun nesten, wanneer er weer genoeg insecten voor de jongen zijn.",
    ],
    "Swedish": [
        "hur kan jag läsa en fil i Python",
        "varför är himlen blå och inte grön",
        "Svalorna kommer tillbaka till sina bon i april, när det finns många insekter för ungarna.",
    ],
    "Danish or Norwegian": [
        "hvordan kan jeg læse en fil i Python",
        "hvorfor er himlen blå og ikke grøn",
        "Svalerne vender tilbage til deres reder i april, når der igen er nok insekter af alle slags for ungerne.",
    ],
    "Finnish": [
        "miten voin lukea tiedoston Pythonilla kun se on suuri",
        "miksi taivas on sininen mutta yö musta",
        "Pääskyset palaavat pesilleen huhtikuussa, kun hyönteisiä on taas tarpeeksi, mutta eivät aikaisemmin.",
    ],
    "Polish": [
        "jak można przeczytać plik w Pythonie",
        "dlaczego niebo jest niebieskie, a nie zielone",
        "Jaskółki wracają do swoich gniazd w kwietniu, gdy owadów jest już dość dla piskląt.",
    ],
    "Czech": ["proč je nebe modré a není zelené", "jak může být soubor otevřen, který není na disku"],
    "Hungarian": ["miért kék az ég és nem zöld", "hogyan lehet egy fájlt megnyitni, ami nem a lemezen van"],
    "Romanian": ["de ce este cerul albastru și nu verde", "cum pot citi un fișier care este în altă parte"],
    "Turkish": ["gökyüzü neden mavi ve nasıl bir renk", "bir dosyayı okumak için daha iyi bir yol nedir"],
    "Indonesian": ["mengapa langit itu biru dan tidak hijau", "bagaimana cara membaca berkas dengan Python"],
    "Vietnamese": ["tại sao bầu trời là màu xanh và không phải màu đỏ", "làm thế nào để đọc một tệp"],
    "Cyrillic": ["почему небо синее", "как прочитать файл в Python", "чому небо блакитне"],
    "Greek": ["γιατί ο ουρανός είναι μπλε", "πώς διαβάζω ένα αρχείο"],
    "Arabic": ["لماذا السماء زرقاء", "كيف أقرأ ملف في Python"],
    "Hebrew": ["למה השמיים כחולים"],
    "Devanagari": ["आसमान नीला क्यों है"],
    "Thai": ["ทำไมท้องฟ้าเป็นสีฟ้า"],
    "Korean": ["하늘은 왜 파란가요", "Python 파일 읽기"],
    "Japanese": ["空はなぜ青いのですか", "Pythonでファイルを読む方法"],
    "Chinese or Japanese": ["天空为什么是蓝色的", "如何用Python读取文件", "北京"],
}

OWN = [
    "when do swallows return",
    "python",
    "sort list in place",
    "Der Spiegel circulation",
    "Das Boot cast",
    "Die Hard 2 director",
    "Sturm und Drang",
    "los angeles weather",
    "el nino effects",
    "la liga standings",
    "de la soul album",
    "Les Misérables",
    "le mans winners list",
    "Rio de Janeiro population",
    "Cien años de soledad author",
    "van der waals forces",
    "ludwig van beethoven",
    "Leonardo da Vinci",
    "c'est la vie meaning",
    "what does je ne sais quoi mean",
    "what is the meaning of und in German",
    "what does こんにちは mean",
    "how do you say thank you in russian: спасибо",
    "est time zone",
    "MIT open course ware",
    "NASA Apollo 11 crew",
    "jest mock function",
    "npm ERR! code ENOENT",
    "SELECT name FROM users WHERE id = 3 ORDER BY name",
    "def read(path: str) -> bytes: return open(path, 'rb').read()",
    "for i in range(10): var = i * 2; print(var)",
    "std::vector<int> v; v.push_back(1); // den, der, die",
    "TypeError: 'NoneType' object is not subscriptable",
    "/usr/local/lib/python3.11/site-packages",
    "du -sh * | sort -h",
    "tar -xzf archive.tar.gz -C /tmp",
    "https://example.com/de/ist/und",
    "β-catenin and TGF-β signalling in μ-opioid receptors",
    "σ² = Σ(x − μ)² / N",
    "αβγ",
    "H2SO4 + 2 NaOH → Na2SO4 + 2 H2O",
    "2-(4-isobutylphenyl)propanoic acid",
    "Δ9-tetrahydrocannabinol",
    "Escherichia coli O157:H7 in vitro",
    "Homo sapiens neanderthalensis, Pan troglodytes, Pongo pygmaeus",
    "de facto, de jure, per se, et al.",
    "naïve café façade résumé",
    "Erdős–Rényi graph",
    "Gödel, Escher, Bach",
    "Dvořák, Janáček, Smetana, Martinů",
    "München, Köln, Düsseldorf, Nürnberg, Zürich",
    "Île-de-France, Provence-Alpes-Côte d'Azur, Pays de la Loire",
    "São Paulo, Brasília, Belo Horizonte, Rio de Janeiro",
    "name | year | goals\nMüller | 1974 | 14\nKlose | 2014 | 16\nFontaine | 1958 | 13",
    "1 2 3 4 5",
    "…!?",
    "",
    "   ",
    "I am, you are, he is",
    "The word 'nicht' negates a verb in German, and 'kein' a noun; both come from the same root.",
    "Swallows come back to their nests in April, when there are insects enough.",
    "The German constitution, the Grundgesetz für die Bundesrepublik Deutschland, was adopted in 1949.",
    "Camus wrote L'Étranger and Le Mythe de Sisyphe; both were published by Gallimard during the occupation.",
    "Jules Verne, Vingt mille lieues sous les mers, Le Tour du monde en quatre-vingts jours: a list of novels",
    "Della Reese, Auch cathedral",
    "Beckenbauer (der Kaiser), Breitner, Overath, Grabowski, Vogts, Schwarzenbeck, Bonhof, Maier, Netzer, Cruyff, "
    "Neeskens, Rep, Haan, Suurbier, Krol; stamps, posters: Nacht über Berlin",
    "we've don't I'll they're it's wouldn't",
]

ANY_TEXT = st.text(st.characters(), max_size=400)  # all of Unicode, lone surrogates too


@pytest.fixture(scope="module")
def mini(cache: Path) -> CrossEncoder:
    return CrossEncoder(cache_dir=cache, engine="onnxruntime", profile="exact")


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in FOREIGN.items() for text in texts])
def test_another_language_is_named(name: str, text: str) -> None:
    assert foreign(text, ENGLISH) == name
    assert foreign(f"{text}\n" * 3, ENGLISH) == name


@pytest.mark.parametrize("text", OWN)
def test_english_names_code_and_numbers_raise_no_alarm(text: str) -> None:
    assert foreign(text, ENGLISH) == ""


def test_decomposed_accents_are_read_as_composed_ones() -> None:
    assert foreign(unicodedata.normalize("NFD", FOREIGN["Vietnamese"][0]), ENGLISH) == "Vietnamese"


def test_a_model_for_other_languages_is_warned_of_others() -> None:
    german, english = "warum ist der Himmel blau und nicht grün", "why is the sky blue and not green when it is clear"
    assert foreign(english, ("de",)) == "English"
    assert foreign(german, ("de",)) == foreign(german, ("en", "de")) == foreign(english, ("en", "de")) == ""
    assert foreign(german, ("en", "fr")) == "German"


def test_nothing_is_said_where_the_models_languages_are_not_known() -> None:
    for languages in ((), ("xx",), ("en", "zh")):
        assert foreign("почему небо синее", languages) == ""
        assert language_detail(languages, "почему небо синее", ["потому что"]) is None


@given(ANY_TEXT, st.lists(st.one_of(ANY_TEXT, st.none(), st.integers()), max_size=8))
def test_no_text_raises_and_what_is_said_holds_together(query: str, texts: list[object]) -> None:
    assert isinstance(foreign(query, ENGLISH), str)
    detail = language_detail(ENGLISH, query, texts)
    if detail is not None:
        assert detail["query"] or 2 * detail["documents"] > detail["of"]
        assert detail["of"] <= sum(isinstance(text, str) for text in texts)
        assert "English" in detail["warning"]


@given(st.randoms(use_true_random=False), st.integers(0, 20), st.integers(0, 20))
def test_the_order_of_the_documents_does_not_matter(order: random.Random, some: int, others: int) -> None:
    pool = [text for texts in FOREIGN.values() for text in texts]
    texts = [*order.sample(pool, min(some, 20)), *order.sample(OWN, min(others, 20 - min(some, 20)))]
    shuffled = order.sample(texts, len(texts))
    assert language_detail(ENGLISH, "sky", texts) == language_detail(ENGLISH, "sky", shuffled)


def test_one_foreign_half_of_the_documents_is_silent_and_one_more_is_not() -> None:
    german, english = FOREIGN["German"][3], OWN[0]
    assert language_detail(ENGLISH, "sky", [german, english]) is None
    told = language_detail(ENGLISH, "sky", [german, english, german])
    assert told is not None
    assert (told["query"], told["documents"], told["of"], told["model"]) == ("", 2, 3, "English")
    assert "2 of 3 documents looked at look German" in told["warning"]


def test_the_work_is_bounded_by_the_first_characters_of_the_first_documents() -> None:
    german = FOREIGN["German"][3]
    assert foreign("x" * 240 + " " + german, ENGLISH) == ""
    assert language_detail(ENGLISH, "sky", [OWN[0]] * 20 + [german] * 1000) is None
    huge = [f"{german} " * 20_000] * 500  # 1 GB, were it read whole
    spent = []
    for texts in ([german * 4] * 20, huge):
        began = time.process_time()
        language_detail(ENGLISH, german, texts)
        spent.append(time.process_time() - began)
    assert spent[1] < 10 * spent[0] + 0.01


def test_function_words_are_lower_case_and_sure_or_common() -> None:
    assert len(KNOWN) >= 12
    for code, its in FUNCTION_WORDS.items():
        assert its.sure, code
        assert not its.sure & its.common, code
        assert all(word == word.lower() and " " not in word for word in its.sure | its.common), code


def test_scores_are_the_same_and_only_the_trace_is_more() -> None:
    scores = Scores((1.0, None), (Status.SCORED, Status.EMPTY), (None, None), StageTrace("m", detail={"engine": "x"}))
    assert noted(scores, language_detail(ENGLISH, OWN[0], OWN)) is scores
    told = noted(scores, language_detail(ENGLISH, FOREIGN["German"][0], FOREIGN["German"]))
    assert (told.values, told.statuses, told.spans) == (scores.values, scores.statuses, scores.spans)
    assert set(told.trace.detail) == {"engine", "language"}


def test_shipped_models_say_that_they_are_english_only() -> None:
    checkpoint = open_checkpoint("secondpass-mini")
    assert checkpoint.languages == ENGLISH
    lineage = json.loads((SHIPPED["secondpass-mini"] / "lineage.json").read_text(encoding="utf-8"))
    assert checkpoint.digest == lineage["digest"]  # which the statement is no part of


def test_languages_that_are_no_list_are_refused(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "odd")
    assert open_checkpoint(folder).languages == ()
    (folder / "golden.json").write_text('{"languages": "en"}')
    with pytest.raises(ModelError, match="languages = 'en'"):
        open_checkpoint(folder)


def test_a_german_request_is_warned_about_and_an_english_one_is_not(mini: CrossEncoder) -> None:
    german = mini.rerank(as_ranking(FOREIGN["German"][1], FOREIGN["German"]))
    told = german.trace[-1].detail["language"]
    assert (told["query"], told["documents"], told["of"]) == ("German", 6, 6)
    assert "language" not in mini.rerank(as_ranking(OWN[0], OWN)).trace[-1].detail
    assert "language" in mini.score(FOREIGN["German"][1], FOREIGN["German"]).trace.detail
    late = mini.rerank(as_ranking(FOREIGN["German"][1], FOREIGN["German"]), deadline=Deadline.after_ms(0))
    assert late.trace[-1].pairs_scored == 0
    assert "language" in late.trace[-1].detail


def test_the_check_changes_no_score(mini: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    rankings = [as_ranking(FOREIGN["German"][1], FOREIGN["German"]), as_ranking(OWN[0], OWN[:20])]
    checked = [[(hit.document.id, hit.score) for hit in mini.rerank(one).hits] for one in rankings]
    monkeypatch.setattr(mini, "_languages", ())
    unchecked = [mini.rerank(one) for one in rankings]
    assert all("language" not in one.trace[-1].detail for one in unchecked)
    assert checked == [[(hit.document.id, hit.score) for hit in one.hits] for one in unchecked]
