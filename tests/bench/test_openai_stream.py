"""Any OpenAI-compatible stream as arrivals of tokens, and what is no such stream refused."""

import pytest

from bench.openai_stream import Connection, served_model
from bench.prompt_pool import Question
from core.errors import QueueError
from tests.bench.fake_server import chunk, serving

QUESTION = Question("math", "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n", 9)


def arrivals(url, question=QUESTION, **options):
    with_fields = options.pop("fields", {})
    connection = Connection(url, with_fields, **options)
    try:
        return list(connection.ask(question, 0.5))
    finally:
        connection.close()


def test_chunks_of_several_tokens_count_in_full():
    with serving(lambda _: iter([chunk(1, [5]), chunk(4, [6, 7, 8]), {"choices": []}, "[DONE]"])) as (url, _):
        told = arrivals(url)
    assert [(one.num_tokens, one.token_ids) for one in told] == [(1, (5,)), (3, (6, 7, 8))]
    assert not any(one.is_round for one in told)
    assert told[0].at_s <= told[1].at_s


def test_specd_tells_its_rounds():
    told = {"token_ids": [5, 6], "verified": 4, "num_drafts": 1}
    with serving(lambda _: iter([chunk(2, speculation=told), "[DONE]"])) as (url, _):
        (one,) = arrivals(url)
    assert (one.is_round, one.num_tokens, one.token_ids, one.verified, one.accepted) == (True, 2, (5, 6), 4, 1)


def test_a_round_without_drafts_is_a_round():
    with serving(lambda _: iter([chunk(1, speculation={"token_ids": [5]}), "[DONE]"])) as (url, _):
        (one,) = arrivals(url)
    assert (one.is_round, one.verified, one.accepted) == (True, 0, 0)


def test_the_request_asks_for_running_usage_and_carries_the_fields():
    with serving(lambda _: iter([chunk(1), "[DONE]"])) as (url, bodies):
        arrivals(url, fields={"model": "m"})
    path, body = bodies[0]
    assert path == "/v1/completions"
    assert body == {
        "model": "m",
        "prompt": QUESTION.text,
        "max_tokens": 9,
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


def test_a_chat_sends_messages():
    with serving(lambda _: iter([chunk(1), "[DONE]"])) as (url, bodies):
        arrivals(url, chat=True)
    path, body = bodies[0]
    assert (path, body["messages"]) == ("/v1/chat/completions", [{"role": "user", "content": "1 + 1?"}])
    assert "prompt" not in body


def test_a_chunk_that_only_names_the_role_needs_no_usage():
    opening = {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
    with serving(lambda _: iter([opening, chunk(2), "[DONE]"])) as (url, _):
        assert [one.num_tokens for one in arrivals(url, chat=True)] == [2]


def test_a_connection_serves_one_request_after_the_other():
    with serving(lambda _: iter([chunk(2), "[DONE]"])) as (url, _):
        connection = Connection(url, {})
        counts = [[one.num_tokens for one in connection.ask(QUESTION, 0.0)] for _ in range(3)]
        connection.close()
    assert counts == [[2], [2], [2]]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([{"choices": [{"text": "x"}]}], "tells no usage"),
        ([chunk(1)], "broke off"),
        ([{"error": {"message": "out of memory"}}], "out of memory"),
        (["{"], "no streamed completion"),
        ([{"unlike": "anything"}], "no streamed completion"),
    ],
)
def test_a_stream_that_is_none_is_refused(lines, reason):
    with serving(lambda _: iter(lines)) as (url, _), pytest.raises(QueueError, match=reason):
        arrivals(url)


def test_a_refusal_is_told_in_the_servers_words():
    with serving(lambda _: iter([]), status=404) as (url, _), pytest.raises(QueueError, match="404: no such model"):
        arrivals(url)


def test_a_server_that_is_not_there_is_told():
    with serving(lambda _: iter([])) as (url, _):
        pass
    with pytest.raises(QueueError, match="no answer from"):
        arrivals(url)
    with pytest.raises(QueueError, match="does not tell its models"):
        served_model(url)


def test_the_served_model_is_the_first_listed():
    with serving(lambda _: iter([])) as (url, _):
        assert served_model(url) == "served"
