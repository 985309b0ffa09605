"""Calls are read out of an answer's text, however it is cut into chunks."""

import json

import pytest

from core.errors import RequestError
from core.grammar import Grammar, GrammarKind
from service.answers.tool_calls import (
    Function,
    NamedFunction,
    NamedTool,
    Tool,
    ToolCallReader,
    call_grammar,
    forced_functions,
)

ADD = Function("add", parameters={"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
TWO_CALLS = (
    'so <tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    '<tool_call>{"name":"now","arguments":{}}</tool_call>'
)
NOW = Function("now")


def streamed(functions, text, size):
    """The deltas of a text that comes in pieces of `size`, put together as a client does it."""
    reader, content, calls = ToolCallReader("x", [one.name for one in functions]), "", {}
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    for delta in [*map(reader.push, pieces), reader.end("")]:
        content += delta.get("content", "")
        for call in delta.get("tool_calls", ()):
            known = calls.setdefault(call["index"], {"id": call.get("id"), "name": "", "arguments": ""})
            known["name"] += call["function"].get("name", "")
            known["arguments"] += call["function"]["arguments"]
    return content, [(call["id"], call["name"], call["arguments"]) for call in calls.values()]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("functions", "text", "wanted"),
    [
        ([ADD], '{"a":1}', ("", [("call_x_0", "add", '{"a":1}')])),
        ([ADD, NOW], '{"name":"now","arguments":{}}', ("", [("call_x_0", "now", "{}")])),
        ([ADD, NOW], '{"name":"add","arguments":{"a":{}}}', ("", [("call_x_0", "add", '{"a":{}}')])),
        ([], "no < call <tool_", ("no < call <tool_", [])),
        (
            [],
            TWO_CALLS,
            ("so ", [("call_x_0", "add", '{"a": 1}'), ("call_x_1", "now", "{}")]),
        ),
        ([], "<tool_call>what</tool_call>!", ("<tool_call>what</tool_call>!", [])),
        ([], '<tool_call>{"name":"add"', ('<tool_call>{"name":"add"', [])),
    ],
)
def test_text_becomes_content_and_calls(functions, text, wanted, size):
    assert streamed(functions, text, size) == wanted


def test_one_function_is_forced_by_its_parameters_and_several_by_their_names():
    assert call_grammar([ADD]) == Grammar(GrammarKind.JSON_SCHEMA, json.dumps(ADD.parameters, separators=(",", ":")))
    either = json.loads(call_grammar([ADD, NOW]).text)["anyOf"]
    assert [one["properties"]["name"]["const"] for one in either] == ["add", "now"]


@pytest.mark.parametrize(
    ("choice", "names"),
    [(None, []), ("auto", []), ("none", []), ("required", ["add", "now"]), (NamedTool(NamedFunction("now")), ["now"])],
)
def test_a_tool_choice_says_which_functions_are_forced(choice, names):
    assert [one.name for one in forced_functions([Tool(ADD), Tool(NOW)], choice)] == names


@pytest.mark.parametrize(
    ("tools", "choice"), [([], "required"), ([ADD], NamedTool(NamedFunction("no"))), ([ADD, ADD], None)]
)
def test_a_tool_choice_that_cannot_be_followed_is_refused(tools, choice):
    with pytest.raises(RequestError):
        forced_functions([Tool(one) for one in tools], choice)
