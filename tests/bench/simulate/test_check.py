"""What the check calls the same: orders and crossings, but for policies that really are as fast as each other."""

import pytest

from bench.modes import BASELINE
from bench.simulate.check import crossovers, same_crossovers, same_order

LOADS = (1, 8, 32)
BOUNDS = dict.fromkeys(LOADS, 0.05)


def rates(*of_fixed):
    """Return rates of a fixed length at each load, plain decoding being at 100."""
    return {("fixed:1", load): rate for load, rate in zip(LOADS, of_fixed, strict=True)} | {
        (BASELINE, load): 100.0 for load in LOADS
    }


def test_a_policy_crosses_where_it_first_is_slower_than_plain_decoding():
    assert crossovers(rates(150.0, 90.0, 80.0), LOADS) == {"fixed:1": 8}
    assert crossovers(rates(150.0, 110.0, 101.0), LOADS) == {"fixed:1": None}


@pytest.mark.parametrize(
    ("real", "simulated", "is_same"),
    [
        ((150.0, 90.0, 80.0), (140.0, 95.0, 70.0), True),
        ((150.0, 90.0, 80.0), (140.0, 105.0, 70.0), False),
        ((150.0, 120.0, 101.0), (140.0, 110.0, 99.0), True),
        ((150.0, 120.0, 90.0), (140.0, 110.0, 101.0), False),
        ((150.0, 97.0, 80.0), (140.0, 102.0, 70.0), True),
        ((97.0, 120.0, 80.0), (101.0, 102.0, 70.0), True),
    ],
    ids=["same", "later", "as fast at the last", "never", "as fast at one", "as fast at the first"],
)
def test_crossings_are_the_same_unless_the_two_really_differ_where_they_part(real, simulated, is_same):
    assert same_crossovers(rates(*real), rates(*simulated), BOUNDS) is is_same


def test_policies_that_really_are_as_fast_may_stand_in_either_order():
    assert same_order(rates(103.0, 90.0, 80.0), rates(98.0, 90.0, 80.0), 1, 0.05)
    assert not same_order(rates(110.0, 90.0, 80.0), rates(98.0, 90.0, 80.0), 1, 0.05)
