"""A teacher's scores: those of its model, found once, gone on with after a kill, found anew where anything changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from secondpass.scoring.checkpoint import open_checkpoint
from secondpass.scoring.pair_scorer import open_scorer
from secondpass.training.data import Group
from secondpass.training.teacher import targets, taught
from tiny import tiny_checkpoint, tiny_split
from word_groups import quiet, word_groups


def test_groups_are_taught_what_the_model_scores(tmp_path: Path) -> None:
    model, groups = tiny_split(tmp_path / "model"), word_groups(6)
    scorer = open_scorer(open_checkpoint(model))
    for group in taught(groups, model, tmp_path, progress=quiet):
        assert group.taught == pytest.approx(scorer.score(group.query, group.passages).values, abs=scorer.tolerance)


def test_a_killed_run_goes_on_and_a_finished_one_is_read(tmp_path: Path) -> None:
    model, groups = tiny_checkpoint(tmp_path / "model"), word_groups(6)
    whole = taught(groups, model, tmp_path, progress=quiet)
    (kept,) = tmp_path.glob("taught-*.jsonl")
    lines = kept.read_text().splitlines()
    marked = json.dumps([9.0] * 4)
    kept.write_text("\n".join([marked, *lines[1:3], lines[3][:5]]))  # the fourth line is half written
    done: list[int] = []
    again = taught(groups, model, tmp_path, progress=lambda _, count, total: done.append(count))
    assert done == [4, 5, 6]
    assert again[0].taught == (9.0,) * 4  # what was kept is not found again
    assert [group.taught for group in again[1:]] == [group.taught for group in whole[1:]]
    taught(groups, model, tmp_path, progress=lambda *_: pytest.fail("nothing was left to score"))


def test_another_model_or_other_groups_are_scored_anew(tmp_path: Path) -> None:
    model, groups = tiny_checkpoint(tmp_path / "one"), word_groups(3)
    taught(groups, model, tmp_path, progress=quiet)
    taught(groups[:2], model, tmp_path, progress=quiet)
    taught(groups, tiny_checkpoint(tmp_path / "two", seed=1), tmp_path, progress=quiet)
    assert len(list(tmp_path.glob("taught-*.jsonl"))) == 3


def test_a_passage_that_cannot_be_scored_is_taught_to_be_last(tmp_path: Path) -> None:
    group = Group("s", "river", ("the river", " "), taught=())
    (answer,) = taught([group], tiny_checkpoint(tmp_path / "model"), tmp_path, progress=quiet)
    assert answer.taught[1] < -20 < answer.taught[0]


def test_the_target_is_between_the_label_and_the_teacher() -> None:
    group = Group("s", "q", ("a", "b"), cosines=(0.1, 0.9), taught=(2.0, 0.0))
    assert targets(group, 0.0, 0.05) == [1.0, 0.0]
    chance = 1 / (1 + np.exp(-2.0))  # of the logits as they are; cosines have no say beside them
    assert targets(group, 1.0, 0.05) == pytest.approx([chance, 1 - chance])
    assert targets(group, 0.5, 0.05) == pytest.approx([(1 + chance) / 2, (1 - chance) / 2])
