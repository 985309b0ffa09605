"""What a unit counts of answers: all that end in it, so that none is left out for being long."""

import random
from types import SimpleNamespace

import pytest

from client.wire import Final, Job, Usage
from core.experiments.metrics import METRICS
from core.experiments.spec import make_experiment
from core.types import FinishReason, Sampling
from service.experiments import unit_counter
from service.experiments.unit_counter import UnitCounter
from service.storage.claims import Claim, Entry
from service.telemetry.phases import Stopwatch

TOKENS = 100
# Unix time less the performance counter's.
UNIX_S = 1e9


class Clock:
    """Both clocks of the module under test, set by hand."""

    now_s = 1000.0

    def perf_counter(self):
        return self.now_s

    def time(self):
        return UNIX_S + self.now_s


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(unit_counter, "time", SimpleNamespace(perf_counter=clock.perf_counter, time=clock.time))
    return clock


def counter_of(**levels):
    values = {"id": "x", "arms": {"a": {"policy": "off"}, "b": {"policy": "fixed"}}, "levels": levels}
    return UnitCounter(make_experiment(values, "test"), lambda claim: "a", {})


def claim_of(arrived_s, epoch=1):
    sampling = Sampling(max_tokens=TOKENS)
    job = Job("j", "m", (1, 2), sampling, nonce=b"n" * 16, created_ms=int((UNIX_S + arrived_s) * 1000))
    return Claim(Entry("1-0", "j"), job, epoch, (), is_cancelled=False, attempts=1)


def final_of(reason=FinishReason.LENGTH):
    return Final(reason, Usage(2, TOKENS))


def goodput(clock, answer_s, burn_in_s, slot_s, token_s=0.2):
    """Return what a slot shows of 400 clients who each wait for answers of so many seconds, give or take a fifth."""
    rng, start_s, ends = random.Random(0), clock.now_s, []
    for _ in range(400):
        began_s = start_s - answer_s * rng.random()
        while began_s < start_s + slot_s:
            end_s = began_s + answer_s * rng.uniform(0.8, 1.2)
            ends.append((end_s, began_s))
            began_s = end_s
    clock.now_s = start_s + burn_in_s
    counter = counter_of(token_s=token_s)
    for end_s, began_s in sorted(ends):
        if start_s + burn_in_s <= end_s < start_s + slot_s:
            clock.now_s = end_s
            first_s = began_s + 0.1 * answer_s
            counter.ended(claim_of(began_s), Stopwatch(began_s, first_s, end_s), final_of())
    clock.now_s = start_s + slot_s
    sums = counter.sums({}, ["a"])["a"]
    clock.now_s = start_s
    return METRICS["goodput"].value(sums), sums


@pytest.mark.parametrize(("burn_in_s", "slot_s"), [(8, 20), (2, 6)])
def test_of_arms_that_are_never_late_goodput_differs_as_their_speed_does(clock, burn_in_s, slot_s):
    (slow, slow_sums), (fast, _) = (goodput(clock, answer_s, burn_in_s, slot_s) for answer_s in (6.0, 5.0))
    assert fast / slow == pytest.approx(6 / 5, rel=0.03)
    assert slow == pytest.approx(400 * TOKENS / 6, rel=0.03)
    assert sum(slow_sums.first.values()) == sum(slow_sums.token.values()) == slow_sums.answers


def test_late_answers_are_no_goodput_and_long_ones_are_seen_among_the_latencies(clock):
    found, sums = goodput(clock, 6.0, 2, 6, token_s=0.9 * 6 / TOKENS)
    assert 0.3 < found / (400 * TOKENS / 6) < 0.7
    shortest, longest = METRICS["token_s_p50"].value(sums), METRICS["token_s_p95"].value(sums)
    assert shortest == pytest.approx(5.4 / 99, rel=0.1)
    assert longest == pytest.approx(1.18 * 6 / 99, rel=0.1)


def test_a_missed_deadline_is_an_error_of_the_arm_and_a_cancelled_answer_is_nothing(clock):
    counter = counter_of()
    watch = Stopwatch(clock.now_s - 2, clock.now_s - 1, clock.now_s)
    for reason in (FinishReason.STOP, FinishReason.DEADLINE, FinishReason.ERROR, FinishReason.CANCELLED):
        counter.ended(claim_of(clock.now_s - 2), watch, final_of(reason))
    clock.now_s += 1
    sums = counter.sums({}, ["a"])["a"]
    assert (sums.answers, sums.errors, sums.stops, sums.whole_answers) == (3, 2, 1, 1)
    assert (sums.answer_tokens, sums.on_time_tokens, sum(sums.first.values())) == (TOKENS, TOKENS, 1)
    assert METRICS["error_rate"].value(sums) == pytest.approx(2 / 3)
    assert METRICS["stop_share"].value(sums) == 1.0
    assert METRICS["answer_len"].value(sums) == TOKENS


def test_of_an_answer_that_another_worker_had_begun_no_times_are_told(clock):
    counter = counter_of()
    counter.ended(
        claim_of(clock.now_s - 2, epoch=2), Stopwatch(clock.now_s - 2, clock.now_s - 1, clock.now_s), final_of()
    )
    clock.now_s += 1
    sums = counter.sums({}, ["a"])["a"]
    assert (sums.answers, sums.answer_tokens, sums.on_time_tokens, sums.first) == (1, TOKENS, 0, {})
