"""What the halves of slots say of what the arm before has left: found where it was planted, and seldom elsewhere."""

import math

import numpy as np
import pytest
from msgspec.structs import replace

from core.experiments.analysis import analyse
from core.experiments.assignment import arm_of_slot, block_of
from core.experiments.carry_over import carried_over
from core.experiments.report import to_markdown
from core.experiments.spec import SlotSpec, make_experiment
from core.experiments.unit_sums import UnitRecord, UnitSums, count_latency

HALF_S, RATE = 30.0, 1000.0


def experiment_of(**fields):
    values = {
        "id": "x",
        "arms": {"control": {"policy": "fixed"}, "treatment": {"policy": "load_adaptive"}},
        "stop": {"pre_blocks": 10, "min_blocks": 20, "max_blocks": 90},
    }
    return make_experiment(values | fields, "test")


def records_of(experiment, effect, carried, num_blocks=40, seed=0):
    """Return units in whose earlier half a share `carried` of the work is done as the arm before would do it."""
    rng, records, before = np.random.default_rng(seed), [], 1.0
    for slot in range(num_blocks * experiment.block_len):
        arm = arm_of_slot(experiment.salt, experiment.weights, slot)
        is_pre = block_of(slot, experiment.weights) < experiment.stop.pre_blocks
        own = effect if arm == "treatment" and not is_pre else 1.0
        early, late = (
            UnitSums(seconds=HALF_S, tokens=int(RATE * HALF_S * speed * math.exp(rng.normal(0, 0.03))))
            for speed in (carried * before + (1 - carried) * own, own)
        )
        records.append(UnitRecord(experiment.id, experiment.digest, "w", slot, arm, early.plus(late), is_pre, late))
        before = own
    return records


def test_what_the_arm_before_left_is_found_and_the_later_halves_tell_the_effect():
    experiment = experiment_of()
    found = carried_over(experiment, records_of(experiment, 1.4, carried=0.4))["treatment"]
    assert found.num_blocks == 30
    # An earlier half shows 1.4 less two fifths of its distance from the other arm, for about half of the slots.
    assert found.is_shown
    assert found.change.low > 1.03
    assert found.late.low < 1.4 < found.late.high
    whole = analyse(experiment, records_of(experiment, 1.4, carried=0.4)).arms[0].primary.unadjusted
    assert whole.estimate < found.late.low


def test_where_nothing_is_carried_it_is_seldom_found():
    experiment = experiment_of()
    shown = [
        carried_over(experiment, records_of(experiment, 1.4, carried=0.0, seed=seed))["treatment"].is_shown
        for seed in range(60)
    ]
    # Five in a hundred at most, whenever one looks: of 60 more than 7 are so once in 60 times.
    assert sum(shown) <= 7


def test_the_report_warns_of_it_and_says_what_to_do():
    experiment = experiment_of()
    records = records_of(experiment, 1.4, carried=0.4)
    told = to_markdown(experiment, analyse(experiment, records))
    assert "**Carry-over**: the ratio of 'treatment' is 1." in told
    assert "make `slot.burn_in_s` longer" in told
    clean = records_of(experiment, 1.4, carried=0.0)
    told = to_markdown(experiment, analyse(experiment, clean))
    assert "**Carry-over**" not in told
    assert "later over earlier halves of slots (carry-over), treatment:" in told


def test_the_halves_are_of_what_is_counted_and_of_equal_length():
    assert SlotSpec(seconds=20.0, burn_in_s=8.0).middle_s == 14.0


def test_units_whose_halves_were_not_measured_say_nothing_of_it():
    experiment = experiment_of()
    records = [replace(record, late=None) for record in records_of(experiment, 1.4, carried=0.4)]
    assert carried_over(experiment, records) == {}
    assert "carry-over" not in to_markdown(experiment, analyse(experiment, records))


@pytest.mark.parametrize("seconds", [0.001, 0.2, 1e6])
def test_a_part_of_sums_and_the_rest_are_the_whole(seconds):
    part, rest = UnitSums(seconds=1.5, tokens=7, answers=2), UnitSums(seconds=0.5, tokens=3, answers=1)
    for sums, latencies in ((part, (0.1, seconds)), (rest, (0.2, seconds))):
        for latency in latencies:
            count_latency(sums.first, latency)
    assert part.plus(rest).minus(part) == rest
    assert part.plus(rest).minus(rest) == part
