"""The history checker passes what is right and finds each way in which a history can be wrong."""

import pytest

from client.wire import Chunk, Final, Usage
from core.types import FinishReason
from tests.faults.history import log_violations
from tests.faults.recital import token_after
from tests.faults.world import new_jobs

NUM_TOKENS, TAKEN_OVER_AT = 12, 6


@pytest.fixture
def job():
    return new_jobs(1, max_tokens=NUM_TOKENS)[0]


def right_log(job, epochs=None):
    """Return a log in which another worker went on after half of the tokens."""
    tokens = []
    for index in range(NUM_TOKENS):
        epoch = epochs[index] if epochs else 1 + (index >= TAKEN_OVER_AT)
        tokens.append(token_after(job.prompt_ids, tokens, epoch))
    chunks = [tokens[at : at + 3] for at in range(0, NUM_TOKENS, 3)]
    events = [Chunk(tuple(chunk), tuple(map(chr, chunk))) for chunk in chunks]
    return numbered([*events, Final(FinishReason.LENGTH, Usage(8, NUM_TOKENS))])


def numbered(events):
    """Give events the ids that their counts call for: whoever writes wrongly may still count rightly."""
    log, count = [], 0
    for event in events:
        count += len(event.token_ids) if isinstance(event, Chunk) else 0
        log.append((f"{count}-{int(isinstance(event, Final))}", event))
    return log


def events_of(log):
    return [event for _, event in log]


def test_an_answer_that_another_worker_went_on_with_is_right(job):
    assert log_violations(job, right_log(job)) == []


WRONG = {
    "a chunk is lost": lambda e: [e[0], *e[2:]],
    "a chunk is repeated": lambda e: [e[0], e[0], *e[1:]],
    "chunks are reordered": lambda e: [e[1], e[0], *e[2:]],
    "the answer begins anew": lambda e: [*e[:2], *e],
    "the end is missing": lambda e: e[:-1],
    "it ends twice": lambda e: [*e, e[-1]],
    "tokens follow the end": lambda e: [*e[:-2], e[-1], e[-2]],
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_found(job, wrong):
    assert log_violations(job, numbered(WRONG[wrong](events_of(right_log(job)))))


def test_tokens_of_a_worker_that_had_lost_the_job_are_found(job):
    zombie_wakes = [1] * 3 + [2] * 3 + [1] * 6
    assert log_violations(job, right_log(job, zombie_wakes))


def test_the_answer_to_another_job_is_found(job):
    assert log_violations(job, right_log(new_jobs(1, max_tokens=NUM_TOKENS)[0]))


def test_an_id_that_is_not_the_count_is_found(job):
    log = right_log(job)
    assert log_violations(job, [("4-0", log[0][1]), *log[1:]])
