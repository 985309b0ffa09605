"""Stop texts over the whole service: the answer ends at the stop, and nothing past it is shown, stored or counted."""

import asyncio

import pytest

from core.types import FinishReason
from service.queue import JobQueue
from tests.service.fakes import BYTES, FakeEngine, running, spoken, until_true, worker
from tests.service.jobs import append, end_of, new_job, take, text_of, tokens_of

# Begins with the fourth token of what the engine recites, and ends with its eighth: inside the third step.
STOP = "üße"
UP_TO = 8


async def test_the_answer_ends_before_the_stop_and_the_engine_is_told(settings):
    engine = FakeEngine()
    async with running(settings, engine) as service:
        _, body = await service.post(prompt="a", max_tokens=300, stop=STOP)
        await until_true(lambda: engine.aborted)
    (choice,) = body["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("Gr", "stop")
    assert body["usage"]["completion_tokens"] == UP_TO - 1
    assert engine.aborted == [engine.seen[0].id]


async def test_counts_hold_nothing_of_what_comes_after_the_stop(settings):
    async with running(settings, FakeEngine()) as service:
        _, body = await service.post(prompt="a", max_tokens=300, stop=["r"])
    spec = body["metrics"]["speculative_decoding"]
    # One step of three tokens, two of them drafts, ends with its second.
    assert (body["choices"][0]["text"], body["usage"]["completion_tokens"]) == ("G", 2)
    assert (spec["num_spec_steps"], spec["num_draft_tokens"], spec["num_accepted_draft_tokens"]) == (1, 2, 2)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_stop_is_shown_when_asked_for(settings, stream):
    async with running(settings, FakeEngine()) as service:
        asked = {"prompt": "a", "max_tokens": 300, "stop": ["€5", STOP], "include_stop_str_in_output": True}
        if not stream:
            _, body = await service.post(**asked)
            text = body["choices"][0]["text"]
        else:
            text = "".join([body["choices"][0]["text"] for body in await service.stream(**asked)])
    assert text == "Grüße"


async def test_what_may_begin_a_stop_comes_at_the_end_when_it_was_none(settings):
    async with running(settings, FakeEngine()) as service:
        bodies = await service.stream(prompt="a", max_tokens=4, stop=[spoken(4)[1:] + "no"])
    texts = [body["choices"][0]["text"] for body in bodies]
    assert (texts, bodies[-1]["choices"][0]["finish_reason"]) == (["G", "", "rü"], "length")


async def test_no_stop_ends_the_answer_before_min_tokens(settings):
    async with running(settings, FakeEngine()) as service:
        _, body = await service.post(prompt="a", max_tokens=300, stop=["r"], min_tokens=6)
    second = BYTES.index(b"r", 2) + 1
    assert body["usage"]["completion_tokens"] == second
    assert body["choices"][0]["text"] == BYTES[: second - 1].decode()


async def test_a_worker_that_takes_over_in_the_middle_of_a_stop_still_finds_it(settings, queue, client):
    job = new_job(max_tokens=300, stop=(STOP,))
    await queue.submit(job)
    lost = await take(queue)
    # The first four tokens are out, of which the third and fourth may begin the stop.
    await queue.append([append(lost, 0, *BYTES[:4])])
    await queue.release("one", [lost.entry])
    async with worker(settings, FakeEngine()):
        final = await end_of(client, job)
    assert (final.reason, final.tail, final.usage.completion_tokens) == (FinishReason.STOP, "", UP_TO - 1)
    assert bytes(await tokens_of(client, job.id)) == BYTES[: UP_TO - 1]


async def test_a_stream_whose_stop_was_written_only_gets_its_final(settings, queue, client):
    job = new_job(max_tokens=300, stop=("r",))
    await queue.submit(job)
    lost = await take(queue)
    await queue.append([append(lost, 0, *BYTES[:2], reason=FinishReason.STOP)])
    await queue.release("one", [lost.entry])
    engine = FakeEngine()
    async with worker(settings, engine):
        final = await end_of(client, job)
    assert (final.reason, final.tail, final.usage.completion_tokens, engine.seen) == (FinishReason.STOP, "", 2, [])


async def test_a_redis_that_fails_while_an_answer_ends_neither_loses_nor_repeats_its_text(
    settings, queue, client, monkeypatch
):
    failed, finish = [], JobQueue.finish

    async def finish_at_second_try(self, endings):
        if endings and not failed:
            failed.append(endings)
            raise OSError("Redis is away")
        return await finish(self, endings)

    monkeypatch.setattr(JobQueue, "finish", finish_at_second_try)
    job = new_job(max_tokens=4, stop=("rü!",))
    async with worker(settings, FakeEngine()):
        await queue.submit(job)
        final = await asyncio.wait_for(end_of(client, job), 5)
    assert failed
    assert (await text_of(client, job), final.reason) == (spoken(4), FinishReason.LENGTH)
