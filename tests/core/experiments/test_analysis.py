"""What an experiment's units say, and what is advised: on series whose truth is known."""

import math

import numpy as np
import pytest
from msgspec.structs import replace

from core.errors import ConfigError
from core.experiments.analysis import adjusted_differences, analyse, find_breach, find_end
from core.experiments.assignment import arm_of_slot, block_of
from core.experiments.blocks import make_blocks
from core.experiments.report import to_markdown
from core.experiments.spec import make_experiment
from core.experiments.unit_sums import UnitRecord, UnitSums, count_latency, latency_quantile


def experiment_of(**fields):
    values = {
        "id": "x",
        "arms": {"control": {"policy": "fixed"}, "treatment": {"policy": "load_adaptive"}},
        "guardrails": {"first_s_p95": 1.2, "error_rate": 1.5},
        "stop": {"pre_blocks": 10, "min_blocks": 20, "max_blocks": 90},
    }
    return make_experiment(values | fields, "test")


def units(experiment, num_blocks, effect=1.0, seed=0, load=0.0, first=1.0, errors=0, stops=0.5, answers=200):
    """Return units whose speed wanders from slot to slot, up to the first of another block; the treatment's are changed
    as told."""
    rng, place, records = np.random.default_rng(seed), 0.0, []
    for slot in range(num_blocks * experiment.block_len + 1):
        place = 0.8 * place + rng.normal(0, 0.05)
        arm = arm_of_slot(experiment.salt, experiment.weights, slot)
        is_pre = block_of(slot, experiment.weights) < experiment.stop.pre_blocks
        is_treated = arm == "treatment" and not is_pre
        sums = UnitSums(seconds=60.0, busy_s=50.0, steps=1000, answers=100, answer_tokens=9000, begun=100, rounds=3000)
        arrivals = rng.normal(0, load)
        sums.begun = int(100 * math.exp(arrivals))
        sums.tokens = int(60_000 * math.exp(place + arrivals) * (effect if is_treated else 1.0))
        sums.stops = int(rng.binomial(100, stops if is_treated else 0.5))
        sums.errors = errors if is_treated else 0
        for latency in rng.lognormal(0.0, 0.3, size=answers) * (first if is_treated else 1.0):
            count_latency(sums.first, latency)
        records.append(UnitRecord(experiment.id, experiment.digest, "w", slot, arm, sums, is_pre))
    return records


def test_a_clear_gain_is_shipped_with_an_interval_that_covers_it():
    experiment = experiment_of()
    found = analyse(experiment, units(experiment, 70, effect=1.10))
    assert found.advice == "ship"
    assert found.arms[0].primary.ratio.low < 1.10 < found.arms[0].primary.ratio.high
    assert found.arms[0].primary.ratio.low > 1.0


def test_a_loss_is_stopped_and_called_worse():
    experiment = experiment_of()
    found = analyse(experiment, units(experiment, 70, effect=0.9))
    assert (found.advice, "it is worse" in found.why) == ("stop", True)


def test_before_the_least_blocks_nothing_is_shipped():
    experiment = experiment_of()
    found = analyse(experiment, units(experiment, 28, effect=1.5))
    assert (found.advice, found.num_blocks, found.num_pre_blocks) == ("keep running", 18, 10)
    assert "18 of at least 20 blocks" in found.why


def test_no_difference_ends_at_the_most_blocks_or_when_none_that_matters_is_left():
    experiment = experiment_of()
    assert "nothing found in 90 blocks" in analyse(experiment, units(experiment, 100)).why
    coarse = experiment_of(stop={"pre_blocks": 10, "min_blocks": 20, "max_blocks": 90, "smallest_effect": 0.2})
    assert "no difference of 20% or more" in analyse(coarse, units(coarse, 70)).why


def fairness(cuped, effect, num_salts=120, num_blocks=80):
    """Return the mean over salts of a squared sum of differences less the effect over their sum of squares: 1 for fair
    signs."""
    rng = np.random.default_rng(0)
    slots = [UnitSums(seconds=float(np.exp(rng.normal(0, 0.05))), tokens=1000) for _ in range(2 * num_blocks + 1)]
    found = []
    for salt in range(num_salts):
        experiment = experiment_of(cuped=cuped, salt=str(salt))
        arms = [arm_of_slot(experiment.salt, experiment.weights, slot) for slot in range(len(slots))]
        records = [
            UnitRecord(experiment.id, experiment.digest, "w", slot, arm, faster(sums, arm, slot, effect), slot < 20)
            for slot, (arm, sums) in enumerate(zip(arms, slots, strict=True))
        ]
        blocks = make_blocks(experiment, records)
        values = adjusted_differences(experiment, blocks, "treatment", "tokens_per_s", 0.05).values - math.log(effect)
        found.append(values.sum() ** 2 / (values**2).sum())
    return float(np.mean(found))


