"""Blocks are given once, shared by content, and given away oldest first; draft rows never cost a cached one."""

import pytest

from core.errors import OutOfBlocks
from engine.blocks import NULL_BLOCK, BlockPool
from engine.prefix import extend_chain


def chain(tokens, salt="", size=4):
    hashes = []
    extend_chain(hashes, tokens, size, salt, len(tokens) // size)
    return hashes


def filled(pool, tokens):
    """Blocks that hold `tokens`, published and read by one sequence."""
    hashes = chain(tokens)
    blocks = pool.allocate(len(hashes))
    for block, block_hash in zip(blocks, hashes, strict=True):
        pool.publish(block, block_hash)
    return blocks, hashes


def test_blocks_are_given_once_and_never_the_null_block():
    pool = BlockPool(9, 4)
    taken = pool.allocate(8)
    assert sorted(taken) == list(range(1, 9))
    assert NULL_BLOCK not in taken
    with pytest.raises(OutOfBlocks, match="1 KV blocks are needed, 0 are free"):
        pool.allocate(1)
    pool.release(taken)
    assert pool.num_free == 8


def test_a_published_block_is_found_again_after_its_readers_left():
    pool = BlockPool(9, 4)
    blocks, hashes = filled(pool, list(range(8)))
    pool.release(blocks)
    assert pool.num_free == 8
    assert pool.match(hashes) == blocks
    assert pool.num_taken_by(blocks) == 2
    pool.share(blocks)
    assert pool.num_free == 6
    assert pool.num_taken_by(blocks) == 0


def test_a_prefix_matches_only_as_far_as_all_before_it_is_the_same():
    pool = BlockPool(9, 4)
    blocks, _ = filled(pool, [1, 2, 3, 4, 5, 6, 7, 8])
    assert pool.match(chain([1, 2, 3, 4, 0, 6, 7, 8])) == blocks[:1]
    assert pool.match(chain([0, 2, 3, 4, 5, 6, 7, 8])) == []


def test_tenants_share_nothing():
    assert set(chain(list(range(8)), "a")).isdisjoint(chain(list(range(8)), "b"))


def test_of_equal_blocks_the_first_is_found_and_the_others_are_blank_when_left():
    pool = BlockPool(9, 4)
    first, hashes = filled(pool, list(range(8)))
    second, _ = filled(pool, list(range(8)))
    pool.release(second)
    assert pool.match(hashes) == first
    assert pool.allocate_scratch(6) is not None


def test_cached_blocks_go_least_recently_used_first_and_the_end_of_a_text_before_its_start():
    pool = BlockPool(7, 4)
    old, old_hashes = filled(pool, list(range(12)))
    new, new_hashes = filled(pool, list(range(100, 112)))
    pool.release(old)
    pool.release(new)
    pool.allocate(2)
    assert pool.match(old_hashes) == old[:1]
    assert pool.match(new_hashes) == new
    pool.allocate(2)
    assert pool.match(old_hashes) == []
    assert pool.match(new_hashes) == new[:2]


def test_draft_rows_have_blocks_of_their_own_and_cost_no_cached_one():
    pool = BlockPool(9, 4, num_scratch=2)
    assert pool.num_usable == pool.num_free == 6
    blocks, hashes = filled(pool, list(range(24)))
    pool.release(blocks)
    assert pool.allocate_scratch(3) is None
    scratch = pool.allocate_scratch(2)
    assert pool.match(hashes) == blocks
    pool.release(scratch)
    # A block of drafts that were kept is paid for by the next allocation: scratch stays blank.
    pool.allocate(3)
    assert pool.allocate_scratch(2) is not None
    assert len(pool.match(hashes)) == 3


def test_a_validity_bit_lives_as_long_as_the_content_it_speaks_of():
    pool = BlockPool(3, 4)
    blocks, hashes = filled(pool, list(range(8)))
    pool.set_valid(blocks[0], 1)
    pool.release(blocks)
    pool.share(pool.match(hashes)[:1])
    assert pool.is_valid(blocks[0], 1)
    assert not pool.is_valid(blocks[0], 0)
    pool.release(blocks[:1])
    assert not any(pool.is_valid(block, 1) for block in pool.allocate(2))
