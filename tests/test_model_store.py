"""A store's folders never change, one of its models is current, and a kill leaves the old one or the new."""

from __future__ import annotations

import json
import shutil
import stat
import sys
from functools import partial
from pathlib import Path

import pytest

from killed import killed
from secondpass.disk import lock, unlock
from secondpass.errors import InputError, ModelError, StoreError
from secondpass.model_store import Event, Given, check_place, history, promote, roll_back
from secondpass.rerankers.cross_encoder import CrossEncoder
from secondpass.scoring.self_test import place_to_pin
from secondpass.serving.models import Served
from secondpass.weights import folder_digest, locate, place_in
from tiny import tiny_checkpoint


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Given]:
    """Four tiny models; read-only."""
    root = tmp_path_factory.mktemp("models")
    folders = [tiny_checkpoint(root / name, seed) for seed, name in enumerate("abcd")]
    return [Given(folder.name, folder, folder_digest(folder)) for folder in folders]


@pytest.fixture
def store(tmp_path: Path, made: list[Given]) -> Path:
    """A store that began with a, and in which b was promoted, then c."""
    a, b, c, _ = made
    promote(tmp_path / "store", b, a, {"change": 0.02})
    promote(tmp_path / "store", c, b, {"change": 0.03})
    return tmp_path / "store"


def current(store: Path) -> str:
    assert folder_digest(locate(store)) == locate(store).name
    return locate(store).name


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_current_model_opens_by_the_store_s_name(store: Path, made: list[Given]) -> None:
    opened = CrossEncoder(store)
    assert opened.scorer.checkpoint.digest == made[2].digest == current(store)
    assert opened.scorer.checkpoint.folder == place_in(store, made[2].digest)
    apart = CrossEncoder(made[2].folder)
    assert (
        opened.score("sort list", ["a list", "a bank"]).values == apart.score("sort list", ["a list", "a bank"]).values
    )


def test_a_server_takes_the_new_model_when_it_reads_its_settings_again(store: Path, made: list[Given]) -> None:
    served = Served("mine", lambda: CrossEncoder(store))
    served.load()
    assert served.digest == made[2].digest
    roll_back(store)
    assert served.digest == made[2].digest
    served.exchange(Served("mine", lambda: CrossEncoder(store)))
    assert served.digest == made[1].digest
    served.close()