def faster(sums, arm, slot, effect):
    return replace(sums, seconds=sums.seconds / effect) if arm == "treatment" and slot >= 20 else sums


@pytest.mark.parametrize("effect", [1.05, 1.4])
def test_what_drift_explains_leaves_either_sign_as_likely_where_nothing_drifts(effect):
    # The mean of 120 such values, of variance 2, is further off than this once in 200 times.
    assert abs(fairness(["drift"], effect) - 1) < 0.35


def spreads(effect, drifts, num_experiments=30, num_blocks=33):
    """Return the variances of blocks' log ratios with drift taken out and without, over short experiments."""
    rng, found = np.random.default_rng(1), []
    for salt in range(num_experiments):
        experiment = experiment_of(cuped=["drift"], salt=str(salt))
        place, records = 0.0, []
        for slot in range(2 * num_blocks + 1):
            place = 0.8 * place + rng.normal(0, 0.05) if drifts else rng.normal(0, 0.05)
            arm = arm_of_slot(experiment.salt, experiment.weights, slot)
            sums = faster(UnitSums(seconds=math.exp(-place), tokens=1000), arm, slot, effect)
            records.append(UnitRecord(experiment.id, experiment.digest, "w", slot, arm, sums, slot < 20))
        blocks = make_blocks(experiment, records)
        one = adjusted_differences(experiment, blocks, "treatment", "tokens_per_s", 0.05)
        found.append((one.values.var(), one.plain.var()))
    return np.mean(found, axis=0)


@pytest.mark.parametrize("effect", [1.0, 1.25, 1.6])
def test_drift_costs_next_to_nothing_where_nothing_drifts_however_far_the_arms_are_apart(effect):
    adjusted, plain = spreads(effect, drifts=False)
    assert adjusted < 1.03 * plain


def test_drift_is_found_as_well_between_arms_that_are_far_apart():
    alike, apart = (np.divide(*spreads(effect, drifts=True, num_blocks=120)) for effect in (1.0, 1.6))
    assert alike < 0.9
    assert apart < alike + 0.03


def test_a_worker_without_any_error_has_no_drift_of_errors_and_counts_all_the_same():
    experiment = experiment_of(unit="worker", primary="error_rate", cuped=["drift"])
    records = [
        UnitRecord(experiment.id, experiment.digest, worker, slot, arm, UnitSums(answers=100, errors=errors), slot < 20)
        for worker, errors in (("unlucky", 2), ("lucky", 0))
        for slot in range(61)
        for arm in [arm_of_slot(experiment.salt, experiment.weights, slot, worker)]
    ]
    assert analyse(experiment, records).arms[0].primary.num_blocks == 2 * 20


def test_drift_between_the_units_around_a_block_is_taken_out():
    stop = {"pre_blocks": 40, "min_blocks": 20, "max_blocks": 500}
    experiment = experiment_of(stop=stop, cuped=["drift"])
    records = units(experiment, 100, effect=1.005)
    for one in records:
        one.sums.tokens = int(60_000 * math.exp(0.05 * math.sin(one.slot / 5)) * (1.005 if is_treated(one) else 1))
    primary = analyse(experiment, records).arms[0].primary
    assert primary.explained > 0.9
    assert primary.ratio.low < 1.005 < primary.ratio.high
    assert primary.ratio.high - primary.ratio.low < 0.4 * (primary.unadjusted.high - primary.unadjusted.low)


def is_treated(record):
    return record.arm == "treatment" and not record.is_pre


def test_a_block_is_adjusted_only_once_the_unit_after_it_is_known():
    experiment = experiment_of(cuped=["drift"])
    records = units(experiment, 40)
    assert analyse(experiment, records).arms[0].primary.num_blocks == 30
    assert analyse(experiment, records[:-1]).arms[0].primary.num_blocks == 29


