"""A job's shards, done by any number of workers: Ray Data over what is not done yet.

Knows: Ray Data, which shards are done. Refuses to know: what a shard's answer is. Through Ray go only the numbers of
shards: a worker reads its piece of the input itself and writes its answer itself, so no memory grows with the input. A
shard whose worker is lost goes to another one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from secondpass.distributed.shards import Counts, Job, Shard
from secondpass.errors import InputError, SecondpassError
from secondpass.extras import require

__all__ = ["Answer", "work_through"]

Answer = Callable[[Shard], tuple[Counts, bytes]]
"""What becomes of a shard, and what of it belongs into the output."""


def work_through(
    job: Job, shards: Sequence[Shard], opened: Callable[[], Answer], *, workers: int | None = None, cpus: float = 1.0
) -> Iterator[tuple[Shard, Counts]]:
    """Do what is not done yet, and yield each shard once it is done, in no order; those done before come first.

    `opened` is called once in each worker; `workers` is how many there are at most (None: as many as the cluster has
    room for, also when it grows), `cpus` what each of them takes. Raises SecondpassError where `opened` or its answers
    do; whatever else a worker fails with is Ray's own error.
    """
    left = []
    for shard in shards:
        counts = job.done(shard)
        if counts is None:
            left.append(shard)
        else:
            yield shard, counts
    if not left:
        return
    ray: Any = require("ray", extra="ray", purpose="--ray")
    ray_data: Any = require("ray.data", extra="ray", purpose="--ray")
    for name in ("ray.data", "ray._private.ray_logging"):
        logging.getLogger(name).setLevel(logging.ERROR)  # whoever calls this shows progress
    context = ray_data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    room = sum(int(node["Resources"].get("CPU", 0) / cpus) for node in ray.nodes() if node["Alive"])
    if not room:
        raise InputError(f"no machine of the Ray cluster has {cpus:g} CPUs for a worker; lower ray.cpus")
    at_once = min(workers or room, room, len(left))
    by_number = {shard.number: shard for shard in left}
    rows = [{"number": number} for number in by_number]
    answered = ray_data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Worker,
        fn_constructor_args=(job, by_number, opened),
        batch_size=1,
        num_cpus=cpus,
        compute=ray_data.ActorPoolStrategy(
            min_size=1, max_size=workers, initial_size=at_once, max_tasks_in_flight_per_actor=2
        ),
    )
    for row in answered.iter_rows():
        if row["failed"]:
            raise SecondpassError(row["failed"])
        shard = by_number[int(row["number"])]
        counts = job.done(shard)
        if counts is None:
            raise SecondpassError(
                f"{job.file(shard)} was written by a worker and is not seen here; {job.folder} has to be on a disk "
                "that all machines share"
            )
        yield shard, counts


class _Worker:
    """One of many; opened once, then given shard after shard."""

    def __init__(self, job: Job, shards: dict[int, Shard], opened: Callable[[], Answer]) -> None:
        self._job, self._shards = job, shards
        self._answer: Answer | None = None
        self._failed = ""
        try:
            self._answer = opened()
        except SecondpassError as error:  # told with the first shard: of what is raised Ray keeps the text alone
            self._failed = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        (number,) = batch["number"].tolist()
        return {"number": [number], "failed": [self._failed or self._done(self._shards[number])]}

    def _done(self, shard: Shard) -> str:
        """Do a shard, unless a worker that was lost has done it; "" or why that failed."""
        assert self._answer is not None
        try:
            if self._job.done(shard) is None:
                self._job.keep(shard, *self._answer(shard))
        except SecondpassError as error:
            return str(error)
        return ""
