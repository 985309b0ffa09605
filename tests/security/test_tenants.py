"""What belongs to one key's owner does not exist for another, and nobody gets more than their key allows."""

import asyncio

from tests.security.conftest import key_of
from tests.service.fakes import FakeEngine, running, until, until_true


async def ask(service, name, path="/v1/completions", method="POST", headers=None, **body):
    async with service.http.request(
        method, service.url + path, json=body or None, headers=key_of(name) | (headers or {})
    ) as response:
        return response.status, await response.json(), response.headers


async def test_another_tenant_s_job_does_not_exist(settings):
    async with running(settings, FakeEngine()) as service:
        _, made, _ = await ask(service, "alice", "/v1/jobs", prompt="a", max_tokens=3)
        path = f"/v1/jobs/{made['id']}"
        for method, which in (("GET", path), ("GET", f"{path}/events"), ("POST", f"{path}/cancel"), ("DELETE", path)):
            status, told, _ = await ask(service, "bob", which, method)
            assert (status, told["error"]["code"]) == (404, "job_not_found"), which
        assert (await ask(service, "alice", path, "GET"))[0] == 200
        assert (await ask(service, "alice", path, "DELETE"))[0] == 200


async def test_an_idempotency_key_is_its_tenant_s_own(settings):
    async with running(settings, FakeEngine()) as service:
        made = [
            (await ask(service, name, "/v1/jobs", headers={"Idempotency-Key": "k"}, prompt="a"))[1]["id"]
            for name in ("alice", "alice", "bob", "alice")
        ]
    assert made[0] == made[1] == made[3] != made[2]


async def test_cached_prompts_are_shared_with_nobody(settings):
    engine = FakeEngine()
    async with running(settings, engine) as service:
        for name in ("alice", "bob"):
            await ask(service, name, prompt="a")
            await ask(service, name, prompt="a", cache_salt="alice/")
    salts = [request.cache_salt for request in engine.seen]
    assert len(set(salts)) == 4
    assert salts[0] != ""


async def test_who_asks_too_often_is_told_when_to_come_again(settings):
    async with running(settings, FakeEngine()) as service:
        # Twelve a minute: two at once, then one every five seconds.
        statuses = [(await ask(service, "often", prompt="a"))[0] for _ in range(3)]
        status, told, headers = await ask(service, "often", prompt="a")
        assert statuses[:2] == [200, 200]
        assert (status, told["error"]["code"]) == (429, "rate_limit_exceeded")
        assert 1 <= int(headers["Retry-After"]) <= 5
        assert (await ask(service, "alice", prompt="a"))[0] == 200
        assert (await ask(service, "often", "/v1/models", "GET"))[0] == 200


async def test_no_more_at_once_than_the_key_allows_over_all_gateways_and_room_again_when_they_end(settings):
    engine = FakeEngine(step_s=0.01)
    async with running(settings, engine) as service:
        jobs = [(await ask(service, "many", "/v1/jobs", prompt="a", max_tokens=400))[1]["id"] for _ in range(2)]
        await until_true(lambda: len(engine.running) == 2)
        status, told, headers = await ask(service, "many", prompt="a", max_tokens=3)
        assert (status, told["error"]["code"], int(headers["Retry-After"])) == (429, "too_many_at_once", 1)
        assert (await ask(service, "alice", prompt="a", max_tokens=3))[0] == 200
        await ask(service, "many", f"/v1/jobs/{jobs[0]}/cancel")
        await until(lambda: status_once(service), 200)
        # Two choices are two at once: they do not fit beside the job that runs.
        assert (await ask(service, "many", prompt="a", max_tokens=3, n=2))[0] == 429
        await ask(service, "many", f"/v1/jobs/{jobs[1]}", "DELETE")
        assert (await ask(service, "many", prompt="a", max_tokens=3, n=2))[0] == 200


async def status_once(service):
    return (await ask(service, "many", prompt="a", max_tokens=3))[0]


async def test_of_many_at_the_same_moment_no_more_get_in_than_may(settings):
    engine = FakeEngine(step_s=0.02)
    async with running(settings, engine) as service:
        asked = [ask(service, "many", prompt="a", max_tokens=60) for _ in range(8)]
        statuses = [status for status, _, _ in await asyncio.gather(*asked)]
    assert sorted(statuses) == [200] * 2 + [429] * 6


async def test_what_a_key_does_not_allow_is_refused(settings):
    async with running(settings, FakeEngine()) as service:
        for name, body, told in (
            ("long", {"prompt": "abcde"}, (400, "prompt_too_long")),
            ("urgent", {"prompt": "a", "priority": 0}, (403, "priority_not_allowed")),
            ("urgent", {"prompt": "a", "priority": -1}, (403, "priority_not_allowed")),
        ):
            status, error, _ = await ask(service, name, **body)
            assert (status, error["error"]["code"]) == told


async def test_what_a_key_allows_is_served(settings):
    engine = FakeEngine()
    async with running(settings, engine) as service:
        assert (await ask(service, "long", prompt="abcd"))[0] == 200
        assert (await ask(service, "urgent", prompt="a", priority=1))[0] == 200
        assert (await ask(service, "urgent", prompt="a"))[0] == 200
        assert (await ask(service, "alice", prompt="a", priority=-1))[0] == 200
    # To the engine greater is more urgent: low, low for want of a word, high.
    assert [request.priority for request in engine.seen[1:]] == [0, 0, 2]