def test_what_arrivals_explain_narrows_the_interval_and_moves_it_not():
    stop = {"pre_blocks": 60, "min_blocks": 20, "max_blocks": 500}
    experiment = experiment_of(stop=stop, cuped=["offered_load", "drift"])
    primary = analyse(experiment, units(experiment, 160, effect=1.1, load=0.3)).arms[0].primary
    plain, better = primary.unadjusted, primary.ratio
    assert primary.explained > 0.7
    assert better.high - better.low < 0.6 * (plain.high - plain.low)
    assert better.low < 1.1 < better.high


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        ({"first": 1.6}, "first_s_p95 was worse by more than 1.3 in 3 blocks running"),
        ({"errors": 5}, "error_rate was worse by more than 1.3 in 3 blocks running"),
    ],
)
def test_a_planted_harm_trips_its_guardrail_within_four_blocks(harm, reason):
    experiment = experiment_of()
    records = units(experiment, 14, **harm)
    assert reason in find_breach(experiment, records)
    assert find_breach(experiment, units(experiment, 14)) is None
    found = analyse(experiment, records)
    assert (found.advice, "guardrail" in found.why) == ("stop", True)


@pytest.mark.parametrize(("pre_blocks", "is_fooled"), [(10, False), (0, True)])
def test_quantiles_of_a_few_answers_trip_nothing_where_blocks_of_before_say_how_they_vary(pre_blocks, is_fooled):
    stop = {"pre_blocks": pre_blocks, "min_blocks": 20, "max_blocks": 90, "trip": 1.1}
    experiment = experiment_of(guardrails={"first_s_p95": 4.0}, stop=stop)
    num_tripped = 0
    for seed in range(12):
        records = units(experiment, pre_blocks + 30, seed=seed, answers=6)
        whole = range(2 * (pre_blocks + 3), len(records), 2)
        num_tripped += any(find_breach(experiment, records[:end]) for end in whole)
    assert (num_tripped > 3) == is_fooled
    assert is_fooled or num_tripped == 0


def test_a_harm_too_small_to_trip_is_found_by_its_limit():
    experiment = experiment_of(guardrails={"first_s_p50": 1.05})
    assert "worse by more than the limit 1.05" in find_breach(experiment, units(experiment, 90, first=1.15))


def test_a_guardrail_that_is_breached_goes_before_a_gain():
    experiment = experiment_of()
    assert analyse(experiment, units(experiment, 70, effect=1.2, errors=9)).advice == "stop"


def test_a_change_that_no_arm_can_make_and_lost_units_cost_all_belief():
    experiment = experiment_of()
    changed = analyse(experiment, units(experiment, 70, effect=1.2, stops=0.7))
    assert (changed.advice, "stop_share differs" in changed.why) == ("stop", True)
    records = units(experiment, 70, effect=1.2)
    kept = [one for one in records if one.arm == "control" or one.slot % 3]
    lost = analyse(experiment, kept)
    assert (lost.advice, "units were lost from some arms" in lost.why) == ("stop", True)


def rare_units(experiment, num_blocks, speed, share, seed):
    """Return units in which an answer fails, stops by itself or costs a preemption as seldom under either arm; the
    treatment's has `speed` times as many answers and steps."""
    rng, records = np.random.default_rng(seed), []
    for slot in range(num_blocks * experiment.block_len):
        arm = arm_of_slot(experiment.salt, experiment.weights, slot)
        is_pre = block_of(slot, experiment.weights) < experiment.stop.pre_blocks
        number = round(100 * (speed if arm == "treatment" and not is_pre else 1.0))
        sums = UnitSums(seconds=60.0, busy_s=50.0, tokens=100 * number, steps=number, answers=number)
        sums.errors, sums.stops, sums.preemptions = (int(count) for count in rng.binomial(number, share, size=3))
        records.append(UnitRecord(experiment.id, experiment.digest, "w", slot, arm, sums, is_pre))
    return records


@pytest.mark.parametrize("share", [0.0, 0.001, 0.003, 0.03])
@pytest.mark.parametrize("speed", [0.6, 0.75, 1.2, 1.5, 2.5])
def test_arms_of_another_speed_have_no_more_rare_events_for_it(speed, share):
    guardrails = {"error_rate": 1.5, "preemption_rate": 1.5}
    experiment = experiment_of(guardrails=guardrails, null_checks=["stop_share", "error_rate"], cuped=[])
    for seed in range(2):
        records = rare_units(experiment, 70, speed, share, seed)
        for end in range(2 * 10 + 2, len(records) + 1, 2):
            assert find_breach(experiment, records[:end]) is None
        found = analyse(experiment, records)
        assert found.trust.faults == ()
        assert found.advice == ("ship" if speed > 1 else "stop")
        assert share or all(one.worse.estimate == 1.0 for one in found.arms[0].guardrails)


