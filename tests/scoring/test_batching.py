from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from secondpass.scoring.batching import plan, stack
from secondpass.scoring.prepare import Row

lengths_of = st.lists(st.integers(1, 512), max_size=80)


@given(lengths_of, st.integers(1, 2048), st.integers(1, 8))
def test_every_row_is_in_one_batch_and_batches_keep_the_budget(lengths: list[int], budget: int, workers: int) -> None:
    batches = list(plan(lengths, budget, workers))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        width = -(-max(lengths[i] for i in batch) // 8) * 8
        assert len(batch) == 1 or len(batch) * width <= budget


@given(lengths_of, st.integers(1, 2048))
def test_batch_mates_are_neighbours_in_length(lengths: list[int], budget: int) -> None:
    batches = list(plan(lengths, budget))
    for longer, shorter in pairwise(batches):
        assert min(lengths[i] for i in longer) >= max(lengths[i] for i in shorter)


@given(st.lists(st.integers(60, 90), min_size=8, max_size=40), st.integers(2, 4))
def test_no_worker_is_left_without_work(lengths: list[int], workers: int) -> None:
    batches = list(plan(lengths, 100_000, workers))
    # whoever is free takes the next batch, and all are free at nearly the same time
    busy = [0] * workers
    for batch in batches:
        busy[busy.index(min(busy))] += sum(lengths[i] for i in batch)
    assert max(busy) <= sum(lengths) / workers + 2 * max(lengths)


def test_arrays_hold_ids_mask_and_types() -> None:
    ids = [np.array(one, dtype=np.uint32) for one in ([2, 7, 3, 8, 9, 3], [2, 7, 3, 8, 3])]
    rows = [Row(ids[0], 3, 0, (0, 4)), Row(ids[1], 3, 0, (0, 2))]
    batch = stack((4, 1), rows, pad=0, limit=128)
    assert batch.rows == (4, 1)
    assert batch.padded_tokens == 16
    assert batch.ids.tolist() == [[2, 7, 3, 8, 9, 3, 0, 0], [2, 7, 3, 8, 3, 0, 0, 0]]
    assert batch.mask.sum(axis=1).tolist() == [6, 5]
    assert batch.types.tolist() == [[0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 0, 0, 0]]
    assert stack((0,), rows[:1], 0, limit=6).ids.shape == (1, 6)  # never wider than the model's positions
    assert np.issubdtype(batch.ids.dtype, np.int64)
