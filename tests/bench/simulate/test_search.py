"""The search finds the fewest workers that meet the objectives, and says how far the answer moves."""

from msgspec.structs import replace

from bench.simulate.case import Case
from bench.simulate.measure import Outcome
from bench.simulate.report import recommendation_lines
from bench.simulate.search import fewest, is_growing, meets, recommend
from bench.simulate.settings import Objectives, Simulation

# Requests per second that one worker of each policy can bear.
BEARS = {"off": 2.0, "fixed:7": 5.0, "load_adaptive": 6.0}


def outcome(policy, load, workers, wait_s, inside=0):
    seconds = (wait_s, wait_s, wait_s)
    speed = BEARS[policy]
    return Outcome(
        *(policy, load, workers, 60.0, 1.0, speed, seconds, (0.01,) * 3, (0.01,) * 3, 0.01, 0.0, 1.0, 0.5),
        *(100, 100, 0, 0, inside, 0, 0, 1, 0.0),
    )


def play(cases):
    """A world in which a fleet waits for nothing or for ever."""
    for case in cases:
        wanted = case.simulation
        bears = BEARS[case.policy] / wanted.costs.scale
        if case.policy != "off":
            bears *= wanted.acceptance.scale
        yield outcome(case.policy, case.load, case.workers, 0.1 if bears * case.workers >= case.load else 99.0)


def simulation(load):
    traffic = replace(Simulation().traffic, loads=(load,))
    return Simulation(policies=tuple(BEARS), traffic=traffic)


def test_the_fewest_workers_are_found():
    needs = {policy: fewest(Case(simulation(41.0), policy, 41.0, 1), 64, play).workers for policy in BEARS}
    assert needs == {"off": 21, "fixed:7": 9, "load_adaptive": 7}


def test_a_policy_that_never_meets_them_says_so():
    assert fewest(Case(simulation(41.0), "off", 41.0, 1), 16, play).workers is None


def test_the_recommendation_has_the_fewest_workers_and_says_what_else_would_need():
    (found,) = recommend(simulation(41.0), 64, play, lambda _: None)
    assert (found.best.policy, found.best.workers) == ("load_adaptive", 7)
    assert {name: need for name, (need, _) in found.varied.items()} == {
        "costs -10%": 7,
        "costs +10%": 8,
        "acceptance -10%": 8,
        "acceptance +10%": 7,
        "load x2": 14,
    }


def test_the_band_is_of_what_nobody_knows_and_a_burst_has_a_line_of_its_own():
    (found,) = recommend(simulation(41.0), 64, play, lambda _: None)
    assert found.band == (7, 8)
    assert "  load x2: 14" in recommendation_lines(found)


def test_of_policies_that_need_as_many_the_faster_one_is_recommended():
    (found,) = recommend(simulation(5.0), 64, play, lambda _: None)
    assert found.best.policy == "load_adaptive"


def test_a_queue_that_grows_meets_nothing():
    calm, swollen = (outcome("off", 1.0, 1, 0.1, inside) for inside in (2, 60))
    assert meets(calm, Objectives())
    assert is_growing(swollen)
    assert not meets(swollen, Objectives())
