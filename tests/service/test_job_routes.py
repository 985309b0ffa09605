"""Jobs over real HTTP and a real Redis: made once, followed from any place on any gateway, and ended only on demand."""

import asyncio
import json

import msgspec
import pytest

from client.wire import job_key, out_stream
from core.config import ServerSettings
from service.answers import respond
from service.door import idempotency
from service.door.idempotency import Held, IdempotencyKeys, idempotency_key
from service.door.tenants import ANYBODY
from service.main import base_url, free_port
from service.queue import JobQueue
from service.upkeep import lost_jobs
from tests.service.fakes import FakeEngine, gateway, running, spoken, until

CHAT = [{"role": "user", "content": "hi"}]
# Every step of this engine takes long enough for a test to come in between.
SLOW_S = 0.02


def other_port(settings):
    """Settings of another gateway of the same service."""
    return msgspec.structs.replace(settings, server=ServerSettings(port=free_port("127.0.0.1"), model_name="fake"))


async def call(service, method, path="", headers=None, **body):
    json_body = body if method == "POST" and not path else None
    async with service.http.request(
        method, f"{service.url}/v1/jobs{path}", json=json_body, headers=headers
    ) as response:
        return response.status, await response.json()


async def make(service, **body):
    status, job = await call(service, "POST", **body)
    assert status == 202, job
    return job["id"]


async def show(service, job_id):
    status, job = await call(service, "GET", f"/{job_id}")
    assert status == 200, job
    return job


async def ended(service, job_id):
    """Wait for a job's end and return the job."""
    await until(lambda: state_of(service, job_id), False)
    return await show(service, job_id)


async def state_of(service, job_id):
    return (await show(service, job_id))["state"] in ("queued", "running")


async def state_is(service, job_id, state):
    await until(lambda: named_state(service, job_id), state)


async def named_state(service, job_id):
    return (await show(service, job_id))["state"]


async def read(service, job_id, after="", *, by_query=False, url=None):
    """Return (id, body) of each event after `after`; the stream must end with [DONE]."""
    headers = {"Last-Event-ID": after} if after and not by_query else {}
    query = f"?starting_after={after}" if by_query else ""
    address = f"{url or service.url}/v1/jobs/{job_id}/events{query}"
    async with service.http.get(address, headers=headers) as response:
        assert response.status == 200, await response.read()
        *events, done, rest = (await response.read()).split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    found = []
    for event in events:
        head, data = event.split(b"\n")
        found.append((head.removeprefix(b"id: ").decode(), json.loads(data.removeprefix(b"data: "))))
    return found


def text_of(events, index=0):
    found = [body["choices"][0] for _, body in events if body.get("choices")]
    return "".join(
        choice["text"] if "text" in choice else choice["delta"].get("content", "")
        for choice in found
        if choice["index"] == index
    )


# --- Making and showing ------------------------------------------------------------------------------------------


async def test_a_job_is_made_shown_and_answered(settings):
    async with running(settings, FakeEngine()) as service:
        status, made = await call(service, "POST", prompt="abc", max_tokens=30)
        assert (status, made["object"], made["state"] in ("queued", "running")) == (202, "job", True)
        assert made["links"]["events"] == f"/v1/jobs/{made['id']}/events"
        job = await ended(service, made["id"])
        _, plain = await service.post(prompt="abc", max_tokens=30)
    assert (job["state"], job["error"]) == ("done", None)
    assert job["usage"] == {"prompt_tokens": 3, "completion_tokens": 30, "total_tokens": 33}
    answer = job["answer"]
    assert answer["choices"] == plain["choices"]
    assert answer["choices"][0]["text"] == spoken(30)
    assert (answer["usage"], answer["metrics"]) == (plain["usage"], plain["metrics"])


