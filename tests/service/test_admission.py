"""The queue is bounded in everything that can run out, and whoever is turned away is told when to come again."""

import asyncio
import re
import time

import msgspec
import pytest

from core.errors import RequestError
from service.door import admission as admissions
from service.door.admission import Admission, user_key
from service.door.speed import Speed
from tests.service.fakes import FakeEngine, fake_settings, running, until_true
from tests.service.jobs import new_job, take


def admission(queue, **limits):
    return Admission(queue, msgspec.structs.replace(queue.settings, **limits), [].append)


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


async def test_what_is_on_its_way_to_the_queue_counts_when_that_is_looked_at_anew(queue, monkeypatch):
    monkeypatch.setattr(admissions, "SCAN_S", 0.0)
    monkeypatch.setattr(admissions, "ENTERING_S", 60.0)
    door, job = admission(queue, max_queued_tokens=100), job_of(prompt=[5] * 90)
    door.admitted([job])
    assert await refusal(door.check_tokens(11)) == (503, "queue_full")
    # Once, whether or not it is there by now.
    await fill(queue, job)
    await door.check_tokens(10)


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
    speed = Speed()
    speed.saw(100.0, {"one": 1000, "two": 50})
    assert speed.tokens_per_s == 0.0
    # Two started anew, three just came: neither made what it counts in this time.
    speed.saw(102.0, {"one": 1600, "two": 10, "three": 700})
    assert speed.tokens_per_s == 300.0
    speed.saw(1000.0, {"one": 1700})
    assert speed.tokens_per_s == 300.0


def full_speed(tokens_per_s=100, running=4, **last):
    """Return what is known after two looks at workers with full hands."""
    speed = Speed()
    speed.saw(0.0, {"one": 0}, running, has_waiting=True)
    speed.saw(2.0, {"one": 2 * tokens_per_s}, running, has_waiting=True)
    return speed


def test_a_wait_is_what_stands_ahead_over_the_speed_with_full_hands():
    speed = full_speed()
    assert speed.wait_s(10, 50.0, 4) == 5.0
    # Answers that end earlier than they may are worked off sooner.
    speed.answers_had(400, 20)
    assert speed.wait_s(10, 50.0, 4) == 2.0
    assert speed.wait_s(0, 50.0, 4) == 0.0


def test_a_trickle_says_nothing_of_the_speed_with_full_hands():
    speed = Speed()
    speed.saw(0.0, {"one": 0}, 1)
    speed.saw(2.0, {"one": 10}, 1)
    assert speed.wait_s(10, 50.0, 8) == 0.0
    # With one at a time still running it is all there is.
    assert speed.wait_s(1, 50.0, 1) == 10.0
    speed.saw(4.0, {"one": 410}, 8)
    assert speed.wait_s(10, 50.0, 8) == 2.5


def test_fewer_workers_are_noticed_while_jobs_wait_and_idle_ones_are_not_taken_for_slow():
    speed = full_speed(running=8)
    speed.saw(4.0, {"one": 205}, 1)
    assert speed.full_tokens_per_s == 100.0
    speed.saw(6.0, {"one": 205}, 4, has_waiting=True)
    for second in range(8, 40, 2):
        speed.saw(float(second), {"one": 205 + 50 * (second - 6)}, 4, has_waiting=True)
    assert speed.full_tokens_per_s == pytest.approx(50.0, rel=0.01)


class Unread:
    """Workers that are not asked: what the door knows of them is set."""

    async def get(self, *_):
        return None


async def waiting_door(queue, *jobs, **limits):
    """Return a door to a queue of such jobs, whose workers make 100 tokens per second."""
    await fill(queue, *jobs)
    door = admission(queue, **limits)
    door._speed, door._workers = full_speed(), Unread()
    return door


async def test_who_would_wait_too_long_is_refused_at_once_and_told_when_it_will_do(queue):
    door = await waiting_door(queue, *[job_of(max_tokens=100) for _ in range(4)])
    await door.check_wait(1, 4.0, None)
    with pytest.raises(RequestError) as caught:
        await door.check_wait(1, 2.0, None)
    assert (caught.value.status, caught.value.code, caught.value.retry_after_s) == (503, "wait_too_long", 2)
    assert door._shed.__self__ == ["wait"]


async def test_those_for_whom_there_are_slots_make_nobody_wait(queue):
    door = await waiting_door(queue, *[job_of(max_tokens=100) for _ in range(4)])
    door._num_slots = 4
    assert await refusal(door.check_wait(1, 0.9, None)) == (503, "wait_too_long")
    await door.check_wait(1, 1.0, None)
    door._num_slots = 5
    await door.check_wait(1, 0.0, None)


async def test_a_deadline_that_passes_in_the_queue_is_refused_at_the_door(queue):
    door = await waiting_door(queue, *[job_of(max_tokens=100) for _ in range(4)])
    await door.check_wait(1, float("inf"), 4000)
    assert await refusal(door.check_wait(1, float("inf"), 3000)) == (503, "wait_too_long")
    assert door._shed.__self__ == ["deadline"]


