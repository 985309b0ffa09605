"""Jobs straight through Redis: validated like any other, answered in their own stream, and never lost silently."""

import json
import uuid

import pytest
from redis.asyncio import Redis

from client.wire import INTAKE_GROUP, INTAKE_STREAM, Chunk, Final, child_id, decode_event, out_stream
from core.types import FinishReason, Sampling, Speculation
from service.storage.connect import connect
from tests.service.fakes import FakeEngine, fake_settings, running, spoken, until


@pytest.fixture
def settings(redis_url, tmp_path):
    return fake_settings(redis_url, tmp_path / "model")


@pytest.fixture
async def redis(redis_url):
    client = connect(redis_url, 5.0)
    yield client
    await client.aclose()


def new_id() -> str:
    return uuid.uuid4().hex


async def add(redis: Redis, entry: dict | str) -> None:
    await redis.xadd(INTAKE_STREAM, {"request": entry if isinstance(entry, str) else json.dumps(entry)})


async def answer(redis: Redis, job_id: str) -> tuple[str, Final]:
    """Follow a job's stream to its Final."""
    last, text = "0-0", ""
    while True:
        ((_, rows),) = await redis.xread({out_stream(job_id): last}, block=4000)
        for entry_id, fields in rows:
            last, event = entry_id, decode_event(fields[b"m"])
            if isinstance(event, Final):
                return text + event.tail, event
            assert isinstance(event, Chunk)
            text += event.text


async def test_a_prompt_is_answered_in_its_stream(settings, redis):
    job_id = new_id()
    async with running(settings, FakeEngine()):
        await add(redis, {"id": job_id, "prompt": "abc", "max_tokens": 20})
        text, final = await answer(redis, job_id)
    assert (text, final.reason, final.usage.prompt_tokens) == (spoken(20), FinishReason.LENGTH, 3)


async def test_messages_go_through_the_template(settings, redis):
    job_id, engine = new_id(), FakeEngine()
    async with running(settings, engine):
        await add(redis, {"id": job_id, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3})
        await answer(redis, job_id)
    assert bytes(engine.seen[0].prompt_ids) == b"<user>hi>"


async def test_entries_written_before_any_gateway_came_are_served(settings, redis):
    job_id = new_id()
    await add(redis, {"id": job_id, "prompt": "abc"})
    async with running(settings, FakeEngine()):
        _, final = await answer(redis, job_id)
    # The worker may not be known yet: then the refusal says so, and nothing hangs.
    assert final.reason is FinishReason.LENGTH or final.error.code == "no_worker"


async def test_every_sampling_field_travels(settings, redis):
    fields = {
        "min_p": 0.1,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.5,
        "min_tokens": 2,
        "seed": 9,
        "include_stop_str_in_output": True,
    }
    job_id, engine = new_id(), FakeEngine()
    async with running(settings, engine):
        more = {"logit_bias": {"7": 2}, "stop": "zz", "logprobs": 1, "speculation": "off", "cache_salt": "me"}
        await add(redis, {"id": job_id, "prompt": [97, 98], "max_tokens": 5, **fields, **more})
        await answer(redis, job_id)
    (request,) = engine.seen
    assert request.sampling == Sampling(5, logit_bias=((7, 2.0),), stop=("zz",), logprobs=1, **fields)
    assert (request.prompt_ids, request.coupled_key, request.cache_salt) == ((97, 98), 9, ":intake/me")
    assert request.speculation == Speculation(max_drafts=0)


async def test_log_probabilities_are_asked_for_alike_in_chats(settings, redis):
    job_id, engine = new_id(), FakeEngine()
    async with running(settings, engine):
        await add(
            redis, {"id": job_id, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "logprobs": 2}
        )
        await answer(redis, job_id)
    assert engine.seen[0].sampling.logprobs == 2


async def test_every_choice_has_a_stream_of_its_own(settings, redis):
    job_id = new_id()
    async with running(settings, FakeEngine()):
        await add(redis, {"id": job_id, "prompt": "abc", "max_tokens": 6, "n": 3})
        texts = [(await answer(redis, child_id(job_id, index)))[0] for index in range(3)]
    assert texts == [spoken(6, index) for index in range(3)]


WRONG = [
    ({}, "prompt"),
    ({"prompt": "a", "messages": [{"role": "user", "content": "hi"}]}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
    ({"prompt": "a", "max_tokens": 10**30}, "max_tokens"),
    ({"prompt": "a", "temperature": 9}, "temperature"),
    ({"prompt": "a", "model": "other"}, "model"),
    ({"prompt": "a" * 600}, "prompt"),
    ({"messages": []}, "messages"),
    ({"prompt": "a", "min_p": 2}, "min_p"),
    ({"prompt": "a", "n": 99}, "n"),
    ({"prompt": "a", "logit_bias": {"300": 1}}, "logit_bias"),
    ({"prompt": "a", "speculation": {"policy": "none"}}, "speculation"),
]


async def test_a_wrong_request_ends_with_what_is_wrong(settings, redis):
    async with running(settings, FakeEngine()):
        for fields, param in WRONG:
            job_id = new_id()
            await add(redis, {"id": job_id, **fields})
            _, final = await answer(redis, job_id)
            assert (final.reason, final.error.param) == (FinishReason.ERROR, param), fields
            assert 400 <= final.error.status < 500


async def test_an_entry_that_does_not_decode_is_answered_under_its_id(settings, redis):
    async with running(settings, FakeEngine()):
        for rest in ('"max_tokns": 3}', '"prompt": 7}', '"prompt": "never closed'):
            job_id = new_id()
            await add(redis, f'{{"id": "{job_id}", "prompt": "a", {rest}')
            _, final = await answer(redis, job_id)
            assert final.error.status == 400


async def test_junk_is_passed_over_and_leaves_nothing_behind(settings, redis):
    job_id = new_id()
    async with running(settings, FakeEngine()):
        for junk in ("junk", "{}", '{"id": "../../x", "prompt": "a"}', "[" * 100_000):
            await add(redis, junk)
        await redis.xadd(INTAKE_STREAM, {"other": "field"})
        await add(redis, {"id": job_id, "prompt": "a", "max_tokens": 3})
        assert (await answer(redis, job_id))[0] == spoken(3)
        await until(lambda: redis.xlen(INTAKE_STREAM), 0)
        assert (await redis.xpending(INTAKE_STREAM, INTAKE_GROUP))["pending"] == 0


async def test_a_second_entry_of_an_id_does_not_disturb_the_first(settings, redis):
    job_id, engine = new_id(), FakeEngine(step_s=0.01)
    async with running(settings, engine):
        for entry in ({"prompt": "a", "max_tokens": 60}, {"prompt": "a", "max_tokens": 60}, {"prompt": 7}):
            await add(redis, {"id": job_id, **entry})
        text, final = await answer(redis, job_id)
    assert (text, final.reason, len(engine.seen)) == (spoken(60), FinishReason.LENGTH, 1)


async def test_a_group_that_redis_has_lost_is_made_again(settings, redis):
    job_id = new_id()
    async with running(settings, FakeEngine()) as service:
        await redis.xgroup_destroy(INTAKE_STREAM, INTAKE_GROUP)
        await add(redis, {"id": job_id, "prompt": "a", "max_tokens": 3})
        assert (await answer(redis, job_id))[0] == spoken(3)
        assert (await service.post(prompt="a"))[0] == 200
