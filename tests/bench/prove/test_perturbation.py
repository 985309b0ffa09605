"""The shipped drafters keep the contract that admission relies on."""

import pytest

from bench.prove.cells import DRAFTERS
from bench.prove.perturbation import try_drafter


@pytest.mark.parametrize("name", DRAFTERS)
def test_a_drafter_tells_nothing_of_a_token_before_it_is_admitted(bed, name):
    outcome = try_drafter(bed, name)
    assert outcome.passes, outcome.detail
