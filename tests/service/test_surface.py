"""What OpenAI's clients meet around the answer itself: heads, names, probes, and what is done about odd fields."""

import asyncio
import re

import msgspec
import pytest
from structlog.testing import capture_logs

from core.config import FixedSettings
from service.http.http_border import NOT_TO_REPEAT
from service.http.request_ids import REQUEST_ID_HEADER
from tests.service.fakes import FakeEngine, fake_settings, gateway, running, spoken, until_true

CHAT = [{"role": "user", "content": "hi"}]


@pytest.fixture
def settings(redis_url, tmp_path):
    return msgspec.structs.replace(fake_settings(redis_url, tmp_path / "model"), policy=FixedSettings(2))


async def post(service, path="/v1/completions", headers=None, **body):
    async with service.http.post(service.url + path, json=body, headers=headers) as response:
        return response.status, response.headers, await response.json()


# --- Heads and probes --------------------------------------------------------------------------------------------


async def test_a_request_id_comes_back_if_it_is_one_and_a_new_one_if_it_is_not(settings):
    async with running(settings, FakeEngine()) as service:
        for given in ("abc-1._X", "a" * 128):
            _, headers, _ = await post(service, headers={REQUEST_ID_HEADER: given}, prompt="a", stream=False)
            assert headers[REQUEST_ID_HEADER] == given
        for given in ("a b", "a" * 129, "ä", ""):
            _, headers, _ = await post(service, headers={REQUEST_ID_HEADER: given}, prompt="a")
            assert re.fullmatch("[0-9a-f]{32}", headers[REQUEST_ID_HEADER])
        async with service.http.get(f"{service.url}/nothing", headers={REQUEST_ID_HEADER: "me"}) as response:
            assert (response.status, response.headers[REQUEST_ID_HEADER]) == (404, "me")
        body = {"prompt": "a", "stream": True}
        async with service.http.post(f"{service.url}/v1/completions", json=body) as response:
            assert response.headers[REQUEST_ID_HEADER]


async def test_a_client_that_leaves_is_499_in_the_log(settings):
    engine = FakeEngine(step_s=0.01)
    with capture_logs() as logs:
        async with running(settings, engine) as service:
            asking = asyncio.ensure_future(post(service, prompt="a", max_tokens=400))
            await until_true(lambda: engine.running)
            asking.cancel()
            await until_true(lambda: engine.aborted)
            await post(service, prompt="a")
    done = [one["status"] for one in logs if one["event"] == "request_done" and one["path"] == "/v1/completions"]
    assert done == [499, 200]


async def test_a_model_is_told_by_name_and_no_other(settings):
    async with running(settings, FakeEngine()) as service:
        async with service.http.get(f"{service.url}/v1/models/fake") as response:
            assert (await response.json())["id"] == "fake"
        async with service.http.get(f"{service.url}/v1/models/owner/name") as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"], error["param"]) == (404, "model_not_found", "model")


async def test_the_version_is_told(settings):
    async with running(settings, FakeEngine()) as service, service.http.get(f"{service.url}/version") as response:
        assert re.fullmatch(r"\d+\.\d+\.\d+", (await response.json())["version"])


async def test_it_is_ready_with_a_worker_only(settings):
    async with running(settings, FakeEngine()) as service, service.http.get(f"{service.url}/readyz") as response:
        assert (response.status, await response.json()) == (200, {"status": "ok", "redis": True, "workers": 1})


async def test_it_is_not_ready_without_a_worker(settings):
    url = f"http://127.0.0.1:{settings.server.port}/readyz"
    async with gateway(settings, ready_status=503) as http, http.get(url) as response:
        assert (response.status, (await response.json())["workers"]) == (503, 0)


async def test_a_late_answer_is_not_to_be_asked_for_again(settings):
    async with running(settings, FakeEngine(step_s=0.05, num_slots=1)) as service:
        status, headers, body = await post(service, prompt="a", max_tokens=400, deadline_ms=50)
    assert (status, body["error"]["code"], headers["x-should-retry"]) == (504, "deadline_exceeded", "false")
    assert "attempts_exhausted" in NOT_TO_REPEAT


# --- Fields ------------------------------------------------------------------------------------------------------


async def test_unknown_fields_are_left_out_and_named(settings):
    async with running(settings, FakeEngine()) as service:
        status, headers, body = await post(service, prompt="a", max_tokens=3, frobnicate=1, **{"x\r\ny: é": {}})
        _, plain, _ = await post(service, prompt="a", max_tokens=3)
    assert (status, body["usage"]["completion_tokens"]) == (200, 3)
    assert headers["x-specd-ignored"] == "frobnicate, x??y: ?"
    assert "x-specd-ignored" not in plain


async def test_unknown_fields_are_refused_where_the_server_is_strict(settings):
    strict = msgspec.structs.replace(settings, server=msgspec.structs.replace(settings.server, strict=True))
    async with running(strict, FakeEngine()) as service:
        status, _, body = await post(service, prompt="a", max_token=3)
    assert (status, body["error"]["param"]) == (400, "max_token")
    assert "did you mean 'max_tokens'" in body["error"]["message"]


