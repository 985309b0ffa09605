"""Libraries that speak OpenAI's API: what they read, whole and streamed, is what the server said."""

from typing import Literal

import openai
import pydantic
import pytest

instructor = pytest.importorskip("instructor", reason="the environment of frameworks has it")
litellm = pytest.importorskip("litellm", reason="the environment of frameworks has it")
langchain_openai = pytest.importorskip("langchain_openai", reason="the environment of frameworks has it")

SAID = "What do you like to do?"
MESSAGES = [{"role": "user", "content": SAID}]


@pytest.fixture
def text(client):
    asked = {"model": "demo", "messages": MESSAGES, "max_tokens": 24, "temperature": 0}
    return client.chat.completions.create(**asked).choices[0].message.content


def test_litellm(url, text):
    asked = {"model": "openai/demo", "messages": MESSAGES, "max_tokens": 24, "temperature": 0}
    asked |= {"api_base": f"{url}/v1", "api_key": "unused"}
    whole = litellm.completion(**asked)
    chunks = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert (whole.choices[0].message.content, streamed) == (text, text)
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 24


def test_langchain(url, text):
    model = langchain_openai.ChatOpenAI(
        model="demo", base_url=f"{url}/v1", api_key="unused", max_tokens=24, temperature=0, stream_usage=True
    )
    whole, parts = model.invoke(SAID), list(model.stream(SAID))
    assert (whole.content, "".join(part.content for part in parts)) == (text, text)
    assert sum(part.usage_metadata["output_tokens"] for part in parts if part.usage_metadata) == 24


class Turn(pydantic.BaseModel):
    # instructor sends schemas as they are, and one that is open lets a model write any further fields.
    model_config = pydantic.ConfigDict(extra="forbid")

    direction: Literal["left", "right"]
    degrees: int = pydantic.Field(ge=0, le=359)


def test_langchain_reads_types(url):
    model = langchain_openai.ChatOpenAI(model="demo", base_url=f"{url}/v1", api_key="unused", max_tokens=200)
    for method in ("json_schema", "function_calling"):
        assert isinstance(model.with_structured_output(Turn, method=method).invoke(SAID), Turn)


@pytest.mark.parametrize("mode", ["JSON_SCHEMA", "TOOLS"])
def test_instructor_reads_types(url, mode):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as plain:
        client = instructor.from_openai(plain, mode=instructor.Mode[mode])
        turn = client.chat.completions.create(
            model="demo", messages=MESSAGES, max_tokens=200, response_model=Turn, max_retries=0
        )
    assert isinstance(turn, Turn)
