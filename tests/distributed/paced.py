"""A reranker for workers in other processes: it says in a file what it began, and can be held until it may go on.

`installed` writes it as a package that Ray's workers find, with its entry point, so that settings can name it.
"""

from __future__ import annotations

from pathlib import Path

SOURCE = '''
import os, time
from pathlib import Path
from secondpass.rerankers.cross_encoder import CrossEncoder

class Paced:
    """As the cross-encoder; a query with `held` in it waits until the file `go` is there."""

    def __init__(self, model, *, folder, cache_dir):
        self._model = CrossEncoder(model, profile="exact", threads=1, cache_dir=cache_dir)
        self._folder = Path(folder)

    def rerank(self, ranking, **more):
        with (self._folder / "begun").open("a") as file:
            file.write(f"{os.getpid()} {ranking.query_id} {ranking.query}\\n")
        while "held" in ranking.query and not (self._folder / "go").exists():
            time.sleep(0.05)
        time.sleep(0.05)
        return self._model.rerank(ranking, **more)
'''


def installed(folder: Path) -> Path:
    """The folder to put on PYTHONPATH."""
    about = folder / "paced_of_tests-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: paced-of-tests\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[secondpass.rerankers]\npaced = paced_of_tests:Paced\n")
    (folder / "paced_of_tests.py").write_text(SOURCE)
    return folder


def begun(folder: Path) -> list[tuple[str, str]]:
    """(process, query id) of each query that was begun, in order."""
    file = folder / "begun"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(line.split()[0], line.split()[1]) for line in lines]
