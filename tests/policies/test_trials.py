"""Where drafts did not pay and nobody drafts any more, it is found out at little cost if they would by now."""

from types import SimpleNamespace

import numpy as np
import pytest

from policies.acceptance import AcceptanceRecord
from policies.load_adaptive import LoadAdaptive
from policies.slot_memory import SlotMemory, decide
from policies.trials import Trials, start_trial
from tests.policies.cases import G, Rounds, chances, linear_table, view

# Eight plain sequences take 7.2 ms a step, and a row 0.2; drafting for one costs 2.1 ms, for all 2.8. DEAR is a drafter
# that no sequence alone is worth, all seven drafts accepted: 7.1 ms for one, in which eight tokens are written plainly.
TABLE = linear_table(base=4.0, sequence=0.2, row=0.2, follow=0.0, draft=(2.0, 0.1), catch_up=0.3)
DEAR = linear_table(base=4.0, sequence=0.2, row=0.2, follow=0.0, draft=(7.0, 0.1), catch_up=0.3)
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
        self.plans = []

    def play(self, num_steps, chance):
        """Returns by step how many sequences drafted."""
        rounds, drafting = self.rounds, []
        for _ in range(num_steps):
            before, stale = rounds.accepted.copy(), rounds.stale.copy()
            plan = rounds.next()
            self.plans.append(plan)
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


