"""Lengths from what was accepted alone: what the drafter says of its drafts is not read."""

from types import SimpleNamespace

import numpy as np

from policies.goodput import Goodput
from policies.history import AcceptanceHistory
from tests.policies.cases import G, Rounds, chances, linear_table, view

TABLE = linear_table(row=0.25, draft=(0.2, 0.05))


class Boasting(Rounds):
    """Sequences whose drafter calls every draft a sure one."""

    def next(self):
        plan = super().next()
        self.lag = np.where(np.isnan(self.lag), self.lag, 1.0).astype(np.float32)
        return plan


def played(*quality, num_steps=120, table=TABLE):
    rounds = Boasting(Goodput(), table, chances(*quality))
    return rounds, rounds.play(num_steps)[-1]


def test_each_sequence_drafts_what_its_own_record_deserves():
    _, plan = played(0.95, 0.4, 0.95, 0.4)
    lengths = plan.draft_len
    assert min(lengths[[0, 2]]) >= 4
    assert max(lengths[[1, 3]]) <= 2
    assert plan.draft_len.sum() <= plan.rule.budget + G


def test_where_drafts_are_never_accepted_it_stops_drafting():
    _, plan = played(0.02, 0.02)
    assert not plan.draft_len.any()
    assert not plan.follow.any()


def test_dearer_rows_make_shorter_drafts():
    lengths = [
        played(0.8, 0.8, table=linear_table(row=row, draft=(0.1, 0.0)))[1].draft_len.sum() for row in (0.01, 0.4)
    ]
    assert lengths[0] > lengths[1]


def counted(*rounds_of_slot, half_life=1e9):
    """A history that has met one sequence per argument: (verified, accepted) rounds of each."""
    history = AcceptanceHistory(3, half_life)
    size = len(rounds_of_slot)
    history.meet(view(size, survival_lag=np.full((size, 3), np.nan, np.float32)))
    for step in zip(*rounds_of_slot, strict=True):
        verified, accepted = np.array(step, dtype=np.int32).T
        history.count(outcome(verified, accepted))
    return history, history.survival(np.arange(size))


def outcome(verified, accepted):
    return SimpleNamespace(slots=np.arange(len(verified), dtype=np.int32), verified=verified, accepted=accepted)


def test_a_cut_draft_counts_as_neither_accepted_nor_rejected():
    _, cut = counted([(1, 1)] * 40)
    _, rejected = counted([(3, 1)] * 40)
    assert cut[0, 1] > 0.8
    assert rejected[0, 1] < 0.35


def test_a_record_of_its_own_outweighs_that_of_all_only_after_some_rounds():
    many = [(3, 0)] * 400
    (_, short), (_, long) = counted([(3, 0)] * 398 + [(3, 3)] * 2), counted([(3, 3)] * 400, many)
    assert short[0, 0] < 0.2
    assert long[0, 0] > 0.9
    assert long[1, 0] < 0.1


def test_what_was_long_ago_fades():
    _, faded = counted([(3, 3)] * 100 + [(3, 0)] * 40, half_life=5.0)
    _, kept = counted([(3, 3)] * 100 + [(3, 0)] * 40)
    assert faded[0, 0] < kept[0, 0] - 0.2


def test_who_is_new_in_a_slot_starts_from_what_all_have_shown():
    history, _ = counted([(3, 3)] * 50)
    assert history.meet(view(1, survival_lag=np.full((1, 3), np.nan, np.float32))).tolist() == [0]
    assert np.isnan(history.survival(np.arange(1))).all()
    assert history.prior[0] > 0.9
