"""What a request may say: every wrong field is named, with what came and what would be right."""

import json
from typing import get_type_hints

import pytest

from core.errors import RequestError
from core.types import Sampling, Speculation
from service.http.parse import MAX_DEPTH, parse
from service.openai import NOT_BUILT, ChatRequest, CompletionRequest

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def completion(**fields):
    return parse(json.dumps({"prompt": "hi", **fields}).encode(), CompletionRequest)


def refusal(body: bytes, wanted=CompletionRequest) -> RequestError:
    with pytest.raises(RequestError) as raised:
        parse(body, wanted)
    return raised.value


def test_sampling_fields_arrive():
    request = completion(temperature=0, top_p=0.5, top_k=-1, stop_token_ids=[7], ignore_eos=True)
    assert request.sampling(9) == Sampling(9, 0.0, 0.5, stop_token_ids=(7,), ignore_eos=True)


def test_every_sampling_field_arrives():
    fields = {
        "min_p": 0.1,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.25,
        "repetition_penalty": 1.1,
        "min_tokens": 2,
        "seed": -(2**63),
        "include_stop_str_in_output": True,
        "logprobs": 3,
    }
    request = completion(**fields, logit_bias={"7": -100, "5": 1.5}, stop=["a", "b"])
    assert request.sampling(9) == Sampling(9, logit_bias=((5, 1.5), (7, -100.0)), stop=("a", "b"), **fields)


def test_what_is_left_out_is_what_the_engine_takes_by_default():
    assert completion().sampling(16) == Sampling()


@pytest.mark.parametrize(("stop", "stops"), [("ab", ("ab",)), ("", ()), ([], ()), (None, ())])
def test_one_stop_is_a_list_of_one_and_an_empty_one_is_none(stop, stops):
    assert completion(stop=stop).sampling(9).stop == stops


@pytest.mark.parametrize(
    ("fields", "alternatives"),
    [({}, None), ({"logprobs": False}, None), ({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 20}, 20)],
)
def test_chats_ask_for_log_probabilities_in_two_fields(fields, alternatives):
    assert parse(json.dumps(CHAT | fields).encode(), ChatRequest).sampling(9).logprobs == alternatives


def test_alternatives_without_log_probabilities_are_refused():
    request = parse(json.dumps(CHAT | {"top_logprobs": 2}).encode(), ChatRequest)
    with pytest.raises(RequestError, match="top_logprobs needs logprobs") as refused:
        request.sampling(9)
    assert refused.value.param == "top_logprobs"


def test_more_min_tokens_than_max_tokens_are_refused():
    with pytest.raises(RequestError, match="at most max_tokens, which is 9; it was 10") as refused:
        completion(min_tokens=10).sampling(9)
    assert refused.value.param == "min_tokens"


@pytest.mark.parametrize(("best_of", "n"), [(None, 3), (3, 3)])
def test_best_of_may_say_what_n_says(best_of, n):
    assert completion(best_of=best_of, n=n).num_choices == n


@pytest.mark.parametrize(("best_of", "n"), [(4, 3), (2, None), (0, None)])
def test_best_of_may_not_ask_for_more_than_is_shown(best_of, n):
    with pytest.raises(RequestError, match=r"n is \d, best_of was") as refused:
        _ = completion(best_of=best_of, n=n).num_choices
    assert refused.value.param == "best_of"


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        (None, Speculation()),
        (True, Speculation()),
        (False, Speculation(max_drafts=0)),
        ("off", Speculation(max_drafts=0)),
        ({"max_drafts": 3, "policy": "fixed"}, Speculation(3, policy="fixed")),
    ],
)
def test_speculation_is_off_open_or_as_told(asked, meant):
    assert completion(speculation=asked).asked_speculation == meant


@pytest.mark.parametrize(("wanted", "prompt"), [(CompletionRequest, {"prompt": "hi"}), (ChatRequest, CHAT)])
def test_nulls_are_as_good_as_nothing(wanted, prompt):
    nulls = dict.fromkeys(name for name in wanted.__struct_fields__ if name not in prompt)
    assert parse(json.dumps(nulls | prompt).encode(), wanted) == parse(json.dumps(prompt).encode(), wanted)


BOUNDED = [
    name
    for name in Sampling.__struct_fields__
    if name not in ("max_tokens", "top_k", "logit_bias", "stop", "logprobs", "grammar")
]


@pytest.mark.parametrize("name", BOUNDED)
def test_fields_have_the_engine_s_bounds(name):
    mine, engines = (get_type_hints(one, include_extras=True)[name] for one in (CompletionRequest, Sampling))
    assert mine == engines | None


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


@pytest.mark.parametrize("field", [field for field, neutral in NOT_BUILT.items() if neutral])
def test_a_field_that_is_not_built_is_refused_by_name(field):
    error = refusal(json.dumps({"prompt": "hi", field: 7}).encode())
    assert (error.status, error.param, error.code) == (400, field, "unsupported_parameter")
    assert field in error.message


@pytest.mark.parametrize(("value", "field"), [(True, "n"), (1, "echo"), (False, "logprobs"), (1, "ignore_eos")])
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
        ({"min_p": 1.5}, "min_p"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": -2.5}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"logit_bias": dict.fromkeys(range(1025), 1)}, "logit_bias"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": 3}, "stop"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"speculation": "on"}, "speculation"),
        ({"speculation": {"max_drafts": -1}}, "speculation"),
        ({"speculation": {"drafts": 1}}, "speculation"),
        ({"cache_salt": ""}, "cache_salt"),
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


def test_a_refusal_says_what_came_and_what_would_be_right():
    assert refusal(b'{"prompt": "hi", "temperature": 9}').message == (
        "Expected `float` <= 2.0 - at `$.temperature`; temperature was 9"
    )
    assert refusal(json.dumps({"prompt": "hi", "stop": ["x"] * 99}).encode()).message.endswith("...")


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