def test_the_history_tells_who_replaced_whom_and_by_which_numbers(store: Path, made: list[Given]) -> None:
    a, b, c, _ = made
    told = [(event.event, event.digest, event.replaced, event.name, event.by) for event in history(store)]
    assert told == [
        ("began", a.digest, "", "a", None),
        ("promoted", b.digest, a.digest, "b", {"change": 0.02}),
        ("promoted", c.digest, b.digest, "c", {"change": 0.03}),
    ]
    lines = (store / "promotions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["digest"] for line in lines] == [a.digest, b.digest, c.digest]
    assert all(event.at.endswith("+00:00") for event in history(store))


def test_copies_are_whole_and_read_only(store: Path, made: list[Given]) -> None:
    for one in made[:3]:
        home = place_in(store, one.digest)
        assert files(home) == files(one.folder)
        for path in home.rglob("*"):
            assert not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    assert {path.name for path in store.iterdir()} == {"models", "promotions.jsonl", "write.lock"}
    assert {path.name for path in (store / "models").iterdir()} == {one.digest for one in made[:3]}


def test_rollback_walks_back_and_any_model_can_be_named(store: Path, made: list[Given]) -> None:
    a, b, c, d = made
    event = roll_back(store)
    assert (event.event, event.digest, event.replaced, event.name) == ("rolled back", b.digest, c.digest, "b")
    assert current(store) == b.digest
    assert roll_back(store).digest == current(store) == a.digest
    with pytest.raises(InputError, match="was the first; there is none before it"):
        roll_back(store)
    assert current(store) == a.digest
    assert roll_back(store, c.digest[:8]).digest == current(store) == c.digest
    assert roll_back(store).digest == b.digest, "what c replaced when it was promoted, not what was current before"
    promote(store, d, b, {})
    assert roll_back(store).digest == b.digest
    promote(store, c, b, {})
    assert current(store) == c.digest
    assert len(history(store)) == 3 + 2 + 1 + 1 + 1 + 1 + 1, "every change is a line"


def test_a_rollback_names_one_model(store: Path, made: list[Given]) -> None:
    before = files(store)
    with pytest.raises(InputError, match=f"none of its models begins with 'zz'; there are {made[0].digest}, "):
        roll_back(store, "zz")
    assert files(store) == before
    lines = [{"at": "", "event": "promoted", "digest": end * 32, "replaced": "", "name": ""} for end in "abc"]
    lines[1]["digest"] = "a" + "b" * 31
    (store / "promotions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match="several of its models begin with 'a'"):
        roll_back(store, "a")


def test_a_rollback_to_what_is_current_changes_nothing(store: Path, made: list[Given]) -> None:
    with pytest.raises(InputError, match="is current already"):
        roll_back(store, made[2].digest)
    assert len(history(store)) == 3


def test_what_is_there_is_not_copied_again(store: Path, made: list[Given]) -> None:
    place = place_in(store, made[1].digest) / "model.safetensors"
    before = place.stat().st_ino
    promote(store, made[1], made[2], {})
    assert place.stat().st_ino == before
    own = Given("own", place_in(store, made[0].digest), made[0].digest)
    promote(store, own, made[1], {})
    assert current(store) == made[0].digest


def test_the_same_weights_with_another_file_beside_them_are_refused(
    store: Path, made: list[Given], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(made[1].folder, other)
    (other / "calibration.json").write_text("{}")
    assert folder_digest(other) == made[1].digest
    before = files(store)
    with pytest.raises(StoreError, match=r"same weights as .* but another calibration\.json"):
        promote(store, Given("other", other, made[1].digest), made[2], {})
    assert files(store) == before


def damage(store: Path, digest: str) -> None:
    path = place_in(store, digest) / "model.safetensors"
    path.chmod(0o644)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_a_damaged_model_is_neither_opened_nor_rolled_back_to_nor_promoted(store: Path, made: list[Given]) -> None:
    damage(store, made[1].digest)
    assert current(store) == made[2].digest
    for act in (partial(roll_back, store), partial(promote, store, made[1], made[2], {})):
        with pytest.raises(StoreError, match="damaged, its files have the digest"):
            act()
    assert current(store) == made[2].digest
    damage(store, made[2].digest)
    with pytest.raises(ModelError, match="damaged, its files have the digest"):
        CrossEncoder(store)
    shutil.rmtree(place_in(store, made[2].digest))
    with pytest.raises(StoreError, match=f"the model {made[2].digest} is missing"):
        locate(store)


@pytest.mark.parametrize("line", ["", "{", "[]", '{"digest": 3}', '{"digest": "../../etc"}'])
def test_a_damaged_history_is_told(line: str, store: Path) -> None:
    file = store / "promotions.jsonl"
    file.write_text(line)
    with pytest.raises(StoreError, match=r"promotions\.jsonl"):
        locate(store)
    with pytest.raises(StoreError, match=r"promotions\.jsonl"):
        roll_back(store)


def test_a_model_that_changed_since_it_was_measured_is_refused(store: Path, made: list[Given], tmp_path: Path) -> None:
    before = files(store)
    with pytest.raises(InputError, match="changed since it was measured"):
        promote(store, Given("d", made[3].folder, made[0].digest[::-1]), made[2], {})
    assert files(store) == before
    assert {path.name for path in (store / "models").iterdir()} == {one.digest for one in made[:3]}
    with pytest.raises(InputError, match="changed since it was measured"):
        promote(tmp_path / "new", Given("d", made[3].folder, "0" * 32), made[0], {})
    assert history(tmp_path / "new") == ()


def test_a_model_measured_against_another_incumbent_is_refused(store: Path, made: list[Given]) -> None:
    before = files(store)
    with pytest.raises(StoreError, match="became current while"):
        promote(store, made[3], made[0], {})
    with pytest.raises(InputError, match="current model already"):
        promote(store, made[2], made[2], {})
    assert files(store) == before


def test_one_writer_at_a_time(store: Path, made: list[Given]) -> None:
    held = lock(store / "write.lock")
    try:
        for act in (partial(roll_back, store), partial(promote, store, made[3], made[2], {})):
            with pytest.raises(StoreError, match="being written by someone else"):
                act()
        assert current(store) == made[2].digest, "readers need no lock"
    finally:
        unlock(held)
    assert roll_back(store).digest == made[1].digest


def test_a_place_of_something_else_is_refused(tmp_path: Path, made: list[Given]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "notes.txt", made[0].folder):
        with pytest.raises(StoreError, match="exists and is no store of models"):
            check_place(place)
        with pytest.raises(StoreError):
            promote(place, made[1], made[0], {})
    with pytest.raises(StoreError, match="no store of models"):
        roll_back(tmp_path)
    inside = tmp_path / "model"
    shutil.copytree(made[1].folder, inside)
    with pytest.raises(InputError, match="lies inside the model folder"):
        promote(inside / "store", Given("b", inside, made[1].digest), made[0], {})
    assert not (inside / "store").exists()
    check_place(tmp_path / "new")


@pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")
def test_a_folder_of_links_as_the_hub_s_client_keeps_it_is_copied_whole(tmp_path: Path, made: list[Given]) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in made[1].folder.iterdir():
        (linked / path.name).symlink_to(path)
    promote(tmp_path / "store", Given("linked", linked, made[1].digest), made[0], {})
    assert not any(path.is_symlink() for path in (tmp_path / "store").rglob("*"))
    assert current(tmp_path / "store") == made[1].digest


def test_nothing_is_pinned_into_a_store(store: Path, made: list[Given]) -> None:
    for model in (store, place_in(store, made[2].digest)):
        with pytest.raises(ModelError, match="lies in a store of models, where none changes"):
            place_to_pin(model)


def test_an_event_reads_back_as_written(store: Path) -> None:
    assert history(store)[-1] == Event(**json.loads((store / "promotions.jsonl").read_bytes().splitlines()[-1]))


HARNESS = """
import json, sys
from pathlib import Path

from killed import outcomes
from secondpass.model_store import Given, history, promote, roll_back
from secondpass.weights import folder_digest, is_store, locate, stored

scenario, start, new_model, work = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])

def given(folder):
    return Given(folder.name, folder, folder_digest(folder))

def act(store):
    if scenario == "rollback":
        roll_back(store)
    elif scenario == "promote":
        promote(store, given(new_model), given(locate(store)), {"change": 0.1})
    else:
        promote(store, given(new_model), given(locate(start)), {"change": 0.1})

def state(store):
    if not is_store(store):
        return None
    return [locate(store).name, [[event.event, event.digest, event.replaced] for event in history(store)]]

def after(store, left, new, n):
    if left != new:  # what was killed can be done again
        act(store)
        assert state(store) == new, n
    for path in (store / "models").iterdir():
        assert not path.name.startswith(".") or left == new, n
        if not path.name.startswith("."):
            stored(store, path.name)

print(json.dumps(outcomes(None if scenario == "first" else start, work, act, state, after)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
@pytest.mark.parametrize(("scenario", "steps"), [("promote", 15), ("first", 25), ("rollback", 3)])
def test_a_kill_at_any_moment_leaves_the_old_state_or_the_new(
    scenario: str, steps: int, store: Path, made: list[Given], tmp_path: Path
) -> None:
    """A process is killed at its n-th change to a file, for every n; what is left opens, and goes on."""
    (tmp_path / "work").mkdir()
    seen = killed(HARNESS, scenario, store, made[3].folder, tmp_path / "work")
    assert len(seen) > steps, "the harness saw the files being written"
    assert seen == sorted(seen, key=["old", "new"].index), "once the new model is current, it stays"
    assert {"old", "new"} == set(seen)
