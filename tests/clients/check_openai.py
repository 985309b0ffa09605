"""OpenAI's client, of the major version that is installed: whole and streamed answers agree, token by token."""

import asyncio
from typing import Literal

import openai
import pydantic
import pytest

ASKED = [{"role": "user", "content": "What do you like to do?"}]
CHAT = {"model": "demo", "messages": ASKED, "max_tokens": 24, "temperature": 0}
IDS = {"return_token_ids": True, "spec_decode_metrics": "detailed"}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


def text_and_ids(chunks):
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    text = "".join(choice.delta.content or "" for choice in choices)
    return text, [token for choice in choices for token in getattr(choice, "token_ids", None) or []]


def test_a_chat_whole_and_streamed_has_the_same_text_tokens_usage_and_metrics(client):
    whole = client.chat.completions.create(**CHAT, extra_body=IDS)
    chunks = list(client.chat.completions.create(**CHAT, **USAGE, extra_body=IDS))
    text, ids = text_and_ids(chunks)
    assert (text, ids) == (whole.choices[0].message.content, whole.choices[0].token_ids)
    assert len(ids) == whole.usage.completion_tokens == chunks[-1].usage.completion_tokens
    told = chunks[-1].metrics["speculative_decoding"]
    assert sum(told["per_step_accepted"]) == told["num_accepted_draft_tokens"]
    assert sum(told["acceptance_histogram"]) == told["num_spec_steps"] == len(told["per_step_drafted"])


def test_the_async_client_reads_the_same(client, url):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as other:
            whole = await other.chat.completions.create(**CHAT)
            return whole, [chunk async for chunk in await other.chat.completions.create(**CHAT, **USAGE)]

    whole, chunks = asyncio.run(ask())
    assert text_and_ids(chunks)[0] == whole.choices[0].message.content
    assert whole.choices[0].message.content == client.chat.completions.create(**CHAT).choices[0].message.content


def test_completions_echo_and_have_logprobs(client):
    asked = {"model": "demo", "prompt": "I like", "max_tokens": 8, "temperature": 0}
    plain = client.completions.create(**asked).choices[0].text
    assert client.completions.create(**asked, echo=True).choices[0].text == "I like" + plain
    streamed = client.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == plain
    told = client.completions.create(**asked, logprobs=2).choices[0].logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset)


def test_chats_have_logprobs(client):
    told = client.chat.completions.create(**CHAT, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert bytes(byte for one in told for byte in one.bytes).decode()
    assert all(len(one.top_logprobs) == 2 for one in told)


def test_responses_whole_and_streamed_agree_and_are_kept(client):
    asked = {"model": "demo", "input": "Hello", "max_output_tokens": 16, "temperature": 0}
    whole = client.responses.create(**asked)
    *_, last = client.responses.create(**asked, stream=True)
    assert last.response.output_text == whole.output_text == client.responses.retrieve(whole.id).output_text
    client.responses.delete(whole.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(whole.id)


def test_a_response_in_the_background_is_followed_from_an_event(client):
    begun = client.responses.create(model="demo", input="Hello", max_output_tokens=32, background=True)
    events = list(client.responses.retrieve(begun.id, stream=True))
    rest = list(client.responses.retrieve(begun.id, stream=True, starting_after=events[3].sequence_number))
    assert [one.sequence_number for one in rest] == [one.sequence_number for one in events[4:]]
    assert rest[-1].response.output_text


class Turn(pydantic.BaseModel):
    direction: Literal["left", "right"]
    degrees: int = pydantic.Field(ge=0, le=359)


def test_answers_are_parsed_into_types(client):
    chat = client.chat.completions.parse(**CHAT | {"max_tokens": 200}, response_format=Turn)
    assert isinstance(chat.choices[0].message.parsed, Turn)
    response = client.responses.parse(model="demo", input="Hello", max_output_tokens=200, text_format=Turn)
    assert isinstance(response.output_parsed, Turn)


def test_a_forced_call_is_the_same_whole_and_streamed(client):
    tool = openai.pydantic_function_tool(Turn, name="turn")
    asked = CHAT | {"max_tokens": 200, "tools": [tool], "tool_choice": "required"}
    [called] = client.chat.completions.create(**asked).choices[0].message.tool_calls
    with client.chat.completions.stream(**asked) as stream:
        for _ in stream:
            pass
        [streamed] = stream.get_final_completion().choices[0].message.tool_calls
    assert (streamed.function.name, streamed.function.arguments) == ("turn", called.function.arguments)
    assert isinstance(streamed.function.parsed_arguments, Turn)


def test_a_response_calls_a_function_whole_and_streamed(client):
    tool = {"type": "function", "name": "turn", "parameters": Turn.model_json_schema(), "strict": True}
    asked = {"model": "demo", "input": "Hello", "max_output_tokens": 200, "tools": [tool], "tool_choice": "required"}
    asked |= {"extra_body": {"seed": 1}}
    [called] = client.responses.create(**asked).output
    with client.responses.stream(**asked) as stream:
        for _ in stream:
            pass
        [streamed] = stream.get_final_response().output
    assert (streamed.type, streamed.name, streamed.arguments) == ("function_call", "turn", called.arguments)
    assert Turn.model_validate_json(called.arguments)


def test_errors_are_the_client_s_own(client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**CHAT | {"model": "other"})
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**CHAT, extra_body={"prediction": {"type": "content"}})
    assert (missing.value.code, refused.value.param) == ("model_not_found", "prediction")


def test_unknown_fields_are_named_and_ids_come_back(client):
    raw = client.chat.completions.with_raw_response.create(
        **CHAT, extra_body={"frobnicate": 1}, extra_headers={"X-Request-Id": "mine"}
    )
    assert (raw.headers["x-specd-ignored"], raw.headers["x-request-id"]) == ("frobnicate", "mine")