async def test_all_choices_of_a_chat_are_shown(settings):
    async with running(settings, FakeEngine()) as service:
        job_id = await make(service, messages=CHAT, max_tokens=20, n=3)
        job = await ended(service, job_id)
        events = await read(service, job_id)
    said = [choice["message"]["content"] for choice in job["answer"]["choices"]]
    assert said == [spoken(20, index) for index in range(3)] == [text_of(events, index) for index in range(3)]
    assert job["usage"]["completion_tokens"] == events[-1][1]["usage"]["completion_tokens"] == 60
    first = {}
    for _, body in events[:-1]:
        first.setdefault(body["choices"][0]["index"], body["choices"][0]["delta"])
    assert [first[index]["role"] for index in range(3)] == ["assistant"] * 3


async def test_a_job_that_fails_says_why_in_its_state_and_its_last_event(settings):
    async with running(settings, FakeEngine()) as service:
        job_id = await make(service, prompt=[0])
        job = await ended(service, job_id)
        events = await read(service, job_id)
        again = await read(service, job_id, "end")
    assert (job["state"], job["answer"], job["error"]["code"]) == ("failed", None, "zero")
    assert events == [("end", {"error": job["error"]})]
    assert again == []


async def test_what_is_wrong_is_refused_in_openai_s_shape(settings):
    unknown, told = "f" * 32, []
    async with running(settings, FakeEngine()) as service:
        job_id = await make(service, prompt="a", max_tokens=6)
        await ended(service, job_id)
        for method, path, headers, body in [
            ("POST", "", None, {}),
            ("POST", "", None, {"prompt": "a", "messages": CHAT}),
            ("POST", "", None, {"prompt": "a", "stream": True}),
            ("POST", "", {"Idempotency-Key": "k" * 256}, {"prompt": "a"}),
            ("GET", "/123", None, {}),
            ("GET", f"/{unknown}", None, {}),
            ("GET", f"/{unknown}/events", None, {}),
            ("POST", f"/{unknown}/cancel", None, {}),
            ("DELETE", f"/{unknown}", None, {}),
            ("PUT", f"/{unknown}", None, {}),
            *(
                ("GET", f"/{job_id}/events", {"Last-Event-ID": bad}, {})
                for bad in ("x", "7", "6ff", "3.3", "-1", "end.end", "6f.")
            ),
        ]:
            status, answer = await call(service, method, path, headers, **body)
            told.append((status, answer["error"]["code"]))
            assert set(answer["error"]) == {"message", "type", "param", "code"}
    bad_event = [(400, "bad_event_id")] * 7
    assert told == [
        *[(400, "invalid_value")] * 3,
        *[(400, "bad_idempotency_key"), (400, "bad_job_id")],
        *[(404, "job_not_found")] * 4,
        *[(405, "method_not_allowed"), *bad_event],
    ]


# --- Once per key ------------------------------------------------------------------------------------------------


async def test_one_key_makes_one_job_also_when_asked_at_once_on_two_gateways(settings):
    engine, second = FakeEngine(), other_port(settings)
    key = {"Idempotency-Key": "my-key"}
    async with running(settings, engine) as service, gateway(second) as http:

        async def on_the_second():
            body = {"max_tokens": 9, "prompt": "abc"}
            async with http.post(f"{base_url(second)}/v1/jobs", json=body, headers=key) as response:
                return response.status, await response.json()

        ones = [call(service, "POST", headers=key, prompt="abc", max_tokens=9) for _ in range(4)]
        answers = await asyncio.gather(*ones, *(on_the_second() for _ in range(4)))
        ids = {body["id"] for _, body in answers}
        assert ({status for status, _ in answers}, len(ids)) == ({202}, 1)
        await ended(service, *ids)
        later = await call(service, "POST", headers=key, prompt="abc", max_tokens=9)
        other = await call(service, "POST", headers=key, prompt="abc", max_tokens=8)
        refused = await call(service, "POST", headers={"Idempotency-Key": "k2"}, prompt="a", min_tokens=99)
        corrected = await call(service, "POST", headers={"Idempotency-Key": "k2"}, prompt="a")
    assert (later[0], later[1]["id"], later[1]["state"]) == (202, *ids, "done")
    assert (other[0], other[1]["error"]["code"]) == (422, "idempotency_key_reused")
    assert (refused[0], corrected[0]) == (400, 202)
    assert len([request for request in engine.seen if bytes(request.prompt_ids) == b"abc"]) == 1


