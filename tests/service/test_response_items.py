"""The items of a response: whatever the chunks, the same text gives the same message and the same calls."""

import pytest

from service.answers.tool_calls import ToolCallReader
from service.responses.response_items import ResponseItems

CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'


def items_of(text, size, calls):
    """Return (type, name, text) of the items, and what their changes came to, by item."""
    items, came = ResponseItems("x", calls), {}
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    for change in [*(one for piece in pieces for one in items.push(piece)), *items.end("")]:
        assert change.is_new == (change.index not in came) or calls is None
        came[change.index] = came.get(change.index, "") + change.text
    return [(one.type, one.name, "".join(one.parts)) for one in items.items], came


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("so", [("message", "", "so")]),
        ("", [("message", "", "")]),
        (CALL, [("function_call", "add", '{"a": 1}')]),
        (f"\n{CALL}\n{CALL}\n", [("function_call", "add", '{"a": 1}')] * 2),
        (f" so {CALL}!", [("message", "", "so !"), ("function_call", "add", '{"a": 1}')]),
    ],
)
def test_text_becomes_one_message_and_calls(text, wanted, size):
    found, came = items_of(text, size, ToolCallReader("x", ()))
    assert found == wanted
    assert [came[index] for index in range(len(found))] == [told for _, _, told in wanted]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_text_after_a_call_is_the_message_s_too(size):
    """Text and calls of one chunk have no order, so the message may come first."""
    found, _ = items_of(f"{CALL}so", size, ToolCallReader("x", ()))
    assert sorted(found) == [("function_call", "add", '{"a": 1}'), ("message", "", "so")]


@pytest.mark.parametrize("text", ["", " so ", CALL])
def test_without_tools_all_text_is_the_message_s(text):
    assert items_of(text, 2, None)[0] == [("message", "", text)]


def test_ids_tell_the_items_of_one_response_apart():
    items = ResponseItems("x", ToolCallReader("x", ()))
    assert [change.is_new for change in items.push(f"so{CALL}{CALL}")] == [True, True, True]
    assert [one.id for one in items.items] == ["msg_x", "fc_x_0", "fc_x_1"]
    assert [one.call_id for one in items.items[1:]] == ["call_x_0", "call_x_1"]
    assert items.items[1].opening() == {
        "id": "fc_x_0",
        "type": "function_call",
        "status": "in_progress",
        "call_id": "call_x_0",
        "name": "add",
        "arguments": "",
    }
