"""Every planted mistake fails the check that the honest code passes."""

import pytest

from bench.prove.certificate import caught
from bench.prove.loop import QUICK, make_bed
from bench.prove.planted import planted_bugs

BUGS = {f"{bug.name}, by {bug.path}": bug for bug in planted_bugs(make_bed(QUICK))}
WANTED = [
    "anticipating search",
    "patience with rollback",
    "dropping by q of the sampled token",
    "wrong residual",
    "bonus from the residual",
    "off-by-one",
    "bf16 q",
    "position-keyed noise",
    "nonce shared in a batch",
    "unstable ties",
    "nonce without epoch",
]


@pytest.mark.parametrize("name", BUGS)
def test_it_is_caught(name):
    outcome = caught(BUGS[name])
    assert outcome.passes, outcome.detail


def test_none_is_forgotten():
    assert {bug.name for bug in BUGS.values()} >= set(WANTED)
