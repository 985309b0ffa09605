import subprocess
import sys

import pytest

from core.errors import RequestError
from engine.blocks import BlockPool
from engine.scheduler import Limits, Scheduler
from engine.sequence import Sequence
from toys import request


def make(num_blocks=65, **limits):
    wanted = {"max_num_seqs": 4, "max_num_batched_tokens": 8, "max_model_len": 128} | limits
    return Scheduler(Limits(**wanted), BlockPool(num_blocks + 4, 4, num_scratch=4))


def queue(scheduler, prompt, drafts=3, **options):
    sequence = Sequence(request(prompt, **options), max_drafts=drafts, scratch_rows=3)
    scheduler.add(sequence)
    return sequence


def advance(scheduler, batch):
    """Compute what was scheduled, drafters kept up with it, and give those that reached their end a next token."""
    for b, sequence in enumerate(batch.sequences):
        if batch.samples(b):
            sequence.tokens.append(7)
        sequence.num_computed += batch.num_rows[b]
        sequence.extended = sequence.num_computed
        scheduler.commit(sequence)


def test_decoding_sequences_come_first_and_prefill_shares_the_budget():
    scheduler = make()
    a, b, c = (queue(scheduler, (start,) * size, name=str(start)) for start, size in ((1, 2), (2, 6), (3, 6)))
    batch = scheduler.schedule()
    assert (batch.sequences, batch.num_rows, batch.admitted) == ((a, b), (2, 6), (a, b, c))
    advance(scheduler, batch)
    batch = scheduler.schedule()
    assert (batch.sequences, batch.num_rows, batch.spare_rows) == ((a, b, c), (1, 1, 6), 2)
    assert batch.gamma_max == (3, 3, 0)
    assert [batch.samples(i) for i in range(3)] == [True, True, True]


def test_drafts_stop_one_short_of_max_tokens_and_at_the_sequences_cap():
    scheduler = make()
    queue(scheduler, (5,), name="room", max_tokens=3)
    queue(scheduler, (5,), 1, name="cap")
    queue(scheduler, (5,), 0, name="off")
    assert scheduler.schedule().gamma_max == (2, 1, 0)


def test_a_sequence_whose_drafter_is_stale_gets_no_rows_for_drafts():
    scheduler = make()
    sequence = queue(scheduler, (1,) * 4, name="a")
    advance(scheduler, scheduler.schedule())
    sequence.extended = 2
    batch = scheduler.schedule()
    assert batch.gamma_max == (0,)
    assert len(sequence.blocks) == 2


def test_blocks_come_as_rows_need_them_and_those_of_lost_drafts_go_back():
    scheduler = make()
    sequence = queue(scheduler, (1,) * 9, name="a")
    batch = scheduler.schedule()
    assert len(sequence.blocks) == 2
    advance(scheduler, batch)
    advance(scheduler, scheduler.schedule())
    assert len(sequence.blocks) == 3
    for _ in range(2):
        batch = scheduler.schedule()
        assert batch.grown == (sequence,)
        assert len(sequence.blocks) == 4
        advance(scheduler, batch)
        assert len(sequence.blocks) == 3


def test_nobody_is_admitted_before_its_tokens_and_those_of_all_running_fit():
    scheduler = make(num_blocks=8)
    first = queue(scheduler, (1,) * 12, name="a", max_tokens=12)
    queue(scheduler, (2,) * 16, name="b", max_tokens=8)
    assert scheduler.schedule().admitted == (first,)
    assert scheduler.num_free_slots == 2
    scheduler.finish(first)
    assert [s.request.id for s in scheduler.schedule().admitted] == ["b"]


def test_when_blocks_run_out_the_youngest_starts_again_from_what_is_cached():
    scheduler = make(num_blocks=6, max_num_batched_tokens=64)
    old = queue(scheduler, (1,) * 7, name="old", max_tokens=13)
    young = queue(scheduler, (2,) * 7, name="young", max_tokens=13)
    while not (batch := scheduler.schedule()).preempted:
        advance(scheduler, batch)
    ((_, victim),) = batch.preempted
    assert victim is young
    assert batch.sequences == (old,)
    assert (young.slot, young.num_computed, young.blocks) == (-1, 0, [])
    assert scheduler.num_preemptions == 1
    kept = list(young.tokens)
    scheduler.finish(old)
    assert scheduler.schedule().admitted == (young,)
    assert young.tokens == kept
    assert young.num_computed == (len(kept) - 1) // 4 * 4 > 0
    # What a request finds after a preemption is its own: it says nothing of how well prefixes are shared.
    assert (scheduler.prefix_queries, scheduler.prefix_hits) == (14, 0)


def test_a_known_prefix_is_not_computed_again_but_for_its_last_token():
    scheduler = make(max_num_batched_tokens=64)
    first = queue(scheduler, tuple(range(12)), name="a")
    advance(scheduler, scheduler.schedule())
    second = queue(scheduler, tuple(range(12)), name="b")
    other = queue(scheduler, (*range(6), 0, 0, 0), name="c")
    scheduler.schedule()
    assert (second.num_cached, other.num_cached) == (8, 4)
    assert second.blocks[:2] == first.blocks[:2]
    assert (scheduler.prefix_queries, scheduler.prefix_hits) == (33, 12)


def test_without_a_prefix_cache_nothing_is_shared():
    scheduler = make(max_num_batched_tokens=64, prefix_cache=False)
    queue(scheduler, tuple(range(12)), name="a")
    advance(scheduler, scheduler.schedule())
    second = queue(scheduler, tuple(range(12)), name="b")
    scheduler.schedule()
    assert second.num_cached == 0


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "message"),
    [((), 5, "at least one token"), ((1,) * 100, 29, "this model takes 128"), ((1,) * 60, 20, "needs 20 KV blocks")],
)
def test_what_can_never_run_is_refused(prompt, max_tokens, message):
    scheduler = make(num_blocks=17)
    with pytest.raises(RequestError, match=message):
        queue(scheduler, prompt, max_tokens=max_tokens)
    assert not scheduler.waiting


def test_it_loads_no_torch():
    code = "import sys, engine.scheduler, engine.blocks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
