"""examples/vendor_audit reads the words that it says it does; examples/cohere gets its answers from our server."""

from __future__ import annotations

import filecmp
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli.test_serve import serving
from secondpass import rerank

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(script: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=False)


@pytest.mark.parametrize(
    ("trial", "asked", "word"),
    [
        ([], [], "WORTH IT"),
        ([], ["--budget-ms", "100"], "TOO SLOW"),
        (["--gain", "-1"], [], "HARMFUL"),
        (["--gain", "0.03", "--queries", "30"], [], "INCONCLUSIVE"),
    ],
)
def test_the_audit_of_a_vendor_says_what_the_readme_says(
    tmp_path: Path, trial: list[str], asked: list[str], word: str
) -> None:
    assert run("vendor_audit/made_up.py", "trial", *trial, folder=tmp_path).returncode == 0
    done = run("vendor_audit/audit_vendor.py", "trial", *asked, folder=tmp_path)
    assert done.stdout.startswith(f"{word}: "), done.stdout + done.stderr
    assert done.returncode == (0 if word == "WORTH IT" else 1)
    before, after, best, change = re.findall(r"(?<![\d.])[+-]?\d\.\d{3}", done.stdout.split("\n", 1)[1])[:4]
    assert float(best) >= max(float(before), float(after))
    assert float(change) == pytest.approx(float(after) - float(before), abs=0.0011)


def test_a_trial_is_the_same_each_time(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        run("vendor_audit/made_up.py", folder, folder=tmp_path)
    files = ["first.trec", "vendor.trec", "test.tsv", "vendor-ms.tsv"]
    assert filecmp.cmpfiles(tmp_path / "one", tmp_path / "other", files, shallow=False) == (files, [], [])


@pytest.mark.slow
def test_the_client_of_cohere_is_answered_by_our_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("cohere") is None:
        pytest.skip("needs cohere")
    source = (EXAMPLES / "cohere" / "ask.py").read_text(encoding="utf-8")
    query = re.findall(r'^QUERY = "(.*)"$', source, flags=re.M)[0]
    texts = re.findall(r'^    "(.*)",$', source, flags=re.M)
    expected = [hit.document.text for hit in rerank(query, texts, top_k=3).hits]
    assert len(texts) == 4
    assert texts[1] == expected[0]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # the client's own
    with serving(tmp_path, SECONDPASS_API_KEYS="") as (url, _):
        with_argument = run("cohere/ask.py", url, folder=tmp_path)
        monkeypatch.setenv("CO_API_URL", url)
        with_environment = run("cohere/ask.py", folder=tmp_path)
    for done in (with_argument, with_environment):
        assert done.returncode == 0, done.stderr
        rows = re.findall(r"^(\d)\. (\d\.\d{3})  (.*)$", done.stdout, flags=re.M)
        assert [text for _, _, text in rows] == expected
        assert [place for place, _, _ in rows] == ["1", "2", "3"]
