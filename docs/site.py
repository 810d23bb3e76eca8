"""Puts the pages of the documentation site together: docs/, pages from elsewhere in the repository, docstrings.

    python docs/site.py .site && zensical build --strict --config-file .site/mkdocs.yml

Knows: which files of the repository are pages of the site, and which modules its reference shows. Refuses to know: what
a page says. A link to a file that the site does not carry is shown as its path.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FRONT = "README.md"
RETRIEVERS = ("index", "bm25", "dense", "hybrid", "fallback", "sqlite", "postgres", "qdrant", "lucene")
REFERENCE = {  # page: modules, whose public names it shows
    "api": ("api",),
    "types": ("types",),
    "cascade": ("cascade", "fusion"),
    "rerankers": tuple(
        f"rerankers.{name}" for name in ("cross_encoder", "hosted", "listwise", "ltr", "fallback", "fused", "shadow")
    ),
    "retrievers": tuple(f"retrievers.{name}" for name in RETRIEVERS),
    "selection": tuple(
        f"selection.{name}" for name in ("token_budget", "threshold", "near_duplicates", "mmr", "parents")
    ),
    "evaluation": tuple(
        f"evaluation.{name}" for name in ("audit", "verdict", "metrics", "significance", "collections")
    ),
    "integrations": tuple(
        f"integrations.{name}"
        for name in ("langchain", "llama_index", "haystack", "pyterrier", "pandas", "sentence_transformers")
    ),
    "testing": ("testing",),
    "errors": ("errors",),
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^```.*?^```)", flags=re.S | re.M)


def sources() -> dict[str, str]:
    """Files of the repository, by the page of the site that they become."""
    docs = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")]
    cards = [path.relative_to(ROOT).as_posix() for path in (ROOT / "src/secondpass/models").glob("*/README.md")]
    return {page(path): path for path in sorted([FRONT, "ARCHITECTURE.md", "CHANGELOG.md", *docs, *cards])}


def page(path: str) -> str:
    """Where the site has a file of the repository."""
    if path == FRONT:
        return "index.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"


def pointed(text: str, path: str, there: set[str]) -> str:
    """The text of a file with its links, outside of code blocks, as the site has their targets."""
    here = posixpath.dirname(page(path))

    def one(match: re.Match[str]) -> str:
        picture, words, target, anchor = match.groups()
        if "://" in target:
            return match[0]
        meant = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if page(meant) not in there:
            return f"{words} (`{meant}`)"
        return f"{picture}[{words}]({posixpath.relpath(page(meant), here or '.')}{anchor or ''})"

    def code(block: str) -> str:
        """Without what only the tests read, the extra that it needs: more than a language opens no block in a site."""
        return re.sub(r"^```(\w+) .*$", r"```\1", block, count=1, flags=re.M)

    pieces = FENCE.split(text)
    return "".join(code(piece) if piece.startswith("```") else LINK.sub(one, piece) for piece in pieces)


def assemble(folder: Path) -> None:
    """Write mkdocs.yml and all pages into a folder of the repository, instead of what it holds."""
    shutil.rmtree(folder, ignore_errors=True)
    images = {f"img/{path.name}" for path in (ROOT / "docs" / "img").iterdir()}
    shutil.copytree(ROOT / "docs" / "img", folder / "docs" / "img")
    found = sources()
    for name, path in found.items():
        text = pointed((ROOT / path).read_text(encoding="utf-8"), path, {*found, *images})
        target = folder / "docs" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    (folder / "docs" / "reference").mkdir()
    for name, modules in REFERENCE.items():
        shown = "\n".join(f"## secondpass.{module}\n\n::: secondpass.{module}\n" for module in modules)
        text = f"# In Python: {name}\n\n{shown}"
        (folder / "docs" / "reference" / f"{name}.md").write_text(text, encoding="utf-8")
    settings = (ROOT / "docs" / "mkdocs.yml").read_text(encoding="utf-8")
    (folder / "mkdocs.yml").write_text(settings.replace("SOURCE", (ROOT / "src").as_posix()), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python docs/site.py FOLDER")
    assemble(Path(sys.argv[1]))
