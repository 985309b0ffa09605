"""n choices are n jobs under one answer: counted once where they share, told apart everywhere else."""

import asyncio

import openai
import pytest

from client.wire import child_id
from core.errors import RequestError
from service.jobs import JobMaker
from service.queue import JobQueue
from tests.service.fakes import FakeEngine, fake_settings, running, spoken, until_true, worker
from tests.service.jobs import append, end_of, new_job, take

CHAT = [{"role": "user", "content": "hi"}]


def texts(bodies, index):
    choices = [choice for body in bodies for choice in body["choices"] if choice["index"] == index]
    return "".join(choice.get("text") or choice.get("delta", {}).get("content", "") for choice in choices)


def test_ids_follow_from_the_request_s_and_are_job_ids_of_their_own():
    ids = [child_id("a" * 32, index) for index in range(16)]
    assert (ids[0], len(set(ids))) == ("a" * 32, 16)
    assert all(len(one) == 32 and int(one, 16) for one in ids)
    assert ids == [child_id("a" * 32, index) for index in range(16)]


async def test_every_choice_is_there_and_the_prompt_counts_once(settings):
    engine = FakeEngine()
    async with running(settings, engine) as service:
        _, body = await service.post(prompt="abc", max_tokens=7, n=3, best_of=3)
    assert [(one["index"], one["text"]) for one in body["choices"]] == [(i, spoken(7, i)) for i in range(3)]
    usage = body["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 21, 24)
    assert len({request.nonce for request in engine.seen}) == 3
    assert sorted(request.n_index for request in engine.seen) == [0, 1, 2]


async def test_streams_interleave_and_each_has_its_opening_and_its_ending(settings):
    async with running(settings, FakeEngine()) as service:
        bodies = await service.stream(
            "/v1/chat/completions", messages=CHAT, max_tokens=9, n=2, stream_options={"include_usage": True}
        )
    *parts, usage = bodies
    assert [texts(parts, index) for index in (0, 1)] == [spoken(9, 0), spoken(9, 1)]
    for index in (0, 1):
        mine = [body["choices"][0] for body in parts if body["choices"][0]["index"] == index]
        assert mine[0]["delta"]["role"] == "assistant"
        assert [one["finish_reason"] for one in mine[1:]] == [None] * (len(mine) - 2) + ["length"]
    assert usage["usage"]["completion_tokens"] == 18


async def test_the_openai_client_reads_choices(settings):
    async with (
        running(settings, FakeEngine()) as service,
        openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as client,
    ):
        whole = await client.chat.completions.create(model="fake", messages=CHAT, max_tokens=6, n=2)
    assert [choice.message.content for choice in whole.choices] == [spoken(6, 0), spoken(6, 1)]


async def test_a_seed_keys_all_choices_alike_and_the_index_tells_them_apart(settings):
    engine = FakeEngine()
    async with running(settings, engine) as service:
        await service.post(prompt="a", n=2, seed=-3)
    assert {request.coupled_key for request in engine.seen} == {2**64 - 3}
    assert {request.n_index for request in engine.seen} == {0, 1}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_cancels_every_choice_running_or_queued(settings, queue, stream):
    engine = FakeEngine(step_s=0.02, num_slots=2)
    async with running(settings, engine) as service:
        body = {"prompt": "a", "max_tokens": 400, "stream": stream, "n": 5}
        asking = asyncio.ensure_future(service.http.post(f"{service.url}/v1/completions", json=body))
        await until_true(lambda: len(engine.running) == 2)
        if stream:
            (await asking).close()
        asking.cancel()
        await until_true(lambda: not engine.running, 2.0)
    assert (len(engine.seen), await queue.depth()) == (2, 0)


@pytest.mark.parametrize("stream", [True, False])
async def test_one_choice_that_fails_fails_the_answer_and_ends_the_others(settings, stream):
    class OneFails(FakeEngine):
        def add(self, request):
            if request.n_index == 1:
                raise RequestError("this one is refused", param="prompt", code="one")
            super().add(request)

    engine = OneFails(step_s=0.01)
    async with running(settings, engine) as service:
        body = {"prompt": "a", "max_tokens": 400, "stream": stream, "n": 2}
        async with service.http.post(f"{service.url}/v1/completions", json=body) as response:
            answer = (await response.read()).decode()
        await until_true(lambda: engine.aborted, 2.0)
    assert engine.aborted == [request.id for request in engine.seen]
    assert "this one is refused" in answer
    assert "[DONE]" not in answer


async def test_a_choice_is_taken_over_alone(settings, queue, client):
    jobs = [new_job(max_tokens=9), new_job(max_tokens=9)]
    for job in jobs:
        await queue.submit(job)
    lost = await take(queue)
    await queue.append([append(lost, 0, *spoken(3).encode()[:3])])
    await queue.release("one", [lost.entry])
    engine = FakeEngine()
    async with worker(settings, engine):
        finals = [await end_of(client, job) for job in jobs]
    assert [final.usage.completion_tokens for final in finals] == [9, 9]
    assert sorted(len(request.output_ids) for request in engine.seen) == [0, 3]


async def test_a_submission_that_broke_off_is_repeated_to_its_end(settings, queue):
    made = JobMaker(settings, None, queue, None, None)
    jobs = [new_job(id=child_id("b" * 32, index)) for index in range(3)]
    assert await queue.submit(jobs[0])
    await made.submit(jobs)
    assert await queue.depth() == 4
    claims = [await take(queue) for _ in range(4)]
    assert {claim.job.id for claim in claims if claim} == {job.id for job in jobs}
    with pytest.raises(RequestError, match="exists already"):
        await made.submit(jobs)


async def test_choices_that_do_not_fit_in_the_queue_are_all_refused(redis_url, tmp_path):
    small = fake_settings(redis_url, tmp_path / "model", max_queued_requests=2)
    async with running(small, FakeEngine()) as service:
        refused = await service.post(prompt="a", n=3)
        answered = await service.post(prompt="a", n=2)
    assert (refused[0], refused[1]["error"]["code"], answered[0]) == (503, "queue_full", 200)


async def test_what_was_queued_of_a_request_is_cancelled_if_redis_fails_before_the_rest(settings, queue, monkeypatch):
    submit, engine = JobQueue.submit, FakeEngine(step_s=0.01)

    async def fail_at_the_second(self, job, *options):
        if job.n_index == 1:
            raise OSError("Redis is away")
        return await submit(self, job, *options)

    monkeypatch.setattr(JobQueue, "submit", fail_at_the_second)
    async with running(settings, engine) as service:
        status, body = await service.post(prompt="a", max_tokens=400, n=2)
    assert (status, body["error"]["code"], await queue.depth()) == (503, "queue_down", 0)
    # Either it was ended before a worker had it, or the worker was told.
    assert engine.aborted == [request.id for request in engine.seen]
