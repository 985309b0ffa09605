"""In batch_invariant numerics a drafter's state and proposals are the same bits in any company."""

from dataclasses import replace

import pytest
import torch

from core.tensors import Commit, DraftAsk, PagedKV, Processing
from core.types import Numerics
from tests.drafters import eagle3_cases
from tests.drafters.dflash_cases import fixture_drafter, make_drafter, random_checkpoint

BLOCK_SIZE, BLOCKS = 4, 40
LENGTHS = (1, 6, 33, 140)


WINDOWS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 9}
MAKERS = {
    "dspark_vanilla": lambda numerics: fixture_drafter("dspark_vanilla", numerics),
    "dspark_gated": lambda numerics: fixture_drafter("dspark_gated", numerics),
    "dspark_rnn": lambda numerics: fixture_drafter("dspark_rnn", numerics),
    "eagle3": lambda numerics: eagle3_cases.make_drafter(eagle3_cases.fixture_target(numerics)),
    "dflash": lambda numerics: fixture_drafter("dflash", numerics),
    "window": lambda numerics: fixture_drafter("dspark_rnn", numerics, **WINDOWS),
    "causal window": lambda numerics: fixture_drafter("dflash", numerics, is_causal=True, **WINDOWS),
    "reduced": lambda numerics: make_drafter(
        *random_checkpoint(own_ends=True, draft_vocab_size=100, markov_rank=8), numerics
    ),
}


@pytest.fixture(scope="module", params=MAKERS)
def drafters(request):
    return {numerics: MAKERS[request.param](numerics) for numerics in Numerics}


def features_of(drafter):
    width = drafter.network.fc.weight.shape[1]
    return [torch.randn(length, width, generator=torch.Generator().manual_seed(length)) for length in LENGTHS]


def empty_kv(drafter, seed):
    for b in range(len(LENGTHS)):
        drafter.open(b, [], 0)
    count = len(LENGTHS) * BLOCKS
    caches = (
        tuple(torch.full((count + 1, BLOCK_SIZE, *layer), torch.nan) for layer in drafter.spec.kv_layers) for _ in "kv"
    )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return PagedKV(*caches, order.view(len(LENGTHS), BLOCKS) + 1, BLOCK_SIZE)


def extend(drafter, kv, pieces):
    """Commit some (sequence, start, stop) in one batch."""
    features = features_of(drafter)
    positions = torch.cat([torch.arange(start, stop) for _, start, stop in pieces])
    cu_rows = torch.tensor([0, *(stop - start for _, start, stop in pieces)]).cumsum(0)
    rows = torch.cat([features[b][start:stop] for b, start, stop in pieces])
    members = torch.tensor([b for b, _, _ in pieces])
    view = replace(kv, block_tables=kv.block_tables[members])
    drafter.extend(Commit(members, cu_rows, positions, positions, positions, rows, view))


def propose(drafter, kv, members):
    """Draft for some sequences in one batch; everything in a proposal, by sequence."""
    index, batch = torch.tensor(members), len(members)
    noise = torch.rand(len(LENGTHS), 7, generator=torch.Generator().manual_seed(5))[index]
    zeros = torch.zeros(batch, dtype=torch.int64)
    processing = Processing(
        torch.full((batch,), 0.8), zeros, torch.ones(batch), torch.zeros(batch), is_plain=False, truncates=False
    )
    lengths = torch.full((batch,), 7, dtype=torch.int32)
    view = replace(kv, block_tables=kv.block_tables[index])
    ask = DraftAsk(index, index + 3, torch.tensor(LENGTHS)[index], lengths, processing, noise, view)
    draft = drafter.propose(ask)
    return {b: (draft.tokens[i], draft.q_logits[i], draft.evidence[i]) for i, b in enumerate(members)}


@torch.inference_mode()
def alone(drafter):
    kv, found = empty_kv(drafter, 0), {}
    for b, length in enumerate(LENGTHS):
        extend(drafter, kv, [(b, 0, length)])
        found |= propose(drafter, kv, [b])
    return found


@torch.inference_mode()
def together(drafter, seed):
    generator = torch.Generator().manual_seed(seed)
    kv, done = empty_kv(drafter, seed), [0] * len(LENGTHS)
    while any(done[b] < length for b, length in enumerate(LENGTHS)):
        pieces = []
        for b in torch.randperm(len(LENGTHS), generator=generator).tolist():
            stop = min(LENGTHS[b], done[b] + int(torch.randint(1, 20, (), generator=generator)))
            if stop > done[b]:
                pieces.append((b, done[b], stop))
                done[b] = stop
        extend(drafter, kv, pieces)
    return propose(drafter, kv, torch.randperm(len(LENGTHS), generator=generator).tolist())


def same_bits(found, expected):
    return [all(torch.equal(a, b) for a, b in zip(found[b], expected[b], strict=True)) for b in expected]


@pytest.mark.parametrize("seed", range(1, 6))
def test_proposals_are_the_same_bits_in_any_company(drafters, seed):
    drafter = drafters[Numerics.BATCH_INVARIANT]
    assert all(same_bits(together(drafter, seed), alone(drafter)))


def test_fast_proposals_are_not_so_the_test_above_has_power(drafters):
    drafter = drafters[Numerics.FAST]
    assert not all(same_bits(together(drafter, 1), alone(drafter)))


def test_both_numerics_propose_the_same(drafters):
    fast, invariant = (alone(drafters[numerics]) for numerics in Numerics)
    for b in fast:
        assert fast[b][0].tolist() == invariant[b][0].tolist()
        torch.testing.assert_close(fast[b][1:], invariant[b][1:], atol=1e-4, rtol=1e-4)
