import subprocess
import sys

import pytest

from core.errors import OutOfBlocks
from engine.blocks import NULL_BLOCK, BlockPool
from engine.scheduler import Limits, Scheduler
from toys import request


def make(num_blocks=65, **limits):
    wanted = {"max_num_seqs": 4, "max_num_batched_tokens": 8, "max_model_len": 128, "max_drafts": 3} | limits
    return Scheduler(Limits(**wanted), BlockPool(num_blocks, 4))


def test_blocks_are_given_once_and_never_the_null_block():
    pool = BlockPool(9, 4)
    taken = pool.allocate(8)
    assert sorted(taken) == list(range(1, 9))
    assert NULL_BLOCK not in taken
    with pytest.raises(OutOfBlocks, match="1 KV blocks are needed, 0 are free"):
        pool.allocate(1)
    pool.free(taken)
    assert pool.num_free == 8


def test_decoding_sequences_come_first_and_prefill_shares_the_budget():
    scheduler = make()
    scheduler.add(request((1,) * 2, name="a"))
    scheduler.add(request((1,) * 6, name="b"))
    scheduler.add(request((1,) * 6, name="c"))
    a, b, c = scheduler.admit()
    batch = scheduler.schedule()
    assert (batch.sequences, batch.num_rows) == ((a, b), (2, 6))
    a.num_computed, b.num_computed = 2, 6
    a.tokens.append(7)
    b.tokens.append(7)
    batch = scheduler.schedule()
    assert (batch.sequences, batch.num_rows) == ((a, b, c), (1, 1, 6))
    assert batch.gamma_max == (3, 3, 0)
    assert [batch.samples(i) for i in range(3)] == [True, True, True]


def test_drafts_stop_one_short_of_max_tokens_and_at_the_requests_cap():
    scheduler = make()
    for name, options in {"room": {"max_tokens": 3}, "cap": {"max_drafts": 1}, "off": {"max_drafts": 0}}.items():
        scheduler.add(request((5,), name=name, **options))
    for sequence in scheduler.admit():
        sequence.tokens.append(6)
        sequence.num_computed = 1
    assert scheduler.schedule().gamma_max == (1, 1, 0)


def test_a_request_waits_until_blocks_for_its_whole_life_are_free():
    scheduler = make(num_blocks=13)
    scheduler.add(request((1,) * 4, name="a", max_tokens=20))
    scheduler.add(request((1,) * 4, name="b", max_tokens=20))
    (first,) = scheduler.admit()
    assert scheduler.admit() == []
    scheduler.finish(first)
    assert [s.request.id for s in scheduler.admit()] == ["b"]


def test_it_loads_no_torch():
    code = "import sys, engine.scheduler, engine.blocks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