async def test_a_key_held_by_a_gateway_that_died_is_free_again_soon(settings, queue):
    dead = Held("d" * 32, "of some request")
    await IdempotencyKeys(queue.scripts, 60).hold(idempotency_key(ANYBODY, "k"), dead)
    async with running(settings, FakeEngine()) as service:
        status, body = await call(service, "POST", headers={"Idempotency-Key": "k"}, prompt="a")
        assert (status, body["error"]["code"]) == (422, "idempotency_key_reused")
        assert 0 < await queue.client.ttl(idempotency_key(ANYBODY, "k")) <= idempotency.HOLD_S
        await queue.client.pexpire(idempotency_key(ANYBODY, "k"), 1)
        await until(lambda: status_under(service, "k"), 202)
        again = await call(service, "POST", headers={"Idempotency-Key": "k"}, prompt="a")
    assert again[1]["id"] != dead.job_id


async def status_under(service, key):
    return (await call(service, "POST", headers={"Idempotency-Key": key}, prompt="a"))[0]


async def test_a_gateway_too_slow_to_keep_its_key_makes_way_for_the_other_s_job(settings, queue, monkeypatch):
    """The hold lapses while the job is queued: both requests must end up with the job of the one that took over."""
    keys, submit, engine = IdempotencyKeys(queue.scripts, 60), JobQueue.submit, FakeEngine()
    slow = []

    async def lose_the_hold(self, job, *options):
        created = await submit(self, job, *options)
        if not slow:
            slow.append(job.id)
            await queue.client.delete(idempotency_key(ANYBODY, "k"))
        return created

    monkeypatch.setattr(JobQueue, "submit", lose_the_hold)
    async with running(settings, engine) as service:
        _, made = await call(service, "POST", headers={"Idempotency-Key": "k"}, prompt="a")
        _, again = await call(service, "POST", headers={"Idempotency-Key": "k"}, prompt="a")
        assert (await ended(service, made["id"]))["state"] == "done"
        assert (await call(service, "GET", f"/{slow[0]}"))[0] == 404
    assert made["id"] == again["id"] != slow[0]
    assert (await keys.hold(idempotency_key(ANYBODY, "k"), Held("e" * 32, ""))).job_id == made["id"]


# --- Following ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "a", "max_tokens": 50, "return_token_ids": True},
        {"messages": CHAT, "max_tokens": 50, "logprobs": True, "top_logprobs": 2, "return_token_ids": True},
    ],
)
async def test_resuming_after_any_event_gives_the_rest_to_the_byte(settings, body):
    """One token in two of TEXT lies inside a character, so cuts fall inside of characters, too."""
    async with running(settings, FakeEngine()) as service:
        job_id = await make(service, **body)
        whole = await read(service, job_id)
        assert text_of(whole) == spoken(50)
        ids = [event_id for event_id, _ in whole]
        assert len(set(ids)) == len(ids) == 19
        for index, event_id in enumerate(ids):
            assert await read(service, job_id, event_id) == whole[index + 1 :]
            assert await read(service, job_id, event_id, by_query=True) == whole[index + 1 :]


async def test_resuming_after_any_event_of_several_choices_repeats_and_loses_none(settings):
    async with running(settings, FakeEngine()) as service:
        job_id = await make(service, prompt="a", max_tokens=20, n=3)
        whole = await read(service, job_id)
        for index, (event_id, _) in enumerate(whole):
            rest = await read(service, job_id, event_id)
            both = whole[: index + 1] + rest
            assert [text_of(both, choice) for choice in range(3)] == [spoken(20, choice) for choice in range(3)]
            assert len(both) == len(whole)


