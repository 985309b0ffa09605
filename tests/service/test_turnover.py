"""Jobs are claimed ahead of a free slot only where answers end so fast that they will have one at once."""

import pytest

from service.turnover import AHEAD_S, MEMORY, Turnover


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def ended(turnover, clock, every_s, count=2 * MEMORY):
    for _ in range(count):
        clock.now_s += every_s
        turnover.ended(1)


def test_nothing_is_claimed_ahead_before_some_answers_have_ended(clock):
    turnover = Turnover(64, clock)
    ended(turnover, clock, 0.001, MEMORY - 1)
    assert turnover.num_ahead == 0


@pytest.mark.parametrize(("every_s", "expected"), [(0.5, 0), (1.2 * AHEAD_S, 0), (AHEAD_S / 2.5, 2), (0.0001, 8)])
def test_as_many_are_claimed_as_end_within_the_time_but_only_one_for_some_slots(clock, every_s, expected):
    turnover = Turnover(64, clock)
    ended(turnover, clock, every_s)
    assert turnover.num_ahead == expected


def test_a_worker_with_few_slots_may_have_one_job_ready(clock):
    turnover = Turnover(2, clock)
    turnover.ended(100)
    assert turnover.num_ahead == 1


def test_when_answers_cease_to_end_nothing_more_is_claimed_ahead(clock):
    turnover = Turnover(64, clock)
    ended(turnover, clock, 0.001)
    clock.now_s += 2.0
    assert turnover.num_ahead == 0
