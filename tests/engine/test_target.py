"""The target's forward over ragged batches: what it stores, and what may move a row's result."""

from dataclasses import replace

import pytest
import torch

from core.tensors import PagedKV, VerifyRows
from core.types import Numerics
from engine.target import TargetForward
from kernels.linear import can_pack
from models.load_target import load_target
from paths import FIXTURES

BLOCK_SIZE = 4
TAPS = (-1, 1, 4)
LENGTHS = (1, 9, 40, 150)
BLOCKS_PER_TEXT = 150 // BLOCK_SIZE + 1


@pytest.fixture(scope="module")
def targets():
    return {numerics: load_target(FIXTURES / "target_qwen3", torch.float32, numerics) for numerics in Numerics}


def texts(target):
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(0, target.config.vocab_size, (length,), generator=generator) for length in LENGTHS]


def cache_of(target, seed):
    """An empty cache with as many blocks as all texts need, dealt out at random."""
    config, count = target.config, len(LENGTHS)
    shape = (count * BLOCKS_PER_TEXT + 1, BLOCK_SIZE, config.num_key_value_heads, config.head_dim)
    layers, dtype = range(config.num_hidden_layers), target.dtype
    keys, values = (tuple(torch.full(shape, torch.nan, dtype=dtype) for _ in layers) for _ in range(2))
    order = torch.randperm(count * BLOCKS_PER_TEXT, generator=torch.Generator().manual_seed(seed))
    return PagedKV(keys, values, order.view(count, -1) + 1, BLOCK_SIZE)


def forward(target, kv, pieces):
    """Run some (text, start, stop) in one batch; logits and features of each row by (text, position)."""
    rows = [(text, position) for text, start, stop in pieces for position in range(start, stop)]
    known = texts(target)
    tables = kv.block_tables[[text for text, _, _ in pieces]]
    verify = VerifyRows(
        torch.stack([known[text][position] for text, position in rows]),
        torch.tensor([position for _, position in rows]),
        torch.tensor([0, *(stop - start for _, start, stop in pieces)]).cumsum(0),
        tables,
    )
    hidden, features = TargetForward(target)(verify, replace(kv, block_tables=tables), TAPS)
    return dict(zip(rows, torch.cat((target.logits(hidden), features), 1), strict=True))


@torch.inference_mode()
def alone(target):
    """Every text in one piece, one after the other."""
    found, kv = {}, cache_of(target, 0)
    for text, length in enumerate(LENGTHS):
        found |= forward(target, kv, [(text, 0, length)])
    return found


@torch.inference_mode()
def together(target, seed):
    """All texts at once, cut into random pieces, each batch in a random order, in other blocks."""
    generator = torch.Generator().manual_seed(seed)
    found, kv, done = {}, cache_of(target, seed), [0] * len(LENGTHS)
    while left := [text for text, length in enumerate(LENGTHS) if done[text] < length]:
        pieces = []
        for text in torch.randperm(len(LENGTHS), generator=generator).tolist():
            most = (1, 8, 30)[int(torch.randint(3, (), generator=generator))]
            stop = min(LENGTHS[text], done[text] + int(torch.randint(most + 1, (), generator=generator)))
            if text in left and stop > done[text]:
                pieces.append((text, done[text], stop))
                done[text] = stop
        if pieces:
            found |= forward(target, kv, pieces)
    return found


def num_different(found, expected):
    assert found.keys() == expected.keys()
    return sum(not torch.equal(found[row], expected[row]) for row in expected)


@pytest.mark.parametrize("seed", range(1, 9))
def test_batch_invariant_rows_are_the_same_bits_in_any_company(targets, seed):
    target = targets[Numerics.BATCH_INVARIANT]
    assert num_different(together(target, seed), alone(target)) == 0


@pytest.mark.skipif(not can_pack(torch.device("cpu"), torch.bfloat16), reason="this processor has no bfloat16 units")
def test_batch_invariant_bfloat16_rows_are_so_too():
    target = load_target(FIXTURES / "target_qwen3", torch.bfloat16, Numerics.BATCH_INVARIANT)
    assert num_different(together(target, 1), alone(target)) == 0


def test_fast_rows_are_not_so_the_tests_above_have_power(targets):
    target = targets[Numerics.FAST]
    assert num_different(together(target, 1), alone(target)) > 100


def test_both_numerics_compute_the_same_function(targets):
    fast, invariant = (alone(targets[numerics]) for numerics in Numerics)
    for row in fast:
        torch.testing.assert_close(fast[row], invariant[row], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("numerics", Numerics)
def test_rows_that_store_nothing_give_the_same_features_and_leave_the_cache_alone(targets, numerics):
    target = targets[numerics]
    kv = cache_of(target, 3)
    first = forward(target, kv, [(2, 0, 40), (1, 0, 9)])
    before = [tensor.clone() for tensor in (*kv.keys, *kv.values)]
    own = replace(kv, block_tables=kv.block_tables[[1, 2]])
    positions = torch.cat((torch.arange(2, 9), torch.arange(11, 31)))
    tokens = torch.cat((texts(target)[1][2:9], texts(target)[2][11:31]))
    stores = torch.zeros(27, dtype=torch.bool)
    again = VerifyRows(tokens, positions, torch.tensor([0, 7, 27]), own.block_tables, stores)
    hidden, features = TargetForward(target)(again, own, TAPS)
    found = torch.cat((target.logits(hidden), features), 1)
    tolerance = 0 if numerics is Numerics.BATCH_INVARIANT else 1e-4
    expected = [first[1, p] for p in range(2, 9)] + [first[2, p] for p in range(11, 31)]
    torch.testing.assert_close(found, torch.stack(expected), atol=tolerance, rtol=tolerance)
    for tensor, old in zip((*kv.keys, *kv.values), before, strict=True):
        torch.testing.assert_close(tensor[1:], old[1:], atol=0, rtol=0, equal_nan=True)


@torch.inference_mode()
def test_stored_and_unstored_rows_mix_in_a_batch(targets):
    target = targets[Numerics.FAST]
    kv = cache_of(target, 3)
    expected = alone(target)
    forward(target, kv, [(2, 0, 30)])
    own = replace(kv, block_tables=kv.block_tables[[2, 1]])
    positions = torch.cat((torch.arange(5, 30), torch.arange(9)))
    tokens = torch.cat((texts(target)[2][5:30], texts(target)[1]))
    stores = torch.arange(34) >= 25
    rows = VerifyRows(tokens, positions, torch.tensor([0, 25, 34]), own.block_tables, stores)
    TargetForward(target)(rows, own, TAPS)
    after = forward(target, kv, [(2, 30, 40)]) | {(1, 8): forward(target, kv, [(1, 8, 9)])[1, 8]}
    for row, result in after.items():
        torch.testing.assert_close(result, expected[row], atol=1e-4, rtol=1e-4)
