"""Where drafts did not pay and nobody drafts any more, it is found out at little cost if they would by now."""

from types import SimpleNamespace

import numpy as np
import pytest

from policies.acceptance import AcceptanceRecord
from policies.load_adaptive import LoadAdaptive
from policies.slot_memory import SlotMemory
from policies.trials import Trials
from tests.policies.cases import G, Rounds, chances, linear_table, view

# Eight plain sequences take 7.2 ms a step; drafting for one costs 2.1 of them, for all 2.8, and a row 0.2.
TABLE = linear_table(base=4.0, sequence=0.2, row=0.2, follow=0.0, draft=(2.0, 0.1), catch_up=0.3)
# A row costs as much as all plain rows: not even perfect drafts pay.
HOPELESS = linear_table(base=0.1, sequence=0.0, row=5.0)
SIZE, ANSWER = 8, 100


class Traffic:
    """Rounds in which every sequence that has written its answer gives its slot to a newcomer of the present kind."""

    def __init__(self, chance, table=TABLE):
        self.rounds = Rounds(LoadAdaptive(), table, chances(*[chance] * SIZE))
        self.written = np.arange(SIZE) * ANSWER // SIZE
        # Rows that the drafters of those who are followed had not seen, step by step.
        self.missed = []

    def play(self, num_steps, chance):
        """Returns by step how many sequences drafted."""
        rounds, drafting = self.rounds, []
        for _ in range(num_steps):
            before, stale = rounds.accepted.copy(), rounds.stale.copy()
            plan = rounds.next()
            drafting.append(int(np.count_nonzero(plan.draft_len)))
            self.missed += stale[plan.follow].tolist()
            self.written += 1 + rounds.accepted - before
            for slot in np.flatnonzero(self.written >= ANSWER):
                rounds.survival[slot] = chances(chance)[0]
                rounds.context[slot], rounds.lag[slot], rounds.stale[slot] = 5, np.nan, 0
                self.written[slot] = 0
        return np.array(drafting)

    def rate(self, num_steps, chance):
        """Returns tokens per second while this is played."""
        tokens, seconds = self.rounds.tokens, self.rounds.seconds
        self.play(num_steps, chance)
        return (self.rounds.tokens - tokens) / (self.rounds.seconds - seconds)


@pytest.fixture
def idle():
    """Traffic that is not worth drafting for, which the policy has found out."""
    traffic = Traffic(0.4)
    traffic.play(600, 0.4)
    return traffic


def test_finding_out_costs_less_than_a_hundredth(idle):
    plain = SIZE / float(TABLE.step_s(SIZE, 0, 0, 32))
    drafting = idle.play(1, 0.4)
    assert not drafting.any()
    assert 0.99 * plain < idle.rate(3000, 0.4) < plain


def test_few_steps_of_one_sequence_each_are_what_it_takes(idle):
    drafting = idle.play(3000, 0.4)
    assert 0 < np.count_nonzero(drafting) < 0.03 * len(drafting)
    assert drafting.max() == 1


def test_a_newcomer_is_tried_as_it_comes_before_its_drafter_has_anything_to_catch_up_with(idle):
    idle.missed.clear()
    idle.play(3000, 0.4)
    assert idle.missed
    assert not any(idle.missed)


def test_traffic_that_has_become_better_is_soon_drafted_for(idle):
    drafting = idle.play(1500, 0.95)
    assert np.count_nonzero(drafting[-100:] == SIZE) > 50
    # Two trials and the answers of four turns, in the order of the time that the traffic at hand takes to change.
    assert int((drafting >= SIZE // 2).argmax()) < 1000


def test_what_drafts_were_worth_is_not_forgotten_where_none_are_verified(idle):
    policy = idle.rounds.policy
    before = policy.expected(idle.rounds.seen())[:, 0].max()
    policy._trials.wait_from(10**9)
    assert not idle.play(3000, 0.4).any()
    assert policy.expected(idle.rounds.seen())[:, 0].max() == pytest.approx(before, abs=1e-9)


def counted(record, num_rounds, accepted):
    """The first hazard of a record that has seen so many rounds of one step each, with that many of 7 accepted."""
    for _ in range(num_rounds):
        plan = np.full(1, G, np.int32)
        record.count([SimpleNamespace(verified=plan, accepted=np.full(1, accepted, np.int32))])
    return record.hazard[0]


def test_few_rounds_change_a_record_that_is_in_doubt():
    sure, doubted = AcceptanceRecord(G), AcceptanceRecord(G)
    for record in (sure, doubted):
        assert counted(record, 1000, 0) < 0.02
    before = doubted.hazard[0]
    doubted.doubt()
    assert counted(doubted, 1, 0) < before + 0.05
    assert counted(sure, 20, G) < 0.12
    assert counted(doubted, 20, G) > 0.25


def test_nothing_is_tried_where_not_even_perfect_drafts_would_pay():
    traffic = Traffic(0.95, HOPELESS)
    traffic.play(600, 0.95)
    assert not traffic.play(3000, 0.95).any()


def choose(num_steps, catch_up_s, num_shown):
    """Which of two sequences is tried once nobody has drafted for so many steps of 8 ms."""
    prices = linear_table(base=8.0, sequence=0.0, row=0.0, draft=(1.0, 0.0)).at(32)
    records = SlotMemory(G, 32).meet(view(2), np.ones(G), 1)
    records["num_shown"] = num_shown
    trials = Trials()
    trials.wait_from(0)
    return trials.choose(num_steps, prices, 2, records, np.ones(2, np.bool_), np.array(catch_up_s))


@pytest.mark.parametrize(
    ("num_steps", "catch_up_s", "num_shown", "tried"),
    [
        (600, (0.0, 0.0), (0, 0), 0),  # three tokens are 12 ms, as is the 400th part of 600 steps
        (599, (0.0, 0.0), (0, 0), None),
        (600, (0.01, 0.0), (0, 0), 1),
        (600, (0.01, 0.01), (0, 0), None),
        (1100, (0.01, 0.02), (0, 0), 0),  # one long answer is caught up with where nobody has come for long
        (10**6, (0.0, 0.0), (1, 1), None),  # those who have shown what they can have their probes
    ],
)
def test_who_loses_least_is_tried_as_soon_as_that_may_be_lost(num_steps, catch_up_s, num_shown, tried):
    assert choose(num_steps, catch_up_s, num_shown) == tried