async def test_only_what_is_as_urgent_stands_before_a_job(queue):
    door = await waiting_door(queue, *[job_of(max_tokens=100, priority=priority) for priority in (0, 1, 1, 2)])
    await door.check_wait(0, 1.0, None)
    assert await refusal(door.check_wait(1, 2.9, None)) == (503, "wait_too_long")
    await door.check_wait(1, 3.0, None)
    assert await refusal(door.check_wait(2, 3.9, None)) == (503, "wait_too_long")


@pytest.mark.parametrize(("tokens_per_s", "wait_s"), [(0.0, 1), (1000.0, 1), (100.0, 6), (0.1, 60)])
async def test_when_to_come_again_is_what_stands_in_the_way_over_the_speed(queue, tokens_per_s, wait_s):
    await fill(queue, *[job_of(max_tokens=300) for _ in range(4)])
    door = admission(queue, max_queued_requests=3)
    door._speed.tokens_per_s, door._workers = tokens_per_s, Unread()
    with pytest.raises(RequestError) as caught:
        await door.check(1, "")
    # Two jobs of 300 tokens have to go.
    assert caught.value.retry_after_s == wait_s


async def seen_door(queue, num_slots, **limits):
    """Return a door that has seen the queue once, before its Redis fell silent."""
    door = admission(queue, **limits)
    door._workers = Unread()
    await door.check(1, "")
    door._num_slots = num_slots

    async def silent():
        await asyncio.sleep(60)

    door._loads._read, door._loads._read_at_s = silent, time.monotonic() - 1.0
    return door


async def test_far_from_every_bound_nobody_waits_for_the_queue_to_be_looked_at(queue):
    await fill(queue, *[job_of("ann") for _ in range(4)])
    door = await seen_door(queue, 8, max_queued_per_user=8)
    async with asyncio.timeout(1.0):
        await door.check(1, user_key("ann"))
        await door.check_tokens(10)
        await door.check_wait(1, 0.0, None)


@pytest.mark.parametrize(
    ("num_slots", "limits"),
    [
        (7, {}),
        (8, {"max_queued_per_user": 7}),
        (8, {"max_queued_requests": 7}),
        (8, {"max_queued_tokens": 7}),
    ],
)
async def test_near_a_bound_the_queue_is_looked_at_before_anybody_is_let_in(queue, num_slots, limits):
    await fill(queue, *[job_of("ann", prompt=[5]) for _ in range(4)])
    door = await seen_door(queue, num_slots, **limits)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await door.check(1, user_key("ann"))


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


async def test_tenfold_overload_is_shed_and_what_is_let_in_does_not_wait_long(redis_url, tmp_path, monkeypatch):
    """A step of 20 ms gives 4 answers 3 tokens each, answers have 40 steps: 5 come off a second, and 50 come."""
    monkeypatch.setattr(admissions, "SAMPLE_S", 0.7)
    settings = fake_settings(redis_url, tmp_path / "model", max_wait_s=1.5)
    async with running(settings, FakeEngine(step_s=0.02)) as service, asyncio.TaskGroup() as group:
        # The speed with full hands is learnt while these wait.
        first = [group.create_task(ask(service)) for _ in range(12)]
        for _ in range(4):
            await asyncio.sleep(0.5)
            first.append(group.create_task(ask(service)))
        tasks = []
        for _ in range(80):
            tasks.append(group.create_task(ask(service)))
            await asyncio.sleep(0.02)
        found = [await task for task in tasks]
        await asyncio.gather(*first)
        metrics = await (await service.http.get(f"{service.url}/metrics")).text()
    waits = [wait_s for status, wait_s in found if status == 200]
    assert {status for status, _ in found} == {200, 503}
    assert 3 <= len(waits) <= 30
    # Half a second more than what was predicted, at most, and as much again: slots become free four at a time.
    assert max(waits) < 3.0
    num_shed = float(re.search(r'specd_shed_total{model_name="fake",reason="wait"} (.*)', metrics)[1])
    assert num_shed >= len(found) - len(waits)


async def ask(service):
    """Return the status, and when the first token came or when to come again."""
    begin_s, body = time.monotonic(), {"prompt": "abc", "max_tokens": 120, "stream": True}
    async with service.http.post(f"{service.url}/v1/completions", json=body) as response:
        if response.status != 200:
            return response.status, float(response.headers["Retry-After"])
        await response.content.readuntil(b"token_ids")
        wait_s = time.monotonic() - begin_s
        await response.read()
        return response.status, wait_s


async def test_a_crowd_that_comes_at_once_is_bounded_too(redis_url, tmp_path, monkeypatch):
    """All of them look at the queue before any of them stands in it."""
    settings = fake_settings(redis_url, tmp_path / "model", max_wait_s=1.0)
    monkeypatch.setattr(admissions, "Speed", full_speed)
    monkeypatch.setattr(admissions, "SAMPLE_S", 60.0)
    async with running(settings, FakeEngine(step_s=0.02)) as service:
        found = await asyncio.gather(*(ask(service) for _ in range(40)))
    # Of 120 tokens each, at 100 a second: beside those that found no others, one may wait.
    assert sum(status == 200 for status, _ in found) <= 8