async def test_content_that_is_no_text_is_refused_by_its_kind(settings):
    content = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]
    async with running(settings, FakeEngine()) as service:
        status, _, body = await post(
            service, "/v1/chat/completions", messages=[{"role": "user", "content": content}], max_tokens=3
        )
    assert (status, body["error"]["param"], body["error"]["code"]) == (400, "messages", "unsupported_content")
    assert "image_url" in body["error"]["message"]


@pytest.mark.parametrize(("prompt", "text"), [("abc ü", "abc ü"), ([104, 105], "hi")])
async def test_an_echo_comes_once_before_the_answer(settings, prompt, text):
    async with running(settings, FakeEngine()) as service:
        _, _, whole = await post(service, prompt=prompt, max_tokens=7, echo=True, n=2)
        streamed = await service.stream(prompt=prompt, max_tokens=7, echo=True)
    assert [choice["text"] for choice in whole["choices"]] == [text + spoken(7), text + spoken(7, 1)]
    assert "".join(body["choices"][0]["text"] for body in streamed) == text + spoken(7)


async def test_an_echo_with_logprobs_is_refused(settings):
    async with running(settings, FakeEngine()) as service:
        status, _, body = await post(service, prompt="a", echo=True, logprobs=1)
    assert (status, body["error"]["param"], body["error"]["code"]) == (400, "echo", "unsupported_parameter")


async def test_answers_have_the_fingerprint_of_what_a_seed_depends_on(settings):
    batch_invariant = msgspec.structs.replace(
        settings, engine=msgspec.structs.replace(settings.engine, numerics="batch_invariant")
    )
    found = []
    for one in (settings, settings, batch_invariant):
        async with running(one, FakeEngine()) as service:
            _, _, whole = await post(service, prompt="a", max_tokens=3)
            (first, *_) = await service.stream("/v1/chat/completions", messages=CHAT, max_tokens=3)
        assert whole["system_fingerprint"] == first["system_fingerprint"]
        found.append(whole["system_fingerprint"])
    assert found[0] == found[1] != found[2]


# --- What speculation did ----------------------------------------------------------------------------------------


async def test_metrics_say_what_speculation_did_in_every_step(settings):
    async with running(settings, FakeEngine()) as service:
        _, _, whole = await post(service, prompt="a", max_tokens=7, spec_decode_metrics="detailed")
        options = {"include_usage": True}
        *_, last = await service.stream(
            prompt="a", max_tokens=7, spec_decode_metrics="detailed", stream_options=options
        )
    # Two rounds of three tokens, two of them drafts, and one of a single token, which was a draft.
    assert whole["metrics"]["speculative_decoding"] == {
        "mean_acceptance_length": 1 + 5 / 3,
        "draft_acceptance_rate": 5 / 6,
        "acceptance_histogram": [0, 1, 2],
        "acceptance_histogram_by_draft_length": {"2": [0, 1, 2]},
        "num_spec_steps": 3,
        "num_accepted_draft_tokens": 5,
        "num_draft_tokens": 6,
        "num_spec_tokens": 2,
        "per_step_accepted": [2, 2, 1],
        "per_step_drafted": [2, 2, 2],
    }
    assert last["metrics"] == whole["metrics"]


async def test_metrics_are_null_for_more_than_one_choice(settings):
    async with running(settings, FakeEngine()) as service:
        _, _, whole = await post(service, prompt="a", max_tokens=7, n=2)
    assert whole["metrics"] == {"speculative_decoding": None}


# --- The bytes of a stream ---------------------------------------------------------------------------------------


async def test_a_stream_has_no_ids_and_one_finish_reason_and_its_role_first(settings):
    async with running(settings, FakeEngine()) as service:
        body = {"messages": CHAT, "max_tokens": 9, "stream": True}
        async with service.http.post(f"{service.url}/v1/chat/completions", json=body) as response:
            raw = await response.read()
    lines = raw.split(b"\n")
    assert {line[:6] for line in lines} == {b"data: ", b""}
    events = [msgspec.json.decode(line[6:]) for line in lines if line.startswith(b"data: {")]
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert all("role" not in event["choices"][0]["delta"] for event in events[1:])
    assert [event["choices"][0]["finish_reason"] for event in events] == [None] * (len(events) - 1) + ["length"]
    assert raw.endswith(b"data: [DONE]\n\n")


async def test_a_fault_in_a_stream_is_its_last_event(settings):
    async with (
        running(settings, FakeEngine()) as service,
        service.http.post(f"{service.url}/v1/completions", json={"prompt": [0], "stream": True}) as response,
    ):
        raw = await response.read()
    assert raw.startswith(b'data: {"error":')
    assert raw.count(b"data: ") == 1
    assert b"[DONE]" not in raw
