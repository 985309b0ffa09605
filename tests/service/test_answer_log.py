"""One line tells of each answer's end, at the gateway and at the worker, and none of its text."""

import asyncio
import json

import msgspec
import pytest
import structlog
from redis.asyncio import Redis

from client.wire import job_key
from core.config import ArmSettings, FixedSettings
from core.observing import LogSettings
from service.door.admission import user_key
from service.logs import configure_logs
from tests.service.fakes import TEXT, FakeEngine, fake_settings, running, until_true

SECRET = "xyzzy-plugh"


@pytest.fixture
def settings(redis_url, tmp_path):
    return msgspec.structs.replace(fake_settings(redis_url, tmp_path / "model"), policy=FixedSettings(2))


async def lines_of(logs, event, count=1):
    """Return the lines of that event once there are so many."""
    await until_true(lambda: len([line for line in logs if line["event"] == event]) >= count)
    return [line for line in logs if line["event"] == event]


async def test_an_answers_line_has_what_became_of_it_in_numbers(settings):
    settings = msgspec.structs.replace(settings, arms={"only": ArmSettings(policy="fixed")})
    with structlog.testing.capture_logs() as logs:
        async with running(settings, FakeEngine(step_s=0.005)) as service:
            asked = {"prompt": SECRET, "max_tokens": 8, "n": 2, "user": "ada"}
            headers = {"X-Request-Id": "of-the-client"}
            async with service.http.post(f"{service.url}/v1/completions", json=asked, headers=headers) as response:
                answer_id = (await response.json())["id"]
            (line,) = await lines_of(logs, "answer_finished")
    assert (line["job_id"], line["request_id"]) == (answer_id.split("-")[-1], "of-the-client")
    assert (line["model"], line["arm"], line["drafter"], line["policy"]) == ("fake", "only", "dspark", "fixed")
    assert (line["tenant"], line["choices"]) == (user_key("ada"), 2)
    assert (line["status"], line["finish"]) == (200, "length,length")
    assert (line["prompt_tokens"], line["output_tokens"]) == (len(SECRET), 16)
    # Three rounds of each choice: of four proposals two were verified, and both kept.
    assert line["accepted"] == 12
    assert line["drafted"] == 2 * line["verified"] == 24
    assert 5 <= line["ttft_ms"] <= line["e2e_ms"]
    assert 0 < line["itl_ms"] < line["e2e_ms"]
    assert line["epoch_changes"] == 0


async def test_a_workers_line_has_its_own_share(settings):
    with structlog.testing.capture_logs() as logs:
        async with running(settings, FakeEngine(step_s=0.005)) as service:
            await service.post(prompt=SECRET, max_tokens=8)
            (line,) = await lines_of(logs, "request_finished")
    assert (line["reason"], line["epoch"], line["model"]) == ("length", 1, "fake")
    assert (line["drafted"], line["verified"], line["accepted"]) == (12, 6, 6)
    assert line["prefill_ms"] >= 5
    assert line["decode_ms"] >= 5


async def test_a_client_that_leaves_and_a_request_that_fails_have_their_statuses(settings):
    engine = FakeEngine(step_s=0.01)
    with structlog.testing.capture_logs() as logs:
        async with running(settings, engine) as service:
            asking = asyncio.ensure_future(service.post(prompt="a", max_tokens=400))
            await until_true(lambda: engine.num_steps > 2)
            asking.cancel()
            (left,) = await lines_of(logs, "answer_finished")
            assert (await service.post(prompt=[0]))[0] == 400
            failed = (await lines_of(logs, "answer_finished", 2))[1]
    assert (left["status"], left["finish"]) == (499, "abort")
    assert left["output_tokens"] > 0
    assert (failed["status"], failed["finish"], failed["ttft_ms"]) == (400, "error", None)


async def test_a_job_that_changed_hands_says_so(settings):
    engine = FakeEngine(step_s=0.02)
    with structlog.testing.capture_logs() as logs:
        async with running(settings, engine) as service, Redis.from_url(settings.queue.redis_url) as redis:
            asking = asyncio.ensure_future(service.post(prompt="a", max_tokens=30))
            await until_true(lambda: engine.num_steps > 2)
            await redis.hincrby(job_key(engine.seen[0].id.split(":")[0]), "epoch", 1)
            # The worker that lost it takes it over again, a lease later.
            assert (await asking)[0] == 200
            (line,) = await lines_of(logs, "answer_finished")
    assert line["epoch_changes"] == 2


@pytest.mark.parametrize("style", ["json", "console"])
async def test_neither_line_holds_any_text(settings, style, capsys):
    configure_logs(LogSettings(level="debug", format=style), role="all")
    try:
        async with running(settings, FakeEngine()) as service:
            await service.post(prompt=f"{SECRET}\n\x1b[31m", max_tokens=30, user="ada lovelace", stop=["never-said"])
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
    told = capsys.readouterr().err
    assert "answer_finished" in told
    assert "request_finished" in told
    for text in (SECRET, TEXT[:8], "ada lovelace", "never-said"):
        assert text not in told
    if style == "json":
        assert all(json.loads(line)["event"] for line in told.splitlines())
