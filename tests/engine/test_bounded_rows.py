"""Rows of bounded number are the rows of the host, in their order, and padding that is nobody's."""

import numpy as np
import pytest
import torch

from core.planning import EarlyStop, FixedLength, Plan, Threshold, TopK
from core.tensors import Draft
from core.types import Request, Sampling
from engine.bounded_rows import make_bounded_rows, most_admitted
from engine.catch_up import CatchUp
from engine.plan import GroupPlan, StepPlan
from engine.rows import append_catch_up, make_rows
from engine.scheduler import Batch
from engine.sequence import Sequence

WIDTH = 4


def sequence(slot, num_tokens, num_computed):
    made = Sequence(Request(str(slot), tuple(range(slot, slot + num_tokens)), Sampling(), slot), slot=slot)
    made.num_computed = num_computed
    return made


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("slack", [0, 3])
def test_own_rows_and_judged_rows_are_those_of_the_host(seed, slack):
    rng = np.random.default_rng(seed)
    num_decoding = int(rng.integers(1, 5))
    sequences = [sequence(slot, 9 + slot, 8 + slot) for slot in range(num_decoding)]
    # One at the end of its prompt, and one whose prompt goes on after this step.
    sequences += [sequence(6, 12, 5), sequence(7, 20, 4)]
    num_rows = (*(1,) * num_decoding, 7, 6)
    batch = Batch(tuple(sequences), num_rows, (WIDTH,) * num_decoding + (0, 0))
    lengths = torch.tensor([*rng.integers(0, WIDTH + 1, num_decoding), 0, 0], dtype=torch.int32)
    draft = Draft(torch.arange(100, 100 + WIDTH * len(sequences)).view(-1, WIDTH), lengths, lengths > 0, None, lengths)
    tables = torch.arange(10 * 8).view(10, 8)
    slots = torch.tensor([each.slot for each in sequences])
    catch_up = (CatchUp(0, sequences[0], 2, 5, in_forward=True),) if seed % 2 else ()
    expected = append_catch_up(make_rows(batch, draft, lengths, tables[slots]), catch_up, tables)
    found = make_bounded_rows(batch, draft, lengths, (tables, slots), catch_up, int(lengths.sum()) + slack)

    num_own, num_more = sum(num_rows) + int(lengths.sum()), sum(each.num_rows for each in catch_up)
    own, more = slice(0, num_own), slice(found.num_own, found.num_own + num_more)
    for name in ("tokens", "positions"):
        rows = getattr(found.verify, name)
        assert rows[own].tolist() + rows[more].tolist() == getattr(expected.verify, name).tolist()
        assert not rows[num_own : found.num_own].any()
    assert found.verify.stores.tolist() == [True] * num_own + [False] * (slack + num_more)
    assert found.num_own == num_own + slack
    assert found.verify.cu_rows.diff().tolist()[: len(sequences) + 1] == [
        *expected.verify.cu_rows.diff()[: len(sequences)],
        slack,
    ]
    assert found.index.tolist() == expected.index.tolist()
    assert found.judged[: len(expected.judged)].tolist() == expected.judged.tolist()
    counts = (lengths[found.index] + 1).tolist()
    assert found.law[0].tolist() == [s for s, count in enumerate(counts) for _ in range(count)] + [0] * slack
    assert found.law[1].tolist() == [o for count in counts for o in range(count)] + [0] * slack


@pytest.mark.parametrize(
    ("rule", "floor", "expected"),
    [
        (FixedLength(2), None, 5),
        (TopK(4), None, 4),
        (TopK(100), None, 8),
        (Threshold(0.5), None, 8),
        (EarlyStop((1.0,)), None, 8),
        # What is favoured may come on top of what the rule admits.
        (TopK(4), np.array([1, 1, 0], dtype=np.int32), 8),
    ],
)
def test_the_bound_is_what_the_rules_can_admit_at_most(rule, floor, expected):
    draft_len = np.array([4, 3, 1], dtype=np.int32)
    follow = np.ones(3, dtype=np.bool_)
    part = GroupPlan(None, np.arange(3), np.arange(3, dtype=np.int32), Plan(draft_len, rule, follow, floor=floor))
    assert most_admitted(StepPlan((), [], (part,), draft_len, follow, np.zeros(3, dtype=np.int64), ())) == expected
