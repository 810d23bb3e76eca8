"""Shards hold each query once, a kill leaves each done or not begun, and what is put together is what was asked."""

from __future__ import annotations

from itertools import accumulate, pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from killed import killed
from secondpass.distributed.shards import Counts, Job, Place, Shard, cut
from secondpass.errors import InputError, SecondpassError

COUNTS = Counts(
    2, {"scored": 3, "empty": 1}, {"mini": 3}, {"mini aa": 2}, {"mini on openvino in fp32": 2}, {"failed": {"why": 1}}
)
SHARD = Shard(0, 0, 10, 1, 2, 4)


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 12))
def test_shards_are_the_queries_in_their_order(sizes: list[int], most: int) -> None:
    starts = list(accumulate((7 for _ in sizes), initial=0))
    places = [Place(start, n + 1, size) for n, (start, size) in enumerate(zip(starts, sizes, strict=False))]
    shards = list(cut(places, starts[-1], most))
    assert [shard.number for shard in shards] == list(range(len(shards)))
    assert (sum(shard.queries for shard in shards), sum(shard.documents for shard in shards)) == (
        len(sizes),
        sum(sizes),
    )
    assert all(one.end == two.start for one, two in pairwise(shards))
    if shards:
        assert (shards[0].start, shards[-1].end) == (0, starts[-1])
    for shard in shards:
        inside = [place for place in places if shard.start <= place.start < shard.end]
        assert len(inside) == shard.queries > 0
        assert shard.line == inside[0].line
        assert shard.documents == sum(place.documents for place in inside)
        assert shard.documents <= most or sum(place.documents > 0 for place in inside) == 1
    for one, two in pairwise(shards):  # no shard could have taken the next query, too
        following = next(place for place in places if place.start == two.start)
        assert one.documents + following.documents > most


def test_counts_add_up() -> None:
    twice = COUNTS.plus(COUNTS).plus(Counts(1, {"deadline": 2}))
    assert (twice.queries, twice.documents) == (5, 10)
    assert twice.statuses == {"scored": 6, "empty": 2, "deadline": 2}
    assert (twice.pairs, twice.models) == ({"mini": 6}, {"mini aa": 4})
    assert (twice.engines, twice.told) == ({"mini on openvino in fp32": 4}, {"failed": {"why": 2}})


def test_a_job_is_put_together_in_the_order_of_its_input(tmp_path: Path) -> None:
    shards = list(cut((Place(n, n + 1, 2) for n in range(4)), 4, 4))
    job = Job(tmp_path / "out")
    with job.held(resume=False):
        job.begin({"input": "a"})
        for shard in reversed(shards):
            assert job.done(shard) is None
            job.keep(shard, COUNTS, b"shard %d\n" % shard.number)
            assert job.done(shard) == COUNTS
        assert job.finish(shards) == COUNTS.plus(COUNTS)
    assert job.out.read_bytes() == b"shard 0\nshard 1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_not_whole_is_not_done(tmp_path: Path) -> None:
    job = Job(tmp_path / "out")
    with job.held(resume=False):
        job.keep(SHARD, COUNTS, b"an answer\n")
        whole = job.file(SHARD).read_bytes()
        for broken in (
            whole[:-1],
            whole[:20],
            b"",
            whole + b"x",
            b"null\n",
            whole.replace(b'"number":0', b'"number":1'),
        ):
            job.file(SHARD).write_bytes(broken)
            assert job.done(SHARD) is None
            with pytest.raises(SecondpassError, match=r"0000000 is not there or not whole; add --resume"):
                job.finish([SHARD])
        assert not job.out.exists()


