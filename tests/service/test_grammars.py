"""Structured answers and forced calls over real HTTP, from a real engine with tiny random weights on bytes."""

import json
import re
import uuid
from pathlib import Path

import openai
import pytest

from client.wire import INTAKE_STREAM, Final, decode_event, out_stream
from drafters.ngram import NGram
from engine.engine import Engine
from engine.shape import EngineShape
from models.tokenizer import Tokenizer
from policies.fixed import Fixed
from service.storage.connect import connect
from tests.service.fakes import EOS, FakeEngine, fake_settings, running, until
from toys import tiny_target

CHAT = [{"role": "user", "content": "hi"}]
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["left", "right"]}, "size": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["kind", "size"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "turn", "schema": SCHEMA}}
TOOLS = [
    {"type": "function", "function": {"name": "turn", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "stop", "description": "Stop."}},
]


@pytest.fixture
def settings(redis_url, tmp_path):
    return fake_settings(redis_url, tmp_path / "model")


@pytest.fixture
async def service(settings):
    shape = EngineShape(max_num_seqs=4, max_num_batched_tokens=64, kv_cache_tokens=4096, max_model_len=512)
    tokenizer = Tokenizer(settings_folder(settings))
    policies = {"fixed": lambda: Fixed(4)}
    engine = Engine(tiny_target(257), {"ngram": NGram(max_drafts=4)}, policies, shape, (EOS,), tokenizer)
    async with running(settings, engine) as service:
        yield service


def settings_folder(settings):
    return Path(settings.engine.target)


def show_tools(settings):
    """Give the model a template that shows tools, calls and their results."""
    config = settings_folder(settings) / "tokenizer_config.json"
    each = "<{{ m.role }}>{{ m.content }}{{ m.tool_calls | default([]) | tojson }}"
    template = f"{{{{ tools | tojson }}}}{{% for m in messages %}}{each}{{% endfor %}}"
    config.write_text(json.dumps({"chat_template": template, "eos_token": "<eos>"}), encoding="utf-8")


def is_turn(text):
    turn = json.loads(text)
    return sorted(turn) == ["kind", "size"] and turn["kind"] in ("left", "right") and 0 <= turn["size"] <= 99


@pytest.mark.parametrize(
    ("fields", "is_right"),
    [
        ({"response_format": FORMAT}, is_turn),
        ({"structured_outputs": {"json": SCHEMA}}, is_turn),
        ({"structured_outputs": {"regex": "ab{2}c"}}, lambda text: text == "abbc"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, lambda text: text in ("yes", "no")),
        ({"structured_outputs": {"grammar": 'start: "x" "y"'}}, lambda text: text == "xy"),
        ({"response_format": {"type": "text"}, "max_tokens": 3}, lambda text: True),
    ],
)
async def test_an_answer_has_the_form_that_was_asked_for(service, fields, is_right):
    status, body = await service.post("/v1/chat/completions", messages=CHAT, **{"max_tokens": 200, **fields})
    assert status == 200
    assert is_right(body["choices"][0]["message"]["content"])
    if "max_tokens" not in fields:
        assert body["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ({"format": {"type": "json_schema", "name": "turn", "schema": SCHEMA, "strict": True}}, is_turn),
        ({"format": {"type": "json_schema", "name": "empty", "schema": {"const": {}}}}, lambda text: text == "{}"),
    ],
)
async def test_a_response_has_the_form_that_was_asked_for(service, text, is_right):
    status, body = await service.post("/v1/responses", input="hi", max_output_tokens=200, text=text)
    assert (status, body["status"]) == (200, "completed")
    assert is_right(body["output"][0]["content"][0]["text"])
    assert body["text"]["format"]["schema"] == text["format"]["schema"]


@pytest.mark.parametrize("text", [{"format": {"type": "json_schema", "schema": {}}}, {"verbosity": "high"}])
async def test_a_form_of_a_response_that_cannot_be_followed_is_a_400(service, text):
    status, body = await service.post("/v1/responses", input="hi", max_output_tokens=8, text=text)
    assert status == 400
    assert "text" in body["error"]["message"]


