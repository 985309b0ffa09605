"""What a request may say: every wrong field is named, with what came and what would be right."""

import json

import pytest

from core.errors import RequestError
from core.types import Sampling
from service.openai import MAX_DEPTH, NOT_BUILT, WITHOUT_EFFECT, ChatRequest, CompletionRequest, parse

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def completion(**fields):
    return parse(json.dumps({"prompt": "hi", **fields}).encode(), CompletionRequest)


def refusal(body: bytes, wanted=CompletionRequest) -> RequestError:
    with pytest.raises(RequestError) as raised:
        parse(body, wanted)
    return raised.value


def test_sampling_fields_arrive():
    request = completion(temperature=0, top_p=0.5, top_k=-1, stop_token_ids=[7], ignore_eos=True)
    assert request.sampling(9) == Sampling(9, 0.0, 0.5, 0, (7,), ignore_eos=True)


def test_nulls_are_as_good_as_nothing():
    nulls = dict.fromkeys(("model", "max_tokens", "temperature", "top_p", "top_k", "stop_token_ids", "user"))
    assert completion(**nulls) == completion()


def test_content_may_be_text_parts():
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]}
    (message,) = parse(json.dumps(body).encode(), ChatRequest).messages
    assert message.text == "ab"


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, neutral in NOT_BUILT.items() for value in neutral],
)
def test_a_value_that_asks_for_nothing_is_accepted(field, value):
    assert completion(**{field: value}) == completion()


@pytest.mark.parametrize("field", [field for field in NOT_BUILT if field not in WITHOUT_EFFECT])
def test_a_field_that_is_not_built_is_refused_by_name(field):
    error = refusal(json.dumps({"prompt": "hi", field: 7}).encode())
    assert (error.status, error.param, error.code) == (400, field, "unsupported_parameter")
    assert field in error.message


@pytest.mark.parametrize(("value", "field"), [(True, "n"), (1, "echo"), (0, "logprobs")])
def test_a_boolean_is_no_number(value, field):
    assert refusal(json.dumps({"prompt": "hi", field: value}).encode()).param == field


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 10**30}, "top_k"),
        ({"stop_token_ids": list(range(65))}, "stop_token_ids"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usge": True}}, "stream_options"),
        ({"prompt": None}, "prompt"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": ["one", "two"]}, "prompt"),
        ({"prompt": [[1], [2]]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
    ],
)
def test_a_wrong_value_is_refused_by_its_field(fields, param):
    error = refusal(json.dumps({"prompt": "hi", **fields}).encode())
    assert (error.status, error.param) == (400, param)


@pytest.mark.parametrize(
    "messages",
    [[], [{"role": "user"}], [{"content": "hi"}], [{"role": "user", "content": [{"type": "image_url"}]}], "hi", [1]],
)
def test_wrong_messages_are_refused(messages):
    error = refusal(json.dumps({"messages": messages}).encode(), ChatRequest)
    assert error.status == 400
    assert error.param in ("messages", "role", "content")


def test_an_unknown_field_is_refused_with_the_nearest_known_one():
    error = refusal(b'{"prompt": "hi", "max_token": 3}')
    assert error.param == "max_token"
    assert "did you mean 'max_tokens'" in error.message


@pytest.mark.parametrize("wanted", [CompletionRequest, ChatRequest])
def test_a_missing_prompt_is_named(wanted):
    assert refusal(b"{}", wanted).param == ("prompt" if wanted is CompletionRequest else "messages")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b'{"prompt": "hi"',
        b"[]",
        b'"text"',
        b"null",
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"temperature": NaN, "prompt": "a"}',
        b'{"temperature": 1e999, "prompt": "a"}',
    ],
)
def test_what_is_no_json_object_is_refused(body):
    assert refusal(body).status == 400


@pytest.mark.parametrize("bracket", [b"[", b'{"a":'])
def test_deep_nesting_is_refused_before_it_is_decoded(bracket):
    assert "nested deeper" in refusal(bracket * (MAX_DEPTH + 1)).message
    assert "nested deeper" in refusal(bracket * 200_000).message


def test_brackets_inside_of_text_are_no_nesting():
    assert completion(prompt="[" * 5000 + '\\"{{').prompt.startswith("[[")
