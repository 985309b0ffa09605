"""What a request leaves out of its sampling is as the target's makers say, and the job says so from then on."""

import asyncio
import json
import subprocess
import sys
import uuid

import msgspec
import pytest
from structlog.testing import capture_logs

from client.wire import INTAKE_STREAM, WORKERS_KEY, worker_key
from core.errors import CheckpointError
from core.observing import RecordingSettings
from core.types import Sampling, SamplingDefaults
from service.gateway import serve_http
from service.main import base_url, free_port
from tests.service.fakes import BYTES, FakeEngine, fake_settings, gateway, running, until_true
from tests.service.jobs import append, end_of, take

CHAT = [{"role": "user", "content": "hi"}]
TOLD = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1}
PATHS = {
    "/v1/completions": {"prompt": "a"},
    "/v1/chat/completions": {"messages": CHAT},
    "/v1/responses": {"input": "hi"},
    "/v1/jobs": {"prompt": "a"},
}


def tell(folder, **fields):
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": True} | fields), encoding="utf-8")


@pytest.fixture
def settings(redis_url, tmp_path):
    """Settings of a target whose makers say how to draw from it."""
    settings = fake_settings(redis_url, tmp_path / "model")
    tell(tmp_path / "model", **TOLD)
    return settings


def told_to(settings, **server):
    return msgspec.structs.replace(settings, server=msgspec.structs.replace(settings.server, **server))


def drawn(sampling):
    """Return of a sampling what has defaults."""
    return {name: getattr(sampling, name) for name in SamplingDefaults.__struct_fields__}


# --- What requests get -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "body"), PATHS.items())
async def test_what_a_request_leaves_out_is_as_the_target_s_makers_say(settings, path, body):
    engine = FakeEngine()
    async with running(settings, engine) as service:
        status, _ = await service.post(path, **body)
        await until_true(lambda: engine.seen)
    assert status in (200, 202)
    assert drawn(engine.seen[0].sampling) == TOLD


async def test_nulls_are_left_out_too(settings):
    engine = FakeEngine()
    async with running(settings, engine) as service:
        await service.post(prompt="a", **dict.fromkeys(TOLD))
    assert drawn(engine.seen[0].sampling) == TOLD


async def test_a_job_straight_through_redis_gets_the_same(settings, client):
    engine = FakeEngine()
    entry = {"id": uuid.uuid4().hex, "prompt": "a", "max_tokens": 3, "top_p": 0.5}
    async with running(settings, engine):
        await client.xadd(INTAKE_STREAM, {"request": json.dumps(entry)})
        await until_true(lambda: engine.seen)
    assert drawn(engine.seen[0].sampling) == TOLD | {"top_p": 0.5}


@pytest.mark.parametrize(
    ("asked", "value"),
    [
        ({"temperature": 0}, 0.0),
        ({"top_p": 1}, 1.0),
        ({"top_k": 0}, 0),
        ({"top_k": -1}, 0),
        ({"min_p": 0}, 0.0),
        ({"repetition_penalty": 1}, 1.0),
    ],
)
async def test_what_a_request_says_goes_before_even_where_it_asks_for_nothing(settings, asked, value):
    engine = FakeEngine()
    async with running(settings, engine) as service:
        await service.post(prompt="a", **asked)
    assert drawn(engine.seen[0].sampling) == TOLD | dict.fromkeys(asked, value)


async def test_plain_defaults_leave_the_file_out(settings):
    engine = FakeEngine()
    async with running(told_to(settings, sampling_defaults="plain"), engine) as service:
        await service.post(prompt="a", max_tokens=3)
    assert engine.seen[0].sampling == Sampling(max_tokens=3)


# --- Jobs say all of it ------------------------------------------------------------------------------------------


async def test_a_job_says_how_it_is_drawn_whoever_goes_on_with_it(settings, client, queue):
    engine = FakeEngine()
    await client.sadd(WORKERS_KEY, "one")
    await client.hset(worker_key("one"), mapping={"model": "fake", "max_model_len": 512})
    asked = {"url": f"{base_url(settings)}/v1/jobs", "json": {"prompt": "a", "max_tokens": 9}}
    async with gateway(settings) as http, http.post(**asked) as response:
        assert response.status == 202
    claim = await take(queue)
    await queue.append([append(claim, 0, *BYTES[:3])])
    await queue.release("one", [claim.entry])
    # Those that are here from now on know nothing of the defaults.
    async with running(told_to(settings, sampling_defaults="plain", port=free_port("127.0.0.1")), engine):
        await end_of(client, claim.job)
    (resumed,) = engine.seen
    assert drawn(claim.job.sampling) == drawn(resumed.sampling) == TOLD
    assert bytes(resumed.output_ids) == BYTES[:3]


