"""Packing: nothing cut, nothing lost, rows full, and a clear refusal."""

import random

import pytest

from sft.packing import pack
from workbench.errors import UserError


def test_each_sample_is_in_exactly_one_row_and_no_row_overflows() -> None:
    rng = random.Random(0)
    for _ in range(200):
        lengths = [rng.randint(1, 50) for _ in range(rng.randint(1, 80))]
        packing = pack(lengths, 64)
        assert sorted(i for row in packing.rows for i in row) == list(range(len(lengths)))
        assert all(sum(lengths[i] for i in row) <= 64 for row in packing.rows)
        assert packing.fill_rate == sum(lengths) / (64 * len(packing.rows))


def test_best_fit_fills_what_first_fit_would_not() -> None:
    # 6 leaves 4, 7 leaves 3: the 3 must go beside the 7, the 4 beside the 6.
    assert pack([6, 7, 3, 4], 10).rows == [[1, 2], [0, 3]]
    assert pack([6, 7, 3, 4], 10).fill_rate == 1.0


def test_short_samples_fill_long_rows_to_99_percent() -> None:
    rng = random.Random(1)
    lengths = [rng.randint(30, 160) for _ in range(3000)]
    assert pack(lengths, 2048).fill_rate >= 0.99


def test_a_sample_longer_than_the_row_is_named() -> None:
    with pytest.raises(UserError, match="sample 1 has 9 tokens, the row 8"):
        pack([3, 9], 8)
