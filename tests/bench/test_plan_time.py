"""What plans take is measured of every policy, on a load that makes them think."""

import numpy as np
import pytest

from bench.plan_time import Load, measure, policies
from core.registry import POLICIES


def test_every_shipped_policy_is_measured():
    assert set(policies()) == {*POLICIES.names(), "greedy-literal"}


@pytest.mark.parametrize("name", policies())
def test_a_measurement_says_what_planning_and_admission_take(name):
    found = measure(policies()[name](), 4, 10)
    assert 0 < found["plan"] <= found["plan_p99"]
    assert found["plan"] < found["plan_and_admit"] <= found["plan_and_admit_p99"]


def test_sequences_end_and_others_take_their_slots():
    load, policy = Load(64), policies()["load_adaptive"]()
    contexts = []
    for index in range(40):
        load.step(policy, index)
        contexts.append(load._context.copy())
    assert (np.diff(np.array(contexts), axis=0) < 0).any()