async def test_several_choices_can_be_read_one_event_a_connection(settings):
    async with running(settings, FakeEngine()) as service:
        job_id = await make(service, prompt="a", max_tokens=12, n=3)
        whole, taken, after = await read(service, job_id), [], ""
        while len(taken) <= len(whole) and (rest := await read(service, job_id, after)):
            taken.append(rest[0])
            after = rest[0][0]
    assert [text_of(taken, choice) for choice in range(3)] == [spoken(12, choice) for choice in range(3)]
    assert len(taken) == len(whole) == 3 * 5 + 1


async def test_a_running_job_is_followed_by_several_from_several_places_on_two_gateways(settings):
    second = other_port(settings)
    async with running(settings, FakeEngine(step_s=SLOW_S)) as service, gateway(second):
        job_id = await make(service, prompt="a", max_tokens=60)
        await until(lambda: has_tokens(service, job_id), True)
        asked = [("", None), ("3", None), ("3", base_url(second)), ("", base_url(second)), ("6", None)]
        found = await asyncio.gather(*(read(service, job_id, after, url=url) for after, url in asked))
    whole = found[0]
    assert text_of(whole) == spoken(60)
    assert found == [whole, whole[1:], whole[1:], whole, whole[2:]]


async def has_tokens(service, job_id):
    return (await show(service, job_id))["usage"]["completion_tokens"] >= 6


async def test_a_job_goes_on_without_those_who_made_and_followed_it(settings):
    engine = FakeEngine(step_s=SLOW_S)
    async with running(settings, engine) as service:
        job_id = await make(service, prompt="a", max_tokens=60)
        async with service.http.get(f"{service.url}/v1/jobs/{job_id}/events") as response:
            await response.content.readuntil(b"\n\n")
        job = await ended(service, job_id)
    assert (job["state"], job["answer"]["choices"][0]["text"], engine.aborted) == ("done", spoken(60), [])


# --- Ends --------------------------------------------------------------------------------------------------------


async def test_cancelling_in_the_queue_while_running_and_after_the_end(settings):
    engine = FakeEngine(num_slots=1, step_s=SLOW_S)
    async with running(settings, engine) as service:
        runs = await make(service, prompt="a", max_tokens=400)
        await state_is(service, runs, "running")
        waits = await make(service, prompt="b", max_tokens=400)
        _, queued = await call(service, "POST", f"/{waits}/cancel")
        assert (queued["state"], queued["answer"]["choices"][0]["finish_reason"]) == ("cancelled", "abort")
        await until(lambda: has_tokens(service, runs), True)
        followed = asyncio.create_task(read(service, runs))
        assert (await call(service, "POST", f"/{runs}/cancel"))[0] == 200
        stopped, events = await ended(service, runs), await followed
        again = await call(service, "POST", f"/{runs}/cancel")
        short = await make(service, prompt="c", max_tokens=3)
        await ended(service, short)
        _, done = await call(service, "POST", f"/{short}/cancel")
        in_queue = await read(service, waits)
    assert (stopped["state"], again[0], again[1]["state"], done["state"]) == ("cancelled", 200, "cancelled", "done")
    assert 6 <= stopped["usage"]["completion_tokens"] < 400
    assert stopped["answer"]["choices"][0]["text"] == text_of(events) == spoken(stopped["usage"]["completion_tokens"])
    assert [event_id for event_id, _ in in_queue] == ["0f", "end"]
    assert b"b" not in [bytes(request.prompt_ids) for request in engine.seen]


