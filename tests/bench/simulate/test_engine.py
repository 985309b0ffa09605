"""A simulated step is the engine's step in counts: schedule, plan, admission, commit, to the hand-computed second."""

import pytest

from bench.simulate.job import Job
from core.errors import RequestError
from policies.confidence import Confidence
from policies.fixed import Fixed, Off
from policies.load_adaptive import LoadAdaptive
from tests.bench.simulate.cases import FOLLOW_S, PLAIN_S, PREFILL_S, ROW_S, engine, texts


def job(number=1, prompt_len=5, output_len=9, text=0):
    return Job(number, text, prompt_len, output_len, output_len, 0.0)


def play(simulated, jobs):
    """Step to the end; returns (seconds, tokens, verified drafts) of every step."""
    for each in jobs:
        simulated.add(each)
    steps = []
    while simulated.has_work:
        done = simulated.step()
        tokens = sum(one.num_tokens for one in done.answered)
        steps.append((pytest.approx(done.seconds), tokens, done.work.num_verified))
    return steps


def test_whoever_does_not_know_where_an_answer_ends_drafts_in_full_to_its_end():
    told, _ = engine(Fixed(3), texts(3))
    steps = play(told, [Job(1, 0, 5, 8, 8, 0.0)])
    untold, _ = engine(Fixed(3), texts(3))
    longer = play(untold, [Job(1, 0, 5, 8, 60, 0.0)])
    assert [tokens for _, tokens, _ in steps] == [tokens for _, tokens, _ in longer] == [1, 4, 3]
    assert [verified for *_, verified in steps] == [0, 3, 2]
    assert [verified for *_, verified in longer] == [0, 3, 3]


def test_plain_decoding_is_a_prefill_and_a_step_per_token():
    simulated, _ = engine(Off(), None)
    prefill = PLAIN_S + 4 * PREFILL_S
    assert play(simulated, [job(output_len=4)]) == [(prefill, 1, 0), *[(PLAIN_S, 1, 0)] * 3]


def test_a_step_yields_what_is_accepted_of_what_is_verified_and_one_more():
    simulated, _ = engine(Fixed(3), texts(accepted=2))
    prefill = PLAIN_S + 4 * PREFILL_S + FOLLOW_S
    step = PLAIN_S + FOLLOW_S + 3 * ROW_S
    assert play(simulated, [job(output_len=9)]) == [
        (prefill, 1, 0),
        (step, 3, 3),
        (step, 3, 3),
        (PLAIN_S + FOLLOW_S + ROW_S, 2, 1),
    ]


def test_verifying_less_than_is_accepted_yields_no_more_than_is_verified():
    simulated, _ = engine(Fixed(1), texts(accepted=3))
    step = PLAIN_S + FOLLOW_S + ROW_S
    assert play(simulated, [job(output_len=5)])[1:] == [(step, 2, 1), (step, 2, 1)]


def test_two_sequences_share_the_step_and_pay_each_for_itself():
    simulated, _ = engine(Fixed(3), texts(accepted=3))
    steps = play(simulated, [job(1, output_len=5), job(2, output_len=5)])
    assert steps[1] == (PLAIN_S + 2 * FOLLOW_S + 6 * ROW_S, 8, 6)


def test_admission_is_the_engines_own_and_sees_the_evidence():
    """The drafter believes in its first draft alone; a threshold lets through no other."""
    simulated, _ = engine(Confidence(0.5), texts(accepted=1))
    steps = play(simulated, [job(output_len=21)])
    assert [verified for _, _, verified in steps[1:-1]].count(1) > 0.8 * len(steps[1:-1])


def test_a_policy_that_learns_stops_drafting_where_nothing_is_accepted():
    simulated, _ = engine(LoadAdaptive(), texts(accepted=0))
    simulated.add(job(output_len=400))
    drafted = [simulated.step().work.num_drafting for _ in range(160)]
    assert sum(drafted[:20]) > 0
    assert sum(drafted[80:]) < 8


def test_a_policy_that_learns_drafts_in_full_where_everything_is_accepted():
    simulated, _ = engine(LoadAdaptive(), texts(accepted=3))
    simulated.add(job(output_len=400))
    verified = [simulated.step().work.num_verified for _ in range(50)]
    assert verified[10:] == [3] * 40


def test_what_was_streamed_before_is_computed_again_with_the_prompt():
    simulated, _ = engine(Off(), None)
    resumed = job(prompt_len=5, output_len=9)
    resumed.num_streamed = 6
    assert play(simulated, [resumed])[0] == (PLAIN_S + 10 * PREFILL_S, 1, 0)
    assert not simulated.has_work


def test_blocks_run_out_and_the_youngest_begins_again():
    simulated, _ = engine(Off(), None, kv_cache_tokens=64, block_size=4)
    steps = play(simulated, [job(1, 20, 30), job(2, 20, 30)])
    assert simulated.scheduler.num_preemptions > 0
    assert sum(tokens for _, tokens, _ in steps) == 60


def test_every_block_and_slot_is_free_when_all_is_done():
    simulated, _ = engine(Fixed(3), texts(accepted=2), kv_cache_tokens=640, max_num_seqs=4)
    free = simulated.pool.num_free
    play(simulated, [job(number, 20, 30) for number in range(10)])
    assert simulated.pool.num_free == free
    assert simulated.num_free_slots == 4


def test_a_job_that_never_fits_is_refused():
    simulated, _ = engine(Off(), None, kv_cache_tokens=64)
    with pytest.raises(RequestError, match="KV blocks"):
        simulated.add(job(prompt_len=100))