@pytest.mark.parametrize(
    "counts",
    [
        Counts(1, {"scored": 4}),
        Counts(2, {"scored": 3}),
        Counts(3, {"scored": 4}),
        Counts(2, {"scored": 4, "empty": 1}),
    ],
)
def test_lost_or_doubled_is_an_error(tmp_path: Path, counts: Counts) -> None:
    job = Job(tmp_path / "out")
    with job.held(resume=False):
        with pytest.raises(SecondpassError, match="shard 0 has 2 queries with 4 documents in the input and"):
            job.keep(SHARD, counts, b"")
        assert job.done(SHARD) is None
        job.keep(Shard(0, 0, 10, 1, counts.queries, counts.documents), counts, b"")
        with pytest.raises(SecondpassError, match="did the input change meanwhile"):
            job.finish([SHARD])


def test_other_weights_do_not_come_together(tmp_path: Path) -> None:
    shards = [SHARD, Shard(1, 10, 20, 3, 2, 4)]
    job = Job(tmp_path / "out")
    with job.held(resume=False):
        job.keep(shards[0], COUNTS, b"")
        job.keep(shards[1], msgspec.structs.replace(COUNTS, models={"mini bb": 2}), b"")
        with pytest.raises(SecondpassError, match=r"different weights of one name \(mini aa, mini bb\)"):
            job.finish(shards)
        job.keep(shards[1], msgspec.structs.replace(COUNTS, models={"other bb": 2}), b"")
        job.finish(shards)


def test_what_fails_before_anything_is_done_leaves_nothing(tmp_path: Path) -> None:
    job = Job(tmp_path / "out")

    def failing(*, resume: bool, done: bool) -> None:
        with job.held(resume=resume):
            job.begin({"input": "a"})
            if done:
                job.keep(SHARD, COUNTS, b"")
            raise InputError("line 3")

    for resume, done, kept in [(False, False, False), (False, True, True), (True, False, True)]:
        with pytest.raises(InputError, match="line 3"):
            failing(resume=resume, done=done)
        assert job.folder.exists() == kept
    assert job.done(SHARD) == COUNTS


def test_one_job_at_a_time_and_the_same_one(tmp_path: Path) -> None:
    job = Job(tmp_path / "out")
    with job.held(resume=False):
        job.begin({"input": "a", "settings": (1,)})
        with pytest.raises(InputError, match="is being worked on by another process"), job.held(resume=True):
            pass
    with pytest.raises(InputError, match="holds an unfinished job; add --resume"), job.held(resume=False):
        pass
    with job.held(resume=True):
        job.begin({"input": "a", "settings": (1,)})
        with pytest.raises(InputError, match="was begun with other settings and version"):
            job.begin({"input": "a", "settings": [2], "version": "2"})
        (job.folder / "job.json").write_text("{")
        with pytest.raises(InputError, match="damaged"):
            job.begin({"input": "a"})
    job.finish([])
    with pytest.raises(InputError, match=r"is there already, and no out\.parts beside it"), job.held(resume=True):
        pass


SCRIPT = """
import sys
from pathlib import Path
from killed import outcomes
import json
from secondpass.distributed.shards import Counts, Job, Shard

shards = [Shard(n, n, n + 1, n + 1, 1, 2) for n in range(2)]

def act(folder):
    folder.mkdir(exist_ok=True)
    job = Job(folder / "out")
    if job.out.exists() and not job.folder.exists():
        return
    with job.held(resume=True):
        job.begin({"input": "a"})
        for shard in shards:
            if job.done(shard) is None:
                job.keep(shard, Counts(1, {"scored": 2}), b"answer %d of it\\n" % shard.number)
        job.finish(shards)

def state(folder):
    out = folder / "out"
    return out.read_bytes() if out.exists() else None

def after(folder, left, new, n):
    act(folder)  # resumed
    assert state(folder) == new, n

print(json.dumps(outcomes(None, Path(sys.argv[1]), act, state, after)))
"""


def test_a_kill_at_any_step_is_made_good_by_going_on(tmp_path: Path) -> None:
    seen = killed(SCRIPT, tmp_path)
    assert "broken" not in seen
    assert (seen[0], seen[-1]) == ("old", "new")
    assert len(seen) > 10
