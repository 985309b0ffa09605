"""Clients show the key they were given, and say what the server says where it is not good."""

import msgspec
import pytest

from client.http import stream_chat, stream_completion
from client.jobs import Jobs
from client.steps import fetch_steps
from client.wire import Final
from core.config_file import load_settings
from core.errors import QueueError, RequestError
from service.door.api_keys import ApiKey, hash_of, write_keys
from tests.service.fakes import FakeEngine, fake_settings, running

KEY = "sk-alice"
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def service(redis_url, tmp_path):
    settings = fake_settings(redis_url, tmp_path / "model")
    write_keys(tmp_path / "keys.toml", {"alice": ApiKey(sha256=hash_of(KEY))})
    server = msgspec.structs.replace(settings.server, api_keys_file=str(tmp_path / "keys.toml"))
    async with running(msgspec.structs.replace(settings, server=server), FakeEngine()) as service:
        yield service


async def test_with_a_good_key_all_is_answered(service):
    for events in (
        stream_completion(service.url, "a", api_key=KEY, max_tokens=3),
        stream_chat(service.url, MESSAGES, api_key=KEY, max_tokens=3),
    ):
        *_, final = [event async for event in events]
        assert isinstance(final, Final)
    async with Jobs(service.url, api_key=KEY) as jobs:
        answer = await jobs.result(await jobs.submit(prompt="a", max_tokens=3))
    assert answer["usage"]["completion_tokens"] == 3
    assert len(await fetch_steps(service.url, KEY)) == 1


async def test_without_one_the_server_s_own_words_are_told(service):
    with pytest.raises(RequestError, match="a good API key is needed") as refused:
        _ = [event async for event in stream_completion(service.url, "a", api_key="sk-eve")]
    assert refused.value.status == 401
    async with Jobs(service.url) as jobs:
        with pytest.raises(RequestError, match="a good API key is needed"):
            await jobs.submit(prompt="a")
    with pytest.raises(QueueError, match="a good API key is needed"):
        await fetch_steps(service.url)


def test_the_key_of_a_client_is_no_setting_of_a_server():
    settings, _ = load_settings(None, {"SPECD_API_KEY": KEY}, {})
    assert KEY not in str(msgspec.to_builtins(settings))