@pytest.mark.parametrize("fields", [{"response_format": FORMAT}, {"structured_outputs": {"json": SCHEMA}}])
async def test_a_job_straight_through_redis_has_the_form_that_was_asked_for(service, redis_url, fields):
    job_id, text, client = uuid.uuid4().hex, "", connect(redis_url, 5.0)
    entry = {"id": job_id, "prompt": "hi", "max_tokens": 200, **fields}
    await client.xadd(INTAKE_STREAM, {"request": json.dumps(entry)})
    last, event = "0-0", None
    while not isinstance(event, Final):
        ((_, rows),) = await client.xread({out_stream(job_id): last}, block=4000)
        for last, row in rows:  # noqa: B007 - the next read goes on after it
            event = decode_event(row[b"m"])
            text += event.tail if isinstance(event, Final) else event.text
    await client.aclose()
    assert is_turn(text)


async def test_a_completion_and_a_job_can_be_structured_too(service):
    status, body = await service.post(prompt="hi", max_tokens=200, response_format=FORMAT)
    assert (status, is_turn(body["choices"][0]["text"])) == (200, True)
    status, _ = await service.post("/v1/jobs", prompt="hi", max_tokens=200, response_format=FORMAT)
    assert status == 202


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"structured_outputs": {"regex": "(a"}}, "grammar", "unclosed group"),
        ({"structured_outputs": {"json": {"not": {}}}}, "grammar", "not"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "exactly one"),
        ({"structured_outputs": {"regex": "a"}, "response_format": FORMAT}, "structured_outputs", "not both"),
        ({"structured_outputs": {"regex": "(" * 40}}, "structured_outputs", "nest"),
        ({"response_format": {"type": "xml"}}, "response_format", "xml"),
        ({"tools": TOOLS}, "tools", "knows no tools"),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice", "sometimes"),
        ({"tools": TOOLS, "tool_choice": "required", "response_format": FORMAT}, "tool_choice", "no room"),
    ],
)
async def test_what_cannot_be_followed_is_a_400_that_says_why(settings, fields, param, said):
    async with running(settings, FakeEngine()) as service:
        status, body = await service.post("/v1/chat/completions", messages=CHAT, **fields)
    assert (status, body["error"]["param"]) == (400, param)
    assert said in body["error"]["message"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "turn"}}])
async def test_a_forced_call_arrives_in_openais_shape_streamed_or_not(service, choice):
    asked = {"model": "fake", "messages": CHAT, "tools": TOOLS, "tool_choice": choice, "max_tokens": 200, "seed": 4}
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none") as client:
        whole = await client.chat.completions.create(**asked)
        chunks = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]
    [call] = whole.choices[0].message.tool_calls
    assert whole.choices[0].finish_reason == "tool_calls"
    assert whole.choices[0].message.content is None
    assert call.function.name == "turn" if choice != "required" else call.function.name in ("turn", "stop")
    assert call.function.arguments == "{}" if call.function.name == "stop" else is_turn(call.function.arguments)
    deltas = [one for chunk in chunks for one in chunk.choices[0].delta.tool_calls or ()]
    assert [one.function.name for one in deltas if one.function.name] == [call.function.name]
    assert "".join(one.function.arguments for one in deltas) == call.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


