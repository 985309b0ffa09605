"""A fleet ends every request once, whatever dies, and gives the same numbers for the same seed."""

import pytest

from bench.simulate.case import play, prepare
from bench.simulate.measure import Measures
from bench.simulate.settings import Costs, Failures, Fleet
from core.config import BatchTableSettings
from tests.bench.simulate.cases import case

POLICIES = ("off", "fixed:3", "confidence:0.4", "goodput", "greedy", "slo", "load_adaptive", "table")
TABLE = {"table": BatchTableSettings(lengths=((1, 2, 7), (3, 4096, 2)))}


def drained(wanted, seconds=0.8):
    """Play until the fleet is empty; returns the run and what was measured."""
    run, measures = prepare(wanted), Measures(0.0)
    run.run(measures, seconds, drain=True)
    return run, measures


@pytest.mark.parametrize("policy", POLICIES)
def test_every_shipped_policy_serves_and_ends_every_request_once(policy):
    run, measures = drained(case(policy, load=20.0, kind="poisson", output=20, named=TABLE), 0.5)
    assert run.num_inside == 0
    assert run.num_ended == run.num_arrived > 5
    assert measures.window.tokens == 20 * run.num_ended
    assert run.workers[0].engine.stats.fallbacks["policy"] == 0


@pytest.mark.parametrize("router", ["queue", "round_robin", "least_loaded"])
def test_a_worker_dies_and_every_request_still_ends_once(router):
    fleet = Fleet(router=router, lease_s=0.5, failures=Failures(at_s=(0.4, 0.7), restart_s=1.0))
    run, measures = drained(case("fixed:3", load=30.0, workers=2, kind="poisson", fleet=fleet))
    assert run.num_deaths == 2
    assert run.num_taken_over > 0
    assert run.num_inside == 0
    assert measures.window.tokens == 50 * run.num_arrived


def test_a_dead_workers_jobs_wait_for_the_lease_and_no_longer():
    fleet = Fleet(lease_s=0.8, failures=Failures(at_s=(0.1,), restart_s=None))
    wanted = case("off", load=8.0, workers=2, fleet=fleet, output=200, seconds=3.0)
    run, measures = prepare(wanted), Measures(0.0)
    run.run(measures, 3.0)
    assert run.num_taken_over == pytest.approx(4, abs=2)
    # Whoever was on the dead worker saw one gap of a lease and a prefill; nobody saw a longer one.
    gaps = [gap for gap in measures.window.gaps_s if gap > 0.5]
    assert len(gaps) == run.num_taken_over - sum(s > 0.8 for s in measures.window.first_token_s)
    assert all(0.8 < gap < 0.9 for gap in gaps)


def test_a_step_dies_with_its_worker():
    """The only worker is dead for a second: nobody gets a token in that time, and none is lost or comes twice."""
    fleet = Fleet(lease_s=0.5, failures=Failures(at_s=(0.1,), restart_s=1.0))
    run, measures = drained(case("fixed:3", load=4.0, fleet=fleet), 0.5)
    assert run.num_taken_over == 4
    assert sum(gap > 1.0 for gap in measures.window.gaps_s) + sum(s > 1.0 for s in measures.window.first_token_s) == 4
    assert run.num_inside == 0


def test_the_same_seed_gives_the_same_numbers_and_another_gives_others():
    fleet = Fleet(failures=Failures(mean_s=0.5, restart_s=0.2), lease_s=0.1)
    fields = {"load": 30.0, "output": 20, "workers": 2, "kind": "poisson", "fleet": fleet, "seconds": 0.5}
    fields["costs"] = Costs(deviations=(0.9, 1.1))
    numbers = [without_clock(play(case("load_adaptive", seed=seed, **fields))) for seed in (1, 1, 2)]
    assert numbers[0] == numbers[1]
    assert numbers[0] != numbers[2]


def without_clock(outcome):
    return {name: getattr(outcome, name) for name in outcome.__struct_fields__ if name != "cpu_s"}


def test_more_workers_begin_sooner_and_answer_faster():
    outcomes = [play(case("fixed:3", load=250.0, workers=n, kind="poisson", output=20, seconds=0.4)) for n in (1, 2, 4)]
    waits = [outcome.first_token_s[1] for outcome in outcomes]
    speeds = [outcome.tokens_per_s_per_user for outcome in outcomes]
    assert waits[0] > waits[1] > waits[2]
    assert speeds[0] < speeds[1] < speeds[2]


def test_slower_steps_and_worse_drafts_lower_throughput():
    usual = case("fixed:3", load=4.0, seconds=0.5)
    rate = play(usual).tokens_per_s
    assert play(usual.varied(costs=1.1)).tokens_per_s == pytest.approx(rate / 1.1, rel=0.03)
    assert play(usual.varied(acceptance=0.9)).tokens_per_s < 0.97 * rate
    assert play(usual.varied(acceptance=1.1)).tokens_per_s > 1.03 * rate


def test_a_shared_queue_leaves_no_worker_idle_while_jobs_wait():
    run, _ = drained(case("off", load=200.0, workers=3, kind="poisson", output=20), 0.4)
    steps = [worker.engine.stats.emitted for worker in run.workers]
    assert min(steps) > 0.5 * max(steps)
