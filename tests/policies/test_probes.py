"""Probes: who is verified in full, decided by a coin before any draft exists."""

import numpy as np
import pytest

from core.planning import FixedLength, Plan
from policies.confidence import Confidence
from policies.load_adaptive import LoadAdaptive
from policies.probes import LEAST, MOST, Probes, probed_share
from tests.policies.cases import Rounds, chances, linear_table, view


def plan(draft_len, floor=None):
    draft_len = np.asarray(draft_len, dtype=np.int32)
    return Plan(draft_len, FixedLength(1), draft_len > 0, floor=floor)


def test_more_are_probed_where_rows_are_free():
    assert probed_share(1) == MOST
    assert probed_share(256) == LEAST
    assert MOST > probed_share(16) > LEAST


@pytest.mark.parametrize("size", [4, 64])
def test_the_coin_falls_as_often_as_it_should(size):
    probes, rounds = Probes(), 100_000 // size
    floors = [probes.add(plan([7] * size)).floor for _ in range(rounds)]
    probed = sum(int((floor > 0).sum()) for floor in floors if floor is not None)
    assert probed / (rounds * size) == pytest.approx(probed_share(size), rel=0.15)


def test_a_probe_is_all_of_a_sequences_drafts_and_nobody_is_made_to_draft():
    probes = Probes()
    for _ in range(300):
        probed = probes.add(plan([7, 0, 3])).floor
        assert probed is None or (probed[1] == 0 and probed[0] in (0, 7) and probed[2] in (0, 3))


def test_a_floor_that_was_there_stays():
    probes, own = Probes(), np.array([2, 1, 0], dtype=np.int32)
    for _ in range(300):
        assert (probes.add(plan([7, 7, 7], own)).floor >= own).all()


def test_policies_of_equal_views_probe_alike():
    mine, yours = Confidence(0.4), Confidence(0.4)
    for _ in range(100):
        floors = [policy.plan(view(8)).floor for policy in (mine, yours)]
        assert np.array_equal(*(np.zeros(8) if floor is None else floor for floor in floors))


def test_the_default_policy_probes_those_who_draft():
    rounds = Rounds(LoadAdaptive(), linear_table(), chances(*([0.9] * 8), *([0.02] * 8)))
    plans = rounds.play(400)
    probed = [each for each in plans if each.floor is not None]
    assert 0.005 < sum(int((each.floor > 0).sum()) for each in probed) / (400 * 8) < 0.03
    assert all((each.floor <= each.draft_len).all() for each in probed)
