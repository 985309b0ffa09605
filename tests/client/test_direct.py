"""Submitting through Redis: the same answer without HTTP, and no waiting for ever."""

import pytest

from client import direct
from client.direct import new_job_id, submit, submit_choices
from client.wire import Final, IntakeRequest
from core.errors import QueueError, RequestError
from core.types import FinishReason
from tests.service.fakes import FakeEngine, fake_settings, running, spoken


async def test_a_submitted_job_is_followed_to_its_end(redis_url, tmp_path):
    request = IntakeRequest(new_job_id(), prompt="abc", max_tokens=20)
    async with running(fake_settings(redis_url, tmp_path / "model"), FakeEngine()):
        *chunks, final = [event async for event in submit(redis_url, request)]
    assert "".join(chunk.text for chunk in chunks) + final.tail == spoken(20)
    assert (final.reason, final.usage.total_tokens) == (FinishReason.LENGTH, 23)


async def test_choices_are_followed_side_by_side(redis_url, tmp_path):
    request, texts, ends = IntakeRequest(new_job_id(), prompt="abc", max_tokens=8, n=3), ["", "", ""], []
    async with running(fake_settings(redis_url, tmp_path / "model"), FakeEngine()):
        async for index, event in submit_choices(redis_url, request):
            texts[index] += event.tail if isinstance(event, Final) else event.text
            ends += [index] if isinstance(event, Final) else []
    assert texts == [spoken(8, index) for index in range(3)]
    assert sorted(ends) == [0, 1, 2]


async def test_choices_that_are_refused_end_with_one_reason(redis_url, tmp_path):
    request = IntakeRequest(new_job_id(), prompt="", n=3)
    async with running(fake_settings(redis_url, tmp_path / "model"), FakeEngine()):
        ((index, final),) = [pair async for pair in submit_choices(redis_url, request)]
    assert (index, final.error.param) == (0, "prompt")


async def test_following_one_choice_of_several_is_refused(redis_url):
    with pytest.raises(RequestError, match="use submit_choices"):
        _ = [event async for event in submit(redis_url, IntakeRequest(new_job_id(), prompt="abc", n=2))]


async def test_a_refused_job_ends_with_the_reason(redis_url, tmp_path):
    request = IntakeRequest(new_job_id(), prompt="")
    async with running(fake_settings(redis_url, tmp_path / "model"), FakeEngine()):
        (final,) = [event async for event in submit(redis_url, request)]
    assert (final.reason, final.error.param) == (FinishReason.ERROR, "prompt")


async def test_silence_is_an_error(redis_url, monkeypatch):
    monkeypatch.setattr(direct, "SILENCE_S", 0.2)
    monkeypatch.setattr(direct, "BLOCK_MS", 100)
    with pytest.raises(QueueError, match="silent"):
        _ = [event async for event in submit(redis_url, IntakeRequest(new_job_id(), prompt="abc"))]


async def test_no_redis_is_said_so(tmp_path):
    with pytest.raises(QueueError, match="out of reach"):
        _ = [event async for event in submit(f"unix://{tmp_path}/none", IntakeRequest(new_job_id(), prompt="abc"))]


def test_ids_are_fresh():
    assert len({new_job_id() for _ in range(100)}) == 100