async def test_a_recording_says_how_its_answer_was_drawn(settings, tmp_path):
    recorded = msgspec.structs.replace(settings, recording=RecordingSettings(folder=str(tmp_path / "recorded")))
    async with running(recorded, FakeEngine()) as service:
        await service.post(prompt="a", max_tokens=3)
    (path,) = (tmp_path / "recorded").iterdir()
    record = json.loads(path.read_bytes())
    assert record["temperature"] == record["sampling"]["temperature"] == 0.6
    assert drawn(msgspec.convert(record["sampling"], Sampling)) == TOLD


async def test_a_response_says_how_it_was_drawn_now_and_later(settings):
    async with running(settings, FakeEngine()) as service:
        _, first = await service.post("/v1/responses", input="hi", top_p=0.5)
        async with service.http.get(f"{service.url}/v1/responses/{first['id']}") as response:
            again = await response.json()
    assert (first["temperature"], first["top_p"]) == (again["temperature"], again["top_p"]) == (0.6, 0.5)


# --- Who is told -------------------------------------------------------------------------------------------------


async def test_models_and_the_page_tell_the_defaults_without_any_worker(settings):
    url = base_url(settings)
    async with gateway(settings, ready_status=503) as http:
        async with http.get(f"{url}/v1/models") as response:
            (model,) = (await response.json())["data"]
        async with http.get(f"{url}/v1/models/fake") as response:
            assert await response.json() == model
        async with http.get(f"{url}/specd/live") as response:
            live = await response.json()
    assert model["sampling_defaults"] == live["choices"]["sampling"] == TOLD


async def test_a_target_drawn_from_otherwise_has_another_fingerprint(settings):
    found = []
    for one in (settings, told_to(settings, sampling_defaults="plain")):
        async with running(one, FakeEngine()) as service:
            found.append((await service.post(prompt="a"))[1]["system_fingerprint"])
    assert found[0] != found[1]


async def log_of_a_start(settings):
    with capture_logs() as logs:
        async with gateway(settings, ready_status=503):
            pass
    return [one for one in logs if one["event"] in ("generation_config_not_taken", "sampling_defaults")]


async def test_what_is_not_taken_is_one_warning_at_the_start(settings, tmp_path):
    tell(tmp_path / "model", no_repeat_ngram_size=3, max_new_tokens=512, top_k=20)
    warning, info = await log_of_a_start(settings)
    assert (warning["event"], warning["log_level"]) == ("generation_config_not_taken", "warning")
    assert warning["keys"] == ("no_repeat_ngram_size", "max_new_tokens")
    assert (info["event"], info["top_k"], info["temperature"]) == ("sampling_defaults", 20, 1.0)


async def test_a_start_says_nothing_where_there_is_nothing_to_say(settings, tmp_path):
    assert await log_of_a_start(told_to(settings, sampling_defaults="plain")) == []
    (tmp_path / "model" / "generation_config.json").unlink()
    assert await log_of_a_start(settings) == []


async def test_a_value_that_cannot_be_meant_keeps_a_gateway_from_starting(settings, tmp_path):
    tell(tmp_path / "model", temperature=5)
    with pytest.raises(CheckpointError, match=r"generation_config\.json: temperature: .* got 5; .*sampling_defaults"):
        await serve_http(settings, asyncio.Event())
    async with gateway(told_to(settings, sampling_defaults="plain"), ready_status=503):
        pass


def test_the_command_ends_with_one_line_that_names_file_and_key(settings, tmp_path):
    tell(tmp_path / "model", top_p="0.9")
    flags = ("--role", "gateway", "--redis-url", settings.queue.redis_url, "--target", settings.engine.target)
    command = [sys.executable, "-m", "cli.main", "serve", "--port", str(settings.server.port), *flags]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == 1
    (line,) = said.stderr.splitlines()
    assert f"{tmp_path / 'model' / 'generation_config.json'}: top_p: Expected `float`, got `str`, got '0.9'" in line
