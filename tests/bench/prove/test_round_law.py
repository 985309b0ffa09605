"""What drafting and `reject` do in float32 is the target's law to a few parts in 10^8."""

import pytest

from bench.prove.round_law import TOLERANCE, lengths_by_first_token, random_tables, round_variation


@pytest.mark.parametrize("length", [0, 1, 2, lengths_by_first_token], ids=["0", "1", "2", "by first token"])
@pytest.mark.parametrize("is_point_mass", [False, True])
def test_a_round_has_the_targets_law(length, is_point_mass):
    assert round_variation(random_tables(), length, is_point_mass=is_point_mass) < TOLERANCE


def test_lengths_that_read_a_token_too_late_are_told():
    def by_both_tokens(first):
        # All rounds of a first token come in order of the second: the last two of five are not verified.
        return (2 - (first.new_tensor(range(len(first))) % 5 > 2).long()).int()

    assert round_variation(random_tables(), by_both_tokens) > 1e-2
