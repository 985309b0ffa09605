"""Targets are measured by turns on the same questions, and the schedule fits the time that was given."""

import pytest

from bench.interleave import MIN_ROUNDS, MIN_WINDOW_S, Schedule, fit_schedule, measure
from bench.load import Load, Questions
from bench.prompt_pool import PromptPool
from bench.window import Window

LOADS = [Load(1, 1.0), Load(2, 1.0)]


class Recorder:
    """A target that takes one question per window and writes down what is asked of it."""

    def __init__(self, name, journal):
        self.name, self.journal, self.asked, self.num_windows = name, journal, [], 0

    def start(self, load, questions):
        self.questions = questions
        self.journal.append((self.name, "start", load.concurrency))

    def measure(self, seconds):
        self.asked.append(self.questions.take().text)
        self.journal.append((self.name, "measure", seconds))
        self.num_windows += 1
        return Window(seconds, tokens=self.num_windows)

    def stop(self):
        self.journal.append((self.name, "stop", None))


@pytest.fixture
def pool():
    return PromptPool(["math"], seed=0)


@pytest.fixture
def run(pool):
    journal = []
    targets = [Recorder(name, journal) for name in "abc"]
    measured = measure(targets, LOADS, pool, Schedule(5, 0.5, 0.25), 3, lambda _: None)
    return journal, targets, measured


def test_every_round_measures_every_target_once(run):
    order = [name for name, what, seconds in run[0] if what == "measure" and seconds == 0.5]
    rounds = [order[at : at + 3] for at in range(0, len(order), 3)]
    assert len(rounds) == 10
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1


def test_the_warm_up_is_thrown_away(run):
    assert [window.tokens for window in run[2][LOADS[0]]["a"]] == [2, 3, 4, 5, 6]


def test_all_targets_get_the_same_questions_and_none_gets_one_twice(run):
    asked = [target.asked for target in run[1]]
    assert asked[0] == asked[1] == asked[2]
    assert len(set(asked[0])) == len(asked[0]) == 12


def test_a_load_ends_before_the_next_begins(run):
    marks = [(name, what) for name, what, _ in run[0] if what != "measure"]
    assert marks == 2 * ([(name, "start") for name in "abc"] + [(name, "stop") for name in "abc"])


def test_asking_the_pool_more_than_once_is_told(pool):
    class Greedy(Recorder):
        def measure(self, seconds):
            for _ in range(len(pool.questions)):
                self.questions.take()
            return Window(seconds)

    told = []
    measure([Greedy("a", [])], LOADS, pool, Schedule(1, 0.5, 0.5), 0, told.append)
    assert "asked more than once" in told[-1]


def test_the_first_answers_are_cut_to_lengths_spread_evenly(pool):
    questions = Questions(pool, 0, Load(4, 1.0))
    longest = pool.questions[0].max_tokens
    first = sorted(questions.take().max_tokens for _ in range(4))
    assert first == [round(longest * share) for share in (0.25, 0.5, 0.75, 1.0)]
    assert questions.take().max_tokens == longest
    questions.begin()
    again = sorted(questions.take().max_tokens for _ in range(4))
    assert again == first


def test_time_is_spent_on_rounds_of_the_wanted_window():
    assert fit_schedule(minutes=8, window_s=1.5, num_targets=6, num_loads=4) == Schedule(12, 1.5, 1.5)


def test_ramps_cost_rounds():
    assert fit_schedule(8, 1.5, 6, 4, overhead=1.25).rounds == 9


def test_little_time_shortens_windows_before_there_are_too_few_rounds():
    schedule = fit_schedule(minutes=1, window_s=1.5, num_targets=6, num_loads=4)
    assert schedule == Schedule(MIN_ROUNDS, 0.5, 0.5)
    assert fit_schedule(0.01, 1.5, 6, 4) == Schedule(MIN_ROUNDS, MIN_WINDOW_S, MIN_WINDOW_S)