async def test_deleting_ends_what_runs_and_leaves_nothing(settings, client):
    engine, key = FakeEngine(step_s=SLOW_S), {"Idempotency-Key": "k"}
    async with running(settings, engine) as service:
        _, made = await call(service, "POST", headers=key, prompt="a", max_tokens=400, n=2)
        await until(lambda: has_tokens(service, made["id"]), True)
        followed = asyncio.create_task(read(service, made["id"]))
        await asyncio.sleep(2 * SLOW_S)
        status, body = await call(service, "DELETE", f"/{made['id']}")
        assert (status, body["deleted"]) == (200, True)
        events = await followed
        assert events[-1][0] == "end"
        for method, path in [("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("DELETE", "")]:
            assert (await call(service, method, f"/{made['id']}{path}"))[0] == 404
        await until(lambda: no_longer_runs(engine), True)
        _, anew = await call(service, "POST", headers=key, prompt="other", max_tokens=3)
        assert (await ended(service, anew["id"]))["state"] == "done"
        assert not await client.exists(job_key(made["id"]))
        assert 0 < await client.ttl(out_stream(made["id"])) <= 60


async def no_longer_runs(engine):
    return not engine.running


async def test_an_expired_job_is_gone_and_its_key_free(redis_url, tmp_path, settings):
    brief = msgspec.structs.replace(settings, queue=msgspec.structs.replace(settings.queue, result_ttl_s=1))
    key = {"Idempotency-Key": "k"}
    async with running(brief, FakeEngine()) as service:
        _, made = await call(service, "POST", headers=key, prompt="a", max_tokens=3)
        await until(lambda: status_of(service, made["id"]), 410)
        for method, path in [("GET", ""), ("GET", "/events"), ("POST", "/cancel")]:
            status, body = await call(service, method, f"/{made['id']}{path}")
            assert (status, body["error"]["code"]) == (410, "job_expired")
        _, anew = await call(service, "POST", headers=key, prompt="another", max_tokens=3)
        assert anew["id"] != made["id"]
        assert (await call(service, "DELETE", f"/{made['id']}"))[0] == 200
        assert (await call(service, "GET", f"/{made['id']}"))[0] == 404
        again = await call(service, "POST", headers=key, prompt="another", max_tokens=3)
        assert again[1]["id"] == anew["id"]


async def status_of(service, job_id):
    return (await call(service, "GET", f"/{job_id}"))[0]


async def test_following_a_job_that_vanishes_brings_it_back(settings, client, monkeypatch):
    monkeypatch.setattr(respond, "KEEP_ALIVE_S", 0.1)
    async with running(settings, FakeEngine(num_slots=1, step_s=SLOW_S)) as service:
        runs = await make(service, prompt="a", max_tokens=500)
        await state_is(service, runs, "running")
        waits = await make(service, prompt="b")
        async with service.http.get(f"{service.url}/v1/jobs/{waits}/events") as response:
            await response.content.readuntil(b": ka\n")
            await client.delete(job_key(waits))
            await until(lambda: client.exists(job_key(waits)), 1)
            await call(service, "DELETE", f"/{runs}")
            told = await response.read()
    assert told.endswith(b"data: [DONE]\n\n")


async def test_following_a_job_that_expires_before_its_end_was_read_is_an_error(settings, client, monkeypatch):
    ask, has_looked = JobQueue.standings, asyncio.Event()

    async def look(queue, job_ids):
        found = await ask(queue, job_ids)
        has_looked.set()
        return found

    monkeypatch.setattr(lost_jobs, "CHECK_S", 0.1)
    monkeypatch.setattr(JobQueue, "standings", look)
    async with running(settings, FakeEngine()) as service:
        made = await make(service, prompt="a", max_tokens=3)
        await state_is(service, made, "done")
        # Its end is gone from the stream, as if this gateway had never come to it; soon so is the rest.
        await client.delete(out_stream(made))
        async with service.http.get(f"{service.url}/v1/jobs/{made}/events") as response:
            await has_looked.wait()
            await client.delete(job_key(made))
            told = await response.read()
    assert b'"code":"job_expired"' in told
    assert b"id:" not in told


async def test_following_a_job_whose_end_is_nowhere_is_an_error(settings, client, monkeypatch):
    monkeypatch.setattr(lost_jobs, "CHECK_S", 0.1)
    monkeypatch.setattr(lost_jobs, "GIVE_UP_S", 0.3)
    async with running(settings, FakeEngine()) as service:
        made = await make(service, prompt="a", max_tokens=3)
        await state_is(service, made, "done")
        await client.delete(out_stream(made))
        async with service.http.get(f"{service.url}/v1/jobs/{made}/events") as response:
            told = await response.read()
    assert b'"code":"job_lost"' in told