FLAT_TOOLS = [{"type": "function", **tool["function"]} for tool in TOOLS]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "turn"}])
async def test_a_forced_call_is_an_item_of_a_response_streamed_or_not(service, choice):
    asked = {"model": "fake", "input": "hi", "tools": FLAT_TOOLS, "tool_choice": choice, "max_output_tokens": 200}
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none") as client:
        whole = await client.responses.create(**asked, extra_body={"seed": 4})
        found = [one async for one in await client.responses.create(**asked, extra_body={"seed": 4}, stream=True)]
        again = await client.responses.retrieve(found[-1].response.id)
    [call] = whole.output
    assert (call.type, call.status, whole.status) == ("function_call", "completed", "completed")
    assert call.name == "turn" if choice != "required" else call.name in ("turn", "stop")
    assert call.arguments == "{}" if call.name == "stop" else is_turn(call.arguments)
    assert (whole.tool_choice if choice == "required" else whole.tool_choice.name) in ("required", "turn")
    assert [tool.name for tool in whole.tools] == ["turn", "stop"]
    by_kind = {event.type.removeprefix("response."): event for event in found}
    deltas = [event.delta for event in found if event.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == call.arguments == by_kind["function_call_arguments.done"].arguments
    assert by_kind["output_item.added"].item.name == by_kind["output_item.done"].item.name == call.name
    assert "output_text.delta" not in by_kind
    assert by_kind["completed"].response.output == again.output
    assert again.output[0].call_id == f"call_{again.id.removeprefix('resp_')}_0"


async def test_a_forced_call_is_the_answer_of_a_job_and_of_its_events(service):
    forced = {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "turn"}}}
    _, made = await service.post("/v1/jobs", messages=CHAT, max_tokens=200, **forced)
    async with service.http.get(f"{service.url}{made['links']['events']}") as response:
        lines = (await response.text()).splitlines()
    found = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    deltas = [choice["delta"] for event in found for choice in event["choices"]]
    said = "".join(call["function"]["arguments"] for delta in deltas for call in delta.get("tool_calls", ()))
    async with service.http.get(f"{service.url}{made['links']['self']}") as response:
        [choice] = (await response.json())["answer"]["choices"]
    [call] = choice["message"]["tool_calls"]
    assert is_turn(said)
    assert (choice["finish_reason"], call["function"]) == ("tool_calls", {"name": "turn", "arguments": said})


async def test_calls_and_their_results_are_given_back_to_a_response(redis_url, tmp_path):
    settings, engine = fake_settings(redis_url, tmp_path / "model"), FakeEngine()
    show_tools(settings)
    called = [{"type": "function_call", "call_id": str(one), "name": "stop", "arguments": "{}"} for one in (1, 2)]
    results = [{"type": "function_call_output", "call_id": str(one), "output": f"done {one}"} for one in (1, 2)]
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "so"}, *called, *results]
    body = {"input": said, "tools": FLAT_TOOLS[1:], "max_output_tokens": 3}
    async with running(settings, engine) as service:
        status, answer = await service.post("/v1/responses", **body)
    assert (status, answer["output"][0]["type"], answer["tool_choice"]) == (200, "message", "auto")
    shown = bytes(engine.seen[0].prompt_ids).decode()
    assert '"description": "Stop."' in shown
    # Both calls belong to the turn in which they were made.
    [turn] = re.findall(r"<assistant>(.*?)<", shown)
    assert turn.startswith("so")
    assert turn.count('"name": "stop"') == 2
    assert "<tool>done 1" in shown
    assert "<tool>done 2" in shown


async def test_a_template_that_knows_tools_is_shown_them_and_results_of_calls(redis_url, tmp_path):
    settings, engine = fake_settings(redis_url, tmp_path / "model"), FakeEngine()
    show_tools(settings)
    called = {"id": "1", "type": "function", "function": {"name": "stop", "arguments": '{"a": "<"}'}}
    messages = [*CHAT, {"role": "assistant", "content": None, "tool_calls": [called]}]
    messages.append({"role": "tool", "content": "done", "tool_call_id": "1"})
    async with running(settings, engine) as service:
        status, _ = await service.post("/v1/chat/completions", messages=messages, tools=TOOLS[1:], max_tokens=3)
    assert status == 200
    shown = bytes(engine.seen[0].prompt_ids).decode()
    assert '"description": "Stop."' in shown
    assert '"arguments": {"a": "<"}' in shown
    assert "<tool>done" in shown


async def test_metrics_tell_what_grammars_forced(service):
    await service.post("/v1/chat/completions", messages=CHAT, response_format=FORMAT, max_tokens=200)

    async def counted() -> bool:
        async with service.http.get(service.url + "/metrics") as response:
            lines = (await response.text()).splitlines()
        found = [line for line in lines if line.startswith("specd_engine_forced_accepted_tokens_total")]
        return any(float(line.split()[-1]) > 0 for line in found)

    await until(counted, True)
