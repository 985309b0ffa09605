from dataclasses import replace

import pytest
import torch

from core.tensors import PagedKV
from kernels.attention import paged_attention, plan_attention
from kernels.attention_layout import LARGEST_SHARED_TILE_ROWS
from kernels.split_attention import SPLIT_ROWS, plan_split_attention

HEAD_DIM = 8
both_plans = pytest.mark.parametrize("plan", [plan_attention, plan_split_attention], ids=["fast", "split"])


def poisoned_cache(num_sequences, blocks, block_size, kv_heads):
    """A cache in which nothing is written yet: reading any such row makes the result nan."""
    shape = (num_sequences * blocks + 1, block_size, kv_heads, HEAD_DIM)
    tables = (torch.randperm(num_sequences * blocks) + 1).view(num_sequences, blocks)
    return PagedKV((torch.full(shape, torch.nan),), (torch.full(shape, torch.nan),), tables, block_size)


def attend(kv, rows, visible, q, k, v, plan=plan_attention, stores=None, window=None, scale=None, skips=0):
    """rows: per sequence the positions of its rows."""
    cu_rows = torch.tensor([0, *(len(each) for each in rows)]).cumsum(0)
    positions = torch.tensor([position for each in rows for position in each])
    layout = plan(kv, cu_rows, positions, visible, q.shape[1] // k.shape[1], window, skips)
    if stores is not None:
        layout = layout.storing(stores)
    return paged_attention(q, k, v, kv.keys[0], kv.values[0], layout, scale)


def by_hand(q, keys, values, scale=HEAD_DIM**-0.5):
    """One row q [Hq, D] over keys, values [T, Hkv, D], in float64."""
    group = q.shape[0] // keys.shape[1]
    keys, values = (x.double().repeat_interleave(group, 1) for x in (keys, values))
    scores = torch.einsum("hd,thd->ht", q.double(), keys) * scale
    return torch.einsum("ht,thd->hd", scores.softmax(-1), values).float()


@pytest.mark.parametrize(
    ("contexts", "counts"),
    [
        ([0], [1]),
        ([5], [8]),
        ([3, 0, 17], [1, 1, 1]),
        ([3, 9, 17], [4, 1, 7]),
        ([0, 11], [LARGEST_SHARED_TILE_ROWS + 1, 2]),
        ([7, 0, 2], [LARGEST_SHARED_TILE_ROWS, 40, LARGEST_SHARED_TILE_ROWS + 9]),
        ([9, 9], [1, 1]),
        ([4, 0, 6], [3, 0, 1]),
        ([SPLIT_ROWS - 1, 2 * SPLIT_ROWS], [2, 9]),
    ],
    ids=str,
)
@both_plans
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 2), (6, 1)], ids=str)
@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_ragged_rows_see_exactly_their_own_past(contexts, counts, heads, kv_heads, block_size, plan):
    torch.manual_seed(len(contexts) + heads)
    lengths = [context + count for context, count in zip(contexts, counts, strict=True)]
    kv = poisoned_cache(len(lengths), -(-max(lengths) // block_size), block_size, kv_heads)
    keys = [torch.randn(length, kv_heads, HEAD_DIM) for length in lengths]
    values = [torch.randn(length, kv_heads, HEAD_DIM) for length in lengths]
    past = [range(context) for context in contexts]
    if any(contexts):
        k, v = (torch.cat([x[:c] for x, c in zip(xs, contexts, strict=True)]) for xs in (keys, values))
        visible = torch.tensor([position + 1 for each in past for position in each])
        attend(kv, past, visible, torch.randn(sum(contexts), heads, HEAD_DIM), k, v)
    rows = [range(context, length) for context, length in zip(contexts, lengths, strict=True)]
    q = torch.randn(sum(counts), heads, HEAD_DIM)
    k, v = (torch.cat([x[c:] for x, c in zip(xs, contexts, strict=True)]) for xs in (keys, values))
    visible = torch.tensor([position + 1 for each in rows for position in each])
    out = attend(kv, rows, visible, q, k, v, plan)
    places = [(b, position) for b, each in enumerate(rows) for position in each]
    for row, (b, position) in enumerate(places):
        expected = by_hand(q[row], keys[b][: position + 1], values[b][: position + 1])
        torch.testing.assert_close(out[row], expected, atol=1e-5, rtol=1e-5)


@both_plans
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("window", [1, 5, SPLIT_ROWS + 3])
@pytest.mark.parametrize(
    ("contexts", "counts"),
    [
        ([0], [1]),
        ([40], [8]),
        ([3, 0, 17], [1, 1, 1]),
        ([3, 90, 17], [4, 1, 7]),
        ([80, 11], [LARGEST_SHARED_TILE_ROWS + 1, 2]),
        ([SPLIT_ROWS - 1, 2 * SPLIT_ROWS], [2, 9]),
    ],
    ids=str,
)
def test_a_window_hides_what_lies_further_back_and_a_scale_is_obeyed(contexts, counts, window, is_causal, plan):
    torch.manual_seed(window)
    ends = [context + count for context, count in zip(contexts, counts, strict=True)]
    kv = poisoned_cache(len(ends), -(-max(ends) // 4), 4, 2)
    keys, values = ([torch.randn(end, 2, HEAD_DIM) for end in ends] for _ in "kv")
    past = [range(context) for context in contexts]
    if any(contexts):
        k, v = (torch.cat([x[:c] for x, c in zip(xs, contexts, strict=True)]) for xs in (keys, values))
        visible = torch.tensor([position + 1 for each in past for position in each])
        attend(kv, past, visible, torch.randn(sum(contexts), 4, HEAD_DIM), k, v)
    rows = [range(context, end) for context, end in zip(contexts, ends, strict=True)]
    places = [(b, position) for b, each in enumerate(rows) for position in each]
    reach = [position + 1 if is_causal else ends[b] for b, position in places]
    q = torch.randn(len(places), 4, HEAD_DIM)
    k, v = (torch.cat([x[c:] for x, c in zip(xs, contexts, strict=True)]) for xs in (keys, values))
    out = attend(kv, rows, torch.tensor(reach), q, k, v, plan, window=window, scale=0.5)
    for row, ((b, position), end) in enumerate(zip(places, reach, strict=True)):
        seen = slice(max(0, position + 1 - window), end)
        expected = by_hand(q[row], keys[b][seen], values[b][seen], 0.5)
        torch.testing.assert_close(out[row], expected, atol=1e-5, rtol=1e-5)


@both_plans
def test_block_rows_see_their_whole_block(plan):
    torch.manual_seed(0)
    kv = poisoned_cache(1, 3, 4, 2)
    k, v = torch.randn(9, 2, HEAD_DIM), torch.randn(9, 2, HEAD_DIM)
    attend(kv, [range(5)], torch.arange(5) + 1, torch.randn(5, 4, HEAD_DIM), k[:5], v[:5])
    q = torch.randn(4, 4, HEAD_DIM)
    out = attend(kv, [range(5, 9)], torch.full((4,), 9), q, k[5:], v[5:], plan)
    for row in range(4):
        torch.testing.assert_close(out[row], by_hand(q[row], k, v), atol=1e-5, rtol=1e-5)


def test_a_row_written_again_replaces_the_first():
    torch.manual_seed(0)
    kv = poisoned_cache(1, 2, 4, 1)
    old, new = torch.randn(3, 1, HEAD_DIM), torch.randn(3, 1, HEAD_DIM)
    attend(kv, [range(3)], torch.arange(3) + 1, torch.randn(3, 1, HEAD_DIM), old, old)
    q = torch.randn(1, 1, HEAD_DIM)
    out = attend(kv, [range(1, 2)], torch.tensor([2]), q, new[1:2], new[1:2])
    seen = torch.cat((old[:1], new[1:2]))
    torch.testing.assert_close(out[0], by_hand(q[0], seen, seen), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tables", [[[1, 2, 3]], [[2, 3, 1]], [[3, 1, 2]]], ids=str)
def test_it_does_not_matter_whether_blocks_follow_each_other(tables):
    torch.manual_seed(0)
    kv = replace(poisoned_cache(1, 3, 4, 2), block_tables=torch.tensor(tables))
    k, v, q = torch.randn(11, 2, HEAD_DIM), torch.randn(11, 2, HEAD_DIM), torch.randn(11, 4, HEAD_DIM)
    out = attend(kv, [range(11)], torch.arange(11) + 1, q, k, v)
    for row in range(11):
        torch.testing.assert_close(out[row], by_hand(q[row], k[: row + 1], v[: row + 1]), atol=1e-5, rtol=1e-5)


def test_rows_that_store_nothing_leave_every_live_block_alone():
    torch.manual_seed(0)
    kv = poisoned_cache(2, 3, 4, 2)
    k, v, q = torch.randn(18, 2, HEAD_DIM), torch.randn(18, 2, HEAD_DIM), torch.randn(18, 4, HEAD_DIM)
    rows = [range(9), range(9)]
    visible = torch.arange(9).repeat(2) + 1
    first = attend(kv, rows, visible, q, k, v)
    before = kv.keys[0][1:].clone(), kv.values[0][1:].clone()
    others = torch.randn(18, 2, HEAD_DIM)
    again = attend(kv, rows, visible, q, others, others, stores=torch.zeros(18, dtype=torch.bool))
    assert torch.equal(again, first)
    torch.testing.assert_close((kv.keys[0][1:], kv.values[0][1:]), before, atol=0, rtol=0, equal_nan=True)


@both_plans
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(
    ("contexts", "counts"),
    [
        ([1], [1]),
        ([1], [9]),
        ([1, 6, 2], [1, 1, 1]),
        ([1, 9, 17], [4, 1, 7]),
        ([1, 7], [LARGEST_SHARED_TILE_ROWS + 1, 2]),
        ([SPLIT_ROWS - 1, 2 * SPLIT_ROWS], [2, 9]),
    ],
    ids=str,
)
def test_a_place_that_is_skipped_is_never_read(contexts, counts, window, plan):
    """Place 0 of every sequence is poison: nobody writes it."""
    torch.manual_seed(len(counts))
    ends = [context + count for context, count in zip(contexts, counts, strict=True)]
    kv = poisoned_cache(len(ends), -(-max(ends) // 4), 4, 2)
    keys, values = ([torch.randn(end, 2, HEAD_DIM) for end in ends] for _ in "kv")
    past = [range(1, context) for context in contexts]
    for rows in (past, [range(context, end) for context, end in zip(contexts, ends, strict=True)]):
        places = [(b, position) for b, each in enumerate(rows) for position in each]
        if not places:
            continue
        q = torch.randn(len(places), 4, HEAD_DIM)
        k, v = (torch.stack([x[b][position] for b, position in places]) for x in (keys, values))
        visible = torch.tensor([position + 1 for _, position in places])
        out = attend(kv, rows, visible, q, k, v, plan, window=window, skips=1)
    for row, (b, position) in enumerate(places):
        seen = slice(1 if window is None else max(1, position + 1 - window), position + 1)
        torch.testing.assert_close(out[row], by_hand(q[row], keys[b][seen], values[b][seen]), atol=1e-5, rtol=1e-5)


@both_plans
def test_a_place_that_is_not_skipped_would_be_read(plan):
    kv = poisoned_cache(1, 1, 4, 1)
    k = torch.randn(1, 1, HEAD_DIM)
    assert attend(kv, [range(1, 2)], torch.tensor([2]), k, k, k, plan).isnan().all()
