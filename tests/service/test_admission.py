"""The queue is bounded in everything that can run out, and whoever is turned away is told when to come again."""

import msgspec
import pytest

from core.errors import RequestError
from service.admission import Admission, Throughput, user_key
from tests.service.fakes import FakeEngine, fake_settings, running, until_true
from tests.service.jobs import new_job, take


def admission(queue, **limits):
    return Admission(queue, msgspec.structs.replace(queue.settings, **limits))


def job_of(user="", **fields):
    return msgspec.structs.replace(new_job(**fields), user=user_key(user))


async def fill(queue, *jobs):
    for job in jobs:
        await queue.submit(job)


async def refusal(checked):
    with pytest.raises(RequestError) as caught:
        await checked
    return caught.value.status, caught.value.code


async def test_prompt_tokens_that_no_worker_has_taken_are_bounded(queue):
    await fill(queue, job_of(prompt=[5] * 60), job_of(prompt=[5] * 30))
    await admission(queue, max_queued_tokens=100).check_tokens(10)
    assert await refusal(admission(queue, max_queued_tokens=100).check_tokens(11)) == (503, "queue_full")
    await take(queue)
    await admission(queue, max_queued_tokens=100).check_tokens(70)


async def test_every_priority_counts(queue):
    await fill(queue, *[job_of(prompt=[5] * 10, priority=priority) for priority in (0, 1, 2)])
    await admission(queue, max_queued_tokens=40).check_tokens(10)
    assert await refusal(admission(queue, max_queued_tokens=40).check_tokens(11)) == (503, "queue_full")


async def test_an_empty_queue_takes_any_prompt(queue):
    await admission(queue, max_queued_tokens=1).check_tokens(100)


async def test_what_this_gateway_let_in_counts_at_once(queue):
    door = admission(queue, max_queued_tokens=100, max_queued_per_user=1)
    await door.check(1, user_key("ann"))
    door.admitted([job_of("ann", prompt=[5] * 90)])
    assert await refusal(door.check_tokens(11)) == (503, "queue_full")
    assert await refusal(door.check(1, user_key("ann"))) == (429, "user_queue_full")


async def test_jobs_of_one_user_are_bounded_running_ones_too_and_nobody_elses(queue):
    await fill(queue, job_of("ann"), job_of("ann"), job_of("bob"), job_of())
    await take(queue)
    door = admission(queue, max_queued_per_user=2)
    assert await refusal(door.check(1, user_key("ann"))) == (429, "user_queue_full")
    await door.check(1, user_key("bob"))
    await door.check(5, user_key(None))
    await admission(queue).check(5, user_key("ann"))


async def test_a_redis_that_is_nearly_full_takes_no_more(queue, client):
    used = (await client.info("memory"))["used_memory"]
    await client.config_set("maxmemory", 2 * used)
    try:
        await admission(queue, max_memory_share=0.9).check(1, "")
        assert await refusal(admission(queue, max_memory_share=0.2).check(1, "")) == (503, "redis_full")
    finally:
        await client.config_set("maxmemory", 0)
    await admission(queue, max_memory_share=0.01).check(1, "")


def test_speed_is_what_live_workers_made_between_two_looks():
    speed = Throughput()
    speed.saw(100.0, {"one": 1000, "two": 50})
    assert speed.tokens_per_s == 0.0
    # Two started anew, three just came: neither made what it counts in this time.
    speed.saw(102.0, {"one": 1600, "two": 10, "three": 700})
    assert speed.tokens_per_s == 300.0
    speed.saw(1000.0, {"one": 1700})
    assert speed.tokens_per_s == 300.0


@pytest.mark.parametrize(("tokens_per_s", "wait_s"), [(0.0, 1), (1000.0, 1), (100.0, 6), (0.1, 60)])
async def test_when_to_come_again_is_what_stands_in_the_way_over_the_speed(queue, tokens_per_s, wait_s):
    await fill(queue, *[job_of(max_tokens=300) for _ in range(4)])
    door = admission(queue, max_queued_requests=3)
    door._throughput.tokens_per_s, door._sampled_at_s = tokens_per_s, float("inf")
    with pytest.raises(RequestError) as caught:
        await door.check(1, "")
    # Two jobs of 300 tokens have to go.
    assert caught.value.retry_after_s == wait_s


async def test_over_http_a_user_with_too_much_gets_a_429_with_retry_after(redis_url, tmp_path):
    settings, engine = fake_settings(redis_url, tmp_path / "model", max_queued_per_user=1), FakeEngine(step_s=0.02)
    async with running(settings, engine) as service:
        url, body = f"{service.url}/v1/completions", {"prompt": "abc", "max_tokens": 400, "user": "ann", "stream": True}
        async with service.http.post(url, json=body):
            await until_true(lambda: engine.running)
            async with service.http.post(url, json=body) as refused:
                assert (refused.status, (await refused.json())["error"]["code"]) == (429, "user_queue_full")
                assert 1 <= int(refused.headers["Retry-After"]) <= 60
            status, _ = await service.post(prompt="abc", max_tokens=3, user="bob")
            assert status == 200
