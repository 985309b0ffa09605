"""What is too deep, too large, too slow or of the wrong kind is refused before anything is made of it."""

import asyncio
import gzip
import io
import json
import time

import msgspec
import pytest

from client.wire import INTAKE_STREAM, Final, decode_event, out_stream
from core.config import Settings
from core.errors import RequestError, SpecdError
from service import process
from service.http.parse import MAX_DEPTH, check_depth
from service.process import run_process
from service.storage.connect import connect
from tests.security.processes import gateway_process
from tests.service.fakes import FakeEngine, running

JSON = {"Content-Type": "application/json"}
DEEP = [
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"prompt": "a", "metadata": ' + b"[" * 65 + b"]" * 65 + b"}",
    b'{"prompt": "\\"", "metadata": ' + b'{"x":[' * 40 + b"]}" * 40 + b"}",
    b"[{" * (1 << 19),
]


@pytest.fixture
async def service(open_settings):
    async with running(open_settings, FakeEngine()) as service:
        yield service


async def send(service, body, path="/v1/completions", headers=JSON):
    async with service.http.post(
        service.url + path, data=io.BytesIO(body) if isinstance(body, bytes) else body, headers=headers
    ) as response:
        return response.status, (await response.json())["error"]


async def test_what_is_nested_too_deep_is_refused_before_it_is_decoded(service):
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/jobs", "/tokenize", "/detokenize"):
        for body in DEEP:
            status, error = await send(service, body, path)
            assert (status, error["message"]) == (400, "the body is nested deeper than 64"), (path, body[:40])


def test_what_nests_as_deep_as_it_may_or_only_in_a_text_passes():
    check_depth(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    check_depth(b"[[],[],{}]" * 10_000)
    check_depth(json.dumps("[" * 1000 + '"{').encode())
    with pytest.raises(RequestError):
        check_depth(b'["\\\\",' + b"[" * MAX_DEPTH)


def test_a_look_at_a_megabyte_of_brackets_holds_nobody_up():
    began_s = time.perf_counter()
    check_depth(b"[]" * (1 << 19))
    check_depth(b'"' * (1 << 20))
    check_depth(b'"\\' * (1 << 19))
    assert time.perf_counter() - began_s < 1.0


async def test_the_intake_is_held_to_the_same(service):
    job_ids = [f"{number:032x}" for number in range(4)]
    heads = [b'{"id": "%s", "prompt": "a", ' % job_id.encode() for job_id in job_ids]
    entries = [
        heads[0] + b'"logit_bias": ' + b"[" * 100_000,
        heads[1] + b'"user": "' + b"a" * (1 << 20) + b'"}',
        heads[2] + b'"stop": "' + b"a" * 257 + b'"}',
        heads[3] + b'"n": 9}',
    ]
    async with connect(service.redis_url, 10.0) as redis:
        for entry in entries:
            await redis.xadd(INTAKE_STREAM, {"request": entry})
        finals = []
        for job_id in job_ids:
            ((_, rows),) = await redis.xread({out_stream(job_id): "0"}, block=8000)
            finals.append(decode_event(rows[-1][1][b"m"]))
    assert all(isinstance(final, Final) for final in finals)
    assert [final.error.status for final in finals] == [400, 413, 400, 400]
    assert finals[0].error.message == "the body is nested deeper than 64"


BEYOND = [
    ({"stop": "a" * 257}, "stop"),
    ({"stop": "\u00e9" * 129}, "stop"),
    ({"stop": ["a" * 257]}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias"),
    ({"n": 9}, "n"),
    ({"prompt": [1] * 513}, "prompt"),
    ({"prompt": [1] * 300_000}, "prompt"),
    ({"prompt": [2**63]}, "prompt"),
    ({"stop_token_ids": [1] * 65}, "stop_token_ids"),
    ({"cache_salt": "a" * 257}, "cache_salt"),
    ({"max_tokens": 10**30}, "max_tokens"),
]


async def test_what_is_beyond_a_bound_is_named(service):
    for fields, param in BEYOND:
        status, error = await send(service, json.dumps({"prompt": "a", **fields}).encode())
        assert (status, error["param"]) == (400, param), error


async def test_what_is_at_its_bound_is_served(service):
    fields = {"stop": ["z" * 256] * 16, "n": 8, "logit_bias": {str(token): 1 for token in range(200)}}
    status, _ = await service.post(prompt="a", max_tokens=1, **fields)
    assert status == 200


async def test_a_megabyte_of_messages_is_refused_by_their_number(service):
    messages = [{"role": "user", "content": ""}] * 5000
    status, error = await send(service, json.dumps({"messages": messages}).encode(), "/v1/chat/completions")
    assert (status, error["param"]) == (400, "messages")


async def test_a_body_that_is_too_large_is_refused_whether_or_not_it_says_so(service):
    async def drip():
        for _ in range(40):
            yield b" " * 65536

    assert (await send(service, b" " * (2 << 20)))[0] == 413
    assert (await send(service, drip()))[0] == 413


async def test_another_content_type_is_refused(service):
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/xml", "application/jsonx", ""):
        assert (await send(service, b'{"prompt": "a"}', headers={"Content-Type": kind}))[0] == 415, kind


async def test_a_compressed_bomb_is_no_larger_than_it_says_when_it_is_unpacked(service):
    bomb = await asyncio.to_thread(gzip.compress, bytes(64 << 20))
    assert len(bomb) < 1 << 20
    status, _ = await send(service, bomb, headers=JSON | {"Content-Encoding": "gzip"})
    assert status == 413


async def test_headers_are_bounded_in_size_and_number(open_settings, tmp_path):
    async with gateway_process(open_settings, tmp_path, FakeEngine()) as gateway:
        for head in (
            b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: a\r\n" % i for i in range(200)) + b"\r\n",
            b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"a" * (4 << 20),
        ):
            answer = await gateway.raw(head)
            assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400")) or not answer, answer[:200]
        assert (await gateway.post(prompt="a"))[0] == 200


async def test_a_body_that_does_not_come_is_given_up(open_settings, tmp_path):
    server = msgspec.structs.replace(open_settings.server, body_timeout_s=0.5)
    settings = msgspec.structs.replace(open_settings, server=server)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    async with gateway_process(settings, tmp_path, FakeEngine()) as gateway:
        answer = await gateway.raw(head)
    assert b"408" in answer.partition(b"\r\n")[0]
    assert b"did not arrive within 0.5 s" in answer


def test_no_process_starts_where_python_may_recurse_until_its_stack_ends(monkeypatch):
    async def never(*_):
        raise AssertionError

    monkeypatch.setattr(process.sys, "getrecursionlimit", lambda: 100_000)
    with pytest.raises(SpecdError, match="recursion limit to 100000"):
        run_process(Settings(), never)