@pytest.mark.parametrize("table", [TABLE, DEAR], ids=["", "though no sequence alone is worth a drafter"])
def test_traffic_that_has_become_better_is_soon_drafted_for(table):
    traffic = Traffic(0.4, table)
    traffic.play(600, 0.4)
    drafting = traffic.play(1500, 0.95)
    assert np.count_nonzero(drafting[-100:] == SIZE) > 50
    # One trial of those that have come since, and the wait for it, which its price tells.
    assert int((drafting >= SIZE // 2).argmax()) < 1000


def test_all_that_have_shown_nothing_draft_as_soon_as_a_trial_has_shown_that_it_pays():
    traffic = Traffic(0.4, DEAR)
    traffic.play(600, 0.4)
    drafting = traffic.play(1500, 0.95)
    # Four drafts, and a step in which all catch up; those that came with the last of the poor traffic had their turn.
    began = int((drafting == SIZE).argmax())
    assert began > 0
    assert np.count_nonzero(drafting[began - 6 : began] > 1) <= 1


def on_trial(**facts):
    """One sequence that is on trial, after a review in which it was not worth drafting for."""
    records = SlotMemory(G, 32).meet(view(1), np.ones(G), 1)
    start_trial(records, 0)
    for name, value in facts.items():
        records[name] = value
    decide(records, np.zeros(1, np.bool_), np.full(1, -10.0), np.ones(1, np.int64))
    return bool(records["is_on"][0]), bool(records["is_tried"][0])


def test_a_trial_goes_on_though_nothing_was_shown_yet_and_whatever_it_loses():
    assert on_trial() == (True, True)


def test_who_must_not_draft_is_not_on_trial_any_more():
    assert on_trial(is_capped=True) == (False, False)


def test_drafts_on_trial_are_verified_in_full(idle):
    idle.plans.clear()
    idle.play(2000, 0.4)
    trials = [plan for plan in idle.plans if plan.draft_len.any()]
    assert trials
    assert all(plan.floor.tolist() == plan.draft_len.tolist() for plan in trials)


def test_what_drafts_were_worth_is_not_forgotten_where_none_are_verified(idle):
    policy = idle.rounds.policy
    before = policy.expected(idle.rounds.seen())[:, 0].max()
    policy._trials.choose = lambda *_: None
    assert not idle.play(3000, 0.4).any()
    assert policy.expected(idle.rounds.seen())[:, 0].max() == pytest.approx(before, abs=1e-9)


def test_a_record_that_begins_anew_is_that_of_the_rounds_it_is_given():
    given, told = AcceptanceRecord(G), AcceptanceRecord(G)
    plan = np.full(4, G, np.int32)
    outcome = SimpleNamespace(verified=plan, accepted=np.array([7, 3, 3, 0], np.int32))
    told.count([outcome])
    for _ in range(1000):
        given.count([SimpleNamespace(verified=plan, accepted=np.zeros(4, np.int32))])
    given.begin_anew(np.array([3, 3, 3, 1, 1, 1, 1]) / 4, 4)
    np.testing.assert_allclose(given.prior, told.prior)


def test_of_before_a_pause_no_more_than_thirty_two_rounds_are_held_against_new_ones():
    record = AcceptanceRecord(G)
    plan = np.full(16, G, np.int32)
    for _ in range(100):
        record.count([SimpleNamespace(verified=plan, accepted=np.zeros(16, np.int32))])
    record.doubt()
    assert record.hazard[0] == pytest.approx(4 * 0.9 / 36)
    record.count([SimpleNamespace(verified=plan, accepted=np.full(16, G, np.int32))] * 2)
    assert record.hazard[0] > 0.5


def test_what_few_show_after_a_pause_is_soon_expected_of_newcomers(idle):
    expected = idle.rounds.policy.expected
    idle.play(1, 0.4)
    before = expected(idle.rounds.seen())[:, 0].max()
    idle.rounds.policy._trials.choose = lambda *_: None
    survival = idle.rounds.survival
    survival[:] = chances(0.4)[0]
    idle.rounds.lag[:2] = survival[:2] = chances(0.97)[0]
    records = idle.rounds.policy._memory._records
    records["survival"][:2] = survival[:2]
    idle.play(40, 0.97)
    assert expected(idle.rounds.seen())[:, 0].max() > before + 0.2


def test_nothing_is_tried_where_not_even_perfect_drafts_would_pay():
    traffic = Traffic(0.95, HOPELESS)
    traffic.play(600, 0.95)
    assert not traffic.play(3000, 0.95).any()


def choose(num_steps, catch_up_s, num_shown):
    """Which of two sequences is tried once nobody has drafted for so many steps of 8 ms."""
    prices = linear_table(base=8.0, sequence=0.0, row=0.0, follow=0.0, draft=(1.0, 0.0)).at(32)
    records = SlotMemory(G, 32).meet(view(2), np.ones(G), 1)
    records["num_shown"] = num_shown
    trials = Trials()
    trials.see(0, is_idle=True)
    return trials.choose(num_steps, prices, 2, records, np.ones(2, np.bool_), np.array(catch_up_s))


@pytest.mark.parametrize(
    ("num_steps", "catch_up_s", "num_shown", "tried"),
    [
        (101, (0.0, 0.0), (0, 0), 0),  # four steps of drafting are 4 ms, as is the 200th part of 100 steps
        (99, (0.0, 0.0), (0, 0), None),
        (101, (0.01, 0.0), (0, 0), 1),
        (101, (0.01, 0.01), (0, 0), None),
        (360, (0.01, 0.02), (0, 0), 0),  # one long answer is caught up with where nobody has come for long
        (10**6, (0.0, 0.0), (1, 1), None),  # those who have shown what they can have their probes
    ],
)
def test_who_loses_least_is_tried_as_soon_as_that_may_be_lost(num_steps, catch_up_s, num_shown, tried):
    assert choose(num_steps, catch_up_s, num_shown) == tried


def test_steps_in_which_somebody_drafts_neither_count_nor_begin_the_wait_anew():
    prices = linear_table(base=8.0, sequence=0.0, row=0.0, follow=0.0, draft=(1.0, 0.0)).at(32)
    trials = Trials()
    for step, is_idle in ((0, True), (60, False), (1000, True)):
        trials.see(step, is_idle=is_idle)
    assert not trials.are_due(1039, prices, 2, G)
    assert trials.are_due(1041, prices, 2, G)
    trials.wait()
    trials.see(1040, is_idle=True)
    assert not trials.are_due(1139, prices, 2, G)
    assert trials.are_due(1141, prices, 2, G)