def test_errors_that_one_arm_alone_makes_stop_it_however_few_there_were_before():
    experiment = experiment_of()
    records = units(experiment, 14)
    for one in records:
        one.sums.errors = 6 if is_treated(one) else int(one.slot in (3, 12))
    assert "error_rate was worse by more than" in find_breach(experiment, records)
    for one in records:
        one.sums.errors = int(is_treated(one))
    assert find_breach(experiment, records) is None


def test_a_report_says_of_no_errors_that_there_were_none():
    experiment = experiment_of()
    values = analyse(experiment, units(experiment, 20)).values["control"]
    assert (values["error_rate"].value, values["preemption_rate"].value) == (0.0, 0.0)


def test_what_costs_all_belief_ends_the_experiment_as_a_guardrail_does():
    experiment = experiment_of()
    assert find_end(experiment, units(experiment, 70, effect=1.2)) is None
    assert "first_s_p95 was worse" in find_end(experiment, units(experiment, 14, first=1.6))
    assert "it cannot be believed: stop_share differs" in find_end(experiment, units(experiment, 70, stops=0.7))
    kept = [one for one in units(experiment, 70) if one.arm == "control" or one.slot % 3]
    assert "units were lost from some arms" in find_end(experiment, kept)


def test_the_most_blocks_end_it_whatever_they_show_even_if_nothing_was_asked():
    experiment = experiment_of()
    assert find_end(experiment, units(experiment, 99, effect=1.2)) is None
    assert "had its stop.max_blocks of 90" in find_end(experiment, units(experiment, 100, effect=1.2))
    idle = [replace(one, sums=UnitSums(seconds=60.0)) for one in units(experiment, 100)]
    assert "had its stop.max_blocks of 90" in find_end(experiment, idle)


def test_nothing_is_shipped_before_the_least_hours_and_a_loss_is_told_at_once():
    # A block is 240 s: 60 blocks are 4 hours.
    stop = {"pre_blocks": 10, "min_blocks": 20, "max_blocks": 90, "min_hours": 5}
    experiment = experiment_of(stop=stop)
    found = analyse(experiment, units(experiment, 70, effect=1.2))
    assert (found.advice, "4.0 of at least 5 hours" in found.why) == ("keep running", True)
    assert "**Of 4.0 hours**: the comparison covers less than two days" in to_markdown(experiment, found)
    assert analyse(experiment, units(experiment, 90, effect=1.2)).advice == "ship"
    assert "it is worse" in analyse(experiment, units(experiment, 70, effect=0.8)).why
    with pytest.raises(ConfigError, match=r"stop.min_hours must be no more than the 6.0 hours"):
        experiment_of(stop=stop | {"min_hours": 7})


def test_an_effect_before_the_comparison_costs_all_belief():
    experiment = experiment_of(stop={"pre_blocks": 30, "min_blocks": 20, "max_blocks": 90})
    records = units(experiment, 60)
    for one in records:
        if one.is_pre and one.arm == "treatment":
            one.sums.tokens = int(one.sums.tokens * 1.3)
    assert "the blocks before, in which all arms were the same, differ" in analyse(experiment, records).why


def test_records_of_other_settings_are_left_out():
    experiment = experiment_of()
    others = [replace(one, digest="other") for one in units(experiment, 70, effect=2.0)]
    found = analyse(experiment, others)
    assert (found.num_blocks, found.advice, found.why) == (0, "keep running", "treatment: no whole block yet")


def test_the_report_says_first_what_to_do_and_why():
    experiment = experiment_of()
    text = to_markdown(experiment, analyse(experiment, units(experiment, 70, effect=1.10)))
    assert text.startswith("# Experiment x: ship\n\ntreatment: tokens_per_s of 'treatment' is 1.")
    assert "| treatment | first_s_p95 | 1.2 |" in text
    assert "no effect before the comparison (A/A): p = " in text
    assert "four of five experiments find an effect of 1% in " in text


def test_latency_quantiles_are_within_a_bound_of_the_truth():
    rng, counts = np.random.default_rng(0), {}
    values = rng.lognormal(-1.0, 1.0, size=5000)
    for value in values:
        count_latency(counts, value)
    for share in (0.5, 0.95, 0.99):
        assert latency_quantile(counts, share) == pytest.approx(np.quantile(values, share), rel=0.05)


def test_a_block_that_is_partly_of_before_is_neither():
    experiment = experiment_of()
    records = units(experiment, 12)
    first = next(one for one in records if not one.is_pre)
    mixed = [replace(one, is_pre=True) if one is first else one for one in records]
    found = analyse(experiment, mixed)
    assert (found.num_pre_blocks, found.num_blocks) == (10, 1)
