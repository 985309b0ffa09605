"""Tools: what requests say of them, how a call is forced, and how calls are read out of an answer's text.

A forced call is JSON by a grammar, so that its arguments stream as they come. Where the model may choose, it writes
calls in its own words: between <tool_call> and </tool_call>, as Hermes, Qwen and those after them do.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from core.errors import RequestError
from core.grammar import Grammar
from service.answers.response_format import json_grammar

OPEN, CLOSE = "<tool_call>", "</tool_call>"
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
FunctionName = Annotated[str, Meta(pattern="^[a-zA-Z0-9_.-]{1,64}$")]


class Function(Struct, frozen=True, forbid_unknown_fields=True):
    """A function the model may call; parameters is a JSON schema, None for none."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct, frozen=True, forbid_unknown_fields=True):
    """One tool."""

    function: Function
    type: Literal["function"] = "function"


class NamedFunction(Struct, frozen=True, forbid_unknown_fields=True):
    """A function by name."""

    name: str


class NamedTool(Struct, frozen=True, forbid_unknown_fields=True):
    """The tool that must be called."""

    function: NamedFunction
    type: Literal["function"] = "function"


ToolChoice = Literal["none", "auto", "required"] | NamedTool


def forced_functions(tools: Sequence[Tool], choice: ToolChoice | None) -> list[Function]:
    """Return the functions of which one must be called, () where none must; raises RequestError for an unknown one."""
    known = {tool.function.name: tool.function for tool in tools}
    if len(known) < len(tools):
        raise RequestError("two tools have one name", param="tools")
    if isinstance(choice, NamedTool):
        if choice.function.name not in known:
            raise RequestError(
                f"tool_choice names {choice.function.name!r}, which is not in tools", param="tool_choice"
            )
        return [known[choice.function.name]]
    if choice == "required":
        if not tools:
            raise RequestError("tool_choice 'required' needs tools", param="tool_choice")
        return list(known.values())
    return []


def call_grammar(functions: Sequence[Function]) -> Grammar:
    """Return the grammar of a forced call: the arguments of the one function, else an object that names its choice."""
    schemas = [function.parameters or NO_PARAMETERS for function in functions]
    if len(schemas) == 1:
        return json_grammar(schemas[0], "tools")
    if b'"$ref"' in msgspec.json.encode(schemas):
        raise RequestError("tools with $ref in their parameters can be forced one at a time only", param="tool_choice")
    either = [
        {
            "type": "object",
            "properties": {"name": {"const": function.name}, "arguments": schema},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for function, schema in zip(functions, schemas, strict=True)
    ]
    return json_grammar({"anyOf": either}, "tools")


class ToolCallReader:
    """Turns an answer's text, as it comes, into OpenAI's deltas.

    call_id begins the ids of its calls; names are those of the functions of which one is forced, () where the model may
    choose.
    """

    def __init__(self, call_id: str, names: Sequence[str]) -> None:
        self._call_id, self._names = call_id, names
        self._held = ""
        self._is_inside = False
        self.num_calls = 0

    def push(self, text: str) -> dict[str, Any]:
        """Return the delta of some more text; {} while nothing can be shown."""
        if len(self._names) == 1:
            return self._arguments(self._names[0], text)
        self._held += text
        return self._push_choice() if self._names else self._push_free(is_end=False)

    def end(self, text: str) -> dict[str, Any]:
        """Return the delta of the last text."""
        if self._names:
            return self.push(text)
        self._held += text
        return self._push_free(is_end=True)

    def _push_choice(self) -> dict[str, Any]:
        """Read {"name":"...","arguments":...}: compact, for its grammar allows nothing else."""
        name = ""
        if not self._is_inside:
            for one in self._names:
                opening = f'{{"name":{json.dumps(one)},"arguments":'
                if self._held.startswith(opening):
                    self._is_inside, self._held, name = True, self._held[len(opening) :], one
        if not self._is_inside:
            return {}
        # The last brace closes the call, not its arguments.
        shown, self._held = (self._held[:-1], "}") if self._held.endswith("}") else (self._held, "")
        return self._arguments(name, shown)

    def _arguments(self, name: str, text: str) -> dict[str, Any]:
        """Return more of the one forced call's arguments; the first time, its opening."""
        if self.num_calls:
            return {"tool_calls": [{"index": 0, "function": {"arguments": text}}]} if text else {}
        return {"tool_calls": [self._opened(name, text)]}

    def _push_free(self, *, is_end: bool) -> dict[str, Any]:
        content: list[str] = []
        calls: list[dict[str, Any]] = []
        while self._held:
            marker = CLOSE if self._is_inside else OPEN
            before, found, after = self._held.partition(marker)
            if found:
                self._held, self._is_inside = after, not self._is_inside
                if marker is OPEN:
                    content.append(before)
                elif call := self._read(before):
                    calls.append(call)
                else:
                    content.append(f"{OPEN}{before}{CLOSE}")
                continue
            if self._is_inside and not is_end:
                break
            keep = 0 if is_end else _overlap(self._held, OPEN)
            shown = self._held[: len(self._held) - keep]
            content.append(f"{OPEN}{shown}" if self._is_inside else shown)
            self._held = self._held[len(shown) :]
            break
        text = "".join(content)
        return ({"content": text} if text else {}) | ({"tool_calls": calls} if calls else {})

    def _read(self, text: str) -> dict[str, Any] | None:
        try:
            call = json.loads(text)
            return self._opened(call["name"], json.dumps(call["arguments"], ensure_ascii=False))
        except (ValueError, KeyError, TypeError):
            return None

    def _opened(self, name: str, arguments: str) -> dict[str, Any]:
        index, self.num_calls = self.num_calls, self.num_calls + 1
        called = {"name": name, "arguments": arguments}
        return {"index": index, "id": f"call_{self._call_id}_{index}", "type": "function", "function": called}


def call_reader(job_id: str, names: Sequence[str] | None) -> ToolCallReader | None:
    """Return what reads the calls out of the text of a job's choice; None where no tools were offered."""
    return None if names is None else ToolCallReader(job_id, names)


def whole_message(reader: ToolCallReader, text: str) -> dict[str, Any]:
    """Return the message of a whole answer, read at once."""
    first, last = reader.push(text), reader.end("")
    content = (first.get("content", "") + last.get("content", "")).strip()
    calls = [
        {name: value for name, value in call.items() if name != "index"}
        for call in (*first.get("tool_calls", ()), *last.get("tool_calls", ()))
    ]
    if not calls:
        return {"role": "assistant", "content": content}
    return {"role": "assistant", "content": content or None, "tool_calls": calls}


def _overlap(text: str, marker: str) -> int:
    """Return the length of the longest end of `text` that begins `marker`."""
    return next((size for size in range(min(len(text), len(marker) - 1), 0, -1) if text.endswith(marker[:size])), 0)
