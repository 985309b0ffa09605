import pytest

from core.repetition import loop_start


@pytest.mark.parametrize(
    ("ids", "start"),
    [
        (list(range(50)), 50),
        ([1, 2] * 20, 2),
        ([*range(12), 77, *range(12)], 13),
        ([5] * 12, 12),
        ([5] * 13, 1),
    ],
    ids=["none", "pair", "far", "too-short", "one-token"],
)
def test_a_loop_starts_where_a_12_gram_comes_back(ids, start):
    assert loop_start(ids) == start
