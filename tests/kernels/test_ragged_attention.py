"""The Triton body of paged attention, interpreted, against the same formula in float64."""

from dataclasses import dataclass

import pytest
import torch

from core.tensors import PagedKV
from kernels import ragged_attention
from kernels.attention import paged_attention, plan_attention
from kernels.attention_layout import LARGEST_SHARED_TILE_ROWS
from kernels.dispatch import interpreted
from kernels.ragged_attention import SPLIT_ROWS, RaggedTile
from kernels.split_attention import plan_split_attention

PLANS = {"fast": plan_attention, "split": plan_split_attention}
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}


@dataclass(frozen=True)
class AttentionCase:
    """Sequences with contexts and new rows, and how attention over them is shaped.

    block  how many rows behind their own the new rows see: 0 is causal, else they see the whole of their block
    """

    contexts: tuple[int, ...]
    counts: tuple[int, ...]
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    block_size: int = 4
    window: int | None = None
    skips: int = 0
    is_causal: bool = True
    dtype: torch.dtype = torch.float32
    scale: float | None = None
    size: float = 1.0

    def __str__(self) -> str:
        kind = "causal" if self.is_causal else "block"
        more = f"-W{self.window}" if self.window else ""
        more += f"-S{self.skips}" if self.skips else ""
        contexts, counts = ("+".join(map(str, each)) for each in (self.contexts, self.counts))
        dtype = str(self.dtype).removeprefix("torch.")
        heads = f"H{self.heads}-{self.kv_heads}-D{self.head_dim}"
        return f"C{contexts}-R{counts}-{heads}-B{self.block_size}-{kind}{more}-{dtype}"

    def build(self):
        """Return the cache, written up to the contexts, the layout's arguments and q, k, v of the new rows."""
        torch.manual_seed(sum(self.contexts) + self.heads)
        ends = [context + count for context, count in zip(self.contexts, self.counts, strict=True)]
        blocks = -(-max(ends) // self.block_size)
        shape = (len(ends) * blocks + 1, self.block_size, self.kv_heads, self.head_dim)
        keys, values = (torch.full(shape, torch.nan, dtype=self.dtype) for _ in "kv")
        tables = (torch.randperm(len(ends) * blocks) + 1).view(len(ends), blocks)
        for b, context in enumerate(self.contexts):
            for cache in (keys, values):
                for place in range(self.skips, context):
                    block = tables[b, place // self.block_size]
                    cache[block, place % self.block_size] = self.size * torch.randn(shape[2:])
        rows = [range(context, end) for context, end in zip(self.contexts, ends, strict=True)]
        positions = torch.tensor([position for each in rows for position in each])
        visible = positions + 1
        if not self.is_causal:
            visible = torch.tensor([end for end, each in zip(ends, rows, strict=True) for _ in each])
        q = self.size * torch.randn(len(positions), self.heads, self.head_dim)
        k, v = (self.size * torch.randn(len(positions), self.kv_heads, self.head_dim) for _ in "kv")
        cu_rows = torch.tensor([0, *self.counts]).cumsum(0)
        kv = PagedKV((keys,), (values,), tables, self.block_size)
        return kv, (cu_rows, positions, visible), [x.to(self.dtype) for x in (q, k, v)]

    def run(self, plan):
        """Return out and what the formula gives in float64."""
        kv, (cu_rows, positions, visible), (q, k, v) = self.build()
        with interpreted():
            layout = plan(kv, cu_rows, positions, visible, self.heads // self.kv_heads, self.window, self.skips)
        assert isinstance(layout.tiles[0], RaggedTile)
        out = paged_attention(q, k, v, kv.keys[0], kv.values[0], layout, self.scale)
        owners = torch.repeat_interleave(cu_rows.diff())
        expected = [
            self.row(kv, int(b), q[i], self.first(int(positions[i])), int(visible[i])) for i, b in enumerate(owners)
        ]
        return out, torch.stack(expected).to(self.dtype)

    def first(self, position):
        return self.skips if self.window is None else max(self.skips, position + 1 - self.window)

    def row(self, kv, b, q, start, stop):
        places = torch.arange(start, stop)
        cells = kv.block_tables[b, places // kv.block_size] * kv.block_size + places % kv.block_size
        group = self.heads // self.kv_heads
        keys, values = (
            cache[0].view(-1, self.kv_heads, self.head_dim)[cells].double().repeat_interleave(group, 1)
            for cache in (kv.keys, kv.values)
        )
        scale = self.head_dim**-0.5 if self.scale is None else self.scale
        scores = torch.einsum("hd,thd->ht", q.double(), keys) * scale
        return torch.einsum("ht,thd->hd", scores.softmax(-1), values)


MANY = LARGEST_SHARED_TILE_ROWS + 1
CASES = [
    AttentionCase((0,), (1,)),
    AttentionCase((63,), (8,), head_dim=64),
    AttentionCase((3, 0, 17), (1, 1, 1), heads=6, kv_heads=2, block_size=1),
    AttentionCase((3, 100, 17), (4, 0, 7), heads=3, kv_heads=1, head_dim=24),
    AttentionCase((257, 5), (1, 9), heads=8, kv_heads=1, block_size=16),
    AttentionCase((10, 0), (2, MANY), heads=2, kv_heads=2, head_dim=20),
    AttentionCase((SPLIT_ROWS + 70, 3), (3, 2), heads=2, kv_heads=1, window=100),
    AttentionCase((80, 11), (MANY, 2), window=5, block_size=16),
    AttentionCase((1, 130), (4, 3), skips=1),
    AttentionCase((1, 130), (4, 3), skips=1, window=9),
    AttentionCase((40, 0, 7), (7, 7, 7), is_causal=False),
    AttentionCase((90, 2), (5, 5), is_causal=False, window=33, scale=0.5),
    AttentionCase((63, 20), (8, 1), head_dim=64, dtype=torch.float16, block_size=16),
    AttentionCase((31,), (2,), head_dim=128, dtype=torch.float16, block_size=16),
    AttentionCase((70,), (2,), heads=2, kv_heads=1, head_dim=256, block_size=16),
    AttentionCase((40,), (3,), size=30.0),
    AttentionCase((40,), (3,), size=1e-20),
]


# Each plan meets every second case in every run of the tests, and all of them in the long proofs.
def cells():
    for number, case in enumerate(CASES):
        for place, name in enumerate(PLANS):
            marks = () if number % 2 == place else pytest.mark.slow
            yield pytest.param(case, PLANS[name], id=f"{case}-{name}", marks=marks)


@pytest.mark.parametrize(("case", "plan"), list(cells()))
def test_triton_rows_see_exactly_their_own_past(case, plan, poisoned):
    out, expected = case.run(plan)
    tolerance = TOLERANCE[case.dtype]
    torch.testing.assert_close(out, expected, atol=tolerance * case.size, rtol=tolerance)


def rows_alone(case, count):
    """Return the same answers for the last `count` rows of the only sequence, alone and in their chunk."""
    kv, (cu_rows, positions, visible), (q, k, v) = case.build()
    whole = attend_split(kv, cu_rows, positions, visible, (q, k, v))
    last = slice(len(positions) - count, None)
    alone = attend_split(kv, torch.tensor([0, count]), positions[last], visible[last], (q[last], k[last], v[last]))
    return whole[last], alone


def attend_split(kv, cu_rows, positions, visible, rows):
    with interpreted():
        layout = plan_split_attention(kv, cu_rows, positions, visible, rows[0].shape[1] // rows[1].shape[1])
    return paged_attention(*rows, kv.keys[0], kv.values[0], layout)


def test_split_rows_are_the_same_bits_alone_and_in_a_chunk():
    whole, alone = rows_alone(AttentionCase((SPLIT_ROWS - 9,), (MANY,), heads=2, kv_heads=1), 2)
    assert torch.equal(whole, alone)


def test_padding_rows_belong_to_nobody(poisoned):
    """A captured step has a fixed number of rows: those past the last sequence write to block 0 and change nothing."""
    case = AttentionCase((5, 9), (2, 1), heads=2, kv_heads=1)
    kv, (cu_rows, positions, visible), rows = case.build()
    exact = attend_split(kv, cu_rows, positions, visible, rows)
    before = kv.keys[0][1:].clone()
    padded = [torch.cat((x, torch.randn(3, *x.shape[1:]))) for x in rows]
    spare = torch.zeros(3, dtype=torch.int64)
    out = attend_split(kv, cu_rows, torch.cat((positions, spare)), torch.cat((visible, spare + 1)), padded)
    assert torch.equal(out[:3], exact)
    torch.testing.assert_close(kv.keys[0][1:], before, atol=0, rtol=0, equal_nan=True)


def test_heads_that_do_not_fit_the_scratch_come_in_further_launches(monkeypatch, poisoned):
    case = AttentionCase((70,), (1,), heads=4, kv_heads=4)
    kv, layout, rows = case.build()
    at_once = attend_split(kv, *layout, rows)
    monkeypatch.setattr(ragged_attention, "SCRATCH_BYTES", 1)
    assert torch.equal(attend_split(kv, *layout, rows), at_once)
