"""Units that are missing from one arm more than from another cost belief, those that are missing anyhow do not."""

import numpy as np
import pytest

from core.experiments.assignment import arm_of_slot
from core.experiments.spec import make_experiment
from core.experiments.trust import TRUST_ALPHA, judge_trust
from core.experiments.unit_sums import UnitRecord, UnitSums

NUM_BLOCKS = 60
UNITS = {
    "switchback": {"unit": "switchback"},
    "request": {"unit": "request", "unsafe": True, "primary": "token_s_p50", "null_checks": []},
}


def experiment_of(**fields):
    arms = {"control": {"policy": "fixed"}, "treatment": {"policy": "load_adaptive"}}
    return make_experiment({"id": "x", "arms": arms} | fields, "test")


def slots_p(experiment, num_workers, is_lost):
    """Return the p value where a record is missing if `is_lost(worker, slot, arm)` says so."""
    records = []
    for slot in range(NUM_BLOCKS * experiment.block_len + 1):
        for worker in (f"w{index}" for index in range(num_workers)):
            arm = arm_of_slot(experiment.salt, experiment.weights, slot, worker if experiment.unit == "worker" else "")
            if not is_lost(worker, slot, arm):
                records.append(UnitRecord(experiment.id, experiment.digest, worker, slot, arm, UnitSums()))
    return judge_trust(experiment, records, [], []).slots_p


@pytest.mark.parametrize("unit", ["switchback", "worker"])
def test_one_of_several_workers_that_dies_under_one_arm_is_noticed(unit):
    experiment = experiment_of(unit=unit)

    def is_lost(worker, slot, arm):
        return worker == "w1" and arm == "treatment" and slot < 30

    assert slots_p(experiment, 2, is_lost) == pytest.approx(16 * 0.5**15)


@pytest.mark.parametrize("num_lost", [1, 4, 9])
def test_a_few_losses_all_of_one_arm_say_as_much_as_they_can(num_lost):
    def is_lost(worker, slot, arm):
        return arm == "treatment" and slot < 2 * num_lost

    assert slots_p(experiment_of(), 1, is_lost) == pytest.approx((num_lost + 1) * 0.5**num_lost)


def test_losses_are_held_against_weights():
    arms = {"control": {"policy": "fixed"}, "treatment": {"policy": "off", "weight": 3}}

    def is_lost(worker, slot, arm):
        return arm == "treatment"

    # Three losses of an arm that has three in four of all slots are no wonder, and sixty times three are one.
    experiment = experiment_of(arms=arms)
    assert slots_p(experiment, 1, lambda *unit: is_lost(*unit) and unit[1] < 4) == pytest.approx(1.0)
    assert slots_p(experiment, 1, is_lost) < 1e-6


@pytest.mark.parametrize("unit", ["switchback", "worker"])
def test_losses_that_know_nothing_of_arms_cost_no_belief(unit):
    rng, found = np.random.default_rng(0), []
    for salt in range(60):
        away = {
            (f"w{rng.integers(4)}", start + i) for start in rng.integers(120, size=12) for i in range(rng.integers(4))
        }
        experiment = experiment_of(unit=unit, salt=str(salt))
        found.append(slots_p(experiment, 4, lambda worker, slot, arm: (worker, slot) in away))  # noqa: B023
    assert min(found) > TRUST_ALPHA
    assert np.mean(np.array(found) < 0.1) < 0.2


def test_an_outage_of_many_workers_is_one_loss_and_the_latest_unit_is_none():
    experiment = experiment_of()
    assert slots_p(experiment, 16, lambda worker, slot, arm: slot == 31 and worker != "w0") == pytest.approx(1.0)
    assert slots_p(experiment, 16, lambda worker, slot, arm: slot == 120 and worker != "w0") == pytest.approx(1.0)


@pytest.mark.parametrize("unit", ["switchback", "request"])
def test_it_may_be_looked_at_after_every_slot(unit):
    """Were each look a test of its own, more than one in four of these would be stopped for nothing."""
    rng, stopped = np.random.default_rng(1), 0
    for salt in range(40):
        experiment = experiment_of(**UNITS[unit], salt=str(salt))
        records = []
        for slot in range(2 * NUM_BLOCKS):
            if unit == "request":
                both = rng.binomial(200, 0.5), 200
                sums = (UnitSums(begun=both[0]), UnitSums(begun=both[1] - both[0]))
                arms = zip(("control", "treatment"), sums, strict=True)
            else:
                arm = arm_of_slot(experiment.salt, experiment.weights, slot, "")
                arms = [(arm, UnitSums())] if rng.random() < 0.8 else []
            records += [UnitRecord(experiment.id, experiment.digest, "w0", slot, arm, one) for arm, one in arms]
        stopped += any(judge_trust(experiment, records[:n], [], []).slots_p < 0.05 for n in range(2, len(records), 4))
    assert stopped <= 4


def test_requests_that_are_not_split_by_weight_are_noticed():
    experiment, records = experiment_of(**UNITS["request"]), []
    for slot in range(30):
        for arm, begun in (("control", 240), ("treatment", 200)):
            records.append(UnitRecord(experiment.id, experiment.digest, "w0", slot, arm, UnitSums(begun=begun)))
    assert judge_trust(experiment, records, [], []).slots_p < TRUST_ALPHA
