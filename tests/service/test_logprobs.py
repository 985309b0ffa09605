"""Log-probabilities in OpenAI's two shapes, whole and streamed, down to tokens that are half a character."""

import json
import math

import msgspec
import openai
import pytest

from client.wire import Chunk
from core.types import TokenLogprobs
from service.answers.logprobs import LogprobsWriter
from tests.service.fakes import BYTES, FakeEngine, running, until_true, write_tokenizer

CHAT = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def chunk(data: bytes) -> Chunk:
    rows = tuple(TokenLogprobs(-2.0, 3, (ord("x"),), (-0.25,)) for _ in data)
    return Chunk(tuple(data), tuple("" for _ in data), logprobs=rows)


def test_completions_list_tokens_with_their_places_in_the_text(tokenizer):
    told = LogprobsWriter(tokenizer, is_chat=False).spell(chunk("a€b".encode()))
    assert told["tokens"] == ["a", "bytes:\\xe2", "bytes:\\x82", "bytes:\\xac", "b"]
    assert told["text_offset"] == [0, 1, 1, 1, 2]
    assert told["token_logprobs"] == [-2.0] * 5


def test_the_token_that_came_is_told_beside_the_most_likely(tokenizer):
    writer = LogprobsWriter(tokenizer, is_chat=False)
    assert writer.spell(chunk(b"a"))["top_logprobs"] == [{"x": -0.25, "a": -2.0}]
    assert writer.spell(chunk(b"x"))["text_offset"] == [1]


def test_chats_list_entries_with_bytes(tokenizer):
    told = LogprobsWriter(tokenizer, is_chat=True).spell(chunk("é".encode()[:1]))
    top = [{"token": "x", "logprob": -0.25, "bytes": [120]}]
    assert told == {
        "content": [{"token": "\\xc3", "logprob": -2.0, "bytes": [0xC3], "top_logprobs": top}],
        "refusal": None,
    }


def test_a_token_that_cannot_come_has_a_number_that_json_knows(tokenizer):
    row = Chunk((97,), ("a",), logprobs=(TokenLogprobs(-math.inf, 9),))
    assert LogprobsWriter(tokenizer, is_chat=False).spell(row)["token_logprobs"] == [-9999.0]


async def test_whole_and_streamed_completions_say_the_same(settings):
    asked = {"prompt": "a", "max_tokens": 7, "logprobs": 2}
    async with running(settings, FakeEngine()) as service:
        _, body = await service.post(**asked)
        streamed = await service.stream(**asked)
    whole = body["choices"][0]["logprobs"]
    parts = [one["choices"][0]["logprobs"] for one in streamed[:-1]]
    assert whole == {name: [value for part in parts for value in part[name]] for name in whole}
    assert whole["tokens"] == ["G", "r", "bytes:\\xc3", "bytes:\\xbc", "bytes:\\xc3", "bytes:\\x9f", "e"]
    assert whole["top_logprobs"][0] == {"G": -0.5, "x": -1.5}


@pytest.mark.parametrize("stream", [False, True])
async def test_the_openai_client_reads_them(settings, stream):
    async with (
        running(settings, FakeEngine()) as service,
        openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as client,
    ):
        asked = {"model": "fake", "messages": CHAT, "max_tokens": 6, "logprobs": True, "top_logprobs": 1}
        if stream:
            chunks = [one async for one in await client.chat.completions.create(**asked, stream=True)]
            told = [one.choices[0].logprobs for one in chunks if one.choices[0].logprobs]
        else:
            told = [(await client.chat.completions.create(**asked)).choices[0].logprobs]
    entries = [entry for one in told for entry in one.content]
    assert bytes(byte for entry in entries for byte in entry.bytes) == BYTES[:6]
    assert {len(entry.top_logprobs) for entry in entries} == {1}


async def test_a_stop_cuts_them_with_the_tokens(settings):
    async with running(settings, FakeEngine()) as service:
        _, body = await service.post(prompt="a", max_tokens=99, stop="ü", logprobs=0)
    assert body["choices"][0]["logprobs"]["tokens"] == ["G", "r", "bytes:\\xc3", "bytes:\\xbc"]
    assert body["choices"][0]["logprobs"]["top_logprobs"][0] == {"G": -0.5}


async def test_a_stream_that_cannot_be_told_ends_in_an_error_event(settings):
    class Forgetful(FakeEngine):
        def step(self, meanwhile=None):
            return [msgspec.structs.replace(emission, logprobs=None) for emission in super().step()]

    engine = Forgetful(step_s=0.02)
    async with running(settings, engine) as service:
        body = {"prompt": "a", "max_tokens": 400, "logprobs": 1, "stream": True}
        async with service.http.post(f"{service.url}/v1/completions", json=body) as response:
            (event, end) = (await response.read()).split(b"\n\n")
        await until_true(lambda: engine.aborted, 2.0)
    assert (json.loads(event.removeprefix(b"data: "))["error"]["code"], end) == ("internal_error", b"")


async def test_who_does_not_ask_gets_none(settings):
    async with running(settings, FakeEngine()) as service:
        _, body = await service.post(prompt="a")
    assert body["choices"][0]["logprobs"] is None
